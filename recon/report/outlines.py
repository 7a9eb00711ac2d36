"""Outlines of labels and predictions over the pictures of a slice, as SVG that scales with the image."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from .pictures import REFERENCE


def outlines(labels: Mapping[str, Any], arm: str) -> str:
    """Outline of the label over an image, and that of the arm's prediction; empty for a slice without labels.

    Parameters
    ----------
    labels
        Label maps ``(height, width)`` of the reference and of arms, 0 the background, below 0 unlabelled; and
        ``classes``, their names.
    arm
        Whose image it is: over the reference the label alone.
    """
    drawn = [(REFERENCE, "truth")] + [(arm, "found")] * (arm != REFERENCE)
    maps = [(np.asarray(labels[name]), style) for name, style in drawn if name in labels]
    if not maps:
        return ""
    height, width = maps[0][0].shape
    paths = "".join(
        f'<path class="{style}" d="{path}"/>'
        for values, style in maps
        for number in range(1, len(labels["classes"]) + 1)
        if (path := _outline(values == number))
    )
    # Stretched to the image: a pixel of the label map is a pixel of the image.
    frame = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    return f'<svg class="outlines" {frame} aria-hidden="true">{paths}</svg>'


def outline_key(labels: Mapping[str, Any]) -> str:
    """What the outlines are; empty without labels."""
    if not labels:
        return ""
    names = ", ".join(labels["classes"])
    items = [("truth", "label")] + [("found", "prediction")] * any(
        name not in (REFERENCE, "classes") for name in labels
    )
    line = '<line x1="2" y1="6" x2="26" y2="6" stroke-width="2"/>'
    marks = "".join(
        f'<li><svg class="outline {style}" viewBox="0 0 28 12" aria-hidden="true">{line}</svg> '
        f"{text}: {escape(names)}</li>"
        for style, text in items
    )
    return f'<ul class="legend">{marks}</ul>'


def _outline(mask: npt.NDArray[np.bool_]) -> str:
    """Closed paths half a pixel around the centers of a mask, in pixels from the corner of the image."""
    import skimage.measure  # late: half a second

    measure: Any = skimage.measure
    # Padded, so that a region at the border is closed: centers of pixels then lie at their number plus one.
    paths = measure.find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    return "".join("M" + "L".join(f"{x - 0.5:g},{y - 0.5:g}" for y, x in path[:-1]) + "Z" for path in paths)
