"""A deployed site with differential privacy stops by itself when its budget is spent; the log says what was spent."""

import pytest

from federation.deploy.audit_log import PRIVATE_TRAINING, read_log
from federation.deploy.export import export_run
from federation.deploy.policy import PolicyError
from federation.deploy.private_site import charge, forecast
from federation.deploy.site_service import objection
from federation.deploy.status import site_status
from federation.experiment import ReconstructionTask, privacy_of
from federation.privacy import Ledger, PrivateSteps, epsilon_of
from federation.recipes.frozen_base import detach_base
from federation.rounds import LEDGER, read_rows
from federation.rounds.loop import QuorumError
from recon import DataError, epsilon_text

from .deployment import NAMES, Deployed, deploy

#: One patient at each site, so one in every step; a round has four steps.
ROUND = PrivateSteps(4, 1.0, 2.0, patients=1)
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
def test_the_log_of_each_site_that_of_the_rounds_and_an_exported_run_state_epsilon(private, tmp_path):
    private.train()
    rows = [row for row in read_rows(private.path / "run") if row["site"] == "north"]
    assert [row["epsilon"] for row in rows] == [ONE, TWO, None] and {row["loss"] for row in rows} == {None}
    assert charged(private, "north") == charged(private, "west") == [(0, ONE), (1, TWO)]
    events = private.events("north")
    assert events.index(PRIVATE_TRAINING) < events.index("reply")
    stated = f"epsilon {epsilon_text(TWO)} at delta 1e-05 in all private runs, of epsilon_budget 100"
    assert stated in site_status(private.folders["north"])
    exported = export_run(private.folders["north"], private.run, tmp_path / "exported", say=print)
    assert privacy_of(exported) == {"north": (1, 8, TWO, TWO)}


def test_a_training_beyond_the_budget_is_refused_and_not_recorded(private):
    private.set_policy("north", epsilon_budget=(ONE + TWO) / 2)
    folder = private.folders["north"]
    charge(folder, private.run, 0, ROUND)
    with pytest.raises(PolicyError, match=f"^epsilon_budget: found {epsilon_text(TWO)} with one more round in all"):
        charge(folder, private.run, 1, ROUND)
    assert charged(private, "north") == [(0, ONE)]
    facts = [entry.facts for entry in read_log(folder.audit.path) if entry.event == PRIVATE_TRAINING]
    assert facts == [{"run": private.run, "round": 0, "steps": 4, "probability": 1.0, "noise_multiplier": 2.0,
                      "shared_by": 1, "patients": 1, "epsilon": ONE, "delta": 1e-5}]  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault("privacy budget spent")
def test_a_site_stops_before_the_round_that_would_exceed_its_budget(private):
    private.set_policy("north", epsilon_budget=(ONE + TWO) / 2)
    with pytest.raises(QuorumError, match="site north: the site's policy forbids"):
        private.train()
    (line,) = private.refusals("north")
    found = f"epsilon_budget: found {epsilon_text(TWO)} with one more round in all private runs (delta 1e-05), expected"
    assert line.startswith(f"policy: {found}") and line.endswith("; raise it in policy.toml, or leave the run")
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
    four = epsilon_text(epsilon_of([ROUND] * 4, 1e-5))
    line, *_ = forecast(task, folder, private.recipe, "another run")
    assert f"all rounds (delta 1e-05); in all private runs {four} of the policy's" in line
    assert line.startswith("differential privacy of 1 patient: epsilon up to") and "will stop" not in line
    private.set_policy("north", epsilon_budget=TWO + 0.01)
    assert "this site will stop before the last round" in forecast(task, folder, recipe, "another run")[0]
    assert objection(folder, private.run, private.recipe).startswith("epsilon_budget: ")


@pytest.mark.slow
def test_a_delta_of_the_budget_changes_the_epsilon_of_the_log_alone(private):
    private.set_policy("north", epsilon_delta=1e-2)
    private.train()
    assert charged(private, "north")[1][1] == pytest.approx(epsilon_of([ROUND] * 2, 1e-2))
    assert read_rows(private.path / "run")[-4]["epsilon"] == TWO


def test_a_delta_of_the_budget_that_means_nothing_is_an_objection(private, monkeypatch):
    """As if the one patient of each step were one of a hundred."""
    hundred = PrivateSteps(4, 0.01, 2.0, patients=100)
    monkeypatch.setattr(ReconstructionTask, "private_steps", lambda self, steps: hundred)
    folder = private.folders["north"]
    assert not objection(folder, private.run, private.recipe)
    private.set_policy("north", epsilon_delta=0.02)
    found = objection(folder, private.run, private.recipe)
    assert found == (
        "epsilon_delta: found 0.02 with 100 patients, expected below one in their number; lower it in policy.toml"
    )


def test_a_second_approval_counts_the_rounds_that_are_left(private):
    """Of two rounds one is made."""
    folder = private.folders["north"]
    charge(folder, private.run, 0, ROUND)
    task = ReconstructionTask(folder.manifest, private.recipe, folder.maps)
    for run, alone, together in ((private.run, TWO, TWO), ("another run", TWO, epsilon_of([ROUND] * 3, 1e-5))):
        line, *_ = forecast(task, folder, private.recipe, run)
        assert f"epsilon up to {epsilon_text(alone)} after all rounds" in line
        assert f"in all private runs {epsilon_text(together)} of the policy's" in line


def test_limits_of_epsilon_are_said_before_the_approval(private):
    folder, recipe = private.folders["north"], private.recipe
    changed = recipe.model_copy(
        update={
            "network": recipe.network.model_copy(update={"base": "before"}),
            "personal": recipe.personal.model_copy(update={"steps": 1}),
            "evaluation": recipe.evaluation.model_copy(update={"arms": ("local",)}),
        }
    )
    _, few, arms, base = forecast(ReconstructionTask(folder.manifest, changed, folder.maps), folder, changed, "run")
    assert few.startswith("warning: few patients (north 1): below about 200")
    assert arms == "note: trained without noise, so without epsilon: the networks of the personal stage"
    assert base.startswith("note: epsilon covers the steps of this run alone")


def test_too_few_patients_are_said_before_the_approval(private):
    few = private.recipe.model_copy(
        update={"privacy": private.recipe.privacy.model_copy(update={"patients_per_step": 2})}
    )
    folder = private.folders["north"]
    with pytest.raises(DataError, match=r"data\.train has 1 patient, expected at least privacy\.patients_per_step, 2"):
        forecast(ReconstructionTask(folder.manifest, few, folder.maps), folder, few, private.run)
