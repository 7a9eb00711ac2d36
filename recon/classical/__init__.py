"""Classical reconstruction behind the same call as a network."""

from .ct import CGLS, SIRT, FilteredBackprojection, PenalizedTV
from .mri import CLASSICAL, CGSense, L1Wavelet, TotalVariation, ZeroFilled, tune

__all__ = [
    "CGLS",
    "CLASSICAL",
    "SIRT",
    "CGSense",
    "FilteredBackprojection",
    "L1Wavelet",
    "PenalizedTV",
    "TotalVariation",
    "ZeroFilled",
    "tune",
]
