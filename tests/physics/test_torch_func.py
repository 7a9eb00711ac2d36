"""Operators, back-projection and solvers under `torch.func`: the derivatives of ordinary autograd."""

import math
import pickle
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
    CoilMaps,
    FanBeam,
    FourierTransform,
    ImageGrid,
    LinearOperator,
    NonCartesianMRI,
    ParallelBeam,
    RadonOperator,
    Sampling,
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


@pytest.mark.parametrize("part", ["forward", "adjoint", "gram"])
@pytest.mark.parametrize("kind", list(OPERATORS.values()), ids=list(OPERATORS))
def test_every_operator_works_under_torch_func(kind: type[LinearOperator], part: str) -> None:
    draw = torch.Generator().manual_seed(0)
    example = kind.example(draw)
    A = {"forward": example, "adjoint": example.H, "gram": example.gram}[part]
    batch = tuple(A.norm.shape)
    x = torch.randn(2, *batch, *A.domain_shape, dtype=A.dtype, generator=draw)
    y, close = A(x), {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(vjp(A, x[0])[1](y[0])[0], A.adjoint(y[0]), **close)
    torch.testing.assert_close(jvp(A, (x[0],), (x[1],))[1], y[1], **close)
    torch.testing.assert_close(vmap(A)(x), y, **close)
    torch.testing.assert_close(vmap(grad(lambda image: energy(A, image)))(x), 2 * A.adjoint(y), **close)


DRAW = torch.Generator().manual_seed(5)
COLUMNS, POINTS = torch.arange(7) % 3 != 1, torch.rand(8, 7, generator=DRAW) < 0.5
TRAJECTORY = torch.rand(5, 9, 2, dtype=torch.float64, generator=DRAW) - 0.5
FAN = FanBeam(tuple(index * math.pi / 4 for index in range(8)), 20, 1.0, 30.0, 50.0)

#: Operators of a tensor that may be learned, coil maps or weights of rays.
LEARNED: dict[str, Callable[[Tensor], LinearOperator]] = {
    "cartesian": lambda maps: CartesianMRI(maps, COLUMNS),
    "cartesian, points": lambda maps: CartesianMRI(maps, POINTS),
    "cartesian, restricted": lambda maps: CartesianMRI(maps, COLUMNS).restrict(torch.arange(7) < 4),
    "non-cartesian": lambda maps: NonCartesianMRI(maps, TRAJECTORY),
    "non-cartesian, restricted": lambda maps: NonCartesianMRI(maps, TRAJECTORY).restrict(torch.arange(5)[:, None] < 4),
    "coils": CoilMaps,
    "composed": lambda maps: Sampling(POINTS, (3, 8, 7)) @ FourierTransform((3, 8, 7)) @ CoilMaps(maps),
    "parallel beam": lambda weights: RadonOperator(GRID, SCAN, weights),
    "fan beam": lambda weights: RadonOperator(GRID, FAN, weights),
    "fan beam, restricted": lambda weights: RadonOperator(GRID, FAN, weights).restrict(torch.arange(8)[:, None] < 6),
}
PARTS: dict[str, Callable[[LinearOperator, Tensor], Tensor]] = {
    "forward": lambda A, x: A(x),
    "adjoint": lambda A, y: A.adjoint(y),
    "gram": lambda A, x: A.gram(x),
    "norm": lambda A, x: A.norm * x.sum(),
    "normalized adjoint": lambda A, y: A.normalized_adjoint(y),
    "zero-filled": lambda A, y: A.zero_filled(y),
    "start": lambda A, y: A.start(y),
    "implicit": lambda A, x: solve_normal(A, x, 30.0, max_iterations=80),
    "unrolled": lambda A, x: solve_normal(A, x, 3.0, max_iterations=5, gradient="unrolled"),
}


def learned_and_input(name: str, part: str) -> tuple[Tensor, Tensor]:
    """Two values each of the learned tensor and of the input of a part."""
    draw = torch.Generator().manual_seed(1)
    if "beam" in name:
        shape = FAN.shape if "fan" in name else SCAN.shape
        learned, dtype = torch.rand(2, *shape, dtype=torch.float64, generator=draw) + 0.5, torch.float64
    else:
        learned, dtype = torch.randn(2, 3, 8, 7, dtype=torch.complex128, generator=draw), torch.complex128
    A = LEARNED[name](learned[0])
    of_image = part in ("forward", "gram", "norm", "implicit", "unrolled")
    return learned, torch.randn(2, *(A.domain_shape if of_image else A.range_shape), dtype=dtype, generator=draw)


#: A solve takes long under every transform: two operators suffice for quick tests.
LEARNED_PARTS = [
    pytest.param(name, part, marks=[pytest.mark.slow] * (part == "implicit" and name not in ("cartesian", "fan beam")))
    for name in LEARNED
    for part in PARTS
]


@pytest.mark.parametrize(("name", "part"), LEARNED_PARTS)
def test_transforms_of_learned_maps_and_weights(name: str, part: str) -> None:
    def loss(tensor: Tensor, v: Tensor) -> Tensor:
        return PARTS[part](LEARNED[name](tensor), v).abs().square().sum()

    learned, v = learned_and_input(name, part)
    leaf, image = learned.clone().requires_grad_(), v.clone().requires_grad_()
    total = sum(loss(one, at) for one, at in zip(leaf, image, strict=True))
    expected, of_image = torch.autograd.grad(total, (leaf, image))
    slope = (expected[0].conj() * learned[1]).sum().real
    size = 1e-5
    by_steps = (loss(learned[0] + size * learned[1], v[0]) - loss(learned[0] - size * learned[1], v[0])) / (2 * size)
    torch.testing.assert_close(slope, by_steps, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(jvp(loss, (learned[0], v[0]), (learned[1], 0 * v[0]))[1], slope, rtol=1e-5, atol=1e-8)
    for found in (
        grad(loss, (0, 1))(learned[0], v[0]),
        (grad(loss)(learned[0], v[0]), grad(loss, 1)(learned[0], v[0])),
    ):
        torch.testing.assert_close(found, (expected[0], of_image[0]), rtol=1e-6, atol=1e-8)
    each = vmap(grad(loss, (0, 1)))(learned, v)
    torch.testing.assert_close(each, (expected, of_image), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LEARNED)
def test_what_an_operator_keeps_survives_a_transform(name: str) -> None:
    """Norm, spectrum and sums are stored where they are first asked for: nothing of a transform may be left in them."""

    def everything(A: LinearOperator, x: Tensor) -> Tensor:
        y = A(x)
        return A.gram(x) * A.norm + A.normalized_adjoint(y) + A.zero_filled(y) + A.start(y)

    learned, v = learned_and_input(name, "forward")
    expected = everything(LEARNED[name](learned[0]), v[0])
    for transform in (
        lambda f: vmap(f)(v),
        lambda f: grad(lambda x: energy(f, x))(v[0]),
        lambda f: jvp(f, (v[0],), (v[1],)),
        lambda f: vmap(grad(lambda x: energy(f, x)))(v),
    ):
        A = LEARNED[name](learned[0].clone())
        transform(lambda x, A=A: everything(A, x))
        copied = pickle.loads(pickle.dumps(A))
        for operator in (A, copied):
            leaf = v[0].clone().requires_grad_()
            found = everything(operator, leaf)
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
            found.abs().sum().backward()


def test_masks_may_be_mapped_over_and_trajectories_may_not() -> None:
    maps, x = torch.randn(2, 3, 8, 7, dtype=torch.complex128, generator=DRAW), torch.randn(8, 7, dtype=torch.complex128)
    masks = torch.stack((COLUMNS, torch.arange(7) < 3))
    found = vmap(lambda mask: CartesianMRI(maps[0], mask).gram(CartesianMRI(maps[0], mask)(x).sum(0)))(masks)
    expected = [CartesianMRI(maps[0], mask).gram(CartesianMRI(maps[0], mask)(x).sum(0)) for mask in masks]
    torch.testing.assert_close(found, torch.stack(expected))
    with pytest.raises(ValueError, match="trajectory is differentiated or an argument of vmap, expected constant"):
        grad(lambda k: NonCartesianMRI(maps[0], k)(x).abs().sum())(TRAJECTORY)
    with pytest.raises(ValueError, match="keep is an argument of vmap"):
        vmap(lambda keep: NonCartesianMRI(maps[0], TRAJECTORY, keep)(x))(torch.ones(2, 5, 9, dtype=torch.bool))
    # A trajectory that a transform has wrapped but not touched is as good as any.
    found = grad(lambda m: NonCartesianMRI(m, 1.0 * TRAJECTORY)(x).abs().sum())(maps[0])
    leaf = maps[0].clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(NonCartesianMRI(leaf, TRAJECTORY)(x).abs().sum(), leaf)[0])


@pytest.mark.parametrize("name", [name for name in LEARNED if "cartesian" in name])
def test_other_maps_of_an_operator(name: str) -> None:
    """`with_maps` shares all but the maps; learned maps have derivatives of second order."""
    maps, v = learned_and_input(name, "forward")
    first = LEARNED[name](maps[0])
    stored = first.norm.clone()
    assert isinstance(first, CartesianMRI | NonCartesianMRI)
    for given in (maps[1], maps[1].clone().requires_grad_()):
        A, right = first.with_maps(given), LEARNED[name](maps[1])
        torch.testing.assert_close(A(v[0]), right(v[0]))
        torch.testing.assert_close(A.gram(v[0]), right.gram(v[0]))
        torch.testing.assert_close(A.norm, right.norm)
        assert A.norm.requires_grad == A.gram(v[0]).requires_grad == given.requires_grad
    torch.testing.assert_close(first.norm, stored)
    torch.testing.assert_close(first(v[0]), LEARNED[name](maps[0])(v[0]))
    with pytest.raises(ValueError, match=r"with_maps: maps have shape \(2, 8, 7\), expected \(3, 8, 7\)"):
        first.with_maps(maps[0, :2])

    late = first.with_maps(maps[1].clone())
    late.maps.requires_grad_()
    for call in (lambda: late(v[0]), lambda: late.adjoint(first(v[0])), lambda: late.gram(v[0])):
        with pytest.raises(
            RuntimeError, match=r"require a gradient since the operator was made, .*A.with_maps\(A.maps"
        ):
            call()

    def of_maps(m: Tensor, x: Tensor) -> Tensor:
        A = first.with_maps(m)
        return torch.view_as_real(A.adjoint(A(x)) + 1j * A.gram(x))

    leaves = maps[1].clone().requires_grad_(), v[0].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(of_maps, leaves, nondet_tol=1e-8, fast_mode=True)
