"""Readers of k-space files by the value of ``format`` in a manifest."""

from .mri_file import KSpaceVolume, open_volume
from .slices import Readers

MRI_READERS: Readers[KSpaceVolume] = Readers("MRI reader", {"fastmri": open_volume})
