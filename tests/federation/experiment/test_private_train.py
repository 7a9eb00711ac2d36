"""`fedrecon train` with differential privacy: what is said, recorded, reported and refused, at real files."""

import json
import re
from dataclasses import replace

import pytest
import torch

from federation import RunFolder, load_federation, load_manifest, load_recipe
from federation.cli import main
from federation.experiment import ReconstructionTask, site_cost
from federation.experiment.model_card import model_card
from federation.experiment.private_run import privacy_notes, privacy_of, report_of_privacy, say_privacy, unnamed_note
from federation.experiment.site_cost import PrivateCost, SiteCost, measure_site
from federation.experiment.train import algorithm_of, initial_state
from federation.methods import CHECKPOINTS
from federation.privacy import Ledger, PrivateSteps, epsilon_of
from federation.rounds import LEDGER, RoundContext, initial_network, read_rows
from federation.serialization import save_checkpoint
from federation.sites import Patients, patients_of
from recon import DataError, PatientLearner, epsilon_text
from recon.report.tables import privacy_section

from ..fake_sites import SMALL, write_file, write_manifest, write_site

ROUNDS = ("--set", "federation.rounds=2", "--set", "privacy.patients_per_step=1")
ROUND = PrivateSteps(2, 0.5, 1.0, patients=2)
HALF, EPSILON = (epsilon_of([ROUND] * count, 1e-5) for count in (1, 2))


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    for name in ("east", "north"):
        write_site(folder, name)
    return folder


def train(sites, out, *options):
    return main(["train", "fedavg_private", "--sites", str(sites), "--out", str(out), *SMALL, *ROUNDS, *options])


@pytest.mark.slow
def test_epsilon_is_said_recorded_reported_and_on_the_card(tmp_path, capsys):
    run = tmp_path / "run"
    write_site(tmp_path / "sites", "east")
    personal = ("--set", "personal.steps=1", "--set", "evaluation.arms=['local']")
    assert train(tmp_path / "sites", run, *personal) == 0
    said = capsys.readouterr().out
    assert f"after at most 2 rounds: epsilon east {epsilon_text(EPSILON)} (2 patients) at delta 1e-05" in said
    assert f"differential privacy of patients: epsilon east {epsilon_text(EPSILON)}" in said
    assert "warning: few patients (east 2): below about 200 noise costs much" in said
    assert "without epsilon: the networks of the personal stage and the local arm" in said
    rows = [row for row in read_rows(run) if row["site"] == "east"]
    assert [row["epsilon"] for row in rows] == [HALF, EPSILON, None]
    assert {row["loss"] for row in rows} == {None}
    assert main(["evaluate", str(run)]) == 0
    report = json.loads((run / "report.json").read_text())["privacy"]
    made = {"patients": 2, "steps": 4, "epsilon": EPSILON, "planned": EPSILON}
    assert report["delta"] == 1e-5 and report["sites"]["east"] == made
    assert "this report holds scores of these networks: the networks of the personal stage and the" in report["note"]
    page = (run / "report.html").read_text()
    assert "Differential privacy of patients" in page and "the personal stage and the local arm" in page
    assert "for 2 rounds" in page  # counted without the loss
    for options, text in (
        ((), f"differential privacy of training patients: epsilon east {epsilon_text(EPSILON)}"),
        (("--site", "east"), "the personal stage had none: no epsilon holds"),
    ):
        out = tmp_path / f"weights{len(options)}"
        assert main(["weights", "export", str(run), "--out", str(out), *options]) == 0
        assert text in (out / "MODEL.md").read_text()


@pytest.mark.slow
def test_with_a_secure_sum_the_log_states_epsilon_too(sites, tmp_path):
    options = ("--set", "privacy.secure_sum=true", "--set", "evaluation.arms=[]", "--set", "federation.rounds=1")
    assert train(sites, tmp_path / "run", *options) == 0
    rows = read_rows(tmp_path / "run")
    assert [row["epsilon"] for row in rows] == [HALF] * 2 + [None] * 2
    run = RunFolder.open(tmp_path / "run")
    assert privacy_of(run)["north"].epsilon == privacy_of(run)["north"].planned == rows[0]["epsilon"]
    (run.site_folder("north") / "kept" / LEDGER).unlink()
    with pytest.raises(DataError, match=r"north/kept/privacy\.json: found no list of private steps"):
        privacy_of(run)


@pytest.fixture
def begun(sites, tmp_path):
    """A run of two rounds whose first one is made, by its records alone."""
    small = [text for text in SMALL if "=" in text]
    recipe = load_recipe("fedavg_private", [*small, "federation.rounds=2", "privacy.patients_per_step=1"])
    run = RunFolder.create(tmp_path / "run", recipe, load_federation(sites), resume=False)
    numbers = {"history": [], "algorithm": algorithm_of(recipe).describe(), "accepted": {}}
    save_checkpoint(run.path / CHECKPOINTS, 1, initial_state(recipe)[0], numbers)
    for name in ("east", "north"):
        ledger_of(run, name).spend(0, ROUND)
    return run


