"""The tables of a comparison, and what became of the hypotheses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from recon import (
    ComparedTable,
    DataError,
    Hypothesis,
    ScoreRow,
    compare_arms,
    comparison_text,
    metric_card,
    paired_difference,
    read_scores,
    select_table,
    summarize_arm,
    write_atomically,
    write_comparison,
    write_scores,
)

from .arm_jobs import TRIAL_SEED
from .experiment import Say
from .hypotheses import BEST_PERSONAL, CLAIMS, Claim
from .presets import PERSONAL_ARMS, VARIANTS, WRONG_OPERATOR
from .recipe_tables import LOCAL


def write_tables(out: Path, say: Say) -> Path:
    """Write the tables of all arms that were run: ``scores.csv``, ``hypotheses.json``, ``comparison.*``.

    Raises
    ------
    DataError
        If the folder holds no comparison, or no arm was scored.
    """
    if not (out / "preset.json").exists():
        raise DataError(f"{out}: holds no comparison; run one with --out")
    rows: list[ScoreRow] = []
    facts: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(out.glob("*/*/seed*/*/facts.json")):
        known = json.loads(path.read_text())
        scores = path.parent / "scores.csv"
        if not scores.exists():
            say(f"left out: {path.parent.relative_to(out)} ({known.get('failed', 'no scores')})")
            continue
        found = read_scores(scores)
        rows += found
        key = (found[0].modality, found[0].table)
        facts.setdefault(key, {}).setdefault(path.parent.name, []).append(known)
    for key in [key for key in facts if "fedavg" not in facts[key]]:
        say(f"left out: {key[0]}, table '{key[1]}', until its arm fedavg is there")
        rows = [row for row in rows if (row.modality, row.table) != key]
        del facts[key]
    if not rows:
        raise DataError(f"{out}: no arm was scored; run the comparison first")
    write_scores(out / "scores.csv", rows)
    preset = json.loads((out / "preset.json").read_text())
    compared = [_table(key, select_table(rows, *key), known, preset) for key, known in sorted(facts.items())]
    best = {key: _best_personal(known) for key, known in facts.items()}
    named = {"/".join(key): arm for key, arm in best.items() if arm is not None}
    write_atomically(out / "best_personal.json", json.dumps(named, indent=1).encode())
    hypotheses = judge(rows, best)
    write_atomically(out / "hypotheses.json", json.dumps(hypotheses, indent=1).encode())
    statements = {claim.key: claim.text for claim in CLAIMS}
    page = write_comparison(out, compared, hypotheses=hypotheses, statements=statements)
    say(comparison_text(compared))
    return page


def judge(rows: Sequence[ScoreRow], best: Mapping[tuple[str, str], str | None]) -> dict[str, dict[str, Any]]:
    """Every claim whose arms were run, by hypothesis and modality.

    Parameters
    ----------
    rows
        Scores of all tables.
    best
        By modality and table the personalized arm with the best validation score.
    """
    found: dict[str, dict[str, Any]] = {}
    for claim in CLAIMS:
        for modality in claim.modalities:
            table = select_table(rows, modality, claim.table)
            arm, reference = (_named(name, best.get((modality, claim.table))) for name in (claim.arm, claim.reference))
            if arm is None or reference is None or not {arm, reference} <= {row.arm for row in table}:
                continue
            found.setdefault(claim.key, {})[modality] = _judged(claim, table, arm, reference)
    return found


def _named(name: str, best: str | None) -> str | None:
    return best if name == BEST_PERSONAL else name


def _judged(claim: Claim, table: Sequence[ScoreRow], arm: str, reference: str) -> dict[str, Any]:
    sites = sorted({row.site for row in table if row.unseen}) if claim.unseen else None
    interval = paired_difference(table, arm, reference, sites=sites)
    note = f"{arm} less {reference}" if BEST_PERSONAL in (claim.arm, claim.reference) else ""
    return Hypothesis(claim.aim, interval, note).to_json()


def _best_personal(known: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """The personalized arm with the best mean validation score."""
    scores = {
        arm: fmean([facts["validation"] for facts in known[arm]])
        for arm in PERSONAL_ARMS
        if arm in known and all(facts.get("validation") is not None for facts in known[arm])
    }
    return max(scores, key=lambda arm: scores[arm]) if scores else None


_SUMMED = ("chosen", "parameters_shared", "parameters_kept", "bytes_up", "bytes_down", "bytes_base", "steps", "trials")


def _table(
    key: tuple[str, str],
    rows: Sequence[ScoreRow],
    known: Mapping[str, Sequence[Mapping[str, Any]]],
    preset: Mapping[str, Any],
) -> ComparedTable:
    """One table with what is known of its arms."""
    facts: dict[str, dict[str, Any]] = {arm: {} for arm in ("zero_filled", "fbp", "tv", LOCAL)}
    facts = {arm: {} for arm in facts if arm in {row.arm for row in rows}}
    order = [arm["name"] for arm in preset["arms"]]
    for arm in sorted(known, key=lambda arm: (order.index(arm) if arm in order else len(order), arm)):
        runs = known[arm]
        entry: dict[str, Any] = {name: runs[0][name] for name in _SUMMED if name in runs[0]}
        entry |= {name: fmean([run[name] for run in runs]) for name in ("seconds", "peak_memory_mb")}
        if runs[0].get("label"):
            entry["label"] = runs[0]["label"]
        if flags := _flags(arm, rows, runs, known["fedavg"]):
            entry["flags"] = flags
        facts[arm] = entry
    against = [arm for arm in ("fedavg", LOCAL) if arm in {row.arm for row in rows}]
    try:
        return compare_arms(rows, facts, _card(key, rows, preset), against=against)
    except ValueError as error:
        raise DataError(f"{key[0]}, table '{key[1]}': {error}; run what is missing with the same --out") from None


def _flags(
    arm: str,
    rows: Sequence[ScoreRow],
    runs: Sequence[Mapping[str, Any]],
    classical: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Sharpness or contrast that a CT arm lost against TV while PSNR rose: by a tenth, in the mean over its sites.

    ``classical`` are the runs that scored TV, the same at every training seed.
    """
    tv = classical[0].get("quality", {})
    if "tv" not in {row.arm for row in rows} or summarize_arm(rows, arm).mean <= summarize_arm(rows, "tv").mean:
        return []
    flags = []
    for name, text in (("mtf50_lp_per_cm", "MTF"), ("disc_cnr", "contrast to noise")):
        pairs = [
            (measured[arm][name], tv[site]["tv"][name])
            for run in runs
            for site, measured in run.get("quality", {}).items()
            if arm in measured and "tv" in tv.get(site, {})
        ]
        known = [pair for pair in pairs if None not in pair]
        if known and fmean(own for own, _ in known) < 0.9 * fmean(other for _, other in known):
            flags.append(f"{text} below TV")
    return flags


