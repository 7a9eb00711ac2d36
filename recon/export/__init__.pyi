from .formats import SUFFIXES as SUFFIXES
from .formats import require_export as require_export
from .formats import require_png as require_png
from .formats import suffix_of as suffix_of
from .formats import write_reconstruction as write_reconstruction
from .reconstruction import PngSlices as PngSlices
from .reconstruction import Reconstruction as Reconstruction
from .reconstruction import fedrecon_version as fedrecon_version
