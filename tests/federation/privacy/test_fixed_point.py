import numpy as np
import pytest
import torch

from federation.privacy import FixedPoint
from recon import DataError


def states(n_sites, rms=0.01, size=20_000):
    generator = torch.Generator().manual_seed(0)
    return [{"w": rms * torch.randn(size, generator=generator)} for _ in range(n_sites)]


@pytest.mark.parametrize(("bits", "bound"), [(32, 1e-6), (64, 1e-12)])
@pytest.mark.parametrize("n_sites", [3, 10, 100])
def test_the_mean_is_the_float_mean_up_to_rounding(bits, bound, n_sites):
    weights = [1 - 0.9 * site / n_sites for site in range(n_sites)]
    point = FixedPoint(bits, 4.0, sum(weights), n_sites)
    changes = states(n_sites)
    total = np.zeros(20_000, point.dtype)
    for change, weight in zip(changes, weights, strict=True):
        total += point.encode(change, weight)
    pairs = zip(changes, weights, strict=True)
    expected = sum(weight * change["w"].double().numpy() for change, weight in pairs) / sum(weights)
    assert np.abs(point.decode(total, sum(weights)) - expected).max() <= bound


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("n_sites", [2, 3, 4, 8, 16])
def test_a_sum_at_a_power_of_two_stays_in_the_range(bits, n_sites):
    """With 64 bits, 2^63 - n_sites is 2^63 as a float: four sites that each send 4.0 reached exactly 2^63."""
    point = FixedPoint(bits, 4.0, float(n_sites), n_sites)
    for value in (4.0, -4.0):
        total = sum(point.encode({"w": torch.tensor([value])}, 1.0) for _ in range(n_sites))
        assert point.decode(total, n_sites) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_sum_of_extreme_numbers_stays_in_the_range(bits):
    point = FixedPoint(bits, 4.0, 10.0, 10)
    for value in (4.0, -4.0):
        total = sum(point.encode({"w": torch.tensor([value])}, 1.0) for _ in range(10))
        assert point.decode(total, 10.0) == pytest.approx(value, rel=1e-6)
    # One more bit after the point would leave it.
    assert 2.0 ** (point.fraction_bits + 1) * 4.0 * 10 > 2 ** (bits - 1) - 10


def test_the_order_of_names_and_sites_changes_no_bit():
    point = FixedPoint(32, 4.0, 2.0, 2)
    a, b = states(2, size=30)
    state = {"b": b["w"], "a": a["w"].reshape(5, 6)}
    assert np.array_equal(point.encode(state, 0.3), point.encode(dict(reversed(state.items())), 0.3))
    assert np.array_equal(point.encode(state, 0.3)[:30], point.encode({"a": state["a"]}, 0.3))


@pytest.mark.parametrize("value", [4.1, -4.1, float("nan"), float("inf")])
def test_a_number_beyond_the_range_is_refused_in_one_line(value):
    point = FixedPoint(32, 4.0, 2.0, 2)
    with pytest.raises(
        DataError, match=r"^secure sum: the change of net\.w reaches .*, expected at most 4; "
    ) as caught:
        point.encode({"net.w": torch.tensor([0.0, value])}, 0.1)
    assert "\n" not in str(caught.value)


def test_a_range_with_few_bits_after_the_point_is_refused():
    coarse = r"^privacy\.largest_change: numbers up to 1e\+06 of 100 sites leave 4 of 32 bits .* at least 18; .* 64"
    with pytest.raises(ValueError, match=coarse):
        FixedPoint(32, 1e6, 100.0, 100)
    assert FixedPoint(64, 1e6, 100.0, 100).fraction_bits == 36
    with pytest.raises(ValueError, match="leave -3 of 32 bits"):
        FixedPoint(32, 1e9, 10.0, 10)
    with pytest.raises(ValueError, match="bits is 16, expected 32 or 64"):
        FixedPoint(16, 1.0, 10.0, 10)
