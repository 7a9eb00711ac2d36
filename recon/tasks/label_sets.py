r"""Conformal label sets: answers that are wrong for a limited part of a person's slices or pixels, site by site.

Classification: the set of a slice holds each answer (present, absent) whose probability is at least a threshold; with
both answers in it the set abstains. Segmentation: the region holds each pixel whose probability of the class is at
least a threshold. The loss of a person is the part of the slices whose true answer is not in its set, or the part of
the pixels of the class outside the region. Both fall as the threshold falls, and one rule sets the threshold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import TaskKind
from .intervals import by_person, mean_of
from .people import PersonPrediction, Values, check_predictions

#: Thresholds of probabilities, falling from 1 to 0, dense at both ends.
THRESHOLDS: Values = np.concatenate([[1.0], 1 / (1 + np.exp(-np.linspace(12, -12, 481))), [0.0]])
#: Parts of the slices that are answered, for the curve of abstention.
_ANSWERED = np.linspace(0.1, 1, 10)


@dataclass(frozen=True, eq=False)
class LossCurve:
    """Loss of the people of a site for every threshold in :data:`THRESHOLDS`: what a site tells the federation.

    Parameters
    ----------
    people
        Number of people.
    mean
        Mean over people; falls to 0 at the last threshold.
    variance
        Variance over people, without bias; zero for one person.
    """

    people: int
    mean: Values
    variance: Values

    @classmethod
    def of(cls, people: Sequence[Values]) -> "LossCurve":
        """The curve of a site from those of its people, of which there may be none."""
        if not people:
            return cls(0, np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)))
        stacked = np.stack(people)
        variance = stacked.var(0, ddof=1) if len(stacked) > 1 else np.zeros(len(THRESHOLDS))
        return cls(len(stacked), stacked.mean(0), variance)


@dataclass(frozen=True)
class LabelSetControl:
    """Threshold of the label sets of a class at a site, and where it is from.

    Parameters
    ----------
    wanted
        Part of the slices or pixels whose truth the sets should hold, in the mean over people.
    threshold
        Least probability in a set; None: too few people, every set holds all answers.
    people
        People of the site whose labels it is from.
    borrowed
        People of other sites that counted beside them, in numbers of own people.
    """

    wanted: float
    threshold: float | None
    people: int
    borrowed: float

    @property
    def needed(self) -> int:
        """People without whom no threshold below all answers can be told."""
        return math.ceil(1 / (1 - self.wanted) - 1e-9) - 1


def loss_curves(
    kind: TaskKind, classes: Sequence[str], predictions: Sequence[PersonPrediction]
) -> dict[str, LossCurve]:
    """What a site tells of every class, from people who did not train.

    Raises
    ------
    ValueError
        As :func:`recon.task_scores`.
    """
    check_predictions("loss_curves", kind, classes, predictions)
    curves = {}
    for number, name in enumerate(classes):
        known = [values for one in predictions if len(values := _of_truth(one, number))]
        curves[name] = LossCurve.of([_losses(values) for values in known])
    return curves


def control_label_sets(curves: Mapping[str, LossCurve], wanted: float) -> dict[str, LabelSetControl]:
    r"""Thresholds of one class at all sites, each for itself, with the help of the others where people are few.

    The threshold is the largest t with

    .. math:: \frac{\sum_i w_i \ell_i(t) + 1}{\sum_i w_i + 1} \le 1 - \text{wanted},

    over people i with losses :math:`\ell_i`. Own people have the weight 1. With them alone this is conformal risk
    control [A]_: the expected loss of a further person of the site is at most 1 - wanted, for any network and any
    number of people; with one slice a person it is split conformal prediction, and the sets are those of least size
    [S]_. Without :math:`1 / (1 - \text{wanted}) - 1` people no threshold holds, and none is told.

    People of other sites have the weight :math:`\min(1, \sigma^2 / (\tau^2 N))` each: :math:`\sigma^2` is the variance
    between people of a site, :math:`\tau^2` that between sites beyond it, and N the number of those people. Together
    they weigh as much as :math:`\sigma^2 / \tau^2` people: so much the mean of all sites is worth as a guess of one.
    With them the guarantee is weaker by the differences between sites, weighted likewise [B]_: it is exact where sites
    are alike, and where own people alone count.

    Parameters
    ----------
    curves
        What every site tells of the class.
    wanted
        Between 0 and 1.

    Raises
    ------
    ValueError
        If there is no site, or ``wanted`` is not between 0 and 1.

    References
    ----------
    .. [A] Angelopoulos et al., Conformal risk control, ICLR 2024.
    .. [S] Sadinle et al., Least ambiguous set-valued classifiers with bounded error levels, JASA 114, 2019.
    .. [B] Barber et al., Conformal prediction beyond exchangeability, Annals of Statistics 51, 2023; for risks Farinhas
       et al., Non-exchangeable conformal risk control, ICLR 2024.
    """
    if not curves:
        raise ValueError("control_label_sets: got no site, expected at least one")
    if not 0 < wanted < 1:
        raise ValueError(f"control_label_sets: wanted is {wanted}, expected a number between 0 and 1")
    total = sum(curve.people for curve in curves.values())
    losses = np.sum([curve.people * curve.mean for curve in curves.values()], axis=0)
    within, between = _variances(list(curves.values()), losses / max(total, 1), 1 - wanted)
    controls = {}
    for site, curve in curves.items():
        others = total - curve.people
        worth = others if within >= between * others else within / between
        if within == between == 0:
            worth = min(others, curve.people)  # nothing tells people from sites
        borrowed = worth / others * (losses - curve.people * curve.mean) if others else 0.0
        risk = (curve.people * curve.mean + borrowed + 1) / (curve.people + worth + 1)
        allowed = np.flatnonzero(risk <= 1 - wanted + 1e-12)
        threshold = float(THRESHOLDS[allowed[0]]) if len(allowed) else None
        controls[site] = LabelSetControl(wanted, threshold, curve.people, float(worth))
    return controls


def _variances(curves: Sequence[LossCurve], pooled: Values, limit: float) -> tuple[float, float]:
    """Variance between people of a site, and between sites beyond it, where the mean of all people is at the limit."""
    at = min(int(np.argmax(pooled <= limit)), len(THRESHOLDS) - 2)
    known = [curve for curve in curves if curve.people]
    freedom = sum(curve.people - 1 for curve in known)
    if not freedom:
        return 0.0, 0.0
    within = sum((curve.people - 1) * float(curve.variance[at]) for curve in known) / freedom
    if len(known) < 2:
        return within, 0.0
    noise = float(np.mean([within / curve.people for curve in known]))
    return within, max(0.0, float(np.var([curve.mean[at] for curve in known], ddof=1)) - noise)


def label_set_scores(
    kind: TaskKind,
    classes: Sequence[str],
    predictions: Sequence[PersonPrediction],
    controls: Mapping[str, LabelSetControl],
) -> dict[str, Any]:
    """Label sets of other people: what they hold and how large they are, as JSON values.

    Parameters
    ----------
    controls
        Of every class.

    Returns
    -------
        Per class ``wanted``, ``threshold``, ``calibrated_on``, ``borrowed``, ``needed``; ``coverage`` as in
        :func:`recon.task_scores`, the mean over people of the part of the slices or pixels whose truth is in the set.
        Classification: the parts of the slices with ``one`` answer, with ``both`` and with ``none``, and
        ``abstention``. Segmentation: ``marked`` and ``truth``, the parts of all pixels in the region and of the class.
        Without a threshold every set holds all answers: coverage and sizes are None.

        ``abstention`` are points of the curve over the part of the slices that is ``answered``, the surest first:
        ``accuracy`` and ``sensitivity`` of the answer "present" at a probability of 0.5; None without a positive.

    Raises
    ------
    ValueError
        As :func:`recon.task_scores`.
    """
    check_predictions("label_set_scores", kind, classes, predictions)
    return {
        name: _held(kind, number, predictions, controls[name])
        | ({"abstention": _abstention(predictions, number)} if kind == "classification" else {})
        for number, name in enumerate(classes)
    }


def _held(
    kind: TaskKind, number: int, predictions: Sequence[PersonPrediction], control: LabelSetControl
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "wanted": control.wanted,
        "threshold": control.threshold,
        "calibrated_on": control.people,
        "borrowed": control.borrowed,
        "needed": control.needed,
    }
    sizes = ("one", "both", "none") if kind == "classification" else ("marked", "truth")
    if control.threshold is None:
        return told | {"coverage": None} | dict.fromkeys(sizes)
    threshold = control.threshold
    truths = [values for one in predictions if len(values := _of_truth(one, number))]
    covered = np.array([float((values >= threshold).mean()) for values in truths])
    told["coverage"] = by_person(mean_of(covered), len(covered), left_out=len(predictions) - len(covered))
    there, probability = (
        np.concatenate(part) for part in zip(*(one.labelled(number) for one in predictions), strict=True)
    )
    present, absent = probability >= threshold, 1 - probability >= threshold
    parts = (present != absent, present & absent, ~present & ~absent) if kind == "classification" else (present, there)
    return told | {name: float(part.mean()) if len(part) else None for name, part in zip(sizes, parts, strict=True)}


def _of_truth(one: PersonPrediction, number: int) -> Values:
    """Probability of what is true: of the true answer in every slice, or of the class in every pixel that has it."""
    there, probability = one.labelled(number)
    return probability[there] if one.truth.ndim == 3 else np.where(there, probability, 1 - probability)


def _losses(probability_of_truth: Values) -> Values:
    """Part of the slices or pixels outside the sets, for every threshold."""
    ordered = np.sort(probability_of_truth)
    return np.searchsorted(ordered, THRESHOLDS, side="left") / len(ordered)


def _abstention(predictions: Sequence[PersonPrediction], number: int) -> dict[str, list[float | None]]:
    entries = [one.labelled(number) for one in predictions]
    there, probability = (np.concatenate(part) for part in zip(*entries, strict=True))
    order = np.argsort(-np.abs(probability - 0.5), kind="stable")
    right = ((probability >= 0.5) == there)[order]
    positive = there[order]
    points: dict[str, list[float | None]] = {"answered": [], "accuracy": [], "sensitivity": []}
    for count in sorted({round(part * len(order)) for part in _ANSWERED} - {0}):
        points["answered"].append(count / len(order))
        points["accuracy"].append(float(right[:count].mean()))
        caught = right[:count][positive[:count]]
        points["sensitivity"].append(float(caught.mean()) if len(caught) else None)
    return points
