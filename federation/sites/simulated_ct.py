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
from .manifest_schema import SPLITS, Split
from .splits import split_counts
from .writing import MadeSite, phantom_files, require_different, seed_of, write_simulated_sites

#: Standard deviation of the electronic noise in counts.
ELECTRONIC_NOISE = 10.0
#: Objects are projected on a grid this many times finer than the image, with this many rays per detector element.
REFINED, RAYS = 2, 3
SIMULATED = f"projected on a grid {REFINED}x as fine, {RAYS} rays per element, Poisson and electronic noise"


@dataclass(frozen=True)
class SimulatedScanner:
    """A CT scanner to simulate.

    ``protocol`` is one of HyperFed's, 1 to 5; ``family`` a name in ``physics.BODY_FAMILIES``; ``simulate`` the
    ``[simulate]`` of the manifest. ``photons`` per ray and ``consistency`` default to those of protocol and recipe.
    """

    name: str
    protocol: int
    family: str
    simulate: ScanSimulation | None = None
    unseen: bool = False
    consistency: str | None = None
    photons: float | None = None

    def manifest_keys(self) -> dict[str, Any]:
        own = {} if self.consistency is None else {"consistency": self.consistency}
        return {"modality": "ct", "acquisition": {"model": f"HyperFed protocol {self.protocol}"}} | own


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
    """Image grid, geometry and photons per ray of one of HyperFed's protocols at another image size.

    At half the size: half as many pixels and detector elements, twice as wide, a quarter of the views, as many photons
    per ray.
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

    ``seed`` draws anatomies and noise; the other parameters and errors are those of :func:`make_demo_sites`.
    """
    write = partial(_write_phantom, Path(out), size, seed, slices)
    files = phantom_files(sites, train, validation, test)
    return write_simulated_sites(
        Path(out), sites, files, write, "simulated from phantoms", synthetic=True, overwrite=overwrite, jobs=jobs
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

    Site n gets HyperFed's protocol n. The image is scaled to the protocol's field of view: lengths are those of the
    protocol, not of the patient. The slices of a volume are cut into blocks for training, validation and test, with one
    slice between them that is not used if there are ten or more. The splits share a patient, so the results say
    nothing about new ones.

    Parameters
    ----------
    images
        NIfTI files, DICOM files or folders of one DICOM series, in Hounsfield units: one per scanner.
    out
        Folder to write, as for :func:`make_demo_sites`.
    size
        Height and width of the reconstructed images.
    split
        Fractions of the slices for training, validation and test.
    seed
        Seed of the noise.
    overwrite
        Replace files that exist.

    Raises
    ------
    ConfigError
        If an image holds fewer than three slices, or a file to be written exists.
    DataError
        If an image cannot be read or a file cannot be written.
    """
    out, paths = Path(out), [Path(image) for image in images]
    names = [_site_name(path) for path in paths]
    require_different(names)
    blocks: dict[str, Tensor] = {}
    files: dict[str, list[tuple[Split, str]]] = {}
    for name, path in zip(names, paths, strict=True):
        hu = read_images(path).clamp_min(-1000)
        if float(hu.min()) > -500 or float(hu.max()) < 50:
            found = f"{float(hu.min()):g} to {float(hu.max()):g}"
            raise config_error(path, "values", found, "Hounsfield units, air at -1000", "use CT images")
        hu = hu[(hu > -300).float().mean((-2, -1)) > 0.02]  # without slices of air
        if len(hu) < len(SPLITS):
            raise config_error(path, "slices", f"{len(hu)} with anatomy", "at least 3", "use a longer series")
        files[name] = [(part, f"{name}_{part}.h5") for part in SPLITS]
        blocks |= {f"{name}_{part}.h5": block for part, block in zip(SPLITS, _cut(hu, split), strict=True)}

    def write(job: tuple[SimulatedScanner, str]) -> None:
        scanner, file = job
        hu = _resized(blocks[file], REFINED * size)
        _write(out, scanner, file, hu, size, seed, "from_images")

    scanners = [SimulatedScanner(name, n % 5 + 1, "") for n, name in enumerate(names)]
    origin = f"simulated from the images {', '.join(path.name for path in paths)}"
    return write_simulated_sites(out, scanners, files, write, origin, synthetic=False, overwrite=overwrite)


def _site_name(path: Path) -> str:
    return "".join(c if c.isalnum() else "-" for c in path.name.split(".")[0].lower()).strip("-") or "site"


def _cut(volume: Tensor, split: tuple[float, float, float]) -> tuple[Tensor, Tensor, Tensor]:
    gap = 1 if len(volume) >= 10 else 0
    train, validation, test = split_counts(len(volume) - 2 * gap, split)
    first, second = train + gap, train + validation + 2 * gap
    return volume[:train], volume[first : first + validation], volume[second : second + test]


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


def _write_phantom(out: Path, size: int, seed: int, slices: int, job: tuple[SimulatedScanner, str]) -> None:
    site, file = job
    hu = body_volume(slices, (REFINED * size, REFINED * size), seed_of(seed, file, "anatomy"), site.family)
    _write(out, site, file, hu, size, seed, f"phantom_{site.family}")


def _write(out: Path, site: SimulatedScanner, file: str, hu: Tensor, size: int, seed: int, acquisition: str) -> None:
    """Measure slices of ``REFINED * size`` pixels."""
    grid, geometry, published = scan_of(site.protocol, size)
    photons = published if site.photons is None else site.photons
    attenuation = hu_to_attenuation(hu)
    generator = torch.Generator().manual_seed(seed_of(seed, file, "noise"))
    model = Transmission(photons, ELECTRONIC_NOISE)
    counts = simulate_counts(attenuation, grid.refined(REFINED), geometry, model, generator, rays_per_detector=RAYS)
    write_sinograms(
        out / "data" / site.name / file,
        grid,
        geometry,
        counts=counts,
        photons=photons,
        electronic_noise=ELECTRONIC_NOISE,
        reference=torch.nn.functional.avg_pool2d(attenuation[None], REFINED)[0],
        patient_id=file.removesuffix(".h5"),
        acquisition=acquisition,
        simulated=SIMULATED,
    )
