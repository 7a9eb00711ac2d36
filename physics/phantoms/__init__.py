"""Digital phantoms: random heads and bodies, ellipses with analytic transforms."""

from .bodies import BODY_FAMILIES, body_phantom, body_volume
from .ellipses import EllipsePhantom, shepp_logan
from .head import PHANTOM_FAMILIES, brain_phantom, phantom_volume

__all__ = [
    "BODY_FAMILIES",
    "PHANTOM_FAMILIES",
    "EllipsePhantom",
    "body_phantom",
    "body_volume",
    "brain_phantom",
    "phantom_volume",
    "shepp_logan",
]
