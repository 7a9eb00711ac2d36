"""Solvers against dense linear algebra; the implicit gradient against the unrolled and the exact one."""

import pytest
import torch

from physics import CartesianMRI, conjugate_gradient, power_iteration, solve_normal
from physics.mri.cartesian import CartesianGram


def positive_definite(n: int, seed: int = 0) -> torch.Tensor:
    a = torch.randn(n, n, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    return a @ a.conj().T + torch.eye(n)


def problem(batch: int = 2) -> tuple[CartesianMRI, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, 3, 6, 5, dtype=torch.complex128, generator=generator)
    A = CartesianMRI(maps, torch.tensor([True, False, True, True, False]))
    return A, torch.randn(batch, 6, 5, dtype=torch.complex128, generator=generator)


def test_conjugate_gradient_solves_a_dense_system() -> None:
    matrix = positive_definite(12)
    b = torch.randn(12, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    found = conjugate_gradient(lambda x: matrix @ x, b, tolerance=1e-12)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, b), rtol=1e-9, atol=1e-9)


def test_it_stops_and_starts_where_it_is_told() -> None:
    matrix = positive_definite(12)
    calls = 0

    def apply(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return matrix @ x

    b = torch.randn(12, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    solution = conjugate_gradient(apply, b, max_iterations=5)
    assert calls == 5
    assert (matrix @ solution - b).norm() < b.norm()
    exact = torch.linalg.solve(matrix, b)
    calls = 0
    torch.testing.assert_close(conjugate_gradient(apply, b, x0=exact), exact)
    assert calls == 1


def test_a_sample_does_not_depend_on_its_neighbors() -> None:
    A, b = problem()
    b = torch.stack((b[0], torch.zeros_like(b[0])))
    together = solve_normal(A, b, 0.1, max_iterations=40, tolerance=1e-10)
    alone = solve_normal(CartesianMRI(A.maps[0], A.mask), b[0], 0.1, max_iterations=40, tolerance=1e-10)
    torch.testing.assert_close(together[0], alone, rtol=1e-10, atol=1e-10)
    assert (together[1] == 0).all()


def test_zero_right_hand_side_with_fixed_iterations() -> None:
    A, b = problem()
    assert (solve_normal(A, torch.zeros_like(b), 0.1) == 0).all()


@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_solve_normal_solves_and_its_gradient_is_exact_at_convergence(gradient: str) -> None:
    A, b = problem()
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    b = b.requires_grad_()

    def solution(rhs: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return solve_normal(A, rhs, w, max_iterations=60, tolerance=1e-14, gradient=gradient)

    x = solution(b, weight)
    torch.testing.assert_close(A.gram(x) + weight[:, None, None] * x, b, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(solution, (b, weight), fast_mode=True)


def test_the_implicit_gradient_converges_to_the_unrolled_one() -> None:
    A, b = problem()

    def gradient(kind: str, iterations: int) -> torch.Tensor:
        weight = torch.tensor(0.3 * float(A.norm.max()) ** 2, dtype=torch.float64, requires_grad=True)
        x = solve_normal(A, b, weight, max_iterations=iterations, gradient=kind)
        (found,) = torch.autograd.grad(x.abs().square().sum(), weight)
        return found

    exact = gradient("unrolled", 60)
    errors = [float((gradient("implicit", n) - exact).abs() / exact.abs()) for n in (2, 4, 8, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10 < errors[0]


def test_the_implicit_gradient_of_a_constant_operator_costs_one_solve_more(monkeypatch: pytest.MonkeyPatch) -> None:
    A, b = problem()
    calls, apply = list[CartesianGram](), CartesianGram._forward

    def counted(gram: CartesianGram, x: torch.Tensor) -> torch.Tensor:
        calls.append(gram)
        return apply(gram, x)

    monkeypatch.setattr(CartesianGram, "_forward", counted)
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    solution = solve_normal(A, b, weight, max_iterations=3)
    assert len(calls) == 3
    solution.abs().sum().backward()
    assert len(calls) == 6


def test_unknown_gradient_is_named() -> None:
    A, b = problem()
    with pytest.raises(ValueError, match="'exact', expected 'implicit' or 'unrolled'"):
        solve_normal(A, b, 0.1, gradient="exact")  # type: ignore[arg-type]


def test_power_iteration_finds_the_largest_singular_value() -> None:
    A, _ = problem()
    unit = torch.eye(30, dtype=torch.complex128).reshape(30, 6, 5)
    for index in range(2):
        single = CartesianMRI(A.maps[index], A.mask)
        exact = torch.linalg.matrix_norm(single(unit).reshape(30, -1), 2)
        torch.testing.assert_close(power_iteration(single, iterations=300), exact, rtol=1e-4, atol=0)
        assert power_iteration(A, iterations=300)[index] <= A.norm[index]


def test_gradients_stay_finite_after_convergence() -> None:
    """One coil: the Gram is a projection, and two iterations solve the system exactly."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(64) % 3 == 0
    A = CartesianMRI(torch.ones(1, 1, 64, 64, dtype=torch.complex64), mask)
    x, object_ = (1e-4 * torch.randn(1, 64, 64, dtype=torch.complex64, generator=generator) for _ in range(2))
    y = A(object_)
    x.requires_grad_()
    weight = torch.tensor([1e-4], requires_grad=True)
    z = solve_normal(A, A.adjoint(y) + 1e-4 * x, weight, x0=x, max_iterations=8, gradient="unrolled")
    z.abs().sum().backward()
    for tensor in (x, weight):
        assert tensor.grad is not None and bool(tensor.grad.isfinite().all())
