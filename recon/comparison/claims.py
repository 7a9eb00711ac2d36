"""Claims about a difference, and the verdict that its interval gives.

No claim is decided with fewer than 3 seeds, nor a difference below 0.5 dB with fewer than 8.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from .statistics import Interval

Verdict = Literal["holds", "fails", "undecided"]

#: Fewest seeds that decide a difference, and one below ``SMALL_EFFECT_DB``.
MIN_SEEDS = 3
SEEDS_OF_SMALL_EFFECT = 8
SMALL_EFFECT_DB = 0.5


@dataclass(frozen=True)
class Aim:
    """Differences in dB that satisfy a claim: ``low`` to ``high``; ``strict`` excludes these two."""

    text: str
    low: float = -math.inf
    high: float = math.inf
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"Aim: {self.text!r} reaches from {self.low} to {self.high}, expected low <= high")

    @classmethod
    def at_least(cls, bound: float) -> Self:
        """Difference >= bound."""
        return cls(f">= {_signed(bound)} dB", low=bound)

    @classmethod
    def above(cls, bound: float) -> Self:
        """Difference > bound."""
        return cls(f"> {_signed(bound)} dB", low=bound, strict=True)

    @classmethod
    def at_most(cls, bound: float) -> Self:
        """Difference <= bound."""
        return cls(f"<= {_signed(bound)} dB", high=bound)

    @classmethod
    def between(cls, low: float, high: float) -> Self:
        """Low <= difference <= high."""
        return cls(f"{_signed(low)} .. {_signed(high)} dB", low=low, high=high)

    @classmethod
    def loss_within(cls, bound: float) -> Self:
        """Difference >= -bound: a loss of at most ``bound``, any gain."""
        return cls(f"loss <= {bound:g} dB", low=-bound)

    @classmethod
    def about_zero(cls, margin: float) -> Self:
        """Equivalence: absolute difference <= margin."""
        return cls(f"about 0 (within {margin:g} dB)", low=-margin, high=margin)

    @classmethod
    def none(cls) -> Self:
        """No claim: the difference is only reported."""
        return cls("none")


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def seeds_needed(interval: Interval) -> int:
    """Number of seeds that decide a difference of this size."""
    return SEEDS_OF_SMALL_EFFECT if abs(interval.found) < SMALL_EFFECT_DB else MIN_SEEDS


def decide(interval: Interval, aim: Aim) -> tuple[Verdict, str]:
    """Verdict, and the reason if it does not follow from the interval.

    ``"holds"`` if the whole interval satisfies the aim, ``"fails"`` if no part of it does, else ``"undecided"``; also
    undecided with fewer seeds than :func:`seeds_needed`, and without a claim.
    """
    if aim.low == -math.inf and aim.high == math.inf:
        return "undecided", "nothing was claimed"
    if interval.seeds < (needed := seeds_needed(interval)):
        effect = f" for an effect below {SMALL_EFFECT_DB:g} dB" if needed > MIN_SEEDS else ""
        return "undecided", f"{interval.seeds} of at least {needed} seeds{effect}"
    above, below = interval.low - aim.low, aim.high - interval.high
    if min(above, below) > 0 or (not aim.strict and min(above, below) == 0):
        return "holds", ""
    over, under = interval.low - aim.high, aim.low - interval.high
    if max(over, under) > 0 or (aim.strict and max(over, under) == 0):
        return "fails", ""
    return "undecided", ""


@dataclass(frozen=True)
class Hypothesis:
    """A claim that was registered before the runs, and the difference that was found."""

    aim: Aim
    interval: Interval
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """``aim, found, interval, seeds, verdict``, and ``note`` unless it is empty."""
        verdict, reason = decide(self.interval, self.aim)
        note = "; ".join(text for text in (reason, self.interval.note, self.note) if text)
        return {
            "aim": self.aim.text,
            "found": self.interval.found,
            "interval": [self.interval.low, self.interval.high],
            "seeds": self.interval.seeds,
            "verdict": verdict,
        } | ({"note": note} if note else {})
