from .claims import (
    MIN_SEEDS as MIN_SEEDS,
    SEEDS_OF_SMALL_EFFECT as SEEDS_OF_SMALL_EFFECT,
    Aim as Aim,
    Hypothesis as Hypothesis,
    seeds_needed as seeds_needed,
)
from .files import comparison_text as comparison_text, write_comparison as write_comparison
from .scores import (
    ScoreRow as ScoreRow,
    read_scores as read_scores,
    select_table as select_table,
    summarize_arm as summarize_arm,
    write_scores as write_scores,
)
from .statistics import Interval as Interval, paired_difference as paired_difference
from .table import ArmDetails as ArmDetails, ComparedTable as ComparedTable, compare_arms as compare_arms
