"""Kinds of `fedrecon demo`: simulated hospitals and the recipe that they train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .simulated_ct import CT_DEMO_SITES, SimulatedScanner, make_ct_demo_sites
from .simulated_mri import DEMO_SITES, SimulatedSite, make_demo_sites
from .simulated_task import make_task_demo_sites

#: Training volumes of an MRI site: few, so that the table shows what federation is for.
MRI_VOLUMES = 2


@dataclass(frozen=True)
class Demo:
    """A recipe of the library, a run folder, and a function of folder and processes that writes the sites."""

    recipe: str
    out: Path
    make: Callable[[Path, int], object]


def _make(mri: Sequence[SimulatedSite], ct: Sequence[SimulatedScanner], out: Path, jobs: int) -> None:
    make_demo_sites(out, sites=mri, train=MRI_VOLUMES, jobs=jobs, overwrite=True)
    make_ct_demo_sites(out, sites=ct, jobs=jobs, overwrite=True)


def _make_task(out: Path, jobs: int) -> None:
    make_task_demo_sites(out, jobs=jobs, overwrite=True)


#: Kinds of demo by name; the recipe of `task` is that of the network before the heads.
DEMOS = {
    "mri": Demo("demos/fedavg_mri", Path("runs/demo"), partial(_make, DEMO_SITES, ())),
    "ct": Demo("demos/fedavg_ct", Path("runs/demo_ct"), partial(_make, (), CT_DEMO_SITES)),
    "mixed": Demo("demos/fedavg_mixed", Path("runs/demo_mixed"), partial(_make, DEMO_SITES[:2], CT_DEMO_SITES[:2])),
    "task": Demo("demos/fedavg_task", Path("runs/demo_task"), _make_task),
}
