"""Magnitude images and error maps as gray PNG files on one common scale."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from physics import hu_to_attenuation

from ..data import CT_SCALE
from ..evaluation import psnr

#: Key of the reference among the pictures of a site.
REFERENCE = "reference"
#: Factor of the error in error maps, shown on the gray scale of the images.
ERROR_MAGNIFICATION = 5
#: Black and white of the soft-tissue window of CT images.
SOFT_TISSUE_HU = (-160.0, 240.0)


@dataclass(frozen=True)
class Picture:
    """Image and error map of an arm as PNG bytes; ``error`` and ``psnr`` are None without a reference."""

    name: str
    image: bytes
    error: bytes | None
    psnr: float | None


def gray_png(image: npt.NDArray[np.floating[Any]], white: float, black: float = 0.0) -> bytes:
    """Encode an image as an 8-bit gray PNG, black at ``black`` and white at ``white`` and above."""
    scaled = np.clip((image - black) / (white - black) if white > black else np.zeros_like(image), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * scaled).astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def site_pictures(images: Mapping[str, Any], window_hu: tuple[float, float] | None = None) -> list[Picture]:
    """Pictures of one slice: the reference, then every arm with its error map.

    White is the maximum of the reference; without a reference, the maximum over the arms.

    Parameters
    ----------
    images
        Image of every arm and of ``"reference"``, ``(height, width)``, complex or real.
    window_hu
        Black and white in Hounsfield units, for images of attenuation relative to water.

    Raises
    ------
    ValueError
        If an image does not have two axes, images differ in shape, or values are not finite.
    """
    magnitudes = {name: _magnitude(name, image) for name, image in images.items()}
    shapes = {image.shape for image in magnitudes.values()}
    if len(shapes) != 1:
        raise ValueError(f"site_pictures: images have shapes {sorted(shapes)}, expected one; crop them alike")
    reference = magnitudes.get(REFERENCE)
    black, white = 0.0, float(max(i.max() for i in magnitudes.values()) if reference is None else reference.max())
    if window_hu is not None:
        black, white = (float(hu_to_attenuation(torch.tensor(hu))) / CT_SCALE for hu in window_hu)
    pictures = []
    if reference is not None:
        pictures.append(Picture(REFERENCE, gray_png(reference, white, black), None, None))
    for name, image in magnitudes.items():
        if name == REFERENCE:
            continue
        if reference is None:
            pictures.append(Picture(name, gray_png(image, white, black), None, None))
            continue
        error = gray_png(ERROR_MAGNIFICATION * np.abs(image - reference), white - black)
        score = psnr(reference[None], image[None]) if reference.min() < reference.max() else None
        pictures.append(Picture(name, gray_png(image, white, black), error, score))
    return pictures


def _magnitude(name: str, image: Any) -> npt.NDArray[np.float32]:
    values = np.asarray(image)
    magnitude: npt.NDArray[np.float32] = (np.abs(values) if np.iscomplexobj(values) else values).astype(np.float32)
    if magnitude.ndim != 2 or magnitude.size == 0:
        raise ValueError(f"site_pictures: {name} has shape {magnitude.shape}, expected (height, width)")
    if not np.isfinite(magnitude).all():
        raise ValueError(f"site_pictures: {name} holds NaN or infinite values, expected a finite image")
    return magnitude
