import itertools
import math
import re

import numpy as np
import pytest
import safetensors.torch
import torch

from federation.methods.codecs import Int8, LowRank, TopK
from federation.methods.dense_transforms import Clip, NullSpace
from federation.methods.registries import TRANSFORMS
from federation.methods.transform_chain import Chain, encode_with_feedback
from federation.serialization.packing import MessageError, layout

EXAMPLES = {
    "clip": Clip(max_norm=3.0),
    "null_space": NullSpace(),
    "topk": TopK(fraction=0.1),
    "low_rank": LowRank(rank=2),
    "int8": Int8(block=32),
}
CHAINS = [
    Chain(parts)
    for parts in [
        (),
        *((transform,) for transform in EXAMPLES.values()),
        (TopK(0.1), Int8(16)),
        (LowRank(2), Int8(64)),
        (NullSpace(), Clip(2.0), TopK(0.05), Int8(8)),
    ]
]
# Upper bound of the squared error over the squared norm; for the other transforms every bound below 1 is wrong.
CONTRACTION = {"topk": 1 - 28 / 285, "int8": 32 / 127**2, "low_rank": 1 - 2 / 6}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """285 entries: a kernel with low-rank factors, a prompt of 5 tokens, small tensors, a scalar."""
    g = generator(seed)
    shapes = {"net.weight": (6, 4, 3, 3), "net.bias": (6,), "net.prompt": (5, 12), "step": (), "thin": (1, 2)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


CONTEXT = state(99)
LAYOUT = layout(CONTEXT)
KERNEL_SHAPE = tuple(CONTEXT["net.weight"].shape)


def there_and_back(chain, delta, seed: int = 0):
    chain = chain if isinstance(chain, Chain) else Chain((chain,))
    return chain.decode(chain.encode(delta, generator(seed), CONTEXT), layout(delta))


def n_bytes(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensors[name].reshape(-1).double() for name in sorted(tensors)])


def times(factor: float, tensors):
    return {name: factor * tensor for name, tensor in tensors.items()}


def is_close(a, b, tolerance: float = 1e-5) -> bool:
    assert layout(a) == layout(b)
    return float((flat(a) - flat(b)).norm()) <= tolerance * float(flat(b).norm())


def same_bits(a, b) -> bool:
    return layout(a) == layout(b) and all(torch.equal(a[name], b[name]) for name in a)


# Properties over the registry


def holds_lossless(transform):
    return same_bits(there_and_back(transform, state()), state())


def holds_unbiased(transform):
    # The error of the mean of 100 unbiased results is a tenth of the error of one.
    results = torch.stack([flat(there_and_back(transform, state(), seed)) for seed in range(100)])
    truth = flat(state())
    return float((results.mean(0) - truth).norm()) < 0.2 * float((results[0] - truth).norm())


def holds_idempotent(transform):
    once = there_and_back(transform, state())
    return is_close(there_and_back(transform, once, seed=1), once)


def holds_zero(transform):
    zero = times(0, state())
    return same_bits(there_and_back(transform, zero), zero)


def holds_scale(transform):
    once = there_and_back(transform, state())
    return all(is_close(there_and_back(transform, times(c, state())), times(c, once)) for c in (2**-20, 0.3, 1e3))


def holds_name_order(transform):
    delta = state()
    expected = there_and_back(transform, delta)
    orders = [dict(reversed(delta.items())), dict(sorted(delta.items()))]
    return all(same_bits(there_and_back(transform, order), expected) for order in orders)


def holds_contraction(transform):
    (name,) = (name for name, example in EXAMPLES.items() if example == transform)
    leading = NullSpace().directions(CONTEXT["net.prompt"])[0].float()
    aligned = times(0, state()) | {"net.prompt": torch.outer(torch.ones(5), leading)}
    flat_spectrum = times(0, state()) | {"net.weight": torch.eye(6, 36).reshape(KERNEL_SHAPE)}
    ones = {key: torch.ones_like(tensor) for key, tensor in state().items()}
    hard = {key: torch.full_like(tensor, 0.5 / 127) for key, tensor in state().items()} | {"step": torch.tensor(1.0)}
    for delta in (state(), times(1e6, state()), aligned, flat_spectrum, ones, hard):
        error, norm = flat(there_and_back(transform, delta)) - flat(delta), flat(delta).norm()
        if error.square().sum() > (CONTRACTION.get(name, 0.9) + 1e-6) * norm.square():
            return False
    return True


