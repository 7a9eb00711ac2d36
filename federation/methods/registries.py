"""Server rules, weightings and transforms by the name used in recipes; the fields of each are its options."""

from physics import Registry

from .averaging_rules import FedAdagrad, FedAdam, FedNova, FedYogi, Mean, Scaffold
from .codecs import Int8, LowRank, TopK
from .dense_transforms import Clip, NullSpace
from .robust_rules import Krum, Median, NormClip, TrimmedMean
from .server_rule import INVARIANTS, Contribution, ServerRule, check_number
from .transform import Transform
from .weighting import Fairness, Samples, Softmax, Uncertainty, Uniform, Weighting

__all__ = [
    "INVARIANTS",
    "SERVER_RULES",
    "Contribution",
    "FedAdagrad",
    "FedAdam",
    "FedNova",
    "FedYogi",
    "Krum",
    "Mean",
    "Median",
    "NormClip",
    "Scaffold",
    "ServerRule",
    "TrimmedMean",
    "check_number",
]

#: Server rules by the name used in recipes.
SERVER_RULES: Registry[ServerRule] = Registry("server rule", {
    "mean": Mean,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "norm_clip": NormClip,
})  # fmt: skip


#: Transforms by the name used in recipes.
TRANSFORMS: Registry[Transform] = Registry("transform", {
    "clip": Clip,
    "null_space": NullSpace,
    "topk": TopK,
    "low_rank": LowRank,
    "int8": Int8,
})  # fmt: skip


#: Weightings by the name used in recipes.
WEIGHTINGS: Registry[Weighting] = Registry("weighting", {
    "samples": Samples,
    "uniform": Uniform,
    "softmax": Softmax,
    "fairness": Fairness,
    "uncertainty": Uncertainty,
})  # fmt: skip
