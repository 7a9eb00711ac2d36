"""Checks of CT files: references that do not fit, impossible doses, units of angles, flat fields, ground truths."""

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from physics import (
    MU_WATER,
    FanBeam,
    Geometry,
    ImageGrid,
    ParallelBeam,
    RadonOperator,
    Transmission,
    attenuation_to_hu,
    body_phantom,
    hu_to_attenuation,
    lodopab,
)
from recon import CT_READERS, DataError, SinogramSlices, write_sinograms

GRID = ImageGrid((48, 48), 6.5)


def turn(views: int, degrees: float, start: float = 0.0) -> tuple[float, ...]:
    return tuple(np.deg2rad(start + np.arange(views) * degrees / views).tolist())


SCANS: dict[str, Geometry] = {
    "fan": FanBeam(turn(60, 360), 120, 8.0, 600.0, 1100.0),
    "short arc": FanBeam(turn(40, 120, 17), 120, 8.0, 600.0, 1100.0),
    "sparse": FanBeam(turn(30, 360, 90), 96, 10.0, 600.0, 1100.0, "curved", offset_mm=2.5),
    "parallel": ParallelBeam(turn(60, 180, -45), 160, 3.0),
}
DOSES = [None, 1e5, 4096.0, 1000.0]


@lru_cache
def bodies(seed: int, slices: int = 2) -> Tensor:
    family = ("abdomen", "chest", "pelvis")[seed % 3]
    fine = (2 * GRID.shape[0], 2 * GRID.shape[1])
    return torch.stack([hu_to_attenuation(body_phantom(fine, 10 * seed + k, family)) for k in range(slices)])


@lru_cache
def projections(seed: int, geometry: Geometry) -> Tensor:
    lines: Tensor = RadonOperator(GRID.refined(2), geometry)(bodies(seed))
    return lines


def scan(seed: int, geometry: Geometry, dose: float | None) -> tuple[Tensor, dict[str, Any]]:
    """References, and the measurement as counts, line integrals, or line integrals of unknown dose."""
    images = bodies(seed)
    lines = projections(seed, geometry)
    measured: dict[str, Any] = {"line_integrals": lines}
    if dose is not None:
        model = Transmission(dose)
        counts = model.counts(lines, torch.Generator().manual_seed(seed))
        measured = {"counts": counts, "photons": dose}
        if seed % 3:
            photons = dose if seed % 3 == 1 else None
            measured = {"line_integrals": model.line_integrals(counts), "photons": photons}
    return torch.nn.functional.avg_pool2d(images[:, None], 2)[:, 0], measured


def warnings(path: Path, geometry: Geometry, reference: Tensor, **measured: Any) -> list[str]:
    """Warnings of a file, without those of missing views."""
    write_sinograms(path, GRID, geometry, reference=reference, **measured)
    found = SinogramSlices([path], "s").check(0)
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in found)
    return [line for line in found if ": angles: found views over " not in line]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SCANS)
def test_a_sound_file_passes_without_a_word(tmp_path: Path, name: str, seed: int) -> None:
    for number, dose in enumerate(DOSES):
        reference, measured = scan(seed, SCANS[name], dose)
        if number % 2:  # a smooth reconstruction
            reference = torch.nn.functional.avg_pool2d(reference[:, None], 3, 1, 1)[:, 0]
        assert warnings(tmp_path / "a.h5", SCANS[name], reference, **measured) == []


