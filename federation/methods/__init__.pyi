from .algorithm import FederatedAlgorithm as FederatedAlgorithm
from .algorithm import derive_seed as derive_seed
from .checks import (
    check_server_rule as check_server_rule,
)
from .checks import (
    check_transform as check_transform,
)
from .checks import (
    check_weighting as check_weighting,
)
from .registries import (
    INVARIANTS as INVARIANTS,
)
from .registries import (
    SERVER_RULES as SERVER_RULES,
)
from .registries import (
    TRANSFORMS as TRANSFORMS,
)
from .registries import (
    WEIGHTINGS as WEIGHTINGS,
)
from .registries import (
    Contribution as Contribution,
)
from .registries import (
    ServerRule as ServerRule,
)
from .scope import (
    Scope as Scope,
)
from .scope import (
    ScopeRules as ScopeRules,
)
from .scope import (
    load_parameters as load_parameters,
)
from .scope import (
    parameter_scope as parameter_scope,
)
from .scope import (
    parameters_of as parameters_of,
)
from .server_state import (
    CHECKPOINTS as CHECKPOINTS,
)
from .server_state import (
    MEMORY_PREFIX as MEMORY_PREFIX,
)
from .server_state import (
    RoundScore as RoundScore,
)
from .server_state import (
    ServerState as ServerState,
)
from .server_state import (
    selected_state as selected_state,
)
from .server_state import (
    state_of_checkpoint as state_of_checkpoint,
)
from .transform import Transform as Transform
from .transform_chain import Chain as Chain
from .transform_chain import encode_with_feedback as encode_with_feedback
from .weighting import Weighting as Weighting
