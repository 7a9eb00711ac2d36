from .classical_arms import classical_method as classical_method
from .evaluate import evaluate_run as evaluate_run
from .evaluate import measurement_text as measurement_text
from .personal_stage import personalize as personalize
from .personal_stage import site_network as site_network
from .reconstruction import reconstruct_file as reconstruct_file
from .run_folder import BASE as BASE
from .run_folder import RunFolder as RunFolder
from .run_folder import Say as Say
from .score_site import score_methods as score_methods
from .task import DEVICE_FAILED as DEVICE_FAILED
from .task import ReconstructionTask as ReconstructionTask
from .task import site_spec as site_spec
from .train import (
    algorithm_of as algorithm_of,
)
from .train import (
    initial_state as initial_state,
)
from .train import (
    score_text as score_text,
)
from .train import (
    train_alone as train_alone,
)
from .train import (
    train_run as train_run,
)
