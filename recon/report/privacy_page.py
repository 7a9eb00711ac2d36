"""The report of attacks on a run: ``privacy.html``, ``privacy.json``, ``privacy.csv``."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .charts import Series, legend, line_chart, panel
from .epsilon import epsilon_text
from .links import to_site_report
from .page import html_page
from .picture_script import PICTURE_SCRIPT
from .picture_section import site_slices
from .results import plain
from .tables import card, html_table
from .text import NO_VALUE, aligned, number

_COLUMNS = ("attack", "attacked", "control", "blank", "inverted", "distance", "at the truth", "verdict")
_MEMBERS = ("site and network", "members", "non-members", "AUC", "95 % interval", "TPR at 1 % FPR", "resolution of FPR")
#: Lists in a row of the results, which have no column of their own.
_CURVES = ("losses", "control_losses")


def write_privacy_report(folder: Path | str, results: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]]) -> Path:
    """Write the report of attacks into a run folder.

    Pictures of measured data go into ``sites/<site>/privacy.html`` alone.

    Parameters
    ----------
    folder
        The run folder.
    results
        As `privacy.json` holds them: ``method, site, sites_in_sum, modality, synthetic, matrix, steps, round,
        replayed_round, optimizer, steps_per_round, batch_size, secure_sum, noise``; ``positive_control`` with ``bar,
        psnr, succeeded``; ``control_row`` and ``attacks``, rows of PSNR and SSIM; ``left_out``, ``membership``,
        ``epsilon``.
    pictures
        Slices ``{"name", "where", "images": {"reference": ..., "attack": ..., "control": ..., ...}}``.

    Returns
    -------
        Path of the page.

    Raises
    ------
    DataError
        If a file cannot be written.
    """
    target = Path(folder) / "privacy.html"
    shown = _pictures(results, pictures)
    if not results["synthetic"]:
        own = target.parent / "sites" / results["site"] / target.name
        lead = "This page shows a patient's images: it stays at the site."
        page = html_page(f"{results['site']}: pictures of attacks", lead, [shown], script=PICTURE_SCRIPT)
        write_atomically(own, page.encode("utf-8"))
        where = to_site_report(results["site"]).replace("report.html", target.name)
        shown = f"<h2>Pictures</h2><p>They show a patient, and stay at the site, in {where}.</p>"
    write_atomically(target.with_suffix(".json"), (json.dumps(plain(dict(results)), indent=2) + "\n").encode())
    write_atomically(target.with_suffix(".csv"), _csv(results).encode())
    write_atomically(target, privacy_page(results, shown).encode("utf-8"))
    return target


def privacy_page(results: Mapping[str, Any], pictures: str = "") -> str:
    """The page; ``pictures`` is HTML."""
    sections = [
        _verdict(results),
        _knowledge(results),
        _inversion(results),
        _curves(results),
        _members(results),
        _epsilon(results),
        pictures,
    ]
    lead = escape(
        f"Attacks on the run of {results['method']}, at {results['site']}, by someone who sees its updates or has its "
        "network. An attack that has not converged is no evidence of safety; nor is one that fails: a better one may "
        "succeed."
    )
    return html_page(f"{results['method']}: what an attacker gets", lead, sections, script=PICTURE_SCRIPT)


def privacy_text(results: Mapping[str, Any]) -> str:
    """The tables as plain text."""
    rows = [_COLUMNS, *((name, *cells) for name, cells in _rows(results))]
    members = [_MEMBERS, *((name, *cells) for name, cells in _member_rows(results))]
    return "\n".join([_conclusion(results), "", *aligned(rows), "", *aligned(members)])


def _conclusion(results: Mapping[str, Any]) -> str:
    control = results["positive_control"]
    scores = ", ".join(f"{number(score, 1)} dB" for score in control["psnr"])
    if control["succeeded"]:
        return (
            f"Positive control: the image of a linear network is recovered ({scores}, at least "
            f"{number(control['bar'], 0)} dB needed). The search works on this network; for the others see 'not "
            "converged' among the verdicts."
        )
    return (
        f"Positive control FAILED: the image of a linear network is not recovered ({scores}, at least "
        f"{number(control['bar'], 0)} dB needed). Nothing can be concluded from this report; raise --steps."
    )


def _verdict(results: Mapping[str, Any]) -> str:
    row = results["control_row"]
    cells = [_pair(row, "psnr", "ssim"), _pair(row, "control_psnr", "control_ssim"), number(row["last_distance"], 4)]
    cells.append("succeeded" if results["positive_control"]["succeeded"] else "failed: nothing can be concluded")
    table = html_table(
        _conclusion(results), ("case", "attacked", "control", "distance", "outcome"), [(row["title"], cells)]
    )
    return "<h2>Does the attack work at all?</h2>" + table


def _knowledge(results: Mapping[str, Any]) -> str:
    height, width = results["matrix"]
    facts = {
        "attacker": "knows the network, all its parameters, the operator (mask and maps, or geometry), the noise of "
        "the measurement, batch size and learning rate, and not the image. It knows more of the "
        "measurement than a real one (noise, kept parameters), and less than a real one may: it sees one round, has no "
        "learned prior and starts once",
        "image": f"training slices on a matrix of {height}x{width}, measured anew at this size: fewer unknowns than on "
        "the scanner's, and in MRI a mask with a larger sampled part; both favor the attacker",
        "search": f"{results['steps']} steps of Adam from a blank image on one minus the cosine between gradients, per "
        "parameter tensor (updates: over all), plus total variation (Geiping et al. 2020); a loss l1 is smoothed",
        "network": f"with the parameters of the selected round {results['round']}",
        "update of a round": _update_fact(results),
        "sums": f"over {', '.join(results['sites_in_sum'])}; images of all sites are sought together in a sum of "
        "gradients, which holds the middle training slice of every site but the attacked one. "
        f"The recipe {'has' if results['secure_sum'] else 'has no'} secure sum",
        "crafted broadcast": "larger weights, and an offset of the output that takes the signs out of the gradient. A "
        "site accepts only the initial parameters in round 0 and bounds later changes (maximum_change of its policy) "
        "against the last broadcast: at 1, a server that moves in k rounds reaches 2^k times the norm. The row without "
        "a bound is what it gets then. A server cannot add a layer: sites build the network from the approved recipe. "
        "Other values may do more",
        "noise": "per entry, the multiplier times the norm of the gradient, which is the clipping bound",
        "control": "the same search on the gradient of a patient who did not train, scored against the target; noised "
        "gradients and the sum of updates stand beside the control of the exact gradient and of the update",
        "scores": "PSNR and SSIM after the best scaling to the target, in favor of the attacker",
    }
    return "<h2>What the attacker knows and does</h2>" + card(facts)


def _update_fact(results: Mapping[str, Any]) -> str:
    if results["replayed_round"] is None:
        return "not replayed: no site has trained"
    noise = "; the secret noise of its steps is drawn anew" if results["noise"] else ""
    steps = f"{results['steps_per_round']} steps of {results['optimizer']} with batches of {results['batch_size']}"
    return (
        f"round {results['replayed_round']}: {steps}, replayed with its broadcast, learning rate and kept state, at "
        f"this size and without augmentation{noise}. The attacker reads the change as minus a gradient, which is an "
        "approximation, and does not unroll the steps. Its best match among all slices counts, for the blank image "
        "too"
    )


def _rows(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        (
            f"{row['title']}, slice {row['slice'] + 1}",
            [
                _pair(row, "psnr", "ssim"),
                _pair(row, "control_psnr", "control_ssim"),
                _pair(row, "blank_psnr", "blank_ssim"),
                _pair(row, "inverted_psnr", "inverted_ssim"),
                f"{number(row['first_distance'], 3)} to {number(row['last_distance'], 3)}",
                number(row["distance_at_truth"], 3),
                row["verdict"],
            ],
        )
        for row in results["attacks"]
    ]


def _inversion(results: Mapping[str, Any]) -> str:
    caption = (
        "PSNR in dB and SSIM. Control: the gradient of another patient, same start. Blank: the start. Inverted: the "
        "zero-filled image or filtered back-projection, which the attacker does not have. Distance: 1 minus the cosine "
        "of the gradients at the first and at the last step. At the truth: the same for the true image; where the last "
        "distance is smaller, the gradient does not single out the image. Recovers: 3 dB above control and blank. Not "
        "converged: the last distance is above 2 % of the first one and above that at the truth; no evidence of safety."
    )
    left = "".join(f"<li>{escape(title)}: not run, {escape(why)}</li>" for title, why in results["left_out"].items())
    table = html_table(caption, _COLUMNS, _rows(results))
    return "<h2>An image from an update</h2>" + table + (f"<ul>{left}</ul>" if left else "")


def _curves(results: Mapping[str, Any]) -> str:
    panels = []
    for row in (results["control_row"], *results["attacks"]):
        lines = [
            Series(name, row[key], i) for i, (name, key) in enumerate(zip(("attack", "control"), _CURVES, strict=True))
        ]
        title = f"{row['title']}, slice {row['slice'] + 1}"
        panels.append(panel(title, line_chart(title, lines, "distance of gradients", "step")))
    note = '<p class="note">A curve that still falls at its end has not converged: raise --steps.</p>'
    curves = legend(["attack", "control"], lines=True) + f'<div class="panels">{"".join(panels)}</div>'
    return "<h2>Distance of the gradients</h2>" + note + curves


def _member_rows(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    rows = []
    for row in results["membership"]:
        tpr = resolution = NO_VALUE
        if row["tpr"] is not None:
            tpr = f"{number(100 * row['tpr'], 0)} %" + (f" at {number(100 * row['fpr'], 1)} %" if row["fpr"] else "")
            resolution = f"{number(100 * row['resolution'], 1)} %"
        interval = f"{number(row['low'], 2)} to {number(row['high'], 2)}"
        counts = [str(row["members"]), str(row["non_members"])]
        cells = [*counts, number(row["auc"], 2), interval, tpr, resolution]
        rows.append((f"{row['site']}, {row['network']}", cells))
    return rows


def _members(results: Mapping[str, Any]) -> str:
    caption = (
        "Members are the training patients of a site, non-members its test patients; the attacker calls a patient with "
        "a low loss a member (Yeom 2018). Calibrated: the loss minus that of the untrained network. AUC 0.5: guessing; "
        "interval over patients (Newcombe 2006). All sites: patients are compared within their site only, so there is "
        "no common threshold and no true-positive rate. With fewer than 100 non-members the true positives at 1 % are "
        "those without any false positive. An interval that holds 0.5 with few patients is no evidence of safety."
    )
    if not results["membership"]:
        return ""
    return "<h2>Who was in the training data?</h2>" + html_table(caption, _MEMBERS, _member_rows(results))


def _epsilon(results: Mapping[str, Any]) -> str:
    known = results["epsilon"]
    if all(value is None for value in known.values()):
        return "<h2>Differential privacy</h2><p>The run states no epsilon: it gives no guarantee per patient.</p>"
    rows = [(site, [NO_VALUE if value is None else epsilon_text(value)]) for site, value in known.items()]
    caption = "Epsilon per patient after all rounds, by the record of each site."
    return "<h2>Differential privacy</h2>" + html_table(caption, ("site", "epsilon"), rows)


def _pictures(results: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]]) -> str:
    site = results["site"]
    of_site = {"method": "attack", "sites": {site: {"modality": results["modality"]}}, "pictures": {site: pictures}}
    return "<h2>Pictures</h2>" + site_slices(of_site, site)


def _pair(row: Mapping[str, Any], first: str, second: str) -> str:
    return f"{number(row[first], 1)} / {number(row[second], 2)}"


def _csv(results: Mapping[str, Any]) -> str:
    rows = [{k: v for k, v in row.items() if k not in _CURVES} for row in (results["control_row"], *results["attacks"])]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
