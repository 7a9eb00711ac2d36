"""A comparison of methods: arms, presets, tables, verdicts."""

from .arms import Arm, arm_of
from .own_sites import at_sites
from .plan import extra_arms
from .presets import PRESETS, TableSpec
from .published import publish, require_place
from .run import run_comparison
from .tables import write_tables

__all__ = [
    "PRESETS",
    "Arm",
    "TableSpec",
    "arm_of",
    "at_sites",
    "extra_arms",
    "publish",
    "require_place",
    "run_comparison",
    "write_tables",
]
