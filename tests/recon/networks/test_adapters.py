"""Adapters: equal to the base until trained, the base untouched after, names, ranks, and how little travels."""

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from physics import CartesianMRI, ImageGrid, ParallelBeam, RadonOperator, evenly_spaced
from recon import REGULARIZERS, ConvRegularizer, GradientStep, NormalizedStep, UnrolledNetwork
from recon.networks.adapters import (
    LoRAConv2d,
    PromptedActivation,
    ScaledConv2d,
    add_lora,
    add_prompts,
    add_scales,
    base_name,
    is_adapter,
)

ADAPTERS = {
    "lora": lambda network: add_lora(network, 2),
    "dual lora": lambda network: add_lora(network, 1, dual=True),
    "scales": add_scales,
    "prompts": lambda network: add_prompts(network, 3),
    "two": lambda network: [*add_lora(network, 1), *add_prompts(network, 2)],
}


def network(regularizer: str = "cnn", seed: int = 0, **options: object) -> UnrolledNetwork:
    """A base as training leaves it: no layer is zero."""
    torch.manual_seed(seed)
    made = UnrolledNetwork(2, GradientStep, lambda: REGULARIZERS[regularizer](4, 3, **options))  # type: ignore[call-arg, arg-type]
    for parameter in made.regularizers.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return made


def mri() -> tuple[Tensor, CartesianMRI]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2, 8, 8, dtype=torch.complex64, generator=generator)
    A = CartesianMRI(maps / maps.abs().square().sum(1, keepdim=True).sqrt(), torch.arange(8) % 2 == 0)
    return A(torch.randn(2, 8, 8, dtype=torch.complex64, generator=generator)), A


def ct() -> tuple[Tensor, RadonOperator]:
    A = RadonOperator(ImageGrid((8, 8), 1.0), ParallelBeam(evenly_spaced(6, math.pi / 6), 12, 1.0))
    return A(torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))), A


