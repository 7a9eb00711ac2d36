"""Unrolled networks and their parts."""

from .adapters import add_lora, add_prompts, add_scales, base_name, freeze_base, is_adapter
from .conditioning import FiLM, StepScale
from .data_consistency import (
    ChebyshevStep,
    DualStep,
    FilteredStep,
    GradientStep,
    NormalizedStep,
    NoStep,
    ProximalStep,
    SiteDataConsistency,
    SitePart,
    SiteStrength,
    WeightedStep,
)
from .operator_corrections import AxisCorrection, MapsCorrection, OperatorCorrection
from .registries import DATA_CONSISTENCY, REGULARIZERS
from .regularizers import ConvRegularizer, Regularizer, UNetRegularizer
from .unrolled import UnrolledNetwork
from .wrappers import DataConsistent, FixedCondition, TwinNetwork

__all__ = [
    "DATA_CONSISTENCY",
    "REGULARIZERS",
    "AxisCorrection",
    "ChebyshevStep",
    "ConvRegularizer",
    "DataConsistent",
    "DualStep",
    "FiLM",
    "FilteredStep",
    "FixedCondition",
    "GradientStep",
    "MapsCorrection",
    "NoStep",
    "NormalizedStep",
    "OperatorCorrection",
    "ProximalStep",
    "Regularizer",
    "SiteDataConsistency",
    "SitePart",
    "SiteStrength",
    "StepScale",
    "TwinNetwork",
    "UNetRegularizer",
    "UnrolledNetwork",
    "WeightedStep",
    "add_lora",
    "add_prompts",
    "add_scales",
    "base_name",
    "freeze_base",
    "is_adapter",
]
