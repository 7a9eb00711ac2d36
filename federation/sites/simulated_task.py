"""MRI sites of simulated heads whose lesions are known, for downstream tasks."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from torch import Tensor

from physics import lesion_volume
from recon import Simulation, TaskKind, open_volume

from ..config import config_error
from .image_labels import TABLE, task_section, write_labels, write_table
from .simulated_mri import SimulatedSite, write_scan
from .writing import MadeSite, phantom_files, require_absent, seed_of, write_manifests, write_scans

#: The hospitals of `fedrecon sites make demo-task`: contrasts in which lesions are brighter than fluid.
TASK_DEMO_SITES = (
    SimulatedSite("north", 4, "flair", Simulation("random", 4, 0.08, noise_std=0.01)),
    SimulatedSite("east", 6, "t1_contrast", Simulation("equispaced", 3, 0.08, noise_std=0.03)),
    SimulatedSite("south", 8, "flair", Simulation("partial_fourier", 3, 0.08, noise_std=0.02)),
    SimulatedSite("west", 8, "dwi", Simulation("equispaced", 4, 0.08, noise_std=0.02)),
)
#: The class that is segmented, or present in a slice or not.
LESION = "lesion"


def make_task_demo_sites(
    out: Path | str,
    *,
    kind: TaskKind = "segmentation",
    size: int = 96,
    seed: int = 0,
    train: int = 6,
    validation: int = 4,
    test: int = 6,
    slices: int = 6,
    sites: Sequence[SimulatedSite] = TASK_DEMO_SITES,
    jobs: int = 1,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write scans of heads with lesions, their labels, and the manifests of a federation.

    Every volume is another person, see :func:`physics.lesion_volume`. Scans and labels of both kinds are the same, only
    the manifests differ. A lesion is present in a slice with at least four pixels of it.

    Parameters
    ----------
    out, size, seed, slices, sites, jobs, overwrite
        As for :func:`make_demo_sites`. Label maps lie in ``out/data/<site>/labels``, a table of classes in
        ``out/data/<site>/labels.csv``.
    kind
        Labels that the manifests name: ``"segmentation"``, or ``"classification"`` of slices.
    train, validation, test
        People of a site.

    Raises
    ------
    ConfigError
        If the kind is unknown, or a file to be written exists.
    DataError
        If a file cannot be written.
    """
    if kind not in get_args(TaskKind):
        raise config_error("sites make", "kind", repr(kind), " or ".join(get_args(TaskKind)), "correct it")
    out, files = Path(out), phantom_files(sites, train, validation, test)
    if not overwrite:
        require_absent(*(out / "data" / site.name / TABLE for site in sites))
    write = partial(_write_lesions, out, size, seed, slices)
    lesions = write_scans(out, sites, files, write, overwrite=overwrite, jobs=jobs)
    for site in sites:
        write_table(
            out / "data" / site.name, [LESION], {name: lesions[site.name, name] for _, name in files[site.name]}
        )
    task = task_section(kind, [LESION])
    origin = "simulated from phantoms with lesions"
    return write_manifests(out, sites, files, origin, synthetic=True, overwrite=overwrite, task=task)


def _write_lesions(out: Path, size: int, seed: int, slices: int, job: tuple[SimulatedSite, str]) -> Tensor:
    """Write the scan and the label map of a person; returns the labels."""
    site, file = job
    path = out / "data" / site.name / file
    anatomy, lesions = lesion_volume(slices, (size, size), seed_of(seed, file, "anatomy"), site.family)
    write_scan(path, anatomy, site, seed)
    write_labels(path, lesions, open_volume(path).image_header())
    return lesions
