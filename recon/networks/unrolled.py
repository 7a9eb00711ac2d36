"""Unrolled reconstruction networks, called as ``network(y, A)``."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from physics import LinearOperator, per_sample

from ..method import image_scale
from .conditioning import StepScale
from .data_consistency import DualStep, SiteDataConsistency, SiteStrength
from .error_bars import ErrorBars
from .noise_level import noise_map
from .operator_corrections import OperatorCorrection
from .regularizers import Regularizer


class UnrolledNetwork(nn.Module):
    r"""Start image, then ``cascades`` times data consistency followed by a regularizer.

    The network divides by a robust maximum of the start image and multiplies the result back: :math:`f(a y) = a f(y)`
    for any units of the scanner. It does not for quantitative operators (CT), so that bone and water have the same
    values at every site.

    Parameters
    ----------
    cascades
        Number of iterations.
    consistency, regularizer
        Constructors of one layer, called once per cascade (the regularizer once if shared). With ``memory`` that of the
        regularizer gets the keywords ``memory_in`` and ``memory_out``.
    share_regularizer
        One regularizer for all cascades; it is registered and sent once.
    ends_in
        ``"regularizer"``, or ``"consistency"``: one more data-consistency layer at the end, which restores the
        measured samples together with the noise of the background.
    combine
        ``"sequence"``: the regularizer gets the image after data consistency. ``"sum"``: both get the same image and
        their changes are added, as in a gradient step on a regularized cost (LEARN [L]_, the variational network).
    site_strength
        Every cascade has a :class:`SiteStrength`, kept at the site.
    start
        ``"operator"``: ``A.start(y)``, which is filtered back-projection or a few iterations of CG-SENSE.
        ``"adjoint"``: the scaled adjoint; in MRI the zero-filled image, darker where the maps are small.
    step_scale
        Constructor of one layer per cascade that maps the condition to a factor of the data-consistency step.
    correction
        Constructor of an :class:`OperatorCorrection`, applied first.
    uses_condition
        Whether the regularizers take the condition.
    tells_noise
        Whether the regularizers are told the noise of the image per pixel, see :func:`noise_map`.
    noise_level
        The same, and a clean image is changed less than a noisy one: by ten times the noise, but at least by a tenth
        and at most by all of what the regularizer says. Worse, as aliases are no noise; for networks trained so.
    memory
        Channels that pass from each regularizer to the next beside the image; data consistency does not see them. So a
        regularizer knows what those before it have found, and few layers in each are enough (as the memory of learned
        primal-dual [P]_ and of MADUN [M]_).
    error_bars
        Whether :class:`ErrorBars` tell a half-width of every pixel. They change no image.

    References
    ----------
    .. [L] Chen et al., LEARN: Learned experts' assessment-based reconstruction network for sparse-data CT, IEEE Trans.
       Med. Imaging 37, 2018.
    .. [P] Adler and Oktem, Learned primal-dual reconstruction, IEEE Trans. Med. Imaging 37, 2018.
    .. [M] Song, Chen and Zhang, Memory-augmented deep unfolding network for compressive sensing, ACM Multimedia 2021.
    """

    def __init__(
        self,
        cascades: int,
        consistency: Callable[[], SiteDataConsistency],
        regularizer: Callable[..., Regularizer],
        *,
        share_regularizer: bool = False,
        ends_in: Literal["regularizer", "consistency"] = "regularizer",
        combine: Literal["sequence", "sum"] = "sequence",
        site_strength: bool = False,
        start: Literal["operator", "adjoint"] = "operator",
        step_scale: Callable[[], StepScale] | None = None,
        correction: Callable[[], OperatorCorrection] | None = None,
        uses_condition: bool = False,
        tells_noise: bool = False,
        noise_level: bool = False,
        memory: int = 0,
        error_bars: bool = False,
    ) -> None:
        super().__init__()
        if cascades < 1:
            raise ValueError(f"UnrolledNetwork: cascades is {cascades}, expected at least 1")
        if memory < 0:
            raise ValueError(f"UnrolledNetwork: memory is {memory}, expected 0 or more channels")
        if ends_in not in ("regularizer", "consistency"):
            raise ValueError(f"UnrolledNetwork: ends_in is {ends_in!r}, expected 'regularizer' or 'consistency'")
        if combine not in ("sequence", "sum"):
            raise ValueError(f"UnrolledNetwork: combine is {combine!r}, expected 'sequence' or 'sum'")
        if start not in ("operator", "adjoint"):
            raise ValueError(f"UnrolledNetwork: start is {start!r}, expected 'operator' or 'adjoint'")
        self.cascades, self.combine, self.start = cascades, combine, start
        self._regularizers_use_condition, self._regularizers_use_noise = uses_condition, tells_noise or noise_level
        self._changes_clean_images_less = noise_level
        n_consistency = cascades + (ends_in == "consistency")
        # Shared parts are drawn first: they start equal at all sites, whatever kept parts a site has.
        regularizers = [
            regularizer(**_memory_of(index, cascades, memory, share_regularizer))
            for index in range(1 if share_regularizer else cascades)
        ]
        scales = [] if step_scale is None else [step_scale() for _ in range(n_consistency)]
        bars = ErrorBars(noise_level=self._regularizers_use_noise) if error_bars else None
        self.correction = None if correction is None else correction()
        self.consistency = nn.ModuleList(consistency() for _ in range(n_consistency))
        if len(self._layers) < n_consistency:
            found = type(self.consistency[0]).__name__
            raise ValueError(f"consistency: found {found}, expected a subclass of recon.SiteDataConsistency")
        self.strengths = nn.ModuleList(SiteStrength() for _ in range(cascades if site_strength else 0))
        self.regularizers = nn.ModuleList(regularizers)
        self.scales = nn.ModuleList(scales)
        self.error_bars = bars

    @property
    def uses_condition(self) -> bool:
        """Whether the network must be called with a condition."""
        return self._regularizers_use_condition or len(self.scales) > 0

    @property
    def uses_noise(self) -> bool:
        """Whether the network uses the noise level of the measurement."""
        return self._regularizers_use_noise or any(layer.uses_noise for layer in self._layers)

    @property
    def _layers(self) -> list[SiteDataConsistency]:
        return [layer for layer in self.consistency if isinstance(layer, SiteDataConsistency)]

    def forward(
        self, y: Tensor, A: LinearOperator, condition: Tensor | None = None, noise_std: Tensor | None = None
    ) -> Tensor:
        r"""Reconstruct, ``(*batch, *A.range_shape) -> (*batch, *A.domain_shape)``, in the units of ``y``.

        Parameters
        ----------
        condition
            Features of the scan, if the network uses them.
        noise_std
            :math:`\sqrt{E |n|^2}` per number of ``y``, ``(*batch,)``, if the network :attr:`uses_noise`. None or 0:
            unknown, and estimated from ``y``.

        Raises
        ------
        ValueError
            If the network uses a condition and gets none, or gets a condition or a noise level and uses none.
        """
        if (condition is not None) != self.uses_condition:
            found = "none" if condition is None else f"one of shape {tuple(condition.shape)}"
            raise ValueError(
                f"UnrolledNetwork: got {found} as condition, expected "
                + ("one; set network.condition to none where samples have none" if condition is None else "none")
            )
        if noise_std is not None and not self.uses_noise:
            raise ValueError(f"UnrolledNetwork: got noise_std of shape {tuple(noise_std.shape)}, expected none")
        if self.correction is not None:
            y, A = self.correction(y, A)
        start = A.start(y) if self.start == "operator" else LinearOperator.normalized_adjoint(A, y)
        noise = _known_noise(y, A, noise_std) if self.uses_noise else None
        if A.quantitative:
            return self._iterate(start, y, A, condition, noise, torch.ones((), device=y.device))
        # A complex factor: the network turns with the image, and sees images that are mostly real and positive.
        n_domain = len(A.domain_shape)
        scale = image_scale(start, n_domain)
        turned = scale * _mean_phase(start, n_domain)
        x, y = start / per_sample(turned, n_domain), y / per_sample(turned, len(A.range_shape))
        image = self._iterate(x, y, A, condition, None if noise is None else noise / scale, scale)
        return image * per_sample(turned, n_domain)

    def _iterate(
        self, x: Tensor, y: Tensor, A: LinearOperator, condition: Tensor | None, noise: Tensor | None, scale: Tensor
    ) -> Tensor:
        """The image in units of ``scale``; the half-widths of the error bars are in those of the measurement."""
        start, changes = x, list[Tensor]()
        level: Tensor | None = None
        backprojection = A.adjoint(y) if any(layer.uses_backprojection for layer in self._layers) else None
        dual: Tensor | None = None
        memory: Tensor | None = None
        told: tuple[Tensor | None, ...] = (condition if self._regularizers_use_condition else None,)
        strength: Tensor | None = None
        if noise is not None and self._regularizers_use_noise:
            level = noise_map(A, noise)
            told = (*told, (level.clamp(1e-4, 10).log() + 4) / 2)
            if self._changes_clean_images_less:
                strength = (10 * level).clamp(0.1, 1)
        for index, layer in enumerate(self._layers):
            before = x
            if isinstance(layer, DualStep):
                x, dual = layer.update(x, y, A, dual)
            elif layer.uses_noise:
                x = layer(x, y, A, backprojection, noise_std=noise)
            else:
                x = layer(x, y, A, backprojection)
            if self.scales:
                factor = per_sample(self.scales[index](condition), len(A.domain_shape))
                x = before + factor * (x - before)
            if index < self.cascades:
                seen = before if self.combine == "sum" else x
                regularizer = self.regularizers[index % len(self.regularizers)]
                refined, memory = _refined(regularizer, seen, told, memory, len(A.domain_shape))
                if strength is not None:
                    refined = seen + strength * (refined - seen)
                if self.strengths:
                    refined = self.strengths[index](seen, refined)
                if self.error_bars is not None:
                    changes.append(refined.detach() - seen.detach())
                x = x + refined - seen if self.combine == "sum" else refined
        if self.error_bars is not None:
            self.error_bars(x, start, changes[0], changes[-1], level, scale)  # read by `recorded_half_widths`
        return x


def _memory_of(cascade: int, cascades: int, channels: int, shared: bool) -> dict[str, int]:
    """Arguments of a regularizer with memory: the first has none before it, the last none behind it."""
    if not channels:
        return {}
    if shared:
        return {"memory_in": channels, "memory_out": channels}
    return {"memory_in": channels * (cascade > 0), "memory_out": channels * (cascade < cascades - 1)}


def _refined(
    regularizer: nn.Module, x: Tensor, told: tuple[Tensor | None, ...], memory: Tensor | None, n_domain: int
) -> tuple[Tensor, Tensor | None]:
    """The refined image, ``(*batch, *A.domain_shape)``, by a regularizer of as many axes, of fewer, or of more.

    One of fewer axes refines frames or slices one by one, each with the condition of its sample. One of more axes
    gets axes of size 1: a single frame, or a single slice. It never mixes the samples of a batch. The memory for the
    next one comes with it; None: this one has none.
    """
    n_axes = getattr(regularizer, "image_axes", 2)
    more, condition = n_domain - n_axes, told[0] if told else None
    if more > 0 and condition is not None and condition.ndim > 1:
        between = x.shape[x.ndim - n_domain : x.ndim - n_axes]
        batch = condition.shape[:-1]
        told = (condition.reshape(*batch, *([1] * more), -1).expand(*batch, *between, -1), *told[1:])
    if more >= 0:
        return _called(regularizer, x, told, memory)
    shape = (*x.shape[: x.ndim - n_domain], *([1] * -more), *x.shape[x.ndim - n_domain :])
    level = tuple(None if one is None else one.reshape(shape) for one in told[1:])
    refined, memory = _called(regularizer, x.reshape(shape), (*told[:1], *level), memory)
    return refined.reshape(x.shape), memory


def _called(
    regularizer: nn.Module, x: Tensor, told: tuple[Tensor | None, ...], memory: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if isinstance(regularizer, Regularizer) and regularizer.memory_in + regularizer.memory_out:
        return regularizer.with_memory(x, *told, memory=memory)
    image: Tensor = regularizer(x, *told)
    return image, None


def _known_noise(y: Tensor, A: LinearOperator, noise_std: Tensor | None) -> Tensor:
    """The noise level of every sample, estimated where it is unknown."""
    if noise_std is not None and bool((noise_std > 0).all()):
        return noise_std
    estimate = A.estimate_noise_std(y)
    return estimate if noise_std is None else torch.where(noise_std > 0, noise_std, estimate)


def _mean_phase(image: Tensor, n_axes: int) -> Tensor:
    """Unit complex number per sample, the phase of the mean of :math:`|x| x`; 1 where it is zero or the image real."""
    if not image.is_complex():
        return torch.ones((), device=image.device)
    mean = (image.detach().abs() * image.detach()).flatten(image.ndim - n_axes).sum(-1)
    return torch.where(mean.abs() > 0, mean.sgn(), 1)
