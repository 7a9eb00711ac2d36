"""Reconstruction beside the scanner: lines of a running scan in, images out, by the streaming protocol of MRD."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
