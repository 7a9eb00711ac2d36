"""Predictions of a task head, person by person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import UNLABELLED, TaskKind

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PersonPrediction:
    """Labels and predicted probabilities of all slices of one person.

    Parameters
    ----------
    truth
        Segmentation: label map, integers ``(slices, height, width)``, :data:`UNLABELLED` where nobody labelled.
        Classification: ``(slices, classes)``, 1 present, 0 absent, NaN unknown.
    probability
        Segmentation: of background and classes, ``(slices, 1 + classes, height, width)``, sum 1 over the second axis.
        Classification: that each class is present, ``(slices, classes)``.

    Raises
    ------
    ValueError
        If shapes disagree, or a probability is not from 0 to 1.
    """

    person: str
    truth: npt.NDArray[Any]
    probability: npt.NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        truth, probability = self.truth.shape, self.probability.shape
        maps = (
            len(truth) == 3 and len(probability) == 4 and (truth[0], *truth[1:]) == (probability[0], *probability[2:])
        )
        if not maps and not (len(truth) == 2 and truth == probability):
            raise ValueError(
                f"PersonPrediction: {self.person} has truth of shape {truth} and probabilities of shape {probability}, "
                "expected (slices, height, width) and (slices, outputs, height, width), or twice (slices, classes)"
            )
        low, high = (float(f(self.probability)) for f in (np.min, np.max)) if self.probability.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1.0001):
            raise ValueError(
                f"PersonPrediction: {self.person} has probabilities from {low:g} to {high:g}, expected 0 to 1; "
                "pass softmax or sigmoid of the logits"
            )

    def masks(self, number: int) -> tuple[Mask, Mask]:
        """Where class ``number`` (from 0) of a segmentation is, and where it is predicted: the likeliest output.

        Unlabelled pixels are in neither.
        """
        known = self.truth != UNLABELLED
        return self.truth == number + 1, (self.probability.argmax(1) == number + 1) & known

    def labelled(self, number: int) -> tuple[Mask, Values]:
        """Whether class ``number`` (from 0) is there and its probability, for every labelled pixel or slice, flat."""
        if self.truth.ndim == 3:
            known = self.truth != UNLABELLED
            there, probability = self.truth[known] == number + 1, self.probability[:, number + 1][known]
        else:
            known = ~np.isnan(self.truth[:, number])
            there, probability = self.truth[known, number] == 1, self.probability[known, number]
        return there, np.clip(probability.astype(np.float64), 0, 1)


def check_predictions(
    who: str, kind: TaskKind, classes: Sequence[str], predictions: Sequence[PersonPrediction]
) -> None:
    """Check that there are people, each once, with labels and outputs of the task.

    Raises
    ------
    ValueError
        If there are none, a person is twice there, or shapes are not those of the kind and classes.
    """
    names = [one.person for one in predictions]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{who}: people are {names}, expected at least one, each once; stack the slices of a person")
    axes, outputs = (3, len(classes) + 1) if kind == "segmentation" else (2, len(classes))
    for one in predictions:
        if one.truth.ndim != axes or one.probability.shape[1] != outputs:
            raise ValueError(
                f"{who}: {one.person} has truth of shape {one.truth.shape} and probabilities of shape "
                f"{one.probability.shape}, expected those of a {kind} with {outputs} outputs"
            )
