"""A deployed site with differential privacy stops by itself when its budget is spent; the log says what was spent."""

import pytest

from federation.deploy.audit_log import PRIVATE_TRAINING, read_log
from federation.deploy.policy import PolicyError
from federation.deploy.private_site import charge, forecast, require_budget
from federation.deploy.site_service import objection
from federation.deploy.status import site_status
from federation.experiment import ReconstructionTask
from federation.privacy import Ledger, PrivateSteps, epsilon_of
from federation.recipes.frozen_base import detach_base
from federation.rounds import LEDGER, read_rows
from federation.rounds.loop import QuorumError
from recon import DataError

from .deployment import NAMES, Deployed, deploy

#: One patient at each site, so one in every step; a round has four steps.
ROUND = PrivateSteps(4, 1.0, 2.0)
ONE, TWO = (epsilon_of([ROUND] * count, 1e-5) for count in (1, 2))


@pytest.fixture
def private(tmp_path, data) -> Deployed:
    options = ("privacy.patients_per_step=1", "privacy.noise_multiplier=2.0")
    deployed = deploy(tmp_path, data, *options, method="fedavg_private")
    for name in NAMES:
        deployed.set_policy(name, minimum_slices=2, epsilon_budget=100.0)
    return deployed


def charged(deployed: Deployed, site: str) -> list[tuple[int, float]]:
    log = read_log(deployed.folders[site].audit.path)
    return [(e.facts["round"], e.facts["epsilon"]) for e in log if e.event == PRIVATE_TRAINING]


@pytest.mark.slow
def test_the_log_of_each_site_and_that_of_the_rounds_state_epsilon(private):
    private.train()
    rows = [row for row in read_rows(private.path / "run") if row["site"] == "north"]
    assert [row["epsilon"] for row in rows] == [ONE, TWO, None] and {row["loss"] for row in rows} == {None}
    assert charged(private, "north") == charged(private, "west") == [(0, ONE), (1, TWO)]
    events = private.events("north")
    assert events.index(PRIVATE_TRAINING) < events.index("reply")
    stated = f"epsilon {TWO:.2f} at delta 1e-05 in all private runs, of epsilon_budget 100"
    assert stated in site_status(private.folders["north"])


def test_a_training_beyond_the_budget_is_refused_and_not_recorded(private):
    private.set_policy("north", epsilon_budget=(ONE + TWO) / 2)
    folder = private.folders["north"]
    charge(folder, private.recipe, private.run, 0, ROUND)
    with pytest.raises(PolicyError, match=f"^epsilon_budget: {TWO:.2f} with one more round in all private runs"):
        charge(folder, private.recipe, private.run, 1, ROUND)
    assert charged(private, "north") == [(0, ONE)]
    facts = [entry.facts for entry in read_log(folder.audit.path) if entry.event == PRIVATE_TRAINING]
    assert facts == [{"run": private.run, "round": 0, "steps": 4, "probability": 1.0, "noise_multiplier": 2.0,
                      "epsilon": ONE, "delta": 1e-5}]  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault("privacy budget spent")
def test_a_site_stops_before_the_round_that_would_exceed_its_budget(private):
    private.set_policy("north", epsilon_budget=(ONE + TWO) / 2)
    with pytest.raises(QuorumError, match="site north: the site's policy forbids"):
        private.train()
    (line,) = private.refusals("north")
    assert line.startswith(f"policy: epsilon_budget: {TWO:.2f} with one more round in all private runs (delta 1e-05)")
    assert charged(private, "north") == [(0, ONE)] and "\n" not in line
    # It did not train in that round.
    assert Ledger(private.folders["north"].state(private.run) / "kept" / LEDGER).spent() == [ROUND]
    private.set_policy("north", epsilon_budget=100.0)
    private.train(resume=True)
    assert charged(private, "north") == [(0, ONE), (1, TWO)]
    # The others had answered the second round: the same request has the same reply, and costs nothing.
    assert charged(private, "west") == [(0, ONE), (1, TWO)]


@pytest.mark.slow
def test_earlier_runs_count_and_withdrawing_does_not_give_back(private):
    private.train()
    folder = private.folders["north"]
    folder.approvals.remove(private.run)
    recipe, _ = detach_base(private.recipe)
    task = ReconstructionTask(folder.manifest, private.recipe, folder.maps)
    four = epsilon_of([ROUND] * 4, 1e-5)
    line = forecast(task, folder, private.recipe)
    assert (
        line.startswith("differential privacy of 1 patient: epsilon up to")
        and f"before {four:.2f} of the policy's" in line
    )
    assert "will stop" not in line
    private.set_policy("north", epsilon_budget=TWO + 0.01)
    assert "this site will stop before the last round" in forecast(task, folder, recipe)
    assert objection(folder, private.run, private.recipe).startswith("epsilon_budget: ")


@pytest.mark.slow
def test_a_delta_of_the_budget_changes_the_epsilon_of_the_log_alone(private):
    private.set_policy("north", epsilon_delta=1e-2)
    private.train()
    assert charged(private, "north")[1][1] == pytest.approx(epsilon_of([ROUND] * 2, 1e-2))
    assert read_rows(private.path / "run")[-4]["epsilon"] == TWO


def test_a_delta_of_the_budget_that_means_nothing_is_an_objection(private):
    """As if the one patient of each step were one of a hundred."""
    folder = private.folders["north"]
    private.set_policy("north", epsilon_delta=0.02)
    with pytest.raises(PolicyError, match=r"^epsilon_delta: found 0\.02, expected below one in 100 patients$"):
        require_budget(folder, private.recipe, PrivateSteps(4, 0.01, 2.0))


def test_too_few_patients_are_said_before_the_approval(private):
    few = private.recipe.model_copy(
        update={"privacy": private.recipe.privacy.model_copy(update={"patients_per_step": 2})}
    )
    folder = private.folders["north"]
    with pytest.raises(DataError, match=r"data\.train has 1 patient, expected at least privacy\.patients_per_step, 2"):
        forecast(ReconstructionTask(folder.manifest, few, folder.maps), folder, few)
