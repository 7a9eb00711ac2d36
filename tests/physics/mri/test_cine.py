"""Frames and volumes: oracles are the 2-D operator of every frame and a plain centered transform; equivariance."""

import pytest
import torch

from physics import FRAME_SAMPLINGS, CartesianMRI, CineMRI, VolumeMRI, beating_heart, birdcage_maps, solve_normal

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=GENERATOR)


def masks(n_frames: int, width: int) -> torch.Tensor:
    return FRAME_SAMPLINGS["frame_random"](n_frames, width, 2, 0.25, (1,)).unsqueeze(-2)


@pytest.mark.parametrize("plane", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_every_frame_is_a_scan_of_its_own(batch: tuple[int, ...], plane: bool) -> None:
    maps, mask = draw(*batch, 3, 6, 8), masks(4, 8)
    if plane:
        mask = torch.rand(*batch, 4, 6, 8, generator=GENERATOR) < 0.5
    A, x = CineMRI(maps, mask), draw(*batch, 4, 6, 8)
    y, start = A(x), A.start(A(x))
    for frame in range(4):
        B = CartesianMRI(maps, mask[..., frame, :, :].expand(*batch, *mask.shape[-2:]))
        torch.testing.assert_close(y[..., frame, :, :, :], B(x[..., frame, :, :]))
        torch.testing.assert_close(A.adjoint(y)[..., frame, :, :], B.adjoint(y[..., frame, :, :, :]))
        torch.testing.assert_close(A.zero_filled(y)[..., frame, :, :], B.zero_filled(y[..., frame, :, :, :]))
        rhs = B.adjoint(y[..., frame, :, :, :])
        exact = solve_normal(B, rhs, 0.01 * B.norm**2, max_iterations=60, tolerance=1e-12)
        whole = solve_normal(A, A.adjoint(y), 0.01 * A.norm**2, max_iterations=60, tolerance=1e-12)
        torch.testing.assert_close(whole[..., frame, :, :], exact, rtol=1e-6, atol=1e-8)
    assert start.shape == x.shape and torch.equal(A.by_frame(x), y)


def test_held_out_lines_belong_to_their_frame() -> None:
    A = CineMRI(birdcage_maps(4, (16, 24)), masks(5, 24))
    held_out = A.draw_held_out(0.4, torch.Generator().manual_seed(1))
    assert held_out.shape == (5, 1, 1, 24) and not (held_out & ~A.sampled).any()
    assert len({tuple(frame.flatten().tolist()) for frame in held_out}) == 5
    kept, y = A.restrict(~held_out), A(beating_heart(5, (16, 24), 1))
    torch.testing.assert_close(kept(beating_heart(5, (16, 24), 1)), y * ~held_out)


def test_scans_of_a_batch_are_joined_and_noise_is_found() -> None:
    scans = [CineMRI(birdcage_maps(4, (32, 32), seed=seed), masks(3, 32)) for seed in range(2)]
    A, x = CineMRI.collate(scans), torch.stack([beating_heart(3, (32, 32), seed) for seed in range(2)])
    assert A.norm.shape == (2,) and A.support.shape == (2, 1, 32, 32)
    levels = torch.tensor([0.05, 0.1])
    noise = torch.randn(2, 3, 4, 32, 32, dtype=torch.complex64, generator=GENERATOR) * levels.reshape(2, 1, 1, 1, 1)
    torch.testing.assert_close(A.estimate_noise_std(A(x) + A.sampled * noise), levels, rtol=0.2, atol=0)
    with pytest.raises(ValueError, match="operators have shapes"):
        CineMRI.collate([scans[0], CineMRI(birdcage_maps(4, (32, 32)), masks(4, 32))])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(8, dtype=torch.bool), r"mask has shape \(8,\), expected \(\*batch, frames, 6 | 1, 8\)"),
        (torch.ones(2, 1, 7, dtype=torch.bool), r"mask has shape \(2, 1, 7\)"),
        (torch.ones(5, 2, 1, 8, dtype=torch.bool), r"batch axes \(5,\), the maps have \(\)"),
        (torch.full((2, 1, 8), 0.5), "values other than 0 and 1"),
        (torch.eye(2, dtype=torch.bool)[:, :1, None].expand(2, 1, 8), "a frame samples nothing"),
    ],
)
def test_masks_that_do_not_fit_are_named(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^CineMRI: .*{message}"):
        CineMRI(draw(3, 6, 8), mask)


@pytest.mark.parametrize("family", FRAME_SAMPLINGS)
def test_frames_share_the_center_and_differ_elsewhere(family: str) -> None:
    drawn = FRAME_SAMPLINGS[family](8, 64, 4, 0.125, (3,))
    assert drawn.shape == (8, 64) and drawn[:, 28:36].all() and drawn.any(0).float().mean() > 0.7
    assert len({tuple(frame.tolist()) for frame in drawn}) >= 4
    assert torch.equal(drawn, FRAME_SAMPLINGS[family](8, 64, 4, 0.125, (3,)))
    if family == "frame_shifted":
        assert drawn[:4].any(0).all() and torch.equal(drawn[0], drawn[4])


def test_the_heart_beats_and_the_chest_does_not() -> None:
    image = beating_heart(8, (64, 64), 3).abs()
    assert image.max() == 1 and (image > 0).any(0).float().mean() < 0.7
    change = (image - image[0]).abs().amax(0)
    assert change[28:36, 28:44].max() > 0.3 and change[:14].max() == 0
    assert not torch.allclose(image[1], image[7], atol=0.05)  # it contracts faster than it relaxes
    blood = (image > 0.6 * image[:, 24:40, 24:44].amax()).float()[:, 24:40, 30:44].sum((1, 2))
    assert blood[3] < 0.7 * blood[0] and blood.argmin() == 3
    assert not torch.equal(image, beating_heart(8, (64, 64), 4).abs())
    small, large = beating_heart(1, (32, 32), 3).abs()[0], beating_heart(1, (64, 64), 3).abs()[0]
    assert (torch.nn.functional.avg_pool2d(large[None], 2)[0] - small).abs().mean() < 0.02
    for frames, z in ((0, 0.0), (2, 1.0)):
        with pytest.raises(ValueError, match="beating_heart"):
            beating_heart(frames, (8, 8), 0, z)


def centered(x: torch.Tensor) -> torch.Tensor:
    axes = (-3, -2, -1)
    shifted = torch.fft.ifftshift(x, dim=axes)
    return torch.fft.fftshift(torch.fft.fftn(shifted, dim=axes, norm="ortho"), dim=axes)


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7), (4, 5, 6)])
def test_a_volume_is_transformed_along_three_axes(shape: tuple[int, int, int]) -> None:
    maps, mask = draw(2, 3, *shape), torch.rand(2, *shape[1:], generator=GENERATOR) < 0.4
    mask[..., 0, 0] = True
    A, x = VolumeMRI(maps, mask), draw(2, *shape)
    torch.testing.assert_close(A(x), mask[:, None, None] * centered(maps * x.unsqueeze(1)))
    full = VolumeMRI(maps / A.rss.unsqueeze(1), torch.ones(shape[1:]))
    torch.testing.assert_close(full.zero_filled(full(x)), x)
    torch.testing.assert_close(full.start(full(x)), x / 1.01, rtol=1e-3, atol=1e-3)


