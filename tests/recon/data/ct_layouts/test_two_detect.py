"""2DeteCT: scans of the documented layout give the object back where the authors see it, at its attenuation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recon import CT_READERS, DataError, ScanSimulation, SinogramSlices
from recon.data.ct_layouts.two_detect import TwoDetectVolume

R, D, COLUMN = 431.019989, 529.000488, 0.0748
PIXEL = 2 * COLUMN * 956 * R / D / 1024
DISC, RADIUS, MU = (12.0, -7.0), 9.0, 0.03


def chords(elements: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Lengths of rays in the disc, by the authors' geometry without a shift, ``(3601, elements)``."""
    angle = np.linspace(0, 2 * np.pi, 3601)[:, None]
    u = (elements - 477.5) * 2 * COLUMN
    sx, sy = R * np.sin(angle), -R * np.cos(angle)
    dx, dy = -(D - R) * np.sin(angle) + u * np.cos(angle) - sx, (D - R) * np.cos(angle) + u * np.sin(angle) - sy
    off = ((DISC[0] - sx) * dy - (DISC[1] - sy) * dx) / np.hypot(dx, dy)
    return np.asarray(2 * np.sqrt(np.clip(RADIUS**2 - off**2, 0, None)))


def save(path: Path, values: np.ndarray[Any, Any]) -> None:
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``slice00042/mode1`` of the first detector, whose columns lie one element further than the authors' geometry."""
    folder = tmp_path_factory.mktemp("2detect") / "slice00042" / "mode1"
    folder.mkdir(parents=True)
    dark = 500.0 + np.arange(1912) % 7
    beam = 40000.0 + 300 * np.sin(np.arange(1912))
    part = np.repeat(np.exp(-MU * chords(np.arange(956) - 1)), 2, axis=1)
    part[-1] = 0.01  # the repetition must not be used
    save(folder / "sinogram.tif", np.round(dark + beam * part).astype(np.uint16))
    for name, row in (("dark", dark), ("flat1", dark + 0.9 * beam), ("flat2", dark + 1.1 * beam)):
        save(folder / f"{name}.tif", np.round(row)[None].astype(np.uint16))
    return folder


def test_line_integrals_are_those_of_the_rays_of_the_geometry(folder: Path) -> None:
    volume = CT_READERS.open(folder / "sinogram.tif", "2detect")
    assert CT_READERS.detect(folder / "sinogram.tif") == "2detect"
    assert volume.shape == (1, 3600, 956) and volume.patient_id == "slice00042"
    lines = -(volume.read_slice(0) / volume.read_flat(0)).clamp_min(1e-6).log()
    rays = volume.geometry.subset([0, 700, 1800, 3599]).rays
    off = (DISC[0] - rays.point_x) * rays.direction_y - (DISC[1] - rays.point_y) * rays.direction_x
    expected = MU * 2 * np.sqrt(np.clip(RADIUS**2 - off**2, 0, None))
    assert np.abs(lines[[0, 700, 1800, 3599]].numpy() - expected).max() < 2e-3


def test_the_object_is_where_and_what_it_is(folder: Path) -> None:
    arguments: dict[str, Any] = {"format": "2detect", "simulate": ScanSimulation(views=90), "mu_water": 0.02}
    sample = SinogramSlices([folder / "sinogram.tif"], "s", size=256, **arguments)[0]
    image, grid = sample.operator.start(sample.measurement) * 0.02, sample.operator.grid  # type: ignore[union-attr]
    rows, columns = (part.double().mean() for part in torch.nonzero(image > MU / 2, as_tuple=True))
    x, y = np.interp(columns, np.arange(256), grid.x_mm), np.interp(rows, np.arange(256), grid.y_mm)
    assert (x, y) == pytest.approx(DISC, abs=0.1)
    inside = (grid.x_mm[None] - DISC[0]) ** 2 + (grid.y_mm[:, None] - DISC[1]) ** 2 < (RADIUS - 1) ** 2
    assert float(image[torch.from_numpy(np.asarray(inside))].mean()) == pytest.approx(MU, rel=0.02)


def test_the_second_detector_has_no_shift_and_the_manifest_can_state_one(folder: Path, tmp_path: Path) -> None:
    for name, options, offset in (
        ("slice02830", {}, -2 * COLUMN),
        ("slice02831", {}, 0.0),
        ("slice05521", {}, -2 * COLUMN),
        ("slice05871", {}, 0.0),
        ("bread", {"offset_mm": 0.3}, 0.3),
    ):
        path = shutil.copytree(folder, tmp_path / name / "mode3") / "sinogram.tif"
        assert CT_READERS.open(path, "2detect", **options).geometry.offset_mm == pytest.approx(offset)
    with pytest.raises(DataError, match="folder of the slice: found 'bread', expected slice00001"):
        CT_READERS.open(tmp_path / "bread" / "mode3" / "sinogram.tif", "2detect")


