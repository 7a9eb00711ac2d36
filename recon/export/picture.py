"""PNG pictures of slices, for a look; the window stands in the file."""

import io

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .reconstruction import Images, PngSlices, Reconstruction

#: Part of the pixels that are darker than white.
_WHITE = 0.998


def window_of(images: Images) -> tuple[float, float]:
    """Black and white of all slices of a scan: 0, or the least value if that is negative, and a high quantile."""
    white = float(np.quantile(images, _WHITE))
    black = min(0.0, float(images.min()))
    return black, white if white > black else black + 1.0


def png_files(found: Reconstruction, which: PngSlices) -> dict[str, bytes]:
    """Pictures by the end of their name: the middle slice (no end), or every slice (its number from 1)."""
    images = found.displayed
    window = window_of(images)
    if which == "middle":
        return {"": _png(found, len(images) // 2, window)}
    digits = max(3, len(str(len(images))))
    return {f"_{index + 1:0{digits}d}": _png(found, index, window) for index in range(len(images))}


def _png(found: Reconstruction, index: int, window: tuple[float, float]) -> bytes:
    black, white = window
    gray = np.round(255 * np.clip((found.displayed[index] - black) / (white - black), 0, 1)).astype(np.uint8)
    facts = PngInfo()
    facts.add_text("Description", found.derivation)
    facts.add_text("Source", f"{found.scan}, slice {index + 1} of {len(found.displayed)}")
    facts.add_text("Window", f"black {black:.6g}, white {white:.6g} ({found.unit})")
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, format="PNG", optimize=True, pnginfo=facts)
    return buffer.getvalue()
