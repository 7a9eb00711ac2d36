from .adapters import (
    add_lora as add_lora,
)
from .adapters import (
    add_prompts as add_prompts,
)
from .adapters import (
    add_scales as add_scales,
)
from .adapters import (
    base_name as base_name,
)
from .adapters import (
    freeze_base as freeze_base,
)
from .adapters import (
    is_adapter as is_adapter,
)
from .conditioning import FiLM as FiLM
from .conditioning import StepScale as StepScale
from .data_consistency import (
    ChebyshevStep as ChebyshevStep,
)
from .data_consistency import (
    DualStep as DualStep,
)
from .data_consistency import (
    FilteredStep as FilteredStep,
)
from .data_consistency import (
    GradientStep as GradientStep,
)
from .data_consistency import (
    NormalizedStep as NormalizedStep,
)
from .data_consistency import (
    NoStep as NoStep,
)
from .data_consistency import (
    ProximalStep as ProximalStep,
)
from .data_consistency import (
    SiteDataConsistency as SiteDataConsistency,
)
from .data_consistency import (
    SitePart as SitePart,
)
from .data_consistency import (
    SiteStrength as SiteStrength,
)
from .data_consistency import (
    WeightedStep as WeightedStep,
)
from .operator_corrections import (
    AxisCorrection as AxisCorrection,
)
from .operator_corrections import (
    MapsCorrection as MapsCorrection,
)
from .operator_corrections import (
    OperatorCorrection as OperatorCorrection,
)
from .registries import DATA_CONSISTENCY as DATA_CONSISTENCY
from .registries import REGULARIZERS as REGULARIZERS
from .regularizers import (
    ConvRegularizer as ConvRegularizer,
)
from .regularizers import (
    Regularizer as Regularizer,
)
from .regularizers import (
    UNetRegularizer as UNetRegularizer,
)
from .unrolled import UnrolledNetwork as UnrolledNetwork
from .wrappers import DataConsistent as DataConsistent
from .wrappers import FixedCondition as FixedCondition
from .wrappers import TwinNetwork as TwinNetwork
