"""Write the tables of a comparison, and the verdicts on its hypotheses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from recon import (
    ArmDetails,
    ComparedTable,
    DataError,
    LearningCurve,
    ScoreRow,
    compare,
    comparison_text,
    read_scores,
    select_table,
    summarize_arm,
    write_atomically,
    write_comparison,
    write_scores,
)

from ..config import read_json
from ..experiment import Say
from ..recipes import LOCAL, classical_arms
from .arm_result import RESULT_FILE, ArmResult
from .arm_runs import quiet
from .card import card_of
from .changed import CHANGED
from .hypotheses import BEST_FEDERATED, BEST_PERSONAL, Claim, claims_of
from .presets import FEDERATED_ARMS, PERSONAL_ARMS, TINY
from .published import CLASSICAL_RUN, HYPOTHESES, Results, write_arms
from .verdicts import judge, short_of_seeds
from .worth import worth_of_joining

#: Reference arms; a table needs the first.
REFERENCES = ("fedavg", LOCAL)
#: Advice for a preset.json that cannot be read.
DAMAGED_PRESET = "the same command with another --out begins with writing one: copy it here"
#: Modality and name of a table.
Key = tuple[str, str]
#: Results of one table by arm and seed.
ByArm = Mapping[str, Mapping[int, ArmResult]]


def write_tables(out: Path, say: Say) -> Path:
    """Write the tables of all arms that have run; returns the page.

    Files are ``scores.csv``, ``arms.jsonl`` (results), ``beside.json`` (selected arms and bytes, which verdicts need
    beside the scores), ``hypotheses.json`` where claims were registered, and ``comparison.*``.

    Raises
    ------
    DataError
        If the folder holds no comparison, or no arm was scored.
    """
    if not (out / "preset.json").exists():
        raise DataError(f"{out}: holds no comparison; run one with --out")
    rows, results = _gather(out, say)
    if not rows:
        raise DataError(f"{out}: no arm was scored; run the comparison first")
    write_scores(out / "scores.csv", rows)
    write_arms(out, results)
    preset = read_json(out / "preset.json", DAMAGED_PRESET)
    compared = [_table(key, select_table(rows, *key), arms, preset) for key, arms in sorted(results.items())]
    beside = _all_beside(results)
    write_atomically(out / "beside.json", json.dumps(beside, indent=1).encode())
    claims = _registered(preset)
    hypotheses = judge(rows, beside, claims) if claims else {}
    if claims:
        write_atomically(out / HYPOTHESES, json.dumps(hypotheses, indent=1).encode())
    else:
        (out / HYPOTHESES).unlink(missing_ok=True)
    statements = {claim.key: claim.text for claim in claims}
    worth = worth_of_joining(rows, preset)
    page = write_comparison(out, compared, hypotheses=hypotheses, statements=statements, worth=worth)
    say(comparison_text(compared, worth=worth))
    return page


def _registered(preset: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Claims that were registered for a preset: none at own sites, with changed values, or for a trial of minutes."""
    name: str = preset["name"]
    return () if "sites" in preset or name == TINY or name.endswith(CHANGED) else claims_of(name)


def small_effects(out: Path) -> dict[Key, set[str]]:
    """Arms by table that need more seeds, as a claim rests on a small difference; with the table's references."""
    rows, results = _gather(out, quiet)
    claims = _registered(read_json(out / "preset.json", DAMAGED_PRESET))
    try:
        short = short_of_seeds(rows, _all_beside(results), claims)
    except ValueError as error:
        raise DataError(f"{out}: {error}; run what is missing with the same --out") from None
    return {key: {*arms, *(arm for arm in REFERENCES if arm in results[key])} for key, arms in short.items()}


