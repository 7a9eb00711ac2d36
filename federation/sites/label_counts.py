"""How many people and slices of a site show each class of its labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import recon
from recon import UNLABELLED, VolumeSlices

from ..config import config_error
from .manifest import SiteManifest


@dataclass(frozen=True)
class LabelFacts:
    """Labels of some slices: the classes with the people and slices that show them, and all that have labels."""

    classes: dict[str, tuple[int, int]]
    people: int
    slices: int


def count_labels(samples: VolumeSlices) -> LabelFacts | None:
    """Read and count the labels of the only file of a dataset; None: it has none.

    Raises
    ------
    DataError
        If training would refuse them.
    """
    if samples.labels is None:
        return None
    task = samples.labels.task
    labels: list[Any] = [samples.label(0, i) for i in range(len(samples))]
    shown = torch.stack([_shown(label, task) for label in labels])
    labelled = sum(bool(_is_labelled(label)) for label in labels)
    counts = {name: (int(shown[:, k].any()), int(shown[:, k].sum())) for k, name in enumerate(task.classes)}
    return LabelFacts(counts, int(labelled > 0), labelled)


def _shown(label: Tensor, task: recon.TaskLabels) -> Tensor:
    """Whether a slice shows each of the classes."""
    if task.kind == "classification":
        return label == 1
    return torch.isin(torch.arange(1, len(task.classes) + 1), label)


def _is_labelled(label: Tensor) -> Tensor:
    return ~label.isnan().all() if label.is_floating_point() else (label != UNLABELLED).any()


def labels_of_split(people: Sequence[str], files: Sequence[LabelFacts | None]) -> LabelFacts | None:
    """Labels of a split, from the person of every file and its labels."""
    known = [(person, facts) for person, facts in zip(people, files, strict=True) if facts is not None]
    if not known:
        return None
    classes = {
        name: (
            len({person for person, facts in known if facts.classes[name][0]}),
            sum(facts.classes[name][1] for _, facts in known),
        )
        for name in known[0][1].classes
    }
    labelled = {person for person, facts in known if facts.people}
    return LabelFacts(classes, len(labelled), sum(facts.slices for _, facts in known))


def missing_classes(manifest: SiteManifest, facts: LabelFacts | None) -> list[str]:
    """Warning that no training slice shows a class."""
    if facts is None or not manifest.trains:
        return []
    if not facts.slices:
        found, advice = "no training slice with a label", "a head cannot be trained here"
        return [str(config_error(manifest.path, "task", found, "at least one", advice))]
    absent = [name for name, (_, slices) in facts.classes.items() if not slices]
    found, advice = f"no training slice with {', '.join(absent)}", "check the values of the labels"
    return [str(config_error(manifest.path, "task.classes", found, "every class", advice))] if absent else []
