"""Recipes: one TOML file per method, and the network that it describes."""

from .frozen_base import carried, digest_of_base, placed, require_base, without_base
from .network import build_network, consistency_at
from .recipe import Recipe, load_recipe
from .recipe_library import LIBRARY, library_entries, recipe_names, recipe_path
from .recipe_schema import (
    CLASSICAL_ARMS,
    LOCAL,
    SHARED,
    AugmentTable,
    EvaluationTable,
    FederationTable,
    NetworkTable,
    ObjectiveTable,
    ScopeTable,
    TrainingTable,
    TransformTable,
    TuningTable,
)

__all__ = [
    "CLASSICAL_ARMS",
    "LIBRARY",
    "LOCAL",
    "SHARED",
    "AugmentTable",
    "EvaluationTable",
    "FederationTable",
    "NetworkTable",
    "ObjectiveTable",
    "Recipe",
    "ScopeTable",
    "TrainingTable",
    "TransformTable",
    "TuningTable",
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
