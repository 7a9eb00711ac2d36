"""CT image quality per site as HTML: a table over arms, curves of noise power and sharpness."""

from collections.abc import Mapping
from html import escape
from typing import Any

from .charts import Series, legend, line_chart, panel
from .results import Results, method_of
from .tables import html_table
from .text import number

_FREQUENCY = "line pairs per cm"
_NOTE = (
    "Bias and noise: mean and standard deviation of the error in HU by region of the reference (lung, soft tissue, "
    "bone; without border pixels). All else is measured on one slice, simulated with four draws of noise, with and "
    "without a disc of 6 pixels radius. Mean noise frequency: mean of the noise power "
    "spectrum; higher is finer grain. MTF 50 %: sharpness at the edge of a disc of +100 HU. Disc contrast: remaining "
    "part of the 100 HU; CNR: contrast to noise. Detectability d': that of a disc of +10 HU for the channelized "
    "Hotelling observer (three difference-of-Gaussian channels), known to about a tenth; all arms see the same dose "
    "and noise. A network is not linear: these values hold near this object only."
)


def quality_section(results: Results, sites: list[str]) -> str:
    """One part per site with CT images; empty if there is none."""
    known: Mapping[str, Any] = results.get("quality", {})
    parts = [_site(results, site, known[site]) for site in sites if site in known]
    if not parts:
        return ""
    return f'<h2>CT image quality</h2><p class="note">{escape(_NOTE)}</p>' + "".join(parts)


def _site(results: Results, site: str, by_arm: Mapping[str, Mapping[str, Any]]) -> str:
    regions = [name for name in ("lung", "soft tissue", "bone") if any(name in q["bias_hu"] for q in by_arm.values())]
    columns = ["arm", *(f"{name}: bias / noise (HU)" for name in regions)]
    probed = any(entry["nps"] for entry in by_arm.values())
    if probed:
        columns += ["mean noise frequency (lp/cm)", "MTF 50 % (lp/cm)", "disc contrast (HU)", "disc CNR"]
        columns += ["faint disc: detectability d'"]
    rows = []
    for arm, entry in by_arm.items():
        cells = [
            f"{number(entry['bias_hu'].get(name), 1, sign=True)} / {number(entry['noise_hu'].get(name), 1)}"
            for name in regions
        ]
        if probed:
            cells += [
                number(entry["nps_mean_lp_per_cm"], 2),
                number(entry["mtf50_lp_per_cm"], 2),
                number(entry["disc_contrast_hu"], 1),
                number(entry["disc_cnr"], 2),
                number(entry.get("disc_detectability"), 2),
            ]
        rows.append((arm + (" (method)" if arm == method_of(results) else ""), cells))
    table = html_table(f"CT image quality at {site}", columns, rows)
    charts = "" if probed else "<p>No slice simulated: no uniform region for the disc, or photons per ray unknown.</p>"
    if probed:
        arms = [arm for arm, entry in by_arm.items() if entry["nps"]]
        power = [Series(arm, _points(by_arm[arm]["nps"], 1e-3), i) for i, arm in enumerate(arms)]
        sharp = [Series(arm, _points(by_arm[arm]["mtf"]), i) for i, arm in enumerate(arms)]
        charts = (
            legend(arms, lines=True)
            + '<div class="panels">'
            + panel("noise power spectrum", line_chart(f"Noise power at {site}", power, "1000 HU² mm²", _FREQUENCY))
            + panel("modulation transfer at the disc", line_chart(f"MTF at {site}", sharp, "MTF", _FREQUENCY))
            + "</div>"
        )
    return f"<h3>{escape(site)}</h3>{table}{charts}"


def _points(pairs: Any, factor: float = 1.0) -> list[tuple[float, float]]:
    return [(float(x), factor * float(y)) for x, y in pairs]
