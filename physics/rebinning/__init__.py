"""Rebinning: cone-beam CT scans, helical or axial, to two-dimensional fan-beam slices."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
