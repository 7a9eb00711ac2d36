"""Operators in the graphs of `torch.compile`: whole graphs with the values and derivatives of ordinary calls."""

import math
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from physics import (
    OPERATORS,
    CartesianMRI,
    FanBeam,
    ImageGrid,
    LinearOperator,
    NonCartesianMRI,
    RadonOperator,
    solve_normal,
)

DRAW = torch.Generator().manual_seed(0)
TRAJECTORY = torch.rand(5, 9, 2, dtype=torch.float64, generator=DRAW) - 0.5


@pytest.fixture(autouse=True)
def fresh_graphs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        torch._dynamo.reset()
        yield


def compiled(function: Callable[..., Tensor], *, fullgraph: bool = True) -> Callable[..., Tensor]:
    """Compiled without generated code: what is tested is the graph, not the compiler of the machine."""
    result: Callable[..., Tensor] = torch.compile(function, fullgraph=fullgraph, backend="aot_eager")
    return result


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=DRAW)


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(function(*leaves).abs().square().sum(), leaves)


@pytest.mark.parametrize(
    "part", [pytest.param("forward", marks=pytest.mark.slow), pytest.param("adjoint", marks=pytest.mark.slow), "gram"]
)
@pytest.mark.parametrize("kind", list(OPERATORS.values()), ids=list(OPERATORS))
def test_every_operator_is_one_graph(kind: type[LinearOperator], part: str) -> None:
    example = kind.example(torch.Generator().manual_seed(0))

    def function(v: Tensor) -> Tensor:
        return {"forward": example, "adjoint": example.H, "gram": example.gram}[part](v)

    shape = example.range_shape if part == "adjoint" else example.domain_shape
    v = torch.randn(*example.norm.shape, *shape, dtype=example.dtype, generator=torch.Generator().manual_seed(1))
    run = compiled(function)
    torch.testing.assert_close(run(v), function(v))
    torch.testing.assert_close(gradients(run, v), gradients(function, v))


def test_a_graph_serves_other_operators_too() -> None:
    """A graph that remembered the operator of its first call would be wrong without a word."""
    grid = ImageGrid((8, 7), 1.0)
    fans = [FanBeam(tuple(i * math.pi / 4 + shift for i in range(8)), 20, 1.0, 30.0, 50.0) for shift in (0.0, 0.1)]
    maps = draw(3, 8, 7)
    pairs = [
        ([RadonOperator(grid, fan) for fan in fans], torch.rand(8, 7, dtype=torch.float64)),
        ([NonCartesianMRI(maps, factor * TRAJECTORY) for factor in (1.0, 0.9)], draw(8, 7)),
        ([CartesianMRI(maps, torch.arange(7) % 3 != left_out) for left_out in (0, 1)], draw(8, 7)),
    ]
    for operators, x in pairs:
        run = compiled(lambda A, v: A.gram(v) + A.adjoint(A(v)))
        for A in operators:
            torch.testing.assert_close(run(A, x), A.gram(x) + A.adjoint(A(x)))


@pytest.mark.parametrize(
    "make",
    [
        lambda maps: CartesianMRI(maps, torch.arange(7) % 3 != 1),
        lambda maps: NonCartesianMRI(maps, TRAJECTORY),
        lambda maps: NonCartesianMRI(maps, TRAJECTORY).restrict(torch.arange(5)[:, None] < 4),
    ],
)
def test_learned_maps_have_their_gradient(make: Callable[[Tensor], LinearOperator]) -> None:
    maps, x = draw(3, 8, 7), draw(8, 7)
    run, kept = compiled(lambda A, v: A.gram(v) + A.adjoint(A(v))), list[LinearOperator]()

    def product(m: Tensor, v: Tensor) -> Tensor:
        kept.append(make(m))  # a graph does not keep its operator for the backward pass
        result: Tensor = run(kept[-1], v)
        return result

    found = gradients(product, maps, x)
    torch.testing.assert_close(found, gradients(lambda m, v: 2 * make(m).gram(v), maps, x))


@pytest.mark.slow
def test_what_is_not_one_graph_breaks_it_and_stays_right() -> None:
    A, b = NonCartesianMRI(draw(3, 8, 7), TRAJECTORY), draw(8, 7)

    def function(v: Tensor) -> Tensor:
        return solve_normal(A, v, 0.3 * A.norm**2, max_iterations=3) + A.zero_filled(A(v))

    run = compiled(function, fullgraph=False)
    torch.testing.assert_close(run(b), function(b))
    torch.testing.assert_close(gradients(run, b), gradients(function, b))
    radon = RadonOperator(
        ImageGrid((8, 7), 1.0), FanBeam(tuple(i * math.pi / 4 for i in range(8)), 20, 1.0, 30.0, 50.0)
    )
    x = torch.rand(8, 7, dtype=torch.float64)

    def back_and_forth(v: Tensor) -> Tensor:
        return radon.start(radon(v)) + radon.normalized_adjoint(radon(v))

    run = compiled(back_and_forth, fullgraph=False)
    torch.testing.assert_close(gradients(run, x), gradients(back_and_forth, x))


def test_unrolled_iterations_are_one_graph() -> None:
    A, b = CartesianMRI(draw(3, 8, 7), torch.arange(7) < 4), draw(8, 7)

    def function(v: Tensor) -> Tensor:
        return solve_normal(A, v, 0.5, max_iterations=2, gradient="unrolled")

    torch.testing.assert_close(gradients(compiled(function), b), gradients(function, b))
