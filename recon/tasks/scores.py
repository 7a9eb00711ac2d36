"""Scores of a downstream task with intervals by person, and paired differences of two arms."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data import TaskKind
from .intervals import by_person, mean_of
from .metrics import (
    EDGES,
    auc,
    calibration_error,
    detected,
    dice,
    false_marks,
    reliability,
    sensitivity,
    surface_distances,
)
from .people import PersonPrediction, Values, check_predictions

#: Scores of both kinds of tasks; the first of a kind is the one of charts.
TASK_METRICS: Mapping[TaskKind, tuple[str, ...]] = {
    "segmentation": ("dice", "surface_mm", "hausdorff95_mm", "detected", "false_marks", "calibration_error"),
    "classification": ("auc", "sensitivity", "calibration_error"),
}
#: Pixels with a smaller probability of the class do not count in its calibration: the empty background would hide it.
_LEAST = 0.01
_UNBOUNDED = ("surface_mm", "hausdorff95_mm", "false_marks")

_Statistic = Callable[[Values], Values]


def task_scores(
    kind: TaskKind,
    classes: Sequence[str],
    predictions: Sequence[PersonPrediction],
    spacing_mm: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Scores of one arm at one site, as JSON values: means and curves over people.

    Dice, distances and marks are computed for every person from all of its slices, and the score is the mean over the
    people for whom it is defined. AUC, sensitivity and calibration are of all slices together, as most people have too
    few of them. Every interval is by person, see :func:`recon.tasks.intervals.by_person`.

    Parameters
    ----------
    classes
        Names of the classes, without the background.
    spacing_mm
        Height and width of a pixel; None: unknown, there are no distances.

    Returns
    -------
        ``kind``, ``people``, ``slices``, and per class in ``classes`` its ``scores``, each with ``value``,
        ``interval``, ``people`` and ``left_out``, see :data:`TASK_METRICS`, and ``reliability``: per group of
        probabilities their mean ``predicted``, the ``observed`` frequency and the ``count`` of pixels or slices.

    Raises
    ------
    ValueError
        If there are no predictions, a person is twice there, or shapes are not those of the task.
    """
    check_predictions("task_scores", kind, classes, predictions)
    return {
        "kind": kind,
        "people": len(predictions),
        "slices": sum(len(one.truth) for one in predictions),
        "classes": {
            name: {
                "scores": _scores(kind, number, predictions, spacing_mm),
                "reliability": _curve(
                    sum(_sums(_labelled(predictions, number), number), np.zeros((3, len(EDGES) - 1)))
                ),
            }
            for number, name in enumerate(classes)
        },
    }


