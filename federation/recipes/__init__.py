"""Recipes: one TOML file per method, and the network that it describes."""

import lazy_loader

# As `federation` itself: `fedrecon recipes` lists the library without loading PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
