"""Cine MRI sites of simulated frames of beating hearts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from physics import beating_heart, birdcage_maps
from recon import CineSimulation, simulate_volume, simulated_header, write_volume

from .writing import MadeSite, phantom_files, seed_of, write_simulated_sites


@dataclass(frozen=True)
class SimulatedCine:
    """A scanner of hearts to simulate."""

    name: str
    n_coils: int
    simulate: CineSimulation
    unseen: bool = False

    def manifest_keys(self) -> dict[str, Any]:
        return {}


#: The scanners of `fedrecon sites make demo-cine`.
CINE_DEMO_SITES = (
    SimulatedCine("north", 6, CineSimulation("frame_random", 4, 0.08, noise_std=0.01)),
    SimulatedCine("east", 8, CineSimulation("frame_shifted", 4, 0.06, noise_std=0.02)),
    SimulatedCine("south", 8, CineSimulation("frame_random", 6, 0.08, noise_std=0.02)),
    SimulatedCine("unseen", 6, CineSimulation("frame_shifted", 6, 0.06, noise_std=0.02), unseen=True),
)


def make_cine_demo_sites(
    out: Path | str,
    *,
    size: int = 96,
    frames: int = 12,
    seed: int = 0,
    train: int = 4,
    validation: int = 1,
    test: int = 2,
    slices: int = 2,
    sites: Sequence[SimulatedCine] = CINE_DEMO_SITES,
    jobs: int = 1,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write fully sampled frames of beating hearts and the manifests of a federation.

    Parameters
    ----------
    out, seed, train, validation, test, jobs, overwrite
        As for :func:`make_demo_sites`.
    size
        Height and width.
    frames, slices
        Frames of every slice, and slices of every volume.
    sites
        Scanners to simulate.

    Raises
    ------
    ConfigError
        If a file to be written exists.
    DataError
        If a file cannot be written.
    """
    write = partial(_write_hearts, Path(out), size, frames, seed, slices)
    files = phantom_files(sites, train, validation, test)
    return write_simulated_sites(
        Path(out), sites, files, write, "simulated from phantoms", synthetic=True, overwrite=overwrite, jobs=jobs
    )


def _write_hearts(out: Path, size: int, frames: int, seed: int, slices: int, job: tuple[SimulatedCine, str]) -> None:
    site, file = job
    shape, anatomy = (size, size), seed_of(seed, file, "anatomy")
    places = [(2 * number + 1) / slices - 1 for number in range(slices)]
    hearts = torch.stack([beating_heart(frames, shape, anatomy, 0.8 * z) for z in places], dim=1)
    maps = birdcage_maps(site.n_coils, shape, seed=seed_of(seed, file, "coils"))
    write_volume(
        out / "data" / site.name / file,
        simulate_volume(hearts.flatten(0, 1), maps),  # the slice counts fastest
        simulated_header(shape),
        patient_id=file.removesuffix(".h5"),
        acquisition="phantom_cine",
        maps=maps,
        # The file is noise-free; [simulate] adds the noise of the site.
        noise_covariance=torch.zeros(site.n_coils, site.n_coils),
        frames=frames,
    )
