"""Scores per volume as a flat table, paired differences with 95 % intervals, and what they decide.

The rules are those of the comparison protocol: subjects are resampled within sites, crossed with seeds; nothing is
decided with fewer than 3 seeds, nor an effect below 0.5 dB with fewer than 8.
"""

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from .errors import DataError, data_error
from .files import write_atomically

Array = npt.NDArray[np.float64]
Verdict = Literal["holds", "fails", "undecided"]

#: The metrics of a row; less is better for the error, more for the others.
METRICS = ("psnr", "ssim", "nmse", "foreground_ssim")
MIN_SEEDS = 3
#: Seeds that an effect below ``SMALL_EFFECT_DB`` takes.
SEEDS_OF_SMALL_EFFECT = 8
SMALL_EFFECT_DB = 0.5


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one test volume, one volume per subject, by one trained arm.

    ``modality`` and ``table`` (``"together"``, ``"noise only"`` ...) name the table that the row belongs to; rows of
    different tables are never compared. ``seed`` numbers the training run, which all sites share; ``unseen`` marks
    a site that took part in nothing.

    Raises
    ------
    ValueError
        If a name is not a single line or a score is not finite.
    """

    modality: str
    table: str
    arm: str
    seed: int
    site: str
    unseen: bool
    volume: str
    psnr: float
    ssim: float
    nmse: float
    foreground_ssim: float | None = None

    def __post_init__(self) -> None:
        for name in ("modality", "table", "arm", "site", "volume"):
            text = getattr(self, name)
            if text.splitlines() != [text]:
                raise ValueError(f"ScoreRow: {name} is {text!r}, expected a name on one line")
        for name in METRICS:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                where = f"{self.arm} at {self.site}, volume {self.volume}, seed {self.seed}"
                raise ValueError(
                    f"ScoreRow: {name} is {value} ({where}), expected a finite score; leave the volume out"
                )


_COLUMNS = tuple(field.name for field in fields(ScoreRow))


def write_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Write rows as CSV, one line each, floats with all their digits; the file stays where the volumes are.

    Raises
    ------
    DataError
        If the file cannot be written; what stood there before is then left as it was.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        scores = ("" if getattr(row, name) is None else repr(float(getattr(row, name))) for name in METRICS)
        unseen = "true" if row.unseen else "false"
        writer.writerow([row.modality, row.table, row.arm, int(row.seed), row.site, unseen, row.volume, *scores])
    write_atomically(path, text.getvalue().encode("utf-8"))


def read_scores(path: Path) -> list[ScoreRow]:
    """Read what :func:`write_scores` wrote, bit for bit; columns may stand in any order.

    Raises
    ------
    DataError
        If the file cannot be read, a column is unknown or missing, or a value does not fit: with file and line.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); write_scores makes it") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text, expected a table of scores; write_scores makes it") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        columns = next(reader, [])
        if sorted(columns) != sorted(_COLUMNS):
            raise data_error(path, "line 1", f"columns {columns}", f"{list(_COLUMNS)}", "rename or remove columns")
        for values in reader:
            rows.append(_parsed(path, reader.line_num, columns, values))
    except csv.Error as error:
        raise data_error(
            path, f"line {reader.line_num}", str(error), "comma-separated values", "mend the line"
        ) from None
    return rows


def _parsed(path: Path, line: int, columns: Sequence[str], values: Sequence[str]) -> ScoreRow:
    if len(values) != len(columns):
        raise data_error(path, f"line {line}", f"{len(values)} values", f"{len(columns)}", "mend the line")
    parsed: dict[str, Any] = dict(zip(columns, values, strict=True))

    def bad(name: str, expected: str) -> DataError:
        return data_error(path, f"line {line}: {name}", repr(parsed[name]), expected, "mend the line")

    for name in METRICS:
        if name == "foreground_ssim" and parsed[name] == "":
            parsed[name] = None
            continue
        try:
            parsed[name] = float(parsed[name])
        except ValueError:
            raise bad(name, "a number") from None
    try:
        parsed["seed"] = int(parsed["seed"])
    except ValueError:
        raise bad("seed", "a whole number") from None
    if parsed["unseen"] not in ("true", "false"):
        raise bad("unseen", "true or false")
    parsed["unseen"] = parsed["unseen"] == "true"
    try:
        return ScoreRow(**parsed)
    except ValueError as error:
        raise DataError(f"{path}: line {line}: {error}") from None


def tables_of(rows: Iterable[ScoreRow]) -> list[tuple[str, str]]:
    """Modality and table of every table among the rows, in the order of their first rows."""
    return list(dict.fromkeys((row.modality, row.table) for row in rows))


