"""How the server combines what the sites send back: one class per rule, its fields the options of a recipe."""

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
SERVER_RULES: dict[str, type[ServerRule]] = {
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
}


#: Transforms by the name used in recipes.
TRANSFORMS: dict[str, type[Transform]] = {
    "clip": Clip,
    "null_space": NullSpace,
    "topk": TopK,
    "low_rank": LowRank,
    "int8": Int8,
}


#: Weightings by the name used in recipes.
WEIGHTINGS: dict[str, type[Weighting]] = {
    "samples": Samples,
    "uniform": Uniform,
    "softmax": Softmax,
    "fairness": Fairness,
    "uncertainty": Uncertainty,
}
