"""CT sites of simulated projections: phantoms for the demo, or a user's own images in Hounsfield units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physics import FanBeam, ImageGrid, Transmission, body_volume, hu_to_attenuation, hyperfed, simulate_counts
from recon import ScanSimulation, read_images, write_sinograms

from ..config import config_error
from ..worker_pool import run_jobs
from .manifest_schema import SPLITS, Split
from .splits import split_counts
from .writing import MadeSite, phantom_files, require_room, seed_of, site_table, write_sites

#: Standard deviation of the electronic noise in counts.
ELECTRONIC_NOISE = 10.0
#: Objects are projected on a grid so many times as fine as the image, with so many rays per detector element.
REFINED, RAYS = 2, 3
SIMULATED = f"projected on a grid {REFINED}x as fine, {RAYS} rays per element, Poisson and electronic noise"


@dataclass(frozen=True)
class SimulatedScanner:
    """A CT scanner to simulate.

    ``protocol`` is HyperFed's, 1 to 5; ``family`` a key of ``physics.BODY_FAMILIES``; ``simulate`` what its manifest
    leaves out of the scan; ``photons`` per ray and ``consistency`` are the site's own where not those of protocol and
    recipe.
    """

    name: str
    protocol: int
    family: str
    simulate: ScanSimulation | None = None
    unseen: bool = False
    consistency: str | None = None
    photons: float | None = None


#: The hospitals of `make demo-ct`: HyperFed's five protocols, one with few views, one with a limited angle.
CT_DEMO_SITES = (
    SimulatedScanner("protocol1", 1, "chest"),
    SimulatedScanner("protocol2", 2, "abdomen"),
    SimulatedScanner("protocol3", 3, "pelvis"),
    SimulatedScanner("protocol4", 4, "knee"),
    SimulatedScanner("protocol5", 5, "head"),
    SimulatedScanner("sparse", 2, "chest", ScanSimulation(views=32), consistency="chebyshev"),
    SimulatedScanner("limited", 4, "pelvis", ScanSimulation(arc_deg=120), consistency="chebyshev"),
)


def scan_of(protocol: int, size: int) -> tuple[ImageGrid, FanBeam, float]:
    """HyperFed's protocol at another size, and its photons per ray.

    Pixels and detector elements grow alike, views become fewer with the square: at half the size a quarter of the
    views, elements twice as wide, half as many, the photons per ray as published.
    """
    grid, geometry, photons = hyperfed(protocol)
    if not isinstance(geometry, FanBeam) or photons is None:
        raise ValueError(f"scan_of: protocol {protocol} is not a fan beam with photons")
    factor = grid.shape[0] / size
    every = max(1, round(factor**2))
    detectors = math.ceil(geometry.detectors / factor)
    scan = replace(geometry.subset(slice(None, None, every)), detectors=detectors, pitch_mm=geometry.pitch_mm * factor)
    return ImageGrid((size, size), grid.pixel_mm * factor), scan, photons


def make_ct_demo_sites(
    out: Path | str,
    *,
    size: int = 128,
    seed: int = 0,
    train: int = 8,
    validation: int = 1,
    test: int = 2,
    slices: int = 4,
    sites: Sequence[SimulatedScanner] = CT_DEMO_SITES,
    jobs: int = 1,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write counts of phantom bodies and the manifests of a CT federation.

    Parameters
    ----------
    out
        Folder to write; the manifests refer to it relatively, so it may be moved.
    size
        Height and width of the images.
    seed
        Draws anatomies and noise.
    train, validation, test
        Volumes per site.
    slices
        Slices per volume.
    sites
        What to simulate.
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
    out = Path(out)
    volumes = phantom_files([site.name for site in sites], (train, validation, test))
    require_room(out, volumes, overwrite)
    work = [(site, name) for site in sites for _, name in volumes[site.name]]
    list(run_jobs(partial(_write_body, out, size, seed, slices), work, jobs))
    return write_sites(
        out, [_ct_table(s, volumes[s.name], "simulated from phantoms", True) for s in sites], overwrite=overwrite
    )


def make_ct_image_sites(
    images: Sequence[Path | str],
    out: Path | str,
    *,
    size: int = 256,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write counts simulated from CT images, one site per image volume, and the manifests.

    Site n gets HyperFed's protocol n. The image is scaled to the protocol's field of view, so lengths are those of the
    protocol and not of the patient. The slices of a volume are cut into blocks for training, validation and test, one
    slice left out between two blocks where there are enough: the splits share a patient, and the results say
    nothing about new ones.

    Parameters
    ----------
    images
        NIfTI files, DICOM files or folders of one DICOM series, in Hounsfield units: one per scanner.
    out
        Folder to write.
    size
        Height and width of the reconstructed images.
    split
        Fractions of the slices for training, validation and test.
    seed
        Draws the noise.
    overwrite
        Replace files that exist.

    Raises
    ------
    ConfigError
        If an image holds fewer than three slices, or a file to be written exists.
    DataError
        If an image cannot be read or a file cannot be written.
    """
    out = Path(out)
    paths = [Path(image) for image in images]
    names = [_site_name(path) for path in paths]
    if len(set(names)) < len(names):
        raise config_error("sites make", "images", ", ".join(names), "different names", "rename one")
    blocks: dict[str, dict[str, Tensor]] = {}
    volumes: dict[str, list[tuple[Split, str]]] = {}
    scanners = [SimulatedScanner(name, n % 5 + 1, "") for n, name in enumerate(names)]
    for scanner, path in zip(scanners, paths, strict=True):
        hu = read_images(path).clamp_min(-1000)
        if float(hu.min()) > -500 or float(hu.max()) < 50:
            found = f"{float(hu.min()):g} to {float(hu.max()):g}"
            raise config_error(path, "values", found, "Hounsfield units, air at -1000", "use CT images")
        # A slice of air teaches nothing.
        hu = hu[(hu > -300).float().mean((-2, -1)) > 0.02]
        if len(hu) < len(SPLITS):
            raise config_error(path, "slices", f"{len(hu)} that show something", "at least 3", "use a longer series")
        blocks[scanner.name] = _cut(hu, split)
        volumes[scanner.name] = [(s, f"{scanner.name}_{s}.h5") for s in SPLITS]
    require_room(out, volumes, overwrite)
    for scanner in scanners:
        for part, (_, name) in zip(SPLITS, volumes[scanner.name], strict=True):
            hu = _resized(blocks[scanner.name][part], REFINED * size)
            _write(out, scanner, name, hu, size, seed, patient=f"{scanner.name}_{part}", acquisition="from_images")
    origin = f"simulated from the images {', '.join(path.name for path in paths)}"
    return write_sites(out, [_ct_table(s, volumes[s.name], origin, False) for s in scanners], overwrite=overwrite)


