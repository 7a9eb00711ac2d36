"""Write the report of a run and the reports of its sites."""

import json
import os
from pathlib import Path
from urllib.parse import quote

from ..files import write_atomically
from .links import site_report
from .page import run_page, site_page
from .results import PUBLISHED, Results, is_open, plain, shared_part, with_summaries
from .training_page import training_page, training_site_page


def write_report(folder: Path | str, results: Results) -> Path:
    """Write ``report.json`` and the self-contained page ``report.html``.

    Pictures and per-volume scores are written only for sites whose data are declared synthetic. Mean and worst are
    over the sites that took part.

    Parameters
    ----------
    folder
        The run folder.
    results
        Only ``arms`` is required.

        - ``arms``: ``{arm: {"sites": {site: scores}}}``, scores from ``SiteScores.to_json``.
        - ``method``: the arm with which the others are compared, by default the last.
        - ``metric_card``, ``bytes``, ``seconds``, ``versions``, ``recipe`` (TOML text), ``claims`` (lines).
        - ``sites``, per site: ``sampling, effective_acceleration, coils, noise_std, maps, parameters_shared,
          parameters_kept, train_slices, synthetic, unseen`` and ``volumes``, their number in ``train, validation,
          test``.
        - ``curves``: the rows of ``rounds.jsonl``.
        - ``score_label``: what validation scores are, for axes; by default PSNR or residual.
        - ``training``: per trained arm, a list of :meth:`LearningCurve.to_json`.
        - ``head_reads``: ``task.input`` of the recipe; None: it trains no head.
        - ``head_learns``: ``"labels"``, or ``"hidden patches"`` of the images without labels.
        - ``personal_steps``: steps of the personal stage.
        - ``privacy``: ``delta``; ``sites``, per site ``patients, steps``, ``epsilon`` of these steps and ``planned`` of
          all rounds; ``note``, what is not private.
        - ``unlearning``, of a run that a ``site`` has left: ``rounds``, ``patients``; ``networks``, per network
          ``seconds``, ``sites`` (scores) and ``membership``; or ``left_out``, why there is no comparison.
        - ``error_bars``: per site, from :func:`recon.coverage_scores`.
        - ``task``: per site with labels of a downstream task and arm, :func:`recon.task_scores`; and, as far as known,
          ``difference``, ``{"to": arm, "classes": ...}`` from :func:`recon.task_differences`, and ``label_sets`` from
          :func:`recon.label_set_scores`. The head on reference images is an arm of its own, without PSNR.
        - ``quality``: per CT site and arm, from :meth:`recon.Quality.to_json`.
        - ``pictures``: per site, a list of slices ``{"name": "median PSNR", "where": "scan.h5, slice 3 of 12",
          "images": {arm: image}}`` with an image ``(height, width)`` for every arm and ``"reference"``, and with
          error bars ``"half_width"`` of the method; with a segmentation ``"labels"``: ``"classes"``, and the label
          map ``(height, width)`` of ``"reference"`` and as predicted on the image of every arm.

    Returns
    -------
        Path of the page.

    Raises
    ------
    ValueError
        If arms disagree about the sites, or pictures of a site differ in shape.
    DataError
        If a file cannot be written; an older file is then left unchanged.
    """
    shared = shared_part(results)
    page = run_page(shared)
    published = plain({key: shared[key] for key in PUBLISHED if key in shared})
    target = Path(folder) / "report.html"
    write_atomically(target.with_suffix(".json"), _json(published))
    write_atomically(target, page.encode("utf-8"))
    return target


def write_training_report(folder: Path | str, results: Results, *, reload: bool = True) -> Path:
    """Write ``report.html`` of a run that is being trained; :func:`write_report` replaces it at the end.

    Parameters
    ----------
    folder
        The run folder. Pictures of measured data go into ``sites/<name>/report.html`` alone.
    results
        ``method``, ``rounds``, ``curves`` (rows of ``rounds.jsonl``), ``alone`` (the same per site of the local arm),
        ``sites`` (facts), ``pictures`` of ``pictured_round``, ``seconds_left``, ``now`` (a sentence), ``recipe``.
    reload
        Whether the page loads itself again.
    """
    target = Path(folder) / "report.html"
    for site in results.get("pictures", {}):
        if not is_open(results, site):
            own = Path(folder) / site_report(site)
            page = training_site_page(site, results, _address(target, own), reload=reload)
            write_atomically(own, page.encode("utf-8"))
    write_atomically(target, training_page(results, reload=reload).encode("utf-8"))
    return target


def write_site_report(folder: Path | str, results: Results, site: str, shared: Path | str | None = None) -> Path:
    """Write the report that stays at a site: ``report.html`` with volumes and pictures, and ``scores.json``.

    Parameters
    ----------
    folder
        Folder at the site.
    results
        As for :func:`write_report`.
    site
        Name of the site.
    shared
        The shared report, for a relative link; None: no link.

    Raises
    ------
    ValueError
        If the arms have no such site.
    DataError
        If a file cannot be written.
    """
    complete = with_summaries(results)
    names = list(next(iter(complete["arms"].values()))["sites"])
    if site not in names:
        raise ValueError(f"write_site_report: site is {site!r}, expected one of {names}")
    target = Path(folder) / "report.html"
    scores = plain({arm: entry["sites"][site] for arm, entry in complete["arms"].items()})
    write_atomically(target.with_name("scores.json"), _json(scores))
    address = None if shared is None else _address(Path(shared), target)
    write_atomically(target, site_page(site, complete, address).encode("utf-8"))
    return target


def _address(page: Path, seen_from: Path) -> str:
    """Relative address of a page for a link on another one."""
    return quote(Path(os.path.relpath(page, seen_from.parent)).as_posix())


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("utf-8")
