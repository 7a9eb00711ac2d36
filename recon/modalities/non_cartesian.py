"""Radial and spiral MRI, simulated from Cartesian k-space."""

from collections.abc import Mapping
from typing import Any

import torch

from physics import TRAJECTORIES, NonCartesianMRI, birdcage_maps, complex_noise, make_trajectory, phantom_volume

from ..classical import NON_CARTESIAN_METHODS
from ..data import MRI_READERS, NonCartesianSlices, Sample, SampleMeta, TrajectorySimulation, write_kspace
from ..networks import MapsCorrection
from .modality import Modality


def _origin(facts: Mapping[str, Any]) -> str:
    source, sampling = facts["acquisition"].get("origin", "measured k-space"), facts["sampling"]
    return f"{source}, {sampling if sampling == 'as measured' else 'measured along spokes or spirals in retrospect'}"


def _example(seed: int) -> Sample:
    """Four coils, a golden-angle scan with half of the spokes."""
    shape = (16, 14)
    image = phantom_volume(1, shape, seed=seed)[0]
    scan = make_trajectory("golden_angle", shape, 2.0)
    A = NonCartesianMRI(birdcage_maps(4, shape, seed=seed), scan.positions)
    meta = SampleMeta("site", f"example_{seed}", 0, scan.effective_acceleration, "coil_combined")
    noise = complex_noise(A.range_shape, 0.01, torch.Generator().manual_seed(seed))
    return Sample(A(image) + noise, A, torch.tensor(0.01), image, torch.tensor(1.0), None, (meta,))


NON_CARTESIAN = Modality(
    name="non_cartesian",
    title="non-Cartesian MRI",
    slices=NonCartesianSlices,
    simulation=TrajectorySimulation,
    readers=MRI_READERS,
    methods=NON_CARTESIAN_METHODS,
    inversion="zero_filled",
    baselines=("zero_filled", "tv"),
    correction=MapsCorrection,
    origin=_origin,
    example=_example,
    samplings=TRAJECTORIES,
    write_scan=write_kspace,
)