SPOILED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "upside down": (lambda x: x.flip(-2), "upside down"),
    "mirrored": (lambda x: x.flip(-1), "mirrored left to right"),
    "rotated": (lambda x: x.flip(-2, -1), "rotated by 180 degrees"),
    "transposed": (lambda x: x.mT, "transposed"),
    "turned": (lambda x: x.rot90(1, (-2, -1)), "rotated by 90 degrees clockwise"),
    "turned back": (lambda x: x.rot90(-1, (-2, -1)), "rotated by 90 degrees counterclockwise"),
    "HU": (attenuation_to_hu, "Hounsfield units converted"),
    "HU + 1024": (lambda x: attenuation_to_hu(x) + 1024, r"Hounsfield units \+ 1000 or 1024"),
    "HU upside down": (lambda x: attenuation_to_hu(x.flip(-2)), "Hounsfield units .* and the reference upside down"),
    "1/cm": (lambda x: 10 * x, "from 1/cm to 1/mm"),
    "1/m": (lambda x: 1000 * x, "from 1/m to 1/mm"),
    "1/(10 mm)": (lambda x: x / 10, "measurement (9|10).* times the projections"),
    "water": (lambda x: x / MU_WATER, "attenuation of water"),
    "zero": (lambda x: 0 * x, "nothing in slice"),
    "swapped slices": (lambda x: x.flip(0), "the reference of slice"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_reference_that_does_not_fit_is_named(tmp_path: Path, name: str) -> None:
    change, words = SPOILED[name]
    for seed, (geometry, dose) in enumerate(zip(SCANS.values(), DOSES, strict=True)):
        reference, measured = scan(seed, geometry, dose)
        found = warnings(tmp_path / f"{seed}.h5", geometry, change(reference), **measured)
        assert len(found) == 1 and "reference: found" in found[0]
        assert re.search(words, found[0]), found[0]


def test_a_scan_that_does_not_fit_is_named(tmp_path: Path) -> None:
    for seed, (geometry, dose) in enumerate(zip(SCANS.values(), DOSES, strict=True)):
        reference, measured = scan(seed, geometry, dose)
        other_sense = replace(geometry, angles_rad=tuple((-geometry.angles).tolist()))
        assert "other sense of rotation" in warnings(tmp_path / "a.h5", other_sense, reference, **measured)[0]
        flipped = {key: v.flip(-1) if isinstance(v, Tensor) else v for key, v in measured.items()}
        assert "detector elements" in warnings(tmp_path / "b.h5", geometry, reference, **flipped)[0]
        other = reference.roll(1, 0).roll((5, -4), (-2, -1))
        assert "misfit" in warnings(tmp_path / "c.h5", geometry, other, **measured)[0]


def test_impossible_line_integrals_and_photons_are_named(tmp_path: Path) -> None:
    geometry = SCANS["parallel"]
    reference, measured = scan(3, geometry, 1e5)
    counts = measured["counts"]
    found = warnings(tmp_path / "a.h5", geometry, reference, counts=counts, photons=1e6)
    assert re.search("photons, which seem (9.9|10) times the right ones", found[0]), found[0]
    lines = -torch.log(counts / 1e5)
    write_sinograms(tmp_path / "b.h5", GRID, geometry, counts=counts, photons=1.0)
    assert "times too small" in SinogramSlices([tmp_path / "b.h5"], "s").check(0)[0]
    write_sinograms(tmp_path / "c.h5", GRID, geometry, line_integrals=1000 * lines)
    assert "correct the units" in SinogramSlices([tmp_path / "c.h5"], "s").check(0)[0]
    assert (
        "the measurement shows nothing" in warnings(tmp_path / "d.h5", geometry, reference, line_integrals=0 * lines)[0]
    )
    (found,) = warnings(tmp_path / "e.h5", geometry, 0 * reference, line_integrals=0 * lines)
    assert "line integrals of 0 in all rays" in found


@pytest.mark.parametrize("factor", [0.5, 0.7])
def test_air_that_is_brighter_than_the_open_beam_is_named(tmp_path: Path, factor: float) -> None:
    counts = scan(3, SCANS["parallel"], 1e5)[1]["counts"]
    write_sinograms(tmp_path / "a.h5", GRID, SCANS["parallel"], counts=counts, photons=factor * 1e5)
    found = SinogramSlices([tmp_path / "a.h5"], "s").check(0)
    assert any("in the rays beside the object" in line and "correct the photons" in line for line in found), found


def test_a_reference_30_percent_too_large_is_named(tmp_path: Path) -> None:
    reference, measured = scan(3, SCANS["parallel"], 1e5)
    assert warnings(tmp_path / "a.h5", SCANS["parallel"], 1.3 * reference, **measured)


def spoil(path: Path, key: str, value: Any) -> None:
    with h5py.File(path, "a") as file:
        if key == "electronic_noise":
            file.attrs[key] = value
        else:
            del file[key]
            file[key] = value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("photons", np.linspace(1e4, 5e4, 60), r"found shape \(60,\)"),
        ("photons", np.full((1, 60, 1), 5e4), "found shape"),
        ("photons", np.inf, "finite numbers above zero"),
        ("photons", 0.0, "finite numbers above zero"),
        ("photons", np.nan, "finite numbers above zero"),
        ("photons", "many", "expected real numbers"),
        ("electronic_noise", -5.0, "0 or more counts"),
        ("electronic_noise", np.nan, "0 or more counts"),
        ("electronic_noise", "low", "expected a number"),
        ("counts", np.ones((2, 60, 160), np.complex64), "expected real numbers"),
        ("reference", np.full((2, 48, 48), np.nan), "reference: found NaN"),
        ("reference", np.ones((2, 48, 48), np.complex64), "expected real numbers"),
        ("grid/pixel_mm", np.array([6.5, 6.5, 6.5]), "pixel_mm is"),
        ("grid/center_mm", np.array([1.0, np.nan]), "center_mm is"),
        ("grid/center_mm", np.array([500.0, 0.0]), "off the axis"),
        ("grid/pixel_mm", 60.0, "field of view"),
        ("geometry/angles_rad", np.array(["a"] * 60, dtype="S1"), "could not convert"),
    ],
)
def test_check_refuses_what_training_refuses(tmp_path: Path, key: str, value: Any, words: str) -> None:
    geometry, path = SCANS["parallel"], tmp_path / "a.h5"
    reference, measured = scan(0, geometry, 1e5)
    write_sinograms(path, GRID, geometry, reference=reference, **measured)
    spoil(path, key, value)
    with pytest.raises(DataError, match=words) as caught:
        SinogramSlices([path], "s").check(0)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (1,), (160,), (1, 160), (60, 1), (60, 160)])
