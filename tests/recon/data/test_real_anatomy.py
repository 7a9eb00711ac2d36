"""Magnitude images made ready for a simulation: phase, contrast, matrix."""

import math
import os
from pathlib import Path

import pytest
import torch

from physics import fft2c, phantom_volume
from recon import draw_from_labels, largest_matrix, read_images, reduce_matrix, vary_contrast, with_realistic_phase

HEAD = phantom_volume(6, (64, 56), seed=0, family="t1").abs()
SEEDS = range(60)


def _phase_steps(images: torch.Tensor) -> float:
    """Mean change of the phase between neighbors, weighted by magnitude."""
    pairs = images[..., 1:] * images[..., :-1].conj()
    return float((pairs.angle().abs() * pairs.abs()).sum() / pairs.abs().sum())


def test_realistic_phase_keeps_the_magnitude_and_depends_on_the_seed_alone() -> None:
    phased = with_realistic_phase(HEAD, 3)
    assert phased.dtype == torch.complex64 and torch.allclose(phased.abs(), HEAD, atol=1e-6)
    assert torch.equal(phased, with_realistic_phase(HEAD, 3))
    assert not torch.allclose(phased, with_realistic_phase(HEAD, 4), atol=0.1)
    assert with_realistic_phase(torch.zeros(2, 3, 8, 8), 0).abs().max() == 0


def test_realistic_phase_is_from_mild_to_strong() -> None:
    steps = torch.tensor([_phase_steps(with_realistic_phase(HEAD, seed)) for seed in SEEDS])
    assert steps.quantile(0.1) < 0.12 and steps.quantile(0.9) > 0.2


def test_the_phase_changes_slowly_along_the_slices() -> None:
    # One slice repeated: only the drift differs.
    same = HEAD[3].expand(6, -1, -1)
    for seed in SEEDS:
        phased = with_realistic_phase(same, seed)
        pairs = phased[1:] * phased[:-1].conj()
        assert float(pairs.angle().abs().max()) < 0.02 * (2 * 1.5 * math.pi + 4 * 6) + 1e-3


def test_the_echo_is_off_the_center_by_at_most_two_lines() -> None:
    flat = torch.ones(32, 32)
    peaks = [fft2c(with_realistic_phase(flat, seed)).abs().flatten().argmax() for seed in SEEDS]
    rows, columns = torch.tensor([[int(p) // 32 - 16, int(p) % 32 - 16] for p in peaks]).T
    assert {0} < set(rows.abs().tolist()) and {0} < set(columns.abs().tolist())


@pytest.mark.parametrize("seed", range(8))
def test_a_changed_contrast_keeps_air_dark(seed: int) -> None:
    gray = torch.linspace(0, 7, 701).expand(2, 3, 701)
    plain, inverted = vary_contrast(gray, seed), vary_contrast(gray, seed, inversion=1.0)
    for changed in (plain, inverted):
        assert changed.shape == gray.shape and changed[..., 0].abs().max() == 0 and float(changed.max()) == 1
    assert (plain[0, 0].diff() >= 0).all()
    assert inverted[0, 0, :30].max() < 0.1  # below AIR
    assert (inverted[0, 0, 150:].diff() <= 1e-6).all() and inverted[0, 0, -1] < 0.4
    assert not torch.equal(plain, vary_contrast(gray, seed + 8))
    assert vary_contrast(torch.zeros(2, 4, 4), seed, inversion=1.0).abs().max() == 0
    with pytest.raises(ValueError, match="inversion is 2"):
        vary_contrast(gray, seed, inversion=2)


def test_label_maps_become_images_of_any_contrast() -> None:
    labels = torch.zeros(4, 40, 60, dtype=torch.int32)
    labels[:, 5:35, 5:30], labels[:, 5:35, 30:55] = 2, 41  # left and right white matter
    labels[:, 15:25, 10:50] = 24
    images = draw_from_labels(labels, 1)
    assert images.shape == labels.shape and images.min() == 0 and images.max() == 1
    assert images[:, 0].max() == 0 and torch.equal(images, draw_from_labels(labels, 1))

    def ratio(images: torch.Tensor) -> float:
        return float(images[:, 18:22, 15:45].mean() / images[:, 8:12, 15:45].mean())

    one_protocol = [ratio(draw_from_labels(labels, seed, contrast_seed=5)) for seed in range(6)]
    any_protocol = [ratio(draw_from_labels(labels, seed)) for seed in range(6)]
    spread = lambda ratios: max(ratios) / min(ratios)  # noqa: E731
    assert spread(one_protocol) < 0.6 * spread(any_protocol)
    left = torch.stack([draw_from_labels(labels, seed)[:, 8:12, 10:26].mean() for seed in range(30)])
    right = torch.stack([draw_from_labels(labels, seed)[:, 8:12, 34:50].mean() for seed in range(30)])
    assert float(torch.corrcoef(torch.stack((left, right)))[0, 1]) > 0.7
    with pytest.raises(ValueError, match="expected integers"):
        draw_from_labels(labels.float(), 0)


def test_a_smaller_matrix_samples_the_same_function() -> None:
    y, x = torch.meshgrid(torch.arange(64) - 32.0, torch.arange(48) - 24.0, indexing="ij")
    image = (2 + torch.cos(2 * math.pi * 2 * y / 64) * torch.cos(2 * math.pi * 3 * x / 48))[None]
    small = reduce_matrix(image, (32, 24))
    assert small.shape == (1, 32, 24) and torch.allclose(small, image[:, ::2, ::2], atol=1e-5)
    assert torch.allclose(reduce_matrix(torch.ones(50, 50), (21, 21)), torch.ones(21, 21), atol=1e-5)


def test_a_smaller_matrix_keeps_proportions_and_does_not_ring() -> None:
    y, x = torch.meshgrid(torch.arange(120) - 60.0, torch.arange(90) - 45.0, indexing="ij")
    disc = ((y**2 + x**2) < 30**2).float()
    small = reduce_matrix(disc, (60, 60))
    assert float(small.min()) == 0 and float(small.max()) < 1.09
    height, width = ((small > 0.5).any(axis).sum() for axis in (1, 0))
    assert abs(int(height) - int(width)) <= 1 and abs(int(height) - 30) <= 1


def test_more_than_half_the_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"matrix \(80, 80\) of images of 120x120, expected half .* at most 66"):
        reduce_matrix(torch.zeros(2, 120, 120), (80, 80))
    assert reduce_matrix(torch.zeros(2, 120, 90), (66, 66)).shape == (2, 66, 66)
    assert largest_matrix((120, 90)) == 66


@pytest.mark.real_data
def test_a_real_head_fills_its_kspace() -> None:
    """At half the matrix the outer lines hold power; in the source they are empty."""
    path = "mr_brain_t1_t2_flair_ms_ljubljana/patient01_study1_T2W.nii.gz"
    image = read_images(Path(os.environ["FEDRECON_DATA"]) / path)[8:10]

    def outer(images: torch.Tensor) -> float:
        power = fft2c(images.to(torch.complex64)).abs().square().mean((0, 1))
        return float(power[:3].mean() / power.median())

    assert outer(reduce_matrix(image, (96, 96))) > 3 * outer(image)