def _gather(out: Path, say: Say) -> tuple[list[ScoreRow], Results]:
    """Scores and results of all arms, with the seeds that both references have."""
    rows: dict[Key, list[ScoreRow]] = {}
    results: dict[Key, dict[str, dict[int, ArmResult]]] = {}
    for folder in _folders_by_seed(out):
        result, scores = ArmResult.read(folder), folder / "scores.csv"
        if result is None or result.failed is not None or not scores.exists():
            reason = "no scores" if result is None or result.failed is None else result.failed
            say(f"left out: {folder.relative_to(out)} ({reason})")
            continue
        found = [_rounded(row) for row in read_scores(scores)]
        key, seed, arm = (found[0].modality, found[0].table), found[0].seed, folder.name
        if result.missing and arm != CLASSICAL_RUN:
            say(f"left out: {folder.relative_to(out)} (run by an older fedrecon; name its recipe to run it again)")
            continue
        by_seed = results.setdefault(key, {}).setdefault(arm, {})
        first = next(iter(by_seed), seed)
        if by_seed and by_seed[first].recipe != result.recipe:
            say(f"left out: {folder.relative_to(out)} (of another recipe than seed {first})")
            continue
        rows.setdefault(key, []).extend(found)
        by_seed[seed] = result
    return _of_common_seeds(rows, results, say)


def _folders_by_seed(out: Path) -> list[Path]:
    """Folders of all arms that have run, seed 2 before seed 10."""
    paths = out.glob(f"*/*/seed*/*/{RESULT_FILE}")
    return [path.parent for path in sorted(paths, key=lambda path: (len(path.parents[1].name), path))]


def _of_common_seeds(
    rows: Mapping[Key, Sequence[ScoreRow]], results: Results, say: Say
) -> tuple[list[ScoreRow], Results]:
    """Scores and results of the seeds that both references have; tables without the first reference are left out."""
    complete: list[ScoreRow] = []
    whole: dict[Key, dict[str, Mapping[int, ArmResult]]] = {}
    for key, arms in results.items():
        references = [arms.get(arm, {}) for arm in REFERENCES if arm in arms or arm == REFERENCES[0]]
        seeds = set.intersection(*(set(by_seed) for by_seed in references))
        if not seeds:
            say(f"left out: {key[0]}, table '{key[1]}', until its arm {REFERENCES[0]} is there")
            continue
        complete += _for_seeds(rows[key], seeds)
        kept = {
            arm: {seed: result for seed, result in by_seed.items() if seed in seeds or arm == CLASSICAL_RUN}
            for arm, by_seed in arms.items()
        }
        whole[key] = {arm: by_seed for arm, by_seed in kept.items() if by_seed}
    return complete, whole


def _rounded(row: ScoreRow) -> ScoreRow:
    """Scores to 0.0001 dB and six digits; further digits differ between processors."""
    foreground = row.foreground_ssim
    return replace(
        row,
        psnr=round(row.psnr, 4),
        ssim=round(row.ssim, 6),
        nmse=float(f"{row.nmse:.6g}"),
        foreground_ssim=None if foreground is None else round(foreground, 6),
    )


def _for_seeds(rows: Sequence[ScoreRow], seeds: set[int]) -> list[ScoreRow]:
    """Rows of these seeds; deterministic classical methods have the same rows for every seed."""
    classical = classical_arms()
    drawn = [row for row in rows if row.arm not in classical and row.seed in seeds]
    return drawn + [
        replace(row, seed=seed) for seed in sorted(seeds) for row in rows if row.arm in classical and row.seed == 0
    ]


def _all_beside(results: Results) -> dict[str, dict[str, Any]]:
    return {"/".join(key): _beside(arms) for key, arms in sorted(results.items())}


def _beside(arms: ByArm) -> dict[str, Any]:
    """Arms that are best on validation data, and bytes of every arm: verdicts need them beside the scores."""
    best = {BEST_PERSONAL: _best(arms, PERSONAL_ARMS), BEST_FEDERATED: _best(arms, FEDERATED_ARMS)}
    sizes = {}
    for arm, by_seed in arms.items():
        first = _first(by_seed)
        if first.bytes_up is not None and first.bytes_down is not None:
            sizes[arm] = first.bytes_up + first.bytes_down
    return {**best, "bytes": sizes}


def _first(by_seed: Mapping[int, ArmResult]) -> ArmResult:
    return next(iter(by_seed.values()))


