import math
import random
from collections.abc import Mapping

import pytest
import safetensors.torch
import torch
from torch import Tensor

from federation.methods.registries import INVARIANTS, WEIGHTINGS, Contribution, Mean
from federation.methods.weighting import (
    Fairness,
    Samples,
    Softmax,
    Uncertainty,
    Uniform,
    Weighting,
    limit_share,
    validation_loss,
)

State = Mapping[str, Tensor]


def contribution(
    site: str, before: float | None = 30.0, after: float | None = 31.0, *, w: Tensor | None = None, n_samples: int = 1
) -> Contribution:
    return Contribution(site, {"w": torch.zeros(3) if w is None else w}, n_samples, 5, before, after)


def different(n: int, round: int = 0) -> list[Contribution]:
    """Contributions that differ in every field."""
    generator = torch.Generator().manual_seed(round)
    draws = torch.rand(n, 2, generator=generator, dtype=torch.float64).tolist()
    return [
        contribution(
            f"s{i}",
            28 + 3 * before,
            29 + 4 * after,
            w=torch.randn(3, generator=generator, dtype=torch.float64),
            n_samples=3 + 2 * i,
        )
        for i, (before, after) in enumerate(draws)
    ]


def mean_with(weights: Mapping[str, float], contributions: list[Contribution]) -> State:
    shared = {"w": torch.ones(3, dtype=contributions[0].shared["w"].dtype)}
    return Mean().combine(shared, {}, contributions, weights, n_sites=len(contributions))[0]


def after_rounds(weighting: Weighting, rounds: int, n: int = 5) -> State:
    memory = weighting.start()
    for round in range(rounds):
        _, memory = weighting.weigh(different(n, round), memory)
    return memory


