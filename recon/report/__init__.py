"""Report of a run: scores as JSON, a self-contained HTML page, a table for the terminal."""

from .page import document as html_page
from .page import line_panel
from .results import summarize
from .tables import plain_table as html_table
from .text import text_table
from .write import write_report, write_site_report

__all__ = [
    "html_page",
    "html_table",
    "line_panel",
    "summarize",
    "text_table",
    "write_report",
    "write_site_report",
]
