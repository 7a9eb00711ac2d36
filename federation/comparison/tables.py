"""The tables of a comparison, and what became of the hypotheses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from recon import (
    ComparedTable,
    DataError,
    ScoreRow,
    compare_arms,
    comparison_text,
    metric_card,
    read_scores,
    select_table,
    summarize_arm,
    write_atomically,
    write_comparison,
    write_scores,
)

from ..config import read_json
from ..experiment import Say, measurement_text
from ..recipes import CLASSICAL_ARMS, LOCAL
from .arm_runs import FACTS, TRIAL_SEED, known_of, quiet
from .hypotheses import BEST_FEDERATED, BEST_PERSONAL, CLAIMS
from .presets import FEDERATED_ARMS, PERSONAL_ARMS, VARIANTS, WRONG_OPERATOR
from .published import CLASSICAL_RUN, is_known, write_arms
from .verdicts import judge, short_of_seeds

#: Arms that every other is compared with; without the first there is no table.
REFERENCES = ("fedavg", LOCAL)
#: What to do about a record of the preset that cannot be read.
DAMAGED_PRESET = "the same command with another --out begins with writing one: copy it here"
#: Modality and name of a table.
Key = tuple[str, str]
#: What is known of every run of an arm, by table and arm.
Known = Mapping[Key, Mapping[str, Sequence[Mapping[str, Any]]]]


def write_tables(out: Path, say: Say) -> Path:
    """Write the tables of all arms that were run.

    ``scores.csv``, ``arms.jsonl`` (what is known of every arm), ``beside.json`` (what verdicts need beside the scores),
    ``hypotheses.json``, ``comparison.*``.

    Raises
    ------
    DataError
        If the folder holds no comparison, or no arm was scored.
    """
    if not (out / "preset.json").exists():
        raise DataError(f"{out}: holds no comparison; run one with --out")
    rows, known = _gather(out, say)
    if not rows:
        raise DataError(f"{out}: no arm was scored; run the comparison first")
    write_scores(out / "scores.csv", rows)
    write_arms(out, known)
    preset = read_json(out / "preset.json", DAMAGED_PRESET)
    compared = [_table(key, select_table(rows, *key), arms, preset) for key, arms in sorted(known.items())]
    beside = _all_beside(known)
    write_atomically(out / "beside.json", json.dumps(beside, indent=1).encode())
    hypotheses = judge(rows, beside)
    write_atomically(out / "hypotheses.json", json.dumps(hypotheses, indent=1).encode())
    statements = {claim.key: claim.text for claim in CLAIMS}
    page = write_comparison(out, compared, hypotheses=hypotheses, statements=statements)
    say(comparison_text(compared))
    return page


def small_effects(out: Path) -> dict[Key, set[str]]:
    """Arms by table that take more seeds, as a difference that a claim needs is small; with the table's references."""
    rows, known = _gather(out, quiet)
    try:
        short = short_of_seeds(rows, _all_beside(known))
    except ValueError as error:
        raise DataError(f"{out}: {error}; run what is missing with the same --out") from None
    return {key: {*arms, *(arm for arm in REFERENCES if arm in known[key])} for key, arms in short.items()}


