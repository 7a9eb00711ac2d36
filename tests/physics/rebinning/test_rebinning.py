"""Rebinned slices against exact line integrals and images of ellipsoids."""

import math

import numpy as np
import pytest
import torch

from physics import (
    MU_WATER,
    ConeScan,
    ConeViews,
    Ellipsoid,
    EllipsoidPhantom,
    ImageGrid,
    SliceRebinning,
    filtered_backprojection,
    helical_scan,
)
from physics.ct.geometry import rays_of

QUARTER = 7.0 / (800 - 400) / 4
SPOTS = {
    "none": ((0.0, 0.0, 0.0),),
    "z": ((0.0005, 0.0, 0.0), (0.0005, 5.45, -1.5)),
    "xy": ((QUARTER, 0.0, 0.0), (-QUARTER, 0.0, 0.0)),
    "xyz": ((QUARTER, 0.0, 0.0), (-QUARTER, 0.0, 0.0), (QUARTER, 5.45, -1.5), (-QUARTER, 5.45, -1.5)),
}
#: A body that does not change along z, off center, and one that does.
LONG = EllipsoidPhantom(
    (Ellipsoid(0.02, (20, -10, 0), (110, 80, 1e6), 0.3), Ellipsoid(0.005, (-60, 20, 0), (30, 30, 1e6)))
)
BODY = EllipsoidPhantom(
    (
        Ellipsoid(MU_WATER, (0, 0, 0), (150, 105, 150)),
        Ellipsoid(0.05 * MU_WATER, (60, 20, 0), (20, 20, 20)),
        Ellipsoid(-0.1 * MU_WATER, (-70, -10, 5), (25, 20, 30)),
        Ellipsoid(0.5 * MU_WATER, (0, -60, 0), (14, 14, 300)),
    )
)
#: Flat bodies, which change along z alone where a slice cuts them.
FLAT = EllipsoidPhantom(tuple(Ellipsoid(0.02, (x, y, 20), (45, 45, 10)) for x, y in ((70, 0), (-70, 10), (0, -80))))
INSERTS = ((60, 20), (-70, -10), (0, -60))


def scan_of(**options) -> ConeScan:
    usual = {
        "views_per_turn": 120, "turns": 2.5, "columns": 90, "rows": 16, "pitch": 1.0, "pitch_mm": 7.0, "row_mm": 2.0,
        "source_to_axis_mm": 400.0, "source_to_detector_mm": 800.0, "start_rad": 0.4, "offset_mm": 1.75,
    }  # fmt: skip
    spots = SPOTS[options.pop("spots", "none")]
    usual |= options
    return helical_scan(**{**usual, "views_per_turn": usual["views_per_turn"] * len(spots), "spots": spots})


def views_of(scan: ConeScan, phantom: EllipsoidPhantom) -> ConeViews:
    def read(view):
        return phantom.line_integrals(*scan.rays(view)).astype(np.float32), None

    return ConeViews(scan, read)


def exact_lines(rebinning: SliceRebinning, phantom: EllipsoidPhantom, z=0.0):
    """Line integrals in the plane of the slice, in the lengths of their projections on the plane of rotation."""
    rays, (slope_x, slope_y) = rays_of(rebinning.geometry), rebinning.slope_at(z)
    points = np.stack((rays.point_x, rays.point_y, z + slope_x * rays.point_x + slope_y * rays.point_y), axis=-1)
    rise = slope_x * rays.direction_x + slope_y * rays.direction_y
    directions = np.stack((rays.direction_x, rays.direction_y, rise), axis=-1)
    lengths = np.linalg.norm(directions, axis=-1)
    lines = [
        phantom.line_integrals(points[view, 0], directions[view] / lengths[view][:, None]) / lengths[view]
        for view in range(len(points))
    ]
    return np.array(lines)


def test_one_row_of_an_axial_scan_is_the_slice_itself():
    scan = scan_of(pitch=0, turns=1, rows=1)
    rebinning = SliceRebinning(scan, 150)
    found = rebinning.rebin(views_of(scan, BODY), 0.0, 0.0)
    assert found.lines == pytest.approx(exact_lines(rebinning, BODY), abs=1e-5)
    assert found.extrapolated == 0


@pytest.mark.parametrize("spots", list(SPOTS))
@pytest.mark.parametrize("pitch", [0.0, 0.5, 1.0, 1.5])
def test_an_object_that_does_not_change_along_z_is_rebinned_exactly(spots, pitch):
    """Up to interpolation between columns, which is worst at its edges."""
    scan = scan_of(spots=spots, pitch=pitch, turns=1 if pitch == 0 else 2.5)
    rebinning = SliceRebinning(scan, 140)
    assert rebinning.geometry.detectors == (180 if "xy" in spots else 90)
    found, exact = rebinning.rebin(views_of(scan, LONG), 1.0, 2.0), exact_lines(rebinning, LONG)
    assert found.extrapolated == 0
    error = np.abs(found.lines - exact)
    assert error.mean() < 0.002 * exact.max()
    assert error[exact > 0.5 * exact.max()].max() < 0.02 * exact.max()


