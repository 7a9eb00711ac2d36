"""CT sites of simulated projections of phantoms, for the demo, and the scans of their protocols."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physics import FanBeam, ImageGrid, Transmission, body_volume, hu_to_attenuation, hyperfed, simulate_counts
from recon import ScanSimulation, write_sinograms

from .writing import MadeSite, phantom_files, seed_of, write_simulated_sites

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
    return grid.resized((size, size), factor), scan, photons


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

    ``seed`` draws anatomies and noise; the other parameters and errors are those of :func:`make_demo_sites`. A site
    of few views keeps at most half of those of its scan: small images have few.
    """
    sites = [with_few_views(site, size) for site in sites]
    write = partial(_write_phantom, Path(out), size, seed, slices)
    files = phantom_files(sites, train, validation, test)
    return write_simulated_sites(
        Path(out), sites, files, write, "simulated from phantoms", synthetic=True, overwrite=overwrite, jobs=jobs
    )


def with_few_views(site: SimulatedScanner, size: int) -> SimulatedScanner:
    """The scanner, whose views are at most half of those of its scan: small images have few."""
    if site.simulate is None or site.simulate.views is None:
        return site
    most = max(1, len(scan_of(site.protocol, size)[1].angles_rad) // 2)
    return replace(site, simulate=replace(site.simulate, views=min(site.simulate.views, most)))


def _write_phantom(out: Path, size: int, seed: int, slices: int, job: tuple[SimulatedScanner, str]) -> None:
    site, file = job
    hu = body_volume(slices, (REFINED * size, REFINED * size), seed_of(seed, file, "anatomy"), site.family)
    path, name = out / "data" / site.name / file, file.removesuffix(".h5")
    write_counts(path, site.protocol, site.photons, hu, seed, patient_id=name, acquisition=f"phantom_{site.family}")


def write_counts(
    path: Path,
    protocol: int,
    photons: float | None,
    hu: Tensor,
    seed: int,
    *,
    patient_id: str,
    acquisition: str,
) -> None:
    """Measure slices that are `REFINED` times finer than the reconstructed image, and write the file.

    ``photons`` per ray default to the protocol's; ``seed`` and the file's name draw the noise.
    """
    grid, geometry, published = scan_of(protocol, hu.shape[-1] // REFINED)
    photons = published if photons is None else photons
    attenuation = hu_to_attenuation(hu)
    generator = torch.Generator().manual_seed(seed_of(seed, path.name, "noise"))
    model = Transmission(photons, ELECTRONIC_NOISE)
    counts = simulate_counts(attenuation, grid.refined(REFINED), geometry, model, generator, rays_per_detector=RAYS)
    write_sinograms(
        path,
        grid,
        geometry,
        counts=counts,
        photons=photons,
        electronic_noise=ELECTRONIC_NOISE,
        reference=torch.nn.functional.avg_pool2d(attenuation[None], REFINED)[0],
        patient_id=patient_id,
        acquisition=acquisition,
        simulated=SIMULATED,
    )
