"""What joining is worth: the number of local slices with which local training reaches the federated score."""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from recon import ScoreRow, select_table, summarize_arm

from ..recipes import LOCAL

#: The federated arm, of these the first that ran, and its name in the text.
_JOINED = {"finetune": "FedAvg with fine-tuning", "fedavg": "FedAvg"}


def slices_to_reach(score: float, local: Mapping[int, float]) -> float:
    """The fewest slices with which local training reaches a score, interpolated in the logarithm of the slices.

    Parameters
    ----------
    local
        Score of local training by number of slices.

    Returns
    -------
        0 if the fewest slices are more than enough, infinity if the most are too few.
    """
    counts = sorted(local)
    if score <= local[counts[0]]:
        return 0.0 if score < local[counts[0]] else float(counts[0])
    for few, many in itertools.pairwise(counts):
        if local[many] >= score:
            part = (score - local[few]) / (local[many] - local[few])
            return float(2 ** (math.log2(few) + part * math.log2(many / few)))
    return math.inf


def worth_of_joining(rows: Sequence[ScoreRow], preset: Mapping[str, Any]) -> list[str]:
    """A sentence for each modality and number of slices of a comparison at sites of real anatomy; else none.

    Scores are means over the sites that train. The range is that of the training seeds that all tables have.
    """
    if "persons" not in preset:
        return []
    names = {spec["train"]: spec["name"] for spec in preset["tables"] if not spec["by_site"]}
    sentences = []
    for modality in preset["budgets"]:
        tables = {count: select_table(rows, modality, name) for count, name in sorted(names.items())}
        local = {count: found for count, table in tables.items() if (found := _by_seed(table, LOCAL))}
        if len(local) < 2:
            continue
        for count in local:
            arm = next((arm for arm in _JOINED if _by_seed(tables[count], arm)), None)
            if arm is not None:
                joined = _by_seed(tables[count], arm)
                seeds = set.intersection(set(joined), *(set(found) for found in local.values()))
                if seeds:
                    sentences.append(_sentence(modality, count, _JOINED[arm], joined, local, sorted(seeds)))
    return sentences


def _by_seed(table: Sequence[ScoreRow], arm: str) -> dict[int, float]:
    own = [row for row in table if row.arm == arm]
    seeds = sorted({row.seed for row in own})
    return {seed: summarize_arm([row for row in own if row.seed == seed], arm).mean for seed in seeds}


def _sentence(
    modality: str,
    count: int,
    name: str,
    joined: Mapping[int, float],
    local: Mapping[int, Mapping[int, float]],
    seeds: Sequence[int],
) -> str:
    """In words, with the scores from which it follows."""
    means = {slices: fmean(found[seed] for seed in seeds) for slices, found in local.items()}
    score = fmean(joined[seed] for seed in seeds)
    single = [slices_to_reach(joined[seed], {n: found[seed] for n, found in local.items()}) for seed in seeds]
    ends = [_count(value, local) for value in (min(single), max(single))]
    spread = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds: {ends[0]} to {ends[1]}"
    scores = ", ".join(f"{value:.2f}" for value in means.values())
    return (
        f"{modality.upper()}, {count} slices a site: joining is worth {_count(slices_to_reach(score, means), local)} "
        f"slices of one's own ({spread}). {name} scores {score:.2f} dB; local training scores {scores} dB with "
        f"{', '.join(map(str, means))} slices."
    )


def _count(slices: float, local: Mapping[int, Any]) -> str:
    if slices < min(local):
        return f"< {min(local)}"
    return f"> {max(local)}" if math.isinf(slices) else f"{slices:.0f}"
