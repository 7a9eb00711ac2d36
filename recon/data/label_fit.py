"""Whether label maps fit the images of their scan better when they are turned."""

import itertools
from typing import Any

import torch
from torch import Tensor

from ..errors import data_error
from .ct_checks import evenly_chosen
from .slices import VolumeSlices
from .task_labels import UNLABELLED

#: Slices of a volume that are looked at.
_SLICES = 8
#: Another orientation must explain this much more of the variance of the images, and this many times as much.
_MARGIN, _FACTOR = 0.04, 1.5
#: Part of the brightest pixel above which a pixel belongs to the body.
_BODY = 0.15
_TURNS: dict[str, tuple[int, ...]] = {
    "": (), "upside down": (-2,), "left-right mirrored": (-1,), "rotated by 180 degrees": (-2, -1),
}  # fmt: skip


def label_warnings(samples: VolumeSlices, number: int = 0) -> list[str]:
    """Line that says that the label maps of a volume fit its images better mirrored, turned or in reverse order.

    The fit is the part of the variance of the images that the means of the classes explain. Labels that fit as well in
    another orientation bring no line, right or wrong. The images are those of the method ``plain_image`` of the volume,
    if it has one.

    Raises
    ------
    DataError
        If images or labels cannot be read.
    """
    volume, count = samples.volumes[number], samples.n_slices(number)
    plain = getattr(volume, "plain_image", None)
    if plain is None or samples.labels is None or samples.labels.task.kind != "segmentation":
        return []
    chosen, shape = evenly_chosen(count, _SLICES), samples.displayed_shape(number)
    found: list[Tensor | None] = [plain(i, shape) for i in chosen]
    images = torch.stack([image for image in found if image is not None]).double() if None not in found else None
    if images is None:
        return []
    stacks = {
        "": _labels(samples, number, chosen),
        "in reverse order": _labels(samples, number, [count - 1 - i for i in chosen]),
    }
    own = best = _explained(images, stacks[""])
    name = ""
    square = shape[0] == shape[1]
    for order, transposed, turn in itertools.product(stacks, (False, True) if square else (False,), _TURNS):
        labels = stacks[order].mT if transposed else stacks[order]
        if (fit := _explained(images, labels.flip(_TURNS[turn]))) > best:
            best, name = fit, ", ".join(filter(None, ("transposed" if transposed else "", turn, order)))
    if best <= own + _MARGIN or best <= _FACTOR * own:
        return []
    text = f"labels that explain {own:.0%} of the variance of the images, but {best:.0%} when {name}"
    return [str(data_error(volume.path, "labels", text, "labels on the images", "look at them, and turn them"))]


def _labels(samples: VolumeSlices, number: int, chosen: list[int]) -> Tensor:
    labels: list[Any] = [samples.label(number, i) for i in chosen]
    return torch.stack(labels)


def _explained(images: Tensor, labels: Tensor) -> float:
    """Variance of the means of the classes over that of all labeled pixels in the body: air tells little of classes."""
    known = (labels != UNLABELLED) & (images > _BODY * images.max())
    values, classes = images[known], labels[known]
    if len(values) == 0 or not float(total := (values - values.mean()).square().sum()) > 0:
        return 0.0
    between = 0.0
    for label in classes.unique():
        own = values[classes == label]
        between += len(own) * float((own.mean() - values.mean()).square())
    return between / float(total)
