"""Federated training across sites: manifests, recipes, rounds, runs, comparisons and deployment."""

from importlib.util import find_spec
from pathlib import Path

import lazy_loader

_spec = find_spec("physics")
if _spec is None or Path(_spec.origin or "").resolve().parent != Path(__file__).resolve().parents[1] / "physics":
    foreign = _spec and (_spec.origin or list(_spec.submodule_search_locations or ()))
    advice = "install fedrecon into an environment of its own"
    raise ImportError(f"federation: `import physics` found a foreign package, {foreign}; {advice}")

# The names stand in __init__.pyi; each is imported when it is first used, so that `import federation` is fast.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