def _best(arms: ByArm, among: Sequence[str]) -> str | None:
    """The arm with the best mean validation score over the seeds that all have; arms without any score are left out."""
    scores = {
        arm: {seed: result.validation for seed, result in arms[arm].items() if result.validation is not None}
        for arm in among
        if arm in arms
    }
    scores = {arm: found for arm, found in scores.items() if found}
    seeds = set.intersection(*(set(found) for found in scores.values())) if scores else set()
    means = {arm: fmean([found[seed] for seed in seeds]) for arm, found in scores.items() if seeds}
    return max(means, key=lambda arm: means[arm]) if means else None


def _table(key: Key, rows: Sequence[ScoreRow], results: ByArm, preset: Mapping[str, Any]) -> ComparedTable:
    """One table: classical methods, then the arms in the order of the preset."""
    scored = {row.arm for row in rows}
    details: dict[str, ArmDetails] = {arm: ArmDetails() for arm in ("zero_filled", "fbp", "tv") if arm in scored}
    trained = results.keys() - {CLASSICAL_RUN}
    in_preset = dict.fromkeys(arm["name"] for arm in preset["arms"])
    for arm in [*(arm for arm in in_preset if arm in trained), *sorted(trained - in_preset.keys())]:
        details[arm] = _details(arm, rows, results)
    against = [arm for arm in REFERENCES if arm in scored]
    try:
        sites = _first(results[REFERENCES[0]]).sites or {}
        return compare(rows, details, card_of(key, rows, preset, sites), against=against)
    except ValueError as error:
        raise DataError(f"{key[0]}, table '{key[1]}': {error}; run what is missing with the same --out") from None


def _details(arm: str, rows: Sequence[ScoreRow], results: ByArm) -> ArmDetails:
    """Values of the first seed; the fewest seconds and most memory of all seeds."""
    runs = list(results[arm].values())
    own = ("flags", "curves")
    known = {each.name: getattr(runs[0], each.name) for each in fields(ArmDetails) if each.name not in own}
    known["curves"] = tuple(LearningCurve(**curve) for curve in runs[0].curves or ())
    known["seconds"] = min(run.seconds for run in runs if run.seconds is not None)
    known["peak_memory_mb"] = max(run.peak_memory_mb for run in runs if run.peak_memory_mb is not None)
    known["label"] = known["label"] or ""
    return ArmDetails(**known, flags=tuple(_flags(arm, rows, results)))


def _flags(arm: str, rows: Sequence[ScoreRow], results: ByArm) -> list[str]:
    """Warnings beside the name of an arm."""
    flags, runs = _lost(arm, rows, results), results[arm].values()
    # Sites that train alone end by their own scores; their learning curves show it.
    if arm != LOCAL and any(run.least_steps != run.steps for run in runs):
        flags.append("sites make unequal steps")
    if any(run.at_end for run in runs):
        flags.append("best learning rate is the last one tried")
    if any(run.value_at_end for run in runs):
        flags.append("best value of its own is the last one tried")
    return flags


def _lost(arm: str, rows: Sequence[ScoreRow], results: ByArm) -> list[str]:
    """Sharpness or contrast that a CT arm lost against TV while PSNR rose: by a tenth, in the mean over its sites.

    Results without quality hold the flags that were found when they were published.
    """
    if "tv" not in {row.arm for row in rows} or summarize_arm(rows, arm).mean <= summarize_arm(rows, "tv").mean:
        return []
    tv = _first(results[CLASSICAL_RUN]).quality or {}  # the same for all seeds
    runs = list(results[arm].values())
    flags = [flag for run in runs if run.quality is None for flag in run.lost or ()]
    for name, text in (("mtf50_lp_per_cm", "MTF"), ("disc_cnr", "contrast to noise")):
        pairs = [
            (measured[arm][name], tv[site]["tv"][name])
            for run in runs
            for site, measured in (run.quality or {}).items()
            if arm in measured and "tv" in tv.get(site, {})
        ]
        whole = [(own, other) for own, other in pairs if own is not None and other is not None]
        if whole and fmean(own for own, _ in whole) < 0.9 * fmean(other for _, other in whole):
            flags.append(f"{text} below TV")
    return list(dict.fromkeys(flags))