def assert_same_bits(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def check_order(weighting: Weighting) -> None:
    contributions, memory = different(6, 9), after_rounds(weighting, 2, 4)
    reference = weighting.weigh(contributions, memory)
    for seed in range(8):
        weights, after = weighting.weigh(random.Random(seed).sample(contributions, 6), memory)
        assert weights == reference[0]
        assert_same_bits(after, reference[1])


def check_one_site(weighting: Weighting) -> None:
    w = torch.randn(3, generator=torch.Generator().manual_seed(0))
    sent, memory = [contribution("a", 30.1, 31.7, w=w)], weighting.start()
    for _ in range(3):
        weights, memory = weighting.weigh(sent, memory)
        assert torch.equal(mean_with(weights, sent)["w"], w)


def check_equal_sites(weighting: Weighting) -> None:
    w = torch.randn(3, generator=torch.Generator().manual_seed(0))
    sent = [contribution(c.site, c.score_before, c.score_after, w=w, n_samples=c.n_samples) for c in different(5)]
    weights, _ = weighting.weigh(sent, after_rounds(weighting, 2))
    assert torch.equal(mean_with(weights, sent)["w"], w)


def check_fixed_point(weighting: Weighting) -> None:
    sent = [contribution(site, score, score, w=torch.ones(3)) for site, score in zip("abc", (20, 30, 40), strict=True)]
    memory = weighting.start()
    first, _ = weighting.weigh(sent, memory)
    for _ in range(3):
        weights, memory = weighting.weigh(sent, memory)
        assert torch.equal(mean_with(weights, sent)["w"], torch.ones(3))
        assert weights == pytest.approx(first, rel=1e-12)


def check_memory_round_trip(weighting: Weighting) -> None:
    memory, sent = after_rounds(weighting, 3), different(5, 7)
    loaded = safetensors.torch.load(safetensors.torch.save(dict(memory)))
    weights, after = weighting.weigh(sent, memory)
    same, same_after = weighting.weigh(sent, loaded)
    assert weights == same
    assert_same_bits(after, same_after)


CHECKS = {
    "order": check_order,
    "one_site": check_one_site,
    "equal_sites": check_equal_sites,
    "fixed_point": check_fixed_point,
    "memory_round_trip": check_memory_round_trip,
}

every_weighting = pytest.mark.parametrize("kind", WEIGHTINGS.values(), ids=WEIGHTINGS)


@every_weighting
def test_a_weighting_has_the_invariants_that_it_declares(kind):
    # The effect of a constant factor on the weights depends on the rule.
    assert kind.invariants <= CHECKS.keys() == INVARIANTS - {"scale_free_weights"}
    for invariant in kind.invariants:
        CHECKS[invariant](kind())


@every_weighting
def test_weights_are_positive_numbers_one_for_each_site(kind):
    weighting = kind()
    memory = weighting.start()
    for round in range(4):
        sent = different(6, round)[round % 3 :]
        weights, memory = weighting.weigh(sent, memory)
        assert weights.keys() == {c.site for c in sent}
        assert all(type(weight) is float and 0 < weight < math.inf for weight in weights.values())
        assert all(tensor.ndim == 0 and tensor.dtype == torch.float64 and name for name, tensor in memory.items())
    with pytest.raises(ValueError, match=f"{kind.__name__}: no contributions"):
        weighting.weigh([], memory)


@pytest.mark.parametrize(
    ("score", "loss"), [(30.0, 1e-3), (10.0, 0.1), (0.0, 1.0), (-1.0, 1.0), (-3.0, 9.0), (-0.5, 0.25)]
)
def test_validation_loss_is_a_squared_error(score, loss):
    assert validation_loss(score) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("score", [1e4, -1e200, math.nan, math.inf])
def test_a_score_without_a_loss_is_refused(score):
    with pytest.raises(ValueError, match="validation_loss: score is"):
        validation_loss(score)


def test_samples_and_uniform():
    sent = [contribution("a", None, None, n_samples=7), contribution("b", n_samples=2)]
    assert Samples().weigh(sent, {}) == ({"a": 7.0, "b": 2.0}, {})
    assert Uniform().weigh(sent, {}) == ({"a": 1.0, "b": 1.0}, {})


def test_softmax_weighs_by_the_loss_relative_to_its_mean():
    # Losses 1e-2 and 1e-3, mean 5.5e-3.
    sent = [contribution("a", after=20.0), contribution("b", after=30.0)]
    weights, _ = Softmax().weigh(sent, {})
    assert weights["a"] / weights["b"] == pytest.approx(math.exp(-(1e-2 - 1e-3) / 5.5e-3))
    shifted, _ = Softmax().weigh([contribution(c.site, after=c.score_after + 7) for c in sent], {})
    assert shifted == pytest.approx(weights)


def test_temperature_goes_from_the_best_site_to_all_alike():
    sent = [contribution(site, after=score) for site, score in zip("abc", (20.0, 30.0, 29.0), strict=True)]
    cold, warm, hot = (Softmax(temperature).weigh(sent, {})[0] for temperature in (1e-6, 1.0, 1e6))
    assert cold["b"] / sum(cold.values()) == pytest.approx(1) and min(cold.values()) > 0
    assert warm["b"] > warm["c"] > warm["a"]
    assert hot["a"] / hot["b"] == pytest.approx(1, abs=1e-5)


def test_uncertainty_weighs_by_the_inverse_squared_error():
    weights, _ = Uncertainty().weigh([contribution("a", after=20.0), contribution("b", after=30.0)], {})
    assert weights["b"] / weights["a"] == pytest.approx(10)
    weights, _ = Uncertainty().weigh([contribution("a", after=-2.0), contribution("b", after=-1.0)], {})
    assert weights["b"] / weights["a"] == pytest.approx(4)


def test_fairness_is_the_published_recursion_on_the_gaps_of_the_round_before():
    step, psnr = 0.05, {"a": (31.0, 33.0), "b": (29.0, 30.0), "c": (25.0, 25.5), "d": (28.0, 32.0)}
    weights, memory = Fairness().weigh([contribution(site, *scores) for site, scores in psnr.items()], {})
    assert weights == pytest.approx(dict.fromkeys("abcd", 1 / 4))
    # The averaged parameters cost a 2 dB, b 0.5 dB; c gains, d is as before.
    scores = {"a": (31.0, 34.0), "b": (29.5, 31.0), "c": (26.0, 27.0), "d": (32.0, 33.0)}
    weights, memory = Fairness().weigh([contribution(site, *pair) for site, pair in scores.items()], memory)
    raised = {"a": 0.25 + step, "b": 0.25 + step / 4, "c": 0.25, "d": 0.25}
    expected = {site: value / sum(raised.values()) for site, value in raised.items()}
    assert weights == pytest.approx(expected)
    # Now c alone loses.
    scores = {"a": (34.0, 35.0), "b": (32.0, 33.0), "c": (26.5, 27.0), "d": (33.0, 34.0)}
    weights, memory = Fairness().weigh([contribution(site, *pair) for site, pair in scores.items()], memory)
    raised = expected | {"c": expected["c"] + step}
    assert weights == pytest.approx({site: value / sum(raised.values()) for site, value in raised.items()})
    # No site loses: nothing changes.
    same, _ = Fairness().weigh([contribution(site, 40.0, 41.0) for site in "abcd"], memory)
    assert same == pytest.approx(weights)


def test_fairness_of_sites_that_are_absent_or_new():
    _, memory = Fairness().weigh([contribution(site, 30.0, 32.0) for site in "ab"], {})
    # a loses, b is absent: a cannot gain on b, with whom it is not compared.
    weights, memory = Fairness().weigh([contribution("a", 31.0, 32.0)], memory)
    assert weights == {"a": 1.0}
    # A new site starts like the mean of the others; b is compared with its last trained parameters.
    sent = [contribution("a", 32.0), contribution("b", 31.0), contribution("c", 20.0)]
    weights, memory = Fairness(step=0.1).weigh(sent, memory)
    expected = {"a": (1 / 3) / 1.1, "b": (1 / 3 + 0.1) / 1.1, "c": (1 / 3) / 1.1}
    assert weights == pytest.approx(expected)
    assert sum(memory[f"weight.{site}"].item() for site in "abc") == pytest.approx(3)


def test_gaps_of_residuals_are_in_decibels_too():
    # Squared residuals that double are a gap of 3.01 dB, as is a PSNR that falls by that.
    lost = 10 * math.log10(2)
    _, memory = Fairness().weigh([contribution("a", 30.0, 31.0), contribution("b", -1.2, -1.0)], {})
    sent = [contribution("a", 31.0 - lost), contribution("b", -math.sqrt(2.0), -1.0)]
    weights, _ = Fairness().weigh(sent, memory)
    assert weights == pytest.approx({"a": 0.5, "b": 0.5})
    weights, _ = Fairness().weigh([sent[0], contribution("b", -1.0, -1.0)], memory)
    assert weights["a"] > weights["b"]


@pytest.mark.parametrize("kind", [Softmax, Uncertainty, Fairness])
def test_sites_without_a_score_are_named(kind):
    sent = [contribution("c", None, None), contribution("b", 30.0, None), contribution("a")]
    with pytest.raises(ValueError, match=rf'{kind.__name__}: no validation score of b, c; .*"samples"'):
        kind().weigh(sent, {})


def test_fairness_needs_the_score_of_the_broadcast_too():
    with pytest.raises(ValueError, match="no validation score of b"):
        Fairness().weigh([contribution("a"), contribution("b", None, 30.0)], {})


@pytest.mark.parametrize("kind", [Softmax, Uncertainty])
def test_losses_of_two_kinds_are_not_compared(kind):
    with pytest.raises(ValueError, match=rf'{kind.__name__}: b have no reference.*"samples"'):
        kind().weigh([contribution("a"), contribution("b", -1.0, -0.9)], {})
    kind().weigh([contribution("a", -1.0, -0.9), contribution("b", -1.0, -0.8)], {})


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Softmax, {"temperature": 0.0}), (Softmax, {"temperature": "warm"}), (Fairness, {"step": -0.05})],
)
def test_wrong_options_are_refused(kind, options):
    (option,) = options
    with pytest.raises(ValueError, match=f"{kind.__name__}: {option} is .*, expected a positive number"):
        kind(**options)


def test_no_site_has_more_than_its_largest_share():
    """Fuzz: one site lies by any factor; the weights of the others, and honest weights, stay as they are."""
    draw = random.Random(0)
    for _ in range(200):
        count, most = draw.randint(2, 8), draw.choice((0.5, 0.7, 0.99))
        honest = {f"s{i}": draw.uniform(1, 1.5) for i in range(count)}
        weights = {**honest, "s0": honest["s0"] * 10 ** draw.uniform(0, 300)}
        limited = limit_share(weights, most)
        part = (1 + most) / 2 if count == 2 else most
        assert limited["s0"] / math.fsum(limited.values()) <= part * (1 + 1e-12)
        assert all(limited[site] == honest[site] for site in honest if site != "s0")
        if weights["s0"] <= part * math.fsum(weights.values()):
            assert limited == weights
        assert limit_share(weights, 1.0) == weights
    assert limit_share({"s0": 1e9}, 0.5) == {"s0": 1e9}
    assert limit_share({"a": 7.0, "b": 3.0}, 0.5) == {"a": 7.0, "b": 3.0}  # of two sites one has half anyway
    assert limit_share({"a": 7e6, "b": 3.0}, 0.5) == {"a": 9.0, "b": 3.0}
