import itertools
import math
import random
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import scipy.stats
import torch
from torch import Tensor

from federation.methods.registries import (
    INVARIANTS,
    SERVER_RULES,
    Contribution,
    FedAdagrad,
    FedAdam,
    FedNova,
    FedYogi,
    Krum,
    Mean,
    Median,
    NormClip,
    Scaffold,
    ServerRule,
    TrimmedMean,
)
from federation.serialization.packing import layout

State = Mapping[str, Tensor]


def states(n: int, dtype: torch.dtype = torch.float32) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(n)
    return {
        f"s{site}": {
            "w": torch.randn(5, 7, generator=generator, dtype=dtype),
            "b": torch.randn((), generator=generator, dtype=dtype),
        }
        for site in range(n)
    }


def broadcast(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return states(99, dtype)["s98"]


def contribute(rule: ServerRule, by_site: Mapping[str, State], *, aux: float = 1.0) -> list[Contribution]:
    """Contributions that differ in every field; ``aux`` scales the tensors beside the parameters."""
    generator = torch.Generator().manual_seed(1)
    return [
        Contribution(
            site=site,
            shared=shared,
            n_samples=3 + i,
            n_steps=2 + 3 * i,
            score_before=30.0 + i,
            score_after=31.0 - i,
            aux={
                name: aux * torch.randn(x.shape, generator=generator, dtype=x.dtype)
                for name, x in rule.aux_layout(shared).items()
            },
        )
        for i, (site, shared) in enumerate(by_site.items())
    ]


def weights_of(by_site: Mapping[str, State]) -> dict[str, float]:
    return {site: weight for site, weight in zip(by_site, itertools.cycle((3, 17, 5, 2.5, 7)), strict=False)}


def combine(
    rule: ServerRule, by_site: Mapping[str, State], weights: Mapping[str, float] | None = None, *, aux: float = 1.0
) -> tuple[State, State]:
    """The first round, with :func:`broadcast` as the broadcast parameters."""
    shared = broadcast(next(iter(by_site.values()))["w"].dtype)
    weights = weights_of(by_site) if weights is None else weights
    return rule.combine(
        shared, rule.start(shared), contribute(rule, by_site, aux=aux), weights, n_sites=len(by_site) + 1
    )


def assert_same_bits(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def check_order(rule: ServerRule) -> None:
    # In float64 the last bit depends on the order of the sum.
    for dtype in (torch.float32, torch.float64):
        by_site, shared = states(max(rule.minimum_sites(), 4), dtype), broadcast(dtype)
        contributions = contribute(rule, by_site)
        weights = weights_of(by_site)
        reference = rule.combine(shared, rule.start(shared), contributions, weights, n_sites=9)
        for seed in range(8):
            shuffled = random.Random(seed).sample(contributions, len(contributions))
            reordered = {contribution.site: weights[contribution.site] for contribution in shuffled}
            result = rule.combine(shared, rule.start(shared), shuffled, reordered, n_sites=9)
            assert_same_bits(result[0], reference[0])
            assert_same_bits(result[1], reference[1])


def check_one_site(rule: ServerRule) -> None:
    single = states(1)
    for weight in (1, 50, 12345, 0.1):
        assert_same_bits(combine(rule, single, {"s0": weight})[0], single["s0"])


def check_equal_sites(rule: ServerRule) -> None:
    state = states(1)["s0"]
    by_site = {f"s{i}": state for i in range(max(rule.minimum_sites(), 3))}
    assert_same_bits(combine(rule, by_site)[0], state)


def check_fixed_point(rule: ServerRule) -> None:
    shared: State = broadcast()
    memory, start = rule.start(shared), shared
    for _ in range(3):
        by_site = {f"s{i}": shared for i in range(max(rule.minimum_sites(), 3))}
        contributions = contribute(rule, by_site, aux=0.0)
        shared, memory = rule.combine(shared, memory, contributions, weights_of(by_site), n_sites=9)
        assert_same_bits(shared, start)
    for name, tensor in memory.items():
        assert torch.isfinite(tensor).all()
        assert "second_moment" in name or not tensor.any()


def check_scale_free_weights(rule: ServerRule) -> None:
    by_site = states(max(rule.minimum_sites(), 3))
    weights = weights_of(by_site)
    for factor in (2, 3, 0.25, 1000):
        scaled = {site: factor * weight for site, weight in weights.items()}
        assert_same_bits(combine(rule, by_site, scaled)[0], combine(rule, by_site, weights)[0])


def check_memory_round_trip(rule: ServerRule) -> None:
    by_site = states(max(rule.minimum_sites(), 3))
    shared, memory = combine(rule, by_site)
    loaded = safetensors.torch.load(safetensors.torch.save(dict(memory)))
    contributions, weights = contribute(rule, by_site), weights_of(by_site)
    expected = rule.combine(shared, memory, contributions, weights, n_sites=9)
    result = rule.combine(shared, loaded, contributions, weights, n_sites=9)
    assert_same_bits(result[0], expected[0])
    assert_same_bits(result[1], expected[1])


CHECKS: dict[str, Callable[[ServerRule], None]] = {
    "order": check_order,
    "one_site": check_one_site,
    "equal_sites": check_equal_sites,
    "fixed_point": check_fixed_point,
    "scale_free_weights": check_scale_free_weights,
    "memory_round_trip": check_memory_round_trip,
}

every_rule = pytest.mark.parametrize("kind", SERVER_RULES.values(), ids=SERVER_RULES)


@every_rule
@pytest.mark.parametrize("invariant", sorted(INVARIANTS))
def test_a_rule_has_the_invariants_that_it_declares_and_no_other(kind, invariant):
    if invariant in kind.invariants:
        CHECKS[invariant](kind())
    else:
        with pytest.raises((AssertionError, ValueError)):
            CHECKS[invariant](kind())


def test_the_mean_has_every_invariant():
    assert Mean.invariants == INVARIANTS == CHECKS.keys()
    assert all(kind.invariants <= INVARIANTS for kind in SERVER_RULES.values())


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_rule_is_pure_and_keeps_names_shapes_and_dtypes(kind, dtype):
    rule, by_site, shared = kind(), states(5, dtype), broadcast(dtype)
    contributions, memory = contribute(rule, by_site), rule.start(shared)
    inputs = [shared, memory, *by_site.values(), *(c.aux for c in contributions)]
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in inputs]
    new, after = rule.combine(shared, memory, contributions, weights_of(by_site), n_sites=5)
    for state, copy in zip(inputs, before, strict=True):
        assert_same_bits(state, copy)
    assert layout(new) == layout(shared) and list(new) == list(shared)
    assert layout(after) == layout(memory)
    assert all(torch.isfinite(tensor).all() for tensor in [*new.values(), *after.values()])
    used = {tensor.data_ptr() for state in inputs for tensor in state.values()}
    assert not used & {tensor.data_ptr() for tensor in new.values()}
    assert layout(rule.aux_down(after)) == layout(rule.aux_layout(shared))


class OnDisk(Mapping[str, Tensor]):
    """A state that makes its tensors on demand; counts the tensors alive, and how often it is read."""

    alive, peak = 0, 0

    def __init__(self, state: State) -> None:
        self.state, self.reads = state, 0

    def _make(self, name: str) -> Tensor:
        tensor = self.state[name].clone()
        OnDisk.alive += 1
        OnDisk.peak = max(OnDisk.peak, OnDisk.alive)
        weakref.finalize(tensor, self._forget)
        return tensor

    @staticmethod
    def _forget() -> None:
        OnDisk.alive -= 1

    def __getitem__(self, name: str) -> Tensor:
        return self._make(name)

    def items(self):
        self.reads += 1
        return {name: self._make(name) for name in self.state}.items()

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


@every_rule
def test_memory_is_that_of_one_state_or_of_one_tensor_of_all_sites(kind):
    rule, n_sites, n_names = kind(), 12, 6
    generator = torch.Generator().manual_seed(0)
    names = [f"w{i}" for i in range(n_names)]
    by_site = {
        f"s{i:02}": OnDisk({name: torch.randn(3, generator=generator) for name in names}) for i in range(n_sites)
    }
    shared = {name: torch.zeros(3) for name in names}
    contributions = contribute(rule, by_site)
    for state in by_site.values():
        state.reads = 0
    OnDisk.alive = OnDisk.peak = 0
    rule.combine(shared, rule.start(shared), contributions, weights_of(by_site), n_sites=n_sites)
    one_tensor_of_all = kind in (Median, TrimmedMean, Krum)
    assert 0 < OnDisk.peak <= (n_sites if one_tensor_of_all else n_names) + 1
    if not one_tensor_of_all:
        assert {state.reads for state in by_site.values()} == {2 if kind is NormClip else 1}


def mean(by_site: Mapping[str, State], weights: Mapping[str, float]) -> State:
    """The mean as the rule computes it."""
    shared = next(iter(by_site.values()))
    return Mean().combine(shared, {}, contribute(Mean(), by_site), weights, n_sites=len(by_site))[0]


def test_mean_is_that_of_exact_arithmetic():
    by_site = {"a": {"w": torch.tensor([1.0, 2.0])}, "b": {"w": torch.tensor([4.0, 8.0])}}
    assert_same_bits(mean(by_site, {"a": 3, "b": 1}), {"w": torch.tensor([1.75, 3.5])})


def test_sum_is_accumulated_in_float64():
    # In float32 the small one is lost.
    big, small = torch.tensor([2.0**25]), torch.tensor([1.0])
    result = mean({"a": {"w": big}, "b": {"w": small}, "c": {"w": -big}}, {"a": 1, "b": 1, "c": 1})
    assert result["w"].item() == pytest.approx(1 / 3)


def run_rounds(rule: ServerRule, changes: Tensor) -> tuple[Tensor, State]:
    """From x = 0 in float64, two sites with equal weights whose mean change in round t is ``changes[t]``."""
    shared: State = {"w": torch.zeros_like(changes[0])}
    memory = rule.start(shared)
    for change in changes:
        sites = {"a": {"w": shared["w"] + change + 1}, "b": {"w": shared["w"] + change - 1}}
        shared, memory = rule.combine(shared, memory, contribute(rule, sites), {"a": 1, "b": 1}, n_sites=2)
    return shared["w"], memory


def test_fedadagrad_divides_by_the_root_of_all_squares_so_far():
    changes = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eta, tau = 0.3, 0.2
    result, _ = run_rounds(FedAdagrad(learning_rate=eta, tau=tau), changes)
    steps = eta * changes / ((tau**2 + changes.square().cumsum(dim=0)).sqrt() + tau)
    torch.testing.assert_close(result, steps.sum(dim=0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
@pytest.mark.parametrize(("change", "tau"), [(0.5, 1e-3), (-0.02, 0.5)])
def test_adaptive_rules_follow_a_constant_change_as_their_recursions_say(kind, change, tau):
    rounds, eta, beta1, beta2 = 8, 0.1, 0.8, 0.95
    options = {} if kind is FedAdagrad else {"beta2": beta2}
    result, memory = run_rounds(
        kind(learning_rate=eta, beta1=beta1, tau=tau, **options),
        torch.full((rounds, 1), change, dtype=torch.float64),
    )
    # v moves to the squared change by steps of equal length in Yogi, by a constant factor in Adam.
    toward = math.copysign(1, change**2 - tau**2)
    second = {
        FedAdam: lambda t: beta2**t * tau**2 + (1 - beta2**t) * change**2,
        FedYogi: lambda t: tau**2 + t * toward * (1 - beta2) * change**2,
        FedAdagrad: lambda t: tau**2 + t * change**2,
    }[kind]
    expected = sum(eta * (1 - beta1**t) * change / (math.sqrt(second(t)) + tau) for t in range(1, rounds + 1))
    assert memory["second_moment.w"].item() == pytest.approx(second(rounds), rel=1e-9)
    assert memory["momentum.w"].item() == pytest.approx((1 - beta1**rounds) * change, rel=1e-9)
    assert result.item() == pytest.approx(expected, rel=1e-9)


def test_scaffolds_control_variate_is_the_mean_of_those_of_all_sites():
    rule, sites, chance = Scaffold(), [f"s{i}" for i in range(7)], random.Random(0)
    generator = torch.Generator().manual_seed(0)
    shared: State = broadcast()
    memory = rule.start(shared)
    own = {site: {name: torch.zeros_like(control) for name, control in memory.items()} for site in sites}
    for _ in range(30):
        present = chance.sample(sites, chance.randint(1, 6))
        contributions = []
        for contribution in contribute(rule, dict.fromkeys(present, shared)):
            sent = {name: torch.randn(x.shape, generator=generator) for name, x in contribution.aux.items()}
            for name, change in sent.items():
                own[contribution.site][name] += change
            contributions.append(replace(contribution, aux=sent))
        weights = weights_of(dict.fromkeys(present, shared))
        shared, memory = rule.combine(shared, memory, contributions, weights, n_sites=7)
        for name, control in memory.items():
            mean = torch.stack([own[site][name] for site in sites]).mean(dim=0)
            torch.testing.assert_close(control, mean, rtol=0, atol=1e-14)


def quadratic_federation(rule: ServerRule, rounds: int) -> tuple[Tensor, Tensor]:
    """Parameters after ``rounds`` of local gradient descent on quadratics that differ, and the joint optimum."""
    generator = torch.Generator().manual_seed(3)
    sites, steps, rate = [f"s{i}" for i in range(4)], 10, 0.05
    curvature = {site: torch.rand(6, generator=generator, dtype=torch.float64) + 0.2 for site in sites}
    target = {site: torch.randn(6, generator=generator, dtype=torch.float64) for site in sites}
    shared: State = {"w": torch.zeros(6, dtype=torch.float64)}
    memory = rule.start(shared)
    own = {site: torch.zeros(6, dtype=torch.float64) for site in sites}
    for round in range(rounds):
        control = rule.aux_down(memory).get("control.w", torch.zeros(6)).double()
        contributions = []
        for site in random.Random(round).sample(sites, 4 if isinstance(rule, Mean) else 2):
            x = shared["w"].clone()
            for _ in range(steps):
                x -= rate * (curvature[site] * (x - target[site]) - own[site] + control)
            # The paper's option II.
            sent = (-control + (shared["w"] - x) / (steps * rate)).float()
            if isinstance(rule, Scaffold):
                own[site] += sent
            contributions.append(Contribution(site, {"w": x}, 1, steps, None, None, aux={"control.w": sent}))
        weights = {contribution.site: 1.0 for contribution in contributions}
        shared, memory = rule.combine(shared, memory, contributions, weights, n_sites=4)
    optimum = sum(curvature[s] * target[s] for s in sites) / sum(curvature.values())
    return shared["w"], optimum


def test_scaffold_reaches_the_joint_optimum_where_the_mean_drifts():
    x, optimum = quadratic_federation(Scaffold(), 200)
    torch.testing.assert_close(x, optimum, rtol=0, atol=1e-5)
    x, optimum = quadratic_federation(Mean(), 200)
    assert (x - optimum).abs().max() > 1e-2


def test_scaffolds_server_step_scales_the_mean_change():
    by_site, shared = states(3, torch.float64), broadcast(torch.float64)
    full, half = (combine(Scaffold(rate), by_site)[0] for rate in (1.0, 0.5))
    assert_same_bits(full, combine(Mean(), by_site)[0])
    for name, x in shared.items():
        torch.testing.assert_close(half[name], (x + full[name]) / 2, rtol=1e-12, atol=1e-12)


def test_fednova_is_the_mean_where_all_sites_make_the_same_steps():
    by_site, shared = states(4), broadcast()
    contributions = [replace(c, n_steps=13) for c in contribute(FedNova(), by_site)]
    result, _ = FedNova().combine(shared, {}, contributions, weights_of(by_site), n_sites=4)
    assert_same_bits(result, combine(Mean(), by_site)[0])


def test_fednova_follows_the_mean_gradient_whatever_the_number_of_steps():
    # With constant gradients a change is proportional to the number of steps, and the mean favors sites with more.
    gradients, steps, weights, rate = states(3, torch.float64), (1, 10, 4), {"s0": 2, "s1": 1, "s2": 1}, 0.01
    shared = broadcast(torch.float64)
    contributions = [
        Contribution(site, {n: shared[n] - rate * count * g for n, g in gradient.items()}, 1, count, None, None)
        for (site, gradient), count in zip(gradients.items(), steps, strict=True)
    ]
    result, _ = FedNova().combine(shared, {}, contributions, weights, n_sites=3)
    direction = mean(gradients, weights)
    effective = (2 * 1 + 10 + 4) / 4
    for name, x in shared.items():
        torch.testing.assert_close(result[name], x - rate * effective * direction[name], rtol=1e-12, atol=1e-12)


def stacked(by_site: Mapping[str, State], name: str) -> np.ndarray:
    return np.stack([state[name].double().numpy() for state in by_site.values()])


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_median_is_numpys(n):
    by_site = states(n)
    result, _ = combine(Median(), by_site)
    for name, x in result.items():
        np.testing.assert_allclose(x, np.median(stacked(by_site, name), axis=0), rtol=1e-7)


@pytest.mark.parametrize(
    ("trim", "n", "cut"), [(1, 3, 1), (2, 7, 2), (0.2, 5, 1), (0.2, 9, 1), (0.2, 10, 2), (0.4, 3, 1), (0.29, 100, 29)]
)
def test_trimmed_mean_is_scipys(trim, n, cut):
    by_site = states(n)
    result, _ = combine(TrimmedMean(trim), by_site)
    for name, x in result.items():
        # Half a site more: then the rounding in scipy does not matter.
        expected = scipy.stats.trim_mean(stacked(by_site, name), (cut + 0.5) / n, axis=0)
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("n", "faulty"), [(5, 1), (6, 0), (8, 2), (9, 3)])
def test_krum_chooses_the_site_nearest_to_its_nearest(n, faulty):
    by_site = states(n)
    vectors = {site: torch.cat([x.flatten() for x in state.values()]).double() for site, state in by_site.items()}

    def score(site: str) -> float:
        distances = sorted(float((vectors[site] - vectors[other]).norm() ** 2) for other in vectors if other != site)
        return sum(distances[: n - faulty - 2])

    result, _ = combine(Krum(faulty), by_site)
    assert_same_bits(result, by_site[min(by_site, key=score)])


def test_krum_takes_the_first_of_equals():
    state = states(1)["s0"]
    first = {name: x.clone() for name, x in state.items()}
    result, _ = combine(Krum(), {"z": state, "y": state, "x": first, "w": states(2)["s1"], "u": states(3)["s1"]})
    assert_same_bits(result, state)
    mirrored = {"e": 2.0, "d": 1.0, "c": 9.0, "b": -1.0, "a": -2.0}
    by_site = {site: {"w": torch.tensor(value)} for site, value in mirrored.items()}
    result, _ = Krum().combine(
        {"w": torch.tensor(0.0)}, {}, contribute(Krum(), by_site), dict.fromkeys(by_site, 1.0), n_sites=5
    )
    assert result["w"].item() == -1.0


def test_krum_tells_near_sites_apart():
    # The squares of numbers around 1e3 lose the differences between the sites.
    values = {"a": 0.0, "b": 0.5, "c": 1.2, "d": -3.0, "e": 4.0, "f": 7.0}
    by_site = {site: {"w": torch.tensor([1e3 + 1e-6 * x], dtype=torch.float64)} for site, x in values.items()}
    shared = {"w": torch.zeros(1, dtype=torch.float64)}
    result, _ = Krum().combine(shared, {}, contribute(Krum(), by_site), dict.fromkeys(by_site, 1.0), n_sites=6)
    assert_same_bits(result, by_site["c"])


@pytest.mark.parametrize("max_norm", ["median", 3.0, 1e9])
@pytest.mark.parametrize("n", [4, 5])
def test_norm_clip_bounds_each_change_over_all_tensors(max_norm, n):
    by_site, shared = states(n, torch.float64), broadcast(torch.float64)
    weights = weights_of(by_site)
    changes = {site: {name: state[name] - shared[name] for name in shared} for site, state in by_site.items()}
    norms = {site: math.sqrt(sum(float((x**2).sum()) for x in change.values())) for site, change in changes.items()}
    bound = sorted(norms.values())[(n - 1) // 2] if max_norm == "median" else max_norm
    clipped = {
        site: {name: x * min(1, bound / norms[site]) for name, x in change.items()} for site, change in changes.items()
    }
    result, _ = combine(NormClip(max_norm), by_site)
    expected = mean(clipped, weights)
    for name, x in shared.items():
        torch.testing.assert_close(result[name], x + expected[name], rtol=1e-12, atol=1e-12)


def test_norm_clip_stays_where_most_sites_stay():
    shared = broadcast()
    result, _ = combine(NormClip(), {"a": shared, "b": shared, "c": states(1)["s0"]})
    assert_same_bits(result, shared)


@pytest.mark.parametrize("n", [5, 6, 7])
@pytest.mark.parametrize("attacker", [0, 3, 4])
@pytest.mark.parametrize("value", [1e6, -1e6])
def test_one_attacker_moves_the_mean_and_no_robust_rule(n, attacker, value):
    by_site, shared = states(n), broadcast()
    by_site[f"s{attacker}"] = {name: torch.full_like(x, value) for name, x in shared.items()}
    honest = [state for site, state in by_site.items() if site != f"s{attacker}"]

    def within(result: State) -> bool:
        every = {name: torch.stack([state[name] for state in honest]) for name in shared}
        return all(bool(((x >= every[name].amin(0)) & (x <= every[name].amax(0))).all()) for name, x in result.items())

    def norm(state: State) -> float:
        return math.sqrt(sum(float((x - shared[name]).double().square().sum()) for name, x in state.items()))

    # The attacker also claims most of the weight.
    weights = weights_of(by_site) | {f"s{attacker}": 1e6}
    assert not within(combine(Mean(), by_site, weights)[0])
    for rule in (Median(), TrimmedMean(), TrimmedMean(0.2), Krum()):
        assert within(combine(rule, by_site, weights)[0])
    largest = max(norm(state) for state in honest)
    assert norm(combine(Mean(), by_site, weights)[0]) > 1e3 * largest
    assert norm(combine(NormClip(), by_site, weights)[0]) <= largest * (1 + 1e-6)
    assert norm(combine(NormClip(0.5), by_site, weights)[0]) <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        (Median(), 3),
        (TrimmedMean(), 3),
        (TrimmedMean(3), 7),
        (TrimmedMean(0.1), 10),
        (TrimmedMean(0.4), 3),
        (Krum(), 5),
        (Krum(faulty=2), 7),
    ],
)
def test_a_rule_asks_for_the_sites_that_it_needs(rule, needed):
    assert rule.minimum_sites() == needed
    combine(rule, states(needed))
    message = rf"{type(rule).__name__}: {needed - 1} sites sent parameters, expected at least {needed}"
    with pytest.raises(ValueError, match=message):
        combine(rule, states(needed - 1))


@every_rule
def test_input_that_does_not_fit_is_named(kind):
    rule, shared, by_site = kind(), broadcast(), states(5)
    contributions, memory, weights = contribute(rule, by_site), rule.start(shared), weights_of(by_site)

    def wrong(match, *, shared=shared, memory=memory, contributions=contributions, weights=weights, n_sites=5):
        with pytest.raises(ValueError, match=f"{kind.__name__}: {match}"):
            rule.combine(shared, memory, contributions, weights, n_sites=n_sites)

    wrong("0 sites sent", contributions=[], weights={})
    wrong("contributions of .* one per site", contributions=[*contributions, contributions[0]], n_sites=6)
    wrong("contributions of .* 4 at most", n_sites=4)
    wrong("states of .* weights of", weights={"s0": 1})
    for value in (0, -1, math.inf, math.nan):
        wrong("weights are", weights=weights | {"s1": value})
    wrong("parameters of s0", shared=shared | {"more": shared["b"]}, memory=rule.start(shared | {"more": shared["b"]}))
    wrong("memory: .*'of_another_rule'", memory={**memory, "of_another_rule": torch.zeros(1)})
    if kind is Scaffold:
        wrong("s0 sent no", contributions=[replace(contributions[0], aux={}), *contributions[1:]])


def test_aux_of_other_parts_of_a_method_is_left_alone():
    by_site, shared = states(3), broadcast()
    contributions = contribute(Scaffold(), by_site)
    more = [replace(c, aux={**c.aux, "moments": torch.ones(2)}) for c in contributions]
    results = [
        Scaffold().combine(shared, Scaffold().start(shared), sent, weights_of(by_site), n_sites=3)
        for sent in (contributions, more)
    ]
    assert_same_bits(results[0][1], results[1][1])


def test_fednova_needs_the_number_of_steps():
    contributions = [replace(c, n_steps=0) for c in contribute(FedNova(), states(2))]
    with pytest.raises(ValueError, match=r"no steps at \['s0', 's1'\]"):
        FedNova().combine(broadcast(), {}, contributions, {"s0": 1, "s1": 1}, n_sites=2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedadam", {"learning_rate": 0.0}),
        ("fedadam", {"beta2": 1.0}),
        ("fedyogi", {"beta1": -0.1}),
        ("fedyogi", {"tau": "small"}),
        ("fedadagrad", {"tau": 0}),
        ("fedadagrad", {"learning_rate": math.inf}),
        ("scaffold", {"learning_rate": True}),
        ("trimmed_mean", {"trim": 0}),
        ("trimmed_mean", {"trim": 0.5}),
        ("trimmed_mean", {"trim": 1.0}),
        ("krum", {"faulty": 1.5}),
        ("krum", {"faulty": -1}),
        ("norm_clip", {"max_norm": 0.0}),
        ("norm_clip", {"max_norm": "mean"}),
    ],
)
def test_wrong_options_are_refused(name, options):
    (option,) = options
    with pytest.raises(ValueError, match=rf"{SERVER_RULES[name].__name__}: {option} is .*, expected"):
        SERVER_RULES[name](**options)
