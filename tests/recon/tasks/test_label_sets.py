"""Conformal label sets: they hold the truth of people like those of the calibration, and say where none can be told."""

from functools import cache, partial

import numpy as np
import pytest

from recon import LabelSetControl, LossCurve, PersonPrediction, control_label_sets, label_set_scores, loss_curves
from recon.tasks.label_sets import THRESHOLDS

CLASSES = ["lesion"]
#: People differ by this in the logit of all of their slices.
SPREAD = 0.8


def slices(name: str, rng: np.random.Generator, shift: float = 0.0, count: int = 5) -> PersonPrediction:
    """Slices of a person; ``shift`` makes the probabilities of its site worse."""
    truth = rng.random(count) < 0.4
    person = SPREAD * rng.normal()
    logit = np.where(truth, 1.0, -1.0) * (1.5 + person - shift) + rng.normal(size=count)
    return PersonPrediction(name, truth.astype(np.float32)[:, None], (1 / (1 + np.exp(-logit)))[:, None])


def lesions(name: str, rng: np.random.Generator, shift: float = 0.0) -> PersonPrediction:
    truth = (rng.random((1, 12, 12)) < 0.2).astype(int)
    logit = np.where(truth == 1, 1.0 + SPREAD * rng.normal() - shift, -1.5) + rng.normal(size=truth.shape)
    lesion = 1 / (1 + np.exp(-logit))
    return PersonPrediction(name, truth, np.stack([1 - lesion, lesion], 1))


KINDS = {"classification": slices, "segmentation": lesions}


def site(kind: str, people: int, rng: np.random.Generator, shift: float = 0.0) -> LossCurve:
    drawn = [KINDS[kind](str(i), rng, shift) for i in range(people)]
    return loss_curves(kind, CLASSES, drawn)["lesion"]


@cache
def loss_of_many(kind: str, shift: float = 0.0) -> np.ndarray:
    """Expected loss of a further person, for every threshold."""
    return site(kind, 2000, np.random.default_rng(99), shift).mean


def covered(kind: str, control: LabelSetControl, shift: float = 0.0) -> float:
    """Expected coverage of a further person."""
    return 1 - float(loss_of_many(kind, shift)[control.threshold == THRESHOLDS].item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("people", "wanted"), [(9, 0.9), (20, 0.9), (6, 0.8)])
