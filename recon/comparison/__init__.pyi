from .claims import (
    MIN_SEEDS as MIN_SEEDS,
)
from .claims import (
    SEEDS_OF_SMALL_EFFECT as SEEDS_OF_SMALL_EFFECT,
)
from .claims import (
    Aim as Aim,
)
from .claims import (
    Hypothesis as Hypothesis,
)
from .claims import (
    seeds_needed as seeds_needed,
)
from .files import comparison_text as comparison_text
from .files import write_comparison as write_comparison
from .scores import (
    ScoreRow as ScoreRow,
)
from .scores import (
    read_scores as read_scores,
)
from .scores import (
    select_table as select_table,
)
from .scores import (
    summarize_arm as summarize_arm,
)
from .scores import (
    write_scores as write_scores,
)
from .statistics import Interval as Interval
from .statistics import paired_difference as paired_difference
from .table import ArmDetails as ArmDetails
from .table import ComparedTable as ComparedTable
from .table import compare_arms as compare_arms
