"""Local training: losses, tasks, penalties, optimizers."""

from .feature_moments import MomentAlignment, measure_moments, moment_layout
from .local_training import Learner, TrainingResult, cosine_learning_rate, train_in_turns, train_locally
from .losses import LOSSES, l1_loss, l1_ssim_loss, ssim_loss
from .objectives import OBJECTIVES, MutualDistillation, SelfSupervised, Supervised, TaskTerm, TwoViews
from .optimizers import Stepper
from .penalties import PENALTIES, ContrastiveRatio, Distillation, MeasurementResidual, Proximal
from .penalty import Penalty, RoundStart, State

__all__ = [
    "LOSSES",
    "OBJECTIVES",
    "PENALTIES",
    "ContrastiveRatio",
    "Distillation",
    "Learner",
    "MeasurementResidual",
    "MomentAlignment",
    "MutualDistillation",
    "Penalty",
    "Proximal",
    "RoundStart",
    "SelfSupervised",
    "State",
    "Stepper",
    "Supervised",
    "TaskTerm",
    "TrainingResult",
    "TwoViews",
    "cosine_learning_rate",
    "l1_loss",
    "l1_ssim_loss",
    "measure_moments",
    "moment_layout",
    "ssim_loss",
    "train_in_turns",
    "train_locally",
]
