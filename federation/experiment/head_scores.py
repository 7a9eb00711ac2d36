"""Scores of a head on the images of every arm at one site, person by person, and its label sets."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from recon import (
    PREPARING,
    UNLABELLED,
    LabelSetControl,
    LossCurve,
    PersonPrediction,
    TaskNetwork,
    VolumeImages,
    VolumeSlices,
    control_label_sets,
    doing,
    evaluate,
    head_input,
    label_set_scores,
    loss_curves,
    probabilities,
    task_differences,
    task_network_of,
    task_scores,
    write_atomically,
)

from ..config import read_json
from ..progress import within
from ..sites import Split, patients_of
from ..worker_pool import run_jobs
from .head_labels import has_labels
from .personal_stage import site_network
from .run_folder import RunFolder, Say
from .task import ReconstructionTask

#: Arm of a head that reads the reference images.
REFERENCE = "reference"
#: Thresholds of the label sets of the sites in a run folder.
LABEL_SETS = "label_sets.json"
#: Slices that a head reads at a time.
_AT_ONCE = 8
_Array = np.ndarray[Any, Any]


class HeadScores:
    """Predictions and scores of heads on the test data of one site.

    Classical arms, and the reference, have the head of the recipe's own arm; trained arms have their own.

    Parameters
    ----------
    methods
        By arm; the recipe's own is the last.
    images
        Magnitudes of every arm, one array ``(slices, height, width)`` per volume.
    references
        The same of the references; None for a volume without.
    """

    def __init__(
        self,
        task: ReconstructionTask,
        samples: VolumeSlices,
        methods: Mapping[str, nn.Module],
        images: Mapping[str, Sequence[_Array]],
        references: Sequence[_Array | None],
    ) -> None:
        self._samples = samples
        self._own, method = list(methods.items())[-1]
        own = _head_of(method)
        self._labels = own.labels
        self._truth = _truth(samples)
        known = [reference for reference in references if reference is not None]
        read = dict(images) | ({REFERENCE: known} if len(known) == len(references) else {})
        self._probability: dict[str, list[_Array]] = {}
        for arm, volumes in read.items():
            network = (task_network_of(methods[arm]) if arm in methods else None) or own
            with task.at_work(network):
                self._probability[arm] = [_probability(network, volume) for volume in volumes]
        self._people = {
            arm: _people(task, samples, "test", self._truth, found) for arm, found in self._probability.items()
        }

    def scores(self, controls: Mapping[str, LabelSetControl] | None = None) -> dict[str, dict[str, Any]]:
        """:func:`recon.task_scores` by arm, with the difference to the recipe's own arm; only aggregates over people.

        Parameters
        ----------
        controls
            Of the label sets of the recipe's own arm, by class; None: it has none.
        """
        spacings = {self._samples.image_header(number).pixel_mm for number in range(len(self._samples.volumes))}
        spacing = spacings.pop() if len(spacings) == 1 else None
        kind, classes = self._labels.kind, self._labels.classes
        own = self._people[self._own]
        found = {}
        for arm, people in self._people.items():
            found[arm] = task_scores(kind, classes, people, spacing)
            if arm != self._own:
                difference = task_differences(kind, classes, people, own, spacing)
                found[arm]["difference"] = {"to": self._own, "classes": difference}
        if controls is not None:
            found[self._own]["label_sets"] = label_set_scores(kind, classes, own, controls)
        return found

    def most_labelled(self) -> dict[str, tuple[int, int]]:
        """Volume and slice with the most labelled pixels, for :func:`pictured_slices`; empty where no map has any."""
        if self._labels.kind != "segmentation":
            return {}
        counts = {(v, i): int((one > 0).sum()) for v, own in enumerate(self._truth) for i, one in enumerate(own)}
        most = max(counts, key=counts.__getitem__)
        return {"largest label": most} if counts[most] else {}

    def outlined(self, pictures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Pictured slices with ``labels``, the label maps of reference and arms; as they are for classes of slices."""
        if self._labels.kind == "classification":
            return [dict(one) for one in pictures]
        shown = []
        for one in pictures:
            number, i = self._samples.locate(one["index"])
            maps: dict[str, Any] = {arm: found[number][i].argmax(0) for arm, found in self._probability.items()}
            maps |= {REFERENCE: self._truth[number][i], "classes": list(self._labels.classes)}
            shown.append({**one, "labels": maps})
        return shown


