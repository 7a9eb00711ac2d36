"""Siemens raw data (twix, .dat) by the package twixtools: Cartesian lines, sorted as those of ISMRMRD files."""

from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from ..mri_volume import KSpaceVolume
from ..other_formats import is_twix_head
from .ismrmrd_selection import Selection
from .line_volume import cartesian_volume
from .twix_lines import TwixLines

_Count = Annotated[int, Ge(0)] | None


def is_twix(path: Path) -> bool:
    """Whether a file begins as Siemens raw data, of VB or of VD and later."""
    with path.open("rb") as file:
        return is_twix_head(file.read(1024))


def open_twix(
    path: Path,
    *,
    measurement: _Count = None,
    contrast: _Count = None,
    repetition: _Count = None,
    set: _Count = None,
    frame: _Count = None,
    calibration: bool = False,
    embed: bool | None = None,
) -> KSpaceVolume:
    """Check a file of Cartesian Siemens raw data; lines are sorted when the first slice is read.

    The same rules as of :func:`open_ismrmrd` apply. Slices are in the order of their places along the normal, which is
    not that of the acquisition. Noise lines are those of the measurement, else those of the ones before it in the file.

    Parameters
    ----------
    measurement
        Number of the measurement of a file that holds several, from 0; None: the last one, the image scan.
    contrast, repetition, set, frame, calibration, embed
        As of :func:`open_ismrmrd`.

    Raises
    ------
    DataError
        If twixtools is not installed, the file is damaged, the scan is echo-planar, radial, spiral or of several slices
        at a time, or lines do not fit the header.
    """
    source = TwixLines(measurement)
    selection = Selection(None, contrast, repetition, set, frame, calibration, embed, source=source)
    return cartesian_volume(path, selection)
