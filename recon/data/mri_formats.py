"""Readers of k-space files by the value of ``format`` in a manifest."""

from pathlib import Path

from .layouts.bart import is_bart, open_bart
from .layouts.cc359 import is_cc359, is_cc359_hdf5, open_cc359
from .layouts.cmrxrecon import is_cmrxrecon, open_cmrxrecon
from .layouts.hdf5_content import hdf5_content
from .layouts.ismrmrd import is_ismrmrd, open_ismrmrd
from .layouts.m4raw import open_m4raw
from .layouts.numpy_file import is_numpy, open_numpy
from .layouts.skm_tea import is_skm_tea, open_skm_tea
from .layouts.twix import is_twix, open_twix
from .mri_file import open_volume
from .mri_volume import KSpaceVolume
from .slices import Readers
from .trajectory_file import is_trajectory, open_trajectory


def _is_fastmri(path: Path) -> bool:
    """Whether a file is HDF5 with ``kspace``, not of MATLAB and not of CC359."""
    content = hdf5_content(path)
    if content is None or content.is_matlab or "kspace" not in content.datasets or "trajectory" in content.datasets:
        return False
    if is_skm_tea(path):
        return False
    return "ismrmrd_header" in content.datasets or not is_cc359_hdf5(*content.datasets["kspace"])


#: Files of M4Raw are detected as ``fastmri``: only a name says that repetitions are to be averaged.
MRI_READERS: Readers[KSpaceVolume] = Readers(
    "MRI reader",
    {
        "fastmri": open_volume,
        "numpy": open_numpy,
        "bart": open_bart,
        "cc359": open_cc359,
        "cmrxrecon": open_cmrxrecon,
        "m4raw": open_m4raw,
        "ismrmrd": open_ismrmrd,
        "skm_tea": open_skm_tea,
        "twix": open_twix,
        "trajectory": open_trajectory,
    },
    {
        "fastmri": _is_fastmri,
        "numpy": is_numpy,
        "bart": is_bart,
        "cc359": is_cc359,
        "cmrxrecon": is_cmrxrecon,
        "ismrmrd": is_ismrmrd,
        "skm_tea": is_skm_tea,
        "twix": is_twix,
        "trajectory": is_trajectory,
    },
)
