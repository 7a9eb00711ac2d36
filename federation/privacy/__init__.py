"""Secure sum: the server learns the sum of the sites' changes and no single one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
