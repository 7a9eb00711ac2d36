"""Objects that the detector or the image does not hold are named; noise, tables and dead elements are not."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from physics import (
    FanBeam,
    Geometry,
    ImageGrid,
    ParallelBeam,
    RadonOperator,
    Transmission,
    body_volume,
    evenly_spaced,
    filtered_backprojection,
    hu_to_attenuation,
    lodopab,
)
from physics.phantoms.ellipses import Ellipse, EllipsePhantom
from recon import SinogramSlices, write_sinograms
from recon.data.ct_coverage import geometry_warnings, object_warnings

TURN = 2 * math.pi
GRID = ImageGrid((64, 64), 2.0)
FAN = FanBeam(evenly_spaced(180, TURN / 180), 150, 4.0, 500.0, 1000.0)
SCANS: list[Geometry] = [
    FAN,
    FanBeam(evenly_spaced(180, TURN / 180), 150, 4.0, 500.0, 1000.0, "curved"),
    FanBeam(evenly_spaced(180, TURN / 180), 90, 4.0, 500.0, 1000.0, offset_mm=120.0),
    ParallelBeam(evenly_spaced(180, math.pi / 180), 150, 2.0, 0.5),
    ParallelBeam(evenly_spaced(180, TURN / 180), 90, 2.0, -60.0),
]


def disc(geometry: Geometry, radius: float, x: float = 0.0, y: float = 0.0, across: float = 1.0) -> Tensor:
    """Line integrals of an ellipse of water."""
    phantom = EllipsePhantom((Ellipse(0.02, x / 1000, y / 1000, radius / 1000, across * radius / 1000, 0.0),))
    return phantom.line_integrals(geometry, 1000.0)


def warnings(geometry: Geometry, lines: Tensor, grid: ImageGrid = GRID) -> list[str]:
    return object_warnings(Path("a.h5"), geometry, grid, [(0, lines)])


@pytest.mark.parametrize("geometry", SCANS)
def test_an_object_larger_than_the_grid_is_named_with_the_size_that_holds_it(geometry: Geometry) -> None:
    for radius in (30.0, 60.0, 63.0):
        assert warnings(geometry, disc(geometry, radius)) == []
    for radius, size in ((75.0, 76), (95.0, 96)):
        (line,) = warnings(geometry, disc(geometry, radius))
        assert line.startswith("a.h5: grid: found the object in ") and "use a grid of " in line
        assert abs(int(line.removesuffix(" pixels").rsplit("x", 1)[1]) - size) <= 2
        held = ImageGrid((size + 4, size + 4), 2.0)
        assert warnings(geometry, disc(geometry, radius), held) == []
    beside = disc(geometry, 50.0) + disc(geometry, 8.0, 0.0, -85.0)  # a couch below the image
    assert "beside the image" in warnings(geometry, beside)[0]


def test_missing_degrees_of_a_file_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    said, other = (ParallelBeam(evenly_spaced(97, 1.5 / 97), n, 2.0) for n in (97, 99))
    assert "expected 180 degrees" in geometry_warnings(Path("a.h5"), said, GRID)[0]
    with caplog.at_level("WARNING"):
        for scan in (said, other):
            filtered_backprojection(torch.ones(scan.shape), scan, GRID)
    assert len(caplog.messages) == 1 and "degrees are missing" in caplog.messages[0]


@pytest.mark.parametrize("geometry", SCANS)
def test_truncated_projections_are_named(geometry: Geometry) -> None:
    wide = ImageGrid((256, 256), 2.0)
    for lines in (disc(geometry, 190.0), disc(geometry, 100.0) + disc(geometry, 30.0, 170.0)):
        (line,) = warnings(geometry, lines, wide)
        assert "larger than the field of view" in line and "truncated projections" in line


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("geometry", SCANS)
def test_noise_tables_drift_and_dead_elements_are_no_object(geometry: Geometry, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lines = disc(geometry, 50.0) + disc(geometry, 45.0, 0.0, -55.0, 0.05)  # a body on its table
    for photons, electronic in ((1e5, 0.0), (300.0, 5.0), (30.0, 2.0)):
        model = Transmission(photons, electronic)
        assert warnings(geometry, model.line_integrals(model.counts(lines, generator))) == []
    assert warnings(geometry, lines + 0.03) == []
    lines[:, [0, 17, -1]] = 5.0
    assert warnings(geometry, lines) == []
    assert warnings(geometry, torch.zeros(geometry.shape)) == []


@pytest.mark.parametrize("factor", [0.2, 0.7, 0.9, 1.1, 1.5, 10.0])
@pytest.mark.parametrize("geometry", SCANS)
def test_photons_that_are_wrong_by_a_factor_are_no_object(geometry: Geometry, factor: float) -> None:
    generator, lines = torch.Generator().manual_seed(0), disc(geometry, 40.0, 8.0, 5.0)
    for photons in (None, 1e5, 3e3):
        measured = lines
        if photons is not None:
            model = Transmission(photons)
            measured = model.line_integrals(model.counts(lines, generator))
        (line,) = warnings(geometry, measured + math.log(factor))
        size = "large" if factor > 1 else "small"
        assert line.startswith("a.h5: photons: found line integrals of ")
        found = float(line.partition("which seem ")[2].split()[0])
        assert found == pytest.approx(max(factor, 1 / factor), rel=0.02) and f"times too {size}" in line
    # An object that is too large is said besides.
    said = warnings(geometry, disc(geometry, 40.0, 0.0, 5.0) + disc(geometry, 8.0, 0.0, -85.0) + math.log(factor))
    assert "photons: " in said[0] and "beside the image" in said[1] and len(said) == 2


@pytest.mark.parametrize("geometry", SCANS)
def test_a_round_object_beyond_the_detector_is_no_offset(geometry: Geometry) -> None:
    wide = ImageGrid((256, 256), 2.0)
    for radius in (155.0, 165.0, 180.0, 220.0, 300.0, 500.0, 900.0):
        for across in (1.0, 0.8):
            (line,) = warnings(geometry, disc(geometry, radius, across=across), wide)[:1]
            assert "truncated projections" in line, (radius, across)


def test_phantoms_of_a_published_scan_are_held() -> None:
    grid, geometry, photons = lodopab()
    grid, geometry = ImageGrid((90, 90), grid.pixel_mm * 362 / 90), geometry.subset(slice(None, None, 10))
    bodies = hu_to_attenuation(torch.cat([body_volume(2, grid.shape, 1, family) for family in ("chest", "abdomen")]))
    model = Transmission(float(photons or 0))
    lines = model.line_integrals(model.counts(RadonOperator(grid, geometry)(bodies), torch.Generator().manual_seed(0)))
    assert object_warnings(Path("a.h5"), geometry, grid, enumerate(lines)) == []


def test_check_names_objects_and_missing_views(tmp_path: Path) -> None:
    def check(geometry: Geometry, radius: float) -> list[str]:
        path = tmp_path / "a.h5"
        lines = torch.stack([disc(geometry, part * radius) for part in (0.2, 1.0, 0.5)]).float()
        write_sinograms(path, GRID, geometry, line_integrals=lines)
        return [line.removeprefix(f"{path}: ") for line in SinogramSlices([path], "s").check(0)]

    assert check(FAN, 60.0) == []
    assert check(FAN, 90.0)[0].startswith("grid: found the object in ") and "slice 1" in check(FAN, 90.0)[0]
    short = FAN.subset(slice(0, 92))
    assert check(short, 60.0) == [
        "angles: found views over 184 degrees, expected 201 degrees for this fan beam; expect artefacts along the "
        "missing 17 degrees"
    ]
    displaced = FanBeam(tuple(np.deg2rad(np.arange(0, 300, 2.0))), 120, 4.0, 500.0, 1000.0, offset_mm=100.0)
    assert check(displaced, 40.0)[0].startswith(
        "angles: found views over 300 degrees, expected 360 degrees for a displaced"
    )
