"""Parts of an unrolled network by their names in recipes."""

from functools import partial

from physics import Registry

from .data_consistency import (
    ChebyshevStep,
    DualStep,
    FilteredStep,
    GradientStep,
    NoiseProximalStep,
    NormalizedStep,
    NoStep,
    ProximalStep,
    SiteDataConsistency,
    WeightedStep,
)
from .regularizers import ConvRegularizer, FrequencySplitRegularizer, Regularizer, UNetRegularizer
from .spacetime import SpaceTimeRegularizer, VolumeRegularizer

#: Regularizers; :class:`Regularizer` describes their arguments.
REGULARIZERS: Registry[Regularizer] = Registry("regularizer", {
    "cnn": ConvRegularizer,
    "unet": UNetRegularizer,
    "fdd": FrequencySplitRegularizer,
    "cnn_time": SpaceTimeRegularizer,
    "cnn_volume": VolumeRegularizer,
})  # fmt: skip

#: Data consistency; the arguments are keys of ``[network.consistency_options]``.
DATA_CONSISTENCY: Registry[SiteDataConsistency] = Registry("data consistency", {
    "gradient": GradientStep,
    "proximal": ProximalStep,
    "noise_proximal": NoiseProximalStep,
    "filtered": FilteredStep,
    "normalized": NormalizedStep,
    "chebyshev": ChebyshevStep,
    "weighted": WeightedStep,
    "weighted_chebyshev": partial(WeightedStep, iterations=6),
    "primal_dual": DualStep,
    "none": NoStep,
})  # fmt: skip
