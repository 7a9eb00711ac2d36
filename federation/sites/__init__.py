"""Sites: their manifests, how they are made, simulated and checked."""

import lazy_loader

# As `federation` itself: `fedrecon deploy site init` reads a manifest without loading PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
