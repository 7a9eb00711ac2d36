"""Scores of downstream tasks: analytic values, other libraries as oracles, empty truths, intervals by person."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from recon import TASK_METRICS, PersonPrediction, task_differences, task_scores
from recon.tasks.intervals import by_person, mean_of
from recon.tasks.metrics import (
    SPECIFICITY,
    auc,
    calibration_error,
    detected,
    dice,
    false_marks,
    reliability,
    sensitivity,
    surface_distances,
)

RNG = partial(np.random.default_rng, 0)


def disc(row: float, column: float, radius: float, size: int = 40) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)[None]


def segmented(name: str, truth: np.ndarray, predicted: np.ndarray, sure: float = 0.9) -> PersonPrediction:
    """One class, whose probability is ``sure`` where it is predicted, else the rest."""
    lesion = np.where(predicted, sure, 1 - sure)
    return PersonPrediction(name, truth.astype(np.int64), np.stack([1 - lesion, lesion], axis=1))


def classified(name: str, truth: Any, probability: Any) -> PersonPrediction:
    return PersonPrediction(name, np.array(truth, dtype=np.float32)[:, None], np.array(probability)[:, None])


def test_dice_of_known_overlaps() -> None:
    truth, predicted = np.zeros((2, 1, 4, 4), dtype=bool)
    truth[0, 0, :3], predicted[0, 0, 1:] = True, True
    assert dice(truth, predicted) == 2 * 2 / 6
    assert dice(truth, truth) == 1 and dice(truth, ~truth) == 0
    assert math.isnan(dice(np.zeros_like(truth), predicted)) and math.isnan(dice(np.zeros_like(truth), ~truth & False))


def test_distance_of_shifted_squares() -> None:
    """Squares 3 columns apart: the far edges are 3 pixels of 0.5 mm from the other contour, inner pixels less."""
    truth, predicted = np.zeros((2, 1, 30, 30), dtype=bool)
    truth[0, 10:20, 8], predicted[0, 10:20, 11] = True, True
    assert surface_distances(truth, predicted, (2.0, 0.5)) == pytest.approx((1.5, 1.5))
    assert surface_distances(truth, truth, (2.0, 0.5)) == (0, 0)
    turned = [mask.swapaxes(1, 2) for mask in (truth, predicted)]
    assert surface_distances(*turned, (0.5, 2.0)) == pytest.approx((1.5, 1.5))
    assert surface_distances(*turned, (2.0, 0.5)) == pytest.approx((6.0, 6.0))


def test_slices_without_both_contours_have_no_distance() -> None:
    truth = np.concatenate([disc(20, 20, 6), disc(20, 20, 6), np.zeros((1, 40, 40), dtype=bool)])
    predicted = np.concatenate([disc(20, 22, 6), np.zeros((1, 40, 40), dtype=bool), disc(3, 3, 2)])
    assert surface_distances(truth, predicted, (1, 1)) == surface_distances(truth[:1], predicted[:1], (1, 1))
    assert all(map(math.isnan, surface_distances(truth[1:], predicted[1:], (1, 1))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # its own, of old arguments
def test_distances_of_monai() -> None:
    monai = pytest.importorskip("monai.metrics")
    rng = RNG()
    for _ in range(10):
        masks = [disc(*rng.uniform(5, 35, 2), rng.uniform(2, 12)) | disc(*rng.uniform(0, 39, 2), 3) for _ in range(2)]
        truth, predicted = (torch.from_numpy(mask)[None].float() for mask in masks)
        spacing = tuple(rng.uniform(0.4, 2, 2))
        average = monai.compute_average_surface_distance(predicted, truth, symmetric=True, spacing=spacing)
        largest = monai.compute_hausdorff_distance(predicted, truth, percentile=95, spacing=spacing)
        expected = (float(average), float(largest))
        assert surface_distances(*masks, spacing) == pytest.approx(expected, rel=1e-5)
        assert dice(*masks) == pytest.approx(float(monai.compute_dice(predicted, truth)), rel=1e-5)


@pytest.mark.slow
def test_curves_of_torchmetrics() -> None:
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    rng = RNG()
    for digits in (1, 2, 8):  # with and without ties
        there = rng.random(200) < 0.3
        probability = np.clip(0.3 * there + rng.normal(0.4, 0.25, 200), 0.001, 0.999).round(digits)
        given = torch.from_numpy(probability), torch.from_numpy(there).long()
        assert float(auc(there, probability)[0]) == pytest.approx(float(theirs.binary_auroc(*given)), abs=1e-6)
        expected = theirs.binary_sensitivity_at_specificity(*given, SPECIFICITY)[0]
        assert float(sensitivity(there, probability)[0]) == pytest.approx(float(expected), abs=1e-6)
        if digits == 8:  # at an edge, the group is a convention
            expected = theirs.binary_calibration_error(*given, n_bins=10)
            # Theirs groups the probability of what is there or not, as ours.
            assert float(calibration_error(reliability(there, probability))) == pytest.approx(float(expected), abs=1e-6)


def test_curves_of_known_orders() -> None:
    there = np.array([False, False, True, True])
    assert auc(there, np.array([0.1, 0.4, 0.35, 0.8]))[0] == 0.75
    assert auc(there, np.full(4, 0.5))[0] == 0.5 and auc(there, np.arange(4) / 4)[0] == 1
    assert math.isnan(auc(there[:2], np.array([0.1, 0.2]))[0])
    # The third negative may not be accused at a specificity of 0.9, and it has the second place.
    assert sensitivity(there, np.array([0.1, 0.7, 0.35, 0.8]))[0] == 0.5
    assert math.isnan(sensitivity(there[:2], np.array([0.1, 0.2]))[0])
    assert float(calibration_error(reliability(there, np.full(4, 0.5)))) == 0
    assert float(calibration_error(reliability(there, np.full(4, 0.75)))) == pytest.approx(0.25)


def test_weights_are_repetitions() -> None:
    rng = RNG()
    there, probability = rng.random(30) < 0.5, rng.random(30).round(1)
    counts = rng.integers(0, 4, 30)
    for score in (auc, sensitivity):
        repeated = score(np.repeat(there, counts), np.repeat(probability, counts))
        assert score(there, probability, counts[None].astype(float)) == pytest.approx(repeated)


def test_regions_are_touched_or_not_slice_by_slice() -> None:
    truth = np.concatenate([disc(10, 10, 3) | disc(30, 30, 3), disc(10, 10, 3)])
    predicted = np.concatenate([disc(10, 12, 3) | disc(30, 10, 2), np.zeros((1, 40, 40), dtype=bool)])
    assert detected(truth, predicted) == 1 / 3  # of three regions in two slices
    assert false_marks(truth, predicted) == 0.5
    assert math.isnan(detected(~truth & False, predicted)) and false_marks(~truth & False, predicted) == 1


def test_scores_of_people_without_the_class_are_left_out_and_counted() -> None:
    empty = np.zeros((1, 40, 40), dtype=bool)
    people = [
        segmented("a", disc(20, 20, 5), disc(20, 20, 5)),
        segmented("b", disc(20, 20, 5), disc(5, 5, 2)),
        segmented("healthy", empty, empty),
        segmented("marked", empty, disc(5, 5, 2)),
        PersonPrediction("unlabelled", np.full((1, 40, 40), -1), np.full((1, 2, 40, 40), 0.5)),
    ]
    found = task_scores("segmentation", ["lesion"], people, (1, 1))
    scores = found["classes"]["lesion"]["scores"]
    assert tuple(scores) == TASK_METRICS["segmentation"] and (found["people"], found["slices"]) == (5, 5)
    assert (scores["dice"]["value"], scores["dice"]["people"], scores["dice"]["left_out"]) == (0.5, 2, 3)
    assert (scores["detected"]["value"], scores["detected"]["left_out"]) == (0.5, 3)
    assert (scores["false_marks"]["value"], scores["false_marks"]["people"]) == (0.5, 4)
    assert scores["surface_mm"]["value"] > 5 and scores["surface_mm"]["people"] == 2
    without = task_scores("segmentation", ["lesion"], people[2:3])["classes"]["lesion"]["scores"]
    assert without["dice"] == {"value": None, "people": 0, "left_out": 1, "interval": None}
    assert "surface_mm" not in without


def test_unlabelled_pixels_count_nowhere() -> None:
    truth = disc(20, 20, 5).astype(int)
    half = truth.copy()
    half[:, :, 20:] = -1
    people = [segmented(str(i), truth, disc(20, 20 + i, 5)) for i in range(3)]
    cut = [PersonPrediction(p.person, half, p.probability) for p in people]
    known = [PersonPrediction(p.person, truth[:, :, :20], p.probability[..., :20]) for p in people]
    assert task_scores("segmentation", ["lesion"], cut) == task_scores("segmentation", ["lesion"], known)


def test_several_classes_are_scored_one_by_one() -> None:
    truth = (disc(10, 10, 5) + 2 * disc(30, 30, 5)).astype(int)
    probability = np.eye(3)[np.where(truth == 2, 0, truth)].transpose(0, 3, 1, 2)
    found = task_scores("segmentation", ["first", "second"], [PersonPrediction("a", truth, probability)])["classes"]
    assert (found["first"]["scores"]["dice"]["value"], found["second"]["scores"]["dice"]["value"]) == (1, 0)


def test_classification_and_unknown_labels() -> None:
    rng = RNG()
    truth = [rng.random(6) < 0.5 for _ in range(8)]
    people = [classified(str(i), t, np.clip(0.4 * t + 0.6 * rng.random(6), 0, 1)) for i, t in enumerate(truth)]
    found = task_scores("classification", ["lesion"], people)
    scores = found["classes"]["lesion"]["scores"]
    assert tuple(scores) == TASK_METRICS["classification"] and found["slices"] == 48
    low, high = scores["auc"]["interval"]
    assert 0.5 < low < scores["auc"]["value"] < high <= 1
    curve = found["classes"]["lesion"]["reliability"]
    assert sum(curve["count"]) == 48 and len(curve["predicted"]) == len(curve["observed"]) <= 10
    unknown = classified("unknown", [math.nan] * 6, [0.5] * 6)
    more = task_scores("classification", ["lesion"], [*people, unknown])["classes"]["lesion"]["scores"]
    assert more["auc"] == scores["auc"] | {"left_out": 1}
    none = task_scores("classification", ["lesion"], [unknown])["classes"]["lesion"]["scores"]
    assert none["auc"] == {"value": None, "people": 0, "left_out": 1, "interval": None}


def test_an_auc_without_spread_has_no_interval() -> None:
    """All draws of separated slices have the AUC 1: that is no certainty."""
    people = [classified(str(i), [0, 1], [0.2, 0.8]) for i in range(6)]
    found = task_scores("classification", ["lesion"], people)["classes"]["lesion"]["scores"]["auc"]
    assert (found["value"], found["interval"]) == (1, None)


def test_paired_differences() -> None:
    """People differ more than the arms do on each: the interval of the difference is the narrower one."""
    people = [(str(i), disc(20, 20, 6), i % 4) for i in range(8)]
    good = [segmented(name, truth, np.roll(truth, shift, 2)) for name, truth, shift in people]
    worse = [segmented(name, truth, np.roll(truth, shift + 1, 2)) for name, truth, shift in people]
    found = task_differences("segmentation", ["lesion"], good, worse[::-1], (1, 1))["lesion"]
    scores = [
        task_scores("segmentation", ["lesion"], arm, (1, 1))["classes"]["lesion"]["scores"] for arm in (good, worse)
    ]
    assert list(found) == list(scores[0])
    for name, difference in found.items():
        assert difference["value"] == pytest.approx(scores[0][name]["value"] - scores[1][name]["value"])
    width = np.diff(found["dice"]["interval"])[0]
    assert found["dice"]["interval"][0] > 0 and width < 0.2 * np.diff(scores[0]["dice"]["interval"])[0]
    same = task_differences("segmentation", ["lesion"], good, good)["lesion"]["dice"]
    assert (same["value"], same["interval"]) == (0, None)


def test_paired_differences_of_slices() -> None:
    rng = RNG()
    truth = [rng.random(8) < 0.5 for _ in range(10)]
    noise = [rng.random(8) for _ in truth]
    arms = [
        [classified(str(i), t, g * t + (1 - g) * n) for i, (t, n) in enumerate(zip(truth, noise, strict=True))]
        for g in (0.35, 0.2)
    ]
    found = task_differences("classification", ["lesion"], *arms)["lesion"]["auc"]
    assert 0 < found["interval"][0] < found["value"] < found["interval"][1]


def test_other_people_or_labels_are_refused() -> None:
    a, b = (segmented(name, disc(20, 20, 5), disc(20, 20, 5)) for name in "ab")
    compare = partial(task_differences, "segmentation", ["lesion"])
    with pytest.raises(ValueError, match=r"people are \['a'\] and \['b'\], expected the same"):
        compare([a], [b])
    with pytest.raises(ValueError, match="a has other labels in both arms"):
        compare([a], [segmented("a", disc(20, 21, 5), disc(20, 20, 5))])
    with pytest.raises(ValueError, match="each once; stack the slices of a person"):
        task_scores("segmentation", ["lesion"], [a, a])
    with pytest.raises(ValueError, match="expected at least one"):
        task_scores("segmentation", ["lesion"], [])
    with pytest.raises(ValueError, match="expected those of a classification with 1 outputs"):
        task_scores("classification", ["lesion"], [a])
    with pytest.raises(ValueError, match=r"expected \(slices, height, width\)"):
        PersonPrediction("a", np.zeros((1, 4, 4)), np.zeros((1, 2, 4, 5)))
    with pytest.raises(ValueError, match="pass softmax or sigmoid"):
        classified("a", [1.0], [-2.0])


@pytest.mark.parametrize("people", [4, 8, 20])
def test_intervals_of_means_hold_the_truth(people: int) -> None:
    rng = RNG()
    held = 0
    for _ in range(250):
        low, high = by_person(mean_of(rng.normal(0.5, 0.05, people)), people)["interval"]
        held += low <= 0.5 <= high
    assert 0.92 < held / 250 < 0.98


def test_intervals_of_one_person_and_at_the_limits() -> None:
    assert by_person(mean_of(np.array([0.5])), 1)["interval"] is None
    assert by_person(mean_of(np.array([0.9, 1.0, 1.0])), 3)["interval"][1] == 1
    assert by_person(mean_of(np.array([])), 0, left_out=2)["value"] is None
