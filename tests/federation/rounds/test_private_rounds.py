"""Rounds with differential privacy: epsilon in the log; repeated and interrupted rounds count."""

import pytest

from federation.privacy import Ledger, PrivateSteps, epsilon_of
from federation.rounds import LEDGER, read_rows
from federation.rounds.loop import QuorumError
from recon import DataError

from ..toy_federation import STEPS, ToyTask, run_toy, toy_specs

MADE = PrivateSteps(STEPS, 0.25, 1.0)
DELTA = 1e-3


class Private(ToyTask):
    """Fails in some trainings, by their count in all sites."""

    trainings, failing = 0, ()

    def private_steps(self, steps: int) -> PrivateSteps:
        return PrivateSteps(steps, MADE.probability, MADE.noise_multiplier)

    def train(self, network, **how):
        type(self).trainings += 1
        if type(self).trainings in type(self).failing:
            raise DataError("the loss is nan")
        return super().train(network, **how)


@pytest.fixture
def task() -> type[Private]:
    return type("Task", (Private,), {})


def spent(folder, site: str) -> list[PrivateSteps]:
    return Ledger(folder / "sites" / site / LEDGER).spent()


def test_epsilon_of_each_round_is_in_the_log(tmp_path, task):
    run_toy(tmp_path, toy_specs(tmp_path, task=task, delta=DELTA), rounds=2)
    rows = read_rows(tmp_path)
    expected = [epsilon_of([MADE], DELTA), epsilon_of([MADE, MADE], DELTA), None]
    assert [row["epsilon"] for row in rows if row["site"] == "s0"] == expected
    assert spent(tmp_path, "s0") == spent(tmp_path, "s1") == [MADE, MADE]


def test_without_privacy_nothing_is_recorded(tmp_path):
    run_toy(tmp_path, rounds=1)
    assert {row["epsilon"] for row in read_rows(tmp_path)} == {None}
    assert not list(tmp_path.rglob(LEDGER))


def test_a_round_that_is_repeated_costs_again(tmp_path, task):
    """The second site fails in the second round: the first has trained, and trains again after --resume."""
    task.failing = (4,)
    with pytest.raises(QuorumError, match="the loss is nan"):
        run_toy(tmp_path, toy_specs(tmp_path, task=task, delta=DELTA), rounds=2)
    # The failed training counts, too: its steps were made, and its failure was seen.
    assert spent(tmp_path, "s0") == spent(tmp_path, "s1") == [MADE] * 2
    run_toy(tmp_path, toy_specs(tmp_path, task=task, delta=DELTA), rounds=2, resume=True)
    assert spent(tmp_path, "s0") == spent(tmp_path, "s1") == [MADE] * 3
    last = [row for row in read_rows(tmp_path) if row["round"] == 1]
    assert {row["epsilon"] for row in last} == {epsilon_of([MADE] * 3, DELTA)}


def test_steps_are_recorded_before_they_are_made(tmp_path, task):
    def interrupted(self, network, **how):
        raise KeyboardInterrupt

    task.train = interrupted
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, toy_specs(tmp_path, task=task, delta=DELTA), rounds=1)
    assert spent(tmp_path, "s0") == [MADE]


def test_a_lost_record_ends_the_run_in_one_line(tmp_path, task):
    """Else a site would state the epsilon of its last round alone."""
    task.failing = (4,)
    with pytest.raises(QuorumError):
        run_toy(tmp_path, toy_specs(tmp_path, task=task, delta=DELTA), rounds=2)
    (tmp_path / "sites" / "s1" / LEDGER).unlink()
    with pytest.raises(
        QuorumError, match=r"privacy\.json: found no list of private steps, expected one; restore the newest"
    ):
        run_toy(tmp_path, toy_specs(tmp_path, task=task, delta=DELTA), rounds=2, resume=True)
