from .bodies import BODY_FAMILIES as BODY_FAMILIES
from .bodies import body_phantom as body_phantom
from .bodies import body_volume as body_volume
from .ellipses import EllipsePhantom as EllipsePhantom
from .ellipses import shepp_logan as shepp_logan
from .head import PHANTOM_FAMILIES as PHANTOM_FAMILIES
from .head import brain_phantom as brain_phantom
from .head import phantom_volume as phantom_volume
