"""Threads of every site: so that all cores work, the same in every process, and recorded in the run."""

import argparse
from pathlib import Path

import pytest
import torch

from federation import load_federation, load_recipe, machine, train_run
from federation.cli.runs import _counts
from federation.experiment import ReconstructionTask, RunFolder, evaluate_run, recorded_threads
from federation.rounds import read_rows
from federation.serialization import State
from recon import DataError

from ..fake_sites import write_site

TINY = (
    "network.cascades=1", "network.regularizer=cnn", "network.channels=2", "network.depth=2",
    "training.steps_per_round=1", "federation.rounds=1", "evaluation.arms=['zero_filled']",
)  # fmt: skip
ALL_PARTS = (*TINY, "personal.steps=1", "evaluation.arms=['zero_filled', 'local']")


class CountingTask(ReconstructionTask):
    """Its score is the number of threads."""

    def validate(self, network: torch.nn.Module) -> float | None:
        super().validate(network)
        return float(torch.get_num_threads())


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    for name in ("north", "south"):
        write_site(tmp_path / "sites", name)
    return tmp_path / "sites"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.experiment.task.ReconstructionTask", CountingTask)


def train(sites: Path, out: Path, jobs: int, resume: bool = False, say=str, overrides=TINY, **threads) -> RunFolder:
    recipe = load_recipe("fedavg", overrides)
    return train_run(recipe, load_federation(sites), out, jobs=jobs, resume=resume, say=say, **threads)


def state(run: RunFolder) -> State:
    alone = {f"{site}.{name}": tensor for site in ("north", "south") for name, tensor in local(run, site).items()}
    return {**run.selected().shared, **alone}


def local(run: RunFolder, site: str) -> State:
    return run.selected(local=site).shared


def scores(folder: Path) -> set[float]:
    return {row["score_before"] for row in read_rows(folder)}


def test_every_part_of_a_run_computes_with_its_threads(sites: Path, tmp_path: Path, counting: None) -> None:
    before = torch.get_num_threads()
    run = train(sites, tmp_path / "run", 1, overrides=ALL_PARTS, threads=3)
    assert torch.get_num_threads() == before
    folders = [run.path, run.local_folder("north"), run.local_folder("south")]
    assert [scores(folder) for folder in folders] == [{3.0}] * 3


@pytest.mark.slow
def test_every_process_has_the_threads_of_the_run_and_jobs_change_no_bit(
    sites: Path, tmp_path: Path, counting: None
) -> None:
    runs = [train(sites, tmp_path / str(jobs), jobs, overrides=ALL_PARTS, threads=3) for jobs in (1, 2)]
    assert [scores(run.path) for run in runs] == [{3.0}] * 2
    one, two = map(state, runs)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_keeps_its_threads_and_says_if_there_are_fewer_cores(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "run", list[str]()
    assert recorded_threads(out) is None
    assert train(sites, out, 1, threads=2).threads() == 2
    monkeypatch.setattr("federation.experiment.planning.cores", lambda: 1)
    assert train(sites, out, 1, resume=True, say=said.append).threads() == recorded_threads(out) == 2
    note = "note: a site computes with 2 threads, as the run began, on 1 cores: slower, same results"
    assert note in said
    with pytest.raises(DataError, match=r"--threads: found 4, expected 2, with which the run began.*leave it out"):
        train(sites, out, 1, resume=True, threads=4)

    def score(job: object) -> None:
        raise DataError(f"scored with {torch.get_num_threads()} threads")

    monkeypatch.setattr("federation.experiment.evaluate.score_site", score)
    with pytest.raises(DataError, match="scored with 2 threads"):
        evaluate_run(out, jobs=1, say=str)


def test_a_run_from_before_threads_were_recorded_goes_on_with_one(sites: Path, tmp_path: Path) -> None:
    run = train(sites, tmp_path / "run", 1)
    record = run.path / "run.json"
    assert '"threads": 1' in record.read_text()
    record.write_text(record.read_text().replace('"threads": 1,', ""))
    assert recorded_threads(run.path) == run.threads() == 1
    train(sites, run.path, 1, resume=True, threads=1)
    with pytest.raises(DataError, match="--threads: found 2, expected 1"):
        train(sites, run.path, 1, resume=True, threads=2)


@pytest.mark.parametrize(
    ("cores", "given", "expected"),
    [
        (2, {}, {"jobs": 2, "threads": 1}),
        (8, {}, {"jobs": 4, "threads": 2}),
        (64, {}, {"jobs": 3, "threads": 21}),
        (64, {"threads": 16}, {"jobs": 4, "threads": 16}),
        (8, {"jobs": 1}, {"jobs": 1, "threads": 2}),
        (2, {"threads": 4}, {"jobs": 1, "threads": 4}),
    ],
)
def test_by_default_three_sites_keep_all_cores_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, given: dict[str, int], expected: dict[str, int]
) -> None:
    monkeypatch.setattr("federation.cli.runs.threads_of_each", machine.threads_of_each)
    for module in ("machine", "cli.runs"):
        monkeypatch.setattr(f"federation.{module}.cores", lambda: cores)
    for name in ("a", "b", "c"):
        write_site(tmp_path / "sites", name)
    arguments = argparse.Namespace(**({"jobs": None, "threads": None} | given))
    manifests = load_federation(tmp_path / "sites")
    assert _counts(arguments, manifests, tmp_path / "run") == expected
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"sites": {}, "threads": 5}')
    assert _counts(arguments, manifests, tmp_path / "run")["threads"] == given.get("threads", 5)
