from .comparison import (
    PRESETS as PRESETS,
    Arm as Arm,
    TableSpec as TableSpec,
    arm_of as arm_of,
    run_comparison as run_comparison,
)
from .config import ConfigError as ConfigError
from .experiment import (
    RunFolder as RunFolder,
    evaluate_run as evaluate_run,
    reconstruct_file as reconstruct_file,
    site_network as site_network,
    site_spec as site_spec,
    train_run as train_run,
)
from .methods import (
    INVARIANTS as INVARIANTS,
    SERVER_RULES as SERVER_RULES,
    TRANSFORMS as TRANSFORMS,
    WEIGHTINGS as WEIGHTINGS,
    FederatedAlgorithm as FederatedAlgorithm,
    ServerRule as ServerRule,
    Transform as Transform,
    Weighting as Weighting,
)
from .parts import REGISTRIES as REGISTRIES, check_part as check_part
from .recipes import Recipe as Recipe, build_network as build_network, load_recipe as load_recipe
from .rounds import Site as Site, Transport as Transport, run_rounds as run_rounds
from .serialization import Broadcast as Broadcast, SiteUpdate as SiteUpdate
from .sites import (
    SiteManifest as SiteManifest,
    check_sites as check_sites,
    load_federation as load_federation,
    load_manifest as load_manifest,
    make_ct_demo_sites as make_ct_demo_sites,
    make_ct_image_sites as make_ct_image_sites,
    make_demo_sites as make_demo_sites,
    make_fastmri_sites as make_fastmri_sites,
    make_image_sites as make_image_sites,
)
