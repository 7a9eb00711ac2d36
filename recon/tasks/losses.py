"""Losses of downstream tasks: logits of a head against the labels; what nobody labelled is left out."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import UNLABELLED, TaskKind

TaskLoss = Callable[[Tensor, Tensor], Tensor]
#: Exponent of the focal losses, that of the paper.
_FOCUS = 2.0


def dice_ce_loss(logits: Tensor, label: Tensor) -> Tensor:
    r"""Cross-entropy plus one minus the soft Dice of the classes, :math:`(2 \sum p t + 1) / (\sum p + \sum t + 1)`.

    Sums run over the batch: most slices do not show a small structure, and a Dice of their own would be about nothing.
    The background counts in the cross-entropy alone.

    Parameters
    ----------
    logits
        ``(batch, 1 + classes, height, width)``.
    label
        Label map, int64 ``(batch, height, width)``.

    References
    ----------
    .. [N] Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation,
       Nature Methods 18, 2021.
    """
    return _mean_over(_cross_entropy(logits, label), label != UNLABELLED) + 1 - soft_dice(logits, label).mean()


def soft_dice(logits: Tensor, label: Tensor) -> Tensor:
    """Dice of the probabilities over the batch, see :func:`dice_ce_loss`, by class without the background."""
    known = (label != UNLABELLED)[:, None]
    probability = logits.softmax(dim=1)[:, 1:] * known
    truth = F.one_hot(label.clamp_min(0), logits.shape[1]).movedim(-1, 1)[:, 1:] * known
    axes = (0, 2, 3)
    overlap, sizes = (probability * truth).sum(axes), probability.sum(axes) + truth.sum(axes)
    return (2 * overlap + 1) / (sizes + 1)


def focal_loss(logits: Tensor, label: Tensor) -> Tensor:
    r"""Cross-entropy of every pixel times :math:`(1 - p)^2`, p the probability of its class: easy pixels count less.

    Parameters
    ----------
    logits, label
        As for :func:`dice_ce_loss`.

    References
    ----------
    .. [L] Lin et al., Focal loss for dense object detection, ICCV 2017.
    """
    entropy = _cross_entropy(logits, label)
    return _mean_over((1 - (-entropy).exp()) ** _FOCUS * entropy, label != UNLABELLED)


def bce_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of every class.

    Parameters
    ----------
    logits
        ``(batch, classes)``.
    label
        1 present, 0 absent, NaN unknown, ``(batch, classes)``.
    """
    return _mean_over(_binary_cross_entropy(logits, label), ~label.isnan())


def binary_focal_loss(logits: Tensor, label: Tensor) -> Tensor:
    """The focal loss of classes that are present or not, see :func:`focal_loss` and :func:`bce_loss`."""
    entropy = _binary_cross_entropy(logits, label)
    return _mean_over((1 - (-entropy).exp()) ** _FOCUS * entropy, ~label.isnan())


#: Losses by kind of task and by the name used in recipes; the first one is the default of its kind.
TASK_LOSSES: dict[TaskKind, dict[str, TaskLoss]] = {
    "segmentation": {"dice_ce": dice_ce_loss, "focal": focal_loss},
    "classification": {"bce": bce_loss, "focal": binary_focal_loss},
}


def _cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(logits, label, ignore_index=UNLABELLED, reduction="none")


def _binary_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, label.nan_to_num(), reduction="none")


def _mean_over(values: Tensor, known: Tensor) -> Tensor:
    """Mean of the known values; 0 if there is none."""
    return torch.where(known, values, 0.0).sum() / known.sum().clamp_min(1)
