"""Site data consistency: the half of an unrolled network that knows the physics and stays at the site."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from physics import LinearOperator, per_sample, reciprocal, solve_normal


class SiteDataConsistency(nn.Module, ABC):
    """Pulls an image towards its measurement. Parameters below this class are kept at the site by default."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        r"""Return an image that explains ``y`` better, shape of ``x``.

        Parameters
        ----------
        x
            Image, shape ``(*batch, *A.domain_shape)``.
        y
            Measurement, shape ``(*batch, *A.range_shape)``.
        A
            Forward operator of the batch.
        backprojection
            :math:`A^H y`, where the caller has it already: it is the same in every cascade.
        """


class GradientStep(SiteDataConsistency):
    r"""One gradient step, :math:`x - \frac{\alpha}{\|A\|^2} A^H (A x - y)`, with a learned :math:`\alpha = e^a > 0`.

    In units of the operator norm one value serves every scanner, and no hand-set bound is needed.

    Parameters
    ----------
    step
        Initial :math:`\alpha`; below 2 the plain iteration converges.
    """

    def __init__(self, step: float = 1.0) -> None:
        super().__init__()
        self.log_step = nn.Parameter(_log(step, "GradientStep: step"))

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        b = A.adjoint(y) if backprojection is None else backprojection
        step = per_sample(self.log_step.exp() * reciprocal(A.norm**2), len(A.domain_shape))
        out: Tensor = x - step * (A.gram(x) - b)
        return out


class ProximalStep(SiteDataConsistency):
    r"""Proximal step, :math:`\arg\min_z \|A z - y\|^2 + \lambda \|A\|^2 \|z - x\|^2`, by conjugate gradients.

    Parameters
    ----------
    weight
        Initial :math:`\lambda > 0`, learned on a logarithmic scale.
    iterations
        Conjugate-gradient iterations.
    gradient
        ``"implicit"`` or ``"unrolled"``; see :func:`physics.solve_normal` for the accuracy of either.

    References
    ----------
    .. [MoDL] Aggarwal, Mani and Jacob, MoDL: Model-Based Deep Learning Architecture for Inverse Problems, 2019.
    """

    def __init__(
        self,
        weight: float = 0.05,
        iterations: int = 6,
        gradient: Literal["implicit", "unrolled"] = "implicit",
    ) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(_log(weight, "ProximalStep: weight"))
        self.iterations = iterations
        self.gradient: Literal["implicit", "unrolled"] = gradient

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        b = A.adjoint(y) if backprojection is None else backprojection
        norm = A.norm
        # An empty slice has a zero operator: any positive damping then returns x unchanged.
        weight = self.log_weight.exp() * torch.where(norm > 0, norm**2, 1.0)
        rhs = b + per_sample(weight, len(A.domain_shape)) * x
        return solve_normal(A, rhs, weight, x0=x, max_iterations=self.iterations, gradient=self.gradient)


def _log(value: float, what: str) -> Tensor:
    if not value > 0:
        raise ValueError(f"{what} is {value}, expected a positive number")
    return torch.tensor(value).log()


#: Data-consistency layers by the name used in recipes.
DATA_CONSISTENCY: dict[str, type[SiteDataConsistency]] = {"gradient": GradientStep, "proximal": ProximalStep}
