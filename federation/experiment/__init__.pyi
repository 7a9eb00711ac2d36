from .classical_arms import classical_method as classical_method
from .evaluate import evaluate_run as evaluate_run, measurement_text as measurement_text
from .personal_stage import personalize as personalize, site_network as site_network
from .reconstruction import reconstruct_file as reconstruct_file
from .run_folder import BASE as BASE, RunFolder as RunFolder, Say as Say
from .score_site import score_methods as score_methods
from .task import DEVICE_FAILED as DEVICE_FAILED, ReconstructionTask as ReconstructionTask, site_spec as site_spec
from .train import (
    algorithm_of as algorithm_of,
    initial_state as initial_state,
    score_text as score_text,
    train_alone as train_alone,
    train_run as train_run,
)
