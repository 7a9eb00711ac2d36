from .cone_scan import ConeScan as ConeScan
from .cone_scan import helical_scan as helical_scan
from .cone_views import ConeViews as ConeViews
from .single_slice import Rebinned as Rebinned
from .single_slice import SliceRebinning as SliceRebinning
from .tilted_planes import TiltedPlanes as TiltedPlanes
