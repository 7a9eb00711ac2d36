from .fbp import WINDOWS as WINDOWS
from .fbp import filtered_backprojection as filtered_backprojection
from .fbp_weights import redundancy_weights as redundancy_weights
from .fbp_weights import view_angles as view_angles
from .geometry import (
    FanBeam as FanBeam,
)
from .geometry import (
    Geometry as Geometry,
)
from .geometry import (
    ImageGrid as ImageGrid,
)
from .geometry import (
    ParallelBeam as ParallelBeam,
)
from .geometry import (
    evenly_spaced as evenly_spaced,
)
from .geometry import (
    field_of_view_radius_mm as field_of_view_radius_mm,
)
from .geometry import (
    rays_of as rays_of,
)
from .radon import RadonOperator as RadonOperator
from .scans import ScanPreset as ScanPreset
from .scans import htc2022 as htc2022
from .scans import hyperfed as hyperfed
from .scans import lodopab as lodopab
from .transmission import (
    LODOPAB_MU_MAX as LODOPAB_MU_MAX,
)
from .transmission import (
    MU_AIR as MU_AIR,
)
from .transmission import (
    MU_WATER as MU_WATER,
)
from .transmission import (
    Transmission as Transmission,
)
from .transmission import (
    attenuation_to_hu as attenuation_to_hu,
)
from .transmission import (
    hu_to_attenuation as hu_to_attenuation,
)
from .transmission import (
    lodopab_observation as lodopab_observation,
)
from .transmission import (
    simulate_counts as simulate_counts,
)
from .transmission import (
    transmitted as transmitted,
)