@pytest.mark.parametrize("place", ["unpacked over", "elsewhere"])
def test_the_authors_reconstruction_is_the_reference(folder: Path, tmp_path: Path, place: str) -> None:
    path = shutil.copytree(folder, tmp_path / "scans" / "slice00042" / "mode1") / "sinogram.tif"
    root = tmp_path / ("scans" if place == "unpacked over" else "images")
    options = {} if place == "unpacked over" else {"ground_truth": "../images"}
    bare = CT_READERS.open(path, "2detect")
    assert not bare.has_reference and "no ground truth" in bare.warnings()[0]
    # The authors reconstruct 2048 pixels about the axis in units of a pixel and cut out rows and columns 511 to 1534.
    x = (np.arange(2048) - 1023.5) * PIXEL
    whole = (x[None] - DISC[0]) ** 2 + (-x[:, None] - DISC[1]) ** 2 < RADIUS**2
    truth = root / "slice00042" / "mode2" / "reconstruction.tif"
    truth.parent.mkdir(parents=True)
    save(truth, (MU * PIXEL * whole[511:1535, 511:1535]).astype(np.float32))
    volume = CT_READERS.open(path, "2detect", **options)
    image, grid = volume.read_reference(0).numpy(), volume.grid
    assert volume.warnings() == [] and image.max() == pytest.approx(MU)
    rows, columns = np.nonzero(image)
    assert grid.x_mm[columns].mean() == pytest.approx(DISC[0], abs=0.01)
    assert grid.y_mm[rows].mean() == pytest.approx(DISC[1], abs=0.01)
    quarter = CT_READERS.open(path, "2detect", size=256, **options)
    assert quarter.read_reference(0).mean() == pytest.approx(image.mean(), rel=1e-5)
    mass = quarter.read_reference(0).numpy()
    assert (mass.sum(0) @ quarter.grid.x_mm) / mass.sum() == pytest.approx(DISC[0], abs=0.01)
    with pytest.raises(DataError, match=r"ground_truth: found no .*mode3"):
        CT_READERS.open(path, "2detect", ground_truth=str(root), reference_mode=3)


def _gone(folder: Path) -> None:
    (folder / "flat2.tif").unlink()


def _short(folder: Path) -> None:
    save(folder / "sinogram.tif", np.zeros((1801, 1912), np.uint16))


def _picture(folder: Path) -> None:
    Image.fromarray(np.zeros((1, 1912), np.uint8)).save(folder / "dark.tif")


def _cut(folder: Path) -> None:
    path = folder / "sinogram.tif"
    path.write_bytes(path.read_bytes()[:-9_000_000])


def _png(folder: Path) -> None:
    Image.fromarray(np.zeros((1, 1912), np.uint8)).save(folder / "dark.tif", format="png")


def _dead(folder: Path) -> None:
    for name in ("flat1.tif", "flat2.tif"):
        values = np.array(Image.open(folder / name))
        values[0, 600:1200] = 0
        save(folder / name, values)


def test_columns_without_an_open_beam_are_a_dead_element(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "slice00042" / "mode1")
    dark = np.array(Image.open(copy / "dark.tif"))
    for name in ("flat1.tif", "flat2.tif", "sinogram.tif"):
        values = np.array(Image.open(copy / name))
        values[:, 600:602] = dark[0, 600:602]
        save(copy / name, values)
    simulate = ScanSimulation(views=90)
    sample = SinogramSlices([copy / "sinogram.tif"], "s", size=256, format="2detect", simulate=simulate)[0]
    weights = sample.operator.ray_weights
    assert isinstance(weights, torch.Tensor) and (weights == 0).any(0).nonzero().flatten().tolist() == [300]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_gone, "flat2.tif: file: found nothing, expected a TIFF image"),
        (_short, r"sinogram.tif: file: found shape \(1801, 1912\), expected \(3601, 1912\)"),
        (_picture, "dark.tif: file: found a picture of mode L, expected a TIFF image of 16-bit"),
        (_png, "dark.tif: file: found a PNG picture"),
        (_dead, "flat1.tif: file: found 300 of 956 elements without counts above the dark field"),
        (_cut, "sinogram.tif: file: found no readable TIFF"),
    ],
)
def test_a_broken_folder_is_named(folder: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "slice00042" / "mode1")
    spoil(copy)
    with pytest.raises(DataError, match=words):
        SinogramSlices([copy / "sinogram.tif"], "s", format="2detect").check(0)


def test_another_size_is_a_divisor(folder: Path) -> None:
    with pytest.raises(DataError, match="size: found 300, expected a divisor of 1024"):
        CT_READERS.open(folder / "sinogram.tif", "2detect", size=300)
    assert isinstance(CT_READERS.open(folder / "sinogram.tif", "2detect", size=512), TwoDetectVolume)
