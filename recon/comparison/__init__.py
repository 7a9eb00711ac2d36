"""Comparison of arms: paired statistics, verdicts, tables."""

from .claims import MIN_SEEDS, SEEDS_OF_SMALL_EFFECT, Aim, Hypothesis, seeds_needed
from .files import comparison_text, write_comparison
from .scores import ScoreRow, read_scores, select_table, summarize_arm, write_scores
from .statistics import Interval, paired_difference
from .table import ArmDetails
from .table import Comparison as ComparedTable
from .table import compare as compare_arms

__all__ = [
    "MIN_SEEDS",
    "SEEDS_OF_SMALL_EFFECT",
    "Aim",
    "ArmDetails",
    "ComparedTable",
    "Hypothesis",
    "Interval",
    "ScoreRow",
    "compare_arms",
    "comparison_text",
    "paired_difference",
    "read_scores",
    "seeds_needed",
    "select_table",
    "summarize_arm",
    "write_comparison",
    "write_scores",
]
