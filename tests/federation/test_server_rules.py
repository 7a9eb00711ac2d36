import itertools

import pytest
import torch

from federation import SERVER_RULES, weighted_mean


def states(n: int, dtype: torch.dtype = torch.float32) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(n)
    return {
        f"s{site}": {
            "w": torch.randn(5, 7, generator=generator, dtype=dtype),
            "b": torch.randn((), generator=generator, dtype=dtype),
        }
        for site in range(n)
    }


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def test_mean_is_that_of_exact_arithmetic():
    result = weighted_mean(
        {"a": {"w": torch.tensor([1.0, 2.0])}, "b": {"w": torch.tensor([4.0, 8.0])}}, {"a": 3, "b": 1}
    )
    assert_same_bits(result, {"w": torch.tensor([1.75, 3.5])})


def test_sum_is_accumulated_in_float64():
    # In float32 the small one is lost.
    big, small = torch.tensor([2.0**25]), torch.tensor([1.0])
    result = weighted_mean({"a": {"w": big}, "b": {"w": small}, "c": {"w": -big}}, {"a": 1, "b": 1, "c": 1})
    assert result["w"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("rule", SERVER_RULES.values(), ids=SERVER_RULES)
@pytest.mark.parametrize("weight", [1, 50, 12345])
def test_one_site_is_returned_bit_for_bit(rule, weight):
    single = states(1)
    assert_same_bits(rule(single, {"s0": weight}), single["s0"])


@pytest.mark.parametrize("rule", SERVER_RULES.values(), ids=SERVER_RULES)
def test_equal_sites_are_a_fixed_point(rule):
    state = states(1)["s0"]
    assert_same_bits(rule(dict.fromkeys("abc", state), {"a": 7, "b": 3, "c": 11}), state)


@pytest.mark.parametrize("rule", SERVER_RULES.values(), ids=SERVER_RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_of_arrival_does_not_matter(rule, dtype):
    # In float64 the last bit shows the order of the sum.
    by_site, weights = states(4, dtype), {"s0": 3, "s1": 17, "s2": 5, "s3": 2}
    reference = rule(by_site, weights)
    for order in itertools.permutations(by_site):
        result = rule({site: by_site[site] for site in order}, {site: weights[site] for site in reversed(order)})
        assert_same_bits(result, reference)


@pytest.mark.parametrize("rule", SERVER_RULES.values(), ids=SERVER_RULES)
@pytest.mark.parametrize("factor", [2, 3, 0.25, 1000])
def test_weights_are_scale_invariant(rule, factor):
    by_site, weights = states(3), {"s0": 3, "s1": 17, "s2": 5}
    scaled = {site: factor * weight for site, weight in weights.items()}
    assert_same_bits(rule(by_site, scaled), rule(by_site, weights))


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="positive"):
        weighted_mean(states(2), {"s0": 1, "s1": 0})
    with pytest.raises(ValueError, match="weights of"):
        weighted_mean(states(2), {"s0": 1})
    with pytest.raises(ValueError, match="weights of"):
        weighted_mean({}, {})
    uneven = states(2)
    del uneven["s1"]["b"]
    with pytest.raises(ValueError, match=r"s1 lacks \['b'\]"):
        weighted_mean(uneven, {"s0": 1, "s1": 1})
