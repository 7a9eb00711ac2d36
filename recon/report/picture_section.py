"""Pictures of the report as HTML: one slice per site, every arm with its error map."""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from ..modalities import MODALITIES
from .pictures import ERROR_MAGNIFICATION, REFERENCE, SOFT_TISSUE_HU, Picture, site_pictures
from .results import Results, facts, is_open, sites_by_role
from .tables import scroll, site_note
from .text import number


def picture_section(results: Results) -> str:
    """Pictures of the sites with synthetic data; the other sites' pictures stay at the sites."""
    took_part, unseen = sites_by_role(results)
    pictured = [site for site in took_part + unseen if site in results.get("pictures", {})]
    closed = [site for site in took_part + unseen if not is_open(results, site)]
    parts = []
    for site in pictured:
        note = site_note(results, site)
        parts.append(f"<h3>{escape(site)}</h3>" + (f'<p class="note">{escape(note)}</p>' if note else ""))
        parts.append(site_strips(results, site))
    if closed:
        where = ", ".join(f"<code>sites/{escape(site)}/report.html</code>" for site in closed)
        parts.append(
            f"<p>Pictures and per-volume scores of {escape(', '.join(closed))} stay at the sites, in {where}, "
            "and are not part of this report.</p>"
        )
    return "<h2>Pictures</h2>" + "".join(parts) if parts else ""


def site_strips(results: Results, site: str) -> str:
    """Images and error maps of a site; CT also in a soft-tissue window."""
    images: Mapping[str, Any] = results.get("pictures", {}).get(site, {})
    if not images:
        return "<p>No pictures.</p>"
    modality = MODALITIES.get(facts(results, site).get("modality", ""))
    if modality is None or not modality.window_hu:
        return _strip(site, images, None)
    low, high = SOFT_TISSUE_HU
    return (
        '<p class="note">Full range of attenuation.</p>'
        + _strip(site, images, None)
        + f'<p class="note">Soft-tissue window, {number(low, 0)} to {number(high, 0)} HU.</p>'
        + _strip(site, images, SOFT_TISSUE_HU)
    )


def _strip(site: str, images: Mapping[str, Any], window_hu: tuple[float, float] | None) -> str:
    cells = []
    for picture in site_pictures(images, window_hu):
        cells.append(_figure(site, picture, error=False))
        cells.append(_scale(window_hu) if picture.name == REFERENCE else _figure(site, picture, error=True))
    strip = f'<div class="strip">{"".join(cells)}</div>'
    return scroll(strip, f"Pictures of {site}" + ("" if window_hu is None else ", soft-tissue window"))


def _figure(site: str, picture: Picture, *, error: bool) -> str:
    data = picture.error if error else picture.image
    if data is None:
        return "<div></div>"
    name = escape(picture.name)
    what = f"Error of {name}, magnified {ERROR_MAGNIFICATION} times" if error else f"Image of {name}"
    source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    if error:
        below = f"|error| \N{MULTIPLICATION SIGN} {ERROR_MAGNIFICATION}"
    elif picture.psnr is None:
        below = f"<b>{name}</b>"
    else:
        below = f"<b>{name}</b><br>{number(picture.psnr, 2)} dB in this slice"
    image = f'<img src="{source}" alt="{what}, site {escape(site)}">'
    return f"<figure>{image}<figcaption>{below}</figcaption></figure>"


def _scale(window_hu: tuple[float, float] | None) -> str:
    share = f"max / {ERROR_MAGNIFICATION}"
    ends = ("0", "max of reference")
    if window_hu is not None:
        low, high = window_hu
        share, ends = f"{(high - low) / ERROR_MAGNIFICATION:g} HU", (f"{number(low, 0)} HU", f"{number(high, 0)} HU")
    return (
        '<div class="scale"><div>one gray scale for all</div><div class="ramp"></div>'
        f'<div class="ends"><span>{ends[0]}</span><span>{ends[1]}</span></div>'
        f"<div>error maps, magnified {ERROR_MAGNIFICATION} times: white is {share} or more</div></div>"
    )
