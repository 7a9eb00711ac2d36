"""VarNet against the package fastmri: images, coil maps and gradients, at sizes that U-Nets have to pad."""

import pytest
import torch
from fastmri.models import VarNet as FastMRIVarNet
from torch import Tensor, nn

from physics import CartesianMRI, birdcage_maps, complex_noise, random_mask
from recon import (
    MODALITIES,
    NetworkSettings,
    SitePart,
    VarNet,
    add_lora,
    add_prompts,
    add_scales,
    from_fastmri,
    is_adapter,
)

SIZES = [(32, 32), (45, 38), (50, 47)]


@pytest.fixture(scope="module")
def peer() -> nn.Module:
    """Random weights of fastMRI, the weights of the data consistency random, too."""
    torch.manual_seed(0)
    network = FastMRIVarNet(num_cascades=4, sens_chans=3, sens_pools=2, chans=4, pools=3)
    with torch.no_grad():
        for cascade in network.cascades:
            cascade.dc_weight.uniform_(0.3, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def network(peer: nn.Module) -> VarNet:
    return from_fastmri(peer.state_dict(), "random")[1]


def scan(shape: tuple[int, int], dtype: torch.dtype = torch.complex64, batch: int = 2) -> tuple[Tensor, CartesianMRI]:
    """White images with another mask each, in units far from one."""
    maps = birdcage_maps(3, shape).to(dtype)
    masks = [random_mask(shape[1], 3, 0.15, seed).mask for seed in range(batch)]
    A = CartesianMRI.collate([CartesianMRI((1 + seed) * maps, mask) for seed, mask in enumerate(masks)])
    image = complex_noise((batch, *shape), 3e-4, torch.Generator().manual_seed(1)).to(dtype)
    return A(image).contiguous(), A


def of_fastmri(peer: nn.Module, y: Tensor, A: CartesianMRI) -> Tensor:
    image: Tensor = peer(torch.view_as_real(y), A.mask.unsqueeze(-1).unsqueeze(1))
    return image


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("shape", SIZES)
def test_the_image_is_that_of_fastmri(peer: nn.Module, network: VarNet, shape: tuple[int, int]) -> None:
    y, A = scan(shape)
    with torch.no_grad():
        assert error(network(y, A).abs() * A.rss, of_fastmri(peer, y, A)) < 1e-5


def test_five_levels_have_odd_sizes_which_are_reflected() -> None:
    torch.manual_seed(1)
    peer = FastMRIVarNet(num_cascades=2, sens_chans=2, sens_pools=5, chans=2, pools=5).eval()
    network = from_fastmri(peer.state_dict(), "random")[1].double()
    y, A = scan((64, 48), torch.complex128)  # two pixels at the lowest level, which amplify the last bits
    with torch.no_grad():
        assert error(network(y, A).abs() * A.rss, of_fastmri(peer.double(), y, A)) < 1e-9


@pytest.mark.parametrize("shape", SIZES)
def test_in_double_precision_image_maps_and_gradients_are_those_of_fastmri(
    peer: nn.Module, network: VarNet, shape: tuple[int, int]
) -> None:
    y, A = scan(shape, torch.complex128)
    try:
        peer.double(), network.double()
        theirs, ours = of_fastmri(peer, y, A), network(y, A).abs() * A.rss
        assert error(ours, theirs) < 1e-9
        maps = peer.sens_net(torch.view_as_real(y), A.mask.unsqueeze(-1).unsqueeze(1))
        assert error(network.sensitivity(y, A.mask), torch.view_as_complex(maps)) < 1e-9
        weights = torch.rand(theirs.shape, dtype=theirs.dtype, generator=torch.Generator().manual_seed(2))
        for image in (theirs, ours):
            (image * weights).sum().backward()
        named = {name: tensor.grad for name, tensor in peer.named_parameters()}
        expected = from_fastmri({name: g for name, g in named.items() if g is not None}, "gradients")[1].state_dict()
        # The first data consistency finds k-space as measured: its weight has no effect.
        for name, parameter in network.named_parameters():
            if name == "consistency.0.weight":
                assert parameter.grad is None and not expected[name].any()
            else:
                assert parameter.grad is not None
                assert error(parameter.grad, expected[name].double()) < 1e-5, name
    finally:
        peer.zero_grad(), network.zero_grad()
        peer.float(), network.float()


def test_slices_alone_and_in_a_batch_give_the_same_image(network: VarNet) -> None:
    y, A = scan((32, 30))
    with torch.no_grad():
        both = network(y, A)
        for index in range(2):
            single = network(y[index], CartesianMRI(A.maps[index], A.mask[index]))
            assert single.shape == (32, 30) and error(single, both[index]) < 1e-5
        together = network(y[:1].expand(3, -1, -1, -1), CartesianMRI(A.maps[0], A.mask[0, 0]))
        assert error(together, both[:1].expand(3, -1, -1)) < 1e-5


def test_the_image_is_in_units_of_the_measurement_and_of_the_maps(network: VarNet) -> None:
    y, A = scan((32, 32))
    with torch.no_grad():
        image = network(y, A)
        assert error(network(1e3 * y, A), 1e3 * image) < 1e-5
        assert error(network(y, A.with_maps(2j * A.maps)), -0.5j * image) < 1e-5


def test_an_empty_slice_gives_zeros_and_finite_gradients(network: VarNet) -> None:
    y, A = scan((32, 32))
    image = network(y * torch.tensor([0, 1])[:, None, None, None], A)
    image.abs().square().sum().backward()
    assert not image[0].any() and bool(image[1].any())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())
    network.zero_grad()


