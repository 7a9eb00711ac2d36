"""H10, H11 and H14 alone: classical methods, local training, and FedAvg with and without fine-tuning.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/h10.py OUT [--modality mri] [--tables "unequal slices" ...]

Four arms of tables of ``fedrecon compare --preset anatomy``, by default of the main one with 16 slices a site, in three
seeds, with the preset's learning rate instead of trials: half a core-hour a table and seed instead of 35 to 45
core-hours in all. Finished arms in OUT are kept. With several numbers of slices the page says what joining is worth.
"""

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from federation.comparison.anatomy import ANATOMY, MAIN
from federation.comparison.run import run_comparison

ARMS = ("classical", "local", "fedavg", "finetune")
TABLES = tuple(replace(table, arms=ARMS) for table in ANATOMY.tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder; finished arms are kept")
    parser.add_argument("--modality", choices=("mri", "ct"), default="mri")
    parser.add_argument("--tables", nargs="+", choices=[table.name for table in TABLES], default=[MAIN])
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of every arm")
    arguments = parser.parse_args()
    if "FEDRECON_DATA" not in os.environ or arguments.out is None:
        print("left out: needs FEDRECON_DATA, the folder of images of people, a folder for the arms, and hours")
        return
    arms = tuple(arm for arm in ANATOMY.arms if arm.name in ARMS)
    preset = replace(ANATOMY, tables=TABLES, arms=arms, rates=(1.0,), more_rates=0, small_effect_seeds=0)
    run_comparison(
        preset,
        arguments.out,
        modalities=(arguments.modality,),
        only=arguments.tables,
        seeds=arguments.seeds,
        jobs=1,
        say=partial(print, flush=True),
    )


if __name__ == "__main__":
    main()
