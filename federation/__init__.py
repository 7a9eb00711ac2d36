"""Sites, recipes, scope, messages, server rules and the rounds that join them."""

from pathlib import Path

import physics

if Path(physics.__file__ or "").resolve().parent != Path(__file__).resolve().parents[1] / "physics":
    foreign = physics.__file__ or list(physics.__path__)
    advice = "install fedrecon into an environment of its own"
    raise ImportError(f"federation: `import physics` found a foreign package, {foreign}; {advice}")

from .config import (
    AugmentTable,
    EvaluationTable,
    FederationTable,
    NetworkTable,
    Recipe,
    ScopeTable,
    TrainingTable,
    load_recipe,
)
from .errors import ConfigError, config_error
from .lock import sha256_file
from .manifest import SPLITS, SiteManifest, Split, load_federation, load_manifest
from .simulated_sites import DEMO_SITES, SimulatedSite, make_demo_sites, make_image_sites
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

__all__ = [
    "DEMO_SITES",
    "FASTMRI_4X",
    "GROUPINGS",
    "SPLITS",
    "AugmentTable",
    "ConfigError",
    "EvaluationTable",
    "FederationTable",
    "MadeSite",
    "NetworkTable",
    "Recipe",
    "ScopeTable",
    "SimulatedSite",
    "SiteFacts",
    "SiteManifest",
    "Split",
    "SplitFacts",
    "TrainingTable",
    "check_sites",
    "config_error",
    "facts_table",
    "load_federation",
    "load_manifest",
    "load_recipe",
    "make_demo_sites",
    "make_fastmri_sites",
    "make_image_sites",
    "sha256_file",
]
