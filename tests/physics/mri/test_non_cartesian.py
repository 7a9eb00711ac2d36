"""NonCartesianMRI against direct sums in double precision, CartesianMRI on the grid, and a measured radial scan."""

import copy
import math
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from physics import (
    CartesianMRI,
    NonCartesianMRI,
    birdcage_maps,
    check_operator,
    golden_angle_trajectory,
    gridded_kspace,
    ifft2c,
    low_resolution_maps,
    make_trajectory,
    phantom_volume,
    root_sum_of_squares,
    solve_normal,
)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def positions(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5


def direct_matrix(trajectory: Tensor, shape: tuple[int, int]) -> Tensor:
    """The transform as a matrix ``(samples, pixels)``, from its definition."""
    rows, columns = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
    k = trajectory.reshape(-1, 2)
    phase = k[:, :1, None] * rows[:, None] + k[:, 1:, None] * columns
    turns = torch.polar(torch.ones_like(phase), -2 * math.pi * phase)
    return turns.reshape(len(k), -1) / math.sqrt(math.prod(shape))


@pytest.mark.parametrize("shape", [(12, 10), (11, 14), (9, 7)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.complex128, 1e-12), (torch.complex64, 1e-6)])
def test_equals_a_direct_sum(shape: tuple[int, int], dtype: torch.dtype, bound: float) -> None:
    trajectory, maps = positions(6, 15), draw(3, *shape).to(dtype)
    A, x, y = NonCartesianMRI(maps, trajectory), draw(*shape, seed=1).to(dtype), draw(3, 6, 15, seed=2).to(dtype)
    E, double = direct_matrix(trajectory, shape), (maps.to(torch.complex128), x.to(torch.complex128))
    samples = (double[0] * double[1]).reshape(3, -1) @ E.T
    images = (y.to(torch.complex128).reshape(3, -1) @ E.conj()).reshape(3, *shape)
    back = (double[0].conj() * images).sum(0)
    normal = (double[0].conj() * (samples @ E.conj()).reshape(3, *shape)).sum(0)
    for found, expected in ((A(x).reshape(3, -1), samples), (A.adjoint(y), back), (A.gram(x), normal)):
        assert found.dtype == dtype
        assert float((found - expected).norm() / expected.norm()) < bound
    assert torch.linalg.matrix_norm(E, 2) * A.rss.max() <= float(A.norm) * (1 + 1e-6)
    assert float(A.norm) < 1.03 * float(torch.linalg.matrix_norm(E, 2) * A.rss.max())


def test_single_precision_is_exact_at_the_size_of_scans() -> None:
    """float32 positions alone would be an error of 1e-5."""
    trajectory, shape = golden_angle_trajectory(40, 512), (256, 256)
    x = phantom_volume(1, shape, seed=0)[0]
    A, rows = NonCartesianMRI(torch.ones(1, *shape, dtype=torch.complex64), trajectory), slice(7, None, 13)
    expected = direct_matrix(trajectory[rows, ::16], shape) @ x.to(torch.complex128).flatten()
    found = A(x)[0, rows, ::16].flatten()
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    normal = NonCartesianMRI(A.maps.to(torch.complex128), trajectory)
    exact = normal.adjoint(normal(x.to(torch.complex128)))
    assert float((A.gram(x) - exact).norm() / exact.norm()) < 1e-6


