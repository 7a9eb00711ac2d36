"""Settings of the documentation. `make docs` builds it from the root of the repository, so that no text is copied."""

import importlib.metadata
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_extensions")]

project = "fedrecon"
author = "The fedrecon developers"
project_copyright = "The fedrecon developers, Apache-2.0"
release = importlib.metadata.version("fedrecon")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "facades", "mathml"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/howto/*.md",
    "docs/api/*.rst",
    "notebooks/*.py",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/results/README.md",
    "data_manifests/README.md",
    "federation/deploy/*.md",
    "federation/recipes/library/README.md",
    "recon/weights/*.md",
]
exclude_patterns = [".*", "build", "docs/_build", "runs", "scripts", "tests"]

highlight_language = "bash"
html_theme = "furo"
html_title = "fedrecon"
html_static_path = ["_static"]
html_css_files = ["fedrecon.css"]
html_extra_path = ["_root"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Notebooks are Python files. One whose code is unchanged is not executed again; `make notebooks` executes all of them.
nb_custom_formats = {".py": "tutorials.read"}
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "runs" / "notebooks" / "cache")
nb_execution_timeout = 1200
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"

# Types stand in annotations only; docstrings have numpy sections.
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False  # torch's docstring of `forward` says nothing
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 240
add_module_names = False
toc_object_entries_show_parents = "hide"
