"""Virtual coils: orthonormal, white after whitening, the strongest ones; a readout without oversampling."""

import pytest
import torch

from physics import coil_compression, correlated_noise, crop_readout, fft2c, ifft2c, mix_coils, whitening_matrix
from recon import coil_covariance


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def gram_of(data: torch.Tensor) -> torch.Tensor:
    return data.flatten(1) @ data.flatten(1).mH


@pytest.mark.parametrize("n", [1, 3, 6])
def test_rows_are_orthonormal_and_hold_the_most_energy(n: int) -> None:
    data = mix_coils(random(6, 10, 12), random(6, 6, seed=1))
    matrix = coil_compression(gram_of(data), torch.zeros(6, 6), coils=n)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(n, dtype=matrix.dtype))
    strongest = torch.linalg.svdvals(data.flatten(1))[:n]
    assert float(mix_coils(data, matrix).norm()) == pytest.approx(float(strongest.norm()), rel=1e-10)


def test_whitened_afterwards_they_are_the_strongest_of_whitened_data_up_to_a_rotation() -> None:
    data, covariance = mix_coils(random(6, 10, 12), random(6, 6, seed=1)), 0.01 * coil_covariance(6, seed=2)
    matrix = coil_compression(gram_of(data), covariance, coils=3)
    mixed = matrix @ covariance @ matrix.mH
    after = whitening_matrix(mixed) @ matrix
    white = whitening_matrix(covariance)
    strongest = torch.linalg.svd(mix_coils(data, white).flatten(1))[0][:, :3].mH @ white
    # The same rows span both: one is the other times a matrix.
    between = after @ torch.linalg.pinv(strongest)
    torch.testing.assert_close(between @ strongest, after)
    unit = between @ between.mH / (between @ between.mH)[0, 0]
    torch.testing.assert_close(unit, torch.eye(3, dtype=unit.dtype), atol=1e-9, rtol=0)


def test_white_noise_stays_white() -> None:
    matrix = coil_compression(gram_of(random(8, 9, 9)), torch.eye(8), coils=5)
    noise = mix_coils(correlated_noise((8, 300, 300), torch.eye(8, dtype=matrix.dtype), torch.Generator()), matrix)
    covariance = gram_of(noise) / noise[0].numel()
    torch.testing.assert_close(covariance, torch.eye(5, dtype=covariance.dtype), atol=0.02, rtol=0)


def test_an_energy_keeps_the_fewest_coils() -> None:
    gram = torch.diag(torch.tensor([90.0, 9.0, 0.9, 0.1], dtype=torch.complex128))
    kept = [len(coil_compression(gram, torch.zeros(4, 4), energy=e)) for e in (0.5, 0.9, 0.95, 0.99, 0.995, 1.0)]
    assert kept == [1, 1, 2, 2, 3, 4]
    assert len(coil_compression(0 * gram, torch.zeros(4, 4), energy=0.9)) == 4
    assert len(coil_compression(gram, torch.zeros(4, 4), coils=9)) == 4


def test_bad_compressions_are_named() -> None:
    with pytest.raises(ValueError, match=r"energy is 0, coils None, expected energy in \(0, 1\]"):
        coil_compression(torch.eye(3), torch.eye(3), energy=0)
    with pytest.raises(ValueError, match=r"covariance \(2, 2\), expected"):
        coil_compression(torch.eye(3), torch.eye(2))
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 3\)"):
        mix_coils(random(4, 5, 5), random(2, 3))


@pytest.mark.parametrize(("size", "height"), [(16, 8), (16, 7), (15, 8), (15, 15)])
def test_a_cut_readout_shows_the_middle_of_the_image(size: int, height: int) -> None:
    kspace, top = random(2, size, 6), (size - height) // 2
    cut = crop_readout(kspace, height)
    torch.testing.assert_close(ifft2c(cut), ifft2c(kspace)[:, top : top + height])
    if height == size:
        torch.testing.assert_close(cut, kspace)


def test_noise_of_a_cut_readout_stays_white_and_as_strong() -> None:
    noise = crop_readout(random(1, 600, 400), 300)
    assert float(noise.abs().square().mean()) == pytest.approx(1, abs=0.02)
    neighbors = (noise[:, 1:] * noise[:, :-1].conj()).mean()
    assert float(neighbors.abs()) < 0.02
    with pytest.raises(ValueError, match="crop_readout: 9 rows"):
        crop_readout(fft2c(random(2, 8, 4)), 9)
