"""Files as samples: k-space and sinograms with operator, scale, noise and reference."""

from .augmentation import Augmentation
from .ct_file import SinogramVolume, write_sinograms
from .ct_formats import CT_READERS
from .ct_slices import CT_SCALE, ScanSimulation, SinogramSlices
from .hold_out import held_out_split, require_fraction
from .image_files import read_images
from .mri_file import MRI_READERS, KSpaceVolume, fitting_crop, open_volume
from .mri_header import Header, header_xml, read_header
from .mri_simulation import simulate_volume, simulated_header, with_smooth_phase, write_volume
from .mri_slices import KSpaceSlices, Simulation
from .sample import Sample, SampleMeta, Samples, batches, center_crop, collate
from .scan_features import (
    CONDITION_DIM,
    CONDITION_LAYOUT,
    condition_vector,
    ct_features,
    mask_family,
    mri_features,
    nearest_code,
    split_condition,
)
from .slices import Readers, Seed, Volume, VolumeSlices, generator_for, seed_from

__all__ = [
    "CONDITION_DIM",
    "CONDITION_LAYOUT",
    "CT_READERS",
    "CT_SCALE",
    "MRI_READERS",
    "Augmentation",
    "Header",
    "KSpaceSlices",
    "KSpaceVolume",
    "Readers",
    "Sample",
    "SampleMeta",
    "Samples",
    "ScanSimulation",
    "Seed",
    "Simulation",
    "SinogramSlices",
    "SinogramVolume",
    "Volume",
    "VolumeSlices",
    "batches",
    "center_crop",
    "collate",
    "condition_vector",
    "ct_features",
    "fitting_crop",
    "generator_for",
    "header_xml",
    "held_out_split",
    "mask_family",
    "mri_features",
    "nearest_code",
    "open_volume",
    "read_header",
    "read_images",
    "require_fraction",
    "seed_from",
    "simulate_volume",
    "simulated_header",
    "split_condition",
    "with_smooth_phase",
    "write_sinograms",
    "write_volume",
]
