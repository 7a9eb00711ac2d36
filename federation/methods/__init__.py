"""Parts of a federated method: scope, server rules, weights of the sites, transforms of updates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
