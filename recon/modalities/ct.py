"""CT with parallel and fan beams."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from ..classical import CT_METHODS
from ..data import CT_READERS, ScanSimulation, SinogramSlices
from ..evaluation import Probe, measure_quality
from ..networks import AxisCorrection
from .modality import MeasureQuality, Modality


def _origin(facts: Mapping[str, Any]) -> str:
    how = facts.get("simulated")
    return f"CT, {how}" if how else "CT, measured projections"


def _quality(samples: SinogramSlices, references: np.ndarray[Any, Any]) -> MeasureQuality:
    """Bias and noise in Hounsfield units; noise texture and resolution where the dose is known."""
    volume, dose = samples.volumes[0], samples.dose()
    probe = None if dose is None else Probe.of(samples[volume.shape[0] // 2], dose)

    def measure(method: nn.Module, images: np.ndarray[Any, Any]) -> dict[str, Any]:
        return measure_quality(method, probe, images, references, volume.grid.pixel_mm).to_json()

    return measure


CT = Modality(
    name="ct",
    title="CT",
    slices=SinogramSlices,
    simulation=ScanSimulation,
    readers=CT_READERS,
    methods=CT_METHODS,
    inversion="fbp",
    baselines=("fbp", "tv"),
    correction=AxisCorrection,
    origin=_origin,
    quality=_quality,
    window_hu=True,
)
