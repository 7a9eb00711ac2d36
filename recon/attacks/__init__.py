"""Attacks on an update and on a trained network: inversion of gradients, membership inference."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