def task_differences(
    kind: TaskKind,
    classes: Sequence[str],
    first: Sequence[PersonPrediction],
    second: Sequence[PersonPrediction],
    spacing_mm: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Scores of the first arm minus those of the second on the same people, paired by person, as JSON values.

    Returns
    -------
        Per class the scores as in :func:`task_scores`; of Dice and distances for people who have both.

    Raises
    ------
    ValueError
        If the arms have other people or labels, and as :func:`task_scores`.
    """
    for arm in (first, second):
        check_predictions("task_differences", kind, classes, arm)
    people = {one.person: one for one in second}
    if people.keys() != {one.person for one in first}:
        raise ValueError(
            f"task_differences: people are {sorted(one.person for one in first)} and {sorted(people)}, expected the "
            "same in both arms"
        )
    second = [people[one.person] for one in first]
    for one, other in zip(first, second, strict=True):
        if not np.array_equal(one.truth, other.truth, equal_nan=kind == "classification"):
            raise ValueError(f"task_differences: {one.person} has other labels in both arms, expected the same")
    return {name: _differences(kind, number, (first, second), spacing_mm) for number, name in enumerate(classes)}


def _scores(
    kind: TaskKind, number: int, predictions: Sequence[PersonPrediction], spacing_mm: Sequence[float] | None
) -> dict[str, Any]:
    known = _labelled(predictions, number)
    unknown = len(predictions) - len(known)
    found = {}
    for name, values in _of_people(kind, number, known, spacing_mm).items():
        defined = values[np.isfinite(values)]
        missing = unknown + len(values) - len(defined)
        found[name] = by_person(mean_of(defined), len(defined), _limits(name), left_out=missing)
    for name, statistic in _of_all(kind, number, known).items():
        found[name] = by_person(statistic, len(known), _limits(name), left_out=unknown)
    return found


def _differences(
    kind: TaskKind, number: int, arms: Sequence[Sequence[PersonPrediction]], spacing_mm: Sequence[float] | None
) -> dict[str, Any]:
    known = [_labelled(predictions, number) for predictions in arms]
    found = {}
    of_people = [_of_people(kind, number, predictions, spacing_mm) for predictions in known]
    for name, values in of_people[0].items():
        differences = values - of_people[1][name]
        defined = differences[np.isfinite(differences)]
        missing = len(arms[0]) - len(defined)
        found[name] = by_person(mean_of(defined), len(defined), _limits(name, paired=True), left_out=missing)
    of_all = [_of_all(kind, number, predictions) for predictions in known]
    for name, statistic in of_all[0].items():
        paired = _minus(statistic, of_all[1][name])
        missing = len(arms[0]) - len(known[0])
        found[name] = by_person(paired, len(known[0]), _limits(name, paired=True), left_out=missing)
    return found


def _minus(first: _Statistic, second: _Statistic) -> _Statistic:
    return lambda counts: first(counts) - second(counts)


def _limits(name: str, *, paired: bool = False) -> tuple[float, float]:
    most = math.inf if name in _UNBOUNDED else 1.0
    return (-most if paired else 0.0), most


def _labelled(predictions: Sequence[PersonPrediction], number: int) -> list[PersonPrediction]:
    """People with a label of the class."""
    return [one for one in predictions if len(one.labelled(number)[0])]


def _of_people(
    kind: TaskKind, number: int, predictions: Sequence[PersonPrediction], spacing_mm: Sequence[float] | None
) -> dict[str, Values]:
    """Scores that every person has for itself; NaN where undefined."""
    if kind == "classification":
        return {}
    masks = [one.masks(number) for one in predictions]
    found = {"dice": np.array([dice(*both) for both in masks])}
    if spacing_mm is not None:
        distances = np.array([surface_distances(*both, spacing_mm) for both in masks]).reshape(-1, 2)
        found |= {"surface_mm": distances[:, 0], "hausdorff95_mm": distances[:, 1]}
    found["detected"] = np.array([detected(*both) for both in masks])
    found["false_marks"] = np.array([false_marks(*both) for both in masks])
    return found


def _of_all(kind: TaskKind, number: int, predictions: Sequence[PersonPrediction]) -> dict[str, _Statistic]:
    """Scores of the slices of all people together, as statistics of how often every person counts."""
    if not predictions:
        names = ("calibration_error",) if kind == "segmentation" else TASK_METRICS[kind]
        return dict.fromkeys(names, lambda counts: np.full(len(counts), math.nan))
    sums = np.stack(_sums(predictions, number))

    def calibration(counts: Values) -> Values:
        return calibration_error(np.tensordot(counts, sums, 1))

    if kind == "segmentation":
        return {"calibration_error": calibration}
    entries = [one.labelled(number) for one in predictions]
    there, probability = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    owner = np.repeat(np.arange(len(entries)), [len(part) for part, _ in entries])
    return {
        "auc": lambda counts: auc(there, probability, counts[:, owner]),
        "sensitivity": lambda counts: sensitivity(there, probability, counts[:, owner]),
        "calibration_error": calibration,
    }


def _sums(predictions: Sequence[PersonPrediction], number: int) -> list[Values]:
    """Of every person the sums of :func:`reliability`."""
    found = []
    for one in predictions:
        there, probability = one.labelled(number)
        if one.truth.ndim == 3:
            there, probability = there[probability >= _LEAST], probability[probability >= _LEAST]
        found.append(reliability(there, probability))
    return found


def _curve(sums: Values) -> dict[str, list[float]]:
    count, predicted, observed = sums[:, sums[0] > 0]
    return {
        "predicted": (predicted / count).tolist(),
        "observed": (observed / count).tolist(),
        "count": count.astype(int).tolist(),
    }
