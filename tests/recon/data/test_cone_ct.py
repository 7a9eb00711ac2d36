"""DICOM-CT-PD: files of the manual's geometry, read, rebinned and written; damaged and mixed folders."""

import math

import h5py
import numpy as np
import pytest

from physics import MU_WATER, Ellipsoid, EllipsoidPhantom, attenuation_to_hu
from recon import DataError, SinogramSlices, open_series, open_sinograms, plan_slices, write_slices

from ...ct_pd_files import NO_FLYING, line_integrals, scan_views, write_scan, write_view

MU = 0.0192
#: Nothing of it is symmetric: to the right and to the left, at the top and at the bottom, along z.
PHANTOM = EllipsoidPhantom(
    (
        Ellipsoid(MU, (10, -5, 0), (110, 80, 200)),
        Ellipsoid(0.3 * MU, (50, 30, 0), (26, 18, 100), 0.3),
        Ellipsoid(-0.3 * MU, (-40, 20, 14), (24, 24, 14)),
    )
)
DOSE = np.linspace(1e4, 3e4, 48)
COLUMN = 14.0 / (800 - 400) / 4
SPOTS = {"z": ((0.0005, 0.0, 0.0), (0.0005, 5.45, -1.5)), "xy": ((COLUMN, 0.0, 0.0), (-COLUMN, 0.0, 0.0))}


def volume_of(folder, *, thickness=4.0, size=64, **options):
    series = open_series(folder, **options)
    plan = plan_slices(series, thickness_mm=thickness, size=size)
    write_slices(series, folder / "slices.h5", plan)
    volume = open_sinograms(folder / "slices.h5")
    return series, plan, volume


def errors_hu(volume, plan, index, thickness=4.0):
    """Mean error in water, in the insert, and in the lens where it is and where its mirror images would be."""
    image, z = attenuation_to_hu(volume.read_reference(index)).numpy(), plan.centers_mm[index]
    fine = volume.grid.refined(4)
    planes = z + (np.arange(5) - 2) * thickness / 5
    truth = np.mean([PHANTOM.slice(plane, fine.x_mm, fine.y_mm) for plane in planes], axis=0)
    error = image - 1000 * (truth.reshape(64, 4, 64, 4).mean((1, 3)) / MU - 1)
    x, y = np.meshgrid(volume.grid.x_mm, volume.grid.y_mm)
    places = [(20, -40), (50, 30), (-40, 20), (40, -20), (-40, -20)]
    return np.array([error[np.hypot(x - a, y - b) < 9].mean() for a, b in places])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sense": 1, "travel": -1},
        {"transposed": True, "explicit": True, "travel": -1},
        {"pitch": 0.6, "first": 12000, "sense": 1},
        {"spots": SPOTS["z"]},
        {"spots": SPOTS["xy"], "center": (24.5, 8.5)},
        {"pitch": 0, "turns": 1, "kind": "AXIAL"},
        {"pitch": 0, "turns": 1, "kind": "AXIAL", "center": (24.8, 7.0), "transposed": True},
    ],
    ids=["usual", "other sense", "transposed", "low pitch", "flying in z", "flying in plane", "axial", "off center"],
)
def test_projections_become_slices_in_their_place(tmp_path, options):
    """In x, y and z, against files that were written from the words of the manual."""
    spots = options.get("spots", NO_FLYING)
    write_scan(tmp_path, PHANTOM, **{"views_per_turn": 64 * len(spots), "turns": 2.2, "row_mm": 3.0, **options})
    series, plan, volume = volume_of(tmp_path)
    assert volume.shape == (len(plan.centers_mm), 64, 96 if "center" in options and len(spots) > 1 else 48)
    assert series.helical == ("kind" not in options)
    assert series.scan.pitch == pytest.approx(options.get("pitch", 1.0), abs=1e-4)
    assert (volume.grid.shape, volume.grid.pixel_mm) == ((64, 64), pytest.approx(300 / 64))
    for index in range(len(plan.centers_mm)):
        water, insert, lens, *mirrored = errors_hu(volume, plan, index)
        assert np.abs([water, *mirrored]).max() < 6
        assert abs(insert) < 15  # narrower than two columns
        assert abs(lens) < 60  # of -300, where it ends in the slice
    # The lens is there, at one end of the scan alone: a wrong sign of z would show it at the other one.
    images = [attenuation_to_hu(volume.read_reference(i)).numpy() for i in (0, len(plan.centers_mm) - 1)]
    x, y = np.meshgrid(volume.grid.x_mm, volume.grid.y_mm)
    low, high = (image[np.hypot(x + 40, y - 20) < 9].mean() for image in images)
    assert low > -60
    assert high < -150