#: What is wrong in the table of wrong operators.
_WRONG = {
    "mri": "operators with coil maps made of the low frequencies alone",
    "ct": "operators that place the rotation axis half a pixel off",
}


def _card(key: tuple[str, str], rows: Sequence[ScoreRow], preset: Mapping[str, Any]) -> dict[str, str]:
    modality, table = key
    budget, size = preset["budgets"][modality], preset["size"]
    spec = next(entry for entry in preset["tables"] if entry["name"] == table)
    wrong = table == WRONG_OPERATOR
    kind = ("rss" if wrong else "coil_combined") if modality == "mri" else "attenuation"
    maps = ["low_resolution" if wrong else "espirit"] if modality == "mri" else []
    origin = (
        "phantoms; k-space of the full grid times coil maps, masked, noise added; maps estimated from the kept samples"
        if modality == "mri"
        else "phantoms; projected on a grid twice as fine, three rays per element, counts with electronic noise"
    )
    rounds, steps = budget["rounds"] * spec["steps"], budget["steps_per_round"]
    network = budget["network"]
    return metric_card([kind], [(size, size)], maps) | {
        "measurement": origin,
        "size": f"{size}x{size}, {spec['train']} training volumes of {preset['slices']} slices per site"
        + (f"; sites differ in: {table}" if table in VARIANTS else "")
        + (f"; {_WRONG[modality]}" if wrong else ""),
        "network": f"{network['cascades']} cascades, {network['regularizer']} {network['channels']}x{network['depth']}",
        "steps": f"{rounds * steps} of batch 1 at every site in every federated and local arm, fine-tuning included "
        "unless it is shorter than a round (column steps); joint: as many, each on a batch of every site; sequential: "
        "as many per site",
        "learning_rate": f"{budget['learning_rate']:g}, cosine, "
        + (
            f"times the best of {preset['rates']} by validation at seed {TRIAL_SEED}, each arm its own"
            if len(preset["rates"]) > 1
            else "the same for all arms; one trial each"
        ),
        "selection": "best round by mean validation PSNR; test data used once",
        "seeds": f"{len({row.seed for row in rows})} of training; data drawn once",
    }
