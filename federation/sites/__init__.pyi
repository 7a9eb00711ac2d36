from .checking import SiteFacts as SiteFacts, SplitFacts as SplitFacts, check_sites as check_sites
from .demos import DEMOS as DEMOS, Demo as Demo
from .from_fastmri import FASTMRI_4X as FASTMRI_4X, GROUPINGS as GROUPINGS, make_fastmri_sites as make_fastmri_sites
from .lock_file import sha256_file as sha256_file
from .manifest import (
    SiteManifest as SiteManifest,
    load_federation as load_federation,
    load_manifest as load_manifest,
    read_federation as read_federation,
    read_site_name as read_site_name,
)
from .manifest_schema import SPLITS as SPLITS, Split as Split
from .simulated_ct import (
    CT_DEMO_SITES as CT_DEMO_SITES,
    SimulatedScanner as SimulatedScanner,
    make_ct_demo_sites as make_ct_demo_sites,
    make_ct_image_sites as make_ct_image_sites,
    scan_of as scan_of,
)
from .simulated_mri import (
    DEMO_SITES as DEMO_SITES,
    SimulatedSite as SimulatedSite,
    make_demo_sites as make_demo_sites,
    make_image_sites as make_image_sites,
)
from .writing import MadeSite as MadeSite, write_sites as write_sites
