from .comparison import (
    PRESETS as PRESETS,
)
from .comparison import (
    Arm as Arm,
)
from .comparison import (
    TableSpec as TableSpec,
)
from .comparison import (
    arm_of as arm_of,
)
from .comparison import (
    run_comparison as run_comparison,
)
from .config import ConfigError as ConfigError
from .experiment import (
    RunFolder as RunFolder,
)
from .experiment import (
    evaluate_run as evaluate_run,
)
from .experiment import (
    reconstruct_file as reconstruct_file,
)
from .experiment import (
    site_network as site_network,
)
from .experiment import (
    site_spec as site_spec,
)
from .experiment import (
    train_run as train_run,
)
from .methods import (
    INVARIANTS as INVARIANTS,
)
from .methods import (
    SERVER_RULES as SERVER_RULES,
)
from .methods import (
    TRANSFORMS as TRANSFORMS,
)
from .methods import (
    WEIGHTINGS as WEIGHTINGS,
)
from .methods import (
    FederatedAlgorithm as FederatedAlgorithm,
)
from .methods import (
    ServerRule as ServerRule,
)
from .methods import (
    Transform as Transform,
)
from .methods import (
    Weighting as Weighting,
)
from .parts import REGISTRIES as REGISTRIES
from .parts import check_part as check_part
from .recipes import Recipe as Recipe
from .recipes import build_network as build_network
from .recipes import load_recipe as load_recipe
from .rounds import Site as Site
from .rounds import Transport as Transport
from .rounds import run_rounds as run_rounds
from .serialization import Broadcast as Broadcast
from .serialization import SiteUpdate as SiteUpdate
from .sites import (
    SiteManifest as SiteManifest,
)
from .sites import (
    check_sites as check_sites,
)
from .sites import (
    load_federation as load_federation,
)
from .sites import (
    load_manifest as load_manifest,
)
from .sites import (
    make_ct_demo_sites as make_ct_demo_sites,
)
from .sites import (
    make_ct_image_sites as make_ct_image_sites,
)
from .sites import (
    make_demo_sites as make_demo_sites,
)
from .sites import (
    make_fastmri_sites as make_fastmri_sites,
)
from .sites import (
    make_image_sites as make_image_sites,
)
