r"""What a site minimizes: a task term on its measurements, plus penalties that tie it to the other sites.

A task calls the network and returns a loss with the image that it was computed from; a penalty looks at the parameters
or at that image and adds to the loss. A penalty with nothing to act on raises: silently zero, it would train another
method than the one that is reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from physics import reciprocal

from ..data import Sample, hide, require_fraction
from ..errors import DataError
from ..method import apply
from ..networks import TwinNetwork
from .losses import LOSSES

#: Named tensors: parameters, optimizer moments.
State = Mapping[str, Tensor]


class TaskTerm(Protocol):
    """The part of an objective that the measurements decide; all randomness from ``generator``."""

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Loss of a batch as :func:`recon.collate` makes it, and the image, ``(batch, *A.domain_shape)``."""


@dataclass(frozen=True)
class Supervised:
    """Distance to the reference, on magnitudes in scaled units.

    Parameters
    ----------
    loss
        A name in :data:`recon.LOSSES`.
    """

    loss: str = "l1"

    def __post_init__(self) -> None:
        _require_loss("Supervised", self.loss)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if batch.reference is None:
            raise DataError(
                f"{batch.meta[0].volume}: has no reference to train on; use fully sampled files for training"
            )
        image = apply(network, batch)
        return LOSSES[self.loss](batch.magnitude(image), batch.target()), image


@dataclass(frozen=True)
class SelfSupervised:
    r"""Predict the part of the measurement that the network did not see (SSDU [Y]_); no reference is needed.

    A new part :math:`\Lambda` is hidden at every step, see :func:`hide`. The loss is the normalized l1-l2 distance of
    the paper on that part, :math:`\|u - v\|_2 / \|u\|_2 + \|u - v\|_1 / \|u\|_1` with the measured u and
    :math:`v = (A x)_\Lambda`, per slice. Both are whitened, so noisy coils and rays count less.

    In MRI the calibration block is never hidden, so this loss does not see low frequencies, and the contrast drifts.
    Train a network that ends in data consistency, as the paper's does, or add :class:`MeasurementResidual`.

    Parameters
    ----------
    fraction
        Part of the candidates that is hidden; the paper's is 0.4.

    References
    ----------
    .. [Y] Yaman et al., Self-supervised learning of physics-guided reconstruction neural networks without fully sampled
       reference data, Magn. Reson. Med. 84, 2020.
    """

    fraction: float = 0.4

    def __post_init__(self) -> None:
        require_fraction("SelfSupervised", self.fraction)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen, hidden = hide(batch, self.fraction, generator)
        image = apply(network, seen)
        predicted = batch.operator(image) * hidden
        n_axes = len(batch.operator.range_shape)
        return _distance(predicted, batch.measurement * hidden, n_axes), image


@dataclass(frozen=True)
class TwoViews:
    r"""Two reconstructions from two random parts of one measurement, which must agree [Z]_; no reference is needed.

    :math:`\tfrac12 \sum_v d(A x_v, y) + w \cdot \tfrac12 [d(x_1, \bar x_2) + d(x_2, \bar x_1)]` with the normalized
    l1-l2 distance d of :class:`SelfSupervised`. Each image must explain all that was measured, also what it did not
    see. The bar stops the gradient: an image moves towards the other, and none can win by growing. The image that
    is returned is the mean of the two.

    Parameters
    ----------
    fraction
        Part of the candidates that is hidden from each view, see :func:`hide`.
    weight
        w, of the agreement.

    References
    ----------
    .. [Z] Zou et al., Self-supervised federated learning for fast MR imaging (SSFedMRI), 2023.
    """

    fraction: float = 0.4
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_fraction("TwoViews", self.fraction)
        _require_positive("TwoViews", "weight", self.weight)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        A = batch.operator
        one, two = (apply(network, hide(batch, self.fraction, generator)[0]) for _ in range(2))
        n_range, n_domain = len(A.range_shape), len(A.domain_shape)
        fit = _distance(A(one), batch.measurement, n_range) + _distance(A(two), batch.measurement, n_range)
        pull = _distance(one, two.detach(), n_domain) + _distance(two, one.detach(), n_domain)
        return (fit + self.weight * pull) / 2, (one + two) / 2


@dataclass(frozen=True)
class MutualDistillation:
    """The two halves of a :class:`TwinNetwork` learn the task, and each from the other's image (FedM2CT [W]_).

    Both are trained in one step. The image of the other is detached, so a teacher does not move towards its pupil; both
    see the same random part of the measurement where the task draws one.

    Parameters
    ----------
    task
        What each of the two is trained on.
    weight
        Of the distance to the other's image.
    loss
        A name in :data:`recon.LOSSES`, that distance.

    References
    ----------
    .. [W] Wang et al., Federated metadata-constrained iRadonMAP framework with mutual learning for all-in-one computed
       tomography imaging (FedM2CT), Cyborg Bionic Syst. 6, 2025.
    """

    task: TaskTerm = field(default_factory=Supervised)
    weight: float = 1.0
    loss: str = "mse"

    def __post_init__(self) -> None:
        _require_positive("MutualDistillation", "weight", self.weight)
        _require_loss("MutualDistillation", self.loss)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if not isinstance(network, TwinNetwork):
            raise TypeError(f"MutualDistillation: network is {type(network).__name__}, expected TwinNetwork")
        state = generator.get_state()
        private_loss, private = self.task(network.private, batch, generator)
        generator.set_state(state)
        shared_loss, shared = self.task(network.shared, batch, generator)
        distance, (p, s) = LOSSES[self.loss], (batch.magnitude(image) for image in (private, shared))
        mutual = distance(p, s.detach()) + distance(s, p.detach())
        return private_loss + shared_loss + self.weight * mutual, private


def _distance(found: Tensor, wanted: Tensor, n_axes: int) -> Tensor:
    """Normalized l1-l2 distance over the last axes, mean over the batch; 0 for a slice that is wanted empty."""
    axes = _last(n_axes)

    def relative(order: int) -> Tensor:
        size = torch.linalg.vector_norm(wanted, order, axes)
        distance: Tensor = torch.linalg.vector_norm(found - wanted, order, axes) * reciprocal(size)
        return distance

    return (relative(2) + relative(1)).mean()


def _last(n_axes: int) -> tuple[int, ...]:
    return tuple(range(-n_axes, 0))


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _require_positive(who: str, what: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{who}: {what} is {value}, expected a positive number; leave the penalty out for none")


def _require_loss(who: str, loss: str) -> None:
    if loss not in LOSSES:
        raise ValueError(f"{who}: loss is {loss!r}, expected one of {', '.join(LOSSES)}")


#: Task terms by the name used in recipes.
OBJECTIVES: dict[str, type[TaskTerm]] = {
    "supervised": Supervised,
    "self_supervised": SelfSupervised,
    "two_views": TwoViews,
    "mutual": MutualDistillation,
}