def select_table(rows: Iterable[ScoreRow], modality: str, table: str) -> list[ScoreRow]:
    """The rows of one table."""
    return [row for row in rows if (row.modality, row.table) == (modality, table)]


def site_roles(rows: Iterable[ScoreRow]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the sites that took part, and of the unseen ones, each sorted.

    Raises
    ------
    ValueError
        If rows disagree about a site.
    """
    roles = {(row.site, row.unseen) for row in rows}
    took_part = tuple(sorted(site for site, unseen in roles if not unseen))
    unseen = tuple(sorted(site for site, unseen in roles if unseen))
    if both := sorted(set(took_part) & set(unseen)):
        raise ValueError(f"scores: sites {both} are unseen in some rows and took part in others, expected one of them")
    return took_part, unseen


# One arm


@dataclass(frozen=True)
class ArmSummary:
    """Means of one arm: per site over its volumes and seeds, then over the sites that took part, each equal."""

    sites: Mapping[str, float]
    unseen: Mapping[str, float]
    mean: float
    worst_site: str
    seeds: int

    @property
    def worst(self) -> float:
        """The mean of the worst site that took part."""
        return self.sites[self.worst_site]


def summarize_arm(rows: Iterable[ScoreRow], arm: str, metric: str = "psnr") -> ArmSummary:
    """Summarize one arm of one table; unseen sites stand apart from the mean and the worst site.

    Raises
    ------
    ValueError
        If the arm has no scores at sites that took part, or the rows are not of one table.
    """
    own = [row for row in rows if row.arm == arm]
    scores = _scores(own, arm, metric)
    took_part, unseen = site_roles(own)
    if not took_part:
        raise ValueError(f"scores: arm {arm!r} has no score at a site that took part, expected at least one")
    means = {site: _mean(value for (where, _, _), value in scores.items() if where == site) for site in took_part}
    apart = {site: _mean(value for (where, _, _), value in scores.items() if where == site) for site in unseen}
    pick = max if metric == "nmse" else min
    return ArmSummary(
        means, apart, _mean(means.values()), pick(means, key=means.__getitem__), len({seed for _, _, seed in scores})
    )


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def _scores(rows: Iterable[ScoreRow], arm: str, metric: str) -> dict[tuple[str, str, int], float]:
    """Scores of an arm by site, volume and seed; a row that stands twice counts once."""
    if metric not in METRICS:
        raise ValueError(f"scores: metric is {metric!r}, expected one of {list(METRICS)}")
    own = [row for row in rows if row.arm == arm]
    if not own:
        raise ValueError(f"scores: no row of arm {arm!r}; evaluate it or leave it out")
    if len(tables := tables_of(own)) > 1:
        raise ValueError(f"scores: rows are of the tables {tables}, expected one table; select_table picks it")
    scores: dict[tuple[str, str, int], float] = {}
    for row in own:
        where = f"{arm} at {row.site}, volume {row.volume}, seed {row.seed}"
        value = getattr(row, metric)
        if value is None:
            raise ValueError(f"scores: {metric} is missing for {where}; evaluate it or compare another metric")
        if scores.setdefault((row.site, row.volume, row.seed), value) != value:
            raise ValueError(f"scores: {where} stands twice with different {metric}; keep the row that is right")
    return scores


# Two arms


@dataclass(frozen=True)
class Interval:
    """A mean paired difference with its 95 % interval and two-sided p-value.

    ``seeds`` and ``subjects`` (over all ``sites``) are what was resampled: with one seed the interval covers subjects
    only. ``note`` says so, and whatever else the interval does not cover.
    """

    found: float
    low: float
    high: float
    p_value: float
    seeds: int
    subjects: int
    sites: tuple[str, ...]
    metric: str = "psnr"
    note: str = ""


def paired_difference(
    rows: Iterable[ScoreRow],
    arm: str,
    reference: str,
    metric: str = "psnr",
    sites: Collection[str] | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    r"""Mean difference ``arm - reference``: over sites, each equal, of the mean over volumes and seeds.

    The differences :math:`d_{kvs}` of site, volume and seed are resampled as volumes within sites, crossed with
    seeds [O]_: a draw is :math:`\sum_s w_s \frac1K \sum_k \sum_v u_{kv} d_{kvs}`. Sites stay: the claim is about them.
    A seed is one training run that all sites share, so a draw takes the same seeds at every site.

    The interval runs from the 2.5 to the 97.5 % quantile of the draws. Two things keep it at its level with few
    subjects or seeds, where the plain percentile interval is too narrow [H]_: where 3 seeds dominate it covers 75 %,
    as it never reaches beyond the least and the largest of them, which BCa does not either.

    - counts :math:`c` of a resample of :math:`n` become the weights
      :math:`(1 + \sqrt{n/(n-1)}\,(c - 1)) / n`, which makes the variance of the draws unbiased [R]_;
    - a draw's deviation from the mean is divided by :math:`\sqrt{\chi^2_\nu / \nu}`, as Student's t divides a normal
      deviate, with :math:`\nu` by Welch and Satterthwaite from the variances of seeds and of each site's subjects.

    Simulated coverage is 93 to 96 % where subjects, seeds or both vary (1 to 5 sites, 4 to 20 subjects, 1, 3 or 8
    seeds), 89 % for 6 strongly skewed subjects or where a site with 2 subjects dominates, and more than 96 % where
    single trainings on single subjects vary most: crossed resampling counts that more than once [O]_.

    ``p_value`` is two-sided from the same draws: the smallest level whose interval leaves out zero,
    :math:`2 \min(\#\{\le 0\}, \#\{\ge 0\})` plus one each, over draws plus one [D]_.

    Parameters
    ----------
    rows
        Scores of one table. Their order does not matter, and a row that stands twice counts once.
    sites
        By default those that took part.
    draws, seed
        How many draws, and the seed of their generator. Arms with the same volumes and seeds are resampled alike.

    Raises
    ------
    ValueError
        If a pair is missing. The seeds of one arm may be a part of the other's; the interval's note then says so.

    References
    ----------
    .. [O] Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007.
    .. [H] Hesterberg, What teachers should know about the bootstrap, The American Statistician 69, 2015.
    .. [R] Rao and Wu, Resampling inference with complex survey data, JASA 83, 1988.
    .. [D] Davison and Hinkley, Bootstrap Methods and their Application, 1997, ch. 4.
    """
    own = [row for row in rows if row.arm in (arm, reference)]
    if len(tables := tables_of(own)) > 1:
        raise ValueError(f"scores: rows are of the tables {tables}, expected one table; select_table picks it")
    names = tuple(sorted(set(site_roles(own)[0] if sites is None else sites)))
    differences, note = _pairs(own, arm, reference, metric, names)
    found = float(np.mean([part.mean() for part in differences]))
    seeds = differences[0].shape[1]
    notes = [note] if note else []
    if seeds == 1:
        notes.append("one seed: the interval covers subjects only")
    if single := [name for name, part in zip(names, differences, strict=True) if len(part) == 1]:
        notes.append(f"one subject at {', '.join(single)}: the interval does not cover the spread there")
    deviations = _deviations(differences, draws, seed)
    low, high, p_value = found, found, 1.0
    if deviations is not None:
        drawn = found + deviations
        low, high = (float(bound) for bound in np.quantile(drawn, (0.025, 0.975)))
        fewer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        p_value = min(1.0, 2 * (fewer + 1) / (draws + 1))
    subjects = sum(len(part) for part in differences)
    return Interval(found, low, high, p_value, seeds, subjects, names, metric, "; ".join(notes))


def _pairs(
    rows: Sequence[ScoreRow], arm: str, reference: str, metric: str, sites: Sequence[str]
) -> tuple[list[Array], str]:
    """Differences per site, ``(volumes, seeds)``, all in sorted order, and a note about seeds that were left out."""
    who = f"paired_difference: {arm} - {reference}"
    first, second = _scores(rows, arm, metric), _scores(rows, reference, metric)
    if not sites:
        raise ValueError(f"{who}: no site took part, expected at least one; name the sites")
    seeds_of = [{seed for site, _, seed in scores if site in sites} for scores in (first, second)]
    common = seeds_of[0] & seeds_of[1]
    # One arm may have been run with fewer seeds; two that only overlap were not run as one experiment.
    if not common or common not in seeds_of:
        raise ValueError(
            f"{who}: seeds are {sorted(seeds_of[0])} and {sorted(seeds_of[1])} at {list(sites)}, "
            "expected the same, or those of one among the other's; run the missing ones"
        )
    missing, parts = [], []
    for site in sites:
        volumes = sorted({volume for scores in (first, second) for where, volume, _ in scores if where == site})
        if not volumes:
            missing.append(f"every volume at {site}")
        keys = [[(site, volume, seed) for seed in sorted(common)] for volume in volumes]
        for name, scores in ((arm, first), (reference, second)):
            lacking = [key for line in keys for key in line if key not in scores]
            missing += [f"{name} at {site}, volume {volume}, seed {seed}" for _, volume, seed in lacking]
        if not missing:
            parts.append(np.array([[first[key] - second[key] for key in line] for line in keys], dtype=np.float64))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"{who}: missing are {'; '.join(missing[:3])}{more}; evaluate them or leave the site out")
    larger = max(seeds_of, key=len)
    return parts, f"{len(common)} of {len(larger)} seeds in common" if larger != common else ""


def _deviations(differences: Sequence[Array], draws: int, seed: int) -> Array | None:
    """Resampled mean less the mean, with Student's tails; None where nothing was repeated."""
    n_sites, n_seeds = len(differences), differences[0].shape[1]
    centered = [part - part.mean() for part in differences]
    by_seed: Array = np.mean([part.mean(axis=0) for part in centered], axis=0)
    # What varies on its own, as its contribution to the mean over sites.
    factors = [by_seed, *(part.mean(axis=1) / n_sites for part in centered)]
    repeated = [values for values in factors if len(values) > 1]
    if not repeated:
        return None
    freedom = np.array([len(values) - 1 for values in repeated], dtype=np.float64)
    variances = np.array([values.var(ddof=1) / len(values) for values in repeated])
    # Without any variance every number of degrees of freedom gives the same.
    relative = variances / variances.max() if variances.any() else np.ones_like(variances)
    nu = relative.sum() ** 2 / (relative**2 / freedom).sum()
    *of_subjects, of_seeds = _weights((*(len(part) for part in centered), n_seeds), draws, seed)
    per_seed = np.zeros((draws, n_seeds))
    for weights, part in zip(of_subjects, centered, strict=True):
        per_seed += weights @ part / n_sites
    tails = np.random.default_rng((seed, 1)).chisquare(nu, draws) / nu
    deviations: Array = (per_seed * of_seeds).sum(axis=1) / np.sqrt(tails)
    return deviations


# Drawing is nearly all of the work, and a table compares many arms on the same volumes.
@lru_cache(maxsize=4)
def _weights(sizes: tuple[int, ...], draws: int, seed: int) -> tuple[Array, ...]:
    """Weights of resampled units, ``(draws, size)`` for each size; each line sums to one."""
    rng = np.random.default_rng((seed, 0))
    weights = []
    for n in sizes:
        counts = rng.multinomial(n, np.full(n, 1 / n), size=draws)
        # A single unit is always drawn once.
        weights.append((1 + math.sqrt(n / max(n - 1, 1)) * (counts - 1)) / n)
        weights[-1].setflags(write=False)
    return tuple(weights)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for how many there are; at a level, those below it wrongly reject any with that probability.

    The i-th smallest of m is multiplied by m - i + 1, then by none less than one before it, at most 1.

    Raises
    ------
    ValueError
        If a value is not from 0 to 1.

    References
    ----------
    .. [1] Holm, A simple sequentially rejective multiple test procedure, Scandinavian J. of Statistics 6, 1979.
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for rank, (name, value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if not 0 <= value <= 1:
            raise ValueError(f"holm: p-value of {name} is {value}, expected 0 to 1")
        least = min(1.0, max(least, (len(p_values) - rank) * value))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


# What was claimed


@dataclass(frozen=True)
class Aim:
    """The differences that satisfy a claim: ``low`` to ``high``, without these two where ``strict``."""

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
    def within(cls, bound: float) -> Self:
        """Absolute difference <= bound."""
        return cls(f"within {bound:g} dB", low=-bound, high=bound)

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
        """Nothing was claimed: the difference is reported."""
        return cls("none")


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def seeds_needed(interval: Interval) -> int:
    """How many seeds it takes to decide an effect of the size that was found."""
    small = interval.metric == "psnr" and abs(interval.found) < SMALL_EFFECT_DB
    return SEEDS_OF_SMALL_EFFECT if small else MIN_SEEDS


def verdict(interval: Interval, aim: Aim) -> Verdict:
    """``"holds"`` if the whole interval satisfies the aim, ``"fails"`` if no part of it does, else ``"undecided"``.

    Also undecided with fewer seeds than :func:`seeds_needed`, and where nothing was claimed.
    """
    return _judge(interval, aim)[0]


def _judge(interval: Interval, aim: Aim) -> tuple[Verdict, str]:
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
    """A claim that was registered, and what was found."""

    aim: Aim
    interval: Interval
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """As :func:`verdict`."""
        return verdict(self.interval, self.aim)

    def to_json(self) -> dict[str, Any]:
        """``aim, found, interval, seeds, verdict``, and ``note`` where there is something to say."""
        note = "; ".join(text for text in (_judge(self.interval, self.aim)[1], self.interval.note, self.note) if text)
        return {
            "aim": self.aim.text,
            "found": self.interval.found,
            "interval": [self.interval.low, self.interval.high],
            "seeds": self.interval.seeds,
            "verdict": self.verdict,
        } | ({"note": note} if note else {})
