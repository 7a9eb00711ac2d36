"""Comparison of methods: arms, presets, tables, verdicts."""

from .command import CompareOptions, compare
from .presets import PRESETS
from .run import run_comparison

__all__ = ["PRESETS", "CompareOptions", "compare", "run_comparison"]
