"""Dead elements in DICOM-CT-PD: found or named, interpolated, their rays weighted by the part that was measured."""

import re

import h5py
import numpy as np
import pydicom
import pytest
import torch

from physics import Ellipsoid, EllipsoidPhantom, attenuation_to_hu
from recon import DataError, ScanSimulation, SinogramSlices, open_series, open_sinograms, plan_slices, write_slices

from ...ct_pd_files import write_scan

MU = 0.0192
PHANTOM = EllipsoidPhantom(
    (Ellipsoid(MU, (10, -5, 0), (110, 80, 200)), Ellipsoid(0.3 * MU, (50, 30, 0), (26, 18, 100)))
)
SCAN = {"views_per_turn": 60, "turns": 2.2, "row_mm": 3.0}
#: Column and row of the file, from 1: side by side in a row.
DEAD = [(24, 8), (25, 8), (26, 8)]
NAMES = ["24:8", "25:8", "26:8"]


def kill(folder, elements, value=lambda view: 65535):
    """Give elements of all files a value by the number of the view."""
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        data = pydicom.dcmread(path)
        pixels = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns).copy()
        for column, row in elements:
            pixels[column - 1, row - 1] = value(number)
        data.PixelData = pixels.tobytes()
        data.save_as(path)
    return folder