def test_photons_may_differ_between_rays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    geometry = SCANS["parallel"]
    reference, measured = scan(0, geometry, 1e5)
    photons = torch.full(shape, 1e5, dtype=torch.float64)
    assert warnings(tmp_path / "a.h5", geometry, reference, counts=measured["counts"], photons=photons) == []


HALF, TURN = math.pi, 2 * math.pi


def exchange(path: Path, **changes: Any) -> Path:
    """Raw counts of two slices; a disc off the center."""
    geometry, grid = ParallelBeam(turn(60, 180), 64, 1.0), ImageGrid((48, 48), 1.0)
    part = torch.exp(-RadonOperator(grid, geometry)(bodies(1, 1)[0, ::2, ::2][None])).numpy()[0]
    profile = 20000 * (0.3 + 0.7 * np.exp(-(((np.arange(64) - 31.5) / 20) ** 2)))
    arrays: dict[str, Any] = {
        "data": np.repeat((part * profile + 100)[:, None], 2, 1),
        "data_white": np.broadcast_to(profile + 100, (5, 2, 64)),
        "data_dark": np.full((5, 2, 64), 100.0),
        "theta": np.arange(60) * 3.0,
    } | changes
    units = arrays.pop("units", None)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[f"exchange/{name}"] = np.asarray(values, dtype=np.float32)
        if units is not None:
            file["exchange/theta"].attrs["units"] = units
    return path


@pytest.mark.parametrize("name", ["data_white", "data_dark"])
def test_a_mean_flat_or_dark_image_is_as_good_as_several(tmp_path: Path, name: str) -> None:
    several = CT_READERS.open(exchange(tmp_path / "a.h5"), "exchange")
    mean = np.full((2, 64), 100.0)
    if name == "data_white":
        mean = np.stack([several.read_flat(index).numpy() for index in range(2)]) + 100
    one = CT_READERS.open(exchange(tmp_path / "b.h5", **{name: mean}), "exchange")
    for index in range(2):
        assert torch.allclose(one.read_flat(index), several.read_flat(index))
        assert torch.allclose(one.read_slice(index), several.read_slice(index))


