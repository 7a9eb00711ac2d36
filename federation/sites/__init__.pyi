from .checking import SiteFacts as SiteFacts
from .checking import SplitFacts as SplitFacts
from .checking import check_sites as check_sites
from .demos import DEMOS as DEMOS
from .demos import Demo as Demo
from .from_fastmri import FASTMRI_4X as FASTMRI_4X
from .from_fastmri import GROUPINGS as GROUPINGS
from .from_fastmri import make_fastmri_sites as make_fastmri_sites
from .lock_file import sha256_file as sha256_file
from .manifest import (
    SiteManifest as SiteManifest,
)
from .manifest import (
    load_federation as load_federation,
)
from .manifest import (
    load_manifest as load_manifest,
)
from .manifest import (
    read_federation as read_federation,
)
from .manifest import (
    read_site_name as read_site_name,
)
from .manifest_schema import SPLITS as SPLITS
from .manifest_schema import Split as Split
from .simulated_ct import (
    CT_DEMO_SITES as CT_DEMO_SITES,
)
from .simulated_ct import (
    SimulatedScanner as SimulatedScanner,
)
from .simulated_ct import (
    make_ct_demo_sites as make_ct_demo_sites,
)
from .simulated_ct import (
    make_ct_image_sites as make_ct_image_sites,
)
from .simulated_ct import (
    scan_of as scan_of,
)
from .simulated_mri import (
    DEMO_SITES as DEMO_SITES,
)
from .simulated_mri import (
    SimulatedSite as SimulatedSite,
)
from .simulated_mri import (
    make_demo_sites as make_demo_sites,
)
from .simulated_mri import (
    make_image_sites as make_image_sites,
)
from .writing import MadeSite as MadeSite
from .writing import write_sites as write_sites
