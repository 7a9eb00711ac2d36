"""Metric cards of the tables of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from recon import ScoreRow, metric_card

from ..experiment import measurement_text
from .anatomy_sites import ANATOMY_SITES
from .arm_runs import TRIAL_SEED
from .hospitals import HOSPITALS, VARIANTS
from .presets import WRONG_OPERATOR


def card_of(
    key: tuple[str, str], rows: Sequence[ScoreRow], preset: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """The metric card of a table: data, network, steps, tuning and seeds.

    Parameters
    ----------
    key
        Modality and name of the table.
    preset
        From :meth:`Preset.described`.
    sites
        Metadata of scoring by site; needed for the user's own sites.
    """
    modality, table = key
    budget = preset["budgets"][modality]
    spec = next(entry for entry in preset["tables"] if entry["name"] == table)
    if "sites" in preset:
        data, drawn = _given(sites), "data given"
    elif "persons" in preset:
        data, drawn = _of_persons(modality, spec, preset), "data drawn once"
    else:
        data, drawn = _simulated(key, spec, preset), "data drawn once"
    rounds, steps = budget["rounds"] * spec["steps"], budget["steps_per_round"]
    network, patience = budget["network"], budget.get("patience")
    if patience is not None:
        data["regime"] = (
            f"every arm trains until no improvement of its validation score, patience {patience} rounds of {steps} "
            f"steps, at most {rounds} rounds; local training by the score of its site"
        )
    return data | {
        "network": f"{network['cascades']} cascades, {network['regularizer']} {network['channels']}x{network['depth']}",
        "steps": ("" if patience is None else "at most ")
        + f"{rounds * steps} of batch 1 at every site, fine-tuning included unless it is shorter than a round; "
        "some make fewer where sites take turns or work unequally (columns steps, least steps); joint: as many, each "
        "on a batch of every site; sequential: as many per site",
        "learning_rate": f"{budget['learning_rate']:g}, {budget.get('schedule', 'cosine')}, "
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
    """Entries of the metric card about simulated hospitals."""
    modality, table = key
    size, wrong = preset["size"], table == WRONG_OPERATOR
    hospitals = HOSPITALS[modality]
    kind, maps = hospitals.reference, hospitals.maps
    if wrong:
        kind, maps = hospitals.wrong_reference, hospitals.wrong_maps
    return metric_card([kind], [(size, size)], list(maps)) | {
        "measurement": hospitals.origin,
        "size": f"{size}x{size}, {spec['train']} training volumes of {preset['slices']} slices per site"
        + (f"; sites differ in: {table}" if table in VARIANTS else "")
        + (f"; {hospitals.mistake}" if wrong else ""),
    }


def _given(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Entries of the metric card about the user's own sites, from the metadata of scoring."""
    kinds = [kind for site in sites.values() for kind in site["references"]]
    crops = [tuple(crop) for site in sites.values() for crop in site["crops"]]
    maps = [site["maps"] for site in sites.values() if "maps" in site]
    volumes = ", ".join(f"{name} {site['volumes'].get('train', 0)}" for name, site in sites.items())
    return metric_card(kinds, crops, maps) | {
        "measurement": measurement_text(sites),
        "size": f"training volumes: {volumes}",
    }


def _of_persons(modality: str, spec: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, str]:
    """Entries of the metric card about sites of real anatomy."""
    size, hospitals = preset["size"], HOSPITALS[modality]
    sites = ANATOMY_SITES[modality]
    slices = sites.slices_of(spec["by_site"] or [spec["train"]] * len(sites.names))
    counts = f"{slices[0]} at each of {len(sites.names)} sites"
    if len(set(slices)) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in zip(sites.names, slices, strict=True))
    return metric_card([hospitals.reference], [(size, size)], list(hospitals.maps)) | {
        "measurement": sites.origin,
        "size": f"{size}x{size}; training slices: {counts}",
        "persons": sites.persons,
        "sites": "equal scanners, the unseen one apart" if spec["by_site"] else "another scanner and contrast at each",
    }
