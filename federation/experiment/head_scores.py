"""Scores of a head on the images of every arm at one site, person by person."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from recon import (
    UNLABELLED,
    PersonPrediction,
    TaskNetwork,
    VolumeSlices,
    head_input,
    probabilities,
    task_network_of,
    task_scores,
)

from ..sites import patients_of
from .head_labels import has_labels
from .task import ReconstructionTask

#: Arm of a head that reads the reference images.
REFERENCE = "reference"
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
        self._task, self._samples = task, samples
        own = task_network_of(list(methods.values())[-1])
        assert own is not None  # the recipe has a head
        self.labels = own.labels
        self.truth = [self._label(number) for number in range(len(samples.volumes))]
        known = [reference for reference in references if reference is not None]
        read = dict(images) | ({REFERENCE: known} if len(known) == len(references) else {})
        self.probability: dict[str, list[_Array]] = {}
        for arm, volumes in read.items():
            network = (task_network_of(methods[arm]) if arm in methods else None) or own
            with task.at_work(network):
                self.probability[arm] = [_probability(network, volume) for volume in volumes]

    def scores(self) -> dict[str, dict[str, Any]]:
        """:func:`recon.task_scores` by arm; only aggregates over the people of the site."""
        spacings = {self._samples.image_header(number).pixel_mm for number in range(len(self._samples.volumes))}
        spacing = spacings.pop() if len(spacings) == 1 else None
        return {
            arm: task_scores(self.labels.kind, self.labels.classes, self._people(found), spacing)
            for arm, found in self.probability.items()
        }

    def _label(self, number: int) -> _Array:
        label = [self._samples.label(number, i) for i in range(self._samples.n_slices(number))]
        return torch.stack([one for one in label if one is not None]).numpy()

    def _people(self, probability: Sequence[_Array]) -> list[PersonPrediction]:
        """All slices of every person; smaller label maps of a person are padded with unlabelled pixels."""
        split = patients_of(self._task.manifest, self._samples, "test").slices
        places = [self._samples.locate(index) for index in range(len(self._samples))]
        people = []
        for person, slices in split.items():
            own = [places[index] for index in slices]
            shape = np.max([self.truth[number][i].shape for number, i in own], axis=0)
            truth = np.stack([_padded(self.truth[number][i], shape, UNLABELLED) for number, i in own])
            found = np.stack([_padded(probability[number][i], shape, 0.0) for number, i in own])
            people.append(PersonPrediction(person, truth, found))
        return people


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