@pytest.mark.parametrize("adapt", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("regularizer", ["cnn", "unet", "fdd"])
def test_an_untrained_adapter_changes_no_bit(regularizer, adapt):
    net = network(regularizer)
    for y, A in (mri(), ct()):
        with torch.no_grad():
            before, adapted = net(y, A), deepcopy(net)
            adapt(adapted)
            torch.testing.assert_close(adapted(y, A), before, rtol=0, atol=0)


@pytest.mark.parametrize("adapt", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("regularizer", ["cnn", "unet", "fdd"])
def test_training_changes_every_adapter_and_the_sites_own_parts_alone(regularizer, adapt):
    net, (y, A) = network(regularizer), mri()
    added = adapt(net)
    trainable = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trainable == {*added, "consistency.0.log_step", "consistency.1.log_step"}
    assert {name for name, _ in net.named_parameters() if is_adapter(name)} == set(added)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    target = 0.8 * A.start(y)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 0.01)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (net(y, A) - target).abs().square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trainable


@pytest.mark.parametrize("adapt", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("regularizer", ["cnn", "unet", "fdd"])
def test_a_checkpoint_of_the_plain_network_loads_by_base_name(regularizer, adapt):
    options = {"norm": "group", "attention": True}
    plain, adapted, (y, A) = network(regularizer, **options), network(regularizer, seed=1, **options), mri()
    added = adapt(adapted)
    names = {name: base_name(name) for name, _ in adapted.named_parameters()}
    assert {name for name, base in names.items() if base is None} == set(added)
    assert sorted(base for base in names.values() if base) == sorted(name for name, _ in plain.named_parameters())
    with torch.no_grad():
        assert not torch.allclose(adapted(y, A), plain(y, A))
        state = plain.state_dict()
        adapted.load_state_dict({name: state[base] for name, base in names.items() if base}, strict=False)
        assert torch.equal(adapted(y, A), plain(y, A))


@pytest.mark.parametrize("adapt", ADAPTERS.values(), ids=ADAPTERS)
def test_state_is_parameters_alone(adapt):
    net = network()
    adapt(net)
    assert sorted(net.state_dict()) == sorted(name for name, _ in net.named_parameters())


def test_base_names_of_other_parameters_are_their_own():
    assert base_name("regularizers.0.hidden.2.base.weight") == "regularizers.0.hidden.2.weight"
    assert base_name("base.bias") == "bias"
    assert base_name("base.hidden.0.weight") == "base.hidden.0.weight"  # a part of that name is none of ours
    assert base_name("consistency.3.log_step") == "consistency.3.log_step"
    assert base_name("regularizers.0.hidden.1.prompt") is None
    assert base_name("regularizers.0.last.own_up") is None


# Low rank.


@pytest.mark.parametrize(("n_in", "n_out"), [(2, 7), (7, 2), (5, 5)])
@pytest.mark.parametrize("dual", [False, True])
def test_lora_adds_what_its_two_convolutions_compute(n_in, n_out, dual):
    torch.manual_seed(0)
    base, x = nn.Conv2d(n_in, n_out, 3, padding=1), torch.randn(2, n_in, 6, 7)
    plain, layer = base(x), LoRAConv2d(base, 2, dual=dual)
    pairs = [(layer.lora_down, layer.lora_up)] + ([(layer.own_down, layer.own_up)] if dual else [])
    change = torch.zeros_like(plain)
    for down, up in pairs:
        nn.init.normal_(up)
        change += F.conv2d(F.conv2d(x, down, padding=down.shape[-1] // 2), up, padding=up.shape[-1] // 2)
    torch.testing.assert_close(layer(x), plain + 0.5 * change, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_in", "n_out", "n_parameters"), [(2, 12, 30), (12, 2, 30), (12, 12, 120), (16, 16, 160)])
def test_the_kernel_size_goes_with_the_narrower_side(n_in, n_out, n_parameters):
    layer = LoRAConv2d(nn.Conv2d(n_in, n_out, 3), 1)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == n_parameters
    nn.init.normal_(layer.lora_up)
    kernel = layer.update().detach()
    matrix = kernel.transpose(0, 1).flatten(1) if n_in > n_out else kernel.flatten(1)
    assert torch.linalg.matrix_rank(matrix) == 1


def test_lora_keeps_stride_padding_dilation_and_no_bias():
    base, x = nn.Conv2d(3, 4, 3, stride=2, padding=2, dilation=2, bias=False), torch.randn(1, 3, 9, 9)
    assert torch.equal(LoRAConv2d(base, 1)(x), base(x))
    assert torch.equal(ScaledConv2d(base)(x), base(x))


def test_the_own_pair_of_dual_lora_is_found_by_a_pattern():
    net = network()
    added = add_lora(net, 1, dual=True)
    own = [name for name in added if ".own_" in name]
    assert len(own) == len(added) / 2 and all(name.endswith(("own_down", "own_up")) for name in own)


# Scales.


def test_a_scale_multiplies_its_channel():
    torch.manual_seed(0)
    base, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 2, 5, 5)
    layer, plain = ScaledConv2d(base), base(x)
    layer.channel_scale.data = torch.tensor([2.0, 0.0, -1.0])
    expected = plain * torch.tensor([2.0, 0.0, -1.0])[:, None, None]
    torch.testing.assert_close(layer(x), expected)


# Prompts.


def test_a_prompt_is_attended_to_pixel_by_pixel():
    torch.manual_seed(0)
    layer, x = PromptedActivation(nn.ReLU(), 4, 3), torch.randn(1, 4, 2, 3)
    assert torch.equal(layer(x), x.relu())
    nn.init.normal_(layer.prompt)
    out = layer(x)
    for row in range(2):
        for column in range(3):
            h = x[0, :, row, column].relu()
            q = (h - h.mean()) / (h.var(correction=0) + 1e-5).sqrt()
            scores = torch.stack([(q * (layer.prompt[t] + layer.keys[t])).sum() / 2 for t in range(3)])
            part = scores.exp() / scores.exp().sum()
            expected = h + sum(part[t] * layer.prompt[t] for t in range(3))
            torch.testing.assert_close(out[0, :, row, column], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tokens", "channels"), [(20, 12), (4, 16), (2, 2)])
def test_tokens_do_not_stay_alike(tokens, channels):
    torch.manual_seed(0)
    layer, x = PromptedActivation(nn.ReLU(), channels, tokens), torch.randn(2, channels, 6, 6)
    (layer(x) * torch.randn(2, channels, 6, 6)).sum().backward()
    gradients = layer.prompt.grad
    distances = torch.cdist(gradients, gradients) + 1e9 * torch.eye(tokens)
    assert distances.min() > 0.02 * gradients.norm(dim=1).mean()


def test_prompts_follow_the_convolutions_and_nothing_else():
    net = network("unet", attention=True, condition_dim=2)
    added = add_prompts(net, 5)
    per_regularizer = [name for name in added if name.startswith("regularizers.0.")]
    assert len(per_regularizer) == 2 * (1 + 3 + 3) and len(added) == 2 * len(per_regularizer)
    assert not any("attention" in name or "film" in name for name in added)
    assert net.get_parameter("regularizers.0.down.1.3.prompt").shape == (5, 16)


def test_adapters_join_and_each_layer_has_one():
    net, (y, A) = network(), mri()
    before = net(y, A)
    add_prompts(net, 2)
    add_lora(net, 1)
    assert torch.equal(net(y, A), before)
    with pytest.raises(ValueError, match=r"add_scales: regularizers\.0\.hidden\.0 is adapted already"):
        add_scales(net)
    with pytest.raises(ValueError, match=r"add_prompts: regularizers\.0\.hidden\.1 is adapted already"):
        add_prompts(net, 2)


# What travels.


BASES = {"12 x (12, 3)": (12, 12, 3, 21048), "6 x (16, 4)": (6, 16, 4, 31404)}
SHARES = {
    "12 x (12, 3)": {"lora 1": 0.1026, "scales": 0.0148, "prompts 4": 0.0547},
    "6 x (16, 4)": {"lora 1": 0.0741, "scales": 0.0096, "prompts 4": 0.0367},
}


@pytest.mark.parametrize("base", BASES)
def test_how_little_travels(base):
    cascades, channels, layers, n_base = BASES[base]
    options = {
        "lora 1": lambda net: add_lora(net, 1),
        "scales": add_scales,
        "prompts 4": lambda net: add_prompts(net, 4),
    }
    for name, adapt in options.items():
        step = NormalizedStep if channels == 16 else GradientStep
        net = UnrolledNetwork(cascades, step, lambda: ConvRegularizer(channels, layers))
        assert sum(p.numel() for p in net.regularizers.parameters()) == n_base
        travels = sum(net.get_parameter(added).numel() for added in adapt(net))
        assert travels / n_base == pytest.approx(SHARES[base][name], abs=5e-5), name


# Errors.


def test_a_network_without_regularizers_is_refused():
    with pytest.raises(ValueError, match="add_scales: found no convolution below 'regularizers'"):
        add_scales(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="add_prompts: found no activation behind a convolution"):
        add_prompts(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()), 2)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="rank is 0, expected at least 1"):
        add_lora(network(), 0)
    with pytest.raises(ValueError, match="tokens is 0, expected at least 1"):
        add_prompts(network(), 0)
    with pytest.raises(ValueError, match="LoRAConv2d: convolution has groups=2"):
        LoRAConv2d(nn.Conv2d(4, 4, 3, groups=2), 1)
    with pytest.raises(ValueError, match="ScaledConv2d: convolution has groups=1, padding_mode='circular'"):
        ScaledConv2d(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
