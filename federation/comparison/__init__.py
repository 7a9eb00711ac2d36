"""Comparison of methods: arms, presets, tables, verdicts."""

from .arms import Arm, arm_of
from .command import CompareOptions, compare
from .presets import PRESETS, TableSpec
from .run import run_comparison

__all__ = ["PRESETS", "Arm", "CompareOptions", "TableSpec", "arm_of", "compare", "run_comparison"]
