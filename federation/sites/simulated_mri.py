"""Sites of simulated k-space: phantoms for the demo, or a user's own magnitude images."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physics import birdcage_maps, phantom_volume
from recon import Simulation, read_images, simulate_volume, simulated_header, with_smooth_phase, write_volume

from ..config import ConfigError, config_error
from .manifest_schema import SPLITS, Split
from .splits import assign_splits
from .writing import MadeSite, phantom_files, require_room, seed_of, site_table, write_sites


@dataclass(frozen=True)
class SimulatedSite:
    """A scanner to simulate. ``family``, a name in ``physics.PHANTOM_FAMILIES``, is the contrast."""

    name: str
    n_coils: int
    family: str
    simulate: Simulation
    unseen: bool = False


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

#: Slices per file of :func:`make_image_sites`, and slices left out between two files of one image volume.
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
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write fully sampled phantom volumes and the manifests of a federation.

    Every volume is another anatomy. Coils differ between sites and, slightly, between volumes. Manifests and
    lock files lie in ``out``, data in ``out/data/<site>``.

    Parameters
    ----------
    out
        Folder to write; the manifests refer to it relatively, so it may be moved.
    size
        Height and width.
    seed
        Draws anatomies and coils.
    train, validation, test
        Volumes per site; those for training at an unseen site serve its local arm alone.
    slices
        Slices per volume.
    sites
        What to simulate.
    overwrite
        Replace files that exist.

    Raises
    ------
    ConfigError
        If a file to be written exists.
    DataError
        If a file cannot be written.
    """
    out = Path(out)
    volumes = phantom_files([site.name for site in sites], (train, validation, test))
    require_room(out, volumes, overwrite)
    for site in sites:
        for _, name in volumes[site.name]:
            anatomy = phantom_volume(slices, (size, size), seed_of(seed, name, "anatomy"), site.family)
            _write(out, site, name, anatomy, seed, f"phantom_{site.family}")
    origin = "simulated from phantoms"
    tables = [_table(site, volumes[site.name], origin, synthetic=True) for site in sites]
    return write_sites(out, tables, overwrite=overwrite)


def make_image_sites(
    images: Sequence[Path | str],
    out: Path | str,
    *,
    sites: Sequence[SimulatedSite] = IMAGE_SITES,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write k-space simulated from magnitude images, with made-up phase and coils, and the manifests.

    Every image volume is cut into blocks of `BLOCK` slices, each a file. With three volumes per site or
    more the volumes are dealt to the sites and splits as subjects. With fewer, the blocks are, `GAP` slices
    apart: good for trying things out, but the splits then share subjects, and the results say nothing about
    new ones. Results from magnitude images flatter every method; the manifests say where the data come from.

    Parameters
    ----------
    images
        NIfTI files, DICOM files or folders of one DICOM series, see :func:`recon.read_images`.
    out
        Folder to write, as for :func:`make_demo_sites`.
    sites
        Coils and degradation of the sites; their ``family`` is not used.
    split
        Fractions of the subjects (or blocks) for training, validation and test.
    seed
        Draws the deal, the phase and the coils.
    overwrite
        Replace files that exist.

    Raises
    ------
    ConfigError
        If there are too few slices, or a file to be written exists.
    DataError
        If an image cannot be read or a file cannot be written.
    """
    out = Path(out)
    paths = [Path(image) for image in images]
    stems = [path.name.split(".")[0] for path in paths]
    if len(set(stems)) < len(stems):
        raise ConfigError(f"sites make: images: found {', '.join(stems)}, expected different names; rename one")
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
    home = {subject: sites[index % len(sites)] for index, subject in enumerate(subjects)}
    dealt = assign_splits(
        {site.name: [subject for subject in subjects if home[subject] is site] for site in sites}, split, seed
    )
    volumes: dict[str, list[tuple[Split, str]]] = {site.name: [] for site in sites}
    for block, (subject, _) in blocks.items():
        name = home[subject].name
        volumes[name].append((dealt[name][subject], f"{name}_{block}.h5"))
    require_room(out, volumes, overwrite)
    for block, (subject, magnitude) in blocks.items():
        site = home[subject]
        image = with_smooth_phase(magnitude, seed_of(seed, block, "phase"))
        _write(out, site, f"{site.name}_{block}.h5", image, seed, "from_magnitude", subject)
    origin = f"simulated from the magnitude images {', '.join(path.name for path in paths)}"
    tables = [_table(site, volumes[site.name], origin, synthetic=False) for site in sites]
    return write_sites(out, tables, overwrite=overwrite)


def _blocks(volume: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Runs of slices that show something, with maximum 1, each with its first slice's number."""
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


def _write(
    out: Path,
    site: SimulatedSite,
    name: str,
    image: Tensor,
    seed: int,
    acquisition: str,
    patient: str | None = None,
) -> None:
    shape = (image.shape[-2], image.shape[-1])
    maps = birdcage_maps(site.n_coils, shape, seed=seed_of(seed, name, "coils"))
    write_volume(
        out / "data" / site.name / name,
        simulate_volume(image, maps),
        simulated_header(shape),
        patient_id=patient or name.removesuffix(".h5"),
        acquisition=acquisition,
        maps=maps,
        # States that the file is noise-free; the noise of the site is added by its [simulate].
        noise_covariance=torch.zeros(site.n_coils, site.n_coils),
    )


def _table(
    site: SimulatedSite, volumes: Sequence[tuple[Split, str]], origin: str, *, synthetic: bool
) -> dict[str, Any]:
    table = site_table(site.name, volumes, origin, synthetic=synthetic, unseen=site.unseen)
    return table | {"simulate": asdict(site.simulate)}