INVARIANTS = {
    "lossless": holds_lossless,
    "unbiased": holds_unbiased,
    "idempotent": holds_idempotent,
    "zero": holds_zero,
    "scale": holds_scale,
    "name_order": holds_name_order,
    "contraction": holds_contraction,
}


def test_every_transform_has_an_example_and_declares_known_invariants():
    assert {name: type(example) for name, example in EXAMPLES.items()} == dict(TRANSFORMS)
    assert all(transform.invariants <= INVARIANTS.keys() for transform in TRANSFORMS.values())


# Int8 is idempotent up to float32 rounding, which moves one number in 10^5: too few for this test to notice.
@pytest.mark.parametrize(
    ("name", "invariant"), [pair for pair in itertools.product(EXAMPLES, INVARIANTS) if pair != ("int8", "idempotent")]
)
def test_exactly_the_declared_invariants_hold(name, invariant):
    assert INVARIANTS[invariant](EXAMPLES[name]) == (invariant in TRANSFORMS[name].invariants)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_payload_is_a_function_of_the_generator_and_survives_the_wire(chain):
    first, again, other = (chain.encode(state(), generator(seed), CONTEXT) for seed in (0, 0, 1))
    assert same_bits(first, again)
    assert same_bits(first, other) != any(isinstance(part, Int8) for part in chain.transforms)
    arrived = safetensors.torch.load(safetensors.torch.save(dict(first)))
    chain.check_payload(arrived, LAYOUT)
    decoded = chain.decode(arrived, LAYOUT)
    assert same_bits(decoded, chain.decode(first, LAYOUT))
    assert layout(decoded) == LAYOUT


@pytest.mark.parametrize("chain", CHAINS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_decoded_update_has_the_dtype_of_the_parameters(chain, dtype):
    delta = {name: tensor.to(dtype) for name, tensor in state().items()}
    assert layout(there_and_back(chain, delta)) == layout(delta)


def test_without_transforms_the_update_travels_as_it_is():
    assert holds_lossless(Chain())
    assert n_bytes(Chain().encode(state(), generator(), {})) == 4 * 285


# Clip


def test_clip_shortens_to_the_norm_and_leaves_what_is_shorter():
    delta = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    assert same_bits(Clip(5.0).encode(delta, generator(), {}), delta)
    clipped = Clip(4.0).encode(delta, generator(), {})
    torch.testing.assert_close(clipped, {"a": torch.tensor([2.4]), "b": torch.tensor([[3.2]])})
    # The squares of these overflow in float32.
    huge = Clip(4.0).encode(times(1e30, delta), generator(), {})
    torch.testing.assert_close(huge, clipped)


# Null space


def test_projected_step_avoids_the_leading_eigenvectors_of_the_covariance():
    prompt, step = CONTEXT["net.prompt"].numpy().astype(np.float64), state()["net.prompt"]
    projected = NullSpace().encode(state(), generator(), CONTEXT)["net.prompt"]
    values, vectors = np.linalg.eigh(prompt.T @ prompt)
    leading = vectors[:, np.argsort(values)[::-1][: int(0.2 * 12)]]
    assert leading.shape == (12, 2)
    np.testing.assert_allclose(projected.numpy() @ leading, 0, atol=1e-6)
    complement = np.eye(12) - leading @ leading.T
    np.testing.assert_allclose(projected.numpy(), step.numpy() @ complement, atol=1e-6)
    np.testing.assert_allclose(projected.numpy() @ complement, projected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("drop", "features", "rank", "dropped"), [(0.2, 4, 4, 1), (0.2, 12, 5, 2), (0.29, 100, 40, 29), (0.5, 12, 3, 3)]
)
def test_dropped_directions_are_counted_and_are_directions_of_the_prompt(drop, features, rank, dropped):
    g = generator()
    prompt = torch.randn(50, rank, generator=g) @ torch.randn(rank, features, generator=g)
    directions = NullSpace(drop).directions(prompt)
    assert directions.shape == (dropped, features)
    torch.testing.assert_close(directions @ directions.T, torch.eye(dropped, dtype=torch.float64))
    lengths = (prompt.double() @ directions.T).norm(dim=0)
    assert bool((lengths.diff() <= 0).all()) and lengths[-1] > 1e-3


def test_a_prompt_of_zeros_and_other_tensors_pass_unchanged():
    zero = CONTEXT | {"net.prompt": torch.zeros(5, 12)}
    assert same_bits(NullSpace().encode(state(), generator(), zero), state())
    changed = NullSpace().encode(state(), generator(), CONTEXT)
    assert [name for name in changed if not torch.equal(changed[name], state()[name])] == ["net.prompt"]


def test_a_prompt_that_cannot_be_projected_is_named():
    with pytest.raises(ValueError, match=r"'\*promt\*' matches no tensor.*net.prompt"):
        NullSpace(pattern="*promt*").encode(state(), generator(), CONTEXT)
    with pytest.raises(ValueError, match=r"global net.prompt is missing, expected shape \(5, 12\)"):
        NullSpace().encode(state(), generator(), {})
    with pytest.raises(ValueError, match=r"global net.prompt is of shape \(12, 5\), expected"):
        NullSpace().encode(state(), generator(), {"net.prompt": torch.ones(12, 5)})
    for shape in ((12,), (12, 1), (0, 12)):
        with pytest.raises(ValueError, match=r"a.prompt has shape .* expected \(tokens, features\)"):
            NullSpace().encode({"a.prompt": torch.ones(shape)}, generator(), {"a.prompt": torch.ones(shape)})


# Top-k


@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.37, 1.0])
def test_largest_entries_of_all_tensors_together_are_kept(fraction):
    delta = flat(state()).numpy()
    kept = np.argsort(-np.abs(delta), kind="stable")[: max(1, round(fraction * 285))]
    expected = np.zeros(285)
    expected[kept] = delta[kept]
    np.testing.assert_array_equal(flat(there_and_back(TopK(fraction), state())).numpy(), expected)


