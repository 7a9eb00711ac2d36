"""AUC, true positives and interval of membership inference against hand-made values and independent formulas."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from recon import (
    MODALITIES,
    LinearReconstruction,
    Membership,
    Supervised,
    auc_interval,
    collate,
    infer_membership,
    pool_membership,
    train_locally,
)


def test_perfect_and_hopeless_attacks() -> None:
    best = infer_membership([0.1, 0.2], [0.3, 0.4, 0.5])
    assert (best.auc, best.tpr, best.fpr, best.resolution) == (1.0, 1.0, 0.0, pytest.approx(1 / 3))
    assert best.low < 0.7 and best.high == pytest.approx(1.0)  # two patients prove little
    worst = infer_membership([0.6], [0.3, 0.4])
    assert (worst.auc, worst.tpr) == (0.0, 0.0)


def test_ties_count_half_and_are_never_recognized_without_false_positives() -> None:
    found = infer_membership([1.0, 1.0], [1.0, 2.0])
    assert found.auc == 0.75 and found.tpr == 0.0
    assert infer_membership([1.0, 1.0], [1.0, 2.0], at_fpr=0.5).tpr == 1.0


def test_auc_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 23).tolist(), rng.integers(2, 11, 31).tolist()
    expected = mannwhitneyu(others, members).statistic / (23 * 31)
    assert infer_membership(members, others).auc == pytest.approx(expected, abs=1e-12)


def test_true_positives_with_many_patients() -> None:
    others = [1 + i / 1000 for i in range(200)]
    members = [0.5, 1.0005, 1.0015, 1.01]
    found = infer_membership(members, others)
    assert found.fpr == 0.01 and found.tpr == 0.75  # two of 200 below the threshold


def test_interval_is_newcombes() -> None:
    """Ends solve the quadratic form of method 5 exactly, and hold the truth about as often as they should."""
    for auc, (m, n) in product((0.5, 0.8, 0.95), ((5, 8), (40, 30))):
        for theta in auc_interval(auc, m, n):
            half = (m + n) / 2 - 1
            spread = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
            variance = theta * (1 - theta) / (m * n) * spread
            assert abs(auc - theta) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-4)
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        members, others = rng.normal(0, 1, 12), rng.normal(1, 1, 12)
        found = infer_membership(members.tolist(), others.tolist())
        held += found.low <= 0.7602 <= found.high  # Phi(1 / sqrt 2)
    assert 0.92 <= held / 300 <= 0.995


def test_an_overfitted_network_tells_its_members_and_an_untrained_one_does_not() -> None:
    members, others = ([MODALITIES["mri"].example(seed) for seed in seeds] for seeds in (range(6), range(20, 28)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LinearReconstruction(16 * 14, 2)

    def attacked() -> Membership:
        with torch.no_grad():
            found = [
                [float(Supervised("l1")(network, collate([s]), torch.Generator())[0]) for s in group]
                for group in (members, others)
            ]
        return infer_membership(*found)

    untrained = attacked()
    assert untrained.low < 0.5 < untrained.high
    train_locally(network, members, steps=60, batch_size=1, learning_rate=1e-3)
    assert attacked().auc > 0.8


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_unusable_losses(members: list[float], others: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one finite loss"):
        infer_membership(members, others)


def test_sites_are_pooled_within_themselves() -> None:
    """Two scanners with other levels of loss: 1 of 2 and 4 of 4 pairs are won."""
    found = pool_membership([([1.0], [0.5, 2.0]), ([11.0, 12.0], [13.0, 14.0])])
    assert found.auc == pytest.approx(5 / 6) and (found.members, found.non_members) == (3, 4)
    assert (found.tpr, found.fpr, found.resolution) == (None, None, None)
    one = infer_membership([1.0, 3.0], [2.0, 4.0, 5.0])
    same = pool_membership([([1.0, 3.0], [2.0, 4.0, 5.0])])
    assert (same.auc, same.low, same.high) == (one.auc, one.low, one.high)
    with pytest.raises(ValueError, match="found no site"):
        pool_membership([])
    with pytest.raises(ValueError, match="at least one finite loss"):
        pool_membership([([1.0], [])])


def test_interval_over_sites_holds_the_truth_as_often_as_it_says() -> None:
    """Four sites with two members and three non-members, other levels of loss, a network that knows nobody.

    By the exact distribution of the wins, 94.2 %.
    """
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        losses = rng.normal(size=(4, 5)) + 10 * rng.normal(size=(4, 1))
        found = pool_membership([(site[:2].tolist(), site[2:].tolist()) for site in losses])
        held += found.low <= 0.5 <= found.high
    assert 0.925 <= held / 1000 <= 0.96
