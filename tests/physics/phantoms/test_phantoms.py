"""Phantoms: heads that are textured and reproducible; ellipses whose k-space is the continuous transform."""

import math

import pytest
import torch

from physics import fft2c, ifft2c
from physics.phantoms.ellipses import Ellipse, EllipsePhantom, shepp_logan
from physics.phantoms.head import PHANTOM_FAMILIES, brain_phantom, phantom_volume


@pytest.mark.parametrize("family", PHANTOM_FAMILIES)
@pytest.mark.parametrize("shape", [(96, 96), (97, 84)])
def test_a_head_fills_the_image_and_nothing_lies_outside(family: str, shape: tuple[int, int]) -> None:
    image = brain_phantom(shape, 3, family)
    assert image.dtype == torch.complex64
    assert image.shape == shape
    assert image.abs().max().item() == pytest.approx(1)
    head = image.abs() > 0
    assert 0.3 < head.float().mean() < 0.65
    border = torch.cat([head[0], head[-1], head[:, 0], head[:, -1]])
    assert not border.any()
    assert torch.equal(image, brain_phantom(shape, 3, family))


def test_seeds_draw_anatomies_and_families_contrasts() -> None:
    first, second = (brain_phantom((96, 96), seed, "t1").abs() for seed in (0, 1))
    assert (first - second).norm() > 0.2 * first.norm()
    t1, t2 = (brain_phantom((96, 96), 0, family) for family in ("t1", "t2"))
    assert torch.equal(t1.abs() > 0, t2.abs() > 0)
    inside = t1.abs() > 0
    assert torch.corrcoef(torch.stack([t1.abs()[inside], t2.abs()[inside]]))[0, 1] < 0


@pytest.mark.parametrize("family", PHANTOM_FAMILIES)
def test_not_piecewise_constant(family: str) -> None:
    """Most of a head has a gradient: in a picture of flat regions the median step is zero."""
    magnitude = brain_phantom((128, 128), 5, family).abs()
    inside = torch.nn.functional.max_pool2d((magnitude == 0).float()[None], 9, 1, 4)[0] == 0
    steps = torch.hypot(magnitude.diff(dim=0)[:, 1:], magnitude.diff(dim=1)[1:])[inside[1:, 1:]]
    assert steps.median() > 0.01
    # ... and is not noise: neighbors agree.
    a, b = magnitude[:, 1:][inside[:, 1:]], magnitude[:, :-1][inside[:, 1:]]
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.7


def test_phase_is_smooth_and_not_flat() -> None:
    image = brain_phantom((128, 128), 2, "pd")
    both = (image[:, 1:].abs() > 0.05) & (image[:, :-1].abs() > 0.05)
    step = (image[:, 1:] * image[:, :-1].conj()).angle()[both]
    assert step.abs().max() < 0.25
    assert image[image.abs() > 0.05].angle().std() > 0.2


def test_the_same_head_at_every_size() -> None:
    small, large = brain_phantom((64, 64), 7, "t1"), brain_phantom((256, 256), 7, "t1")
    pooled = torch.nn.functional.avg_pool2d(large.abs()[None], 4)[0]
    pooled = pooled / pooled.max()
    assert torch.corrcoef(torch.stack([small.abs().flatten(), pooled.flatten()]))[0, 1] > 0.997


def test_slices_of_a_volume_vary_smoothly() -> None:
    volume = phantom_volume(8, (80, 80), 4, "flair")
    assert volume.shape == (8, 80, 80)
    assert volume.abs().amax().item() == pytest.approx(1)
    norms = volume.abs().flatten(1).norm(dim=1)
    near = ((volume[1:] - volume[:-1]).flatten(1).norm(dim=1) / norms[1:]).max()
    far = (volume[7] - volume[0]).norm() / norms[0]
    assert 0.02 < near < 0.75 * far
    finer = phantom_volume(80, (80, 80), 4, "flair")
    assert (finer[40] - finer[39]).norm() < 0.2 * finer[40].norm()