def test_the_first_of_equal_magnitudes_is_kept():
    delta = {"b": torch.tensor([1.0, -2.0, 2.0, 1.0]), "a": torch.tensor([-1.0, 1.0])}
    decoded = there_and_back(TopK(0.5), delta)
    assert same_bits(decoded, {"b": torch.tensor([0.0, -2.0, 2.0, 0.0]), "a": torch.tensor([-1.0, 0.0])})


@pytest.mark.parametrize(
    ("places", "dtype", "n"),
    [
        ([0, 1, 2], torch.uint8, 3),
        ([254, 509], torch.uint8, 2),
        ([255, 511, 70_000], torch.int16, 5),
        ([32_766, 65_533, 65_535 + 32_767], torch.int16, 4),
        ([*range(0, 25_400, 254), 100_000], torch.int16, 103),
    ],
)
def test_places_survive_gaps_of_any_length(places, dtype, n):
    delta = {"w": torch.zeros(120_000)}
    delta["w"][places] = 1 + torch.arange(len(places)) / 128
    topk = TopK(len(places) / 120_000)
    payload = topk.encode(delta, generator(), {})
    assert (payload["gaps"].dtype, len(payload["gaps"])) == (dtype, n)
    assert same_bits(there_and_back(topk, delta), delta)


def test_an_index_weighs_little_more_than_its_entropy():
    delta = {"w": torch.randn(200_000, generator=generator())}
    payload = TopK(0.01).encode(delta, generator(), {})
    entropy = -200_000 * sum(p * math.log2(p) for p in (0.01, 0.99)) / 8
    assert entropy < payload["gaps"].nbytes < 1.1 * entropy
    assert 4 * 200_000 / n_bytes(payload) > 78
    quantized = Chain((TopK(0.01), Int8())).encode(delta, generator(), {})
    assert 4 * 200_000 / n_bytes(quantized) > 190


# Int8


def test_rounding_is_unbiased_entry_by_entry_and_within_one_step():
    delta = {"w": torch.linspace(-1, 1, 64)}
    results = torch.stack([there_and_back(Int8(64), delta, seed)["w"].double() for seed in range(400)])
    error = results - delta["w"].double()
    assert error.abs().max() < 1 / 127
    # A rounding error has at most half a step of standard deviation.
    assert bool((error.mean(0).abs() < 5 * 0.5 / 127 / math.sqrt(400)).all())
    assert error.std(0).max() > 0.4 / 127


def test_bytes_of_int8_count_its_scales():
    delta = {"w": torch.randn(256 * 100, generator=generator())}
    payload = Int8().encode(delta, generator(), {})
    assert n_bytes(payload) == 25_600 + 4 * 100
    assert 4 * 25_600 / n_bytes(payload) > 3.9


@pytest.mark.parametrize("size", [1e-44, 1e-30, 3.4e38])
def test_int8_has_no_range_of_its_own(size):
    delta = {"w": size * torch.tensor([1.0, -1.0, 0.0])}
    assert same_bits(there_and_back(Int8(), delta), delta)


