"""Recipes: one TOML file per method, and the network that it describes."""

from .frozen_base import carried, digest_of_base, placed, require_base, without_base
from .network import build_network, consistency_at
from .recipe import Recipe, load_recipe
from .recipe_library import LIBRARY, library_entries, recipe_names, recipe_path
from .recipe_schema import (
    CLASSICAL_ARMS,
    LOCAL,
    SHARED,
    AugmentSection,
    EvaluationSection,
    FederationSection,
    NetworkSection,
    ObjectiveSection,
    ScopeSection,
    TrainingSection,
    TransformSection,
    TuningSection,
)

__all__ = [
    "CLASSICAL_ARMS",
    "LIBRARY",
    "LOCAL",
    "SHARED",
    "AugmentSection",
    "EvaluationSection",
    "FederationSection",
    "NetworkSection",
    "ObjectiveSection",
    "Recipe",
    "ScopeSection",
    "TrainingSection",
    "TransformSection",
    "TuningSection",
    "build_network",
    "carried",
    "consistency_at",
    "digest_of_base",
    "library_entries",
    "load_recipe",
    "placed",
    "recipe_names",
    "recipe_path",
    "require_base",
    "without_base",
]
