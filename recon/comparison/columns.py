"""Columns and legend of a table, the same in text, LaTeX and on the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..report.text import byte_count, duration, number
from .claims import MIN_SEEDS, SEEDS_OF_SMALL_EFFECT, SMALL_EFFECT_DB
from .statistics import Interval
from .table import LEVEL, ArmEntry, ComparedTable

DASH = "–"  # noqa: RUF001 - an en dash
STAR = "\N{BLACK STAR}"
DELTA = "\N{GREEK CAPITAL LETTER DELTA}"


@dataclass(frozen=True)
class Column:
    """A heading, the line below it, and the lines of a cell."""

    head: str
    below: str
    lines: Callable[[ArmEntry], tuple[str, ...]]


def difference_columns(comparison: ComparedTable) -> list[Column]:
    """A column for each reference arm."""
    return [Column(f"{DELTA} {name}", "dB, 95 %", _difference(name)) for name in comparison.against]


def _difference(reference: str) -> Callable[[ArmEntry], tuple[str, ...]]:
    def lines(entry: ArmEntry) -> tuple[str, ...]:
        if (difference := entry.differences.get(reference)) is None:
            return (DASH,)
        star = f" {STAR}" if difference.marked else ""
        return number(difference.interval.found, 2, sign=True) + star, brackets(difference.interval)

    return lines


def brackets(interval: Interval) -> str:
    """The ends of an interval."""
    return f"[{number(interval.low, 2, sign=True)}, {number(interval.high, 2, sign=True)}]"


def summary_columns() -> list[Column]:
    """Mean, worst site and mean SSIM."""
    return [
        Column("mean", "dB", lambda entry: (number(entry.psnr.mean, 2),)),
        Column("worst", "site", lambda entry: (number(entry.psnr.worst, 2), entry.psnr.worst_site)),
        Column("SSIM", "mean", lambda entry: (number(entry.means["ssim"], 3),)),
    ]


def site_columns(comparison: ComparedTable, names: Sequence[str]) -> list[Column]:
    """A column for each of the sites ``names``."""

    def at(site: str) -> Callable[[ArmEntry], tuple[str, ...]]:
        return lambda entry: (number((dict(entry.psnr.sites) | dict(entry.psnr.unseen)).get(site), 2),)

    return [Column(name, "unseen" if name in comparison.unseen else "dB", at(name)) for name in names]


def cost_columns() -> list[Column]:
    """Columns of bytes, time, parameters, trials and seeds."""

    def traveled(entry: ArmEntry) -> tuple[str, ...]:
        base, whole = entry.details.bytes_base, entry.details.bytes
        total = DASH if whole is None else byte_count(whole)
        return (total, f"base {byte_count(base)}") if base else (total,)

    def parameters(entry: ArmEntry) -> tuple[str, ...]:
        shared, kept = entry.details.parameters_shared, entry.details.parameters_kept
        if shared is None and kept is None:
            return (DASH,)
        return f"{whole_number(shared)} /", whole_number(kept)

    def effort(entry: ArmEntry) -> tuple[str, ...]:
        seconds, memory = entry.details.seconds, entry.details.peak_memory_mb
        time = DASH if seconds is None else duration(seconds)
        return (time,) if memory is None else (time, f"{memory:.0f} MB")

    return [
        Column("bytes", "up + down + base", traveled),
        Column("time", "peak memory", effort),
        Column("parameters", "shared / kept", parameters),
        Column("trials", "", lambda entry: (whole_number(entry.details.trials),)),
        Column("seeds", "", lambda entry: (str(entry.psnr.seeds),)),
    ]


def whole_number(value: int | None) -> str:
    """A count with thousands separated."""
    return DASH if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def chosen_by(entry: ArmEntry) -> str:
    """Values that tuning chose for an arm."""
    chosen = entry.details.chosen.items()
    return ", ".join(f"{name} {f'{value:g}' if isinstance(value, float) else value}" for name, value in chosen)


def selected_rounds(entry: ArmEntry) -> str:
    """Selected round of the rounds made, per training of the arm."""
    curves = entry.details.curves
    if len(curves) == 1:
        return f"{curves[0].selected} of {curves[0].rounds}"
    return "; ".join(f"{curve.name} {curve.selected} of {curve.rounds}" for curve in curves)


def legend_of(comparison: ComparedTable) -> str:
    """How to read a table, in text, LaTeX and on the page."""
    single = any(entry.psnr.seeds == 1 for entry in comparison.arms)
    text = (
        f"Each site counts equally; worst is over the sites that took part. {DELTA}: paired difference in PSNR with "
        f"its 95 % interval over subjects and seeds. {STAR}: p < {LEVEL:g} after Holm's correction over the "
        f"{len(comparison.arms) - 1} other arms, only with at least {MIN_SEEDS} seeds, {SEEDS_OF_SMALL_EFFECT} where "
        f"the difference is below {SMALL_EFFECT_DB:g} dB."
    )
    return text + (" The interval of an arm with one seed covers subjects only." if single else "")


def card_lines(comparison: ComparedTable) -> list[str]:
    """The metric card, one line per entry."""
    return [f"{str(key).replace('_', ' ')}: {value}" for key, value in comparison.metric_card.items()]
