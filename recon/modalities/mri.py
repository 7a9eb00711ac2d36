"""Cartesian MRI."""

from collections.abc import Mapping
from typing import Any

from ..classical import MRI_METHODS
from ..data import MRI_READERS, KSpaceSlices, Simulation
from ..networks import MapsCorrection
from .modality import Modality


def _origin(facts: Mapping[str, Any]) -> str:
    source = facts["acquisition"].get("origin", "measured k-space")
    return f"{source}, {'as measured' if facts['sampling'] == 'as measured' else 'undersampled in retrospect'}"


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
)
