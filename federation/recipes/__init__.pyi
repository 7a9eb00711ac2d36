from .frozen_base import (
    carried as carried,
)
from .frozen_base import (
    digest_of_base as digest_of_base,
)
from .frozen_base import (
    placed as placed,
)
from .frozen_base import (
    require_base as require_base,
)
from .frozen_base import (
    without_base as without_base,
)
from .network import build_network as build_network
from .network import consistency_at as consistency_at
from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .recipe_library import (
    LIBRARY as LIBRARY,
)
from .recipe_library import (
    library_entries as library_entries,
)
from .recipe_library import (
    recipe_names as recipe_names,
)
from .recipe_library import (
    recipe_path as recipe_path,
)
from .recipe_schema import (
    LOCAL as LOCAL,
)
from .recipe_schema import (
    SHARED as SHARED,
)
from .recipe_schema import (
    AugmentSection as AugmentSection,
)
from .recipe_schema import (
    EvaluationSection as EvaluationSection,
)
from .recipe_schema import (
    FederationSection as FederationSection,
)
from .recipe_schema import (
    NetworkSection as NetworkSection,
)
from .recipe_schema import (
    ObjectiveSection as ObjectiveSection,
)
from .recipe_schema import (
    ScopeSection as ScopeSection,
)
from .recipe_schema import (
    TrainingSection as TrainingSection,
)
from .recipe_schema import (
    TransformSection as TransformSection,
)
from .recipe_schema import (
    TuningSection as TuningSection,
)
from .recipe_schema import (
    classical_arms as classical_arms,
)