# Low rank


def test_factors_are_the_nearest_of_their_rank_and_small_tensors_travel_whole():
    decoded, matrix = there_and_back(LowRank(2), state()), state()["net.weight"].reshape(6, 36).numpy()
    left, sizes, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    nearest = (left[:, :2] * sizes[:2]) @ right[:2]
    np.testing.assert_allclose(decoded["net.weight"].reshape(6, 36).numpy(), nearest, atol=1e-6)
    whole = ("net.bias", "step", "thin")
    assert all(torch.equal(decoded[name], state()[name]) for name in whole)
    payload = LowRank(2).encode(state(), generator(), {})
    assert n_bytes(payload) == 4 * (2 * (6 + 36) + 2 * (5 + 12) + 6 + 1 + 2)
    # Two factors of one column are as many numbers as the tensor.
    square = {"square": torch.eye(2)}
    assert same_bits(there_and_back(LowRank(1), square), square)


def test_an_update_of_that_rank_is_exact():
    g = generator()
    delta = {"w": (torch.randn(8, 2, generator=g) @ torch.randn(2, 27, generator=g)).reshape(8, 3, 3, 3)}
    assert is_close(there_and_back(LowRank(2), delta), delta, 1e-6)
    assert not is_close(there_and_back(LowRank(1), delta), delta, 0.1)


# Chains


def test_a_chain_is_its_transforms_one_after_the_other():
    projected = there_and_back(NullSpace(), state())
    clipped = there_and_back(Clip(2.0), projected)
    sparse = there_and_back(TopK(0.05), clipped)
    assert same_bits(there_and_back(Chain((NullSpace(), Clip(2.0), TopK(0.05))), state()), sparse)
    quantized = there_and_back(Chain((NullSpace(), Clip(2.0), TopK(0.05), Int8())), state())
    assert is_close(quantized, sparse, 0.02)
    assert bool(((flat(quantized) != 0) <= (flat(sparse) != 0)).all())


@pytest.mark.parametrize("first", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("second", EXAMPLES.values(), ids=EXAMPLES)
def test_transforms_compose_or_are_refused(first, second):
    order = {Clip: 0, NullSpace: 0, TopK: 1, LowRank: 1, Int8: 2}
    before, after = order[type(first)], order[type(second)]
    if after > before or (before, after) == (0, 0):
        assert layout(there_and_back(Chain((first, second)), state())) == LAYOUT
    else:
        with pytest.raises(ValueError, match=f"{type(second).__name__} cannot follow {type(first).__name__}"):
            Chain((first, second))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_cannot_travel_is_refused_at_the_sender(value):
    with pytest.raises(ValueError, match="'step' holds NaN or infinity"):
        Chain((TopK(),)).encode(state() | {"step": torch.tensor(value)}, generator(), {})
    with pytest.raises(ValueError, match="holds no entry"):
        Chain((TopK(),)).encode({"w": torch.zeros(0, 3)}, generator(), {})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Clip(0), "max_norm is 0"),
        (lambda: Clip(math.inf), "max_norm is inf"),
        (lambda: Clip(math.nan), "max_norm is nan"),
        (lambda: Clip("1"), "max_norm is '1'"),
        (lambda: NullSpace(drop=0.0), "drop is 0.0"),
        (lambda: NullSpace(drop=1), "drop is 1"),
        (lambda: NullSpace(pattern=None), "pattern is None"),
        (lambda: TopK(0), "fraction is 0"),
        (lambda: TopK(1.1), "fraction is 1.1"),
        (lambda: TopK(True), "fraction is True"),
        (lambda: Int8(0), "block is 0"),
        (lambda: Int8(127**2), "block is 16129"),
        (lambda: Int8(2.0), "block is 2.0"),
        (lambda: LowRank(0), "rank is 0"),
        (lambda: LowRank(True), "rank is True"),
    ],
)
def test_wrong_options_are_named(make, reason):
    with pytest.raises(ValueError, match=re.escape(f"{reason}, expected")):
        make()


# Payloads that are wrong or damaged

VALUES = 0.1 * torch.ones(14)
GAPS = torch.zeros(14, dtype=torch.uint8)
CODES, SCALES = torch.zeros(285, dtype=torch.int8), torch.ones(9)


