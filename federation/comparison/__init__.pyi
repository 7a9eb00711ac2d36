from .arms import Arm as Arm, arm_of as arm_of
from .command import CompareOptions as CompareOptions, compare as compare
from .presets import PRESETS as PRESETS, TableSpec as TableSpec
from .run import run_comparison as run_comparison