@pytest.mark.parametrize("shape", [(12, 10), (9, 7)])
def test_equals_the_cartesian_operator_on_its_grid(shape: tuple[int, int]) -> None:
    maps, x = draw(3, *shape), draw(*shape, seed=1)
    rows, columns = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.4
    A, B = CartesianMRI(maps, mask), NonCartesianMRI(maps, grid, mask)
    torch.testing.assert_close(B(x), A(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(B.adjoint(B(x)), A.gram(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(B.gram(x), A.gram(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("own", ["maps", "trajectory", "keep"])
def test_a_batch_has_tensors_of_its_own(own: str) -> None:
    maps, trajectory, x = draw(2, 3, 8, 7), positions(2, 4, 9), draw(2, 8, 7, seed=1)
    keep = torch.rand(2, 4, 9, generator=torch.Generator().manual_seed(1)) < 0.7
    singles = [
        NonCartesianMRI(maps[i], trajectory[i if own == "trajectory" else 0], keep[i] if own == "keep" else None)
        for i in range(2)
    ]
    joined = NonCartesianMRI.collate(singles)
    assert joined.trajectory.ndim == (4 if own == "trajectory" else 3)
    expected = torch.stack([A(image) for A, image in zip(singles, x, strict=True)])
    torch.testing.assert_close(joined(x), expected)
    normal = torch.stack([A.gram(image) for A, image in zip(singles, x, strict=True)])
    torch.testing.assert_close(joined.gram(x), normal)
    torch.testing.assert_close(joined.zero_filled(joined(x))[1], singles[1].zero_filled(expected[1]))
    torch.testing.assert_close(joined(x[0])[1], singles[1](x[0]))
    torch.testing.assert_close(joined.gram(x[0])[1], singles[1].gram(x[0]))
    torch.testing.assert_close(joined.adjoint(expected[0])[1], singles[1].adjoint(expected[0]))
    check_operator(joined)
    check_operator(singles[1].restrict(torch.arange(4)[:, None] > 0))


def test_a_map_that_is_learned_has_the_gradient_of_a_direct_sum() -> None:
    trajectory, x, y = positions(3, 8), draw(6, 5), draw(2, 3, 8, seed=1)
    E, other = direct_matrix(trajectory, (6, 5)), draw(2, 6, 5, seed=2)

    def by_operator(maps: Tensor) -> Tensor:
        A = NonCartesianMRI(maps, trajectory)
        return A(x).abs().square().sum() + A.adjoint(y).abs().sum() + (A.gram(x) * x).real.square().sum()

    def directly(maps: Tensor) -> Tensor:
        samples = (maps * x).reshape(2, -1) @ E.T
        back = (maps.conj() * (y.reshape(2, -1) @ E.conj()).reshape(2, 6, 5)).sum(0)
        normal = (maps.conj() * (samples @ E.conj()).reshape(2, 6, 5)).sum(0)
        return samples.abs().square().sum() + back.abs().sum() + (normal * x).real.square().sum()

    maps = draw(2, 6, 5, seed=3).requires_grad_()
    found, expected = (torch.autograd.grad(f(maps), maps, create_graph=True)[0] for f in (by_operator, directly))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    second = (torch.autograd.grad((g * other).real.sum(), maps, retain_graph=True)[0] for g in (found, expected))
    torch.testing.assert_close(*second, rtol=1e-10, atol=1e-10)


def test_held_out_spokes() -> None:
    A = NonCartesianMRI(draw(2, 4, 8, 7), positions(10, 12))
    held_out = A.draw_held_out(0.3, torch.Generator().manual_seed(0))
    assert held_out.shape == (2, 1, 10, 1) and held_out.sum((1, 2, 3)).tolist() == [3, 3]
    assert not torch.equal(held_out[0], held_out[1])
    kept, x = A.restrict(~held_out), draw(2, 8, 7, seed=1)
    assert isinstance(kept, NonCartesianMRI) and kept.range_shape == A.range_shape
    torch.testing.assert_close(kept(x), A(x) * ~held_out)
    torch.testing.assert_close(kept.gram(x), A.adjoint(A(x) * ~held_out))
    assert torch.equal(kept.hold_out_candidates(), ~held_out)
    coil = torch.ones(4, 1, 1, dtype=torch.bool)
    coil[2] = False
    torch.testing.assert_close(A.restrict(coil)(x), A(x) * coil)


def test_plans_are_shared_and_operators_travel() -> None:
    A = NonCartesianMRI(draw(2, 8, 7), positions(3, 9))
    x = draw(8, 7)
    for other in (copy.deepcopy(A), pickle.loads(pickle.dumps(A)), A.with_maps(A.maps.clone())):
        assert other._positions[0] is A._positions[0]
        assert torch.equal(other(x), A(x)) and torch.equal(other.gram(x), A.gram(x))
    assert NonCartesianMRI(A.maps, positions(3, 9, seed=1))._positions[0] is not A._positions[0]


def test_bad_input_is_refused_in_one_line() -> None:
    maps, good = draw(2, 8, 7), positions(3, 9)
    with pytest.raises(ValueError, match=r"trajectory reaches 3\.142, expected -0\.5 to 0\.5 cycles per pixel; divide"):
        NonCartesianMRI(maps, good / good.abs().max() * math.pi)
    with pytest.raises(ValueError, match="trajectory reaches nan"):
        NonCartesianMRI(maps, good * math.nan)
    with pytest.raises(ValueError, match=r"trajectory has shape \(27, 2\), expected \(spokes, samples, 2\)"):
        NonCartesianMRI(maps, good.reshape(-1, 2))
    with pytest.raises(TypeError, match=r"trajectory has dtype torch\.complex64, expected float32 or float64"):
        NonCartesianMRI(maps, torch.view_as_complex(good)[..., None].to(torch.complex64))
    with pytest.raises(ValueError, match=r"trajectory has batch axes \(4,\), the maps have \(\); expected equal"):
        NonCartesianMRI(maps, positions(4, 3, 9))
    with pytest.raises(ValueError, match=r"keep is torch.bool of shape \(3,\), expected bool \(3, 9\)"):
        NonCartesianMRI(maps, good, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="keep is False everywhere"):
        NonCartesianMRI(maps, good, torch.zeros(3, 9, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"maps have dtype torch\.float64"):
        NonCartesianMRI(maps.real, good)
    with pytest.raises(ValueError, match=r"operators have shapes .*, expected one; batch by shape"):
        NonCartesianMRI.collate([NonCartesianMRI(maps, good), NonCartesianMRI(maps, positions(4, 9))])


@pytest.mark.parametrize("family", ["radial", "golden_angle", "spiral"])
def test_gridding_and_start_show_the_image_at_its_brightness(family: str) -> None:
    shape = (64, 56)
    x, maps = phantom_volume(1, shape, seed=1)[0], birdcage_maps(6, shape)
    A = NonCartesianMRI(maps, make_trajectory(family, shape, 1.0).positions)
    y = A(x)
    gridded, start = A.zero_filled(y), A.start(y)
    scale = float(torch.vdot(gridded.flatten(), x.flatten()).real / gridded.norm() ** 2)
    assert abs(scale - 1) < 0.05
    errors = [float((image - x).norm() / x.norm()) for image in (A.normalized_adjoint(y), gridded, start)]
    assert errors[0] > 3 * errors[1] and max(errors[1:]) < 0.15
    # Undersampled, the coils fill the gaps.
    A = NonCartesianMRI(maps, make_trajectory(family, shape, 3.0).positions)
    gridded, start = (float((image - x).norm() / x.norm()) for image in (A.zero_filled(A(x)), A.start(A(x))))
    assert start < 0.8 * gridded


def test_an_empty_scan_gives_an_empty_image() -> None:
    A = NonCartesianMRI(torch.zeros(2, 8, 7, dtype=torch.complex64), positions(3, 9))
    y = torch.zeros(A.range_shape, dtype=torch.complex64)
    for image in (A.zero_filled(y), A.start(y), A.normalized_adjoint(y)):
        assert not image.any()


@pytest.mark.real_data
def test_a_measured_radial_scan_shows_the_bottle_of_the_cartesian_one_transposed() -> None:
    folder = Path(os.environ["FEDRECON_DATA"]) / "mri_kspace"
    with h5py.File(folder / "bottle_4coil_3T.h5") as file:
        cartesian = root_sum_of_squares(ifft2c(torch.from_numpy(file["kspace"][0])))
    with np.load(folder / "bottle_radial_4coil_3T.npz") as scan:
        y, trajectory = torch.from_numpy(scan["kspace"]), torch.from_numpy(scan["traj_ky_kx"])
    y = y / y.abs().max()
    center = torch.zeros(256, 256, dtype=torch.bool)
    center[116:140, 116:140] = True
    maps = low_resolution_maps(gridded_kspace(y, trajectory, (256, 256)), center)
    A = NonCartesianMRI(maps, trajectory)
    image = solve_normal(A, A.adjoint(y), 1e-3 * A.norm**2, x0=A.zero_filled(y), max_iterations=15).abs()
    correlation = float(torch.corrcoef(torch.stack((image.flatten(), cartesian.T.flatten())))[0, 1])
    as_it_is = float(torch.corrcoef(torch.stack((image.flatten(), cartesian.flatten())))[0, 1])
    assert correlation > 0.98 and as_it_is < 0.7
