"""Sites, recipes, scope, messages, server rules and the rounds that join them."""

from pathlib import Path

import physics

if Path(physics.__file__ or "").resolve().parent != Path(__file__).resolve().parents[1] / "physics":
    foreign = physics.__file__ or list(physics.__path__)
    advice = "install fedrecon into an environment of its own"
    raise ImportError(f"federation: `import physics` found a foreign package, {foreign}; {advice}")

from .algorithm import FederatedAlgorithm, RoundScore, ServerState, derive_seed
from .building import build_network
from .errors import ConfigError, config_error
from .evaluation import evaluate_run, reconstruct_file
from .experiment import RunFolder, train_run
from .lock import sha256_file
from .manifest import CTSite, MRISite, SiteManifest, load_federation, load_manifest
from .manifest_tables import SPLITS, Split
from .messages import Broadcast, SiteReport, SiteUpdate, Wire
from .packing import Layout, MessageError, State, digest, pack, unpack
from .recipe import Recipe, load_recipe
from .recipe_tables import AugmentTable, EvaluationTable, FederationTable, NetworkTable, ScopeTable, TrainingTable
from .replies import Row, read_rows
from .rounds import QuorumError, RoundTime, RunResult, run_rounds, selected_state
from .runtime import InProcessRuntime, SiteFailure, Transport
from .scope import Scope, ScopeRules, load_parameters, parameter_scope, parameters_of
from .server_rules import SERVER_RULES, Contribution, ServerRule, weighted_mean
from .simulated_ct import CT_DEMO_SITES, SimulatedScanner, make_ct_demo_sites, make_ct_image_sites
from .simulated_sites import DEMO_SITES, SimulatedSite, make_demo_sites, make_image_sites
from .site import LocalResult, RoundContext, Site, SiteSpec, SiteTask, initial_network
from .sites import (
    FASTMRI_4X,
    GROUPINGS,
    MadeSite,
    SiteFacts,
    SplitFacts,
    check_sites,
    facts_table,
    make_fastmri_sites,
)
from .store import Checkpoint, load_checkpoint, load_newest, save_checkpoint
from .task import ReconstructionTask, site_spec
from .transforms import TRANSFORMS, Chain, Transform
from .weighting import WEIGHTINGS, Weighting

__all__ = [
    "CT_DEMO_SITES",
    "DEMO_SITES",
    "FASTMRI_4X",
    "GROUPINGS",
    "SERVER_RULES",
    "SPLITS",
    "TRANSFORMS",
    "WEIGHTINGS",
    "AugmentTable",
    "Broadcast",
    "CTSite",
    "Chain",
    "Checkpoint",
    "ConfigError",
    "Contribution",
    "EvaluationTable",
    "FederatedAlgorithm",
    "FederationTable",
    "InProcessRuntime",
    "Layout",
    "LocalResult",
    "MRISite",
    "MadeSite",
    "MessageError",
    "NetworkTable",
    "QuorumError",
    "Recipe",
    "ReconstructionTask",
    "RoundContext",
    "RoundScore",
    "RoundTime",
    "Row",
    "RunFolder",
    "RunResult",
    "Scope",
    "ScopeRules",
    "ScopeTable",
    "ServerRule",
    "ServerState",
    "SimulatedScanner",
    "SimulatedSite",
    "Site",
    "SiteFacts",
    "SiteFailure",
    "SiteManifest",
    "SiteReport",
    "SiteSpec",
    "SiteTask",
    "SiteUpdate",
    "Split",
    "SplitFacts",
    "State",
    "TrainingTable",
    "Transform",
    "Transport",
    "Weighting",
    "Wire",
    "build_network",
    "check_sites",
    "config_error",
    "derive_seed",
    "digest",
    "evaluate_run",
    "facts_table",
    "initial_network",
    "load_checkpoint",
    "load_federation",
    "load_manifest",
    "load_newest",
    "load_parameters",
    "load_recipe",
    "make_ct_demo_sites",
    "make_ct_image_sites",
    "make_demo_sites",
    "make_fastmri_sites",
    "make_image_sites",
    "pack",
    "parameter_scope",
    "parameters_of",
    "read_rows",
    "reconstruct_file",
    "run_rounds",
    "save_checkpoint",
    "selected_state",
    "sha256_file",
    "site_spec",
    "train_run",
    "unpack",
    "weighted_mean",
]
