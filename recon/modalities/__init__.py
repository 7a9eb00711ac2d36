"""Modalities: all that differs between MRI, CT, non-Cartesian and cine MRI, each in one file."""

from .cine import CINE
from .ct import CT
from .modality import MeasureQuality, Modality
from .mri import MRI
from .non_cartesian import NON_CARTESIAN

#: Modalities by the value of the key ``modality`` in a manifest.
MODALITIES: dict[str, Modality] = {modality.name: modality for modality in (MRI, CT, NON_CARTESIAN, CINE)}

__all__ = ["CINE", "CT", "MODALITIES", "MRI", "NON_CARTESIAN", "MeasureQuality", "Modality"]