@pytest.mark.parametrize("name", ["data_white", "data_dark"])
def test_a_hot_pixel_of_one_flat_or_dark_image_changes_nothing(tmp_path: Path, name: str) -> None:
    sound = CT_READERS.open(exchange(tmp_path / "a.h5"), "exchange")
    for images in (3, 5):
        path = exchange(tmp_path / "b.h5", **{name: np.full((images, 2, 64), 100.0)})
        with h5py.File(path, "a") as file, h5py.File(sound.path) as right:
            file[f"exchange/{name}"][...] = right[f"exchange/{name}"][:images]
            file[f"exchange/{name}"][1, :, 20] = 60000
        hit = CT_READERS.open(path, "exchange")
        assert torch.equal(hit.read_flat(1), sound.read_flat(1)) and torch.equal(hit.read_slice(1), sound.read_slice(1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_white": np.ones((5, 3, 64))}, r"data_white: found shape \(5, 3, 64\)"),
        ({"data_dark": np.ones((5, 2, 63))}, r"data_dark: found shape \(5, 2, 63\)"),
        ({"data_white": np.ones(64)}, r"data_white: found shape \(64,\)"),
        ({"data": np.ones((60, 64))}, "exchange/data: found shape"),
        (
            {"data_white": np.where(np.arange(64) < 20, 100.0, 2e4) * np.ones((5, 2, 1))},
            "20 of 64 elements without counts",
        ),
        (
            {"data_white": np.where(np.arange(64) < 20, np.nan, 2e4) * np.ones((5, 2, 1))},
            "20 of 64 elements without counts",
        ),
        ({"theta": np.linspace(-7.5, 7.5, 60)}, "a unit that is not stated"),
        ({"theta": np.arange(60) * np.deg2rad(111.246118)}, "a unit that is not stated"),
        ({"theta": np.arange(60) * -np.deg2rad(137.507764)}, "a unit that is not stated"),
        ({"theta": np.arange(60) * np.deg2rad(68.753882)}, "a unit that is not stated"),
        ({"theta": np.arange(60) * HALF * 8 / 60}, "a unit that is not stated"),
        ({"units": "turns"}, "found angles in 'turns'"),
    ],
)
def test_raw_counts_that_contradict_themselves_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = exchange(tmp_path / "a.h5", **changes)
    with pytest.raises(DataError, match=words) as caught:
        SinogramSlices([path], "s", format="exchange").check(0)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("theta", "units", "option", "degrees"),
    [
        (np.arange(60) * 3.0, None, None, 177),
        (np.linspace(0, 360, 60), None, None, 360),
        (np.arange(60) * 2.0, None, None, 118),
        (np.linspace(-20, 20, 60), None, None, 40),
        (np.arange(60) * 6.0, None, None, 354),
        (np.arange(60) * HALF / 60, None, None, 177),
        (np.linspace(-HALF, HALF, 60), None, None, 360),
        (np.linspace(HALF, 0, 60), None, None, 180),
        (np.linspace(-7.5, 7.5, 60), "deg", None, 15),
        (np.linspace(-7.5, 7.5, 60), b"Degrees", None, 15),
        (np.arange(60) * 1.2, None, None, 70.8),  # 1.19998 and 2.39996 are golden angles in radians
        (np.arange(60) * 2.4, None, None, 141.6),
        (np.linspace(0, 2, 60), "rad", None, 114.6),
        (np.linspace(0, 2, 60), "Radians", None, 114.6),
        (np.linspace(0, 2, 60), None, "radians", 114.6),
        (np.linspace(0, 2, 60), None, "degrees", 2),
    ],
)
def test_angles_are_in_the_unit_that_makes_a_scan(
    tmp_path: Path, theta: Any, units: Any, option: Any, degrees: float
) -> None:
    path = exchange(tmp_path / "a.h5", theta=theta, units=units)
    found = CT_READERS.open(path, "exchange", angle_unit=option).geometry.angles
    assert math.degrees(np.ptp(found)) == pytest.approx(degrees, abs=0.5)


def test_tilts_in_degrees_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    ParallelBeam(tuple(np.linspace(-7.5, 7.5, 15).tolist()), 10, 1.0)
    assert "are these degrees?" in caplog.text
    caplog.clear()
    for angles in (turn(12, 360), turn(90, 720), turn(200, 1000, -400), turn(3, 360), (0.0,)):
        ParallelBeam(angles, 10, 1.0)
    assert not caplog.text


@pytest.mark.parametrize("layout", ["one folder", "as unpacked", "elsewhere", "missing", "of another file"])
def test_the_ground_truth_of_lodopab_is_found(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "observation_train/observation_train_000.hdf5"
    folder = {"one folder": path.parent, "as unpacked": tmp_path / "ground_truth_train"}.get(layout, tmp_path / "x")
    truth, grid = folder / "ground_truth_train_000.hdf5", lodopab().grid
    for file, shape in ((path, (2, *lodopab().geometry.shape)), (truth, (2 + (layout[:2] == "of"), *grid.shape))):
        file.parent.mkdir(exist_ok=True)
        with h5py.File(file, "w") as opened:
            opened.create_dataset("data", shape, np.float32, fillvalue=0.5)
    options = {"ground_truth": "../x"} if layout in ("elsewhere", "of another file") else {}
    if layout == "of another file":
        with pytest.raises(DataError, match="use the ground truth of this file"):
            CT_READERS.open(path, "lodopab", **options)
        return
    volume = CT_READERS.open(path, "lodopab", **options)
    assert volume.has_reference == (layout != "missing")
    assert ("no ground truth" in "".join(volume.warnings())) == (layout == "missing")
    with pytest.raises(DataError, match="ground_truth: found no"):
        CT_READERS.open(path, "lodopab", ground_truth="nowhere")
    with contextlib.chdir(path.parent):
        assert CT_READERS.open(path.name, "lodopab", **options).has_reference == (layout != "missing")
