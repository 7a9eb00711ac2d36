"""Tasks: the term of a site's loss that depends on its measurements.

A task calls the network and returns a loss and an image; penalties add terms in that image or the parameters.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from physics import Registry, reciprocal

from ..data import Sample, held_out_split, require_fraction
from ..errors import DataError
from ..method import apply
from ..networks import TwinNetwork
from ..tasks import (
    TASK_LOSSES,
    TaskNetwork,
    filling_loss,
    head_input,
    hide_patches,
    predictions,
    require_label,
    task_input,
)
from .losses import LOSSES, mse_loss

#: What the head of a downstream task reads in training.
HeadInput = Literal["reference", "reconstruction", "end_to_end"]


class TaskTerm(Protocol):
    """A task; its random numbers come from ``generator``.

    ``needs_twin = True``: it trains a :class:`TwinNetwork`. ``needs_head = True``: it trains a :class:`TaskNetwork`;
    with ``trains_head_alone = True`` only its head, which has one output and learns no labels.
    ``holds_out = True``: it calls :func:`held_out_split`.
    """

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Loss of a batch, see :func:`recon.collate`, and its image, ``(batch, *A.domain_shape)``."""


@dataclass(frozen=True)
class Supervised:
    """Distance to the reference, on magnitudes in scaled units.

    ``needs_reference = True`` of a task: training files without a reference are refused before the first round.

    Parameters
    ----------
    loss
        A name in :data:`recon.LOSSES`.
    """

    loss: str = "l1"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_loss("Supervised", self.loss)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if batch.reference is None:
            advice = "train on fully sampled MRI, or CT with a ground truth"
            raise DataError(f"{batch.meta[0].volume}: has no reference to train on; {advice}")
        image = apply(network, batch)
        return LOSSES[self.loss](batch.magnitude(image), batch.target()), image


@dataclass(frozen=True)
class SelfSupervised:
    r"""Predict held-out measurements (SSDU [Y]_); no reference is needed.

    Every step holds out another part :math:`\Lambda`, see :func:`recon.held_out_split`. The loss is the normalized
    l1-l2 distance of the paper on that part, :math:`\|u - v\|_2 / \|u\|_2 + \|u - v\|_1 / \|u\|_1` with the measured u
    and :math:`v = (A x)_\Lambda`, per slice. Both are whitened: noisy coils and rays count less.

    In MRI the calibration block is never held out: the loss ignores low frequencies, and the contrast drifts. Train a
    network that ends in data consistency, as in the paper, or add :class:`MeasurementResidual`.

    Parameters
    ----------
    fraction
        Fraction of the candidates that is held out, 0.4 in the paper.

    References
    ----------
    .. [Y] Yaman et al., Self-supervised learning of physics-guided reconstruction neural networks without fully sampled
       reference data, Magn. Reson. Med. 84, 2020.
    """

    fraction: float = 0.4
    holds_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_fraction("SelfSupervised", self.fraction)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        kept, held_out = held_out_split(batch, self.fraction, generator)
        image = apply(network, kept)
        predicted = batch.operator(image) * held_out
        n_axes = len(batch.operator.range_shape)
        return _distance(predicted, batch.measurement * held_out, n_axes), image


@dataclass(frozen=True)
class TwoViews:
    r"""Two reconstructions from two random parts of one measurement must agree [Z]_; no reference is needed.

    :math:`\tfrac12 \sum_v d(A x_v, y) + w \cdot \tfrac12 [d(x_1, \bar x_2) + d(x_2, \bar x_1)]` with the normalized
    l1-l2 distance d of :class:`SelfSupervised`. Each image must explain the whole measurement. The bar stops the
    gradient: each image moves towards the other. The returned image is their mean.

    Parameters
    ----------
    fraction
        Fraction of the candidates that is held out from each reconstruction, see :func:`recon.held_out_split`.
    weight
        w, weight of the agreement.

    References
    ----------
    .. [Z] Zou et al., Self-supervised federated learning for fast MR imaging (SSFedMRI), 2023.
    """

    fraction: float = 0.4
    weight: float = 1.0
    holds_out: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_fraction("TwoViews", self.fraction)
        require_positive("TwoViews", "weight", self.weight)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        A = batch.operator
        one, two = (apply(network, held_out_split(batch, self.fraction, generator)[0]) for _ in range(2))
        n_range, n_domain = len(A.range_shape), len(A.domain_shape)
        fit = _distance(A(one), batch.measurement, n_range) + _distance(A(two), batch.measurement, n_range)
        pull = _distance(one, two.detach(), n_domain) + _distance(two, one.detach(), n_domain)
        return (fit + self.weight * pull) / 2, (one + two) / 2


