"""The report of a run while it is trained: written after every round, and every few seconds in between."""

import logging
import threading
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from recon import reconstruct, write_training_report

from ..methods import CHECKPOINTS, ServerState, state_of_checkpoint
from ..progress import seconds_left
from ..recipes import LOCAL
from ..rounds import read_rows
from ..serialization import load_newest
from ..sites import SiteManifest
from ..worker_pool import computing_with
from .run_folder import RunFolder
from .score_text import score_label
from .task import ReconstructionTask

logger = logging.getLogger(__name__)


class LiveReport:
    """``report.html`` of a run in training, a context manager.

    It must not end the training, so that the first failure is a warning.

    Pictures are made after rounds 1, 2, 4, 8 ...: they cost a validation slice of every site, in this process.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.now = ""
        self._pictures: tuple[int, dict[str, list[dict[str, Any]]]] = (0, {})
        self._has_failed = self._has_ended = False
        self._writing = threading.Lock()  # the display writes it in a thread of its own

    def begin(self, now: str) -> None:
        """A part of the run begins; ``now`` is a sentence for the reader."""
        self.now = now
        self.write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Write the last time, whether the training has ended or was interrupted."""
        text = "The training is finished; `fedrecon evaluate {}` scores the test data."
        if kind is not None:
            text = "The training of {} was interrupted; the same command with --resume continues it."
        with self._writing:
            self.now, self._has_ended = text.format(self.run.path), True
            self._write(reload=False)

    def round_made(self, number: int) -> None:
        """A round is made, the first is 1."""
        if number & (number - 1) == 0:
            try:
                newest = load_newest(self.run.path / CHECKPOINTS)
                if newest is not None:
                    state = state_of_checkpoint(newest, self.run.path)
                    made = {m.name: [self._picture(m, state)] for m in self.run.participants if m.data.validation}
                    self._pictures = (state.round, made)
            except Exception as error:
                self._warn(f"pictures of round {number}", error)
        self.write()

    def write(self) -> None:
        """Write the report, unless the training has ended."""
        with self._writing:
            if not self._has_ended:
                self._write(reload=True)

    def _write(self, *, reload: bool) -> None:
        try:
            write_training_report(self.run.path, self._results(), reload=reload)
        except Exception as error:
            self._warn("its report", error)

    def _warn(self, what: str, error: Exception) -> None:
        logger.debug("%s", what, exc_info=True)
        if not self._has_failed:
            self._has_failed = True
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            logger.warning("%s: %s cannot be made (%s); the training goes on", self.run.path, what, text)

    def _results(self) -> dict[str, Any]:
        run, (pictured, pictures) = self.run, self._pictures
        alone = [m.name for m in run.learners] if LOCAL in run.recipe.evaluation.arms else []
        return {
            "method": run.recipe.name,
            "rounds": run.recipe.federation.rounds,
            "score_label": score_label(run.recipe),
            "curves": read_rows(run.path),
            "alone": {name: rows for name in alone if (rows := read_rows(run.local_folder(name)))},
            "sites": {m.name: {"synthetic": m.synthetic, "modality": m.modality} for m in run.manifests},
            "pictures": pictures,
            "pictured_round": pictured,
            "seconds_left": seconds_left(),
            "now": self.now,
            "recipe": run.recipe.to_toml(),
        }

    def _picture(self, manifest: SiteManifest, state: ServerState) -> dict[str, Any]:
        """The middle validation slice: reference, inversion of the measurement, network."""
        task = ReconstructionTask(manifest, self.run.recipe, self.run.maps_folder(manifest.name))
        slices = task.validation_slices()
        sample = slices[len(slices) // 2]
        network = self.run.spec(manifest).build().network_at(state.shared, state.round).eval()
        inversion = manifest.kind.inversion
        methods = {inversion: manifest.kind.methods[inversion](), self.run.recipe.name: network}
        images = {} if sample.reference is None else {"reference": _plane(sample.target())}
        with torch.no_grad(), computing_with(self.run.threads()):
            for name, method in methods.items():
                with task.at_work(method):
                    images[name] = _plane(sample.magnitude(reconstruct(method, sample)))
        meta = sample.meta[0]
        return {"name": "validation", "where": f"{meta.volume}, slice {meta.slice + 1}", "images": images}


def _plane(image: Tensor) -> np.ndarray[Any, Any]:
    """The image, or the middle frame of several."""
    while image.ndim > 2:
        image = image[len(image) // 2]
    plane: np.ndarray[Any, Any] = image.numpy()
    return plane
