"""Progress of a command: events of all its processes, and their display as lines, bars and a log file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
