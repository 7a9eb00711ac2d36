from .adapters import (
    add_lora as add_lora,
    add_prompts as add_prompts,
    add_scales as add_scales,
    base_name as base_name,
    freeze_base as freeze_base,
    is_adapter as is_adapter,
)
from .conditioning import FiLM as FiLM, StepScale as StepScale
from .data_consistency import (
    ChebyshevStep as ChebyshevStep,
    DualStep as DualStep,
    FilteredStep as FilteredStep,
    GradientStep as GradientStep,
    NormalizedStep as NormalizedStep,
    NoStep as NoStep,
    ProximalStep as ProximalStep,
    SiteDataConsistency as SiteDataConsistency,
    SitePart as SitePart,
    SiteStrength as SiteStrength,
    WeightedStep as WeightedStep,
)
from .operator_corrections import (
    AxisCorrection as AxisCorrection,
    MapsCorrection as MapsCorrection,
    OperatorCorrection as OperatorCorrection,
)
from .registries import DATA_CONSISTENCY as DATA_CONSISTENCY, REGULARIZERS as REGULARIZERS
from .regularizers import (
    ConvRegularizer as ConvRegularizer,
    Regularizer as Regularizer,
    UNetRegularizer as UNetRegularizer,
)
from .unrolled import UnrolledNetwork as UnrolledNetwork
from .wrappers import DataConsistent as DataConsistent, FixedCondition as FixedCondition, TwinNetwork as TwinNetwork