def _site_name(path: Path) -> str:
    return "".join(c if c.isalnum() else "-" for c in path.name.split(".")[0].lower()).strip("-") or "site"


def _cut(volume: Tensor, split: tuple[float, float, float]) -> dict[str, Tensor]:
    gap = 1 if len(volume) >= 10 else 0
    train, validation, test = split_counts(len(volume) - 2 * gap, split)
    after = train + gap
    return {
        "train": volume[:train],
        "validation": volume[after : after + validation],
        "test": volume[after + validation + gap : after + validation + gap + test],
    }


def _resized(volume: Tensor, size: int) -> Tensor:
    """Square slices of a size, air around the shorter side."""
    height, width = volume.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = torch.full((len(volume), side, side), -1000.0)
    square[:, top : top + height, left : left + width] = volume
    mode = "area" if side % size == 0 else "bilinear"
    options: dict[str, Any] = {} if mode == "area" else {"align_corners": False, "antialias": True}
    return torch.nn.functional.interpolate(square[None], size=(size, size), mode=mode, **options)[0]


def _write_body(out: Path, size: int, seed: int, slices: int, job: tuple[SimulatedScanner, str]) -> None:
    site, name = job
    hu = body_volume(slices, (REFINED * size, REFINED * size), seed_of(seed, name, "anatomy"), site.family)
    _write(out, site, name, hu, size, seed, patient=name.removesuffix(".h5"), acquisition=f"phantom_{site.family}")


def _write(
    out: Path, site: SimulatedScanner, name: str, hu: Tensor, size: int, seed: int, *, patient: str, acquisition: str
) -> None:
    """Measure slices of ``REFINED * size`` pixels."""
    grid, geometry, published = scan_of(site.protocol, size)
    photons = published if site.photons is None else site.photons
    attenuation = hu_to_attenuation(hu)
    generator = torch.Generator().manual_seed(seed_of(seed, name, "noise"))
    model = Transmission(photons, ELECTRONIC_NOISE)
    counts = simulate_counts(attenuation, grid.refined(REFINED), geometry, model, generator, rays_per_detector=RAYS)
    write_sinograms(
        out / "data" / site.name / name,
        grid,
        geometry,
        counts=counts,
        photons=photons,
        electronic_noise=ELECTRONIC_NOISE,
        reference=torch.nn.functional.avg_pool2d(attenuation[None], REFINED)[0],
        patient_id=patient,
        acquisition=acquisition,
        simulated=SIMULATED,
    )


def _ct_table(
    site: SimulatedScanner, volumes: Sequence[tuple[Split, str]], origin: str, synthetic: bool
) -> dict[str, Any]:
    table = site_table(site.name, volumes, origin, synthetic=synthetic, unseen=site.unseen)
    table["modality"] = "ct"
    if site.consistency is not None:
        table["consistency"] = site.consistency
    table["acquisition"]["model"] = f"HyperFed protocol {site.protocol}"
    if site.simulate is not None:
        known = {"views": site.simulate.views, "arc_deg": site.simulate.arc_deg}
        if site.simulate.axis_error_mm:
            known["axis_error_mm"] = site.simulate.axis_error_mm
        table["simulate"] = {key: value for key, value in known.items() if value is not None}
    return table
