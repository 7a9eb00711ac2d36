"""Attack a finished run and write the report ``privacy.html``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon import data_error, write_privacy_report

from ..experiment import RunFolder, Say, privacy_of
from ..machine import cores
from ..progress import Part, advanced, begin_parts, duration, log_into
from ..worker_pool import computing_with, run_jobs
from .cases import POSITIVE, Case, cases_of
from .patients import Losses, membership_rows, patient_losses, seconds_of_losses
from .plan import AttackOptions, AttackPlan
from .replay import replayed_round
from .searches import Found, Job, finished, jobs_of, search, seconds_per_step, work_of

#: PSNR in dB from which on the positive control has succeeded.
SUCCESS = 30.0
#: An attack recovers something if it is better than its control and the blank image by so many dB.
MARGIN = 3.0


def attack_run(
    path: Path | str,
    options: AttackOptions | None = None,
    *,
    jobs: int | None = None,
    say: Say,
    sites: Path | str | None = None,
) -> dict[str, Any]:
    """Attack a run and write ``privacy.html``, ``privacy.json`` and ``privacy.csv`` into its folder.

    Finished searches hold pictures and are kept in ``sites/<site>/privacy/``; the same call goes on after an
    interruption.

    Parameters
    ----------
    path
        Folder of a trained run, with the raw data of its sites on this machine.
    jobs
        Searches at a time; None: one for each core that may be used.
    sites
        Folder of the manifests, if it has moved since training.

    Returns
    -------
        The content of ``privacy.json``.

    Raises
    ------
    DataError
        If the folder holds no trained run, raw data are not on this machine, or the options do not fit the run.
    """
    run = RunFolder.open(path, sites)
    run.selected()
    if run.is_exported:
        exported, advice = "a run that a deployed site exported", "attack a run that was trained on this machine"
        raise data_error(Path(path) / "run.json", "exported", exported, "the raw data of all sites", advice)
    plan, private = AttackPlan.of(run, options or AttackOptions()), privacy_of(run)
    log_into(run.path)
    cases, left_out = cases_of(plan)
    searches = jobs_of(plan, cases)
    processes = jobs or max(1, cores())
    members = [(run, m.name) for m in run.participants if m.data.test]
    say(_cost(plan, searches, [name for _, name in members], processes))
    begin_parts([Part([job.name for job in searches])])
    outcomes: dict[str, Found] = {}
    for job, found in zip(searches, run_jobs(search, searches, processes), strict=True):
        outcomes[job.name] = found
        advanced([job.name], 1.0)
        say(f"{job.name}: {found.psnr:.2f} dB, distance of gradients {found.losses[-1][1]:.3f}")
    losses: dict[str, Losses] = {}
    for (_, name), found_losses in zip(members, run_jobs(patient_losses, members, processes), strict=True):
        losses[name] = found_losses
        say(f"membership {name}")
    epsilon = {m.name: private[m.name].planned if m.name in private else None for m in run.participants}
    results = _results(plan, cases, left_out, outcomes, losses, epsilon)
    write_privacy_report(run.path, results, _pictures(plan, cases, outcomes))
    return results


def _cost(plan: AttackPlan, searches: list[Job], members: list[str], processes: int) -> str:
    """What searches and membership inference will take, as measured."""
    left = [job for job in searches if finished(job) is None]
    work = sum(work_of(plan, job) for job in left)
    seconds = seconds_per_step(plan) * plan.steps * work / processes if work else 0.0
    again = f", {kept} of them finished before" if (kept := len(searches) - len(left)) else ""
    with computing_with(1):
        each = [seconds_of_losses(plan.run, name) for name in members]
    inference = max(sum(each) / processes, *each, 0.0)  # one process for each site
    parts = f"about {duration(seconds)}; membership inference about {duration(inference)}"
    return f"{len(searches)} searches of {plan.steps} steps{again}: {parts}; on {processes} processes"


def _results(
    plan: AttackPlan,
    cases: list[Case],
    left_out: Mapping[str, str],
    outcomes: Mapping[str, Found],
    losses: Mapping[str, Losses],
    epsilon: Mapping[str, float | None],
) -> dict[str, Any]:
    rows = [_row(plan, case, number, outcomes) for case in (POSITIVE, *cases) for number in case.targets(plan)]
    positive = [row for row in rows if row["case"] == POSITIVE.key]
    manifest, recipe, replayed = plan.run.manifest(plan.site), plan.run.recipe, replayed_round(plan)
    return {
        "method": recipe.name,
        "site": plan.site,
        "sites_in_sum": list(plan.names),
        "modality": manifest.modality,
        # A picture from a sum shows something of every site in it.
        "synthetic": all(plan.run.manifest(name).synthetic for name in plan.names),
        "matrix": list(plan.sample(plan.site, plan.targets[0]).operator.domain_shape),
        "steps": plan.steps,
        "round": plan.run.selected().round,
        "replayed_round": replayed,
        "optimizer": recipe.training.optimizer,
        "steps_per_round": plan.run.spec(manifest).steps_in(replayed or 0),
        "batch_size": recipe.training.batch_size,
        "secure_sum": recipe.privacy.secure_sum,
        "noise": recipe.privacy.noise() is not None,
        "positive_control": {"bar": SUCCESS, "psnr": [row["psnr"] for row in positive]}
        | {"succeeded": all(row["psnr"] >= SUCCESS for row in positive)},
        "attacks": [row for row in rows if row["case"] != POSITIVE.key],
        "control_row": positive[0],
        "left_out": dict(left_out),
        "membership": membership_rows(losses),
        "epsilon": dict(epsilon),
    }


def _row(plan: AttackPlan, case: Case, number: int, outcomes: Mapping[str, Found]) -> dict[str, Any]:
    attack = outcomes[Job(plan, case.key, number, False).name]
    control = _control(plan, case, number, outcomes)
    scores = {name: value for name, value in attack.scores.items() if name != "blank"}
    inverted = next(iter(scores.values()))
    floor = max(control.psnr, attack.scores["blank"][0])
    verdict = "recovers" if attack.psnr >= floor + MARGIN else "no more than the control"
    if not attack.matched and verdict != "recovers":
        verdict = "not converged"
    return {
        "case": case.key,
        "title": case.title,
        "slice": number,
        "psnr": attack.psnr,
        "ssim": attack.ssim,
        "control_psnr": control.psnr,
        "control_ssim": control.ssim,
        "blank_psnr": attack.scores["blank"][0],
        "blank_ssim": attack.scores["blank"][1],
        "inverted_psnr": inverted[0],
        "inverted_ssim": inverted[1],
        "first_distance": attack.losses[0][1],
        "last_distance": attack.losses[-1][1],
        "distance_at_truth": attack.truth,
        "converged": attack.matched,
        "verdict": verdict,
        "losses": [list(pair) for pair in attack.losses],
        "control_losses": [list(pair) for pair in control.losses],
        "seconds": attack.seconds,
    }


def _control(plan: AttackPlan, case: Case, number: int, outcomes: Mapping[str, Found]) -> Found:
    """The control of a case; of one without, that of an update or of the exact gradient."""
    own = case.key if case.own_control else ("exact_gradient" if case.per_slice else "update")
    return outcomes[Job(plan, own, number, True).name]


def _pictures(plan: AttackPlan, cases: list[Case], outcomes: Mapping[str, Found]) -> list[dict[str, Any]]:
    """Slices as the report shows them: the reference, the attack, its control, the blank start, the inversion."""
    shown = []
    for case in (POSITIVE, *cases):
        for number in case.targets(plan):
            attack, control = outcomes[Job(plan, case.key, number, False).name], _control(plan, case, number, outcomes)
            found = dict(attack.pictures)
            images = {"reference": found.pop("reference"), "attack": found.pop("picture")}
            images |= {"control": control.pictures["picture"]} | found
            shown.append({"name": case.title, "where": f"training slice {number + 1}", "images": images})
    return shown
