"""Noise: moments of what is drawn, covariance of what is measured, and whitening as an exact identity."""

import pytest
import torch

from physics.mri.noise import complex_noise, correlated_noise, estimate_noise_covariance, whiten, whitening_matrix


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_covariance(n_coils: int, scale: float = 1.0, seed: int = 1) -> torch.Tensor:
    root = torch.randn(n_coils, n_coils, dtype=torch.complex128, generator=generator(seed))
    return scale * (root @ root.mH + 0.1 * torch.eye(n_coils))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("std", [0.0, 0.01, 3.0])
def test_std_is_per_complex_sample(std: float) -> None:
    noise = complex_noise((4, 100, 100), std, generator())
    assert noise.dtype == torch.complex64
    assert noise.abs().square().mean().sqrt().item() == pytest.approx(std, rel=0.01)
    # Circular: both parts alike and uncorrelated.
    assert noise.real.std().item() == pytest.approx(std / 2**0.5, rel=0.02)
    assert abs((noise**2).mean().item()) < 0.02 * std**2 + 1e-30
    assert torch.equal(noise, complex_noise((4, 100, 100), std, generator()))


@pytest.mark.parametrize("n_coils", [1, 5])
def test_correlated_noise_has_its_covariance(n_coils: int) -> None:
    covariance = random_covariance(n_coils)
    noise = correlated_noise((2, n_coils, 200, 200), covariance, generator()).to(torch.complex128)
    samples = noise.movedim(-3, 0).flatten(1)
    assert relative(samples @ samples.mH / samples.shape[1], covariance) < 0.02
    singular = torch.ones(n_coils, n_coils, dtype=torch.complex128)
    noise = correlated_noise((n_coils, 8, 8), singular, generator())
    torch.testing.assert_close(noise, noise[:1].expand_as(noise), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-12])
@pytest.mark.parametrize("n_coils", [1, 2, 8])
def test_whitening_is_exact_and_keeps_units(n_coils: int, scale: float) -> None:
    covariance = random_covariance(n_coils, scale)
    W = whitening_matrix(covariance)
    c = torch.linalg.eigvalsh(covariance).log().mean().exp()
    assert relative(W @ covariance @ W.mH, c * torch.eye(n_coils, dtype=torch.complex128)) < 1e-10
    assert abs(torch.linalg.det(W).item()) == pytest.approx(1, rel=1e-9)
    white = scale * torch.eye(n_coils, dtype=torch.complex128)
    torch.testing.assert_close(whitening_matrix(white), white / scale)


@pytest.mark.parametrize("scale", [1.0, 1e-8])
def test_estimated_then_whitened_noise_is_white(scale: float) -> None:
    covariance = random_covariance(6, scale**2)
    kspace = correlated_noise((6, 200, 180), covariance, generator())
    kspace[:, 16:-16] += 1e3 * scale * torch.randn(6, 168, 180, dtype=torch.complex64, generator=generator(2))
    mask = torch.rand(180, generator=generator(3)) < 0.5
    poisoned = torch.where(mask, kspace, 1e6 * scale)
    estimate = estimate_noise_covariance(poisoned, mask)
    assert torch.equal(estimate, estimate_noise_covariance(torch.where(mask, kspace, 0), mask))
    assert relative(estimate.to(torch.complex128), covariance) < 0.06
    W = whitening_matrix(estimate.to(torch.complex128))
    c = torch.linalg.eigvalsh(covariance).log().mean().exp()
    assert relative(W @ covariance @ W.mH, c * torch.eye(6, dtype=torch.complex128)) < 0.15
    whitened = estimate_noise_covariance(whiten(kspace, W), mask)
    assert relative(whitened, whitened.diagonal().real.mean() * torch.eye(6, dtype=torch.complex64)) < 1e-3


def test_zero_padding_does_not_dilute_the_estimate() -> None:
    kspace = complex_noise((3, 4, 100, 80), 2.0, generator())
    kspace[..., :4, :] = 0
    kspace[..., 60:] = 0
    estimate = estimate_noise_covariance(kspace, torch.ones(80, dtype=torch.bool))
    assert relative(estimate, 4.0 * torch.eye(4, dtype=torch.complex64)) < 0.06


def test_without_noise_nothing_is_done() -> None:
    kspace = torch.zeros(4, 32, 20, dtype=torch.complex64)
    covariance = estimate_noise_covariance(kspace, torch.ones(20))
    assert torch.equal(covariance, torch.zeros(4, 4, dtype=torch.complex64))
    assert torch.equal(whitening_matrix(covariance), torch.eye(4, dtype=torch.complex64))
    assert torch.equal(whiten(kspace, whitening_matrix(covariance)), kspace)


@pytest.mark.parametrize("kind", ["dead coil", "twin coils"])
def test_singular_covariance_is_loaded(kind: str) -> None:
    covariance = torch.eye(3, dtype=torch.complex64)
    if kind == "dead coil":
        covariance[0, 0] = 0
    else:
        covariance[:2, :2] = 1
    W = whitening_matrix(covariance)
    loading = 1e-3 * torch.linalg.eigvalsh(covariance)[-1]
    loaded = covariance + loading * torch.eye(3)
    c = torch.linalg.eigvalsh(loaded).log().mean().exp()
    assert relative(W @ loaded @ W.mH, c * torch.eye(3, dtype=torch.complex64)) < 1e-4
    assert W.abs().max() < 100


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"covariance has shape \(2, 3\)"):
        whitening_matrix(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not Hermitian"):
        whitening_matrix(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="NaN"):
        whitening_matrix(torch.full((2, 2), torch.nan))
    with pytest.raises(ValueError, match="covariance of 2 coils"):
        correlated_noise((3, 4, 4), torch.eye(2), generator())
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 2\)"):
        whiten(torch.zeros(3, 4, 4), torch.eye(2))
    with pytest.raises(ValueError, match="std is -1"):
        complex_noise((2,), -1, generator())
    with pytest.raises(ValueError, match="expected complex"):
        estimate_noise_covariance(torch.zeros(3, 4, 4), torch.ones(4))
