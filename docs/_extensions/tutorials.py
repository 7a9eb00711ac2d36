"""Reads notebooks/*.py, also where they are not executed."""

import jupytext


def read(text):
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "python"}
    return notebook
