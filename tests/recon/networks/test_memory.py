"""Memory: channels that pass from each regularizer to the next beside the image."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from physics import CartesianMRI
from recon import CONDITION_DIM, ConvRegularizer, GradientStep, NetworkSettings, UnrolledNetwork

SETTINGS = NetworkSettings(cascades=3, regularizer="cnn", channels=8, depth=2, memory=6)


def problem(batch: int = 2, shape: tuple[int, int] = (18, 15)) -> tuple[Tensor, CartesianMRI]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, 3, *shape, dtype=torch.complex64, generator=generator)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    A = CartesianMRI(maps, torch.arange(shape[1]) % 2 == 0)
    return A(torch.randn(batch, *shape, dtype=torch.complex64, generator=generator)), A


def built(settings: NetworkSettings = SETTINGS, *, wake: bool = True) -> UnrolledNetwork:
    """The network, if wanted with regularizers that are not the identity."""
    torch.manual_seed(0)
    network = settings.build()
    assert isinstance(network, UnrolledNetwork)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if wake and name.endswith("last.weight"):
                parameter.normal_(std=0.05)
    return network


def test_the_first_regularizer_gets_no_memory_and_the_last_gives_none() -> None:
    sizes = [(one.memory_in, one.memory_out) for one in built().regularizers if isinstance(one, ConvRegularizer)]
    assert sizes == [(0, 6), (6, 6), (6, 0)]
    shapes = {name: tuple(p.shape[:2]) for name, p in built().named_parameters() if p.ndim == 4}
    assert shapes["regularizers.0.hidden.0.weight"] == (8, 2) and shapes["regularizers.0.last.weight"] == (8, 8)
    assert shapes["regularizers.2.hidden.0.weight"] == (8, 8) and shapes["regularizers.2.last.weight"] == (2, 8)


def test_every_parameter_of_the_memory_counts() -> None:
    y, A = problem()
    network = built()
    network(y, A).abs().sum().backward()
    assert all(bool((p.grad != 0).any()) for p in network.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in network.parameters())


def test_the_untrained_network_is_plain_data_consistency() -> None:
    y, A = problem()
    network, plain = built(wake=False), built(replace(SETTINGS, memory=0), wake=False)
    torch.testing.assert_close(network(y, A), plain(y, A))


def test_the_memory_is_what_the_regularizers_before_have_added_up() -> None:
    torch.manual_seed(0)
    one, two = ConvRegularizer(8, 2, memory_out=6), ConvRegularizer(8, 2, memory_in=6, memory_out=6)
    x = torch.randn(2, 9, 7, dtype=torch.complex64)
    _, first = one.with_memory(x)
    _, second = two.with_memory(x, memory=first)
    assert first is not None and second is not None and first.shape == second.shape == (2, 6, 9, 7)
    channels = torch.cat((torch.view_as_real(x).movedim(-1, 1), first), dim=1)
    torch.testing.assert_close(second - first, two.residual(channels, None)[:, 2:])
    torch.testing.assert_close(two(x), two.with_memory(x, memory=torch.zeros_like(first))[0])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_scale_phase_and_batch(shared: bool, told: bool) -> None:
    y, A = problem()
    network = built(replace(SETTINGS, share_cascades=shared, tells_noise=told))
    noise = {"noise_std": torch.tensor([0.1, 0.3])} if told else {}
    image = network(y, A, **noise)
    factor = torch.tensor(3j)
    turned = network(factor * y, A, **{key: 3 * value for key, value in noise.items()})
    torch.testing.assert_close(turned, factor * image, rtol=1e-4, atol=1e-4)
    alone = network(y[1:], CartesianMRI(A.maps[1:], A.mask), **{key: value[1:] for key, value in noise.items()})
    torch.testing.assert_close(alone, image[1:], rtol=1e-4, atol=1e-4)


def test_frames_keep_their_own_memory() -> None:
    torch.manual_seed(0)
    one, two = ConvRegularizer(8, 2, memory_out=6), ConvRegularizer(8, 2, memory_in=6)
    for regularizer in (one, two):
        torch.nn.init.normal_(regularizer.last.weight, std=0.05)
    frames = torch.randn(2, 3, 9, 7, dtype=torch.complex64)

    def both(x: Tensor) -> Tensor:
        refined, memory = one.with_memory(x)
        return two.with_memory(refined, memory=memory)[0]

    torch.testing.assert_close(both(frames)[1, 2], both(frames[1, 2]))


def test_a_condition_and_a_memory_go_together() -> None:
    y, A = problem()
    network = built(replace(SETTINGS, condition="regularizer"))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".film." in name:
                parameter.normal_(std=0.3)
    zeros, ones = (network(y, A, torch.full((2, CONDITION_DIM), value)).detach() for value in (0.0, 1.0))
    assert zeros.shape == (2, 18, 15) and float((ones - zeros).abs().max()) > 0.01


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"^memory: found 6 with the regularizer 'unet', expected 0, or .* cnn$"):
        built(replace(SETTINGS, regularizer="unet"))
    with pytest.raises(ValueError, match=r"^regularizer_options: found 'memory_in', expected none: `memory` decides"):
        built(replace(SETTINGS, regularizer_options={"memory_in": 3}))
    with pytest.raises(ValueError, match="memory is -1, expected 0 or more"):
        UnrolledNetwork(1, GradientStep, ConvRegularizer, memory=-1)
    with pytest.raises(ValueError, match="ConvRegularizer: memory_in is -2, expected 0 or more"):
        ConvRegularizer(8, 2, memory_in=-2)

    class Forgetting(ConvRegularizer):
        def refine(self, channels: Tensor, condition: Tensor | None) -> Tensor:
            return channels[:, :2]

    with pytest.raises(ValueError, match=r"^Forgetting: got 2 channels of `refine`, expected 2 and 6 of memory$"):
        Forgetting(8, 2, memory_out=6).with_memory(torch.randn(1, 9, 7, dtype=torch.complex64))
    regularizer = ConvRegularizer(8, 2, memory_in=6)
    for wrong in ((1, 5, 9, 7), (2, 6, 9, 7), (1, 6, 7, 9)):
        with pytest.raises(ValueError, match=r"got memory of shape .*, expected \(1, 6, 9, 7\)"):
            regularizer.with_memory(torch.randn(1, 9, 7, dtype=torch.complex64), memory=torch.zeros(wrong))
    with pytest.raises(ValueError, match=r"got memory of shape .*, expected none"):
        ConvRegularizer(8, 2).with_memory(torch.randn(1, 9, 7, dtype=torch.complex64), memory=torch.zeros(1, 6, 9, 7))
