"""H10, H11 and H14 alone: classical methods, local training, and FedAvg with and without fine-tuning.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/h10.py OUT [--modality mri]
    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/h10.py OUT --table "unequal slices" --seeds 1    # H14

Arms of one table of ``fedrecon compare --preset anatomy``, by default of the main one with 16 slices a site, with the
preset's learning rate instead of trials: 1 to 2 core-hours a seed instead of 35 to 45 core-hours in all. Finished arms
in OUT are kept; each table needs a folder of its own.
"""

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from federation.comparison.anatomy import ANATOMY, MAIN
from federation.comparison.run import run_comparison

ARMS = ("classical", "local", "fedavg", "finetune")
TABLES = {table.name: table for table in ANATOMY.tables}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder; finished arms are kept")
    parser.add_argument("--modality", choices=("mri", "ct"), default="mri")
    parser.add_argument("--table", choices=list(TABLES), default=MAIN)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of every arm")
    arguments = parser.parse_args()
    if "FEDRECON_DATA" not in os.environ or arguments.out is None:
        print("left out: needs FEDRECON_DATA, the folder of images of people, a folder for the arms, and hours")
        return
    table = replace(TABLES[arguments.table], arms=tuple(arguments.arms))
    arms = tuple(arm for arm in ANATOMY.arms if arm.name in arguments.arms)
    preset = replace(ANATOMY, tables=(table,), arms=arms, rates=(1.0,), more_rates=0, small_effect_seeds=0)
    run_comparison(
        preset,
        arguments.out,
        modalities=(arguments.modality,),
        seeds=arguments.seeds,
        more_seeds=False,
        jobs=1,
        say=partial(print, flush=True),
    )


if __name__ == "__main__":
    main()
