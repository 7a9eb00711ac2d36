"""Magnitude images, error maps and differences of arms as PNG files on common scales."""

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from physics import attenuation_to_hu, hu_to_attenuation

from ..data import CT_SCALE
from ..evaluation import psnr

#: Key of the reference among the images of a slice.
REFERENCE = "reference"
#: Errors and differences are shown up to the range of the images divided by this factor.
ERROR_MAGNIFICATION = 5
#: Black and white of the soft-tissue window of CT images.
SOFT_TISSUE_HU = (-160.0, 240.0)
#: Colors of a signed picture at -1, -1/2, 0, 1/2 and 1; black in the middle, as in an error map.
SIGNED_COLORS = ("#9fdcff", "#1668c8", "#000000", "#c8590c", "#ffd98a")

_Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Picture:
    """An arm as PNG bytes: image, error map, and the difference of the method to the arm; None: there is none."""

    name: str
    image: bytes
    error: bytes | None = None
    difference: bytes | None = None
    psnr: float | None = None


def gray_png(image: _Values, white: float, black: float = 0.0) -> bytes:
    """Encode an image as an 8-bit gray PNG, black at ``black`` and white at ``white`` and above."""
    scaled = np.clip((image - black) / (white - black) if white > black else np.zeros_like(image), 0, 1)
    return _png(Image.fromarray(np.round(255 * scaled).astype(np.uint8)))


def signed_png(values: _Values, reach: float) -> bytes:
    """Encode signed values as a PNG with 255 colors: blue at ``-reach``, black at zero, orange at ``reach``."""
    scaled = np.clip(values / reach if reach > 0 else np.zeros_like(values), -1, 1)
    picture = Image.fromarray(np.round(127 + 127 * scaled).astype(np.uint8))
    picture.putpalette(_palette())
    return _png(picture)


def site_pictures(
    images: Mapping[str, Any],
    window_hu: tuple[float, float] | None = None,
    *,
    method: str | None = None,
    compared: Collection[str] = (),
) -> list[Picture]:
    """Pictures of one slice: the reference, then every arm with its error map.

    Images are on the scale of :func:`gray_range`. Errors and differences of all arms end at its width divided by
    :data:`ERROR_MAGNIFICATION`.

    Parameters
    ----------
    images
        Image of every arm and of ``"reference"``, ``(height, width)``, complex or real.
    window_hu
        Black and white in Hounsfield units, for images of attenuation relative to water.
    method
        The arm from which the ``compared`` arms are subtracted, unless their image is the same.

    Raises
    ------
    ValueError
        If an image does not have two axes, images differ in shape, or values are not finite.
    """
    magnitudes = _magnitudes(images)
    reference = magnitudes.pop(REFERENCE, None)
    black, white = gray_range(images, window_hu)
    reach = (white - black) / ERROR_MAGNIFICATION
    pictures = [] if reference is None else [Picture(REFERENCE, gray_png(reference, white, black))]
    for name, image in magnitudes.items():
        error, score, difference = None, None, None
        if reference is not None:
            error = gray_png(np.abs(image - reference), reach)
            score = psnr(reference[None], image[None]) if reference.min() < reference.max() else None
        if method in magnitudes and name in compared and not np.array_equal(magnitudes[method], image):
            difference = signed_png(magnitudes[method] - image, reach)
        pictures.append(Picture(name, gray_png(image, white, black), error, difference, score))
    return pictures


def gray_range(images: Mapping[str, Any], window_hu: tuple[float, float] | None = None) -> tuple[float, float]:
    """Values of black and white: zero and the maximum of the reference, without it of all arms; or the window."""
    if window_hu is not None:
        black, white = (float(hu_to_attenuation(torch.tensor(hu))) / CT_SCALE for hu in window_hu)
        return black, white
    magnitudes = _magnitudes(images)
    shown = [magnitudes[REFERENCE]] if REFERENCE in magnitudes else magnitudes.values()
    return 0.0, max(float(image.max()) for image in shown)


def in_hu(value: float) -> float:
    """Hounsfield units of a value of an image of attenuation."""
    return float(attenuation_to_hu(torch.tensor(value * CT_SCALE, dtype=torch.float64)))


def _palette() -> bytes:
    ends = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in SIGNED_COLORS], dtype=float)
    at = np.linspace(-1, 1, 255)
    channels = [np.interp(at, np.linspace(-1, 1, len(ends)), channel) for channel in ends.T]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8).tobytes()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _magnitudes(images: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    magnitudes = {name: _magnitude(name, image) for name, image in images.items()}
    shapes = {image.shape for image in magnitudes.values()}
    if len(shapes) != 1:
        raise ValueError(f"site_pictures: images have shapes {sorted(shapes)}, expected one; crop them alike")
    return magnitudes


def _magnitude(name: str, image: Any) -> npt.NDArray[np.float32]:
    values = np.asarray(image)
    magnitude: npt.NDArray[np.float32] = (np.abs(values) if np.iscomplexobj(values) else values).astype(np.float32)
    if magnitude.ndim != 2 or magnitude.size == 0:
        raise ValueError(f"site_pictures: {name} has shape {magnitude.shape}, expected (height, width)")
    if not np.isfinite(magnitude).all():
        raise ValueError(f"site_pictures: {name} holds NaN or infinite values, expected a finite image")
    return magnitude
