"""Total variation of MRI: sigpy's objective, its minimum within 0.05 dB, each slice by itself."""

import numpy as np
import pytest
import sigpy.mri.app
import torch
from torch import Tensor

from physics import CartesianMRI, birdcage_maps, phantom_volume
from recon import TotalVariation, image_scale
from recon.classical.total_variation import _laplacian, differences, divergence, total_variation


def problem(seed: int = 0, noise: float = 0.02) -> tuple[Tensor, CartesianMRI, Tensor]:
    """A slice of a head, 6 coils 56x48, 3x undersampled."""
    generator = torch.Generator().manual_seed(seed)
    maps, image = birdcage_maps(6, (56, 48), seed=seed), phantom_volume(3, (56, 48), seed=seed)[1]
    mask = torch.rand(48, generator=generator) < 0.25
    mask[20:28] = True
    A = CartesianMRI(maps, mask)
    y = A(image)
    return y + noise * torch.randn(y.shape, dtype=y.dtype, generator=generator) * A.sampled, A, image


def objective(x: Tensor, y: Tensor, A: CartesianMRI, weight: float) -> float:
    return float(0.5 * (A(x) - y).abs().square().sum() + weight * differences(x).abs().sum())


def psnr(x: Tensor, image: Tensor) -> float:
    return float(10 * torch.log10(image.abs().max() ** 2 / (x.abs() - image.abs()).square().mean()))


def test_the_limit_is_the_minimum_of_sigpys_objective() -> None:
    (y, A, image), weight = problem(), 1e-2
    scale = image_scale(A.start(y))
    mask = A.sampled.expand(A.maps.shape).numpy().astype(np.float32)
    options = {"solver": "ADMM", "rho": 10 * weight, "max_iter": 40, "show_pbar": False}
    app = sigpy.mri.app.TotalVariationRecon((y / scale).numpy(), A.maps.numpy(), weight, weights=mask, **options)
    expected = torch.from_numpy(app.run()) * scale
    limit = TotalVariation(weight, iterations=80, tolerance=0.0)(y, A)
    assert abs(psnr(limit, image) - psnr(expected, image)) <= 0.02
    found, least = (objective(x / scale, y / scale, A, weight) for x in (limit, expected))
    assert found <= 1.001 * least


@pytest.mark.parametrize("weight", [2e-3, 1e-2, 4e-2])
def test_the_image_is_within_a_twentieth_of_a_decibel_of_the_limit(weight: float) -> None:
    y, A, image = problem()
    limit = TotalVariation(weight, iterations=80, tolerance=0.0)(y, A)
    found = TotalVariation(weight)(y, A)
    assert abs(psnr(found, image) - psnr(limit, image)) <= 0.05
    assert psnr(found, limit) > 45
    # The bound means something: four iterations are farther away.
    assert abs(psnr(TotalVariation(weight, iterations=4)(y, A), image) - psnr(limit, image)) > 0.05


def test_a_slice_does_not_depend_on_its_batch_and_an_empty_one_is_zero() -> None:
    problems = [problem(seed) for seed in (0, 1)]
    joined = CartesianMRI.collate([A for _, A, _ in problems])
    method = TotalVariation(1e-2)
    both = method(torch.stack([y for y, _, _ in problems]), joined)
    for image, (y, A, _) in zip(both, problems, strict=True):
        torch.testing.assert_close(image, method(y, A), rtol=1e-4, atol=1e-4)
    y, A, _ = problems[0]
    pair = method(torch.stack([y, torch.zeros_like(y)]), A)  # two slices of the same maps
    torch.testing.assert_close(pair[0], method(y, A), rtol=1e-4, atol=1e-4)
    assert not pair[1].any()


def test_the_scale_of_the_data_does_not_matter_and_no_gradient_is_recorded() -> None:
    y, A, _ = problem()
    image = TotalVariation(1e-2)(y.requires_grad_(), A)
    assert not image.requires_grad
    torch.testing.assert_close(TotalVariation(1e-2)(1e3 * y, A), 1e3 * image, rtol=1e-4, atol=0.1)


def test_a_solution_is_left_as_it_is() -> None:
    y, A, _ = problem()
    b = A.adjoint(y)
    first = total_variation(A.gram, b, 1e-2, A.start(y), 100, 0.0)
    again = total_variation(A.gram, b, 1e-2, first, 100, 1e-3)
    assert float((again - first).norm() / first.norm()) < 1e-2


def test_divergence_is_the_transpose_of_the_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 7, dtype=torch.complex128, generator=generator)
    dual = torch.randn(2, 5, 7, dtype=torch.complex128, generator=generator)
    torch.testing.assert_close((differences(x).conj() * dual).sum(), (x.conj() * divergence(dual)).sum())
    torch.testing.assert_close(_laplacian(x), divergence(differences(x)))


def test_a_weight_must_be_positive() -> None:
    with pytest.raises(ValueError, match="weight is 0, expected a positive number"):
        TotalVariation(0)
