"""Heads of `fedrecon demo --kind task`: three ways of training on one reconstruction network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..progress import Display
    from ..sites import SiteManifest

#: Ways of training, in `downstream/` of the library, and their arms; TV and heads of sites alone cost time: once.
WAYS: Mapping[str, tuple[str, ...]] = {
    "reference": ("zero_filled",),
    "two_stage": ("zero_filled", "tv", "local"),
    "end_to_end": (),
}


def train_heads(
    base: Path | str,
    sites: "Sequence[SiteManifest]",
    out: Path,
    shown: "Display",
    *,
    overrides: Sequence[str],
    plugins: Sequence[str],
    evaluating: int | None,
    **how: Any,
) -> None:
    """Train and score a head in each way into ``out/<way>``; print the table of all.

    Parameters
    ----------
    base
        Run or weights of the reconstruction network.
    overrides
        Of the recipes of the heads.
    evaluating
        Processes of the evaluation.
    how
        Further arguments of :func:`federation.experiment.train_run`.

    Raises
    ------
    ConfigError, DataError
        As of training and evaluation.
    """
    from recon import task_runs_text

    from ..experiment import evaluate_run, train_run
    from ..recipes import load_recipe

    results = {}
    for way, arms in WAYS.items():
        begins = (f"evaluation.arms={list(arms)}", *overrides)
        recipe = load_recipe(f"downstream/{way}", begins, plugins=plugins, start_from=base)
        shown.say(f"training heads: downstream/{way} ...")
        train_run(recipe, sites, out / way, say=shown.say, **how)
        results[way] = evaluate_run(out / way, jobs=evaluating, say=shown.say)
    shown.result("\n" + task_runs_text(results))
    for way in WAYS:
        shown.result(f"report: {out / way / 'report.html'}")
