from .arms import Arm as Arm
from .arms import arm_of as arm_of
from .command import CompareOptions as CompareOptions
from .command import compare as compare
from .preset import TableSpec as TableSpec
from .presets import PRESETS as PRESETS
from .run import run_comparison as run_comparison
