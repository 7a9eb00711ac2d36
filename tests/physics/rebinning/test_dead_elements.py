"""Dead elements of a cylindrical detector: interpolated, and their part of every rebinned ray."""

import numpy as np
import pytest

from physics import ConeViews, SliceRebinning
from physics.rebinning.dead_elements import AcrossDead

from .test_rebinning import BODY, exact_lines, scan_of, views_of


def detector(*dead, shape=(9, 6)):
    mask = np.zeros(shape, bool)
    for element in dead:
        mask[element] = True
    return mask


@pytest.mark.parametrize("seed", range(20))
def test_values_on_a_plane_are_restored_inside_the_detector(seed):
    columns, rows = np.meshgrid(np.arange(9.0), np.arange(6.0), indexing="ij")
    plane, dead = 3 * columns + 7 * rows + 1, detector()
    dead[1:-1, 1:-1] = np.random.default_rng(seed).random((7, 4)) < 0.3
    values = np.where(dead, np.nan, plane)
    assert AcrossDead(dead, 1.3, 1.1)(values) == pytest.approx(plane)
    assert np.isnan(values).sum() == dead.sum()  # the view itself stays


def test_the_axis_with_nearer_live_elements_is_taken():
    values = np.arange(54.0).reshape(9, 6) ** 2
    three_of_a_row = AcrossDead(detector((slice(3, 6), 2)), 1.0, 1.5)(values)
    assert three_of_a_row[4, 2] == pytest.approx((values[4, 1] + values[4, 3]) / 2)
    one = detector((4, 2))
    assert AcrossDead(one, 1.0, 1.5)(values)[4, 2] == pytest.approx((values[3, 2] + values[5, 2]) / 2)
    assert AcrossDead(one, 1.5, 1.0)(values)[4, 2] == pytest.approx((values[4, 1] + values[4, 3]) / 2)


def test_ends_corners_and_crossings_have_values_of_live_elements():
    values = np.arange(54, dtype=np.uint16).reshape(9, 6) * 3
    edge = AcrossDead(detector((0, 3)), 1.0, 2.0)(values)
    assert edge[0, 3] == round((int(values[0, 2]) + int(values[0, 4])) / 2) and edge.dtype == np.uint16
    assert AcrossDead(detector((8, 5)), 1.0, 2.0)(values)[8, 5] == values[7, 5]
    crossing = AcrossDead(detector(4, (slice(None), 2)), 1.0, 1.0)(
        np.where(detector(4, (slice(None), 2)), 9999, values)
    )
    assert crossing[1:-1, 1:-1] == pytest.approx(values[1:-1, 1:-1])
    with pytest.raises(ValueError, match="all elements are dead"):
        AcrossDead(np.ones((3, 3), bool), 1.0, 1.0)


@pytest.mark.parametrize("tilted", [False, True])
@pytest.mark.parametrize("spots", ["none", "xyz"])
def test_live_is_the_weight_of_live_elements(spots, tilted):
    """Rebinning is linear: ones on live elements and zeros on dead ones give the weight of the former."""
    scan = scan_of(spots=spots)
    dead = detector((slice(40, 43), 8), (20, slice(5, 8)), shape=(90, 16))
    rebinning = SliceRebinning(scan, 140, tilted=tilted)
    found = rebinning.rebin(ConeViews(scan, lambda _: (np.ones((90, 16), np.float32), None), dead=dead), 1.0, 3.0)
    some = rebinning.rebin(ConeViews(scan, lambda _: ((~dead).astype(np.float32), None)), 1.0, 3.0)
    assert found.live == pytest.approx(some.lines / found.lines, abs=1e-5)
    assert 0 < found.live.min() < 1 and 0.002 < (found.live < 1).mean() < 0.5
    assert some.live is None


def test_a_ray_that_only_dead_elements_measure_has_no_live_part():
    scan = scan_of(pitch=0, turns=1, rows=1)
    dead = detector((40, 0), shape=(90, 1))
    found = SliceRebinning(scan, 140).rebin(ConeViews(scan, views_of(scan, BODY)._read, dead=dead), 0.0, 0.0)
    assert (found.live[:, 40] == 0).all()
    assert (np.delete(found.live, 40, axis=1) > 0).all()


def test_values_of_dead_elements_do_not_matter_and_lines_stay_near():
    scan = scan_of()
    dead = detector((slice(44, 47), 8), shape=(90, 16))
    rebinning, clean = SliceRebinning(scan, 150), views_of(scan, BODY)

    def with_value(value):
        def read(view):
            values = clean._read(view)[0]
            values[dead] = value
            return values, None

        return read

    whole = rebinning.rebin(clean, 0.0, 2.0).lines
    found = [rebinning.rebin(ConeViews(scan, with_value(v), dead=dead), 0.0, 2.0).lines for v in (0.0, np.nan)]
    assert (found[0] == found[1]).all()
    stored = rebinning.rebin(ConeViews(scan, with_value(9.0)), 0.0, 2.0).lines
    exact = exact_lines(rebinning, BODY)
    assert np.abs(found[0] - whole).max() < 0.01 * exact.max() < 0.1 * np.abs(stored - whole).max()


def test_a_mask_of_another_detector_is_refused():
    scan = scan_of()
    with pytest.raises(ValueError, match=r"dead has shape \(16, 90\), expected \(90, 16\), \(columns, rows\)"):
        ConeViews(scan, views_of(scan, BODY)._read, dead=np.ones((16, 90), bool))
