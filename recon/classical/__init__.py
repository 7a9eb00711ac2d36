"""Classical reconstruction, called as ``method(y, A)`` like a network."""

from .ct import CGLS, CT_METHODS, SIRT, FilteredBackprojection, PenalizedTV
from .mri import MRI_METHODS, CGSense, L1Wavelet, TotalVariation, ZeroFilled
from .tuning import ClassicalMethod, tune

__all__ = [
    "CGLS",
    "CT_METHODS",
    "MRI_METHODS",
    "SIRT",
    "CGSense",
    "ClassicalMethod",
    "FilteredBackprojection",
    "L1Wavelet",
    "PenalizedTV",
    "TotalVariation",
    "ZeroFilled",
    "tune",
]