def test_a_volume_that_moves_turns_the_phase_of_its_k_space() -> None:
    A = VolumeMRI(torch.ones(1, 4, 6, 8, dtype=torch.complex128), torch.ones(6, 8))
    x = draw(4, 6, 8)
    for axis, n in ((-3, 4), (-2, 6), (-1, 8)):
        ramp = torch.polar(torch.ones(n, dtype=torch.float64), -2 * torch.pi * (torch.arange(n) - n // 2).double() / n)
        shape = [1, 1, 1]
        shape[axis] = n
        torch.testing.assert_close(A(x.roll(1, axis)), A(x) * ramp.reshape(shape))


def test_a_slab_of_one_slice_is_the_2d_scan() -> None:
    maps, mask = draw(3, 6, 8), torch.rand(6, 8, generator=GENERATOR) < 0.5
    A, x = VolumeMRI(maps.unsqueeze(1), mask), draw(6, 8)
    torch.testing.assert_close(A(x[None])[:, 0], CartesianMRI(maps, mask)(x))


@pytest.mark.parametrize(
    ("maps", "mask", "message"),
    [
        ((3, 4, 5), (4, 5), r"maps have shape \(3, 4, 5\), expected \(\*batch, coils, depth, height, width\)"),
        ((3, 2, 4, 5), (5,), r"mask has shape \(5,\), expected \(4, 5\)"),
        ((3, 2, 4, 5), (7, 4, 5), r"mask has shape \(7, 4, 5\)"),
    ],
)
def test_volumes_that_do_not_fit_are_named(maps: tuple[int, ...], mask: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^VolumeMRI: {message}"):
        VolumeMRI(draw(*maps), torch.ones(mask))
    with pytest.raises(TypeError, match="maps have dtype"):
        VolumeMRI(draw(3, 2, 4, 5).real, torch.ones(4, 5))
    with pytest.raises(ValueError, match="samples nothing"):
        VolumeMRI(draw(3, 2, 4, 5), torch.zeros(4, 5))
