"""H10 alone: sites with 16 slices of real anatomy, local training, FedAvg, and FedAvg with fine-tuning.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/h10.py OUT [--modality mri]

Four arms of the main table of ``fedrecon compare --preset anatomy`` in three seeds, with the preset's learning rate
instead of trials: 1 to 2 core-hours a seed instead of 35 to 45 core-hours in all. Finished arms in OUT are kept.
"""

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from federation.comparison.anatomy import ANATOMY
from federation.comparison.run import run_comparison

ARMS = ("classical", "local", "fedavg", "finetune")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder; finished arms are kept")
    parser.add_argument("--modality", choices=("mri", "ct"), default="mri")
    arguments = parser.parse_args()
    if "FEDRECON_DATA" not in os.environ or arguments.out is None:
        print("left out: needs FEDRECON_DATA, the folder of images of people, a folder for the arms, and hours")
        return
    table = replace(ANATOMY.tables[0], arms=ARMS)
    arms = tuple(arm for arm in ANATOMY.arms if arm.name in ARMS)
    preset = replace(ANATOMY, tables=(table,), arms=arms, rates=(1.0,), more_rates=0, small_effect_seeds=3)
    run_comparison(
        preset,
        arguments.out,
        modalities=(arguments.modality,),
        more_seeds=False,
        jobs=1,
        say=partial(print, flush=True),
    )


if __name__ == "__main__":
    main()
