"""Errors of CT images in Hounsfield units: dead elements, scatter, rings, modulated current.

An abdomen of 256x256 pixels, fan beam, 480 views of 400 elements, 1e5 photons per ray unless stated. Errors are root
mean squares inside the body, of filtered back-projection (Shepp-Logan filter, cut-off 0.7).

    python benchmarks/ct_scanner.py
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physics import (
    FanBeam,
    ImageGrid,
    Transmission,
    attenuation_to_hu,
    body_volume,
    evenly_spaced,
    filtered_backprojection,
    hu_to_attenuation,
    transmitted,
)
from recon import (
    CT_SCALE,
    FilteredBackprojection,
    Sample,
    ScanSimulation,
    SinogramSlices,
    write_sinograms,
)

GRID = ImageGrid((256, 256), 1.5)
SCAN = FanBeam(evenly_spaced(480, 2 * math.pi / 480), 400, 2.0, 550.0, 1000.0)
PHOTONS, DEAD = 1e5, [150, 220, 221]
FBP = FilteredBackprojection(cutoff=0.7)


def write(folder: Path, family: str) -> tuple[Path, Tensor]:
    """A file of line integrals without noise, and its reference."""
    image = hu_to_attenuation(body_volume(1, (512, 512), 3, family))
    reference = torch.nn.functional.avg_pool2d(image[None], 2)[0]
    lines = -transmitted(image, GRID.refined(2), SCAN).log()
    path = folder / f"{family}.h5"
    write_sinograms(path, GRID, SCAN, line_integrals=lines, reference=reference)
    return path, reference[0]


def sample(path: Path, simulate: dict[str, Any] | None = None, **data: Any) -> Sample:
    return SinogramSlices([path], "s", simulate=ScanSimulation(**{"photons": PHOTONS, **(simulate or {})}), **data)[0]


def error(method: nn.Module, found: Sample, reference: Tensor) -> tuple[float, float]:
    """Root mean square and mean error in HU inside the body."""
    with torch.no_grad():
        hu = attenuation_to_hu(method(found.measurement, found.operator) * CT_SCALE)
    off = (hu - attenuation_to_hu(reference))[attenuation_to_hu(reference) > -200]
    return float(off.square().mean().sqrt()), float(off.mean())


def dead_elements(path: Path, reference: Tensor, folder: Path) -> None:
    lines = SinogramSlices([path], "s").volumes[0].read_slice(0)
    counts = Transmission(PHOTONS).counts(lines, torch.Generator().manual_seed(0))
    hit = counts.clone()
    hit[:, DEAD] = 0
    for name, values in (("whole", counts), ("hit", hit)):
        write_sinograms(folder / f"{name}.h5", GRID, SCAN, counts=values[None], photons=PHOTONS)
    whole, fixed = (SinogramSlices([folder / f"{name}.h5"], "s")[0] for name in ("whole", "hit"))

    def zeros(y: Tensor, A: Any) -> Tensor:
        return filtered_backprojection(A.line_integrals(y), SCAN, GRID, "shepp_logan", 0.7)

    stored = (PHOTONS / hit.clamp_min(0.1)).log() / CT_SCALE
    image = attenuation_to_hu(filtered_backprojection(stored, SCAN, GRID, "shepp_logan", 0.7) * CT_SCALE)
    inside = attenuation_to_hu(reference) > -200
    as_stored = float((image - attenuation_to_hu(reference))[inside].square().mean().sqrt())
    print("3 of 400 elements dead, FBP:")
    print(f"  no element dead                      {error(FBP, whole, reference)[0]:7.1f} HU")
    print(f"  weight zero, interpolated for FBP    {error(FBP, fixed, reference)[0]:7.1f} HU")
    print(f"  weight zero, 0 in place of the rays  {error(_Function(zeros), fixed, reference)[0]:7.1f} HU")
    print(f"  as stored                            {as_stored:7.1f} HU")


class _Function(nn.Module):
    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method = method

    def forward(self, y: Tensor, A: Any) -> Tensor:
        image: Tensor = self.method(y, A)
        return image


def scatter(path: Path, reference: Tensor) -> None:
    print("scatter, FBP: rms (mean) error in HU")
    print("  fraction   none simulated   as measured   corrected   fraction wrong by -25 %   +25 %   none there")
    for fraction in (0.1, 0.3):
        cases = [
            sample(path),
            sample(path, {"scatter_fraction": fraction}),
            *(sample(path, {"scatter_fraction": fraction}, scatter_correction=f * fraction) for f in (1, 0.75, 1.25)),
            sample(path, scatter_correction=fraction),
        ]
        print(f"  {fraction:8.2f} " + "  ".join("{:6.1f} ({:+6.1f})".format(*error(FBP, c, reference)) for c in cases))


def rings(path: Path, reference: Tensor) -> None:
    print("rings, FBP, 1e6 photons: rms error in HU; gain error, as measured, corrected")
    for gain in (0.0, 0.005, 0.02):
        simulate = {"gain_error": gain, "photons": 1e6}
        pair = [error(FBP, sample(path, simulate, ring_correction=on), reference)[0] for on in (False, True)]
        print(f"  {gain:6.3f}  {pair[0]:6.1f}  {pair[1]:6.1f}")


def exposure(path: Path, reference: Tensor) -> None:
    print("current, equal dose of 2e4 photons per ray in the mean: rms error of FBP in HU")
    for strength in (0.0, 0.5, 1.0):
        found = sample(path, {"photons": 2e4, "current_modulation": strength})
        print(f"  current_modulation = {strength:3.1f}  {error(FBP, found, reference)[0]:6.1f}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, reference = write(folder, "abdomen")
        dead_elements(path, reference, folder)
        scatter(path, reference)
        rings(path, reference)
        exposure(path, reference)


if __name__ == "__main__":
    main()
