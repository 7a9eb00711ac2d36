"""A rotation axis that is off is named with its column; noise, tables, truncation and parts of a turn are not."""

import math
import os
import re
from dataclasses import replace
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
    body_phantom,
    evenly_spaced,
    hu_to_attenuation,
)
from recon import SinogramSlices, write_sinograms
from recon.data.ct_axis import axis_warnings

TURN = 2 * math.pi
GRID = ImageGrid((96, 96), 4.0)
SCANS: dict[str, Geometry] = {
    "fan": FanBeam(evenly_spaced(180, TURN / 180), 160, 8.0, 600.0, 1100.0),
    "curved": FanBeam(evenly_spaced(61, TURN / 60), 160, 8.0, 600.0, 1100.0, "curved", 2.0),
    "parallel": ParallelBeam(evenly_spaced(120, math.pi / 120, 0.4), 160, 4.0, -30.0),
    "full turn": ParallelBeam(evenly_spaced(90, TURN / 90), 150, 4.0),
    "golden angle": ParallelBeam(tuple(np.deg2rad(np.arange(100) * 111.246117975 % 180)), 150, 4.0),
}


def body(seed: int, geometry: Geometry, photons: float | None) -> Tensor:
    image = hu_to_attenuation(body_phantom(GRID.shape, seed, ("abdomen", "chest", "pelvis")[seed % 3]))
    image = torch.roll(0.3 * image, (6 - 3 * seed, 4 * seed), (0, 1))
    image[85:87, 20:70] += 0.004  # a table
    lines: Tensor = RadonOperator(GRID, geometry)(image[None])[0]
    if photons is not None:
        model = Transmission(photons)
        lines = model.line_integrals(model.counts(lines, torch.Generator().manual_seed(seed)))
    return lines


def warnings(geometry: Geometry, lines: Tensor) -> list[str]:
    return axis_warnings(Path("a.h5"), geometry, [lines.numpy()])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SCANS)
def test_an_axis_that_is_off_is_named(name: str, seed: int) -> None:
    geometry = SCANS[name]
    for photons in (None, 1e5, 300.0):
        lines = body(seed, geometry, photons)
        assert warnings(geometry, lines) == []
        assert warnings(geometry, lines + 0.01) == []
        for columns in (-10, -3, 3, 10):
            wrong = replace(geometry, offset_mm=geometry.offset_mm + columns * geometry.pitch_mm)
            (line,) = warnings(wrong, lines)
            offset = float(re.findall(r"offset_mm to (\S+),", line)[0])
            assert offset == pytest.approx(geometry.offset_mm, abs=0.6 * geometry.pitch_mm)
            assert "a.h5: rotation axis: found the object turning about a point" in line


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SCANS)
def test_what_is_no_axis_is_not_called_one(name: str, seed: int) -> None:
    geometry = SCANS[name]
    lines = body(seed, geometry, 1e4)
    part = geometry.subset(slice(0, geometry.shape[0] * 5 // 9))
    assert warnings(part, lines[: part.shape[0]]) == []
    cut = replace(geometry, detectors=60, offset_mm=0.0)
    assert warnings(cut, body(seed, cut, None)) == []
    if name in ("fan", "curved", "full turn"):
        displaced = replace(geometry, offset_mm=0.3 * geometry.detectors * geometry.pitch_mm)
        assert warnings(displaced, body(seed, displaced, None)) == []
    assert warnings(geometry, torch.zeros(geometry.shape)) == []
    assert warnings(geometry, torch.randn(geometry.shape, generator=torch.Generator().manual_seed(seed))) == []


def test_check_names_the_axis_of_a_file_and_not_that_of_a_simulation(tmp_path: Path) -> None:
    from recon import ScanSimulation

    geometry = SCANS["fan"]
    path, lines = tmp_path / "a.h5", body(0, geometry, 1e5)[None]
    write_sinograms(path, GRID, geometry, line_integrals=lines)
    simulated = ScanSimulation(axis_error_mm=40.0)
    assert SinogramSlices([path], "s", simulate=simulated).check(0) == SinogramSlices([path], "s").check(0) == []
    write_sinograms(path, GRID, replace(geometry, offset_mm=40.0), line_integrals=lines)
    assert any("rotation axis" in line for line in SinogramSlices([path], "s").check(0))


@pytest.mark.real_data
def test_the_axis_of_measured_scans_is_found() -> None:
    folder = Path(os.environ["FEDRECON_DATA"]) / "ct_projections"
    tooth = folder / "tooth.h5"
    (line,) = SinogramSlices([tooth], "s", format="exchange").check(0)
    assert float(re.findall(r"axis_column = (\S+) in", line)[0]) == pytest.approx(296, abs=0.5)
    assert SinogramSlices([tooth], "s", format="exchange", axis_column=296).check(0) == []
    for file in (folder / "htc2022").glob("*_full.mat"):
        assert SinogramSlices([file], "s", format="htc2022").check(0) == []
