"""ISMRMRD raw data (.h5, .mrd), as converters of scanners and mridata.org write it: lines as they were acquired."""

from pathlib import Path
from typing import Annotated

import h5py
from annotated_types import Ge

from ..hdf5_file import opened
from ..mri_volume import KSpaceVolume
from .ismrmrd_lines import group_of
from .ismrmrd_selection import Selection, SpokeAngles, TrajectoryUnit, selected_encoding
from .ismrmrd_trajectory import trajectory_volume
from .line_volume import cartesian_volume

_Count = Annotated[int, Ge(0)] | None


def is_ismrmrd(path: Path) -> bool:
    """Whether a file is HDF5 with a group of ``xml`` and ``data``."""
    if not h5py.is_hdf5(path):
        return False
    with opened(path) as file:
        return group_of(file) is not None


def open_ismrmrd(
    path: Path,
    *,
    encoding: _Count = None,
    contrast: _Count = None,
    repetition: _Count = None,
    set: _Count = None,
    frame: _Count = None,
    calibration: bool = False,
    embed: bool | None = None,
    trajectory_unit: TrajectoryUnit | None = None,
    angles: SpokeAngles | None = None,
) -> KSpaceVolume:
    """Check a file of raw data, Cartesian or with a trajectory; lines are sorted when the first slice is read.

    Slices of the volume are the phases (frames) and slices of the file, the slice counts fastest; 3-D scans become
    slices, see :func:`slab_as_slices`. A noise scan gives the covariance, scaled to the bandwidth of the image lines.
    Averages are averaged, reversed lines turned round, readout oversampling is removed. Navigators, phase correction
    and other lines that are no image data are left out.

    Of radial, spiral and other trajectories each line is a spoke, see :func:`trajectory_volume`.

    Parameters
    ----------
    encoding
        Number of the encoding, from 0; None: the one with most lines.
    contrast, repetition, set
        Value of the counter; None: the first, with a note if there are several.
    frame
        Value of the counter ``phase``; None: all, or the first if their sampled lines differ.
    calibration
        Read the separate calibration lines, the center of k-space, in place of the image.
    embed
        Whether calibration lines are part of the image data; None: as `calibrationMode` of the header states, without
        it they are not.
    trajectory_unit
        Unit of the positions of samples; None: the only one in which they reach the edge of k-space.
    angles
        Angles of the spokes of a radial scan that states no positions: ``golden`` or ``uniform``, by
        ``kspace_encode_step_1``; None: such a scan is refused.

    Raises
    ------
    DataError
        If the trajectory is echo-planar, 3-D or not known, there is no such line, or lines do not fit the header.
    """
    selection = Selection(encoding, contrast, repetition, set, frame, calibration, embed, trajectory_unit, angles)
    version = (path.stat().st_size, path.stat().st_mtime_ns)
    _, encodings, number = selected_encoding(path, version, selection)
    if encodings[number].is_cartesian:
        return cartesian_volume(path, selection)
    return trajectory_volume(path, selection)
