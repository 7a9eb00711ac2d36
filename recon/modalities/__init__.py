"""Modalities: all that differs between MRI and CT, each in one file."""

from .ct import CT
from .modality import MeasureQuality, Modality
from .mri import MRI

#: Modalities by the value of the key ``modality`` in a manifest.
MODALITIES: dict[str, Modality] = {modality.name: modality for modality in (MRI, CT)}

__all__ = ["CT", "MODALITIES", "MRI", "MeasureQuality", "Modality"]