def copied(source, folder):
    folder.mkdir()
    for file in source.glob("*.dcm"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_scan(folder, PHANTOM, photons=np.full(48, 2e4), **SCAN)
    return folder


def volume_of(folder, *dead, thickness=4.0):
    series = open_series(folder, dead_elements=dead)
    plan = plan_slices(series, thickness_mm=thickness, size=48)
    write_slices(series, folder / "slices.h5", plan)
    return series, open_sinograms(folder / "slices.h5")


def images(volume):
    return np.stack([attenuation_to_hu(volume.read_reference(i)).numpy() for i in range(volume.shape[0])])


def test_elements_without_counts_are_found_and_interpolated(good, tmp_path):
    _, whole = volume_of(copied(good, tmp_path / "whole"))
    series, found = volume_of(kill(copied(good, tmp_path / "dead"), DEAD))
    (line,) = series.warnings()
    assert re.search(r"dead: detector: found 3 dead elements \(column:row 24:8, 25:8, 26:8\), equal in all views", line)
    assert np.abs(images(found) - images(whole)).max() < 12
    # Named or found, the slices are the same, and what was named is not said again.
    series, named = volume_of(tmp_path / "dead", "24:8", "25:8", "26:8")
    assert series.warnings() == []
    assert (images(named) == images(found)).all()
    assert not whole.has_live and whole.read_live(0) is None and whole.warnings() == []


def test_elements_that_change_are_dead_if_they_are_named(good, tmp_path):
    _, whole = volume_of(copied(good, tmp_path / "whole"))
    hot = kill(copied(good, tmp_path / "hot"), DEAD, lambda view: 40000 + 100 * (view % 7))
    series, silent = volume_of(hot)
    assert series.warnings() == [] and np.abs(images(silent) - images(whole)).max() > 60
    assert np.abs(images(volume_of(hot, *NAMES)[1]) - images(whole)).max() < 12


def test_rays_have_the_weight_of_the_part_that_live_elements_measured(good, tmp_path):
    _, whole = volume_of(copied(good, tmp_path / "whole"))
    _, found = volume_of(kill(copied(good, tmp_path / "dead"), DEAD))
    index = found.shape[0] // 2
    live = found.read_live(index)
    less = live < 1
    assert 0 < float(less.double().mean()) < 0.2 and 0 < float(live.min()) < 1
    weights = [SinogramSlices([v.path], "s")[index].operator.ray_weights for v in (found, whole)]
    expected = torch.from_numpy(np.sqrt(live.numpy()))
    assert torch.allclose(weights[0] / weights[1], expected, rtol=2e-2)
    assert (weights[0][~less] / weights[1][~less]).mean() == pytest.approx(1, abs=1e-3)
    assert found.warnings()[0].endswith("expected rays of live elements; the former have less weight, the latter none")
    assert "0.00% by nothing else" in found.warnings()[0]
    assert SinogramSlices([found.path], "s").check(0) == found.warnings()
    half = SinogramSlices([found.path], "s", simulate=ScanSimulation(views=30))[index].operator.ray_weights
    ratio = (half / weights[0][::2])[half > 0]
    assert ratio.numpy() == pytest.approx(float(ratio.mean()), rel=1e-4)


def test_a_ray_of_dead_elements_alone_has_no_weight(tmp_path):
    """One row, axial: every ray of the slice is one element."""
    one_row = {"rows": 1, "row_mm": 8.0, "center": (24.8, 1.0)}
    write_scan(
        tmp_path, PHANTOM, views_per_turn=60, turns=1, pitch=0, kind="AXIAL", photons=np.full(48, 2e4), **one_row
    )
    _, found = volume_of(kill(tmp_path, [(24, 1)]), thickness=3.0)
    sample = SinogramSlices([found.path], "s")[0]
    none = sample.operator.ray_weights == 0
    assert none.any(1).all() and none.sum() == len(none)
    assert (sample.measurement[none] == 0).all()
    assert "by nothing else" in found.warnings()[0] and "0.00% by nothing else" not in found.warnings()[0]


def test_slices_without_photons_have_weights_of_their_live_part(tmp_path):
    write_scan(tmp_path, PHANTOM, **SCAN)
    _, found = volume_of(kill(tmp_path, DEAD))
    weights = SinogramSlices([found.path], "s")[0].operator.ray_weights
    assert torch.allclose(weights, found.read_live(0).sqrt())


def test_air_of_a_scan_without_noise_is_not_dead(good):
    assert open_series(good).warnings() == []


def test_elements_at_the_end_of_a_detector_with_noise_are_found(tmp_path):
    noise = np.random.default_rng(0)
    write_scan(tmp_path, PHANTOM, photons=np.full(48, 2e4), noise=noise, **SCAN)
    assert open_series(tmp_path).warnings() == []
    kill(tmp_path, [(1, 1), *((column, 16) for column in range(1, 49))], lambda view: 0)
    (line,) = open_series(tmp_path).warnings()
    assert "found 49 dead elements (column:row 1:1, " in line


def test_few_views_tell_nothing(tmp_path):
    write_scan(tmp_path, PHANTOM, views_per_turn=5, turns=2.2)
    assert open_series(kill(tmp_path, DEAD)).warnings() == []


@pytest.mark.parametrize("name", ["0:8", "49:1", "24:17", "24", "24,8", "all:all", "24:-1", "", "a:b"])
def test_names_of_elements_that_are_not_there_are_refused(good, name):
    with pytest.raises(DataError, match=r"--dead: found '.*', expected COLUMN:ROW of 48 columns and 16 rows, from 1"):
        open_series(good, dead_elements=[name])


def test_whole_columns_and_rows_are_named_in_the_order_of_the_file(good):
    dead = open_series(good, dead_elements=["1:all", " ALL:2 ", "3:4"]).dead
    assert dead[47].all() and dead[:, 14].all() and dead[45, 12]
    assert dead.sum() == 16 + 48 - 1 + 1


def test_too_many_dead_elements_are_refused(good):
    names = [f"{column}:all" for column in range(1, 14)]
    with pytest.raises(
        DataError, match="found 27% of the elements equal in all views or named as dead, expected at most"
    ):
        open_series(good, dead_elements=names)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (
            lambda f: f["live"].write_direct(np.full(f["live"].shape, 2, "f4")),
            "live: found 2 to 2, expected parts",
        ),
        (
            lambda f: f.move("live", "gone") or f.create_dataset("live", (3, 4), "f4"),
            r"live: found shape \(3, 4\), expected",
        ),
        (
            lambda f: f.move("z_mm", "gone") or f.create_dataset("z_mm", (2,), "f4"),
            r"z_mm: found shape \(2,\), expected \(",
        ),
        (lambda f: f.attrs.update({"thickness_mm": "thick"}), "thickness_mm: found 'thick', expected a number"),
    ],
)
def test_damaged_slices_get_one_line(good, tmp_path, damage, error):
    _, volume = volume_of(kill(copied(good, tmp_path / "dead"), DEAD))
    with h5py.File(volume.path, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=error):
        SinogramSlices([volume.path], "s")[0]
