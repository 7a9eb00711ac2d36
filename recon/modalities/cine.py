"""Cine MRI: frames of a moving object."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from physics import FRAME_SAMPLINGS, CineMRI, Registry, beating_heart, birdcage_maps, complex_noise

from ..classical import CGSense, ZeroFilled
from ..data import MRI_READERS, CineSimulation, CineSlices, Sample, SampleMeta
from ..networks import MapsCorrection
from .modality import Modality

#: Classical methods of frames, each reconstructed by itself.
CINE_METHODS: Registry[nn.Module] = Registry(
    "classical method of cine MRI", {"zero_filled": ZeroFilled, "cg_sense": CGSense}
)


def _origin(facts: Mapping[str, Any]) -> str:
    source = facts["acquisition"].get("origin", "measured k-space")
    return f"{source}, {'as measured' if facts['sampling'] == 'as measured' else 'frames undersampled in retrospect'}"


def _example(seed: int) -> Sample:
    """Three frames, four coils, another half of the columns in each frame."""
    shape, n_frames = (16, 14), 3
    image = beating_heart(n_frames, shape, seed)
    masks = FRAME_SAMPLINGS["frame_shifted"](n_frames, shape[1], 2, 0.3, (seed,)).unsqueeze(-2)
    A = CineMRI(birdcage_maps(4, shape, seed=seed), masks)
    meta = SampleMeta("site", f"example_{seed}", 0, 1.5, "coil_combined")
    noise = complex_noise(A.range_shape, 0.01, torch.Generator().manual_seed(seed)) * A.sampled
    return Sample(A(image) + noise, A, torch.tensor(0.01), image, torch.tensor(1.0), None, (meta,))


CINE = Modality(
    name="cine",
    title="cine MRI",
    slices=CineSlices,
    simulation=CineSimulation,
    readers=MRI_READERS,
    methods=CINE_METHODS,
    inversion="zero_filled",
    baselines=("zero_filled", "cg_sense"),
    correction=MapsCorrection,
    origin=_origin,
    example=_example,
    samplings=FRAME_SAMPLINGS,
)
