"""Magnitude images and error maps as gray PNG bytes on one stated scale."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..metrics import psnr

#: The key of the reference among a site's pictures.
REFERENCE = "reference"
#: Error maps show this multiple of the error on the gray scale of the images.
ERROR_MAGNIFICATION = 5


@dataclass(frozen=True)
class Picture:
    """One arm's image and error map as PNG bytes; ``error`` and ``psnr`` are None without a reference."""

    name: str
    image: bytes
    error: bytes | None
    psnr: float | None


def gray_png(image: npt.NDArray[np.floating[Any]], white: float) -> bytes:
    """Encode an image as an 8-bit gray PNG, black at 0 and white at ``white`` and above."""
    scaled = np.clip(image / white if white > 0 else np.zeros_like(image), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * scaled).astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def site_pictures(images: Mapping[str, Any]) -> list[Picture]:
    """Draw a site's slice: the reference, then every arm with its error map.

    White is the maximum of the reference in all of them; without a reference, the maximum over the arms.

    Parameters
    ----------
    images
        Name of the arm (or ``"reference"``) to its image, ``(height, width)``, complex or real.

    Raises
    ------
    ValueError
        If an image does not have two axes, disagrees in shape or is not finite.
    """
    magnitudes = {name: _magnitude(name, image) for name, image in images.items()}
    shapes = {image.shape for image in magnitudes.values()}
    if len(shapes) != 1:
        raise ValueError(f"site_pictures: images have shapes {sorted(shapes)}, expected one; crop them alike")
    reference = magnitudes.get(REFERENCE)
    white = float(max(image.max() for image in magnitudes.values()) if reference is None else reference.max())
    pictures = []
    if reference is not None:
        pictures.append(Picture(REFERENCE, gray_png(reference, white), None, None))
    for name, image in magnitudes.items():
        if name == REFERENCE:
            continue
        if reference is None:
            pictures.append(Picture(name, gray_png(image, white), None, None))
            continue
        error = gray_png(ERROR_MAGNIFICATION * np.abs(image - reference), white)
        score = psnr(reference[None], image[None]) if reference.min() < reference.max() else None
        pictures.append(Picture(name, gray_png(image, white), error, score))
    return pictures


def _magnitude(name: str, image: Any) -> npt.NDArray[np.float32]:
    magnitude: npt.NDArray[np.float32] = np.abs(np.asarray(image)).astype(np.float32)
    if magnitude.ndim != 2 or magnitude.size == 0:
        raise ValueError(f"site_pictures: {name} has shape {magnitude.shape}, expected (height, width)")
    if not np.isfinite(magnitude).all():
        raise ValueError(f"site_pictures: {name} holds NaN or infinite values, expected a finite image")
    return magnitude
