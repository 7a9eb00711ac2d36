"""Data-consistency layers: the part of an unrolled network that applies the forward operator and stays at the site."""

import itertools
import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from physics import LinearOperator, per_sample, reciprocal, solve_normal


class SitePart(nn.Module):
    """A part of a network that belongs to a site: its parameters are kept there by default."""


class SiteStrength(SitePart):
    r"""Learned strength of the regularizer R at a site, :math:`x + \gamma (R(x) - x)` with :math:`\gamma = e^g`.

    The balance of prior and data depends on dose and sampling, so every site keeps its own strength.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, refined: Tensor) -> Tensor:
        out: Tensor = x + self.log_strength.exp() * (refined - x)
        return out


class SiteDataConsistency(SitePart, ABC):
    """A layer that moves an image towards agreement with its measurement.

    ``uses_backprojection``: the layer needs :math:`A^H y`, which a network computes once for all layers.
    ``uses_noise``: the layer takes the keyword ``noise_std``, see :class:`NoiseProximalStep`.
    """

    uses_backprojection = True
    uses_noise = False
    #: Name of the one modality that it is made for; empty: any.
    only_for = ""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        r"""Image in better agreement with ``y``, shape of ``x``.

        Parameters
        ----------
        x
            Image, shape ``(*batch, *A.domain_shape)``.
        y
            Measurement, shape ``(*batch, *A.range_shape)``.
        A
            Forward operator of the batch.
        backprojection
            :math:`A^H y`, if the caller has computed it: it is the same in every cascade.
        """


class GradientStep(SiteDataConsistency):
    r"""Gradient steps, :math:`x - \frac{\alpha_k}{\|A\|^2} A^H (A x - y)`, with learned :math:`\alpha_k = e^{a_k} > 0`.

    In units of the operator norm the same initial values suit every scanner.

    Parameters
    ----------
    step
        Initial :math:`\alpha`; gradient descent alone converges below 2.
    iterations
        Number of steps, each with one application of :math:`A^H A`. The initial sizes of several are those of
        :class:`ChebyshevStep`, times ``step``.
    smallest
        Lower end of their range of eigenvalues of :math:`A^H A / \|A\|^2`, between 0 and 1.
    """

    def __init__(self, step: float = 1.0, iterations: int = 1, smallest: float = 0.1) -> None:
        super().__init__()
        sizes = _chebyshev_steps(type(self).__name__, iterations, smallest)
        first = _log(step, "GradientStep: step")
        self.log_step = nn.Parameter(first if iterations == 1 else first + sizes.log())

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        b = A.adjoint(y) if backprojection is None else backprojection
        unit = reciprocal(A.norm**2)
        for step in self.log_step.exp().reshape(-1):
            x = x - per_sample(step * unit, len(A.domain_shape)) * (A.gram(x) - b)
        return x


class ProximalStep(SiteDataConsistency):
    r"""Proximal step, :math:`\arg\min_z \|A z - y\|^2 + \lambda \|A\|^2 \|z - x\|^2`, by conjugate gradients.

    Parameters
    ----------
    weight
        Initial :math:`\lambda > 0`, learned on a logarithmic scale.
    iterations
        Conjugate-gradient iterations.
    gradient
        ``"implicit"`` or ``"unrolled"``; for their accuracy see :func:`physics.solve_normal`.

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
        # The operator of an empty slice is zero: any positive damping returns x unchanged.
        weight = self.log_weight.exp() * torch.where(norm > 0, norm**2, 1.0)
        rhs = b + per_sample(weight, len(A.domain_shape)) * x
        return solve_normal(A, rhs, weight, x0=x, max_iterations=self.iterations, gradient=self.gradient)


class NoiseProximalStep(SiteDataConsistency):
    r"""Proximal step weighted by the noise of the scan, :math:`\arg\min_z \|A z - y\|^2 / \sigma^2 + e^w \|z - x\|^2`.

    The step of a Gaussian prior around x whose precision :math:`e^w` is learned in units of the normalized image. A
    noisy scan is trusted less than a clean one; a step size or a weight that a site learns cannot know this, because
    the scans of a site differ.

    Parameters
    ----------
    precision
        Initial :math:`e^w > 0`, learned on a logarithmic scale. :math:`e^w \sigma^2` is limited to :math:`10^{-4}` to
        :math:`10` times :math:`\|A\|^2`.
    iterations
        Conjugate-gradient iterations; their gradient is exact.
    """

    uses_noise = True

    def __init__(self, precision: float = 30.0, iterations: int = 4) -> None:
        super().__init__()
        self.log_precision = nn.Parameter(_log(precision, "NoiseProximalStep: precision"))
        self.iterations = iterations

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        A: LinearOperator,
        backprojection: Tensor | None = None,
        *,
        noise_std: Tensor | None = None,
    ) -> Tensor:
        r"""As :meth:`SiteDataConsistency.forward`.

        Parameters
        ----------
        noise_std
            :math:`\sigma`, :math:`\sqrt{E |n|^2}` per number of ``y``, ``(*batch,)``; None: estimated from ``y``.
        """
        b = A.adjoint(y) if backprojection is None else backprojection
        sigma = A.estimate_noise_std(y) if noise_std is None else noise_std
        norm = A.norm
        # The operator of an empty slice is zero: any positive damping returns x unchanged.
        largest = torch.where(norm > 0, norm**2, 1.0)
        weight = (self.log_precision.exp() * sigma**2).clamp(1e-4 * largest, 10 * largest)
        rhs = b + per_sample(weight, len(A.domain_shape)) * x
        return solve_normal(A, rhs, weight, x0=x, max_iterations=self.iterations, gradient="unrolled")


