from .feature_moments import (
    MomentAlignment as MomentAlignment,
)
from .feature_moments import (
    measure_moments as measure_moments,
)
from .feature_moments import (
    moment_layout as moment_layout,
)
from .feature_moments import (
    watching as watching,
)
from .local_training import (
    Learner as Learner,
)
from .local_training import (
    TrainingResult as TrainingResult,
)
from .local_training import (
    cosine_learning_rate as cosine_learning_rate,
)
from .local_training import (
    train_in_turns as train_in_turns,
)
from .local_training import (
    train_locally as train_locally,
)
from .losses import LOSSES as LOSSES
from .losses import l1_loss as l1_loss
from .losses import l1_ssim_loss as l1_ssim_loss
from .losses import ssim_loss as ssim_loss
from .objectives import (
    OBJECTIVES as OBJECTIVES,
)
from .objectives import (
    MutualDistillation as MutualDistillation,
)
from .objectives import (
    SelfSupervised as SelfSupervised,
)
from .objectives import (
    Supervised as Supervised,
)
from .objectives import (
    TaskTerm as TaskTerm,
)
from .objectives import (
    TwoViews as TwoViews,
)
from .optimizers import Stepper as Stepper
from .penalties import (
    PENALTIES as PENALTIES,
)
from .penalties import (
    ContrastiveRatio as ContrastiveRatio,
)
from .penalties import (
    Distillation as Distillation,
)
from .penalties import (
    MeasurementResidual as MeasurementResidual,
)
from .penalties import (
    Proximal as Proximal,
)
from .penalty import Penalty as Penalty
from .penalty import RoundStart as RoundStart
from .penalty import State as State
