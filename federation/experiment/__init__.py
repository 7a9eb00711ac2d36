"""A run: training, personal stage, scores and report."""

from .classical_arms import classical_method
from .evaluate import evaluate_run, measurement_text
from .personal_stage import personalize, site_network
from .reconstruction import reconstruct_file
from .run_folder import BASE, RunFolder, Say
from .score_site import score_methods
from .task import DEVICE_FAILED, ReconstructionTask, site_spec
from .train import algorithm_of, initial_state, score_text, train_alone, train_run

__all__ = [
    "BASE",
    "DEVICE_FAILED",
    "ReconstructionTask",
    "RunFolder",
    "Say",
    "algorithm_of",
    "classical_method",
    "evaluate_run",
    "initial_state",
    "measurement_text",
    "personalize",
    "reconstruct_file",
    "score_methods",
    "score_text",
    "site_network",
    "site_spec",
    "train_alone",
    "train_run",
]
