"""Score of a head on validation slices, by which a round is selected: higher is better."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..data import UNLABELLED, Sample, Samples, TaskLabels, collate, doing_unless_named, made
from ..errors import DataError
from ..method import to_device_of
from .losses import TASK_LOSSES
from .network import TaskNetwork, head_input, predictions

#: Share of the likelihood in the accuracy of a segmentation: it decides between rounds of equal Dice, such as 0.
_SHARE_OF_LIKELIHOOD = 1e-3
#: Smallest error: 100 dB.
_LEAST_ERROR = 1e-10


def task_score_in_db(accuracy: float) -> float:
    r""":math:`-10 \log_{10}(1 - a)` of an accuracy a between 0 and 1.

    Selection, patience and weights by score expect decibels of an error; this one is :math:`1 - a`, as a Dice loss.
    """
    return -10 * math.log10(max(1 - accuracy, _LEAST_ERROR))


def task_accuracy(score: float) -> float:
    """The accuracy of a score of :func:`task_score_in_db`."""
    return 1 - 10 ** (-score / 10)


def validation_accuracy(network: TaskNetwork, samples: Samples, *, on_reference: bool) -> float | None:
    r"""Accuracy of the head between 0 and 1, higher is better; None: no slice has a label.

    Segmentation: the mean Dice of label maps over volumes and classes; a class that neither a label nor a prediction of
    the volume shows is left out. A thousandth of it is the likelihood :math:`e^{-L}`, L the cross-entropy.
    Classification: the likelihood alone, the geometric mean of the probability of the true label. An AUC needs slices
    of both kinds, which few validation slices of a site may not have.

    Parameters
    ----------
    on_reference
        Whether the head reads the reference, or the image of the network.
    """
    network.eval()
    losses: list[float] = []
    counts: dict[str, Tensor] = {}
    with torch.no_grad(), doing_unless_named("validation", len(samples)):
        for index, (batch, logits, label) in enumerate(_labelled(network, samples, on_reference)):
            made(index + 1)
            losses.append(float(_entropy(network.labels, logits, label)))
            if network.labels.kind == "segmentation":
                found = counts.setdefault(batch.meta[0].volume, torch.zeros(2, len(network.labels.classes)))
                found += _overlaps(logits, label)
    if not losses:
        return None
    likelihood = math.exp(-math.fsum(losses) / len(losses))
    if network.labels.kind == "classification":
        return likelihood
    overlap, size = torch.stack(list(counts.values())).movedim(1, 0)
    shown = size > 0
    dice = float((2 * overlap[shown] / size[shown]).mean()) if bool(shown.any()) else 0.0
    return (1 - _SHARE_OF_LIKELIHOOD) * dice + _SHARE_OF_LIKELIHOOD * likelihood


def _labelled(network: TaskNetwork, samples: Samples, on_reference: bool) -> Iterator[tuple[Sample, Tensor, Tensor]]:
    """Every slice with a label, as a batch, with logits and label."""
    for index in range(len(samples)):
        batch = to_device_of(network, collate([samples[index]]))
        if batch.label is None or not bool(_known(network.labels, batch.label).any()):
            continue
        if on_reference and batch.reference is None:
            raise DataError(f"{batch.meta[0].volume}: has no reference for the head to read")
        logits = network.head(head_input(batch.target())) if on_reference else predictions(network, batch)[1]
        yield batch, logits, batch.label


def _known(labels: TaskLabels, label: Tensor) -> Tensor:
    return label != UNLABELLED if labels.kind == "segmentation" else ~label.isnan()


def _entropy(labels: TaskLabels, logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy, mean over what is labelled."""
    if labels.kind == "classification":
        return TASK_LOSSES["classification"]["bce"](logits, label)
    return torch.nn.functional.cross_entropy(logits, label, ignore_index=UNLABELLED)


def _overlaps(logits: Tensor, label: Tensor) -> Tensor:
    """Pixels in both label and prediction, and the sum of both, by class: ``(2, classes)``."""
    known = label != UNLABELLED
    classes = torch.arange(1, logits.shape[1], device=logits.device)[:, None]
    found, truth = (values[known] == classes for values in (logits.argmax(1), label))
    return torch.stack(((found & truth).sum(1), found.sum(1) + truth.sum(1))).float().cpu()
