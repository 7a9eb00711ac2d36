"""Check the properties that every linear operator must have."""

import torch
from torch import Tensor

from .ct import RadonOperator
from .mri import (
    CartesianGram,
    CartesianMRI,
    CineGram,
    CineMRI,
    CoilMaps,
    FourierTransform,
    NonCartesianGram,
    NonCartesianMRI,
    VolumeGram,
    VolumeMRI,
)
from .operator import Adjoint, Composition, LinearOperator, Sampling, Scaled, Sum
from .registry import Registry
from .solvers import power_iteration


class OperatorError(AssertionError):
    """An operator violates a property; the message names operator, property, error and bound."""


def check_operator(A: LinearOperator, *, tolerance: float | None = None) -> dict[str, float]:
    """Check linearity, adjoint, Gram, norm bound, gradient, batching, fresh outputs, shape errors, empty state.

    Parameters
    ----------
    A
        The operator, with or without batch axes.
    tolerance
        Bound of the relative error; by default 1e-12 in double and 1e-6 in single precision. Ten times larger for
        gradient and norm bound.

    Returns
    -------
        Measured relative error of each property.

    Raises
    ------
    OperatorError
        If a property fails.
    """
    generator = torch.Generator().manual_seed(0)
    single = A.dtype in (torch.complex64, torch.float32)
    bound = tolerance if tolerance is not None else (1e-6 if single else 1e-12)
    batch = tuple(A.norm.shape)

    def draw(*shape: int) -> Tensor:
        real = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        value = torch.view_as_complex(real)
        return (value if A.dtype.is_complex else value.real).to(dtype=A.dtype, device=A.norm.device)

    x, x2, y = draw(*batch, *A.domain_shape), draw(*batch, *A.domain_shape), draw(*batch, *A.range_shape)
    Ax, Ahy = A(x), A.adjoint(y)
    if tuple(Ax.shape) != (*batch, *A.range_shape) or tuple(Ahy.shape) != (*batch, *A.domain_shape):
        raise OperatorError(f"{A!r}: outputs have shapes {tuple(Ax.shape)} and {tuple(Ahy.shape)}, not the declared")
    dot = torch.vdot(y.flatten(), Ax.flatten()) - torch.vdot(Ahy.flatten(), x.flatten())
    errors = {
        "linearity": _relative(A(x - 2.5 * x2), Ax - 2.5 * A(x2)),
        "adjoint": float(dot.abs() / (Ax.norm() * y.norm()).clamp_min(torch.finfo(torch.float32).tiny)),
        "gram": _relative(A.gram(x), A.adjoint(Ax)),
        "batch": _relative(A(torch.stack((x, x2))), torch.stack((Ax, A(x2)))),
        "fresh output": _relative(Ax, A(x)),
        "norm bound": float(
            (power_iteration(A, generator=generator) / A.norm.clamp_min(1e-30) - 1).amax().clamp_min(0)
        ),
        "gradient": _gradient_error(A, x, y),
    }
    limits = {"gradient": 10 * bound, "norm bound": 10 * bound}
    for name, error in errors.items():
        if not error <= limits.get(name, bound):
            raise OperatorError(f"{A!r}: {name} is off by {error:.2e}, allowed {limits.get(name, bound):.0e}")
    if Ax.data_ptr() == A(x2).data_ptr():
        raise OperatorError(f"{A!r}: outputs of two calls share memory; every call must return a fresh tensor")
    if A.state_dict():
        raise OperatorError(f"{A!r}: state_dict holds {sorted(A.state_dict())}; register buffers with persistent=False")
    _require_shape_error(A, draw(*(n + 1 for n in A.domain_shape)))
    return errors


def _gradient_error(A: LinearOperator, x: Tensor, y: Tensor) -> float:
    """Larger error of two gradients: Re<y, A x> has the gradient A^H y in x, and Re<A^H y, x> has A x in y."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    with torch.enable_grad():
        (first,) = torch.autograd.grad(A(x), x, y, create_graph=True)
        (second,) = torch.autograd.grad(first, y, x.detach())
    return max(_relative(first.detach(), A.adjoint(y.detach())), _relative(second, A(x.detach())))


def _require_shape_error(A: LinearOperator, wrong: Tensor) -> None:
    try:
        A(wrong)
    except ValueError as error:
        if str(A.domain_shape) in str(error):
            return
        raise OperatorError(f"{A!r}: the shape error does not name the expected shape: {error}") from None
    raise OperatorError(f"{A!r}: accepts an input of shape {tuple(wrong.shape)}, expected a ValueError")


def _relative(found: Tensor, expected: Tensor) -> float:
    scale = max(float(expected.norm()), torch.finfo(torch.float32).tiny)
    return float((found - expected).norm()) / scale


#: Operators by class name. Each gets the property tests; manifests name those that are made from maps and mask (MRI) or
#: from grid, geometry and ray weights (CT).
OPERATORS: Registry[LinearOperator] = Registry("operator", {
    "Adjoint": Adjoint,
    "CartesianGram": CartesianGram,
    "CartesianMRI": CartesianMRI,
    "CineGram": CineGram,
    "CineMRI": CineMRI,
    "CoilMaps": CoilMaps,
    "Composition": Composition,
    "FourierTransform": FourierTransform,
    "NonCartesianGram": NonCartesianGram,
    "NonCartesianMRI": NonCartesianMRI,
    "RadonOperator": RadonOperator,
    "Sampling": Sampling,
    "Scaled": Scaled,
    "Sum": Sum,
    "VolumeGram": VolumeGram,
    "VolumeMRI": VolumeMRI,
})  # fmt: skip
