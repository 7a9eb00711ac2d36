"""The kinds of `fedrecon demo`: simulated hospitals and the recipe that they train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .simulated_ct import CT_DEMO_SITES, make_ct_demo_sites
from .simulated_mri import DEMO_SITES, make_demo_sites


@dataclass(frozen=True)
class Demo:
    """One kind of demo: its recipe in the library, its run folder, and a function that writes its sites.

    ``make(out, jobs)`` simulates with ``jobs`` processes.
    """

    recipe: str
    out: Path
    make: Callable[[Path, int], object]


def _mri(out: Path, jobs: int) -> None:
    make_demo_sites(out, overwrite=True)


def _ct(out: Path, jobs: int) -> None:
    make_ct_demo_sites(out, jobs=jobs, overwrite=True)


def _mixed(out: Path, jobs: int) -> None:
    """Two sites of each modality."""
    make_demo_sites(out, sites=DEMO_SITES[:2], overwrite=True)
    make_ct_demo_sites(out, sites=CT_DEMO_SITES[:2], jobs=jobs, overwrite=True)


#: Kinds of demo by name.
DEMOS = {
    "mri": Demo("fedavg", Path("runs/demo"), _mri),
    "ct": Demo("demos/fedavg_ct", Path("runs/demo_ct"), _ct),
    "mixed": Demo("demos/fedavg_mixed", Path("runs/demo_mixed"), _mixed),
}
