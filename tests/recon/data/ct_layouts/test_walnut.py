"""Cone-beam walnuts: of a slanted cylinder, the slice in the plane of the source comes back where it is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from physics import FanVectors, RadonOperator
from recon import CT_READERS, DataError, SinogramSlices

VIEWS, ROWS, COLUMNS, PITCH = 120, 30, 120, 0.9
#: A cylinder through (5, -3, 0) that leans in x: its section at another height is elsewhere.
FOOT, AXIS, RADIUS, MU = np.array([5.0, -3.0, 0.0]), np.array([0.6, 0.0, 0.8]), 6.0, 0.05
HEIGHT = 4.23


def vectors(wobble: float, mirrored: bool = False) -> np.ndarray[Any, Any]:
    """Rows of a detector that rolls, leans and is off its place, differently in every view."""
    rows = []
    for view in range(VIEWS + 1):
        angle = 2 * np.pi * view / VIEWS
        roll, lean = np.deg2rad((0.8 + wobble * np.sin(3 * angle), 0.5 + wobble * np.cos(angle)))
        u, away, z = (
            np.array(part)
            for part in ((np.cos(angle), np.sin(angle), 0), (-np.sin(angle), np.cos(angle), 0), (0, 0, 1))
        )
        along = np.cos(roll) * u + np.sin(roll) * z
        down = np.cos(lean) * (np.cos(roll) * z - np.sin(roll) * u) + np.sin(lean) * away
        source = -66 * away + HEIGHT * z + 0.3 * u
        middle = 133 * away + 2.1 * u + (HEIGHT + 3) * z
        rows.append(np.concatenate((source, middle, (-1 if mirrored else 1) * PITCH * along, -PITCH * down)))
    return np.array(rows)


def chords(source: Any, target: Any) -> Any:
    """Lengths of rays in the cylinder."""
    ray = (target - source) / np.linalg.norm(target - source, axis=-1, keepdims=True)
    normal = np.cross(ray, AXIS)
    across = np.linalg.norm(normal, axis=-1)
    off = np.abs(((FOOT - source) * normal).sum(-1)) / across
    return 2 * np.sqrt(np.clip(RADIUS**2 - off**2, 0, None)) / across


def save(path: Path, image: np.ndarray[Any, Any]) -> None:
    """An image of rows and columns as the scanner reads it out: the authors transpose it after they flip its rows."""
    Image.fromarray(np.round(image).T[::-1].astype(np.uint16)).save(path)


def write(folder: Path, geometry: np.ndarray[Any, Any]) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    dark, beam = draw.uniform(90, 110, (ROWS, COLUMNS)), draw.uniform(35000, 45000, (ROWS, COLUMNS))
    for name, image in (("di000000", dark), ("io000000", dark + 0.9 * beam), ("io000001", dark + 1.1 * beam)):
        save(folder / f"{name}.tif", image)
    r, c = (np.arange(count) - (count - 1) / 2 for count in (ROWS, COLUMNS))
    for view, (source, middle, along, down) in enumerate(geometry[:-1].reshape(-1, 4, 3)):
        places = middle + r[:, None, None] * down + c[None, :, None] * along
        save(folder / f"scan_{VIEWS - view:06}.tif", dark + beam * np.exp(-MU * chords(source, places)))
    save(folder / "scan_000000.tif", dark)  # repeats the first view and must not be used
    np.savetxt(folder / "scan_geom_corrected.geom", geometry)
    return folder / "scan_geom_corrected.geom"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("walnuts") / "Walnut7" / "Projections" / "tubeV2", vectors(0.2))


def middle_of(image: Any, grid: Any) -> tuple[float, float]:
    mass = np.clip(np.asarray(image, float) - MU / 2, 0, None)
    return float((mass.sum(0) @ grid.x_mm) / mass.sum()), float((mass.sum(1) @ grid.y_mm) / mass.sum())


#: Middle of the section in the plane of the source.
SECTION = (FOOT[0] + 0.75 * HEIGHT, FOOT[1])


@pytest.mark.parametrize("mirrored", [False, True])
def test_line_integrals_are_those_of_rays_in_the_plane_of_the_source(tmp_path: Path, mirrored: bool) -> None:
    path = write(tmp_path / "tubeV2", vectors(0.2, mirrored))
    assert CT_READERS.detect(path) == "walnut"
    volume = CT_READERS.open(path, "walnut")
    assert volume.shape == (1, VIEWS, COLUMNS) and isinstance(volume.geometry, FanVectors)
    lines = -(volume.read_slice(0) / volume.read_flat(0)).log().numpy()
    rays = volume.geometry.rays
    source = np.stack((rays.point_x, rays.point_y, np.full_like(rays.point_x, HEIGHT)), -1)
    toward = np.stack((rays.direction_x, rays.direction_y, np.zeros_like(rays.point_x)), -1)
    expected = MU * chords(source, source + toward)
    assert expected.max() > 0.5
    inside = expected > 0.3  # beside the edge, where interpolation is exact to second order
    assert np.abs(lines - expected)[inside].max() < 0.004
    assert np.abs(lines - expected).mean() < 0.003


def test_the_section_is_where_and_what_it_is(scan: Path) -> None:
    sample = SinogramSlices([scan], "s", format="walnut", size=167)[0]
    operator = sample.operator
    assert isinstance(operator, RadonOperator) and operator.grid.pixel_mm == pytest.approx(0.3)
    image = operator.start(sample.measurement) * float(sample.scale)
    assert middle_of(image, operator.grid) == pytest.approx(SECTION, abs=0.1)
    x, y = operator.grid.x_mm - SECTION[0], operator.grid.y_mm - SECTION[1]
    inside = torch.from_numpy(x[None] ** 2 + y[:, None] ** 2 < (RADIUS - 1) ** 2)
    assert float(image[inside].mean()) == pytest.approx(MU, rel=0.02)


def test_rays_beside_a_dead_pixel_have_weight_zero_in_their_views(scan: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(scan.parent, tmp_path / "tubeV2")
    for path in folder.glob("*.tif"):
        image = np.array(Image.open(path))  # a column lies along the first axis
        image[70, :] = 100 if path.name.startswith("di") else 90
        Image.fromarray(image).save(path)
    slices = SinogramSlices([folder / scan.name], "s", format="walnut", size=100)
    sample = slices[0]
    weights = sample.operator.ray_weights
    assert isinstance(weights, torch.Tensor) and bool(sample.measurement.isfinite().all())
    part = float((weights == 0).float().mean())
    assert 0.5 / COLUMNS < part < 4 / COLUMNS
    whole = SinogramSlices([scan], "s", format="walnut", size=100)[0]
    images = [s.operator.start(s.measurement) * float(s.scale) for s in (sample, whole)]  # type: ignore[attr-defined]
    assert float((images[0] - images[1]).abs().max()) < 0.1 * MU


@pytest.mark.parametrize("size", [None, 100, 700])
def test_the_authors_volume_is_the_reference(scan: Path, tmp_path: Path, size: int | None) -> None:
    path = shutil.copytree(scan.parent, tmp_path / "Walnut7" / "Projections" / "tubeV2") / scan.name
    assert "no ground truth" in CT_READERS.open(path, "walnut").warnings()[0]
    places = (np.arange(501) - 250) * 0.1  # of the volume (z, y, x), whose axes all ascend
    folder = tmp_path / "Walnut7" / "Reconstructions"
    folder.mkdir()
    for number in (292, 293):
        foot = FOOT[0] + 0.75 * places[number], FOOT[1]
        inside = (0.8 * (places[None] - foot[0])) ** 2 + (places[:, None] - foot[1]) ** 2 < RADIUS**2
        Image.fromarray((MU * inside).astype(np.float32)).save(folder / f"full_AGD_50_{number:06}.tiff")
    volume = CT_READERS.open(path, "walnut", size=size)
    assert volume.has_reference and volume.warnings() == [] and volume.patient_id == "Walnut7"
    image, grid = volume.read_reference(0), volume.grid
    assert middle_of(image, grid) == pytest.approx(SECTION, abs=0.02)
    area = float(image.sum()) * float(np.prod(grid.spacing_mm)) / MU
    assert area == pytest.approx(np.pi * RADIUS**2 / 0.8, rel=5e-3)
    given = CT_READERS.open(path, "walnut", size=size, ground_truth="../../Reconstructions")
    assert torch.equal(given.read_reference(0), image)
    with pytest.raises(DataError, match="ground_truth: found no"):
        CT_READERS.open(path, "walnut", ground_truth="nowhere")


def _missing(folder: Path) -> None:
    (folder / f"scan_{VIEWS // 2:06}.tif").unlink()


def _other_shape(folder: Path) -> None:
    save(folder / "io000001.tif", np.ones((ROWS, COLUMNS + 2)))


def _dead(folder: Path) -> None:
    for name in ("io000000.tif", "io000001.tif"):
        save(folder / name, np.zeros((ROWS, COLUMNS)))


def _columns(folder: Path) -> None:
    np.savetxt(folder / "scan_geom_corrected.geom", vectors(0.2)[:, :6])


def _cut(folder: Path) -> None:
    path = folder / "scan_geom_corrected.geom"
    path.write_bytes(path.read_bytes()[:-100])


def _high(folder: Path) -> None:
    geometry = vectors(0.2)
    geometry[:, 2] += np.linspace(0, 0.4, VIEWS + 1)
    np.savetxt(folder / "scan_geom_corrected.geom", geometry)


def _beside(folder: Path) -> None:
    geometry = vectors(0.2)
    geometry[:, 5] += 40
    np.savetxt(folder / "scan_geom_corrected.geom", geometry)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "scan_000060.tif: file: found nothing, expected projections 1 to 120"),
        (_other_shape, r"io000001.tif: file: found shape \(122, 30\), expected \(120, 30\)"),
        (_dead, "io000000.tif: file: found .* elements without counts above the dark field"),
        (_columns, r"geom: file: found shape \(121, 6\), expected finite numbers, twelve numbers a line"),
        (_cut, "scan_geom_corrected.geom: file: found .*copy it again"),
        (_high, "geometry: found sources 0.397 mm apart in z, expected one height"),
        (_beside, r"geometry: found rows .* expected rows 0 to 29; use another orbit"),
    ],
)
def test_a_broken_folder_is_named(scan: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    folder = shutil.copytree(scan.parent, tmp_path / "tubeV2")
    spoil(folder)
    with pytest.raises(DataError, match=words):
        SinogramSlices([folder / scan.name], "s", format="walnut").check(0)