@dataclass(frozen=True)
class MutualDistillation:
    """Both networks of a :class:`TwinNetwork` learn from the reference and from each other's image (FedM2CT [W]_).

    The mean squared difference of the two images trains each network towards the detached image of the other. The
    private network makes the returned image.

    Parameters
    ----------
    loss
        A name in :data:`recon.LOSSES`, distance to the reference.
    distillation
        Weight of the distance to the other's image.

    References
    ----------
    .. [W] Wang et al., Federated metadata-constrained iRadonMAP framework with mutual learning for all-in-one computed
       tomography imaging (FedM2CT), Cyborg Bionic Syst. 6, 2025.
    """

    loss: str = "l1"
    distillation: float = 1.0
    needs_twin: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_loss("MutualDistillation", self.loss)
        require_positive("MutualDistillation", "distillation", self.distillation)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if not isinstance(network, TwinNetwork):
            raise TypeError(f"MutualDistillation: network is {type(network).__name__}, expected TwinNetwork")
        task = Supervised(self.loss)
        private_loss, private = task(network.private, batch, generator)
        shared_loss, shared = task(network.shared, batch, generator)
        p, s = (batch.magnitude(image) for image in (private, shared))
        mutual = mse_loss(p, s.detach()) + mse_loss(s, p.detach())
        return private_loss + shared_loss + self.distillation * mutual, private


@dataclass(frozen=True)
class Downstream:
    """Train the head of a :class:`recon.TaskNetwork` on labels; how far the gradient reaches is decided by ``input``.

    Parameters
    ----------
    loss
        A name in :data:`recon.LOSSES`, distance of the image to the reference; used end to end alone.
    task_loss
        A name in :data:`recon.TASK_LOSSES`; None: the first one of the kind of task.
    input
        What the head reads. ``"reference"``: the reference image; the reconstruction network is not called.
        ``"reconstruction"``: the image of the network, without gradient. ``"end_to_end"``: the same with gradient.
    reconstruction_weight
        Weight of ``loss`` end to end; 0: the task alone, which needs no reference.
    """

    loss: str = "l1"
    task_loss: str | None = None
    input: HeadInput = "end_to_end"
    reconstruction_weight: float = 1.0
    needs_head: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_loss("Downstream", self.loss)
        if self.input not in get_args(HeadInput):
            raise ValueError(f"Downstream: input is {self.input!r}, expected one of {', '.join(get_args(HeadInput))}")
        if not 0 <= self.reconstruction_weight < float("inf"):
            raise ValueError(f"Downstream: reconstruction_weight is {self.reconstruction_weight}, expected 0 or more")

    @property
    def needs_reference(self) -> bool:
        """Whether training files without a reference are refused."""
        return self.input == "reference" or (self.input == "end_to_end" and self.reconstruction_weight > 0)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if not isinstance(network, TaskNetwork):
            raise TypeError(f"Downstream: network is {type(network).__name__}, expected TaskNetwork")
        if self.needs_reference and batch.reference is None:
            raise DataError(f"{batch.meta[0].volume}: has no reference to train on; leave the file out")
        label = require_label(batch)
        kind = network.labels.kind
        loss = TASK_LOSSES[kind][self.task_loss or next(iter(TASK_LOSSES[kind]))]
        if self.input == "end_to_end":
            image, logits = predictions(network, batch)
            value = loss(logits, label)
            if self.reconstruction_weight > 0:
                distance = LOSSES[self.loss](batch.magnitude(image), batch.target())
                value = value + self.reconstruction_weight * distance
            return value, image
        if self.input == "reference" and batch.reference is not None:
            return loss(network.head(head_input(batch.target())), label), batch.reference
        with torch.no_grad():
            image = apply(network, batch)
            seen = task_input(batch, image)
        return loss(network.head(seen), label), image


