"""MRI sites of simulated k-space: phantoms for the demo, or a user's own magnitude images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physics import birdcage_maps, phantom_volume
from recon import Simulation, read_images, simulate_volume, simulated_header, with_smooth_phase, write_volume

from ..config import config_error
from .manifest_schema import SPLITS, Split
from .splits import assign_splits
from .writing import MadeSite, phantom_files, require_different, seed_of, write_simulated_sites


@dataclass(frozen=True)
class SimulatedSite:
    """A scanner to simulate. ``family``, a name in ``physics.PHANTOM_FAMILIES``, is the contrast."""

    name: str
    n_coils: int
    family: str
    simulate: Simulation
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

#: Sites of :func:`make_image_sites` unless others are given.
IMAGE_SITES = DEMO_SITES[:3]

#: Slices per file of :func:`make_image_sites`, and slices between two files of one volume, which are not used.
BLOCK, GAP = 8, 2


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
    write = partial(_write_phantom, Path(out), size, seed, slices)
    files = phantom_files(sites, train, validation, test)
    return write_simulated_sites(
        Path(out), sites, files, write, "simulated from phantoms", synthetic=True, overwrite=overwrite, jobs=jobs
    )


def make_image_sites(
    images: Sequence[Path | str],
    out: Path | str,
    *,
    sites: Sequence[SimulatedSite] = IMAGE_SITES,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write k-space simulated from magnitude images, with simulated phase and coils, and the manifests.

    Every image volume is cut into blocks of `BLOCK` slices, one file each. With at least three volumes per site,
    whole volumes are dealt to sites and splits as subjects. With fewer, single blocks are dealt, `GAP` slices apart:
    splits then share subjects, and the results say nothing about new ones. Magnitude images have neither noise nor
    phase of a measurement, which flatters every method; the manifests name the origin of the data.

    Parameters
    ----------
    images
        NIfTI files, DICOM files or folders of one DICOM series, see :func:`recon.read_images`.
    out
        Folder to write, as for :func:`make_demo_sites`.
    sites
        Scanners to simulate; their ``family`` is not used.
    split
        Fractions of the subjects (or blocks) for training, validation and test.
    seed
        Seed of splits, phase and coils.
    overwrite
        Replace files that exist.

    Raises
    ------
    ConfigError
        If there are too few slices, or a file to be written exists.
    DataError
        If an image cannot be read or a file cannot be written.
    """
    out, paths = Path(out), [Path(image) for image in images]
    stems = [path.name.split(".")[0] for path in paths]
    require_different(stems)
    by_subject = len(paths) >= len(SPLITS) * len(sites)
    blocks = {
        f"{stem}_{start:04d}": (stem if by_subject else f"{stem}_{start:04d}", block)
        for stem, path in zip(stems, paths, strict=True)
        for start, block in _blocks(read_images(path))
    }
    subjects = list(dict.fromkeys(subject for subject, _ in blocks.values()))
    if len(subjects) < len(sites):
        found = f"{len(subjects)} blocks of {BLOCK} slices"
        raise config_error("sites make", "images", found, f"one per site ({len(sites)})", "add images")
    # Every n-th subject to the n-th site, so that each site gets all parts of the body.
    home = {subject: sites[index % len(sites)].name for index, subject in enumerate(subjects)}
    dealt = assign_splits(
        {site.name: [subject for subject in subjects if home[subject] == site.name] for site in sites}, split, seed
    )
    files: dict[str, list[tuple[Split, str]]] = {site.name: [] for site in sites}
    for block, (subject, _) in blocks.items():
        site = home[subject]
        files[site].append((dealt[site][subject], f"{site}_{block}.h5"))

    def write(job: tuple[SimulatedSite, str]) -> None:
        site, file = job
        block = file.removeprefix(f"{site.name}_").removesuffix(".h5")
        subject, magnitude = blocks[block]
        image = with_smooth_phase(magnitude, seed_of(seed, block, "phase"))
        _write(out, site, file, image, seed, subject, "from_magnitude")

    origin = f"simulated from the magnitude images {', '.join(path.name for path in paths)}"
    return write_simulated_sites(out, sites, files, write, origin, synthetic=False, overwrite=overwrite)


def _blocks(volume: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of slices with anatomy, scaled to the volume's maximum, each with the number of its first slice."""
    volume = volume.clamp(min=0)
    volume = volume / volume.max().clamp(min=torch.finfo(volume.dtype).tiny)
    filled = (volume > 0.1).float().mean((-2, -1)) > 0.05
    shown = filled.nonzero().flatten()
    if len(shown) == 0:
        return
    first, last = int(shown[0]), int(shown[-1]) + 1
    length = min(BLOCK, last - first)
    for start in range(first, last - length + 1, BLOCK + GAP):
        yield start, volume[start : start + length]


def _write_phantom(out: Path, size: int, seed: int, slices: int, job: tuple[SimulatedSite, str]) -> None:
    site, file = job
    anatomy = phantom_volume(slices, (size, size), seed_of(seed, file, "anatomy"), site.family)
    _write(out, site, file, anatomy, seed, file.removesuffix(".h5"), f"phantom_{site.family}")


def _write(out: Path, site: SimulatedSite, file: str, image: Tensor, seed: int, patient: str, acquisition: str) -> None:
    shape = (image.shape[-2], image.shape[-1])
    maps = birdcage_maps(site.n_coils, shape, seed=seed_of(seed, file, "coils"))
    write_volume(
        out / "data" / site.name / file,
        simulate_volume(image, maps),
        simulated_header(shape),
        patient_id=patient,
        acquisition=acquisition,
        maps=maps,
        # The file is noise-free; [simulate] adds the noise of the site.
        noise_covariance=torch.zeros(site.n_coils, site.n_coils),
    )