@pytest.mark.parametrize(
    ("transforms", "payload", "reason"),
    [
        ((), {"w": torch.zeros(285)}, "found tensors w, expected net.bias"),
        ((), state() | {"extra": torch.zeros(1)}, "found tensors extra, net.bias"),
        ((), state() | {"step": torch.zeros(1)}, r"step is torch.float32 \(1,\), expected torch.float32 \(\)"),
        ((), state() | {"step": torch.zeros((), dtype=torch.float64)}, "step is torch.float64"),
        ((), state() | {"step": torch.tensor(math.nan)}, "holds NaN"),
        ((Clip(1.0),), {}, "found tensors none"),
        ((TopK(0.05),), state(), "TopK: payload holds net.bias"),
        ((TopK(0.05),), {"values": VALUES}, "TopK: payload holds values, expected gaps, values"),
        ((TopK(0.05),), {"gaps": GAPS, "values": VALUES, "more": GAPS}, "payload holds gaps, more, values"),
        ((TopK(0.05),), {"gaps": GAPS, "values": VALUES[:13]}, r"values is torch.float32 \(13,\)"),
        ((TopK(0.05),), {"gaps": GAPS, "values": VALUES.half()}, "values is torch.float16"),
        ((TopK(0.05),), {"gaps": GAPS, "values": VALUES * math.inf}, "holds NaN or infinity"),
        ((TopK(0.05),), {"gaps": GAPS[:13], "values": VALUES}, "13 places within 13 entries, expected 14 within 285"),
        ((TopK(0.05),), {"gaps": GAPS[:0], "values": VALUES}, "0 places within 0 entries"),
        ((TopK(0.05),), {"gaps": GAPS + 20, "values": VALUES}, "14 places within 294 entries"),
        ((TopK(0.05),), {"gaps": GAPS + 255, "values": VALUES}, "0 places within 3570 entries"),
        ((TopK(0.05),), {"gaps": torch.full((28,), 32_767).short(), "values": VALUES}, "0 places within 917476"),
        ((TopK(0.05),), {"gaps": GAPS.short() - 1, "values": VALUES}, "gaps are torch.int16 .* not negative"),
        ((TopK(0.05),), {"gaps": GAPS.long(), "values": VALUES}, "gaps are torch.int64"),
        ((TopK(0.05),), {"gaps": GAPS.float(), "values": VALUES}, "gaps are torch.float32"),
        ((TopK(0.05),), {"gaps": GAPS[None], "values": VALUES}, r"gaps are torch.uint8 \(1, 14\)"),
        ((Int8(32),), {"codes": CODES}, "found tensors codes, expected codes, scales"),
        ((Int8(32),), {"codes": CODES[1:], "scales": SCALES}, r"codes is torch.int8 \(284,\)"),
        ((Int8(32),), {"codes": CODES.float(), "scales": SCALES}, "codes is torch.float32"),
        ((Int8(32),), {"codes": CODES, "scales": SCALES[1:]}, r"scales is torch.float32 \(8,\)"),
        ((Int8(32),), {"codes": CODES, "scales": SCALES * math.nan}, "holds NaN or infinity"),
        ((Int8(32),), {"codes": CODES, "scales": -SCALES}, "scales out of range"),
        ((Int8(32),), {"codes": CODES - 128, "scales": SCALES}, "codes from -127"),
        ((Int8(32),), {"codes": CODES, "scales": SCALES, "gaps": GAPS}, "found tensors gaps, net.bias"),
        ((Int8(32),), {"codes": CODES, "scales": SCALES, "more": SCALES}, "payload holds more"),
        ((Int8(32),), {"codes": CODES, "scales": SCALES, "step": CODES}, "payload holds step"),
        ((TopK(0.05), Int8()), {"codes": CODES[:14], "scales": SCALES[:1]}, "TopK: payload holds values"),
        ((TopK(0.05), Int8()), {"codes": CODES[:13], "scales": SCALES[:1], "gaps": GAPS}, "codes is torch.int8"),
        ((TopK(0.05), Int8()), {"codes": CODES[:14], "scales": SCALES[:1], "gaps": GAPS + 99}, "places within"),
        ((LowRank(2),), {"factors": torch.zeros(126)}, r"factors is torch.float32 \(126,\), expected .* \(127,\)"),
        ((LowRank(2),), {"factors": torch.full((127,), 1e30)}, "update: tensor 'net.prompt' holds NaN or infinity"),
    ],
)
def test_payloads_that_do_not_fit_are_refused_with_the_reason(transforms, payload, reason):
    chain = Chain(transforms)
    with pytest.raises(MessageError, match=reason):
        chain.check_payload(payload, LAYOUT)
    with pytest.raises(MessageError, match=reason):
        chain.decode(payload, LAYOUT)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_a_damaged_payload_is_refused_or_decodes_to_a_finite_update(chain):
    payload, g, refused = chain.encode(state(), generator(), CONTEXT), np.random.default_rng(0), 0
    for name, _ in itertools.product(payload, range(10)):
        raw = np.frombuffer(payload[name].numpy().tobytes(), np.uint8).copy()
        raw[g.integers(len(raw))] ^= 1 << g.integers(8)
        damaged = torch.from_numpy(raw).view(payload[name].dtype).reshape(payload[name].shape)
        try:
            decoded = chain.decode({**payload, name: damaged}, LAYOUT)
        except MessageError:
            refused += 1
        else:
            assert layout(decoded) == LAYOUT and bool(flat(decoded).isfinite().all())
    for name in payload:
        with pytest.raises(MessageError):
            chain.decode({key: tensor for key, tensor in payload.items() if key != name}, LAYOUT)


