"""Training ends after a number of rounds without improvement, with the best round kept, and resumes to the same end."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from federation import FederatedAlgorithm
from federation.methods import RoundScore, parameter_scope, parameters_of, selected_state
from federation.rounds import RunResult, Stopping, read_rows
from federation.serialization import digest, saved_rounds
from recon import DataError

from ..toy_federation import SEED, ToyTask, run_toy, toy_specs, traces
from .test_resume import Disk, Killed, on, survivors

#: The best round is the third; a fourth one ties with it.
SCORES = (1.0, 2.0, 5.0, 5.0, 4.0, 3.0, 9.0)


def scored(*means: float | None, n_sites: int = 2) -> list[RoundScore]:
    return [RoundScore(round_, n_sites, mean) for round_, mean in enumerate(means)]


class Scripted(ToyTask):
    """Scores a network by the round whose shared parameters it holds; any other network scores 0."""

    def __init__(self, site: int, n_samples: int, scores: Mapping[str, float | None]) -> None:
        super().__init__(site, n_samples)
        self.scores = scores

    def validate(self, network: nn.Module) -> float | None:
        return self.scores.get(digest(parameters_of(network, parameter_scope(network).shared)), 0.0)


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the shared parameters of every round."""
    folder = tmp_path_factory.mktemp("plain")
    run_toy(folder, rounds=6)
    return [row["loaded_digest"] for row in read_rows(folder) if row["site"] == "s0"]


@pytest.fixture
def run_scripted(digests: list[str]) -> Callable[..., RunResult]:
    """Run six rounds, or fewer, whose shared parameters have the given scores."""

    def run(folder: Path, scores: Sequence[float | None] = SCORES, **kwargs: Any) -> RunResult:
        task = functools.partial(Scripted, scores=dict(zip(digests, scores, strict=True)))
        return run_toy(folder, toy_specs(folder, task=task), **{"rounds": 6, **kwargs})

    return run


@pytest.mark.parametrize(
    ("means", "patience", "over"),
    [
        ((1.0, 2.0, 2.0), 2, False),
        ((1.0, 2.0, 2.0, 1.9), 2, True),  # a tie is no improvement
        ((1.0, 2.0, 1.0, 2.1, 1.0), 2, False),  # the count begins anew
        ((3.0, 2.0), 1, True),
        ((3.0,), 1, False),
        ((), 1, False),
        ((None, None, None), 1, False),
        ((3.0, 2.0, 1.0, 0.0), None, False),
    ],
)
def test_training_is_over_after_so_many_rounds_without_improvement(means, patience, over):
    assert Stopping(9, patience).is_over(scored(*means)) is over
    # The maximum holds with any patience.
    assert Stopping(max(1, len(means) - 1), patience).is_over(scored(*means)) is (over or len(means) > 1)


def test_rounds_that_fewer_sites_scored_are_not_counted():
    fewer = [RoundScore(round_, 1, 9.0) for round_ in (2, 3, 4)]
    history = [*scored(1.0, 2.0), *fewer, RoundScore(5, 2, 1.0)]
    assert not Stopping(9, 2).is_over(history)
    assert Stopping(9, 2).is_over([*history, RoundScore(6, 2, 1.0)])


def test_the_reason_names_the_best_round():
    rule = Stopping(4, 2)
    assert rule.reason(scored(1.0, 2.0, 1.5, 1.5)) == "no improvement for 2 rounds; best round 1"
    assert Stopping(4, 1).reason(scored(3.0, 2.0)) == "no improvement for 1 round; best round 0"
    assert rule.reason(scored(1.0, 2.0, 1.5, 3.0, 2.0)) == "all 4 rounds; best round 3"
    assert rule.reason(scored(None, None)) == "all 4 rounds; the last one counts, without validation scores"
    turns = Stopping(4, in_turn=True).reason(scored(1.0, 2.0, 1.5, 3.0, 2.0))
    assert turns == "all 4 rounds; the last one counts, as sites take turns"


def test_wrong_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="patience is 0"):
        run_toy(tmp_path, patience=0)
    turns = FederatedAlgorithm(seed=SEED, schedule="cyclic")
    with pytest.raises(ValueError, match="patience is 1 where sites take turns"):
        run_toy(tmp_path, patience=1, algorithm=turns)
    assert not list(tmp_path.iterdir())


def test_a_run_ends_and_its_best_round_is_selected(tmp_path, run_scripted):
    result = run_scripted(tmp_path / "short", patience=2)
    assert [score.mean for score in result.state.history] == list(SCORES[:5])
    assert result.ended == "no improvement for 2 rounds; best round 2"
    assert selected_state(tmp_path / "short").round == 2
    # The same state as in a run of all rounds whose later scores are no better.
    whole = run_scripted(tmp_path / "whole", (*SCORES[:6], 0.0))
    assert whole.ended == "all 6 rounds; best round 2" and len(whole.state.history) == 7
    assert selected_state(tmp_path / "whole").digest == selected_state(tmp_path / "short").digest
    rows = {name: read_rows(tmp_path / name) for name in ("short", "whole")}
    for row in (*rows["short"], *rows["whole"]):
        del row["seconds"]
    assert rows["short"] == rows["whole"][: len(rows["short"])]
    for site in ("s0", "s1"):  # kept parameters of the best round are still there
        assert 2 in saved_rounds(tmp_path / "short" / "sites" / site)


def test_more_patience_than_needed_changes_no_bit(tmp_path):
    run_toy(tmp_path / "plain", rounds=3)
    run_toy(tmp_path / "patient", rounds=3, patience=3)
    assert traces(tmp_path / "plain") == traces(tmp_path / "patient")


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_in_the_same_round_with_the_same_bits(tmp_path, run_scripted):
    scores = (1.0, 2.0, 1.5, 9.0, 9.0, 9.0, 9.0)
    run_scripted(tmp_path / "undisturbed", scores, patience=1)
    undisturbed = traces(tmp_path / "undisturbed")
    whole = Disk()
    with on(whole):
        run_scripted(tmp_path / "whole", scores, patience=1)
    assert whole.count > 30 and selected_state(tmp_path / "whole").round == 1
    for kill_at in range(1, whole.count + 1, 3):
        folder = tmp_path / str(kill_at)
        with on(Disk(kill_at)), pytest.raises(Killed):
            run_scripted(folder, scores, patience=1)
        run_scripted(folder, scores, patience=1, resume=True)
        assert survivors(folder) == undisturbed, f"killed at operation {kill_at}"


def test_a_run_that_has_ended_stays_as_it_is_and_more_patience_goes_on(tmp_path, run_scripted):
    run_scripted(tmp_path, patience=2)
    before = traces(tmp_path)
    again = run_scripted(tmp_path, patience=2, resume=True)
    assert again.rounds == () and again.ended == "no improvement for 2 rounds; best round 2"
    assert traces(tmp_path) == before
    result = run_scripted(tmp_path, patience=4, resume=True)
    assert [score.mean for score in result.state.history] == list(SCORES) and selected_state(tmp_path).round == 6
    with pytest.raises(DataError, match="holds a run already"):
        run_scripted(tmp_path, patience=2)