def test_axial_scan_without_a_tilt_is_that_of_the_phantom(tmp_path):
    write_scan(tmp_path, PHANTOM, views_per_turn=90, turns=1, pitch=0, kind="AXIAL", row_mm=1.0)
    _, plan, volume = volume_of(tmp_path, thickness=2.0)
    assert np.abs(errors_hu(volume, plan, len(plan.centers_mm) // 2, 2.0)).max() < 12


def test_water_has_zero_hounsfield_units_whatever_its_attenuation(tmp_path):
    """Lines are scaled, and photons so that the noise is that of the counts."""
    write_scan(tmp_path, PHANTOM, views_per_turn=60, turns=2.2, photons=DOSE)
    series, plan, volume = volume_of(tmp_path)
    assert series.water_per_mm == pytest.approx(MU)
    middle = len(plan.centers_mm) // 2
    assert abs(errors_hu(volume, plan, middle)[0]) < 5
    series, plan, volume = volume_of(tmp_path, water_per_mm=0.0211)
    hu = attenuation_to_hu(volume.read_reference(middle)).numpy()
    assert hu[38:44, 34:40].mean() == pytest.approx(1000 * (MU / 0.0211 - 1), abs=8)
    assert float(volume.read_slice(0).max()) > 4 * MU_WATER / 0.0211 / MU_WATER * MU


def test_photons_give_weights_and_noise_of_the_slices(tmp_path):
    noise = np.random.default_rng(0)
    air = EllipsoidPhantom((Ellipsoid(MU, (20, 30, 0), (80, 60, 1e5)),))
    write_scan(tmp_path / "noisy", air, views_per_turn=60, turns=2.2, photons=DOSE, noise=noise)
    write_scan(tmp_path / "clean", air, views_per_turn=60, turns=2.2, photons=DOSE)
    (_, _, noisy), (_, _, clean) = (volume_of(tmp_path / name) for name in ("noisy", "clean"))
    assert tuple(noisy.photons.shape) == noisy.geometry.shape
    assert noisy.photons.numpy() == pytest.approx(clean.photons.numpy(), rel=0.05)
    lines = [np.array([volume.read_slice(i).numpy() for i in range(volume.shape[0])]) for volume in (noisy, clean)]
    expected = np.exp(lines[1] / 2) / np.sqrt(noisy.photons.numpy())
    assert ((lines[0] - lines[1]) / expected).std() == pytest.approx(1, abs=0.06)
    samples = SinogramSlices([noisy.path], "site")
    assert samples[0].operator.ray_weights is not None
    assert samples.check(0) == []


def test_column_1_is_at_the_end_of_the_detector_axis(tmp_path):
    write_scan(tmp_path, PHANTOM, views_per_turn=30, turns=1, pitch=0, kind="AXIAL", photons=DOSE)
    _, _, volume = volume_of(tmp_path, size=16)
    assert volume.photons[:, -1].mean() == pytest.approx(float(volume.photons[:, 0].mean()) / 3, rel=0.05)


def test_a_file_without_photons_has_slices_without_them(tmp_path):
    write_scan(tmp_path, PHANTOM, views_per_turn=30, turns=2.2)
    series, plan, volume = volume_of(tmp_path, size=16)
    assert not series.photons and volume.photons is None
    with h5py.File(volume.path) as file:
        assert file["z_mm"][()] == pytest.approx(plan.centers_mm)
        assert file.attrs["patient_id"] == "P1"
        assert file.attrs["acquisition"] == "Full dose projections"


def test_doubtful_scans_are_said(tmp_path):
    write_scan(tmp_path, PHANTOM, views_per_turn=30, turns=3, row_mm=6.0, pitch=1.7)
    series = open_series(tmp_path)
    first, second = plan_slices(series, size=16).warnings(series)
    assert f"half the cone angle is {math.degrees(series.scan.cone_angle_rad):.2f} degrees" in first
    assert "at pitch 1.70 the rows measure all rays within" in second
    write_scan(tmp_path / "flat", PHANTOM, views_per_turn=30, turns=3, row_mm=2.0)
    series = open_series(tmp_path / "flat")
    assert plan_slices(series, size=16).warnings(series) == []


def test_a_pitch_that_contradicts_the_geometry_is_said(tmp_path):
    for number in range(1, 27):
        rewritten(tmp_path, number, SpiralPitchFactor=1.0)
    assert open_series(tmp_path).warnings() == []
    for number in range(1, 27):
        rewritten(tmp_path, number, SpiralPitchFactor=0.6)
    (warning,) = open_series(tmp_path).warnings()
    assert "SpiralPitchFactor is 0.6, but positions, angles and rows have a pitch of 1" in warning


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_scan(folder, PHANTOM, views_per_turn=12, turns=2.2, columns=12, rows=8, column_mm=50.0)
    return folder


def rewritten(folder, number, **changed):
    """Write view ``number`` again, from 1, with other elements."""
    rows = changed.get("rows", 8)
    angles, z, shifts = scan_views(views_per_turn=12, turns=2.2, rows=8)
    view = number - 1
    size = {"columns": 12, "rows": rows, "column_mm": 50.0}
    lines = line_integrals(PHANTOM, angles[view], z[view], shifts[view], **size)
    path = folder / f"view_{(view * 7919) % 100003:06d}.dcm"
    write_view(path, lines, number, angles[view], z[view], shifts[view], **{**size, **changed})
    return path


def truncated(folder, keep=400):
    path = folder / "view_007919.dcm"
    path.write_bytes(path.read_bytes()[:keep])


def foreign(folder):
    (folder / "view_007919.dcm").write_bytes(b"\0" * 128 + b"no DICOM")


def missing(folder):
    for number in (1, 2):
        (folder / f"view_{number * 7919:06d}.dcm").unlink()


FAULTS = {
    "truncated": (
        truncated,
        r"view_007919\.dcm: file: found a truncated file, which ends after 400 bytes, before its pixels, .*copy",
    ),
    "truncated in the first bytes": (
        lambda f: truncated(f, 50),
        r"a truncated file, which ends after 50 bytes, within",
    ),
    "truncated header": (
        lambda f: truncated(f, 140),
        r"a truncated file, which ends after 140 bytes, within its header",
    ),
    "truncated pixels": (
        lambda f: truncated(f, -1),
        r"found a truncated file, .* 1 bytes before the last of its pixels",
    ),
    "no DICOM": (foreign, r"view_007919\.dcm: file: found no readable DICOM file"),
    "missing views": (missing, r"found 24 of the views 1 to 26, without 2, 3, expected all of them; copy"),
    "double view": (lambda f: rewritten(f, 3, InstanceNumber=2), r"found two files of view 2, expected one file per"),
    "two series": (
        lambda f: rewritten(f, 3, series="9.9", SeriesDescription="Low dose projections"),
        r"found 2 series \(25 files of Full dose projections, 1 files of Low dose projections\), expected one series; "
        r"put every series into a folder of its own; of the smaller one is view_015838\.dcm",
    ),
    "other detector": (
        lambda f: rewritten(f, 3, rows=6),
        r"view_015838\.dcm: NumberofDetectorRows: found \[?6\]?, expected \[?8\]? as in most files of the series",
    ),
    "ordinary image": (
        lambda f: rewritten(f, 3, tag_70311001=None),
        r"found no private element \(7031,1001\), the angle of a view, expected a DICOM-CT-PD projection; leave images",
    ),
    "no angle": (
        lambda f: rewritten(f, 3, tag_70311001=float("nan")),
        r"DetectorFocalCenterAngularPosition \(7031,1001\): found .*nan.*, expected a number",
    ),
    "no instance": (lambda f: rewritten(f, 3, InstanceNumber=None), r"InstanceNumber: found nothing, expected the"),
    "no slope": (lambda f: rewritten(f, 3, RescaleSlope=0), r"RescaleSlope and RescaleIntercept: found 0"),
}
FAULTS_OF_ALL = {
    "flat": ({"tag_7029100b": "FLAT"}, "DetectorShape: found FLAT, expected CYLINDRICAL"),
    "no logarithm": ({"tag_70391009": "NO"}, "LogFlag: found NO, expected YES"),
    "other kind": ({"kind": "SCOUT"}, "TypeofProjectionData: found SCOUT, expected HELICAL or AXIAL"),
    "no water": ({"water": None}, "WaterAttenuationCoefficient: found nothing, .*; state it with --water"),
    "water per cm": ({"water": "0.192"}, "WaterAttenuationCoefficient: found 0.192, expected 0.012 to 0.04 per mm"),
    "helical without z": (
        {"tag_70311002": 3.0},
        r"\(7031,1002\): found HELICAL, and z is the same from view to view, expected z that moves",
    ),
    "axial with z": ({"kind": "AXIAL"}, "found AXIAL, and z moves from view to view"),
    "no center": ({"tag_70311033": None}, r"DetectorCentralElement \(7031,1033\): found 0 numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_and_mixed_folders_get_one_line(good, tmp_path, fault):
    for file in good.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage, expected = FAULTS[fault]
    damage(tmp_path)
    with pytest.raises(DataError, match=expected) as error:
        volume_of(tmp_path, size=16)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "slices.h5").exists()


@pytest.mark.parametrize("fault", FAULTS_OF_ALL)
def test_scans_that_are_not_read_get_one_line(tmp_path, fault):
    changed, expected = FAULTS_OF_ALL[fault]
    for number in range(1, 27):
        rewritten(tmp_path, number, **changed)
    with pytest.raises(DataError, match=expected):
        volume_of(tmp_path, size=16)


def test_bad_photons_and_projections_are_named(good, tmp_path):
    for number in range(1, 27):
        path = rewritten(tmp_path, number, photons=np.full(12, 1e4 if number != 13 else -1.0))
    with pytest.raises(DataError, match=r"\(7033,1065\): found 12 values from -1, expected 12 positive"):
        volume_of(tmp_path, size=16)
    assert not (tmp_path / "slices.h5").exists()
    rewritten(tmp_path, 13, photons=np.full(12, 1e4), PixelData=b"\0\0" * 20)
    with pytest.raises(DataError, match=r"PixelData: found 40 bytes, expected 192, 16 bits per element"):
        volume_of(tmp_path, size=16)
    assert path.exists()


def test_a_scan_too_short_for_a_slice_is_refused(tmp_path):
    write_scan(tmp_path, PHANTOM, views_per_turn=30, turns=0.6)
    with pytest.raises(DataError, match=f"{tmp_path}: SliceRebinning: nothing is covered along z, expected 5 mm"):
        plan_slices(open_series(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no DICOM file"):
        open_series(tmp_path / "empty")
