"""CT: geometries, projector, filtered back-projection, measurement model."""

from .fbp import WINDOWS, filtered_backprojection
from .fbp_weights import redundancy_weights, view_angles
from .geometry import FanBeam, Geometry, ImageGrid, ParallelBeam, evenly_spaced, field_of_view_radius_mm, rays_of
from .radon import RadonOperator
from .scans import ScanPreset, htc2022, hyperfed, lodopab
from .transmission import (
    LODOPAB_MU_MAX,
    MU_AIR,
    MU_WATER,
    Transmission,
    attenuation_to_hu,
    hu_to_attenuation,
    lodopab_observation,
    simulate_counts,
    transmitted,
)

__all__ = [
    "LODOPAB_MU_MAX",
    "MU_AIR",
    "MU_WATER",
    "WINDOWS",
    "FanBeam",
    "Geometry",
    "ImageGrid",
    "ParallelBeam",
    "RadonOperator",
    "ScanPreset",
    "Transmission",
    "attenuation_to_hu",
    "evenly_spaced",
    "field_of_view_radius_mm",
    "filtered_backprojection",
    "htc2022",
    "hu_to_attenuation",
    "hyperfed",
    "lodopab",
    "lodopab_observation",
    "rays_of",
    "redundancy_weights",
    "simulate_counts",
    "transmitted",
    "view_angles",
]
