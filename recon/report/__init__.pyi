from .page import html_page as html_page
from .page import line_panel as line_panel
from .results import summarize as summarize
from .tables import html_table as html_table
from .text import text_table as text_table
from .write import write_report as write_report
from .write import write_site_report as write_site_report
