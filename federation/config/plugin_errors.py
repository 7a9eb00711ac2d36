"""The line of a plugin that raised an exception, for messages of one line."""

import re
import traceback

from .plugins import loaded_plugins


def line_in_plugin(error: BaseException) -> str:
    """File and line of a plugin in the traceback, such as ``/home/me/mine.py, line 3``; empty if there is none.

    An exception of a worker process carries its traceback as text.
    """
    files = {str(plugin.path) for plugin in loaded_plugins()}
    lines = re.findall(r'File "(.+)", line (\d+)', "".join(traceback.format_exception(error)))
    return next((f"{file}, line {line}" for file, line in reversed(lines) if file in files), "")
