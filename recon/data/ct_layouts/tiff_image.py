"""One image of numbers from a TIFF file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import data_error
from ..other_formats import TIFF, unreadable

_SIGNATURES = (b"II*\0", b"MM\0*")
#: Pillow's names of one channel of 16 bits, 32 bits and floating-point numbers.
_MODES = ("I;16", "I;16L", "I;16B", "I", "F")


def is_tiff(path: Path) -> bool:
    """Whether a file starts as a TIFF."""
    with path.open("rb") as file:
        return file.read(4) in _SIGNATURES


def tiff_shape(path: Path) -> tuple[int, int]:
    """Rows and columns of a TIFF; pixels are not read. Errors as of :func:`read_tiff`."""
    with _image(path) as image:
        return image.height, image.width


def read_tiff(path: Path) -> np.ndarray[Any, Any]:
    """Pixels of a TIFF as float32, ``(rows, columns)``, row 0 first in the file.

    Raises
    ------
    DataError
        If there is no file, it is no TIFF, cut off, holds several images, or is a picture of 8 bits or of colors.
    """
    with _image(path) as image:
        return np.asarray(image, dtype=np.float32)


@contextmanager
def _image(path: Path) -> Iterator[Image.Image]:
    expected, advice = "a TIFF image of 16-bit or floating-point numbers", "copy it again"
    if not path.is_file():
        raise data_error(path, "file", "a folder" if path.is_dir() else "nothing", expected, "copy it there")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of unknown tags, and of cut off files, which it then refuses
            image = Image.open(path, formats=("TIFF",))
            with image:
                if (images := getattr(image, "n_frames", 1)) != 1:
                    raise data_error(path, "file", f"{images} images in one file", "one", "use the files as published")
                if image.mode not in _MODES:
                    found = f"a picture of mode {image.mode}"
                    raise data_error(path, "file", found, expected, "use the files as published")
                yield image
    # Pillow raises many kinds for files that are cut off.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError) as error:
        if is_tiff(path):
            raise data_error(path, "file", f"no readable TIFF ({error})", expected, advice) from None
        raise unreadable(path, "no TIFF", expected, "use the files as published", own=TIFF.name) from None
