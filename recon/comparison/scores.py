"""Scores per volume as rows in memory and in a CSV file, and their means per arm."""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import DataError, data_error
from ..evaluation import METRICS
from ..files import write_atomically

#: Metrics of a row: those that need a reference.
ROW_METRICS = tuple(name for name in METRICS if name != "residual")


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one test volume by one trained arm. Every subject has one volume.

    ``modality`` and ``table`` (``"together"``, ``"noise only"`` ...) name the table of the row; rows of different
    tables are never compared. ``seed`` is the seed of the training run, common to all sites; ``unseen`` marks a site
    that did not train.

    Raises
    ------
    ValueError
        If a name has several lines or a score is not finite.
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
        for name in ROW_METRICS:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                where = f"{self.arm} at {self.site}, volume {self.volume}, seed {self.seed}"
                raise ValueError(
                    f"ScoreRow: {name} is {value} ({where}), expected a finite score; leave the volume out"
                )


_COLUMNS = tuple(field.name for field in fields(ScoreRow))


def write_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Write rows as CSV, one line each, floats with all digits. The file names volumes, so it stays at their sites.

    Raises
    ------
    DataError
        If the file cannot be written; an older file is then kept.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        scores = ("" if getattr(row, name) is None else repr(float(getattr(row, name))) for name in ROW_METRICS)
        unseen = "true" if row.unseen else "false"
        writer.writerow([row.modality, row.table, row.arm, int(row.seed), row.site, unseen, row.volume, *scores])
    write_atomically(path, text.getvalue().encode("utf-8"))


def read_scores(path: Path) -> list[ScoreRow]:
    """Read the file of :func:`write_scores`, bit for bit; its columns may have any order.

    A name that ends in ``.gz`` is unpacked.

    Raises
    ------
    DataError
        If the file cannot be read, a column is unknown or missing, or a value is invalid: with file and line.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is no whole gzip file ({error}); pack what write_scores makes anew") from None
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

    for name in ROW_METRICS:
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
    """Modality and name of every table among the rows, in the order of their first rows."""
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
    """Means of one arm: per site over volumes and seeds, then over the sites that took part with equal weights."""

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
    """Summarize one arm of one table; mean and worst site leave out unseen sites.

    Raises
    ------
    ValueError
        If the arm has no scores at sites that took part, or the rows belong to several tables.
    """
    own = [row for row in rows if row.arm == arm]
    scores = arm_scores(own, arm, metric)
    took_part, unseen = site_roles(own)
    if not took_part:
        raise ValueError(f"scores: arm {arm!r} has no score at a site that took part, expected at least one")
    means = {site: _mean(value for (where, _, _), value in scores.items() if where == site) for site in took_part}
    apart = {site: _mean(value for (where, _, _), value in scores.items() if where == site) for site in unseen}
    pick = min if METRICS[metric] > 0 else max
    return ArmSummary(
        means, apart, _mean(means.values()), pick(means, key=means.__getitem__), len({seed for _, _, seed in scores})
    )


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def arm_scores(rows: Iterable[ScoreRow], arm: str, metric: str = "psnr") -> dict[tuple[str, str, int], float]:
    """Scores of an arm by site, volume and seed; a repeated row counts once."""
    if metric not in ROW_METRICS:
        raise ValueError(f"scores: metric is {metric!r}, expected one of {list(ROW_METRICS)}")
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
