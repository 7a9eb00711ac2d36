"""DIRECT's VarNet in k-space of all coils, as that toolkit computes it, against ours in two images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fastmri.models import Unet
from torch import Tensor, nn

from physics import CartesianMRI, birdcage_maps, fft2c, ifft2c, phantom_volume, random_mask
from recon import DataError, DirectVarNet, from_direct, import_varnet, load_weights, save_weights


class Block(nn.Module):
    """Names and step of DIRECT's ``EndToEndVarNetBlock``; its ``UnetModel2d`` has the layers and names of fastMRI."""

    def __init__(self) -> None:
        super().__init__()
        self.regularizer_model = Unet(2, 2, 4, 3)
        self.learning_rate = nn.Parameter(torch.empty(1).uniform_(0.3, 1.5))

    def forward(self, k: Tensor, y: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        image = (maps.conj() * ifft2c(k)).sum(-3)
        refined = of_pairs(self.regularizer_model, image)
        return k - self.learning_rate * (k - y) * mask + fft2c(maps * refined.unsqueeze(-3))


class Direct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers_list = nn.ModuleList(Block() for _ in range(3))


def of_pairs(network: nn.Module, image: Tensor) -> Tensor:
    pairs = torch.view_as_real(image).movedim(-1, 1).contiguous()
    return torch.view_as_complex(network(pairs).movedim(1, -1).contiguous())


def reconstructed(model: Direct, refine: nn.Module, y: Tensor, mask: Tensor, center: slice) -> Tensor:
    """Scaling, coil maps, network and root sum of squares of one slice."""
    ranked = y.abs().flatten().sort(descending=True).values
    scale = ranked[int(0.01 * len(ranked))]
    kept = torch.zeros_like(y)
    kept[..., center] = y[..., center]
    maps = ifft2c(kept)
    maps = maps / maps.abs().square().sum(-3, keepdim=True).sqrt()
    if len(y) > 1:
        maps = of_pairs(refine, maps)
        maps = maps / maps.abs().square().sum(-3, keepdim=True).sqrt()
    k = measured = (y / scale)[None]
    for block in model.layers_list:
        k = block(k, measured, mask, maps[None])
    image: Tensor = ifft2c(k[0]).abs().square().sum(-3).sqrt() * scale
    return image


@pytest.fixture(scope="module")
def direct() -> tuple[Direct, Unet]:
    torch.manual_seed(0)
    return Direct().double().eval(), Unet(2, 2, 3, 2).double().eval()


def scan(coils: int, shape: tuple[int, int]) -> tuple[Tensor, CartesianMRI, slice]:
    """Two slices, their operator, and the columns that are symmetric about the middle and sampled."""
    mask = random_mask(shape[1], 3, 0.2, 1).mask
    maps = birdcage_maps(coils, shape).to(torch.complex128)
    A = CartesianMRI.collate([CartesianMRI((1 + seed) * maps, mask) for seed in range(2)])
    noise = 1e-6 * torch.randn(coils, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    y = A(3e-4 * phantom_volume(2, shape, seed=1).to(torch.complex128)) + A.sampled * noise
    middle, columns = shape[1] // 2, mask.tolist()
    left = next(n for n in range(middle + 1) if n == middle or not columns[middle - 1 - n])
    right = next(n for n in range(shape[1] - middle + 1) if middle + n == shape[1] or not columns[middle + n])
    first = (shape[1] - 2 * min(left, right) + 1) // 2
    return y, A, slice(first, first + 2 * min(left, right))


@pytest.mark.parametrize(("coils", "shape"), [(3, (32, 32)), (4, (45, 38)), (3, (50, 47)), (1, (40, 36))])
def test_the_image_is_that_of_direct(direct: tuple[Direct, Unet], coils: int, shape: tuple[int, int]) -> None:
    settings, network = from_direct(direct[0].state_dict(), direct[1].state_dict(), "random")
    assert isinstance(network, DirectVarNet) and settings.raw_coils
    y, A, center = scan(coils, shape)
    with torch.no_grad():
        found = network.double()(y, A).abs() * A.rss
        expected = torch.stack([reconstructed(*direct, one, A.mask[0], center) for one in y])
    assert (found - expected).abs().max() < 1e-9 * expected.max()


def test_it_turns_units_of_the_scanner_into_those_of_the_image(direct: tuple[Direct, Unet]) -> None:
    network = from_direct(direct[0].state_dict(), direct[1].state_dict(), "random")[1].double()
    y, A, _ = scan(3, (32, 32))
    with torch.no_grad():
        once = network(y, A)
        assert (network(1e5 * y, A) - 1e5 * once).abs().max() < 1e-9 * 1e5 * once.abs().max()
        assert not network(0 * y, A).any()


def test_a_checkpoint_is_read_saved_and_trained(direct: tuple[Direct, Unet], tmp_path: Path) -> None:
    states = {"model": direct[0].state_dict(), "sensitivity_model": direct[1].state_dict()}
    content: dict[str, Any] = states | {"optimizer": {"state": {}, "param_groups": []}, "__datetime__": "2026-11-30"}
    torch.save(content, tmp_path / "model_100.pt")
    settings, network = import_varnet(tmp_path / "model_100.pt")
    assert (settings.architecture, settings.cascades, settings.channels, settings.depth) == ("direct_varnet", 3, 4, 3)
    save_weights(network, tmp_path / "base.safetensors", settings, "mri", "Heads")
    again = load_weights(tmp_path / "base.safetensors")
    assert isinstance(again, DirectVarNet) and again.raw_coils
    A = CartesianMRI(birdcage_maps(3, (32, 32)), random_mask(32, 3, 0.2, 1).mask)
    again(A(phantom_volume(1, (32, 32), seed=1)[0]), A).abs().sum().backward()
    gradients = {name: parameter.grad for name, parameter in again.named_parameters()}
    # Data consistency begins with the second cascade; before it, k-space is as measured.
    unused = [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().sum() > 0]
    assert unused == ["consistency.0.weight"]


def test_a_model_without_refined_maps_and_another_model_are_one_line(
    direct: tuple[Direct, Unet], tmp_path: Path
) -> None:
    torch.save({"model": direct[0].state_dict()}, tmp_path / "alone.pt")
    expected = (
        r"alone.pt: sensitivity_model\..*, expected a VarNet of DIRECT; give a checkpoint of DIRECT's EndToEndVarNet"
    )
    with pytest.raises(DataError, match=expected):
        import_varnet(tmp_path / "alone.pt")
    torch.save({"model": {"rnn.weight": torch.ones(2)}, "sensitivity_model": {}}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"other.pt: layers_list.0.*such as rnn.weight, expected a VarNet of DIRECT"):
        import_varnet(tmp_path / "other.pt")


def test_the_package_has_these_names_and_images() -> None:
    """Where DIRECT is installed, which has no wheels."""
    varnet = pytest.importorskip("direct.nn.varnet.varnet")
    unet, transforms = pytest.importorskip("direct.nn.unet"), pytest.importorskip("direct.data.transforms")
    torch.manual_seed(0)
    model = varnet.EndToEndVarNet(transforms.fft2, transforms.ifft2, 3, 4, 3).eval()
    refine = unet.UnetModel2d(2, 2, 3, 2, 0.0).eval()
    network = from_direct(model.state_dict(), refine.state_dict(), "random")[1]
    exact, B, center = scan(3, (48, 36))
    y, A = exact.to(torch.complex64), CartesianMRI(B.maps.to(torch.complex64), B.mask)
    scale = torch.stack([one.abs().flatten().sort(descending=True).values[int(0.01 * one.numel())] for one in y])
    kept = torch.zeros_like(y)
    kept[..., center] = y[..., center]
    images = ifft2c(kept)
    images = images / images.abs().square().sum(-3, keepdim=True).sqrt()
    with torch.no_grad():
        maps = torch.stack([of_pairs(refine, one) for one in images])
        maps = maps / maps.abs().square().sum(-3, keepdim=True).sqrt()
        scaled, mask = torch.view_as_real(y / scale[:, None, None, None]), A.mask[:, None, :, :, None]
        k = model(scaled, mask, torch.view_as_real(maps))
        expected = transforms.root_sum_of_squares(transforms.ifft2(k, dim=(2, 3)), dim=1) * scale[:, None, None]
        found = network(y, A).abs() * A.rss
    # Both in single precision, whose last bits U-Nets without normalization amplify.
    assert (found - expected).abs().max() < 5e-5 * expected.max()
