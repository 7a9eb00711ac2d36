"""Parts of a federated method: scope, server rules, weights of the sites, transforms of updates."""

from .algorithm import FederatedAlgorithm, derive_seed
from .checks import check_server_rule, check_transform, check_weighting
from .registries import INVARIANTS, SERVER_RULES, TRANSFORMS, WEIGHTINGS, Contribution, ServerRule
from .scope import Scope, ScopeRules, load_parameters, parameter_scope, parameters_of
from .server_state import CHECKPOINTS, MEMORY_PREFIX, RoundScore, ServerState, selected_state, state_of_checkpoint
from .transform import Transform
from .transform_chain import Chain, encode_with_feedback
from .weighting import Weighting

__all__ = [
    "CHECKPOINTS",
    "INVARIANTS",
    "MEMORY_PREFIX",
    "SERVER_RULES",
    "TRANSFORMS",
    "WEIGHTINGS",
    "Chain",
    "Contribution",
    "FederatedAlgorithm",
    "RoundScore",
    "Scope",
    "ScopeRules",
    "ServerRule",
    "ServerState",
    "Transform",
    "Weighting",
    "check_server_rule",
    "check_transform",
    "check_weighting",
    "derive_seed",
    "encode_with_feedback",
    "load_parameters",
    "parameter_scope",
    "parameters_of",
    "selected_state",
    "state_of_checkpoint",
]
