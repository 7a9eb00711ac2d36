"""A federated method: what travels, how the server combines it, what happens to an update."""

from .algorithm import FederatedAlgorithm, derive_seed
from .registries import INVARIANTS, SERVER_RULES, TRANSFORMS, WEIGHTINGS, Contribution, ServerRule, weighted_mean
from .scope import Scope, ScopeRules, load_parameters, parameter_scope, parameters_of
from .server_state import CHECKPOINTS, MEMORY_PREFIX, RoundScore, ServerState, selected_state, state_of_checkpoint
from .transform_chain import Chain, Transform, encode_with_feedback
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
    "derive_seed",
    "encode_with_feedback",
    "load_parameters",
    "parameter_scope",
    "parameters_of",
    "selected_state",
    "state_of_checkpoint",
    "weighted_mean",
]
