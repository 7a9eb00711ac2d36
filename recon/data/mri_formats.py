"""Readers of k-space files by the value of ``format`` in a manifest."""

from .mri_file import open_volume
from .mri_volume import KSpaceVolume
from .slices import Readers

MRI_READERS: Readers[KSpaceVolume] = Readers("MRI reader", {"fastmri": open_volume})
