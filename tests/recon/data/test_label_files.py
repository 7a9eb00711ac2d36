"""Labels lie on the images of their scans, whatever the axes of their file; all others are one line."""

import math
import pickle
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch

from physics import phantom_volume
from recon import (
    UNLABELLED,
    Augmentation,
    ClassTable,
    DataError,
    DisplayedGrid,
    Header,
    ImageHeader,
    KSpaceSlices,
    LabelMaps,
    NonCartesianSlices,
    Reconstruction,
    Simulation,
    SinogramSlices,
    TaskLabels,
    TrajectorySimulation,
    batches,
    birdcage_maps,
    read_class_table,
    simulate_volume,
    simulated_header,
    write_label_map,
    write_reconstruction,
    write_volume,
)

SEGMENTATION = TaskLabels("segmentation", ("lesion", "cyst"))
CLASSES = TaskLabels("classification", ("lesion", "cyst"))
#: A scan of 3 slices with another height than width.
SHAPE = (3, 24, 20)
