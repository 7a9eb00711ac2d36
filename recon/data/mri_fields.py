"""Fields of view in a header that contradict each other or the matrix sizes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import data_error
from .mri_header import Header

Pair = tuple[float, float]

#: Displayed over encoded field of view: least with oversampling, most with rounding.
_LEAST, _MOST = 0.2, 1.1
#: Reconstructed over encoded pixels in the displayed field of view: least with rounding, most with interpolation.
_FEWEST, _INTERPOLATED = 0.9, 2.2
#: Units that are taken for millimeters: centimeters and meters.
_UNITS = (10.0, 1000.0)


def without_contradiction(header: Header, path: Path) -> tuple[Header, tuple[str, ...]]:
    """The header without fields of view that contradict each other, and a note that says so.

    The displayed field of view is a part of the encoded one. Exchanged axes are told by the matrix sizes as well: they
    make pixels larger than was encoded. Without fields of view, images are cut to the reconstruction size.
    """
    encoded, recon = header.encoded_fov_mm, header.recon_fov_mm
    if encoded is None or recon is None:
        return header, ()
    fits, sharp = _is_part(encoded, recon), min(_pixels(header, encoded, recon)) >= _FEWEST
    why = "" if fits and sharp else next(_explanations(header, encoded, recon), "")
    if fits and not why:
        return header, ()
    found = f"{recon[0]:g}x{recon[1]:g} of {encoded[0]:g}x{encoded[1]:g} encoded"
    expected = "a part of the encoded field of view, in the order readout, phase"
    advice = f"{why or 'correct the header'}; fields of view are not used, images are cut to the size of reconSpace"
    line = str(data_error(path, "ismrmrd_header reconSpace/fieldOfView_mm", found, expected, advice))
    return replace(header, encoded_fov_mm=None, recon_fov_mm=None), (line,)


def _explanations(header: Header, encoded: Pair, recon: Pair) -> Iterator[str]:
    """Changes of the header that would make its fields of view fit, in words."""
    exchanged = {"encodedSpace": (encoded[::-1], recon), "reconSpace": (encoded, recon[::-1])}
    for space, (first, second) in exchanged.items():
        pixels = _pixels(header, first, second)
        if _is_part(first, second) and min(pixels) >= _FEWEST and max(pixels) <= _INTERPOLATED:
            yield f"exchange x and y of {space}/fieldOfView_mm"
    for unit in _UNITS:
        if _is_part(encoded, (recon[0] * unit, recon[1] * unit)):
            yield f"reconSpace may be in {'cm' if unit == _UNITS[0] else 'm'}: write millimeters"
        if _is_part((encoded[0] * unit, encoded[1] * unit), recon):
            yield f"encodedSpace may be in {'cm' if unit == _UNITS[0] else 'm'}: write millimeters"


def _is_part(encoded: Pair, recon: Pair) -> bool:
    return all(_LEAST <= part / whole <= _MOST for part, whole in zip(recon, encoded, strict=True))


def _pixels(header: Header, encoded: Pair, recon: Pair) -> Pair:
    """Reconstructed over encoded pixels in the displayed field of view, along readout and phase."""
    sizes = zip(header.recon_shape, header.encoded_shape, recon, encoded, strict=True)
    readout, phase = (wanted * whole / (size * part) for wanted, size, part, whole in sizes)
    return readout, phase
