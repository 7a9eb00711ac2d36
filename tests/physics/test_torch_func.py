"""Operators, back-projection and solvers under `torch.func`: the derivatives of ordinary autograd."""

import math
import warnings
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from physics import (
    OPERATORS,
    CartesianMRI,
    ImageGrid,
    LinearOperator,
    ParallelBeam,
    RadonOperator,
    birdcage_maps,
    filtered_backprojection,
    solve_normal,
)

GRID, SCAN = ImageGrid((8, 7), 1.0), ParallelBeam(tuple(index * math.pi / 6 for index in range(6)), 14, 1.0)


def cartesian() -> CartesianMRI:
    return CartesianMRI(birdcage_maps(3, (8, 7)).to(torch.complex128), torch.arange(7) % 3 != 1)


#: Functions of an image of 8x7 pixels that are linear, and the data type of the image.
LINEAR: dict[str, tuple[Callable[[Tensor], Tensor], torch.dtype]] = {
    "radon": (RadonOperator(GRID, SCAN), torch.float64),
    "weighted radon": (RadonOperator(GRID, SCAN, torch.rand(6, 14, dtype=torch.float64) + 0.5), torch.float64),
    "backprojection": (lambda x: filtered_backprojection(x @ x.new_ones(7, 14), SUBSET, GRID), torch.float64),
    "cartesian": (cartesian(), torch.complex128),
    "gram": (cartesian().gram, torch.complex128),
    "solve, radon": (lambda x: solve_normal(RadonOperator(GRID, SCAN), x, 3.0, max_iterations=40), torch.float64),
    "solve, cartesian": (lambda x: solve_normal(cartesian(), x, 0.3, max_iterations=40), torch.complex128),
}
SUBSET = ParallelBeam(tuple(index * math.pi / 8 for index in range(8)), 14, 1.0)


@pytest.fixture(autouse=True)
def only_own_warnings() -> None:
    warnings.simplefilter("ignore", FutureWarning)  # torch's own


#: A solve with a projection differentiates each iteration, which takes long.
SLOW = [pytest.param(name, marks=pytest.mark.slow) if name == "solve, radon" else name for name in LINEAR]


@pytest.mark.parametrize("name", SLOW)
def test_transforms_of_a_linear_function(name: str) -> None:
    A, dtype = LINEAR[name]
    draw = torch.Generator().manual_seed(0)
    x, u = torch.randn(2, 3, 8, 7, dtype=dtype, generator=draw)
    y = A(x[0])
    close = {"rtol": 1e-7, "atol": 1e-9}
    # Reverse: equal to ordinary autograd.
    leaf = x[0].clone().requires_grad_()
    expected = torch.autograd.grad(A(leaf), leaf, y)[0]
    torch.testing.assert_close(vjp(A, x[0])[1](y)[0], expected, **close)
    # Forward: a linear function is its own derivative.
    value, tangent = jvp(A, (x[0],), (u[0],))
    torch.testing.assert_close(value, y, **close)
    torch.testing.assert_close(tangent, A(u[0]), **close)
    # Over a batch: one gradient per sample.
    one = x.clone().requires_grad_()
    each = torch.autograd.grad(energy(A, one), one)[0]
    torch.testing.assert_close(vmap(grad(lambda image: energy(A, image)))(x), each, **close)
    torch.testing.assert_close(vmap(A, in_dims=-1, out_dims=-1)(x.movedim(0, -1)).movedim(-1, 0), A(x), **close)


def energy(A: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    return A(image).abs().square().sum()


@pytest.mark.parametrize(
    "name", [name for name in SLOW if not isinstance(name, str) or LINEAR[name][1] == torch.float64]
)
def test_matrices_of_a_linear_function(name: str) -> None:
    A = LINEAR[name][0]
    x = torch.randn(8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis = torch.eye(56, dtype=torch.float64).reshape(56, 8, 7)
    matrix = A(basis).movedim(0, -1).reshape(*A(x).shape, 8, 7)
    for jacobian in (jacrev(A)(x), jacfwd(A)(x)):
        torch.testing.assert_close(jacobian, matrix, rtol=1e-6, atol=1e-9)
    flat = matrix.reshape(-1, 56)
    found = hessian(lambda image: energy(A, image))(x).reshape(56, 56)
    torch.testing.assert_close(found, 2 * flat.T @ flat, rtol=1e-6, atol=1e-8)


def test_the_implicit_gradient_of_a_learned_weight_has_no_second_derivative_and_says_so() -> None:
    A, weight = cartesian(), torch.tensor(0.4, dtype=torch.float64)
    b = torch.randn(8, 7, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))

    def value(w: Tensor, kind: Literal["implicit", "unrolled"]) -> Tensor:
        return energy(lambda x: solve_normal(A, x, w, max_iterations=60, gradient=kind), b)

    torch.testing.assert_close(grad(value)(weight, "implicit"), grad(value)(weight, "unrolled"), rtol=1e-6, atol=0)
    leaf = weight.clone().requires_grad_()
    first = torch.autograd.grad(value(leaf, "implicit"), leaf, create_graph=True)[0]
    for ask in (lambda: torch.autograd.grad(first, leaf), lambda: jacrev(grad(value))(weight, "implicit")):
        with pytest.raises(RuntimeError, match="gradient='unrolled'"):
            ask()


@pytest.mark.parametrize("kind", list(OPERATORS.values()), ids=list(OPERATORS))
def test_every_operator_works_under_torch_func(kind: type[LinearOperator]) -> None:
    draw = torch.Generator().manual_seed(0)
    A = kind.example(draw)
    batch = tuple(A.norm.shape)
    x = torch.randn(2, *batch, *A.domain_shape, dtype=A.dtype, generator=draw)
    y = A(x)
    torch.testing.assert_close(vjp(A, x[0])[1](y[0])[0], A.adjoint(y[0]), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(jvp(A, (x[0],), (x[1],))[1], y[1], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(vmap(A)(x), y, rtol=1e-7, atol=1e-9)
