"""Iterative solvers: conjugate gradients, normal equations with two kinds of gradient, power iteration."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from .autograd.constants import is_constant, values_of
from .autograd.differentiable import Differentiable
from .operator import LinearOperator, per_sample, reciprocal


def conjugate_gradient(
    apply: LinearOperator | Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    max_iterations: int = 50,
    tolerance: float = 1e-6,
    x0: Tensor | None = None,
) -> Tensor:
    r"""Solve :math:`M x = b` for a Hermitian positive (semi-)definite :math:`M`.

    Every sample of a batch has its own step sizes and stops once it has converged, so its result does not depend on
    the other samples.

    Parameters
    ----------
    apply
        The matrix M. The domain of a :class:`LinearOperator` tells which trailing axes form one vector; for a plain
        function all of ``b`` is one vector.
    b
        Right-hand side, real or complex.
    max_iterations
        Largest number of applications of M.
    tolerance
        Stop once :math:`\|r\| \le` ``tolerance`` :math:`\|b\|` in every sample. 0 runs all iterations and never
        waits for the device.
    x0
        Start image, zero by default.

    Returns
    -------
        The solution, shape of ``b``.

    References
    ----------
    .. [HS] Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
    """
    n_axes = len(apply.domain_shape) if isinstance(apply, LinearOperator) else b.ndim
    axes = tuple(range(b.ndim - n_axes, b.ndim))

    def inner(u: Tensor, v: Tensor) -> Tensor:
        if not u.is_complex():
            return (u * v).sum(axes, keepdim=True) if axes else u * v
        # One sum over all axes: a sum over pairs of numbers alone takes five times as long.
        product = torch.view_as_real(u) * torch.view_as_real(v)
        return product.sum((*axes, -1), keepdim=True).squeeze(-1)

    x = torch.zeros_like(b) if x0 is None else x0
    r = b if x0 is None else b - apply(x0)
    p, previous = r, None
    # Below rounding the residual is noise, and the reciprocal of its square may be infinite.
    target = max(tolerance, torch.finfo(b.dtype).eps) ** 2 * inner(b, b)
    for _ in range(max_iterations):
        energy = inner(r, r)
        active = energy > target
        if tolerance > 0 and not bool(values_of(active).any()):
            break
        if previous is not None:
            p = r + _quotient(energy, previous, active) * p
        Mp = apply(p)
        # A converged sample takes steps of size zero: no division by zero, no drift.
        alpha = _quotient(energy, inner(p, Mp), active)
        x = x + alpha * p
        r = r - alpha * Mp
        previous = energy
    return x


def _quotient(a: Tensor, b: Tensor, active: Tensor) -> Tensor:
    """``a / b`` where active and b is positive, else 0, with finite derivatives: those of 1 / b overflow early."""
    active = active & (b > 0)
    return torch.where(active, a, 0.0) / torch.where(active, b, 1.0)


def solve_normal(
    A: LinearOperator,
    b: Tensor,
    weight: Tensor | float,
    *,
    x0: Tensor | None = None,
    max_iterations: int = 10,
    tolerance: float = 0.0,
    gradient: Literal["implicit", "unrolled"] = "implicit",
) -> Tensor:
    r"""Solve :math:`(A^H A + w I) x = b` by conjugate gradients.

    Parameters
    ----------
    A
        Operator; its closed-form Gram is used if it has one.
    b
        Right-hand side, shape ``(*batch, *A.domain_shape)``.
    weight
        Damping :math:`w > 0`, a number or shape ``(*batch,)``.
    gradient
        ``"unrolled"`` differentiates the iterations. ``"implicit"`` solves the same system once more in the backward
        pass: its memory does not grow with the iterations, but the gradient is exact only at convergence (8 coils,
        4x: 22 / 10 / 1.7 % off after 4 / 6 / 10 iterations at a weight of 0.05). Both give gradients for ``b``,
        ``weight`` and the operator's own tensors; ``"implicit"`` gives second derivatives for ``b`` alone.

    Returns
    -------
        The solution, shape of ``b``.
    """
    if gradient not in ("implicit", "unrolled"):
        raise ValueError(f"solve_normal: gradient is {gradient!r}, expected 'implicit' or 'unrolled'")
    if isinstance(weight, Tensor):
        weight = per_sample(weight.to(device=b.device, dtype=b.real.dtype), len(A.domain_shape))
    system = _Damped(A.gram, weight)
    if gradient == "unrolled":
        return conjugate_gradient(system, b, max_iterations=max_iterations, tolerance=tolerance, x0=x0)

    return _solve_implicitly(system, max_iterations, tolerance, b, x0)


def _solve_implicitly(
    system: "_Damped", max_iterations: int, tolerance: float, b: Tensor, x0: Tensor | None = None, order: int = 1
) -> Tensor:
    """Conjugate gradients; with gradients enabled the derivative is another such solve, of the next order."""
    solve = partial(conjugate_gradient, system, max_iterations=max_iterations, tolerance=tolerance)
    if not torch.is_grad_enabled():
        return solve(b, x0=x0)
    with torch.no_grad():
        solution = solve(b, x0=x0).detach()  # also from forward derivatives
    if order > 1 and system.is_learned:
        return _FirstDerivative.of(solution, b)
    again = partial(_solve_implicitly, system, max_iterations, tolerance, order=order + 1)
    return _ImplicitSolve.of(b - system.derivable(solution), solution, again)


class _Damped(LinearOperator):
    """``gram + w I``, faster in this inner loop than the same sum in operator algebra."""

    def __init__(self, gram: LinearOperator, w: Tensor | float) -> None:
        super().__init__(gram.domain_shape, gram.domain_shape)
        self.base, self.w = gram, w

    @property
    def is_learned(self) -> bool:
        """Whether the weight or a tensor of the operator requires a gradient."""
        own = (self.w,) if isinstance(self.w, Tensor) else ()
        return any(tensor.requires_grad for tensor in (*own, *self.buffers(), *self.parameters()))

    def _forward(self, x: Tensor) -> Tensor:
        return self.base.forward(x) + self.w * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def derivable(self, x: Tensor) -> Tensor:
        """The part of the image of a constant x that has a derivative: no Gram if its tensors are constants."""
        if all(is_constant(tensor) for tensor in (*self.base.buffers(), *self.base.parameters())):
            return self.w * x
        return self._forward(x)

    @property
    def norm(self) -> Tensor:
        if not isinstance(self.w, Tensor):
            return self.base.norm + self.w
        return self.base.norm + self.w.reshape(self.w.shape[: self.w.ndim - len(self.domain_shape)])


class _ImplicitSolve(Differentiable):
    r"""Value :math:`x^*`, derivative :math:`dx = M^{-1} dr` with the residual :math:`r = b - M x^*`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(residual: Tensor, solution: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        return solution.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Callable[[Tensor], Tensor]], output: Tensor) -> None:
        ctx.solve = inputs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.solve(grads[0]), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        image: Tensor = ctx.solve(tangents[0])
        return image


class _FirstDerivative(Differentiable):
    """The solution of a backward pass, which holds the solution of the forward pass as a constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(solution: Tensor, b: Tensor) -> Tensor:
        return solution.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        raise RuntimeError(
            "solve_normal: second derivatives where the weight or the operator requires a gradient are asked for, "
            "expected first ones; use gradient='unrolled'"
        )


def power_iteration(A: LinearOperator, *, iterations: int = 50, generator: torch.Generator | None = None) -> Tensor:
    """Estimate of the largest singular value per sample, from below; shape of ``A.norm``."""
    real = torch.randn((*A.norm.shape, *A.domain_shape, 2), generator=generator, dtype=torch.float64)
    x = torch.view_as_complex(real).to(A.norm.device)
    x = x.to(A.dtype) if A.dtype.is_complex else x.real.to(A.dtype)
    axes = tuple(range(-len(A.domain_shape), 0))
    gram = A.gram
    estimate = torch.zeros_like(A.norm)
    for _ in range(iterations):
        estimate = x.abs().square().sum(axes).sqrt()
        x = gram(x * per_sample(reciprocal(estimate), len(axes)))
    return x.abs().square().sum(axes).sqrt().sqrt()
