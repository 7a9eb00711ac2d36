"""Report of a run: scores as JSON, a self-contained HTML page, a table for the terminal."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