@pytest.mark.parametrize("spots", ["z", "xy", "xyz"])
def test_a_flying_focal_spot_that_is_ignored_is_wrong(spots):
    scan = scan_of(spots=spots)
    rebinning, views = SliceRebinning(scan, 140), views_of(scan, LONG)
    exact = exact_lines(rebinning, LONG)
    right = np.abs(rebinning.rebin(views, 0.0, 0.0).lines - exact).mean()
    blind = ConeScan(
        scan.angles_rad, scan.z_mm, 90, 16, 7.0, 2.0, 400.0, 800.0, offset_mm=1.75,
        shift_rad=scan.shift_rad * 0, shift_radius_mm=scan.shift_radius_mm * 0, shift_z_mm=scan.shift_z_mm * 0,
    )  # fmt: skip
    without = SliceRebinning(blind, 140)
    wrong = np.abs(without.rebin(views_of(scan, LONG), 0.0, 0.0).lines - exact_lines(without, LONG)).mean()
    assert wrong > 1.5 * right


@pytest.mark.parametrize(("sense", "travel"), [(1, -1), (-1, 1), (-1, -1)])
def test_gantry_and_table_may_move_in_either_sense(sense, travel):
    usual = scan_of()
    scan = ConeScan(
        sense * usual.angles_rad, travel * usual.z_mm, 90, 16, 7.0, 2.0, 400.0, 800.0, offset_mm=1.75
    )  # fmt: skip
    assert scan.pitch == pytest.approx(1.0)
    rebinning = SliceRebinning(scan, 140)
    found, exact = rebinning.rebin(views_of(scan, LONG), 1.0, 2.0), exact_lines(rebinning, LONG)
    assert np.abs(found.lines - exact).mean() < 0.002 * exact.max()


@pytest.mark.parametrize("pitch", [0.5, 1.0, 1.4])
def test_tilted_planes_of_an_object_that_does_not_change_along_z_are_exact(pitch):
    rebinning = SliceRebinning(scan_of(pitch=pitch), 140, tilted=True)
    found, exact = rebinning.rebin(views_of(rebinning.scan, LONG), 1.0, 2.0), exact_lines(rebinning, LONG, 1.0)
    assert found.extrapolated == 0 and found.slope == rebinning.slope_at(1.0) != (0.0, 0.0)
    assert np.abs(found.lines - exact).mean() < 0.002 * exact.max()


