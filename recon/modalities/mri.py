"""Cartesian MRI."""

from collections.abc import Mapping
from typing import Any

import torch

from physics import SAMPLINGS, CartesianMRI, birdcage_maps, complex_noise, phantom_volume

from ..classical import MRI_METHODS
from ..data import MRI_READERS, KSpaceSlices, Sample, SampleMeta, Simulation, write_kspace
from ..networks import MapsCorrection
from .modality import Modality
from .smaller import smaller_mri


def _origin(facts: Mapping[str, Any]) -> str:
    source = facts["acquisition"].get("origin", "measured k-space")
    return f"{source}, {'as measured' if facts['sampling'] == 'as measured' else 'undersampled in retrospect'}"


def _example(seed: int) -> Sample:
    """Four coils, two of three columns, a phase that varies."""
    shape, mask = (16, 14), torch.arange(14) % 3 != 0
    mask[5:9] = True
    image = phantom_volume(1, shape, seed=seed)[0]
    A = CartesianMRI(birdcage_maps(4, shape, seed=seed), mask)
    meta = SampleMeta("site", f"example_{seed}", 0, 1.5, "coil_combined")
    noise = complex_noise(A.range_shape, 0.01, torch.Generator().manual_seed(seed)) * A.sampled
    return Sample(A(image) + noise, A, torch.tensor(0.01), image, torch.tensor(1.0), None, (meta,))


MRI = Modality(
    name="mri",
    title="MRI",
    slices=KSpaceSlices,
    simulation=Simulation,
    readers=MRI_READERS,
    methods=MRI_METHODS,
    inversion="zero_filled",
    baselines=("zero_filled", "tv"),
    correction=MapsCorrection,
    origin=_origin,
    example=_example,
    samplings=SAMPLINGS,
    smaller=smaller_mri,
    write_scan=write_kspace,
)
