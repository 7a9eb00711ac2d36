"""Check what server rules, weightings and transforms promise, on random parameters of a few sites."""

import itertools
import math
from collections.abc import Callable, Mapping

import safetensors.torch
import torch

from ..serialization import State, layout
from .averaging_rules import Mean
from .server_rule import Contribution, ServerRule
from .transform import Transform
from .transform_chain import Chain
from .weighting import Weighting


class InvariantError(AssertionError):
    """A part does not do what its kind, or its own ``invariants``, promise."""


def check_server_rule(rule: ServerRule) -> None:
    """Check layout and inputs of a rule with default options, and the :data:`INVARIANTS` that it declares."""
    count = max(rule.minimum_sites(), 3)
    shared, states = _state(9), {f"s{i}": _state(i) for i in range(count)}
    weights = dict(zip(states, itertools.cycle((3.0, 17.0, 2.5)), strict=False))

    def combine(by_site: Mapping[str, State], factor: float = 1.0, aux: float = 1.0, stored: bool = False) -> State:
        """Parameters after two rounds in which the sites send the same."""
        new: State = shared
        memory = rule.start(shared)
        for _ in range(2):
            like = rule.aux_layout(shared).items()
            beside = {name: torch.full_like(tensor, aux) for name, tensor in like}
            sent = [Contribution(site, s, 3 + i, 2 + i, 30.0, 31.0, aux=beside) for i, (site, s) in _numbered(by_site)]
            scaled = {site: factor * weights[site] for site in by_site}
            memory = safetensors.torch.load(safetensors.torch.save(dict(memory))) if stored else memory
            new, memory = rule.combine(shared, memory, sent, scaled, n_sites=9)
        return new

    new = combine(states)
    _require(layout(new) == layout(shared), "keeps names, shapes and dtypes of the parameters")
    _require(_same(shared, _state(9)) and _same(states["s0"], _state(0)), "leaves its inputs as they are")
    reversed_order = dict(reversed(states.items()))
    checks: dict[str, Callable[[], bool]] = {
        "order": lambda: _same(combine(reversed_order), new),
        "one_site": lambda: _same(combine({"s0": states["s0"]}), states["s0"]),
        "equal_sites": lambda: _same(combine(dict.fromkeys(states, states["s0"])), states["s0"]),
        "fixed_point": lambda: _same(combine(dict.fromkeys(states, shared), aux=0.0), shared),
        "scale_free_weights": lambda: _same(combine(states, factor=1000.0), new),
        "memory_round_trip": lambda: _same(combine(states, stored=True), new),
    }
    _require_all(rule.invariants, checks)


def check_weighting(weighting: Weighting) -> None:
    """Check that weights are positive, one for each site, and the :data:`INVARIANTS` that a weighting declares."""
    w = _state(0)
    scored = [Contribution(f"s{i}", _state(i), 3 + i, 5, 28.0 + i, 31.0 - i / 3) for i in range(4)]
    alike = [Contribution(c.site, w, c.n_samples, 5, 30.0, 30.0) for c in scored]

    def weigh(sent: list[Contribution], stored: bool = False) -> tuple[dict[str, float], State]:
        """Weights after two rounds, and the mean of the parameters with them."""
        memory = weighting.start()
        for _ in range(2):
            memory = safetensors.torch.load(safetensors.torch.save(dict(memory))) if stored else memory
            weights, memory = weighting.weigh(sent, memory)
        _require(weights.keys() == {c.site for c in sent}, "gives one weight for each site")
        _require(all(0 < weight < math.inf for weight in weights.values()), "gives positive weights")
        return weights, Mean().combine(w, {}, sent, weights, n_sites=9)[0]

    weights, mean = weigh(scored)
    checks: dict[str, Callable[[], bool]] = {
        "order": lambda: weigh(scored[::-1])[0] == weights,
        "one_site": lambda: _same(weigh(scored[:1])[1], scored[0].shared),
        "equal_sites": lambda: _same(weigh(alike)[1], w),
        "fixed_point": lambda: weigh(alike)[0] == weighting.weigh(alike, weighting.start())[0],
        "memory_round_trip": lambda: _same(weigh(scored, stored=True)[1], mean),
    }
    _require_all(weighting.invariants, checks)


def check_transform(transform: Transform) -> None:
    """Check that the update that arrives has the layout of the one that left, and what a transform declares."""
    update, context = _state(1), _state(9)

    def arrived(sent: State, seed: int = 0) -> State:
        payload = Chain((transform,)).encode(sent, torch.Generator().manual_seed(seed), context)
        return Chain((transform,)).decode(payload, layout(sent))

    def times(factor: float) -> State:
        return {name: factor * tensor for name, tensor in update.items()}

    once, sent = arrived(update), _flat(update)
    _require(layout(once) == layout(update), "keeps names, shapes and dtypes of the update")
    _require(_same(update, _state(1)), "leaves its input as it is")
    draws = torch.stack([_flat(arrived(update, seed)) for seed in range(100)])
    checks: dict[str, Callable[[], bool]] = {
        "lossless": lambda: _same(once, update),
        "unbiased": lambda: bool((draws.mean(0) - sent).norm() < 0.2 * (draws[0] - sent).norm()),
        "idempotent": lambda: _close(arrived(once, 1), once),
        "zero": lambda: not _flat(arrived(times(0))).any(),
        "scale": lambda: all(_close(arrived(times(c)), {n: c * t for n, t in once.items()}) for c in (2**-20, 1e3)),
        "name_order": lambda: _same(arrived(dict(reversed(update.items()))), once),
        "contraction": lambda: bool((_flat(once) - sent).norm() < sent.norm()),
    }
    _require_all(transform.invariants, checks)


def _state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"net.weight": (6, 4, 3, 3), "net.bias": (6,), "net.prompt": (5, 12), "step": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _numbered(by_site: Mapping[str, State]) -> list[tuple[int, tuple[str, State]]]:
    """The sites with a number of their own, whatever their order."""
    return [(int(site[1:]), (site, state)) for site, state in by_site.items()]


def _flat(state: State) -> torch.Tensor:
    return torch.cat([state[name].reshape(-1).double() for name in sorted(state)])


def _same(a: State, b: State) -> bool:
    return layout(a) == layout(b) and all(torch.equal(a[name], b[name]) for name in a)


def _close(found: State, expected: State) -> bool:
    return bool((_flat(found) - _flat(expected)).norm() <= 1e-5 * _flat(expected).norm())


def _require_all(declared: frozenset[str], checks: Mapping[str, Callable[[], bool]]) -> None:
    for invariant in sorted(declared):
        _require(invariant in checks, f"declares only known invariants, which {invariant!r} is not")
        _require(checks[invariant](), f"has the invariant {invariant!r}, as it declares")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantError(f"expected a part that {what}")
