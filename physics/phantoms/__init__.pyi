from .bodies import BODY_FAMILIES as BODY_FAMILIES, body_phantom as body_phantom, body_volume as body_volume
from .ellipses import EllipsePhantom as EllipsePhantom, shepp_logan as shepp_logan
from .head import PHANTOM_FAMILIES as PHANTOM_FAMILIES, brain_phantom as brain_phantom, phantom_volume as phantom_volume
