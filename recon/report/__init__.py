"""The report of a run: scores as JSON, one self-contained page, and a table for the terminal."""

from .results import summarize
from .text import text_table
from .write import write_report, write_site_report

__all__ = ["summarize", "text_table", "write_report", "write_site_report"]
