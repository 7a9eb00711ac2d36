from .frozen_base import (
    carried as carried,
    digest_of_base as digest_of_base,
    placed as placed,
    require_base as require_base,
    without_base as without_base,
)
from .network import build_network as build_network, consistency_at as consistency_at
from .recipe import Recipe as Recipe, load_recipe as load_recipe
from .recipe_library import (
    LIBRARY as LIBRARY,
    library_entries as library_entries,
    recipe_names as recipe_names,
    recipe_path as recipe_path,
)
from .recipe_schema import (
    LOCAL as LOCAL,
    SHARED as SHARED,
    AugmentSection as AugmentSection,
    EvaluationSection as EvaluationSection,
    FederationSection as FederationSection,
    NetworkSection as NetworkSection,
    ObjectiveSection as ObjectiveSection,
    ScopeSection as ScopeSection,
    TrainingSection as TrainingSection,
    TransformSection as TransformSection,
    TuningSection as TuningSection,
    classical_arms as classical_arms,
)