@pytest.mark.parametrize("neighbors", [[], [15], [17, 18]])
def test_a_center_without_columns_on_both_sides_is_one_column(
    peer: nn.Module, network: VarNet, neighbors: list[int]
) -> None:
    y, _ = scan((32, 32))
    mask = torch.arange(32) % 4 == 0
    mask[neighbors] = True
    A = CartesianMRI(birdcage_maps(3, (32, 32)), mask)
    with torch.no_grad():
        maps = peer.sens_net(torch.view_as_real(y), mask[None, None, None, :, None].expand(2, -1, -1, -1, -1))
        assert error(network.sensitivity(y, A.mask), torch.view_as_complex(maps)) < 1e-5


def test_a_full_mask_calibrates_the_maps_from_all_columns(peer: nn.Module, network: VarNet) -> None:
    y, A = scan((32, 32), batch=1)
    y = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3))
    full = torch.ones_like(A.mask)
    with torch.no_grad():
        # Without the number, fastMRI takes one column of a full mask.
        pairs, mask = torch.view_as_real(y), full.unsqueeze(-1).unsqueeze(1)
        expected = torch.view_as_complex(peer.sens_net(pairs, mask.int(), num_low_frequencies=32))
        assert error(network.sensitivity(y, full), expected) < 1e-5


@pytest.mark.parametrize("add", [add_scales, add_lora, add_prompts])
def test_adapters_start_at_the_base_and_train_alone(peer: nn.Module, add: object) -> None:
    network = from_fastmri(peer.state_dict(), "random")[1]
    y, A = scan((32, 32), batch=1)
    with torch.no_grad():
        base = network(y, A)
    names = add(network, 2) if add is not add_scales else add(network)  # type: ignore[operator]
    image = network(y, A)
    assert error(image.detach(), base) < 1e-6 and len(names) > 0
    image.abs().sum().backward()
    parts = {id(p) for module in network.modules() if isinstance(module, SitePart) for p in module.parameters()}
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (is_adapter(name) or id(parameter) in parts), name
        assert is_adapter(name) <= (parameter.grad is not None), name
        assert name.startswith("regularizers.") or not is_adapter(name)


def test_what_it_cannot_reconstruct_is_refused(network: VarNet) -> None:
    y, A = scan((32, 32))
    plane = CartesianMRI(A.maps[0], torch.ones(32, 32, dtype=torch.bool).tril())
    with pytest.raises(
        ValueError, match=r"VarNet: found a mask of shape \(32, 32\), expected one along the phase axis"
    ):
        network(y[0], plane)
    hole = torch.ones(32, dtype=torch.bool)
    hole[16] = False
    with pytest.raises(ValueError, match="VarNet: the mask leaves out column 16, the center, expected it for the coil"):
        network(y[0], CartesianMRI(A.maps[0], hole))
    small, B = scan((16, 16))
    with pytest.raises(ValueError, match=r"image has shape \(16, 16\), expected one that can be halved 4 times"):
        VarNet(1, 2, 4)(small, B)
    sinograms = MODALITIES["ct"].batch()
    with pytest.raises(TypeError, match="VarNet: operator is RadonOperator, expected CartesianMRI"):
        network(sinograms.measurement, sinograms.operator)


def test_settings_describe_it_and_refuse_keys_without_effect() -> None:
    options = {"sensitivity_channels": 2, "sensitivity_depth": 1}
    settings = NetworkSettings(architecture="varnet", architecture_options=options, cascades=2, channels=3, depth=2)
    network = settings.build()
    assert isinstance(network, VarNet) and NetworkSettings.of(settings.record()) == settings
    assert len(network.regularizers) == 2 and len(network.sensitivity.unet.down) == 1
    for keys, message in [
        ({"regularizer": "cnn"}, "regularizer: found 'cnn', expected the default, 'unet': 'varnet' has parts of its"),
        ({"architecture_options": {"pools": 2}}, "architecture_options: found 'pools', expected one of cascades, "),
        ({"cascades": 0}, "architecture_options: VarNet: cascades is 0, expected at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            NetworkSettings(**{"architecture": "varnet"} | keys).build()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="architecture_options: found pools, expected none for the architecture"):
        NetworkSettings(architecture_options={"pools": 1}).build()
