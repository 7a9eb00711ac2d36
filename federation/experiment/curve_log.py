"""Curves of a run for TensorBoard or MLflow, written while it is trained."""

import importlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from recon import DataError, write_atomically

from ..methods import CHECKPOINTS
from ..recipes import LOCAL, Recipe
from ..rounds import Row, read_rows
from ..serialization import saved_rounds
from .run_folder import RunFolder, Say
from .score_text import scores_by_name

logger = logging.getLogger(__name__)

_FEDERATED = "federated"
#: Values of one call of MLflow; it refuses more than 1000.
_MLFLOW_BATCH = 1000


class Point(NamedTuple):
    """A value of a curve: training of an arm at a site, name of the curve, round, value."""

    arm: str
    site: str
    curve: str
    round: int
    value: float


class CurveWriter(Protocol):
    """Writes points. ``look`` is the command that shows them; a point that is written again counts once."""

    look: str

    def write(self, points: Sequence[Point]) -> None: ...

    def close(self, has_ended: bool) -> None: ...


class TensorBoardCurves:
    """Event files in ``tensorboard/<arm>/<site>`` of a run folder; a resumed run writes all of its rounds again.

    A new event file begins with the instruction to forget the points of older files (``purge_step``).
    """

    def __init__(self, run: RunFolder) -> None:
        self.folder = run.path / "tensorboard"
        self.look = f"tensorboard --logdir {self.folder}"
        self._writers: dict[tuple[str, str], Any] = {}

    def write(self, points: Sequence[Point]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for point in points:
            key = (point.arm, point.site)
            if key not in self._writers:
                self._writers[key] = SummaryWriter(str(self.folder / point.arm / point.site), purge_step=0)
            self._writers[key].add_scalar(point.curve, point.value, point.round)
        for writer in self._writers.values():
            writer.flush()

    def close(self, has_ended: bool) -> None:
        for writer in self._writers.values():
            writer.close()


class MLflowCurves:
    """A run of MLflow, in the store that ``MLFLOW_TRACKING_URI`` names, else in ``mlflow.db`` of the run folder.

    ``mlflow.json`` of the run folder holds its identifier. A resumed run adds the points that it does not have.
    """

    def __init__(self, run: RunFolder) -> None:
        from mlflow import MlflowClient

        store = f"sqlite:///{(run.path / 'mlflow.db').resolve()}"
        uri = os.environ.get("MLFLOW_TRACKING_URI") or store
        self.look = f"mlflow ui --backend-store-uri {uri}"
        self._client = MlflowClient(tracking_uri=uri)
        self._known: dict[str, set[int]] = {}
        self._run = self._run_in(run, uri)

    def _run_in(self, run: RunFolder, uri: str) -> str:
        """Identifier of the run in MLflow, which is made if this run folder has none in this store."""
        file = run.path / "mlflow.json"
        if file.exists() and (found := json.loads(file.read_bytes()))["store"] == uri:
            self._client.update_run(str(found["run"]), status="RUNNING")
            return str(found["run"])
        experiment = self._client.get_experiment_by_name("fedrecon")
        identifier = self._client.create_experiment("fedrecon") if experiment is None else experiment.experiment_id
        name: str = self._client.create_run(identifier, run_name=run.path.resolve().name).info.run_id
        write_atomically(file, json.dumps({"store": uri, "run": name}).encode())
        return name

    def write(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        now, metrics = int(time.time() * 1000), []
        for point in points:
            key = f"{point.curve}/{point.arm}/{point.site}"
            if key not in self._known:
                self._known[key] = {metric.step for metric in self._client.get_metric_history(self._run, key)}
            if point.round not in self._known[key]:
                metrics.append(Metric(key, point.value, now, point.round))
        for begin in range(0, len(metrics), _MLFLOW_BATCH):
            self._client.log_batch(self._run, metrics=metrics[begin : begin + _MLFLOW_BATCH])
        for metric in metrics:
            self._known[metric.key].add(metric.step)

    def close(self, has_ended: bool) -> None:
        self._client.set_terminated(self._run, status="FINISHED" if has_ended else "KILLED")


#: What `--log` writes, by name; each name is a module and an extra of fedrecon.
CURVE_WRITERS: dict[str, Callable[[RunFolder], CurveWriter]] = {
    "tensorboard": TensorBoardCurves,
    "mlflow": MLflowCurves,
}


def require_curve_writers(names: Sequence[str]) -> None:
    """Check that the packages of some curve writers are installed.

    Raises
    ------
    DataError
        With the command that installs the first one that is missing.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            advice = f"pip install 'fedrecon[{name}]'"
            raise DataError(f"--log {name}: the package {error.name} is not installed; {advice}") from None


class CurveLog:
    """Writes the curves of a run in training, a context manager.

    It follows ``rounds.jsonl`` of the federation and of every local arm, so that a resumed run has all of its rounds.
    A writer that fails must not end the training: its first failure is a warning, and it gets no further points.
    """

    def __init__(self, run: RunFolder, names: Sequence[str], say: Say) -> None:
        self.run = run
        self._writers: dict[str, CurveWriter] = {}
        for name in dict.fromkeys(names):
            try:
                self._writers[name] = CURVE_WRITERS[name](run)
            except Exception as error:
                raise DataError(f"--log {name}: its store cannot be opened: {_text(error)}") from error
            say(f"curves: {self._writers[name].look}")
        self._written: set[tuple[str, str, int]] = set()
        self._made, self._has_ended = 0, False
        self._writing = threading.Lock()  # the display writes in a thread of its own

    def begin(self, now: str) -> None:
        """A part of the run begins."""

    def round_made(self, number: int) -> None:
        """A round is made."""
        self._made = number
        self.write()

    def write(self) -> None:
        """Write the rounds that are new and will not be made again: their checkpoint is written."""
        with self._writing:
            if not self._writers:
                return
            try:
                new = self._new_points()
            except Exception as error:
                self._writers.clear()
                says = "%s: its rounds cannot be read (%s): no more curves are written; the training goes on"
                logger.warning(says, self.run.path, _text(error))
                return
            if new:
                self._call("write", new)

    def _new_points(self) -> list[Point]:
        """Points of the rounds that are new and will not be made again."""
        new: list[Point] = []
        for arm, folder, below in self._folders():
            for row in read_rows(folder):
                if row["round"] < below and (key := (arm, row["site"], row["round"])) not in self._written:
                    self._written.add(key)
                    new += _points(arm, row, self.run.recipe)
        return new

    def _folders(self) -> Iterator[tuple[str, Path, float]]:
        """Arm, folder, and the first round that may be made again, of every training."""
        yield _FEDERATED, self.run.path, math.inf if self._has_ended else self._made
        if LOCAL in self.run.recipe.evaluation.arms:
            for manifest in self.run.learners:
                folder = self.run.local_folder(manifest.name)
                made = max(saved_rounds(folder / CHECKPOINTS), default=0)
                yield LOCAL, folder, math.inf if self._has_ended else made

    def _call(self, method: str, *arguments: object) -> None:
        for name, writer in list(self._writers.items()):
            try:
                getattr(writer, method)(*arguments)
            except Exception as error:
                del self._writers[name]
                says = "%s: %s: its curves cannot be written (%s); the training goes on"
                logger.warning(says, self.run.path, name, _text(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._has_ended = kind is None
        self.write()
        with self._writing:
            self._call("close", self._has_ended)
            self._writers.clear()


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _points(arm: str, row: Row, recipe: Recipe) -> Iterator[Point]:
    """Values of a site in a round; the score is that of the parameters that it received. The last round only scores."""
    values = scores_by_name(row["score_before"], recipe)
    if row["n_steps"] is not None:
        values |= {
            "training/loss": row["loss"],
            "messages/bytes up": row["bytes_up"],
            "messages/bytes down": row["bytes_down"],
            "time/seconds": row["seconds"],
        }
    for curve, value in values.items():
        if value is not None:
            yield Point(arm, row["site"], curve, row["round"], float(value))
