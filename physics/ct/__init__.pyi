from .fbp import WINDOWS as WINDOWS, filtered_backprojection as filtered_backprojection
from .fbp_weights import redundancy_weights as redundancy_weights, view_angles as view_angles
from .geometry import (
    FanBeam as FanBeam,
    Geometry as Geometry,
    ImageGrid as ImageGrid,
    ParallelBeam as ParallelBeam,
    evenly_spaced as evenly_spaced,
    field_of_view_radius_mm as field_of_view_radius_mm,
    rays_of as rays_of,
)
from .radon import RadonOperator as RadonOperator
from .scans import ScanPreset as ScanPreset, htc2022 as htc2022, hyperfed as hyperfed, lodopab as lodopab
from .transmission import (
    LODOPAB_MU_MAX as LODOPAB_MU_MAX,
    MU_AIR as MU_AIR,
    MU_WATER as MU_WATER,
    Transmission as Transmission,
    attenuation_to_hu as attenuation_to_hu,
    hu_to_attenuation as hu_to_attenuation,
    lodopab_observation as lodopab_observation,
    simulate_counts as simulate_counts,
    transmitted as transmitted,
)