# Error feedback


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_what_was_decoded_is_what_was_meant_less_the_residual(chain):
    # Multiples of 1/1024, for which float64 sums are exact.
    deltas = [{name: (1024 * t).round() / 1024 for name, t in state(seed).items()} for seed in range(12)]
    residual, sent = {}, torch.zeros(285, dtype=torch.float64)
    for seed, delta in enumerate(deltas):
        payload, residual = encode_with_feedback(chain, delta, residual, generator(seed), CONTEXT)
        sent += flat(chain.decode(payload, LAYOUT))
    truth = sum(flat(delta) for delta in deltas)
    if chain.dense.transforms:
        assert (sent + flat(residual) - truth).norm() > 0.1
    elif any(isinstance(part, TopK) for part in chain.transforms) and len(chain.transforms) == 1:
        assert torch.equal(sent, truth - flat(residual))
    else:
        torch.testing.assert_close(sent, truth - flat(residual), rtol=0, atol=1e-13)


def test_feedback_does_not_bring_back_what_dense_transforms_removed():
    chain, residual = Chain((NullSpace(), Clip(0.5), TopK(0.02))), {}
    directions = NullSpace().directions(CONTEXT["net.prompt"])
    for seed in range(30):
        payload, residual = encode_with_feedback(chain, state(seed), residual, generator(), CONTEXT)
        decoded = chain.decode(payload, LAYOUT)
        assert flat(decoded).norm() <= 0.5 * (1 + 1e-6)
        assert (residual["net.prompt"] + decoded["net.prompt"]).matmul(directions.T).norm() < 1e-6
        assert flat(residual).norm() <= 0.5 * (1 + 1e-6)


def test_residual_of_another_network_is_refused():
    _, residual = encode_with_feedback(Chain((TopK(),)), state(), {}, generator(), {})
    assert {tensor.dtype for tensor in residual.values()} == {torch.float64}
    with pytest.raises(ValueError, match=r"residual: found tensors net\.bias"):
        encode_with_feedback(Chain((TopK(),)), {"w": torch.ones(3)}, residual, generator(), {})


def descend(rate: float, rounds: int, *, feedback: bool) -> float:
    """Distance to the optimum, 1 at the start, of two sites whose largest gradients cancel in the mean."""
    target = torch.randn(100, generator=generator(), dtype=torch.float64)
    pull = torch.zeros(100, dtype=torch.float64)
    pull[0] = 5.0
    x, residuals, chain = torch.zeros(100, dtype=torch.float64), [{}, {}], Chain((TopK(0.01),))
    for _ in range(rounds):
        changes = []
        for site, sign in enumerate((1, -1)):
            delta = {"x": -rate * (x - target + sign * pull)}
            payload, owed = encode_with_feedback(chain, delta, residuals[site], generator(), {})
            residuals[site] = owed if feedback else {}
            changes.append(chain.decode(payload, layout(delta))["x"])
        x = x + sum(changes) / 2
    return float((x - target).norm() / target.norm())


def test_one_percent_with_feedback_converges_to_the_optimum_and_without_it_does_not():
    # The distance that remains falls with the rate.
    coarse, fine = descend(0.02, 200, feedback=True), descend(0.01, 500, feedback=True)
    assert fine < 0.02 and fine < coarse / 4
    assert descend(0.02, 200, feedback=False) > 0.9
