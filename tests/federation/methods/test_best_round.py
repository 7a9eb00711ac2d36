"""The round that is published: as the mean says in honest runs, and out of the hands of one site that lies."""

import random
from collections.abc import Mapping, Sequence

import pytest

from federation.methods import FederatedAlgorithm, RoundScore, best_of, selected_state
from federation.methods.server_state import CLEAR_CHANGE

from ..toy_federation import run_toy, toy_specs

CLEAR = 2 * CLEAR_CHANGE


def history(rounds: Sequence[Mapping[str, float]]) -> list[RoundScore]:
    return [
        RoundScore(round, len(scores), sum(scores.values()) / len(scores), scores)
        if scores
        else RoundScore(round, 0, None)
        for round, scores in enumerate(rounds)
    ]


def best_mean(scores: Sequence[RoundScore]) -> int:
    """The rule without sites that lie."""
    return -max((score.n_sites, score.mean, -score.round) for score in scores if score.mean is not None)[2]


def honest(draw: random.Random, sites: int, rounds: int) -> list[dict[str, float]]:
    """Scores that rise and level off by other amounts at each site, with noise between the rounds."""
    gains, begin = ([draw.uniform(*bounds) for _ in range(sites)] for bounds in ((1, 10), (20, 30)))
    return [
        {f"s{i}": begin[i] + gains[i] * (1 - 0.7**round) + draw.gauss(0, 0.05) for i in range(sites)}
        for round in range(rounds)
    ]


def test_in_honest_runs_the_best_mean_is_selected():
    draw = random.Random(1)
    for _ in range(300):
        scores = history(honest(draw, draw.randint(1, 7), draw.randint(1, 20)))
        best = best_of(scores)
        assert best is not None and best.round == best_mean(scores)


@pytest.mark.fault("site that lies")
@pytest.mark.parametrize("lies", [(0.0, 100.0), (-1e6, 100.0), (29.0, 31.0), (None, 30.0)])
def test_one_site_cannot_choose_a_round_that_is_clearly_worse_for_the_others(lies):
    """Whatever it says, or keeps to itself: of three sites or more the others decide where they agree."""
    draw, chosen_by_the_mean = random.Random(2), 0
    for _ in range(300):
        rounds = honest(draw, draw.randint(2, 6), 12)
        wanted = draw.randrange(6)
        for round, scores in enumerate(rounds):
            lie = lies[round == wanted]
            if lie is not None:
                scores["liar"] = lie
        best = best_of(history(rounds))
        chosen_by_the_mean += best_mean(history(rounds)) == wanted
        for later in rounds[best.round + 1 :]:
            assert not all(later[site] > rounds[best.round][site] + CLEAR for site in later if site != "liar")
    assert chosen_by_the_mean > 250 or lies == (29.0, 31.0)


@pytest.mark.fault("site that lies")
def test_a_round_that_is_clearly_worse_for_the_others_does_not_take_the_place_of_a_better_one():
    good, bad = {"a": 30.0, "b": 25.0}, {"a": 29.0, "b": 24.0}
    rounds = [{**good, "liar": 10.0}, {**bad, "liar": 100.0}]
    assert best_of(history(rounds)).round == 0
    assert best_of(history([good, bad | {"liar": 100.0}])).round == 0  # it said nothing before
    # Of two sites nobody knows which one lies, and less than the margin is left to the mean.
    assert best_of(history([{"a": 30.0, "liar": 10.0}, {"a": 29.0, "liar": 100.0}])).round == 1
    close = {site: score + CLEAR_CHANGE / 2 for site, score in good.items()}
    assert best_of(history([{**good, "liar": 30.0}, {**close, "liar": 28.0}])).round == 0


def test_residuals_change_in_dB_too():
    """Without references a score is minus the residual in units of the noise: 0.5 is a large change there."""
    rounds = [{"a": -1.5, "b": -1.4, "liar": -3.0}, {"a": -1.1, "b": -1.05, "liar": -90.0}]
    assert best_of(history(rounds)).round == 1
    assert best_mean(history(rounds)) == 0


def test_the_scores_of_the_sites_are_kept_in_the_checkpoint(tmp_path):
    specs = toy_specs(tmp_path, 3)
    result = run_toy(tmp_path, specs, rounds=4, algorithm=FederatedAlgorithm(seed=0))
    assert all(set(score.scores) == {"s0", "s1", "s2"} for score in result.state.history)
    again = selected_state(tmp_path)
    assert again.history == result.state.history and again.samples == {"s0": 16, "s1": 20, "s2": 24}
