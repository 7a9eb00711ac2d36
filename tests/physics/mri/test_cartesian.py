"""CartesianMRI against sigpy, a dense matrix, and itself written naively."""

import numpy as np
import pytest
import sigpy
import sigpy.mri.linop
import torch

from physics import (
    CartesianMRI,
    CoilMaps,
    FourierTransform,
    birdcage_maps,
    check_operator,
    combine_coils,
    fft2c,
    ifft2c,
    make_mask,
    phantom_volume,
    solve_normal,
)
from physics.mri.cartesian import CartesianGram

SHAPES = [(321, 318), (322, 320), (320, 320), (7, 5), (6, 9)]


def random_maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_fft2c_is_sigpys_centered_transform(shape: tuple[int, int]) -> None:
    image = random_maps(*shape)
    expected = sigpy.fft(image.numpy(), axes=(-2, -1))
    np.testing.assert_allclose(fft2c(image).numpy(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ifft2c(fft2c(image)), image)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("columns", [True, False])
def test_equals_sigpys_sense(shape: tuple[int, int], columns: bool) -> None:
    maps = random_maps(3, *shape)
    mask = torch.rand(1 if columns else shape[0], shape[1], generator=torch.Generator().manual_seed(1)) < 0.4
    mask[:, shape[1] // 2] = True
    x, y = random_maps(*shape, seed=2), random_maps(3, *shape, seed=3)
    peer = sigpy.mri.linop.Sense(maps.numpy(), weights=mask.expand(shape).numpy().astype(float))
    A = CartesianMRI(maps, mask)
    np.testing.assert_allclose(A(x).numpy(), peer(x.numpy()), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(A.adjoint(y).numpy(), peer.H(y.numpy()), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint_on_white_noise(shape: tuple[int, int]) -> None:
    mask = torch.rand(shape[1], generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0] = True
    assert check_operator(CartesianMRI(random_maps(4, *shape), mask))["adjoint"] <= 1e-12
    assert check_operator(CartesianMRI(random_maps(4, *shape, dtype=torch.complex64), mask))["adjoint"] <= 1e-6


def test_dense_matrix_of_a_6x6_image() -> None:
    maps = random_maps(2, 6, 6)
    A = CartesianMRI(maps, torch.tensor([1, 0, 1, 1, 0, 1]))
    unit = torch.eye(36, dtype=torch.complex128).reshape(36, 6, 6)
    forward = A(unit).reshape(36, -1).T
    backward = A.adjoint(torch.eye(72, dtype=torch.complex128).reshape(72, 2, 6, 6)).reshape(72, -1).T
    torch.testing.assert_close(backward, forward.conj().T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(A.norm, A.rss.max())
    assert torch.linalg.matrix_norm(forward, 2) <= A.norm


def test_a_batch_has_masks_and_maps_of_its_own() -> None:
    maps = random_maps(4, 3, 6, 5)
    masks = torch.rand(4, 1, 5, generator=torch.Generator().manual_seed(5)) < 0.6
    masks[..., 2] = True
    batched = CartesianMRI(maps, masks)
    singles = [CartesianMRI(maps[i], masks[i]) for i in range(4)]
    joined = CartesianMRI.collate(singles)
    x = random_maps(4, 6, 5, seed=1)
    expected = torch.stack([A(x[i]) for i, A in enumerate(singles)])
    for A in (batched, joined):
        torch.testing.assert_close(A(x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(A(x.unsqueeze(0).expand(2, -1, -1, -1))[1], expected, rtol=1e-12, atol=1e-12)
        assert A.gram.axes == (-1,)
        check_operator(A)
    with pytest.raises(ValueError, match=r"batch axes \(3,\), which do not broadcast"):
        batched(x[:3])


def test_collating_a_column_and_a_2d_mask_drops_the_1d_gram() -> None:
    column = CartesianMRI(random_maps(2, 6, 5), torch.tensor([True, False, True, True, False]))
    plane = CartesianMRI(
        random_maps(2, 6, 5, seed=1), torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    )
    joined = CartesianMRI.collate([column, plane])
    assert joined.gram.axes == (-2, -1)
    check_operator(joined)


def test_the_gram_by_blocks_of_rows_is_the_gram(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, x = random_maps(2, 3, 23, 10).to(torch.complex64), random_maps(2, 23, 10, seed=1).to(torch.complex64)
    gram, calls = CartesianMRI(maps, torch.arange(10) % 2 == 0).gram, list[int]()
    whole, apply = gram(x), CartesianGram._apply_rows
    monkeypatch.setattr("physics.mri.cartesian._IN_CACHE", 2 * 3 * 10 * 4)

    def counted(self: CartesianGram, part: torch.Tensor, rows: slice) -> torch.Tensor:
        calls.append(part.shape[-2])
        return apply(self, part, rows)

    monkeypatch.setattr(CartesianGram, "_apply_rows", counted)
    torch.testing.assert_close(gram(x), whole, rtol=1e-5, atol=1e-5)
    rows = 4 * torch.get_num_threads()
    assert calls == [rows] * (23 // rows) + [23 % rows] * (23 % rows > 0)
    calls.clear()
    CartesianMRI(maps, torch.ones(2, 23, 10)).gram(x)
    assert calls == [23]  # a 2-D mask mixes the rows


def test_gradient_reaches_the_maps() -> None:
    mask = torch.tensor([True, False, True, True, False])
    x = random_maps(4, 5, seed=2)

    def measure(maps: torch.Tensor) -> torch.Tensor:
        return CartesianMRI(maps, mask)(x)

    def normal(maps: torch.Tensor) -> torch.Tensor:
        return CartesianMRI(maps, mask).gram(x)

    def solution(maps: torch.Tensor) -> torch.Tensor:
        return solve_normal(CartesianMRI(maps, mask), x, 0.5, max_iterations=60, tolerance=1e-14)

    maps = random_maps(2, 4, 5).requires_grad_()
    for function in (measure, normal, solution):
        assert torch.autograd.gradcheck(function, (maps,), fast_mode=function is solution)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, dtype=torch.bool), r"mask has shape \(4,\), expected \(5,\)"),
        (torch.ones(3, 5, dtype=torch.bool), r"mask has shape \(3, 5\)"),
        (torch.ones(7, 1, 5, dtype=torch.bool), "batch axes"),
        (torch.full((5,), 0.5), "other than 0 and 1"),
        (torch.zeros(5, dtype=torch.bool), "samples nothing"),
    ],
)
def test_bad_masks_are_refused(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CartesianMRI(random_maps(2, 6, 5), mask)


def test_bad_maps_are_refused() -> None:
    with pytest.raises(TypeError, match="expected complex64 or complex128"):
        CartesianMRI(torch.ones(2, 6, 5), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected \\(\\*batch, coils, height, width\\)"):
        CoilMaps(torch.ones(6, 5, dtype=torch.complex64))


def test_zero_maps_and_zero_data_stay_finite() -> None:
    A = CartesianMRI(torch.zeros(2, 6, 5, dtype=torch.complex64), torch.ones(5, dtype=torch.bool))
    assert A.start(torch.zeros(2, 6, 5, dtype=torch.complex64)).isfinite().all()


def test_start_undoes_the_aliasing_of_the_coils() -> None:
    maps = random_maps(6, 16, 15)
    mask = torch.arange(15) % 2 == 0
    A = CartesianMRI(maps, mask)
    x = random_maps(16, 15, seed=4)
    assert (A.start(A(x)) - x).norm() < 0.2 * x.norm()


def test_combine_coils_inverts_the_maps() -> None:
    maps = random_maps(3, 6, 5)
    x = random_maps(6, 5, seed=1)
    torch.testing.assert_close(combine_coils(CoilMaps(maps)(x), maps), x)
    assert combine_coils(torch.zeros(3, 6, 5), torch.zeros(3, 6, 5)).isfinite().all()


@pytest.mark.parametrize("seed", range(4))
def test_the_zero_filled_image_is_as_bright_as_the_object_whatever_the_coils(seed: int) -> None:
    """Fully sampled it is the object; with a sampled center its mean over the body is right, for uneven maps too."""
    x = phantom_volume(1, (48, 40), seed=seed)[0].to(torch.complex128)
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 40), indexing="ij")
    uneven = torch.exp(-3 * ((yy - 0.8) ** 2 + (xx + 0.6) ** 2))  # one coil of little noise after whitening
    maps = birdcage_maps(5, (48, 40), seed=seed).to(torch.complex128) * (0.3 + 9 * uneven)
    full = CartesianMRI(maps, torch.ones(40, dtype=torch.bool))
    torch.testing.assert_close(full.zero_filled(full(x)), x)
    A = full.restrict(make_mask("random", (48, 40), 4, 0.2, seed).mask)
    body = x.abs() > 0.1 * x.abs().max()
    assert 0.85 < float(A.zero_filled(A(x)).abs()[body].mean() / x.abs()[body].mean()) < 1.15
    torch.testing.assert_close(A.normalized_adjoint(A(x)), A.adjoint(A(x)) / A.norm**2)  # start of networks


def test_magnitude_gradient_through_exact_zeros_is_finite() -> None:
    A = CartesianMRI(random_maps(2, 6, 5), torch.ones(5, dtype=torch.bool))
    x = torch.zeros(6, 5, dtype=torch.complex128, requires_grad=True)
    FourierTransform((6, 5))(A.gram(x)).abs().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
