"""Regularizers: defaults bit by bit, every option on every one of them, conditions, norms, attention, frequencies."""

import hashlib
from fnmatch import fnmatchcase

import pytest
import scipy.fft
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recon import REGULARIZERS, ConvRegularizer, GradientStep, UNetRegularizer, UnrolledNetwork
from recon.networks.regularizers import ChannelAttention, ConvStack, FrequencySplitRegularizer, low_frequencies

#: Those that take every option; `check_part` tests the others.
NAMES = ["cnn", "unet", "fdd"]
OPTIONS = {
    "plain": {},
    "condition": {"condition_dim": 6},
    "instance": {"norm": "instance"},
    "group": {"norm": "group"},
    "attention": {"attention": True},
    "all": {"condition_dim": 6, "norm": "group", "attention": True},
}


def make(name: str, seed: int = 0, **options: object):
    """A small regularizer whose layers that start at zero have weights, so that every part does something."""
    torch.manual_seed(seed)
    regularizer = REGULARIZERS[name](4, 2, **options)  # type: ignore[call-arg, arg-type]
    for parameter in regularizer.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return regularizer


def condition_of(options: dict[str, object], *batch: int) -> Tensor | None:
    dim = options.get("condition_dim", 0)
    return torch.rand(*batch, dim, generator=torch.Generator().manual_seed(3)) if dim else None  # type: ignore[arg-type]


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_starts_as_the_identity_with_every_option(name, options):
    torch.manual_seed(0)
    regularizer = REGULARIZERS[name](4, 2, **options)
    x = images(2, 7, 9)
    assert torch.equal(regularizer(x, condition_of(options, 2)), x)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_batch_do_not_see_each_other(name, options):
    regularizer, x, condition = make(name, **options), images(2, 3, 9, 11), condition_of(options, 2, 3)
    together = regularizer(x, condition)
    assert together.shape == x.shape
    alone = regularizer(x[1, 2], None if condition is None else condition[1, 2])
    torch.testing.assert_close(together[1, 2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_real_images_are_complex_ones_without_an_imaginary_part(name, options):
    regularizer, x, condition = make(name, **options), images(2, 9, 8).real, condition_of(options, 2)
    out = regularizer(x, condition)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, regularizer(x + 0j, condition).real)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_state_is_parameters_alone_and_every_one_of_them_counts(name, options):
    regularizer, x, condition = make(name, **options), images(2, 8, 8), condition_of(options, 2)
    before = regularizer(x, condition)
    assert list(regularizer.state_dict()) == [key for key, _ in regularizer.named_parameters()]
    assert torch.equal(regularizer.eval()(x, condition), before)  # no running statistics
    before.abs().square().sum().backward()
    # A norm takes away what the bias of its convolution adds; one such bias may be without effect.
    idle = {key for key, p in regularizer.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {key for key in idle if not key.endswith(".bias")}
    other = make(name, seed=1, **options)
    assert not torch.equal(other(x, condition), before)
    other.load_state_dict(regularizer.state_dict())
    assert torch.equal(other(x, condition), before)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_image_gives_finite_output_and_gradients(name):
    options = OPTIONS["all"] | {"norm": "instance"}
    regularizer = make(name, **options)
    x = torch.zeros(1, 8, 8, dtype=torch.complex64, requires_grad=True)
    out = regularizer(x, condition_of(options, 1))
    torch.view_as_real(out).sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in regularizer.parameters())


#: Of networks without options, as first released: names, order and drawn values of the parameters of two regularizers
#: made one after the other, which also tells how many numbers each draws.
DIGESTS = {
    (ConvRegularizer, 12, 3): "0d2c17abd1312ff02fbda9c7b57045e3cce353a7f1515b26fa71baf65e6d5b8e",
    (ConvRegularizer, 16, 4): "71e10070f1bf3e2e700ab74a6775703566c5c6ba613f4ef64f54df59f39d1d03",
    (UNetRegularizer, 6, 2): "807f4af05d2255533490c8089af5c6d5b42cc2dcd841987b350bfdc22c12d882",
    (UNetRegularizer, 16, 2): "095733fda06bd2b1c5f0b98d96875ef2a7cfb894372286251f8b387104989c22",
}


@pytest.mark.parametrize(("kind", "width", "depth"), DIGESTS)
def test_the_default_network_of_a_seed_is_what_it_always_was(kind, width, depth):
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for regularizer in (kind(width, depth), kind(width, depth)):
        for name, tensor in regularizer.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
    assert digest.hexdigest() == DIGESTS[kind, width, depth]


def test_the_default_cnn_computes_bit_by_bit_what_plain_convolutions_do():
    net, x = make("cnn"), images(2, 9, 11)
    state = net.state_dict()
    channels = torch.view_as_real(x).movedim(-1, 1)
    hidden = F.relu(F.conv2d(channels, state["hidden.0.weight"], state["hidden.0.bias"], padding=1))
    out = channels + F.conv2d(hidden, state["last.weight"], state["last.bias"], padding=1)
    assert torch.equal(net(x), torch.view_as_complex(out.movedim(1, -1).contiguous()))


def test_the_default_unet_computes_bit_by_bit_what_plain_convolutions_do():
    net, x = make("unet"), images(1, 8, 12)

    def conv(key: str, image: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(image, net.state_dict()[f"{key}.weight"], net.state_dict()[f"{key}.bias"], padding=padding)

    def block(key: str, image: Tensor) -> Tensor:
        return F.leaky_relu(conv(f"{key}.2", F.leaky_relu(conv(f"{key}.0", image), 0.1)), 0.1)

    channels = torch.view_as_real(x).movedim(-1, 1)
    one = block("first", channels)
    two = block("down.0", F.avg_pool2d(one, 2))
    three = block("down.1", F.avg_pool2d(two, 2))
    two = block("up.1", F.interpolate(conv("reduce.1", three, 0), scale_factor=2.0, mode="nearest") + two)
    one = block("up.0", F.interpolate(conv("reduce.0", two, 0), scale_factor=2.0, mode="nearest") + one)
    out = channels + conv("last", one, 0)
    assert torch.equal(net(x), torch.view_as_complex(out.movedim(1, -1).contiguous()))


@pytest.mark.parametrize("name", ["cnn", "unet"])
def test_options_add_parameters_and_draw_none_of_the_others_differently(name):
    torch.manual_seed(0)
    plain = REGULARIZERS[name](8, 2)  # type: ignore[call-arg]
    torch.manual_seed(0)
    full = REGULARIZERS[name](8, 2, **OPTIONS["all"])  # type: ignore[call-arg, arg-type]
    for key, tensor in plain.state_dict().items():
        assert torch.equal(full.state_dict()[key], tensor)
    added = full.state_dict().keys() - plain.state_dict().keys()
    assert all(any(f".{part}." in f".{key}" for part in ("norm", "film", "attention")) for key in added)


# Conditions.


@pytest.mark.parametrize("name", NAMES)
def test_a_condition_is_checked(name):
    plain, conditioned, x = make(name), make(name, condition_dim=6), images(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"takes no condition, got one of shape \(6,\)"):
        plain(x, torch.ones(6))
    with pytest.raises(ValueError, match="got no condition, expected one of length 6"):
        conditioned(x)
    for wrong in (torch.ones(5), torch.ones(2, 3, 5), torch.ones(2, 6), torch.ones(1, 6)):
        with pytest.raises(ValueError, match=r"condition has shape .*, expected \(6,\) or \(2, 3, 6\)"):
            conditioned(x, wrong)
    with pytest.raises(ValueError, match="condition_dim is -1"):
        make(name, condition_dim=-1)


@pytest.mark.parametrize("name", NAMES)
def test_one_condition_for_all_is_the_same_condition_for_each(name):
    regularizer, x = make(name, condition_dim=6), images(2, 3, 8, 8)
    condition = torch.rand(6)
    torch.testing.assert_close(regularizer(x, condition), regularizer(x, condition.expand(2, 3, 6)))
    assert not torch.allclose(regularizer(x, condition), regularizer(x, condition + 1), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_conditioned_regularizer_learns_to_do_two_things(name):
    """The same image is to be kept under one condition and halved under the other; unconditioned, the error is 1/16."""
    torch.manual_seed(0)
    regularizer = REGULARIZERS[name](8, 2, condition_dim=2)  # type: ignore[call-arg]
    x = images(1, 6, 6).expand(2, 6, 6)
    condition, factor = torch.eye(2), torch.tensor([1.0, 0.5])[:, None, None]
    optimizer = torch.optim.Adam(regularizer.parameters(), 0.01)
    unavoidable = float((x * (0.75 - factor)).abs().square().mean())
    for _ in range(30):
        optimizer.zero_grad()
        loss = (regularizer(x, condition) - factor * x).abs().square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.4 * unavoidable


# Norms and attention.


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_a_normalized_layer_forgets_scale_and_offset_of_its_features(norm):
    torch.manual_seed(0)
    stack = ConvStack([2, 8, 8], nn.ReLU, norm)
    x = torch.randn(2, 2, 10, 10)
    before = stack.layer(0, x)
    stack[0].weight.data *= 7
    stack[0].bias.data *= 7
    torch.testing.assert_close(stack.layer(0, x), before, rtol=1e-3, atol=1e-4)
    normalized = stack.norm[0](stack[0](x)).reshape(2, 8 if norm == "instance" else 4, -1)
    torch.testing.assert_close(normalized.mean(-1), torch.zeros(normalized.shape[:2]), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalized.var(-1, correction=0), torch.ones(normalized.shape[:2]), rtol=1e-3, atol=0)


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="norm is 'batch', expected 'none', 'instance' or 'group'"):
        make("cnn", norm="batch")


def test_attention_multiplies_channels_by_twice_a_sigmoid_of_their_means():
    torch.manual_seed(0)
    attention, x = ChannelAttention(8), torch.randn(3, 8, 5, 5)
    assert torch.equal(attention(x), x)
    nn.init.normal_(attention.gate[2].weight)
    nn.init.normal_(attention.gate[2].bias)
    shuffled = x.flatten(2)[..., torch.randperm(25)].reshape(x.shape)
    gate = attention(x) / x
    torch.testing.assert_close(gate, gate[..., :1, :1].expand_as(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((attention(shuffled) / shuffled)[..., 0, 0], gate[..., 0, 0], rtol=1e-4, atol=1e-5)
    w, u = attention.gate[0], attention.gate[2]
    expected = 2 / (1 + (-(F.leaky_relu(x.mean((2, 3)) @ w.weight.T + w.bias, 0.1) @ u.weight.T + u.bias)).exp())
    torch.testing.assert_close(gate[..., 0, 0], expected, rtol=1e-4, atol=1e-5)


# Frequencies.


@pytest.mark.parametrize("shape", [(16, 16), (7, 10), (1, 5)])
@pytest.mark.parametrize("cutoff", [0.05, 0.3, 1.0])
def test_low_frequencies_are_those_of_scipys_dct(shape, cutoff):
    image = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients = scipy.fft.dctn(image.numpy(), axes=(1, 2), norm="ortho")
    rows, columns = (max(round(cutoff * n), 1) for n in shape)
    coefficients[:, rows:] = 0
    coefficients[:, :, columns:] = 0
    expected = torch.from_numpy(scipy.fft.idctn(coefficients, axes=(1, 2), norm="ortho"))
    torch.testing.assert_close(low_frequencies(image, cutoff), expected, rtol=1e-10, atol=1e-12)


def test_low_frequencies_are_an_orthogonal_projection():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(9, 14, dtype=torch.float64, generator=generator) for _ in range(2))
    low_a, low_b = low_frequencies(a, 0.3), low_frequencies(b, 0.3)
    torch.testing.assert_close(low_frequencies(low_a, 0.3), low_a, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((low_a * b).sum(), (a * low_b).sum(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((low_a * (a - low_a)).sum(), a.new_zeros(()), rtol=0, atol=1e-12)
    torch.testing.assert_close(low_frequencies(torch.ones_like(a), 0.01), torch.ones_like(a), rtol=1e-10, atol=0)


def test_each_branch_sees_its_own_frequencies_only():
    x = images(2, 16, 16)
    low = torch.view_as_complex(
        low_frequencies(torch.view_as_real(x).movedim(-1, 0), 0.125).movedim(0, -1).contiguous()
    )
    net = make("fdd")
    nn.init.zeros_(net.low.last.weight)
    nn.init.zeros_(net.low.last.bias)
    # Whatever the low frequencies are, the high branch adds the same.
    torch.testing.assert_close(net(x) - x, net(x - low) - (x - low), rtol=1e-4, atol=1e-5)
    net.low.load_state_dict(make("fdd", seed=1).low.state_dict())
    nn.init.zeros_(net.high.last.weight)
    nn.init.zeros_(net.high.last.bias)
    torch.testing.assert_close(net(x) - x, net(low) - low, rtol=1e-4, atol=1e-5)
    assert (net(x) - x).abs().max() > 1e-3


def test_the_cosines_made_in_inference_mode_serve_training():
    net, x = FrequencySplitRegularizer(4, 2), images(1, 13, 19)  # a size that no other test has asked for
    with torch.inference_mode():
        net(x)
    x.requires_grad_()
    net(x).abs().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_a_cutoff_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"cutoff is 0\.0, expected more than 0 and at most 1"):
        FrequencySplitRegularizer(4, 2, cutoff=0.0)


# Scopes: the patterns of published methods find their tensors and nothing twice.
PATTERNS = {
    "FedPer, CNN": ("cnn", {}, ["*.last.*"]),
    "LG-FedAvg, CNN": ("cnn", {}, ["*.hidden.0.*"]),
    "FedMRI, LG-FedAvg's complement": ("unet", {}, ["*.reduce.*", "*.up.*", "*.last.*"]),
    "LG-FedAvg": ("unet", {}, ["*.first.*", "*.down.*"]),
    "FedBN": ("unet", {"norm": "instance"}, ["*.norm.*"]),
    "FedBN, CNN": ("cnn", {"norm": "group"}, ["*.norm.*"]),
    "ModFed": ("cnn", {"attention": True}, ["*.last.*", "*.attention.*"]),
    "HyperFed": ("cnn", {"condition_dim": 6}, ["*.film.*"]),
    "FedFDD": ("fdd", {}, ["*.low.*"]),
}


@pytest.mark.parametrize(("name", "options", "patterns"), PATTERNS.values(), ids=PATTERNS)
def test_patterns_of_published_methods_find_their_tensors(name, options, patterns):
    network = UnrolledNetwork(2, GradientStep, lambda: REGULARIZERS[name](4, 3, **options))
    names = [key for key, _ in network.named_parameters()]
    matched = [[key for key in names if fnmatchcase(key, pattern)] for pattern in patterns]
    assert all(matched)
    flat = [key for keys in matched for key in keys]
    assert len(set(flat)) == len(flat) < len(names)
