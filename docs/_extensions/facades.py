"""The directive ``facade``: all public names of some rooms of a package, from its ``__init__.pyi`` and docstrings."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LOG = logging.getLogger(__name__)
PACKAGES = ("physics", "recon", "federation")


def rooms(package):
    """Public names of a package by the room that its stub takes them from."""
    stub = Path(importlib.import_module(package).__file__).with_name("__init__.pyi")
    found = {}
    for line in ast.parse(stub.read_text(encoding="utf-8")).body:
        found.setdefault(line.module, []).extend(name.name for name in line.names)
    return found


def entry(package, name):
    value = getattr(importlib.import_module(package), name)
    if inspect.isclass(value):
        bases = "" if value.__bases__ == (object,) else "   :show-inheritance:\n"
        return f".. autoclass:: {name}\n   :members:\n{bases}"
    if inspect.isfunction(value):
        return f".. autofunction:: {name}\n"
    shown = ", ".join(sorted(value)) if isinstance(value, frozenset) else repr(value)
    if len(shown) > 400:  # of a record of NumPy, the names of its fields; of a long object, its class
        names = getattr(value, "names", value)
        shown = ", ".join(map(str, names)) if isinstance(names, Iterable) else type(value).__name__
    return f".. py:data:: {name}\n\n   ``{shown}``\n"


class Facade(SphinxDirective):
    """``.. facade:: recon networks method``: names that ``recon/__init__.pyi`` takes from these rooms."""

    required_arguments = 2
    final_argument_whitespace = True

    def run(self):
        package, names = self.arguments[0], self.arguments[1].split()
        lines = [f".. currentmodule:: {package}\n"]
        for room in names:
            text = inspect.getdoc(importlib.import_module(f"{package}.{room}")) or ""
            title = f"{package}.{room}"
            lines += [title, "-" * len(title), "", text.splitlines()[0], ""]
            lines += [entry(package, name) for name in sorted(rooms(package)[room], key=str.lower)]
            self.env.facade_rooms.setdefault(self.env.docname, set()).add((package, room))
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def local_citations(app, what, name, obj, options, lines):
    """Citations as lists: docstrings may use one label for several sources, and need not refer to it."""
    lines[:] = [re.sub(r"(\[[\w-]+\])_(?!\w)", r"\1", re.sub(r"^\.\. (\[[\w-]+\])", r"-  \1", line)) for line in lines]


def start(app, env, docnames):
    env.facade_rooms = getattr(env, "facade_rooms", {})


def purge(app, env, docname):
    getattr(env, "facade_rooms", {}).pop(docname, None)


def merge(app, env, docnames, other):
    env.facade_rooms |= {name: other.facade_rooms[name] for name in docnames if name in other.facade_rooms}


def check(app, env):
    documented = set().union(*env.facade_rooms.values())
    for package in PACKAGES:
        for room in rooms(package):
            if (package, room) not in documented:
                LOG.warning("docs/api: %s.%s is on no page; add it to a facade directive", package, room)


def setup(app):
    app.add_directive("facade", Facade)
    app.connect("autodoc-process-docstring", local_citations)
    app.connect("env-before-read-docs", start)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