def ledger_of(run, name):
    return Ledger(run.site_folder(name) / "kept" / LEDGER)


def card_of(run):
    return model_card(run, "weights.safetensors", {}, site=None, kept=())


def test_the_guarantee_is_epsilon_after_all_rounds(begun):
    """Results may end a training early, so the steps that it has made are no guarantee."""
    assert HALF < EPSILON and privacy_of(begun)["east"] == (2, 2, HALF, EPSILON)
    both = f"{epsilon_text(EPSILON)} (2 patients; spent so far {epsilon_text(HALF)})"
    assert f"epsilon east {both}, north {both} at delta 1e-05" in card_of(begun)
    cells = f'<td class="number">{epsilon_text(EPSILON)}</td><td class="number">{epsilon_text(HALF)}</td>'
    assert privacy_section(report_of_privacy(begun)).count(cells) == 2


def test_a_record_without_the_number_of_patients_is_read(begun):
    """As versions before the field have written it: two patients follow from the probability of one a step."""
    before = privacy_of(begun)
    for name in ("east", "north"):
        ledger_of(begun, name).path.write_text(
            json.dumps([{"round": 0, "steps": 2, "probability": 0.5, "noise_multiplier": 1.0}])
        )
    assert ledger_of(begun, "east").spent() == [replace(ROUND, patients=None)]
    assert privacy_of(begun) == before


def test_the_number_of_patients_is_that_of_the_record(begun):
    """Not one that is computed back from the probability, which a recipe may state otherwise by now."""
    ledger_of(begun, "east").spend(0, replace(ROUND, patients=3))
    assert privacy_of(begun)["east"].patients == 3


def test_before_a_run_goes_on_it_says_what_all_steps_will_have_cost(begun):
    """The second round was interrupted, so its steps count twice."""
    ledger_of(begun, "east").spend(1, ROUND)
    said = []
    say_privacy(begun, said.append)
    three = epsilon_text(epsilon_of([ROUND] * 3, 1e-5))
    assert f"epsilon east {three} (2 patients; spent so far {epsilon_text(EPSILON)}), north" in said[0]
    assert f"north {epsilon_text(EPSILON)} (2 patients; spent so far {epsilon_text(HALF)})" in said[0]


def test_a_base_is_not_covered(begun):
    text = "epsilon covers the steps of this run alone, not its base"
    network = begun.recipe.network.model_copy(update={"base": "runs/before"})
    on_a_base = replace(begun, recipe=begun.recipe.model_copy(update={"network": network}))
    for run, count in ((begun, 0), (on_a_base, 1)):
        said = []
        say_privacy(run, said.append)
        assert "\n".join(said).count(f"note: {text}") == count
        assert report_of_privacy(run)["note"].count(text[1:]) == count and card_of(run).count(f"- {text}") == count


def test_files_that_name_nobody_are_said(begun):
    file, other, person = {"file a.h5": [0]}, {"file b.h5": [1]}, {"patient p": [2]}
    assert not unnamed_note(Patients(file, 1)) and not unnamed_note(Patients(person, 0))
    assert unnamed_note(Patients(file | person, 1)).startswith("1 training file without a patient, each counted")
    assert unnamed_note(Patients(file | other, 2)).startswith("2 training files without a patient, each counted")
    (line, *_) = privacy_notes(begun.recipe, {"east": Patients(file | person, 1)})
    assert line.startswith("note: east: 1 training file without a patient")


def test_two_trainings_of_all_patients_differ_by_the_secret_noise(sites, monkeypatch):
    monkeypatch.setattr(PatientLearner, "_drawn", lambda self: list(self.patients))
    small = [text for text in SMALL if "=" in text]
    recipe = load_recipe("fedavg_private", [*small, "privacy.patients_per_step=1"])
    task = ReconstructionTask(load_manifest(sites / "north.toml"), recipe, sites / "maps")

    def trained():
        network = initial_network(task.network, 0)
        result = task.train(network, round=0, steps=1, seed=5, context=RoundContext({}, {}, {}, None, {}))
        assert result.losses == () and result.n_samples == 4
        return list(network.parameters())

    # Not each parameter: the first step of Adam tells of a single number its sign alone.
    assert any((a != b).any() for a, b in zip(trained(), trained(), strict=True))
    monkeypatch.setattr("recon.training.private_training.secret_normal", torch.zeros)
    assert all(torch.equal(a, b) for a, b in zip(trained(), trained(), strict=True))


