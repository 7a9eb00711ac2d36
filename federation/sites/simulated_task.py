"""Sites of simulated scans whose lesions are known, for downstream tasks: heads in MRI, lungs in CT."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from physics import lesion_volume, lung_lesion_volume
from recon import ScanSimulation, Simulation, TaskKind, open_sinograms, open_volume

from ..config import config_error
from .image_labels import TABLE, task_section, write_labels, write_table
from .simulated_ct import REFINED, SimulatedScanner, with_few_views, write_counts
from .simulated_mri import SimulatedSite, write_scan
from .writing import MadeSite, phantom_files, require_absent, seed_of, write_manifests, write_scans

#: The hospitals of `fedrecon sites make demo-task`: contrasts in which lesions are brighter than fluid.
TASK_DEMO_SITES = (
    SimulatedSite("north", 4, "flair", Simulation("random", 4, 0.08, noise_std=0.01)),
    SimulatedSite("east", 6, "t1_contrast", Simulation("equispaced", 3, 0.08, noise_std=0.03)),
    SimulatedSite("south", 8, "flair", Simulation("partial_fourier", 3, 0.08, noise_std=0.02)),
    SimulatedSite("west", 8, "dwi", Simulation("equispaced", 4, 0.08, noise_std=0.02)),
)
#: Those in CT, chests with lesions of the lungs; they differ in geometry, dose and views.
CT_TASK_DEMO_SITES = (
    SimulatedScanner("protocol1", 1, "chest"),
    SimulatedScanner("protocol2", 2, "chest"),
    SimulatedScanner("lowdose", 4, "chest", photons=3e4),
    SimulatedScanner("sparse", 2, "chest", ScanSimulation(views=48)),
)
#: Sites by modality.
TASK_DEMOS: dict[str, Sequence[SimulatedSite | SimulatedScanner]] = {
    "mri": TASK_DEMO_SITES,
    "ct": CT_TASK_DEMO_SITES,
}
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
    sites: Sequence[SimulatedSite | SimulatedScanner] = TASK_DEMO_SITES,
    jobs: int = 1,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write scans of heads, or of chests, with lesions, their labels, and the manifests of a federation.

    Every volume is another person, see :func:`physics.lesion_volume` and :func:`physics.lung_lesion_volume`. Scans and
    labels of both kinds are the same, only the manifests differ. A lesion is present in a slice with at least four
    pixels of it.

    Parameters
    ----------
    out, size, seed, slices, sites, jobs, overwrite
        As for :func:`make_demo_sites`; `sites` may be CT scanners. Label maps lie in ``out/data/<site>/labels``, a
        table of classes in ``out/data/<site>/labels.csv``.
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
    sites = [with_few_views(site, size) if isinstance(site, SimulatedScanner) else site for site in sites]
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


def _write_lesions(
    out: Path, size: int, seed: int, slices: int, job: tuple[SimulatedSite | SimulatedScanner, str]
) -> Tensor:
    """Write the scan and the label map of a person; returns the labels."""
    site, file = job
    path, drawn = out / "data" / site.name / file, seed_of(seed, file, "anatomy")
    if isinstance(site, SimulatedSite):
        anatomy, lesions = lesion_volume(slices, (size, size), drawn, site.family)
        write_scan(path, anatomy, site, seed)
        write_labels(path, lesions, open_volume(path).image_header())
        return lesions
    hu, finer = lung_lesion_volume(slices, (REFINED * size, REFINED * size), drawn)
    lesions = (torch.nn.functional.avg_pool2d(finer[None].float(), REFINED)[0] >= 0.5).long()
    how = {"patient_id": path.stem, "acquisition": "phantom_lung"}
    write_counts(path, site.protocol, site.photons, hu, seed, **how)
    write_labels(path, lesions, open_sinograms(path).image_header())
    return lesions