def test_people_like_those_of_the_calibration_are_covered(kind: str, people: int, wanted: float) -> None:
    """The mean over calibrations, within three standard errors; not far above it either."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(150):
        control = control_label_sets({"north": site(kind, people, rng)}, wanted)["north"]
        assert control.threshold is not None
        found.append(covered(kind, control))
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) >= wanted - 3 * error
    assert np.mean(found) <= wanted + 1 / (people + 1) + 3 * error


def test_with_one_slice_a_person_it_is_the_split_conformal_quantile() -> None:
    """The threshold is just below 1 minus the ceil((n + 1)(1 - alpha))-th smallest score."""
    rng = np.random.default_rng(0)
    drawn = [slices(str(i), rng, count=1) for i in range(37)]
    control = control_label_sets({"north": loss_curves("classification", CLASSES, drawn)["lesion"]}, 0.85)["north"]
    scores = sorted(1 - np.where(p.truth == 1, p.probability, 1 - p.probability).item() for p in drawn)
    exact = 1 - scores[int(np.ceil(38 * 0.85)) - 1]
    assert control.threshold is not None
    at = np.flatnonzero(control.threshold == THRESHOLDS)[0]
    assert control.threshold <= exact < THRESHOLDS[at - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_people_say_so_and_make_up_no_set(kind: str) -> None:
    rng = np.random.default_rng(0)
    control = control_label_sets({"north": site(kind, 8, rng)}, 0.9)["north"]
    assert (control.threshold, control.people, control.needed) == (None, 8, 9)
    drawn = [KINDS[kind](str(i), rng) for i in range(5)]
    found = label_set_scores(kind, CLASSES, drawn, {"lesion": control})["lesion"]
    sizes = ("one", "both", "none") if kind == "classification" else ("marked", "truth")
    assert found["coverage"] is None and all(found[name] is None for name in sizes)
    assert control_label_sets({"north": site(kind, 9, rng)}, 0.9)["north"].threshold is not None


def test_alike_sites_lend_their_people_and_different_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    borrowed = []
    for _ in range(20):
        alike = control_label_sets({name: site("classification", 5, rng) for name in "abcde"}, 0.9)
        borrowed += [control.borrowed for control in alike.values()]
    assert np.mean(borrowed) > 12 and max(borrowed) == 20
    sites = {name: site("classification", 30, rng, shift) for name, shift in (("easy", -3), ("hard", 1.5))}
    apart = control_label_sets(sites, 0.9)
    assert all(control.borrowed < 5 for control in apart.values())
    assert apart["easy"].threshold > 2 * apart["hard"].threshold  # type: ignore[operator]


def test_few_people_at_sites_that_differ_are_covered() -> None:
    """Six people at each of five sites, where nine are needed alone; every site in the mean over calibrations."""
    shifts = {"a": -0.6, "b": -0.3, "c": 0.0, "d": 0.3, "e": 0.6}
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in shifts}
    for _ in range(100):
        curves = {name: site("classification", 6, rng, shift) for name, shift in shifts.items()}
        for name, control in control_label_sets(curves, 0.9).items():
            if control.threshold is not None:
                found[name].append(covered("classification", control, shifts[name]))
    assert min(map(len, found.values())) > 70  # the others are told that people are too few
    assert all(np.mean(values) > 0.88 for values in found.values())  # the hardest site borrows from easier ones


def test_a_site_without_people_borrows_all_that_are_alike() -> None:
    curve = LossCurve(10, np.linspace(1, 0, len(THRESHOLDS)), np.full(len(THRESHOLDS), 0.1))
    control = control_label_sets({"a": curve, "b": curve, "new": LossCurve.of([])}, 0.9)["new"]
    assert (control.people, control.borrowed) == (0, 20) and control.threshold is not None
    assert control_label_sets({"new": LossCurve.of([])}, 0.9)["new"].threshold is None


def test_sizes_and_abstention() -> None:
    truth = np.array([1, 1, 0, 0, 0], dtype=np.float32)[:, None]
    probability = np.array([0.97, 0.45, 0.05, 0.35, 0.2])[:, None]
    people = [PersonPrediction("a", truth, probability)]
    held = partial(label_set_scores, "classification", CLASSES, people)
    found = held({"lesion": LabelSetControl(0.9, 0.4, 30, 0.0)})["lesion"]
    assert (found["one"], found["both"], found["none"]) == (0.8, 0.2, 0)
    assert found["coverage"]["value"] == 1
    strict = held({"lesion": LabelSetControl(0.9, 0.9, 30, 0.0)})["lesion"]
    assert (strict["one"], strict["none"], strict["coverage"]["value"]) == (0.4, 0.6, 0.4)
    curve = found["abstention"]
    assert curve["answered"] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert curve["accuracy"] == [1, 1, 1, 1, 0.8]
    assert curve["sensitivity"] == [1, 1, 1, 1, 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_every_threshold(kind: str) -> None:
    curve = site(kind, 12, np.random.default_rng(0))
    assert curve.people == 12 and curve.mean[-1] == 0 and bool((np.diff(curve.mean) <= 0).all())
    assert bool((np.diff(THRESHOLDS) < 0).all())
    wrong = PersonPrediction("wrong", np.zeros((1, 1)), np.ones((1, 1)))  # its truth has the probability 0
    assert list(loss_curves("classification", CLASSES, [wrong])["lesion"].mean[-2:]) == [1, 0]


def test_unlabelled_people_are_not_counted() -> None:
    rng = np.random.default_rng(0)
    unknown = PersonPrediction("unknown", np.full((3, 1), np.nan), np.full((3, 1), 0.5))
    healthy = PersonPrediction("healthy", np.zeros((1, 4, 4), dtype=int), np.full((1, 2, 4, 4), 0.5))
    assert loss_curves("classification", CLASSES, [slices("a", rng), unknown])["lesion"].people == 1
    assert loss_curves("segmentation", CLASSES, [lesions("a", rng), healthy])["lesion"].people == 1


def test_bad_wishes_are_refused() -> None:
    with pytest.raises(ValueError, match="got no site"):
        control_label_sets({}, 0.9)
    with pytest.raises(ValueError, match="wanted is 1, expected a number between 0 and 1"):
        control_label_sets({"a": LossCurve.of([])}, 1)
