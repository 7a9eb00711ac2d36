"""Sites: their manifests, how they are made, simulated and checked."""

from .checking import SiteFacts, SplitFacts, check_sites
from .from_fastmri import FASTMRI_4X, GROUPINGS, make_fastmri_sites
from .lock_file import sha256_file
from .manifest import SiteManifest, load_federation, load_manifest, read_federation
from .manifest_schema import SPLITS, Split
from .simulated_ct import CT_DEMO_SITES, SimulatedScanner, make_ct_demo_sites, make_ct_image_sites, scan_of
from .simulated_mri import DEMO_SITES, SimulatedSite, make_demo_sites, make_image_sites
from .writing import MadeSite, write_sites

__all__ = [
    "CT_DEMO_SITES",
    "DEMO_SITES",
    "FASTMRI_4X",
    "GROUPINGS",
    "SPLITS",
    "MadeSite",
    "SimulatedScanner",
    "SimulatedSite",
    "SiteFacts",
    "SiteManifest",
    "Split",
    "SplitFacts",
    "check_sites",
    "load_federation",
    "load_manifest",
    "make_ct_demo_sites",
    "make_ct_image_sites",
    "make_demo_sites",
    "make_fastmri_sites",
    "make_image_sites",
    "read_federation",
    "scan_of",
    "sha256_file",
    "write_sites",
]
