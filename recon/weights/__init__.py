"""Trained weights: the files that come with fedrecon, each with its card, and how such files are read and written."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