def score_heads(
    task: ReconstructionTask,
    samples: VolumeSlices,
    methods: Mapping[str, nn.Module],
    images: Mapping[str, Sequence[_Array]],
    references: Sequence[_Array | None],
) -> HeadScores | None:
    """The scores of a site; None if the recipe has no head or the site no labels."""
    if task.recipe.task is None or not has_labels(task.recipe, task.manifest):
        return None
    return HeadScores(task, samples, methods, images, references)


def calibrate_heads(run: RunFolder, wanted: float, jobs: int, say: Say) -> None:
    """Find the thresholds of the label sets of every site with labelled validation scans, and write them.

    Only curves leave the site, means over its people, see :class:`recon.LossCurve`. With differential privacy of
    patients none does, and every site calibrates alone.
    """
    place = run.path / LABEL_SETS
    place.unlink(missing_ok=True)
    sites = [m.name for m in run.manifests if m.data.validation and has_labels(run.recipe, m)]
    if not sites:
        return
    say(f"calibrating the label sets of {len(sites)} sites on their validation scans ...")
    work, queue = [(run, name) for name in sites], run.queue(sites).in_order(sites)
    curves = run_jobs(_curves, work, jobs, threads=run.threads(), queue=queue)
    told = dict(zip(sites, curves, strict=True))
    shared = run.recipe.privacy.noise() is None
    found: dict[str, dict[str, Any]] = {site: {} for site in sites}
    for group in [sites] if shared else [[site] for site in sites]:
        for name in told[group[0]]:
            controls = control_label_sets({site: told[site][name] for site in group}, wanted)
            for site, control in controls.items():
                found[site][name] = asdict(control)
    write_atomically(place, json.dumps(found, indent=1).encode())


def controls_of(run: RunFolder, site: str) -> dict[str, LabelSetControl] | None:
    """Thresholds of the label sets of a site by class, written by :func:`calibrate_heads`; None: there are none.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    place = run.path / LABEL_SETS
    if not place.is_file():
        return None
    stored = read_json(place, f"write it again with `fedrecon evaluate {run.path}`").get(site)
    return None if stored is None else {name: LabelSetControl(**control) for name, control in stored.items()}


def _curves(job: tuple[RunFolder, str]) -> dict[str, LossCurve]:
    run, name = job
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    with within(site=name, part="label sets"), doing(PREPARING):
        network, samples = site_network(run, manifest), task.dataset("validation")
        images: list[_Array] = []

        def receive(volume: VolumeImages) -> None:
            images.append(volume.images.numpy())

        with task.at_work(network):
            evaluate(network, samples, on_volume=receive)
            found = [_probability(_head_of(network), volume) for volume in images]
        people = _people(task, samples, "validation", _truth(samples), found)
    labels = _head_of(network).labels
    return loss_curves(labels.kind, labels.classes, people)


def _head_of(network: nn.Module) -> TaskNetwork:
    found = task_network_of(network)
    assert found is not None  # the recipe has a head
    return found


def _truth(samples: VolumeSlices) -> list[_Array]:
    """Labels of all slices by volume."""
    truth = []
    for number in range(len(samples.volumes)):
        label = [samples.label(number, i) for i in range(samples.n_slices(number))]
        truth.append(torch.stack([one for one in label if one is not None]).numpy())
    return truth


def _people(
    task: ReconstructionTask,
    samples: VolumeSlices,
    split: Split,
    truth: Sequence[_Array],
    probability: Sequence[_Array],
) -> list[PersonPrediction]:
    """All slices of every person; smaller label maps of a person are padded with unlabelled pixels."""
    people = []
    for person, slices in patients_of(task.manifest, samples, split).slices.items():
        own = [samples.locate(index) for index in slices]
        shape = np.max([truth[number][i].shape for number, i in own], axis=0)
        padded = np.stack([_padded(truth[number][i], shape, UNLABELLED) for number, i in own])
        found = np.stack([_padded(probability[number][i], shape, 0.0) for number, i in own])
        people.append(PersonPrediction(person, padded, found))
    return people


def _probability(network: TaskNetwork, images: _Array) -> _Array:
    network.eval()
    device = next(network.head.parameters()).device
    with torch.no_grad():
        parts = [
            probabilities(network.labels, network.head(head_input(part.to(device)))).cpu()
            for part in torch.from_numpy(images).split(_AT_ONCE)
        ]
    return torch.cat(parts).numpy()


def _padded(values: _Array, shape: _Array, fill: float) -> _Array:
    """Values of a label map or of a probability, whose last axes are enlarged to a shape; classes stay."""
    if len(shape) == 1:
        return values
    missing = np.asarray(shape) - values.shape[-2:]
    return np.pad(values, [(0, 0)] * (values.ndim - 2) + [(0, int(n)) for n in missing], constant_values=fill)