@dataclass(frozen=True)
class MaskedImages:
    """Train the head of a :class:`recon.TaskNetwork` to fill hidden patches of its images, without labels [H]_.

    The loss is the mean squared error on the hidden pixels. The paper does so with transformers that read the visible
    patches alone; here the hidden ones are zero.

    Parameters
    ----------
    input
        ``"reference"`` or ``"reconstruction"``, as for :class:`Downstream`; the reconstruction network does not train.
    patch
        Pixels per side of a patch.
    part
        Share of the patches that is hidden.

    References
    ----------
    .. [H] He et al., Masked autoencoders are scalable vision learners, CVPR 2022.
    """

    input: HeadInput = "reference"
    patch: int = 8
    part: float = 0.5
    needs_head: ClassVar[bool] = True
    trains_head_alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.input not in ("reference", "reconstruction"):
            raise ValueError(f"MaskedImages: input is {self.input!r}, expected 'reference' or 'reconstruction'")
        if self.patch < 1 or not 0 < self.part < 1:
            found = f"patch is {self.patch}, part {self.part}"
            raise ValueError(f"MaskedImages: {found}, expected at least 1 pixel, and 0 < part < 1")

    @property
    def needs_reference(self) -> bool:
        """Whether training files without a reference are refused."""
        return self.input == "reference"

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if not isinstance(network, TaskNetwork):
            raise TypeError(f"MaskedImages: network is {type(network).__name__}, expected TaskNetwork")
        if self.needs_reference:
            if batch.reference is None:
                raise DataError(f"{batch.meta[0].volume}: has no reference to train on; leave the file out")
            image = batch.reference
            seen = head_input(batch.target())
        else:
            with torch.no_grad():
                image = apply(network, batch)
                seen = task_input(batch, image)
        _, hidden = hide_patches(seen, self.patch, self.part, generator)
        return filling_loss(network, seen, hidden), image


def _distance(found: Tensor, wanted: Tensor, n_axes: int) -> Tensor:
    """Normalized l1-l2 distance over the last axes, mean over the batch; an empty wanted slice counts 0."""
    axes = last_axes(n_axes)

    def relative(order: int) -> Tensor:
        size = torch.linalg.vector_norm(wanted, order, axes)
        distance: Tensor = torch.linalg.vector_norm(found - wanted, order, axes) * reciprocal(size)
        return distance

    return (relative(2) + relative(1)).mean()


def last_axes(n_axes: int) -> tuple[int, ...]:
    return tuple(range(-n_axes, 0))


def require_positive(who: str, what: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{who}: {what} is {value}, expected a positive number; leave the penalty out for none")


def require_loss(who: str, loss: str) -> None:
    if loss not in LOSSES:
        raise ValueError(f"{who}: loss is {loss!r}, expected one of {', '.join(LOSSES)}")


#: Tasks. The arguments ``loss``, ``fraction`` and ``distillation`` are ``training.loss``, ``objective.split`` and
#: ``objective.distillation``; ``input`` and those of ``downstream`` are keys of ``[task]``, others of
#: ``[objective.options]``.
OBJECTIVES: Registry[TaskTerm] = Registry("task", {
    "supervised": Supervised,
    "self_supervised": SelfSupervised,
    "two_views": TwoViews,
    "mutual": MutualDistillation,
    "downstream": Downstream,
    "masked_images": MaskedImages,
})  # fmt: skip
