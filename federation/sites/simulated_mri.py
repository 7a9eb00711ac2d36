"""MRI sites of simulated k-space of phantoms, for the demo."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from physics import birdcage_maps, phantom_volume
from recon import (
    Simulation,
    TrajectorySimulation,
    simulate_volume,
    simulated_header,
    with_realistic_phase,
    write_volume,
)

from .writing import MadeSite, phantom_files, seed_of, write_simulated_sites

Phase = Literal["realistic", "smooth"]


@dataclass(frozen=True)
class SimulatedSite:
    """A scanner to simulate. ``family``, a name in ``physics.PHANTOM_FAMILIES``, is the contrast."""

    name: str
    n_coils: int
    family: str
    simulate: Simulation | TrajectorySimulation
    unseen: bool = False

    def manifest_keys(self) -> dict[str, Any]:
        return {}


#: The hospitals of `make demo`.
DEMO_SITES = (
    SimulatedSite("north", 4, "t1", Simulation("random", 4, 0.08, noise_std=0.01)),
    SimulatedSite("east", 6, "t2", Simulation("equispaced", 3, 0.08, noise_std=0.03)),
    SimulatedSite("south", 8, "flair", Simulation("partial_fourier", 3, 0.08, noise_std=0.02)),
    SimulatedSite("west", 8, "pd", Simulation("equispaced", 4, 0.08, noise_std=0.02)),
    SimulatedSite("unseen", 6, "t1", Simulation("random", 8, 0.04, noise_std=0.02), unseen=True),
)


def make_demo_sites(
    out: Path | str,
    *,
    size: int = 128,
    seed: int = 0,
    train: int = 12,
    validation: int = 1,
    test: int = 3,
    slices: int = 4,
    sites: Sequence[SimulatedSite] = DEMO_SITES,
    phase: Phase = "realistic",
    jobs: int = 1,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write fully sampled phantom volumes and the manifests of a federation.

    Every volume is another anatomy. Coils differ between sites and, slightly, between volumes. Manifests and
    lock files lie in ``out``, data in ``out/data/<site>``.

    Parameters
    ----------
    out
        Folder to write; it may be moved, as manifests name the data by relative paths.
    size
        Height and width.
    seed
        Seed of anatomies and coils.
    train, validation, test
        Volumes per site; an unseen site trains its local arm alone.
    slices
        Slices per volume.
    sites
        Scanners to simulate.
    phase
        ``"realistic"``, see :func:`recon.with_realistic_phase`, or ``"smooth"``, the phantom's own.
    jobs
        Processes.
    overwrite
        Replace files that exist.

    Raises
    ------
    ConfigError
        If a file to be written exists.
    DataError
        If a file cannot be written.
    """
    write = partial(_write_phantom, Path(out), size, seed, slices, phase)
    files = phantom_files(sites, train, validation, test)
    return write_simulated_sites(
        Path(out), sites, files, write, "simulated from phantoms", synthetic=True, overwrite=overwrite, jobs=jobs
    )


def _write_phantom(out: Path, size: int, seed: int, slices: int, phase: Phase, job: tuple[SimulatedSite, str]) -> None:
    site, file = job
    anatomy = phantom_volume(slices, (size, size), seed_of(seed, file, "anatomy"), site.family)
    write_scan(out / "data" / site.name / file, anatomy, site, seed, phase)


def write_scan(path: Path, anatomy: Tensor, site: SimulatedSite, seed: int, phase: Phase = "realistic") -> None:
    """Write fully sampled k-space of a phantom ``(slices, height, width)`` as the coils of a site measure it.

    Seed and file name draw phase and coils.
    """
    file, shape = path.name, (anatomy.shape[-2], anatomy.shape[-1])
    if phase == "realistic":
        anatomy = with_realistic_phase(anatomy.abs(), seed_of(seed, file, "phase"))
    maps = birdcage_maps(site.n_coils, shape, seed=seed_of(seed, file, "coils"))
    write_volume(
        path,
        simulate_volume(anatomy, maps),
        simulated_header(shape),
        patient_id=path.stem,
        acquisition=f"phantom_{site.family}",
        maps=maps,
        # The file is noise-free; [simulate] adds the noise of the site.
        noise_covariance=torch.zeros(site.n_coils, site.n_coils),
    )
