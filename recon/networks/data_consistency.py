"""Site data consistency: the half of an unrolled network that knows the physics and stays at the site."""

import itertools
import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from physics import LinearOperator, per_sample, reciprocal, solve_normal


class SitePart(nn.Module):
    """A part of a network that belongs to a site: parameters below this class are kept there by default."""


class SiteStrength(SitePart):
    r"""How far a site follows the regularizer R, :math:`x + \gamma (R(x) - x)` with a learned :math:`\gamma = e^g`.

    The weight of prior against data depends on dose and sampling, so it is the site's own as the step is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, refined: Tensor) -> Tensor:
        out: Tensor = x + self.log_strength.exp() * (refined - x)
        return out


class SiteDataConsistency(SitePart, ABC):
    """Pulls an image towards its measurement.

    ``uses_backprojection`` says whether a network should compute :math:`A^H y` for its layers.
    """

    uses_backprojection = True

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


class FilteredStep(SiteDataConsistency):
    r"""Preconditioned step, :math:`x - \alpha\, S(A x - y)`, where S is the operator's own first image.

    For CT that is filtered back-projection: every frequency converges at the same rate, where plain gradients need
    hundreds of steps for fine detail. For MRI it is a few iterations of CG-SENSE.

    Parameters
    ----------
    step
        Initial :math:`\alpha > 0`, learned on a logarithmic scale.
    """

    uses_backprojection = False

    def __init__(self, step: float = 0.5) -> None:
        super().__init__()
        self.log_step = nn.Parameter(_log(step, "FilteredStep: step"))

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        out: Tensor = x - self.log_step.exp() * A.start(A(x) - y)
        return out


class NormalizedStep(SiteDataConsistency):
    r"""Step :math:`x - \alpha\, P (A x - y)` and the operator's normalized adjoint P, in CT SIRT's row and column sums.

    Parameters
    ----------
    step
        Initial :math:`\alpha > 0`, learned on a logarithmic scale; below 2 the plain iteration converges.
    """

    uses_backprojection = False

    def __init__(self, step: float = 1.0) -> None:
        super().__init__()
        self.log_steps = nn.Parameter(_log(step, "NormalizedStep: step").reshape(1))

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        weights = self.weights(y)
        for step in self.log_steps.exp():
            residual = A(x) - y
            x = x - step * A.normalized_adjoint(residual if weights is None else weights * residual)
        return x

    def weights(self, y: Tensor) -> Tensor | None:
        """What the residual is multiplied by, broadcastable to the measurement; None for nothing."""
        return None


class ChebyshevStep(NormalizedStep):
    r"""Several normalized steps of sizes that help each other: a single one hardly moves what few views see least.

    The initial sizes are one over the roots of a Chebyshev polynomial [V]_, learned from there: the error then shrinks
    fastest among all steps of their number, for eigenvalues of :math:`P A` from the smallest that matters to 1.

    Parameters
    ----------
    iterations
        Number of steps, each a projection and a back-projection; a single one is of size one.
    smallest
        The smallest eigenvalue that matters, between 0 and 1.

    References
    ----------
    .. [V] Varga, Matrix Iterative Analysis, 1962, chapter 5.
    """

    def __init__(self, iterations: int = 6, smallest: float = 0.02) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"{type(self).__name__}: iterations is {iterations}, expected at least 1")
        if not 0 < smallest < 1:
            raise ValueError(f"{type(self).__name__}: smallest is {smallest}, expected a number between 0 and 1")
        if iterations > 1:
            self.log_steps = nn.Parameter(_chebyshev_steps(iterations, smallest).log())


class WeightedStep(ChebyshevStep):
    r"""Normalized steps :math:`x - \alpha_k\, P W (A x - y)` with a learned positive profile W of what was measured.

    In MRI W depends on the distance from the center of k-space, in CT on the detector element: what a site measures
    well counts more. W is one at the start.

    Parameters
    ----------
    knots
        Values of the logarithm of W, linear in between.
    iterations, smallest
        As for :class:`ChebyshevStep`.
    """

    def __init__(self, knots: int = 8, iterations: int = 1, smallest: float = 0.02) -> None:
        super().__init__(iterations, smallest)
        if knots < 2:
            raise ValueError(f"WeightedStep: knots is {knots}, expected at least 2")
        self.log_profile = nn.Parameter(torch.zeros(knots))

    def weights(self, y: Tensor) -> Tensor:
        height, width = y.shape[-2:]
        across = torch.linspace(-1, 1, width, device=y.device)
        if y.is_complex():
            down = torch.linspace(-1, 1, height, device=y.device)
            place = ((across**2 + down[:, None] ** 2) / 2).sqrt()
        else:
            place = (across + 1) / 2
        position = place * (len(self.log_profile) - 1)
        low = position.floor().long().clamp(0, len(self.log_profile) - 2)
        part = position - low
        return ((1 - part) * self.log_profile[low] + part * self.log_profile[low + 1]).exp()


class DualStep(SiteDataConsistency):
    r"""The dual half of learned primal-dual: a small CNN in the space of sinograms that remembers what it said before.

    :math:`h' = A x - y + \Gamma(h, A x, y)` and :math:`x' = x - \alpha P h'` with the operator's normalized adjoint P.
    The CNN starts at zero, so that the untrained layer is a :class:`NormalizedStep`. Real measurements only.

    Parameters
    ----------
    channels, layers
        Of the CNN.
    step
        Initial :math:`\alpha > 0`, learned on a logarithmic scale.

    References
    ----------
    .. [LPD] Adler and Oktem, Learned primal-dual reconstruction, IEEE Trans. Med. Imaging 37, 2018.
    """

    uses_backprojection = False

    def __init__(self, channels: int = 8, layers: int = 3, step: float = 1.0) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"DualStep: layers is {layers}, expected at least 2")
        self.log_step = nn.Parameter(_log(step, "DualStep: step"))
        self.dual = cnn_from_zero(3, channels, layers, 1)

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        return self.update(x, y, A, None)[0]

    def update(self, x: Tensor, y: Tensor, A: LinearOperator, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step; ``memory`` is the dual variable of the step before, None in the first.

        Raises
        ------
        TypeError
            If the measurement is complex.
        """
        if y.is_complex():
            raise TypeError(
                "DualStep: the measurement is complex, expected a sinogram; use another consistency for MRI"
            )
        projected = A(x)
        previous = torch.zeros_like(y) if memory is None else memory
        # A line integral sums over the image; the CNN sees numbers of order one.
        norm = per_sample(A.norm, 2)
        stacked = torch.stack((previous, projected, y), dim=-3) * per_sample(reciprocal(A.norm), 3)
        learned = self.dual(stacked.reshape(-1, *stacked.shape[-3:])).reshape(y.shape)
        dual = projected - y + norm * learned
        out: Tensor = x - self.log_step.exp() * A.normalized_adjoint(dual)
        return out, dual


def cnn_from_zero(n_in: int, channels: int, layers: int, n_out: int) -> nn.Sequential:
    """A plain CNN whose last layer starts at zero: what it is added to is at first as it was."""
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise([n_in] + [channels] * (layers - 1)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    last = nn.Conv2d(channels, n_out, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(*parts, last)


def _chebyshev_steps(iterations: int, smallest: float) -> Tensor:
    """One over the roots of the Chebyshev polynomial on [smallest, 1]."""
    angles = math.pi * (torch.arange(iterations) + 0.5) / iterations
    roots = (1 + smallest) / 2 + (1 - smallest) / 2 * angles.cos()
    # Large and small steps in turn, the largest first: a large one at the end would enlarge rounding errors.
    ordered = torch.stack((roots.flip(0), roots), dim=1).flatten()[:iterations]
    return ordered.reciprocal()


def _log(value: float, what: str) -> Tensor:
    if not value > 0:
        raise ValueError(f"{what} is {value}, expected a positive number")
    return torch.tensor(value).log()


class NoStep(SiteDataConsistency):
    """Leaves the image as it is: the control of what physics brings."""

    uses_backprojection = False

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        return x