@pytest.mark.parametrize(("sense", "travel"), [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_tilted_planes_follow_the_helix_and_are_nearer_to_the_rays(sense, travel):
    usual = scan_of(rows=32, row_mm=4.0)
    scan = ConeScan(sense * usual.angles_rad, travel * usual.z_mm, 90, 32, 7.0, 4.0, 400.0, 800.0, offset_mm=1.75)
    views, errors = views_of(scan, FLAT), {}
    for tilted in (False, True):
        rebinning = SliceRebinning(scan, 150, tilted=tilted)
        exact = exact_lines(rebinning, FLAT, 12.0)
        errors[tilted] = np.sqrt(np.square(rebinning.rebin(views, 12.0, 0.0).lines - exact).mean())
    assert errors[True] < 0.5 * errors[False]
    # The plane meets the source sixty degrees after it passed the slice.
    slope, z = rebinning.slope_at(12.0), 12.0 + travel * scan.feed_mm / 6
    angle = np.interp(travel * z, travel * scan.z_mm, scan.angles_rad)
    source = 400 * math.sin(angle), -400 * math.cos(angle)
    assert 12.0 + slope[0] * source[0] + slope[1] * source[1] == pytest.approx(z, abs=1e-6)


def test_planes_of_an_axial_scan_are_not_tilted():
    with pytest.raises(ValueError, match="planes of an axial scan cannot be tilted, expected a helical scan"):
        SliceRebinning(scan_of(pitch=0, turns=1), 140, tilted=True)


def hounsfield_errors(scan: ConeScan, z: float, thickness: float = 0.0):
    """Error of the mean of water in its worst region, and of every insert, in HU."""
    rebinning = SliceRebinning(scan, 160)
    assert min(abs(z - edge) for edge in rebinning.ranges_mm()[0]) > 0
    found = rebinning.rebin(views_of(scan, BODY), z, thickness)
    grid = ImageGrid((96, 96), 340 / 96)
    image = filtered_backprojection(torch.from_numpy(found.lines)[None], rebinning.geometry, grid)[0].numpy()
    fine = grid.refined(4)
    truth = BODY.slice(z, fine.x_mm, fine.y_mm).reshape(96, 4, 96, 4).mean((1, 3))
    error, (x, y) = (image - truth) / MU_WATER * 1000, np.meshgrid(grid.x_mm, grid.y_mm)
    regions = [(40, -40), (-40, -50), (0, 40), (-90, 40), (100, -10), (0, 0)]
    water = [error[np.hypot(x - a, y - b) < 10].mean() for a, b in regions]
    return np.abs(water).max(), [error[np.hypot(x - a, y - b) < 9].mean() for a, b in INSERTS]


@pytest.mark.parametrize(("rows", "row_mm"), [(16, 2.0), (64, 0.65), (32, 1.3)])
def test_water_and_inserts_have_their_hounsfield_units(rows, row_mm):
    """Half the cone angle up to 1.5 degrees, pitch 1, in a plane where body and inserts change along z."""
    scan = scan_of(views_per_turn=240, columns=140, pitch_mm=4.5, rows=rows, row_mm=row_mm, turns=3)
    assert 1.1 < math.degrees(scan.cone_angle_rad) < 1.5
    water, inserts = hounsfield_errors(scan, 10.0)
    assert water < 5
    assert np.abs(inserts).max() < 15


def test_noise_is_that_of_the_stated_photons():
    generator, scan = np.random.default_rng(0), scan_of(rows=8, spots="z")
    dose = np.linspace(100, 400, 90)

    def read(view):
        return (generator.normal(size=(90, 8)) / np.sqrt(dose)[:, None]).astype(np.float32), dose

    rebinning = SliceRebinning(scan, 140)
    thin, thick = (rebinning.rebin(ConeViews(scan, read), 0.0, thickness) for thickness in (0.0, 4.0))
    for found in (thin, thick):
        assert (found.lines * np.sqrt(found.photons)).std() == pytest.approx(1, abs=0.03)
    assert thick.photons.mean() > 2 * thin.photons.mean()


def test_views_of_a_slice_may_be_chosen():
    scan = scan_of()
    rebinning = SliceRebinning(scan, 140, views=50)
    found = rebinning.rebin(views_of(scan, LONG), 0.0, 0.0)
    assert found.lines.shape == rebinning.geometry.shape == (50, 90)
    assert np.abs(found.lines - exact_lines(rebinning, LONG)).mean() < 0.01 * found.lines.max()


def test_slices_fill_the_complete_part_of_a_scan():
    scan = scan_of()
    rebinning = SliceRebinning(scan, 140)
    (low, high), feed = rebinning.ranges_mm()[0], 16 * 2.0 / 2
    assert scan.feed_mm == pytest.approx(feed)
    assert high == -low == pytest.approx(scan.z_mm.max() - feed * (0.25 + math.asin(140 / 400) / (2 * math.pi)))
    centers = rebinning.slices_mm(3.0)
    assert np.diff(centers) == pytest.approx(3.0)
    assert centers[-1] + 1.5 <= high < centers[-1] + 4.5
    # Views outside the window of a slice are not needed: those in it are.
    assert rebinning.rebin(views_of(scan, LONG), centers[0], 3.0).extrapolated == 0
    assert rebinning.rebin(views_of(scan, LONG), high + feed / 2, 0.0).extrapolated > 0


def test_axial_rotations_at_several_positions_of_the_table():
    one = scan_of(pitch=0, turns=1)
    places = np.repeat([-12.0, 4.0], len(one.z_mm))
    angles = np.concatenate((one.angles_rad, one.angles_rad + 8.0))
    scan = ConeScan(angles, places, 90, 16, 7.0, 2.0, 400.0, 800.0, offset_mm=1.75)
    rebinning = SliceRebinning(scan, 140)
    assert scan.feed_mm == 0 and len(rebinning.ranges_mm()) == 2
    centers = rebinning.slices_mm(2.0)
    assert centers.min() > -20 and centers.max() < 12 and (np.diff(centers) > 1.9).all()
    for z in centers[[0, -1]]:
        found = rebinning.rebin(views_of(scan, LONG), z, 2.0)
        assert np.abs(found.lines - exact_lines(rebinning, LONG)).mean() < 0.002 * found.lines.max()


def test_a_scan_that_cannot_be_rebinned_says_why():
    with pytest.raises(ValueError, match=r"pitch is 3\.20, with which 16 rows cover"):
        SliceRebinning(scan_of(pitch=3.2), 140)
    with pytest.raises(ValueError, match="nothing is covered along z, expected 5 mm"):
        SliceRebinning(scan_of(turns=0.5), 140).slices_mm(5.0)
    with pytest.raises(ValueError, match="has 10 positions, expected at most 9"):
        shifts = np.linspace(0, 5, 300)
        ConeScan(np.linspace(0, 20, 300), np.zeros(300), 9, 8, 7.0, 2.0, 400.0, 800.0, shift_z_mm=shifts)
    with pytest.raises(ValueError, match=r"z_mm has shape \(2,\), expected \(3,\)"):
        ConeScan(np.zeros(3), np.zeros(2), 9, 8, 7.0, 2.0, 400.0, 800.0)
    with pytest.raises(ValueError, match="angles_rad has a value that is not finite"):
        ConeScan(np.full(3, np.nan), np.zeros(3), 9, 8, 7.0, 2.0, 400.0, 800.0)
    with pytest.raises(ValueError, match="source_to_detector_mm is 300"):
        ConeScan(np.arange(3.0), np.zeros(3), 9, 8, 7.0, 2.0, 400.0, 300.0)
