"""Losses against scikit-image, and their gradients at exact zeros."""

import numpy as np
import pytest
import skimage.metrics
import torch

from recon import LOSSES, l1_loss, psnr_loss, ssim_loss


def test_ssim_loss_is_scikit_images_ssim() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 24, 20, generator=generator, dtype=torch.float64)
    image = target + 0.1 * torch.randn(3, 24, 20, generator=generator, dtype=torch.float64)
    expected = [
        skimage.metrics.structural_similarity(t, i, data_range=t.max())
        for t, i in zip(target.numpy(), image.numpy(), strict=True)
    ]
    assert float(ssim_loss(image, target)) == pytest.approx(1 - np.mean(expected), abs=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_vanish_at_the_target_and_are_finite_through_zeros(name: str) -> None:
    target = torch.rand(2, 9, 9)
    assert float(LOSSES[name](target, target)) == pytest.approx(0, abs=1e-6)
    image = torch.zeros(2, 9, 9, dtype=torch.complex64, requires_grad=True)
    LOSSES[name](image.abs(), torch.zeros(2, 9, 9)).backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_psnr_loss_is_that_of_scikit_image_and_counts_decibels_alike() -> None:
    target = torch.rand(2, 24, 20, dtype=torch.float64) * torch.tensor([1.0, 7.0])[:, None, None]
    image = target + torch.tensor([0.1, 0.02])[:, None, None] * torch.randn_like(target)
    decibels = [
        skimage.metrics.peak_signal_noise_ratio(t, i, data_range=t.max())
        for t, i in zip(target.numpy(), image.numpy(), strict=True)
    ]
    assert float(psnr_loss(image, target)) == pytest.approx(8 - np.mean(decibels) / 10, abs=1e-3)
    halved = torch.stack([(image[0] + target[0]) / 2, image[1]]), torch.stack([image[0], (image[1] + target[1]) / 2])
    assert float(psnr_loss(halved[0], target)) == pytest.approx(float(psnr_loss(halved[1], target)), abs=1e-3)


def test_l1_is_the_mean_and_small_images_are_named() -> None:
    assert float(l1_loss(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 3.0))) == 3.0
    with pytest.raises(ValueError, match="expected at least 7x7"):
        ssim_loss(torch.zeros(1, 5, 9), torch.zeros(1, 5, 9))