class FilteredStep(SiteDataConsistency):
    r"""Preconditioned step, :math:`x - \alpha\, S(A x - y)`, where S is ``A.start``.

    In CT, S is filtered back-projection: all frequencies converge at the same rate, whereas gradient descent needs
    hundreds of steps for fine detail. In MRI, S is a few iterations of CG-SENSE.

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
    r"""Step :math:`x - \alpha\, P (A x - y)` with the normalized adjoint P of the operator; in CT the step of SIRT.

    Parameters
    ----------
    step
        Initial :math:`\alpha > 0`, learned on a logarithmic scale; the iteration alone converges below 2.
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
        """Weights of the residual, broadcastable to the measurement; None for no weights."""
        return None


class ChebyshevStep(NormalizedStep):
    r"""Several normalized steps of different sizes: a single step hardly changes the directions that few views measure.

    The initial sizes are one over the roots of a Chebyshev polynomial [V]_. Among all sequences of this length they
    give the smallest error bound for eigenvalues of :math:`P A` between ``smallest`` and 1. The sizes are learned.

    Parameters
    ----------
    iterations
        Number of steps, each with one projection and one back-projection; a single step has the initial size 1.
    smallest
        Lower end of the eigenvalue range, between 0 and 1.

    References
    ----------
    .. [V] Varga, Matrix Iterative Analysis, 1962, chapter 5.
    """

    def __init__(self, iterations: int = 6, smallest: float = 0.02) -> None:
        super().__init__()
        sizes = _chebyshev_steps(type(self).__name__, iterations, smallest)
        if iterations > 1:
            self.log_steps = nn.Parameter(sizes.log())


class WeightedStep(ChebyshevStep):
    r"""Normalized steps :math:`x - \alpha_k\, P W (A x - y)` with a learned positive profile W of the measurement.

    W depends on the distance from the center of k-space in MRI, on the detector element in CT. It can give more weight
    to samples that a site measures well; it is 1 at the start.

    Parameters
    ----------
    knots
        Number of values of log W, with linear interpolation in between.
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
    r"""The dual step of learned primal-dual: a small CNN in sinogram space with a dual variable h as its memory.

    :math:`h' = A x - y + \Gamma(h, A x, y)` and :math:`x' = x - \alpha P h'` with the normalized adjoint P of the
    operator. The CNN :math:`\Gamma` is zero at the start: the untrained layer is a :class:`NormalizedStep`. Real
    measurements only.

    Parameters
    ----------
    channels, layers
        Channels and layers of the CNN.
    step
        Initial :math:`\alpha > 0`, learned on a logarithmic scale.

    References
    ----------
    .. [LPD] Adler and Oktem, Learned primal-dual reconstruction, IEEE Trans. Med. Imaging 37, 2018.
    """

    uses_backprojection = False
    only_for = "ct"

    def __init__(self, channels: int = 8, layers: int = 3, step: float = 1.0) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"DualStep: layers is {layers}, expected at least 2")
        self.log_step = nn.Parameter(_log(step, "DualStep: step"))
        self.dual = cnn_from_zero(3, channels, layers, 1)

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        return self.update(x, y, A, None)[0]

    def update(self, x: Tensor, y: Tensor, A: LinearOperator, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """New image and dual variable; ``memory`` is the dual variable of the previous step, None in the first.

        Raises
        ------
        TypeError
            If the measurement is complex.
        """
        if y.is_complex():
            raise TypeError("DualStep: measurement is complex, expected a sinogram; use another data consistency")
        projected = A(x)
        previous = torch.zeros_like(y) if memory is None else memory
        # Line integrals are sums over the image; the norm scales them to order one for the CNN.
        norm = per_sample(A.norm, 2)
        stacked = torch.stack((previous, projected, y), dim=-3) * per_sample(reciprocal(A.norm), 3)
        learned = self.dual(stacked.reshape(-1, *stacked.shape[-3:])).reshape(y.shape)
        dual = projected - y + norm * learned
        out: Tensor = x - self.log_step.exp() * A.normalized_adjoint(dual)
        return out, dual


def cnn_from_zero(n_in: int, channels: int, layers: int, n_out: int) -> nn.Sequential:
    """A plain CNN whose output is zero at the start, because its last layer is."""
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise([n_in] + [channels] * (layers - 1)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    last = nn.Conv2d(channels, n_out, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(*parts, last)


def _chebyshev_steps(who: str, iterations: int, smallest: float) -> Tensor:
    """One over the roots of the Chebyshev polynomial on ``[smallest, 1]``."""
    if iterations < 1:
        raise ValueError(f"{who}: iterations is {iterations}, expected at least 1")
    if not 0 < smallest < 1:
        raise ValueError(f"{who}: smallest is {smallest}, expected a number between 0 and 1")
    angles = math.pi * (torch.arange(iterations) + 0.5) / iterations
    roots = (1 + smallest) / 2 + (1 - smallest) / 2 * angles.cos()
    # Large and small steps alternate, the largest first: a large last step would amplify rounding errors.
    ordered = torch.stack((roots.flip(0), roots), dim=1).flatten()[:iterations]
    return ordered.reciprocal()


def _log(value: float, what: str) -> Tensor:
    if not value > 0:
        raise ValueError(f"{what} is {value}, expected a positive number")
    return torch.tensor(value).log()


class NoStep(SiteDataConsistency):
    """No data consistency: the control that shows the effect of the physics."""

    uses_backprojection = False

    def forward(self, x: Tensor, y: Tensor, A: LinearOperator, backprojection: Tensor | None = None) -> Tensor:
        return x
