"""Pictures of the report as HTML: some slices per site; image, error and difference of every arm on printed scales."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..modalities import MODALITIES, Modality
from .links import picture_id, to_site_report
from .outlines import outline_key, outlines
from .pictures import (
    ERROR_MAGNIFICATION,
    REFERENCE,
    SIGNED_COLORS,
    SOFT_TISSUE_HU,
    Picture,
    gray_png,
    gray_range,
    in_hu,
    site_pictures,
)
from .results import Results, facts, is_open, method_of, sites_by_role
from .tables import site_note
from .text import number

_MINUS = "\N{MINUS SIGN}"
_GRAY = ("#000", "#fff")


def picture_section(results: Results) -> str:
    """Pictures of the sites with synthetic data; the other sites' pictures stay at the sites."""
    took_part, unseen = sites_by_role(results)
    pictured = [site for site in took_part + unseen if site in results.get("pictures", {})]
    closed = [site for site in took_part + unseen if not is_open(results, site)]
    parts = []
    for site in pictured:
        note = site_note(results, site)
        parts.append(f'<h3 id="{picture_id(results, site)}">{escape(site)}</h3>')
        parts.append((f'<p class="note">{escape(note)}</p>' if note else "") + site_slices(results, site))
    if closed:
        where = ", ".join(map(to_site_report, closed))
        parts.append(
            f"<p>Pictures and per-volume scores of {escape(', '.join(closed))} stay at the sites, in {where}, "
            "and are not part of this report.</p>"
        )
    return "<h2>Pictures</h2>" + "".join(parts) if parts else ""


def site_slices(results: Results, site: str) -> str:
    """The slices of a site, one below the other; the script of the page shows one at a time, with zoom and cursor."""
    slices: Sequence[Mapping[str, Any]] = results.get("pictures", {}).get(site, ())
    if not slices:
        return "<p>No pictures.</p>"
    modality = MODALITIES.get(facts(results, site).get("modality", ""))
    parts = [_slice(f"{one['name']} slice, site {site}", one, method_of(results), modality) for one in slices]
    return f'<div class="slices">{"".join(parts)}</div>'


def _slice(label: str, one: Mapping[str, Any], method: str, modality: Modality | None) -> str:
    """One slice; CT also in a soft-tissue window."""
    heading = f'<h4><span class="which">{escape(one["name"])}</span>: {escape(one["where"])}</h4>'
    images: Mapping[str, Any] = one["images"]
    half_width: Any = one.get("half_width")
    labels: Mapping[str, Any] = one.get("labels", {})
    compared = [name for name in images if modality is None or name != modality.inversion]
    if modality is None or not modality.window_hu:
        body = _arms(label, images, method, compared, None, half_width, labels, in_units_of_hu=False)
    else:
        low, high = SOFT_TISSUE_HU
        body = (
            f'<p class="note">Soft-tissue window, {number(low, 0)} to {number(high, 0)} HU.</p>'
            + _arms(
                f"{label}, soft-tissue window",
                images,
                method,
                compared,
                SOFT_TISSUE_HU,
                half_width,
                labels,
                in_units_of_hu=True,
            )
            + '<p class="note">Full range of attenuation.</p>'
            + _arms(label, images, method, compared, None, half_width, labels, in_units_of_hu=True)
        )
    return f'<section class="slice">{heading}{body}</section>'


def _arms(
    label: str,
    images: Mapping[str, Any],
    method: str,
    compared: Sequence[str],
    window_hu: tuple[float, float] | None,
    half_width: Any,
    labels: Mapping[str, Any],
    *,
    in_units_of_hu: bool,
) -> str:
    """Image, error and difference of every arm, and their scales; the method stands beside the reference."""
    black, white = gray_range(images, window_hu)
    order = sorted(images, key=lambda name: (name != REFERENCE, name != method))
    pictures = site_pictures({name: images[name] for name in order}, window_hu, method=method, compared=compared)
    scales = _scales(images, pictures, window_hu, method, in_units_of_hu=in_units_of_hu)
    cells = []
    for picture in pictures:
        name = escape(picture.name)
        score = "" if picture.psnr is None else f"<br>{number(picture.psnr, 2)} dB in this slice"
        drawn = outlines(labels, picture.name)
        shown = [_figure(picture.image, f"Image of {picture.name}, {label}", "image", drawn)]
        if picture.error is not None:
            shown.append(_figure(picture.error, f"Error of {picture.name}, {label}", "|error|"))
        if picture.name == method and half_width is not None:
            bars = gray_png(half_width, (white - black) / ERROR_MAGNIFICATION)
            shown.append(_figure(bars, f"Error bar of {picture.name}, {label}", "error bar"))
        if picture.difference is not None:
            text = f"{method} {_MINUS} {picture.name}"
            shown.append(_figure(picture.difference, f"Difference {text}, {label}", text))
        if picture.name == REFERENCE:
            shown.append(scales)
        cells.append(f'<div class="arm"><p><b>{name}</b>{score}</p>{"".join(shown)}</div>')
    below = "" if REFERENCE in images else scales
    return f'{outline_key(labels)}<div class="arms">{"".join(cells)}</div>{below}'


def _figure(png: bytes, label: str, caption: str, over: str = "") -> str:
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    view = f'<div class="view"><img src="{source}" alt="{escape(label)}">{over}</div>'
    return f"<figure>{view}<figcaption>{escape(caption)}</figcaption></figure>"


def _scales(
    images: Mapping[str, Any],
    pictures: Sequence[Picture],
    window_hu: tuple[float, float] | None,
    method: str,
    *,
    in_units_of_hu: bool,
) -> str:
    """Scales of images, errors and differences, as far as there are any; the same for all arms."""
    black, white = gray_range(images, window_hu)
    if in_units_of_hu:
        low, high = in_hu(black), in_hu(white)
        ends, reach = (f"{number(low, 0)} HU", f"{number(high, 0)} HU"), f"{(high - low) / ERROR_MAGNIFICATION:.0f} HU"
    else:
        whole = "max of reference" if REFERENCE in images else "max of the images"
        ends, reach = ("0", whole), f"{100 / ERROR_MAGNIFICATION:g} % of max"
    scales = [_scale("images", _GRAY, ends)]
    if REFERENCE in images:
        scales.append(_scale("errors", _GRAY, ("0", f"{reach} or more")))
    if any(picture.difference for picture in pictures):
        scales.append(_scale("differences", SIGNED_COLORS, (f"{_MINUS}{reach}", "0", f"+{reach}")))
        scales.append(f"<div>orange: {escape(method)} is brighter; blue: darker</div>")
    return f'<div class="scales"><div>the same for all arms</div>{"".join(scales)}</div>'


def _scale(name: str, colors: Sequence[str], ends: Sequence[str]) -> str:
    ramp = f'<div class="ramp" style="background:linear-gradient(to right,{",".join(colors)})"></div>'
    return f'<div>{name}{ramp}<div class="ends">{"".join(f"<span>{escape(end)}</span>" for end in ends)}</div></div>'
