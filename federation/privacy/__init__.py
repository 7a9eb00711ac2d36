"""Secure sum, of which the server learns no single change; the epsilon of private training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