def test_one_ellipse_by_hand() -> None:
    """A disc of radius a has the transform a J1(2 pi a k) / k, and its mean at k = 0."""
    disc = EllipsePhantom((Ellipse(2.0, 0.0, 0.0, 0.25, 0.25, 0.0),))
    kspace = disc.kspace((16, 16))
    assert kspace[8, 8].item() == pytest.approx(16 * 2 * math.pi * 0.25**2)
    # J1(pi / 2) = 0.566824088906 and J1(pi) = 0.284615343179 at 1 and 2 cycles per field of view.
    assert kspace[8, 9].item() == pytest.approx(16 * 2 * 0.25 * 0.566824088906)
    assert kspace[6, 8].item() == pytest.approx(16 * 2 * 0.25 * 0.284615343179 / 2)


@pytest.mark.parametrize("shape", [(32, 32), (33, 40), (30, 35)])
def test_kspace_is_the_limit_of_ever_finer_images(shape: tuple[int, int]) -> None:
    ellipses = (Ellipse(1.0, 0.06, -0.11, 0.3, 0.17, 0.4), Ellipse(-0.5, 0.12, 0.2, 0.05, 0.12, -1.1))
    phantom = EllipsePhantom(ellipses)
    exact = phantom.kspace(shape)
    fine_shape = (shape[0] * 16, shape[1] * 16)
    fine = fft2c(phantom.image(fine_shape, supersampling=2)) / 16
    low = tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(fine_shape, shape, strict=True))
    assert (fine[low] - exact).norm() < 2e-3 * exact.norm()
    # Only the staircase of the edges remains.
    assert (fine[low] - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize("shape", [(64, 64), (63, 51), (64, 51)])
def test_pixel_positions_are_those_of_fft2c(shape: tuple[int, int]) -> None:
    image = EllipsePhantom((Ellipse(1.0, 0.07, -0.11, 0.25, 0.2, 0.3),)).image(shape, supersampling=8)
    y, x = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape)
    assert (image.sum(0) @ x / image.sum()).item() == pytest.approx(0.07, abs=5e-4)
    assert (image.sum(1) @ y / image.sum()).item() == pytest.approx(-0.11, abs=5e-4)


def test_moved_ellipse_ramps_the_phase() -> None:
    a = EllipsePhantom((Ellipse(1.0, 0.0, 0.0, 0.2, 0.1, 0.3),)).kspace((24, 32))
    b = EllipsePhantom((Ellipse(1.0, 3 / 32, -2 / 24, 0.2, 0.1, 0.3),)).kspace((24, 32))
    # A move by whole pixels is a roll of the image, to the left and up being negative.
    torch.testing.assert_close(torch.roll(ifft2c(a), (-2, 3), (0, 1)), ifft2c(b))


def test_a_quarter_turn_swaps_the_axes() -> None:
    a = EllipsePhantom((Ellipse(1.0, 0.1, 0.2, 0.3, 0.1, 0.0),))
    b = EllipsePhantom((Ellipse(1.0, 0.1, 0.2, 0.1, 0.3, math.pi / 2),))
    torch.testing.assert_close(a.kspace((20, 21)), b.kspace((20, 21)))


def test_shepp_logan_stands_upright() -> None:
    image = shepp_logan().image((200, 200), supersampling=2)
    assert image.max().item() == pytest.approx(1.0)
    assert image[100, 0] == 0
    # Gray matter, the large blob towards the nose (up), and the ventricle right of the middle, the smaller
    # one.
    assert image[150, 100].item() == pytest.approx(0.2)
    assert image[65, 100].item() == pytest.approx(0.3)
    assert image[100, 122].item() == pytest.approx(0.0, abs=1e-9)
    assert (image[:, 101:] < 0.05).sum() < (image[:, :99] < 0.05).sum()
    blurred = ifft2c(shepp_logan().kspace((200, 200))).real
    assert (blurred - image).abs().mean() < 0.02


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no contrast family 'T1', expected one of t1, t2"):
        brain_phantom((32, 32), 0, "T1")
    with pytest.raises(ValueError, match="n_slices is 0"):
        phantom_volume(0, (32, 32), 0, "t1")
    with pytest.raises(ValueError, match=r"shape is \(0, 32\)"):
        brain_phantom((0, 32), 0, "t1")
    with pytest.raises(ValueError, match="supersampling 0"):
        shepp_logan().image((8, 8), 0)
