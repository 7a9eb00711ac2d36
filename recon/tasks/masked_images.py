"""Fill hidden patches of images, a task without labels that trains the encoder of a head."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import Samples, collate, doing_unless_named, generator_for, made
from ..errors import DataError
from ..method import apply, to_device_of
from .network import TaskNetwork, head_input, task_input


def hide_patches(images: Tensor, patch: int, part: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Set random square patches to zero, others in every image.

    Parameters
    ----------
    images
        ``(batch, 1, height, width)``.
    patch
        Pixels per side.
    part
        Share of the patches, rounded, at least one and not all.
    generator
        On the CPU.

    Returns
    -------
        The images without the patches, and which pixels these are, bool, both of the shape of the images.

    Raises
    ------
    DataError
        If an image holds fewer than two patches.
    """
    height, width = images.shape[-2:]
    rows, columns = math.ceil(height / patch), math.ceil(width / patch)
    if rows * columns < 2:
        expected = "at least two patches; set objective.options.masked_images.patch lower"
        raise DataError(f"masked_images: found images of {height}x{width} with patch = {patch}, expected {expected}")
    count = min(max(round(part * rows * columns), 1), rows * columns - 1)
    order = torch.rand((len(images), rows * columns), generator=generator).argsort(1)
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], True)
    grid = chosen.view(-1, 1, rows, columns).to(images.device)
    hidden = grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., :height, :width]
    return images * ~hidden, hidden


def filling_loss(network: TaskNetwork, images: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error of the head on hidden pixels of images ``(batch, 1, height, width)``."""
    return F.mse_loss(network.head(images * ~hidden)[hidden], images[hidden])


def explained_variance(
    network: TaskNetwork, samples: Samples, *, on_reference: bool, patch: int, part: float
) -> float | None:
    r"""Share of the variance of hidden pixels that the head explains, :math:`1 - \sum (p - x)^2 / \sum (x - m)^2`.

    m is the mean of the hidden pixels of a slice. The same patches are hidden in every call. 0: no better than the
    means, or worse. None: there are no slices.

    Parameters
    ----------
    on_reference
        Whether the head reads the reference, or the image of the network.
    patch, part
        As for :func:`hide_patches`.
    """
    network.eval()
    error, variance = 0.0, 0.0
    generator = generator_for("masked images", 0)
    with torch.no_grad(), doing_unless_named("validation", len(samples)):
        for index in range(len(samples)):
            batch = to_device_of(network, collate([samples[index]]))
            if on_reference and batch.reference is None:
                raise DataError(f"{batch.meta[0].volume}: has no reference for the head to read")
            images = head_input(batch.target()) if on_reference else task_input(batch, apply(network, batch))
            visible, hidden = hide_patches(images, patch, part, generator)
            wanted = images[hidden]
            error += float((network.head(visible)[hidden] - wanted).square().sum())
            variance += float((wanted - wanted.mean()).square().sum())
            made(index + 1)
    return None if not len(samples) else max(1 - error / variance, 0.0) if variance > 0 else 0.0
