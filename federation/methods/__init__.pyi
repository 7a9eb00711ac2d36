from .algorithm import FederatedAlgorithm as FederatedAlgorithm, derive_seed as derive_seed
from .checks import (
    check_server_rule as check_server_rule,
    check_transform as check_transform,
    check_weighting as check_weighting,
)
from .registries import (
    INVARIANTS as INVARIANTS,
    SERVER_RULES as SERVER_RULES,
    TRANSFORMS as TRANSFORMS,
    WEIGHTINGS as WEIGHTINGS,
    Contribution as Contribution,
    ServerRule as ServerRule,
)
from .scope import (
    Scope as Scope,
    ScopeRules as ScopeRules,
    load_parameters as load_parameters,
    parameter_scope as parameter_scope,
    parameters_of as parameters_of,
)
from .server_state import (
    CHECKPOINTS as CHECKPOINTS,
    MEMORY_PREFIX as MEMORY_PREFIX,
    RoundScore as RoundScore,
    ServerState as ServerState,
    selected_state as selected_state,
    state_of_checkpoint as state_of_checkpoint,
)
from .transform import Transform as Transform
from .transform_chain import Chain as Chain, encode_with_feedback as encode_with_feedback
from .weighting import Weighting as Weighting
