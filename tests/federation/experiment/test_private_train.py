"""`fedrecon train` with differential privacy: what is said, recorded, reported and refused, at real files."""

import json
import re

import pytest

from federation import RunFolder, load_federation, load_manifest, load_recipe
from federation.cli import main
from federation.experiment import ReconstructionTask
from federation.experiment.private_run import privacy_of
from federation.experiment.site_cost import SiteCost, measure_site
from federation.privacy import PrivateSteps, epsilon_of
from federation.rounds import LEDGER, read_rows
from federation.sites import patients_of
from recon import DataError

from ..fake_sites import SMALL, write_file, write_manifest, write_site

ROUNDS = ("--set", "federation.rounds=2", "--set", "privacy.patients_per_step=1")
EPSILON = epsilon_of([PrivateSteps(4, 0.5, 1.0)], 1e-5)


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
    assert f"after at most 2 rounds: epsilon east {EPSILON:.2f} (2 patients) at delta 1e-05" in said
    assert f"differential privacy of patients: epsilon east {EPSILON:.2f}" in said
    assert "warning: few patients (east 2): below about 200 noise costs much" in said
    assert "without epsilon: the networks of the personal stage and the local arm" in said
    rows = [row for row in read_rows(run) if row["site"] == "east"]
    assert [row["epsilon"] for row in rows] == [epsilon_of([PrivateSteps(2, 0.5, 1.0)], 1e-5), EPSILON, None]
    assert {row["loss"] for row in rows} == {None}
    assert main(["evaluate", str(run)]) == 0
    report = json.loads((run / "report.json").read_text())["privacy"]
    assert report["delta"] == 1e-5 and report["sites"]["east"] == {"patients": 2, "steps": 4, "epsilon": EPSILON}
    page = (run / "report.html").read_text()
    assert "Differential privacy of patients" in page and "the personal stage and the local arm" in page
    assert "for 2 rounds" in page  # counted without the loss
    for options, text in (
        ((), f"differential privacy of training patients: epsilon east {EPSILON:.2f}"),
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
    assert [row["epsilon"] for row in rows] == [epsilon_of([PrivateSteps(2, 0.5, 1.0)], 1e-5)] * 2 + [None] * 2
    run = RunFolder.open(tmp_path / "run")
    assert privacy_of(run)["north"].epsilon == rows[0]["epsilon"]
    (run.site_folder("north") / "kept" / LEDGER).unlink()
    with pytest.raises(DataError, match=r"north/kept/privacy\.json: found no list of private steps"):
        privacy_of(run)


def test_two_runs_differ_and_only_the_private_one_has_an_epsilon(sites):
    """The same parameters, seed and data: secret noise."""
    manifest = load_manifest(sites / "north.toml")
    small = [text for text in SMALL if "=" in text]
    recipe = load_recipe("fedavg_private", [*small, "privacy.patients_per_step=1"])
    task = ReconstructionTask(manifest, recipe, sites / "maps")
    found = []
    for _ in range(2):
        from federation.rounds import RoundContext, initial_network

        network = initial_network(task.network, 0)
        result = task.train(network, round=0, steps=1, seed=5, context=RoundContext({}, {}, {}, None, {}))
        assert result.losses == () and result.n_samples == 4
        found.append([p.detach().clone() for p in network.parameters()])
    # Not each parameter: the first step of Adam tells of a single number its sign alone.
    assert any((a != b).any() for a, b in zip(*found, strict=True))


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


def test_the_cost_of_a_step_is_that_of_its_patients(sites):
    (manifest, _) = load_federation(sites)
    small = [text for text in SMALL if "=" in text]
    for options, batches in (([], 4), (["privacy.slices_per_patient=1"], 2), (["training.batch_size=2"], 2)):
        recipe = load_recipe("fedavg_private", [*small, "privacy.patients_per_step=2", *options])
        cost = measure_site((ReconstructionTask(manifest, recipe, sites / "maps"), True))
        assert isinstance(cost, SiteCost) and cost.private_batches == batches


def test_a_missing_accountant_is_one_line_before_anything_is_written(sites, tmp_path, fails, monkeypatch):
    def missing():
        raise DataError("differential privacy: found no package dp-accounting")

    monkeypatch.setattr("federation.experiment.private_run.require_accounting", missing)
    error = fails("train", "fedavg_private", "--sites", sites, "--out", tmp_path / "out", *SMALL, *ROUNDS)
    assert re.search("found no package dp-accounting$", error) and not (tmp_path / "out").exists()
