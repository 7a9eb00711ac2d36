"""The table of a CT scanner in an image: found, removed, drawn."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

AIR_HU, BODY_HU = -1000.0, -300.0
#: Hounsfield units of a drawn table: shell of carbon fiber, core of foam.
SHELL_HU, CORE_HU = 50.0, -880.0
#: Thickness of shell and table, half width, and radius of a curved one, relative to the side of the image.
SHELL, THICKNESS, HALF_WIDTH, RADIUS = 0.006, 0.04, 0.36, 0.8
#: A table is thinner than twice this part of the side, and a part of the body is at least this part of the largest.
OPENING, SMALLEST = 0.012, 0.02


def without_table(hu: Tensor) -> Tensor:
    """Slices in which all that is not body is air: table, clothes, cables.

    The body of a slice is what an opening leaves of the pixels above -300 HU: the largest component, and others (arms)
    of at least 2 % of it that do not lie below it.

    Parameters
    ----------
    hu
        Hounsfield units, shape ``(slices, side, side)``.
    """
    outside = torch.from_numpy(np.stack([~_body(image) for image in hu.numpy()]))
    return torch.where(outside, AIR_HU, hu)


def with_table(hu: Tensor, kind: str) -> Tensor:
    """Slices with a table below the body, at one height for all slices and within the circle that is scanned.

    Parameters
    ----------
    hu
        Hounsfield units without a table, shape ``(slices, side, side)``.
    kind
        ``flat`` or ``curved``.
    """
    side = hu.shape[-1]
    body = torch.from_numpy(np.stack([ndimage.binary_fill_holes(image > BODY_HU) for image in hu.numpy()]))
    rows = body.any(0).float().mean(-1) > 0.02
    if not rows.any():
        return hu
    top = int(rows.nonzero()[-1]) + 1
    y, x = torch.meshgrid(torch.arange(side) - float(top), torch.arange(side) - (side - 1) / 2, indexing="ij")
    # Distance below the surface on which the body lies.
    depth = y + 0.5 if kind == "flat" else torch.hypot(y + RADIUS * side, x) - RADIUS * side
    thickness, shell = THICKNESS * side, max(SHELL * side, 1.0)
    table = (depth > 0) & (depth < thickness) & (x.abs() < HALF_WIDTH * side)
    core = (depth > shell) & (depth < thickness - shell) & (x.abs() < HALF_WIDTH * side - shell)
    scanned = torch.hypot(y + top - (side - 1) / 2, x) < 0.49 * side
    drawn = torch.where(core, CORE_HU, SHELL_HU).expand_as(hu)
    return torch.where(table & scanned & ~body, drawn, hu)


def _body(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    tissue = image > BODY_HU
    radius = max(round(OPENING * len(image)), 1)
    # Repeated so that a body which is cut by the image border is not opened away there.
    padded = np.pad(tissue, radius, mode="edge")
    opened = ndimage.binary_opening(padded, _disc(radius))[radius:-radius, radius:-radius]
    parts, count = ndimage.label(opened)
    if count == 0:
        return tissue
    sizes = np.bincount(parts.ravel())[1:]
    boxes = ndimage.find_objects(parts)
    largest = int(sizes.argmax())
    bottom = boxes[largest][0].stop
    kept = [largest + 1]
    for number, (rows, _) in enumerate(boxes):
        if sizes[number] >= SMALLEST * sizes[largest] and (rows.start + rows.stop) / 2 < bottom:
            kept.append(number + 1)
    grown = ndimage.binary_dilation(np.isin(parts, kept), _disc(radius + 1)) & tissue
    # One pixel more: skin is half air.
    return np.asarray(ndimage.binary_dilation(ndimage.binary_fill_holes(grown), _disc(1)))


def _disc(radius: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x**2 + y**2 <= radius**2)