def _gather(out: Path, say: Say) -> tuple[list[ScoreRow], Known]:
    """Scores and facts of all arms, with the seeds that both references have."""
    rows: dict[Key, list[ScoreRow]] = {}
    known: dict[Key, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(out.glob(f"*/*/seed*/*/{FACTS}"), key=lambda path: (len(path.parents[1].name), path)):
        facts = known_of(path.parent)
        scores = path.parent / "scores.csv"
        if "failed" in facts or not scores.exists():
            say(f"left out: {path.parent.relative_to(out)} ({facts.get('failed', 'no scores')})")
            continue
        found = [_rounded(row) for row in read_scores(scores)]
        key = (found[0].modality, found[0].table)
        if not is_known(path.parent.name, facts):
            say(f"left out: {path.parent.relative_to(out)} (run by an older fedrecon; name its recipe to run it again)")
            continue
        runs = known.setdefault(key, {}).setdefault(path.parent.name, [])
        if runs and runs[0]["recipe"] != facts["recipe"]:
            say(f"left out: {path.parent.relative_to(out)} (of another recipe than seed {runs[0]['seed']})")
            continue
        rows.setdefault(key, []).extend(found)
        runs.append({**facts, "seed": found[0].seed})
    complete: list[ScoreRow] = []
    for key in list(known):
        references = [known[key].get(arm) for arm in REFERENCES if arm in known[key] or arm == REFERENCES[0]]
        seeds = set.intersection(*({run["seed"] for run in runs or ()} for runs in references))
        if not seeds:
            say(f"left out: {key[0]}, table '{key[1]}', until its arm {REFERENCES[0]} is there")
            del known[key]
            continue
        complete += _for_seeds(rows[key], seeds)
        known[key] = {
            arm: kept
            for arm, runs in known[key].items()
            if (kept := [run for run in runs if run["seed"] in seeds or arm == CLASSICAL_RUN])
        }
    return complete, known


def _rounded(row: ScoreRow) -> ScoreRow:
    """To 0.0001 dB and six digits: beyond that no score says anything, and other processors give other digits."""
    foreground = row.foreground_ssim
    return replace(
        row,
        psnr=round(row.psnr, 4),
        ssim=round(row.ssim, 6),
        nmse=float(f"{row.nmse:.6g}"),
        foreground_ssim=None if foreground is None else round(foreground, 6),
    )


def _for_seeds(rows: Sequence[ScoreRow], seeds: set[int]) -> list[ScoreRow]:
    """Rows of these seeds; classical methods, in which nothing is drawn, have the same rows for each."""
    drawn = [row for row in rows if row.arm not in CLASSICAL_ARMS and row.seed in seeds]
    return drawn + [
        replace(row, seed=seed) for seed in sorted(seeds) for row in rows if row.arm in CLASSICAL_ARMS and row.seed == 0
    ]


def _all_beside(known: Known) -> dict[str, dict[str, Any]]:
    return {"/".join(key): _beside(arms) for key, arms in sorted(known.items())}


def _beside(arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What verdicts need beside the scores: the arms that are best on validation data, and the bytes of every arm."""
    best = {BEST_PERSONAL: _best(arms, PERSONAL_ARMS), BEST_FEDERATED: _best(arms, FEDERATED_ARMS)}
    sizes = {
        arm: sum(runs[0][way] for way in ("bytes_up", "bytes_down"))
        for arm, runs in arms.items()
        if "bytes_up" in runs[0]
    }
    return {**best, "bytes": sizes}


def _best(arms: Mapping[str, Sequence[Mapping[str, Any]]], among: Sequence[str]) -> str | None:
    """The arm with the best mean validation score, over the seeds that all of them have; those with none are out."""
    scores = {
        arm: {facts["seed"]: facts["validation"] for facts in arms[arm] if facts.get("validation") is not None}
        for arm in among
        if arm in arms
    }
    scores = {arm: found for arm, found in scores.items() if found}
    seeds = set.intersection(*(set(found) for found in scores.values())) if scores else set()
    means = {arm: fmean([found[seed] for seed in seeds]) for arm, found in scores.items() if seeds}
    return max(means, key=lambda arm: means[arm]) if means else None


_SUMMED = ("chosen", "parameters_shared", "parameters_kept", "bytes_up", "bytes_down", "bytes_base", "least_steps",
           "steps", "trials")  # fmt: skip


def _table(
    key: tuple[str, str],
    rows: Sequence[ScoreRow],
    known: Mapping[str, Sequence[Mapping[str, Any]]],
    preset: Mapping[str, Any],
) -> ComparedTable:
    """One table with what is known of its arms."""
    facts: dict[str, dict[str, Any]] = {arm: {} for arm in ("zero_filled", "fbp", "tv")}
    facts = {arm: {} for arm in facts if arm in {row.arm for row in rows}}
    order = [arm["name"] for arm in preset["arms"]]
    for arm in sorted(
        known.keys() - {CLASSICAL_RUN}, key=lambda arm: (order.index(arm) if arm in order else len(order), arm)
    ):
        runs = known[arm]
        entry: dict[str, Any] = {name: runs[0][name] for name in _SUMMED if name in runs[0]}
        entry |= {
            "seconds": min(run["seconds"] for run in runs),
            "peak_memory_mb": max(run["peak_memory_mb"] for run in runs),
        }
        if runs[0].get("label"):
            entry["label"] = runs[0]["label"]
        if flags := _flags(arm, rows, known):
            entry["flags"] = flags
        facts[arm] = entry
    against = [arm for arm in REFERENCES if arm in {row.arm for row in rows}]
    try:
        sites = known[REFERENCES[0]][0].get("sites", {})
        return compare_arms(rows, facts, _card(key, rows, preset, sites), against=against)
    except ValueError as error:
        raise DataError(f"{key[0]}, table '{key[1]}': {error}; run what is missing with the same --out") from None


def _flags(arm: str, rows: Sequence[ScoreRow], known: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What a reader must know of an arm's row."""
    flags, runs = _lost(arm, rows, known), known[arm]
    if any(run["least_steps"] < run["steps"] for run in runs):
        flags.append("sites make unequal steps")
    if any(run["at_end"] for run in runs):
        flags.append("best learning rate is the last one tried")
    if any(run.get("value_at_end") for run in runs):
        flags.append("best value of its own is the last one tried")
    return flags


def _lost(arm: str, rows: Sequence[ScoreRow], known: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Sharpness or contrast that a CT arm lost against TV while PSNR rose: by a tenth, in the mean over its sites.

    Of runs whose quality was not kept it is known what was found then.
    """
    if "tv" not in {row.arm for row in rows} or summarize_arm(rows, arm).mean <= summarize_arm(rows, "tv").mean:
        return []
    tv = known[CLASSICAL_RUN][0].get("quality", {})  # the same for all seeds
    flags = [flag for run in known[arm] if "quality" not in run for flag in run.get("lost", ())]
    for name, text in (("mtf50_lp_per_cm", "MTF"), ("disc_cnr", "contrast to noise")):
        pairs = [
            (measured[arm][name], tv[site]["tv"][name])
            for run in known[arm]
            for site, measured in run.get("quality", {}).items()
            if arm in measured and "tv" in tv.get(site, {})
        ]
        whole = [pair for pair in pairs if None not in pair]
        if whole and fmean(own for own, _ in whole) < 0.9 * fmean(other for _, other in whole):
            flags.append(f"{text} below TV")
    return list(dict.fromkeys(flags))


#: What is wrong in the table of wrong operators.
_WRONG = {
    "mri": "operators with coil maps made of the low frequencies alone",
    "ct": "operators that place the rotation axis half a pixel off",
}


def _card(
    key: tuple[str, str], rows: Sequence[ScoreRow], preset: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    modality, table = key
    budget = preset["budgets"][modality]
    spec = next(entry for entry in preset["tables"] if entry["name"] == table)
    data, drawn = (
        (_given(sites), "data given") if "sites" in preset else (_simulated(key, spec, preset), "data drawn once")
    )
    rounds, steps = budget["rounds"] * spec["steps"], budget["steps_per_round"]
    network = budget["network"]
    return data | {
        "network": f"{network['cascades']} cascades, {network['regularizer']} {network['channels']}x{network['depth']}",
        "steps": f"{rounds * steps} of batch 1 at every site, fine-tuning included unless it is shorter than a round; "
        "some make fewer where sites take turns or work unequally (columns steps, least steps); joint: as many, each "
        "on a batch of every site; sequential: as many per site",
        "learning_rate": f"{budget['learning_rate']:g}, cosine, "
        + (
            f"times the best of {preset['rates']} by validation at seed {TRIAL_SEED}, for every arm, local training "
            "and controls included; half or twice as much is tried too where the best is at an end; a value of a "
            "method's own that its recipe says is tuned, at the best rate"
            if len(preset["rates"]) > 1
            else "the same for all arms; one trial each"
        ),
        "selection": "best round by mean validation PSNR (the last one where sites take turns); test data used once",
        "seconds": "of training, one process with one thread, or the device that a manifest of your own names; the "
        "least of the seeds, which may be of several machines",
        "seeds": f"{_span(rows)} of training; {drawn}",
    }


def _span(rows: Sequence[ScoreRow]) -> str:
    """Fewest and most seeds of an arm."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row.arm, set()).add(row.seed)
    counts = sorted({len(found) for found in seeds.values()})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}, see the column,"


def _simulated(key: tuple[str, str], spec: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, str]:
    """What the card says of the hospitals of a preset."""
    modality, table = key
    size, wrong = preset["size"], table == WRONG_OPERATOR
    kind = ("rss" if wrong else "coil_combined") if modality == "mri" else "attenuation"
    maps = ["low_resolution" if wrong else "espirit"] if modality == "mri" else []
    origin = (
        "phantoms; k-space of the full grid times coil maps, masked, noise added; maps estimated from the kept samples"
        if modality == "mri"
        else "phantoms; projected on a grid twice as fine, three rays per element, counts with electronic noise"
    )
    return metric_card([kind], [(size, size)], maps) | {
        "measurement": origin,
        "size": f"{size}x{size}, {spec['train']} training volumes of {preset['slices']} slices per site"
        + (f"; sites differ in: {table}" if table in VARIANTS else "")
        + (f"; {_WRONG[modality]}" if wrong else ""),
    }


def _given(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the card says of sites of the user's, from what was found when they were scored."""
    kinds = [kind for facts in sites.values() for kind in facts["references"]]
    crops = [tuple(crop) for facts in sites.values() for crop in facts["crops"]]
    maps = [facts["maps"] for facts in sites.values() if "maps" in facts]
    volumes = ", ".join(f"{name} {facts['volumes'].get('train', 0)}" for name, facts in sites.items())
    return metric_card(kinds, crops, maps) | {
        "measurement": measurement_text(sites),
        "size": f"training volumes: {volumes}",
    }
