"""Curves for TensorBoard and MLflow hold every round of every site once, whatever happened to the run."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from federation import RunFolder, load_federation, load_recipe, train_run
from federation.cli.main import main
from federation.cli.runs import CURVE_WRITER_NAMES
from federation.experiment import CURVE_WRITERS
from federation.experiment.curve_log import CurveLog, Point, TensorBoardCurves
from federation.rounds import read_rows
from recon import DataError

from ..fake_sites import write_site

TINY = (
    "network.cascades=1", "network.regularizer=cnn", "network.channels=2", "network.depth=2",
    "training.steps_per_round=1", "evaluation.arms=['local']",
)  # fmt: skip
NAMES = ("north", "south")
Curves = Mapping[tuple[str, str, str], Sequence[tuple[int, float]]]


def train(folder: Path, rounds: int, logs: Sequence[str], *, resume: bool = False) -> RunFolder:
    recipe, said = load_recipe("fedavg", [*TINY, f"federation.rounds={rounds}"]), []
    run = train_run(
        recipe, load_federation(folder / "sites"), folder / "run", jobs=1, resume=resume, say=said.append, logs=logs
    )
    assert [line for line in said if line.startswith("curves: ")] == [f"curves: {look(run, name)}" for name in logs]
    return run


def look(run: RunFolder, name: str) -> str:
    if name == "tensorboard":
        return f"tensorboard --logdir {run.path / 'tensorboard'}"
    return f"mlflow ui --backend-store-uri sqlite:///{run.path / 'mlflow.db'}"


def in_tensorboard(run: RunFolder) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in (run.path / "tensorboard").glob("*/*"):
        events = EventAccumulator(str(folder)).Reload()
        for curve in events.Tags()["scalars"]:
            points = [(event.step, event.value) for event in events.Scalars(curve)]
            found[folder.parent.name, folder.name, curve] = points
    return found


def in_mlflow(run: RunFolder) -> Curves:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedrecon")
    assert experiment is not None
    (entry,) = client.search_runs([experiment.experiment_id])
    assert entry.info.run_name == run.path.name and entry.info.status == "FINISHED"
    found = {}
    for key in entry.data.metrics:
        curve, arm, site = key.rsplit("/", 2)
        found[arm, site, curve] = [(m.step, m.value) for m in client.get_metric_history(entry.info.run_id, key)]
    return found


def expected(run: RunFolder) -> Curves:
    """The same numbers, from the logs of the rounds."""
    found: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    keys = {"training/loss": "loss", "validation/PSNR in dB": "score_before", "time/seconds": "seconds"}
    keys |= {f"messages/bytes {way}": f"bytes_{way}" for way in ("up", "down")}
    folders = [("federated", run.path), *(("local", run.local_folder(name)) for name in NAMES)]
    for arm, folder in folders:
        for row in read_rows(folder):
            for curve, key in keys.items():
                if row[key] is not None and (key == "score_before" or row["loss"] is not None):
                    value = pytest.approx(float(row[key]), rel=1e-6)  # TensorBoard stores single precision
                    found.setdefault((arm, row["site"], curve), []).append((row["round"], value))
    return found


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("tensorboard", in_tensorboard),
        pytest.param("mlflow", in_mlflow, marks=pytest.mark.filterwarnings("ignore")),  # of what MLflow imports
    ],
)
def test_a_run_that_goes_on_has_every_round_once(
    name: str, read: Callable[[RunFolder], Curves], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "mlflow":
        pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for site in NAMES:
        write_site(tmp_path / "sites", site)
    run = train(tmp_path, 1, [name])
    assert read(run) == expected(run)
    run = train(tmp_path, 2, [name], resume=True)
    curves = read(run)
    assert curves == expected(run) and len(curves) == 2 * 2 * 5
    assert [step for step, _ in curves["federated", "north", "training/loss"]] == [0, 1]
    assert [step for step, _ in curves["local", "south", "validation/PSNR in dB"]] == [0, 1, 2]
    assert read(train(tmp_path, 2, [name], resume=True)) == curves  # a run that is trained


def test_a_round_that_a_kill_left_without_its_checkpoint_is_written_as_it_was_made_again(tmp_path: Path) -> None:
    for site in NAMES:
        write_site(tmp_path / "sites", site)
    run = train(tmp_path, 1, ["tensorboard"])
    log = run.path / "rounds.jsonl"
    torn = log.read_text().splitlines()[0].replace('"round": 0', '"round": 1').replace('"seconds": ', '"seconds": 1')
    log.write_text(log.read_text() + torn + "\n")
    run = train(tmp_path, 2, ["tensorboard"], resume=True)
    assert in_tensorboard(run) == expected(run)


class Broken:
    """A writer whose disk is full."""

    look = "look"

    def __init__(self, run: RunFolder) -> None:
        self.calls = 0

    def write(self, points: Sequence[Point]) -> None:
        raise OSError("No space left on device")

    def close(self) -> None:
        raise AssertionError("a writer that failed is not called again")


def test_a_writer_that_fails_ends_no_training_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CURVE_WRITERS, "tensorboard", Broken)  # type: ignore[arg-type]
    write_site(tmp_path / "sites")
    recipe = load_recipe("fedavg", [*TINY, "federation.rounds=2"])
    run = train_run(
        recipe, load_federation(tmp_path / "sites"), tmp_path / "run", jobs=1, resume=False, say=str,
        logs=["tensorboard"],
    )  # fmt: skip
    assert len(read_rows(run.path)) == 3
    reason = "tensorboard: its curves cannot be written (OSError: No space left on device); the training goes on"
    assert caplog.messages == [f"{run.path}: {reason}"]


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(run: RunFolder) -> TensorBoardCurves:
        raise OSError("connection refused")

    monkeypatch.setitem(CURVE_WRITERS, "mlflow", closed)  # type: ignore[arg-type]
    run = RunFolder(tmp_path, load_recipe("fedavg", TINY), ())
    with pytest.raises(DataError, match="--log mlflow: its store cannot be opened: OSError: connection refused"):
        CurveLog(run, ["mlflow"], str)


def test_a_residual_is_a_curve_of_its_own_and_what_a_site_does_not_tell_is_left_out(tmp_path: Path) -> None:
    from federation.experiment.curve_log import _points

    row = {"round": 3, "site": "north", "score_before": -1.25, "loss": None, "bytes_up": 7, "bytes_down": 9}
    points = list(_points("federated", row | {"seconds": 2.0, "n_steps": 4}, load_recipe("fedavg")))
    assert Point("federated", "north", "validation/held-out residual", 3, 1.25) in points
    assert {point.curve for point in points} == {
        "validation/held-out residual", "messages/bytes up", "messages/bytes down", "time/seconds"
    }  # fmt: skip


@pytest.mark.parametrize("name", CURVE_WRITER_NAMES)
def test_a_missing_package_is_said_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    for command in (["train", "fedavg", "--sites", str(tmp_path / "none")], ["demo"]):
        assert main([*command, "--out", str(tmp_path / "run"), "--log", name]) == 2
        said = capsys.readouterr().err
        assert said.endswith(f"the package {name} is not installed; pip install 'fedrecon[{name}]'\n")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_names_every_writer() -> None:
    assert tuple(CURVE_WRITERS) == CURVE_WRITER_NAMES
