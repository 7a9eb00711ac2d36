"""Error bars: half-widths per pixel, and their calibration at every site."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
