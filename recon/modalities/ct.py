"""CT with parallel and fan beams."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from physics import FanBeam, ImageGrid, RadonOperator, evenly_spaced, phantom_volume

from ..classical import CT_METHODS
from ..data import CT_READERS, CT_SCALE, Sample, SampleMeta, ScanSimulation, SinogramSlices, write_sinogram
from ..evaluation import Probe, measure_quality
from ..networks import AxisCorrection
from .modality import MeasureQuality, Modality
from .smaller import smaller_ct


def _origin(facts: Mapping[str, Any]) -> str:
    how = facts.get("simulated")
    return f"CT, {how}" if how else "CT, measured projections"


def _quality(samples: SinogramSlices, references: np.ndarray[Any, Any]) -> MeasureQuality:
    """Bias and noise in Hounsfield units; noise texture and resolution where the dose is known."""
    volume, middle = samples.volumes[0], samples.volumes[0].shape[0] // 2
    dose = samples.dose(middle)
    probe = None if dose is None else Probe.of(samples[middle], dose)

    def measure(method: nn.Module, images: np.ndarray[Any, Any]) -> dict[str, Any]:
        return measure_quality(method, probe, images, references, volume.grid.spacing_mm).to_json()

    return measure


def _example(seed: int) -> Sample:
    """A fan beam of 15 views with ray weights."""
    generator = torch.Generator().manual_seed(seed)
    scan = FanBeam(evenly_spaced(15, 2 * math.pi / 15), 24, 16.0, 400.0, 640.0)
    A = RadonOperator(ImageGrid((16, 14), 12.0), scan, 0.5 + torch.rand(scan.shape, generator=generator))
    image = phantom_volume(1, (16, 14), seed=seed)[0].abs()
    lines = A(image)
    meta = SampleMeta("site", f"example_{seed}", 0, 1.0, "attenuation")
    noise = 0.01 * torch.randn(lines.shape, generator=generator)
    return Sample(lines + noise, A, torch.tensor(0.01), image, torch.tensor(CT_SCALE), None, (meta,))


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
    example=_example,
    smaller=smaller_ct,
    quality=_quality,
    window_hu=True,
    write_scan=write_sinogram,
)
