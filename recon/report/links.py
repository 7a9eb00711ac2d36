"""Links between the shared report of a run and the reports of its sites, relative to the page with the link."""

from html import escape
from urllib.parse import quote

from .results import Results, is_open, sites_by_role

#: Text of the link to the shared report.
ALL_SITES = "All sites: the shared report"


def site_report(site: str) -> str:
    """Path of the report of a site, from the folder of the run."""
    return f"sites/{site}/report.html"


def link(address: str, text: str) -> str:
    """A link with escaped text."""
    return f'<a href="{escape(address)}">{escape(text)}</a>'


def to_site_report(site: str, text: str | None = None) -> str:
    """Link of the shared report to the report that stays at a site; by default its text is the path."""
    return link(quote(site_report(site)), site_report(site) if text is None else text)


def picture_address(results: Results, site: str) -> str | None:
    """Where the pictures of a site are, seen from the shared report: on it, or in the report of the site."""
    if not is_open(results, site):
        return quote(site_report(site))
    return f"#{picture_id(results, site)}" if results.get("pictures", {}).get(site) else None


def picture_id(results: Results, site: str) -> str:
    """Identifier of the pictures of a site on the shared report."""
    return f"pictures-{[name for role in sites_by_role(results) for name in role].index(site)}"
