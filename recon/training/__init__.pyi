from .feature_moments import (
    MomentAlignment as MomentAlignment,
    measure_moments as measure_moments,
    moment_layout as moment_layout,
    watching as watching,
)
from .local_training import (
    Learner as Learner,
    TrainingResult as TrainingResult,
    cosine_learning_rate as cosine_learning_rate,
    train_in_turns as train_in_turns,
    train_locally as train_locally,
)
from .losses import LOSSES as LOSSES, l1_loss as l1_loss, l1_ssim_loss as l1_ssim_loss, ssim_loss as ssim_loss
from .objectives import (
    OBJECTIVES as OBJECTIVES,
    MutualDistillation as MutualDistillation,
    SelfSupervised as SelfSupervised,
    Supervised as Supervised,
    TaskTerm as TaskTerm,
    TwoViews as TwoViews,
)
from .optimizers import Stepper as Stepper
from .penalties import (
    PENALTIES as PENALTIES,
    ContrastiveRatio as ContrastiveRatio,
    Distillation as Distillation,
    MeasurementResidual as MeasurementResidual,
    Proximal as Proximal,
)
from .penalty import Penalty as Penalty, RoundStart as RoundStart, State as State
