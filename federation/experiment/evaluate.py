"""Score a trained run at all of its sites and write the reports."""

import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import Any

from recon import MODALITIES, DataError, LearningCurve, metric_card, summarize, write_report, write_site_report

from ..machine import cores, memory_available
from ..progress import log_into
from ..recipes import CENTRALIZED, LOCAL
from ..rounds import Row, read_rows
from ..worker_pool import run_jobs
from .centralized import central_arm
from .error_bars import calibrate_run
from .head_scores import calibrate_heads
from .learning import curves_of
from .plan import fitting
from .planning import say_fewer_cores
from .private_run import report_of_privacy
from .run_folder import RunFolder, Say
from .score_site import SiteResult, score_site
from .score_text import MEASURES, score_label
from .unlearning import compare_unlearning

#: Packages whose versions the report names.
_PACKAGES = (
    "fedrecon", "torch", "torchvision", "sigpy", "numpy", "scikit-image", "h5py", "numba", "safetensors",
)  # fmt: skip
#: Part of the pixels whose error the error bars should hold, and of the truth that label sets should hold.
COVERAGE = 0.9


def evaluate_run(
    path: Path | str,
    *,
    jobs: int | None,
    say: Say,
    begin: float | None = None,
    sites: Path | str | None = None,
    coverage: float = COVERAGE,
) -> dict[str, Any]:
    """Score every arm on the test data of every site and write ``report.html`` and ``report.json``.

    The report holds aggregates. Pictures and scores per volume of measured data stay at their site, in
    ``sites/<name>/report.html``.

    Parameters
    ----------
    path
        Folder of a trained run.
    jobs
        Sites at a time; None: one for each core that may be used, as far as the memory allows.
    begin
        ``time.monotonic()`` at the start of the time to report; None: the sum of the recorded times of the parts.
    sites
        Folder of the manifests, if it has moved since training.
    coverage
        Part of the pixels of the object that error bars should hold, where the network has them; of the truth that the
        label sets of a head should hold.

    Returns
    -------
        The results in the report.

    Raises
    ------
    DataError
        If the folder holds no trained run, or no site has test data.
    """
    run = RunFolder.open(path, sites)
    state = run.selected()
    started = time.monotonic()
    tested = [manifest for manifest in run.manifests if manifest.data.test]
    if not tested:
        raise DataError(f"{path}: no site has files under data.test; nothing to score")
    for manifest in tested:
        manifest.torch_device()
    if jobs is None:
        jobs = fitting(max(1, cores() // run.threads()), run.memory() or 0, memory_available())
    log_into(run.path)
    say_fewer_cores(run, say)
    names = [manifest.name for manifest in tested]
    if jobs > 1:
        run.renew_queue(names)
    calibrate_run(run, coverage, jobs, say)
    calibrate_heads(run, coverage, jobs, say)
    say(f"scoring {len(tested)} sites with the parameters of round {state.round} ...")
    found: dict[str, SiteResult] = {}
    work, queue = [(run, name, state) for name in names], run.queue(names).in_order(names)
    scored = run_jobs(score_site, work, jobs, threads=run.threads(), queue=queue)
    for manifest, result in zip(tested, scored, strict=True):
        found[manifest.name] = result
        say(f"scored  {manifest.name}")
    unlearning = compare_unlearning(run, jobs, say, sites)
    run.record_seconds("evaluation", time.monotonic() - started)
    seconds = sum(run.seconds().values()) if begin is None else time.monotonic() - begin
    results = _results(run, found, state.round, seconds) | ({"unlearning": unlearning} if unlearning else {})
    absent = [arm for arm in run.recipe.evaluation.arms if arm not in results["arms"]]
    if run.is_exported and LOCAL in absent:
        absent.remove(LOCAL)
        say(f"not in the tables, as a deployed site does not train alone: {LOCAL}")
    if absent:
        say(f"not in the tables, as not every site has it: {', '.join(absent)}")
    for manifest in tested:
        if not manifest.synthetic:
            write_site_report(run.site_folder(manifest.name), results, manifest.name, run.path / "report.html")
    write_report(run.path, results)
    return results


def _results(run: RunFolder, found: dict[str, SiteResult], selected: int, seconds: float) -> dict[str, Any]:
    rows = read_rows(run.path)
    # Without arms that some site cannot have, such as the local arm of a site without training data.
    arms = [arm for arm in next(iter(found.values())).arms if all(arm in result.arms for result in found.values())]
    by_arm: dict[str, Any] = {
        arm: {"sites": {name: result.arms[arm] for name, result in found.items()}} for arm in arms
    }
    took_part = [name for name, result in found.items() if not result.facts["unseen"]]
    for entry in by_arm.values():
        entry |= summarize(entry["sites"][name] for name in took_part or found)
    private = report_of_privacy(run)
    return ({"privacy": private} if private else {}) | {
        "metric_card": _card(run, found, selected),
        "arms": by_arm,
        "bytes": _bytes(rows),
        "seconds": round(seconds, 1),
        "versions": _versions(),
        "method": run.recipe.name,
        "sites": {name: result.facts for name, result in found.items()},
        "claims": _claims(run.recipe.name, by_arm, arms, unseen=len(took_part) < len(found)),
        "recipe": run.recipe.to_toml(),
        "personal_steps": run.recipe.personal.steps or None,
        "curves": rows,
        "score_label": score_label(run.recipe),
        "head_reads": None if run.recipe.task is None else run.recipe.task.input,
        "head_learns": "labels" if run.recipe.task is None or run.recipe.task.learns_labels else "hidden patches",
        "training": {arm: [curve.to_json() for curve in curves] for arm, curves in _curves(run).items()},
        "pictures": {name: result.pictures for name, result in found.items()},
        "quality": {name: result.quality for name, result in found.items() if result.quality},
        "error_bars": {name: result.error_bars for name, result in found.items() if result.error_bars},
        "task": {name: result.task for name, result in found.items() if result.task},
    }


def _curves(run: RunFolder) -> dict[str, list[LearningCurve]]:
    """Learning curves of all trained arms."""
    central = CENTRALIZED in run.recipe.evaluation.arms and not run.is_exported
    return curves_of(run) | ({CENTRALIZED: central_arm(run).curves} if central else {})


def _card(run: RunFolder, found: dict[str, SiteResult], selected: int) -> dict[str, str]:
    references = [kind for result in found.values() for kind in result.references]
    crops = [crop for result in found.values() for crop in result.crops]
    card = metric_card(references, crops, [result.facts["maps"] for result in found.values() if "maps" in result.facts])
    evaluation = run.recipe.evaluation
    tuned = f"TV over {len(evaluation.tv_weights)} weights on {evaluation.tv_slices} validation slices per site"
    has_tuned = any("tuned_weight" in scores for result in found.values() for scores in result.arms.values())
    return card | {
        "measurement": measurement_text({name: result.facts for name, result in found.items()}),
        "selection": _selection(run, selected),
        **({"tuning": tuned} if has_tuned else {}),
        "mean_and_worst": "over the sites that took part; unseen sites apart",
        "seeds": f"1 (seed {run.recipe.federation.seed})",
        "personal_stage": _personal(run),
        "regime": _regime(run),
        "steps": f"{_rounds(run)} of {run.recipe.training.steps_per_round} steps, batch "
        f"{run.recipe.training.batch_size}, {_who(run)} in the federated and at every site in the local arm",
    }


def _selection(run: RunFolder, selected: int) -> str:
    federation = run.recipe.federation
    if run.is_exported:
        return f"round {selected} of {federation.rounds}, as the server sent it to this site; test data used once"
    slices = run.recipe.evaluation.validation_slices
    on = f" on at most {slices} slices a site, the same in every round" if slices else ""
    cyclic = federation.schedule == "cyclic"
    score = "PSNR" if run.recipe.task is None else MEASURES[run.recipe.task.kind]
    how = "the last one, as sites take turns" if cyclic else f"by mean validation {score}{on}"
    return f"round {selected} of {federation.rounds}, {how}; test data used once"


def _rounds(run: RunFolder) -> str:
    return f"{'' if run.recipe.training.patience is None else 'at most '}{run.recipe.federation.rounds} rounds"


def _regime(run: RunFolder) -> str:
    """How long arms are trained, the same for all."""
    training, rounds = run.recipe.training, run.recipe.federation.rounds
    ends = f"the same for every trained arm; {training.schedule} learning rate"
    if training.patience is None:
        return f"all {rounds} rounds, {ends}"
    return f"until no improvement of the validation score, patience {training.patience}, {_rounds(run)}, {ends}"


def _who(run: RunFolder) -> str:
    federation = run.recipe.federation
    if federation.participation == 1 and federation.least_work == 1:
        return "at every site"
    return "at most, at the sites that take part in a round,"


def _personal(run: RunFolder) -> str:
    stage = run.recipe.personal
    if not stage.steps:
        return "none"
    return (
        f"{stage.steps} more steps of every site on all parameters after the rounds, in the federated and in the local "
        "arm; used where validation is not worse"
    )


def measurement_text(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Origin of the measurements, from the facts of every site."""
    sites: dict[str, list[str]] = {}
    for name, facts in found.items():
        sites.setdefault(MODALITIES[facts["modality"]].origin(facts), []).append(name)
    return "; ".join(f"{text}: {', '.join(names)}" for text, names in sites.items())


def _bytes(rows: list[Row]) -> dict[str, float]:
    """Mean bytes of the packed messages of all sites in a training round; none of an exported run."""
    training = [row for row in rows if row["n_samples"] is not None]
    rounds = sorted({row["round"] for row in training})
    if not rounds:
        return {}
    return {
        f"{direction}_per_round": fmean(
            sum(row[f"bytes_{direction}"] for row in training if row["round"] == round) for round in rounds
        )
        for direction in ("up", "down")
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _claims(method: str, by_arm: dict[str, Any], arms: list[str], *, unseen: bool) -> list[str]:
    """One line per other arm: mean difference to the method, and the sites where the method is worse.

    ``unseen`` says whether some of the sites did not take part.
    """
    everywhere = "at every site, unseen ones included" if unseen else "at every site"
    lines = []
    for arm in arms:
        if arm == method or "psnr" not in by_arm[arm]["mean"] or "psnr" not in by_arm[method]["mean"]:
            continue
        gain = by_arm[method]["mean"]["psnr"] - by_arm[arm]["mean"]["psnr"]
        sites = by_arm[arm]["sites"]
        gains = {
            name: by_arm[method]["sites"][name]["psnr"] - scores["psnr"]
            for name, scores in sites.items()
            if "psnr" in scores
        }
        worse = [f"{name} ({difference:+.2f} dB)" for name, difference in gains.items() if difference < 0]
        level = "" if all(gains.values()) else "level with it or "
        lost = f"; below it at {', '.join(worse)}" if worse else f"; {level}above it {everywhere}"
        lines.append(f"{method} against {arm}: {gain:+.2f} dB in the mean{lost}")
    return lines