def test_too_few_patients_are_refused_before_a_folder_is_written(sites, tmp_path, fails):
    command = ("train", "fedavg_private", "--sites", sites, "--out", tmp_path / "out", *SMALL)
    assert "east.toml: data.train has 2 patients, expected at least privacy.patients_per_step, 4" in fails(*command)
    assert not (tmp_path / "out").exists()


def test_a_delta_of_one_in_the_number_of_patients_is_refused(tmp_path, fails):
    for index in range(12):
        write_file(tmp_path / "data" / "north" / f"n{index}.h5")
    write_manifest(tmp_path, "north", {"train": [f"n{index}.h5" for index in range(12)]})
    command = ("train", "fedavg_private", "--sites", tmp_path, "--out", tmp_path / "out", *SMALL, *ROUNDS)
    error = fails(*command, "--set", "privacy.delta=0.09")
    assert "data.train has 12 patients, expected privacy.delta, 0.09, below one in their number; lower it" in error
    assert not (tmp_path / "out").exists()


def test_a_patient_is_the_subject_of_the_splits(tmp_path):
    """By the table of the manifest, the file's own patient, or the file; two files may show one."""
    for name, patient in (("a", "p1"), ("b", "P1 "), ("c", None), ("d", "p2"), ("e", "p3")):
        write_file(tmp_path / "data" / "north" / f"{name}.h5", patient)
    files = [f"{name}.h5" for name in "abcd"]
    path = write_manifest(tmp_path, "north", {"train": files, "test": ["e.h5"]})
    manifest = load_manifest(path)
    found = patients_of(manifest, manifest.dataset("train"))
    assert found.slices == {"patient p1": [0, 1, 2, 3], "file c.h5": [4, 5], "patient p2": [6, 7]}
    assert found.unnamed == 1 and len(found) == 3
    path.write_text(path.read_text() + '[data.persons]\n"c.h5" = "p2"\n')
    manifest = load_manifest(path)
    assert patients_of(manifest, manifest.dataset("train")).slices["patient p2"] == [4, 5, 6, 7]


def test_the_cost_of_a_step_is_that_of_its_patients(sites, monkeypatch):
    (manifest, _) = load_federation(sites)
    small = [text for text in SMALL if "=" in text]
    for options, slices, batches in (
        ([], 4, 4), (["privacy.slices_per_patient=1"], 2, 2), (["training.batch_size=2"], 4, 2),
    ):  # fmt: skip
        # A step without noise, one with one patient, one with two, a validation slice.
        seconds = iter((9.0, 5.0, 8.0, 7.0))
        monkeypatch.setattr(site_cost, "_shortest", lambda step, repeats, s=seconds: (step(), next(s))[1])
        monkeypatch.setattr(site_cost, "_timed", lambda function: (0.25, function()))
        recipe = load_recipe("fedavg_private", [*small, "privacy.patients_per_step=2", *options])
        cost = measure_site((ReconstructionTask(manifest, recipe, sites / "maps"), False))
        assert isinstance(cost, SiteCost)
        assert cost.private == PrivateCost(5.0 + (batches - 1) * 3.0 + slices * 0.25, slices)


def test_a_missing_accountant_is_one_line_before_anything_is_written(sites, tmp_path, fails, monkeypatch):
    def missing():
        raise DataError("differential privacy: found no package dp-accounting")

    monkeypatch.setattr("federation.experiment.private_run.require_accounting", missing)
    error = fails("train", "fedavg_private", "--sites", sites, "--out", tmp_path / "out", *SMALL, *ROUNDS)
    assert re.search("found no package dp-accounting$", error) and not (tmp_path / "out").exists()


def test_the_memory_of_private_steps_counts(sites, monkeypatch):
    """Also where memory alone is measured, before processes at a time are chosen."""
    (manifest, _), small, made = load_federation(sites), [text for text in SMALL if "=" in text], []

    def train(network, samples, patients, noise, **how):
        made.append((len(samples), len(patients), noise.probability(len(patients)), noise.clip, how["steps"]))

    monkeypatch.setattr(site_cost, "train_privately", train)
    monkeypatch.setattr(site_cost, "peak_memory", lambda: 10**9 + len(made))
    monkeypatch.setattr(site_cost, "shared_memory", lambda: 10**9)
    for method, options, memory in (("fedavg", (), 0), ("fedavg_private", ("privacy.patients_per_step=1",), 1)):
        cost = measure_site(
            (ReconstructionTask(manifest, load_recipe(method, [*small, *options]), sites / "maps"), True)
        )
        assert isinstance(cost, SiteCost) and cost.memory == memory
    assert made == [(1, 1, 1.0, 0.03, 1)]
