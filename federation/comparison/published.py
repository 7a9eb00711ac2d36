"""Published tables: scores and results of a comparison without networks, from which another comparison can go on."""

import gzip
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from recon import DataError, ScoreRow, data_error, read_scores, write_atomically, write_scores

from ..config import Name, Section, read_json
from ..recipes import NetworkSection, classical_arms
from .arm_result import ArmResult, explained
from .arms import Budget
from .plan import table_folder

#: Results by modality and table, by arm and by seed.
Results = Mapping[tuple[str, str], Mapping[str, Mapping[int, ArmResult]]]
#: File with the results of all arms: a line per arm and seed.
ARMS_FILE = "arms.jsonl"
#: Arm that scores all classical methods.
CLASSICAL_RUN = "classical"
#: Files with scores, packed and plain, and the files published beside them.
_SCORES = ("scores.csv.gz", "scores.csv")
HYPOTHESES = "hypotheses.json"
_FILES = ("preset.json", ARMS_FILE, "beside.json", HYPOTHESES,
          "comparison.csv", "comparison.json", "comparison.tex")  # fmt: skip
_ADVICE = "choose results that are whole"


class ArmRecord(Section):
    """One line of :data:`ARMS_FILE`: an arm of a table with one seed, the digest of its method, and its result."""

    modality: str
    table: str
    arm: Name
    seed: Annotated[int, Field(ge=0)]
    recipe: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    facts: dict[str, Any]

    @property
    def result(self) -> ArmResult:
        """The result, with the digest."""
        return replace(ArmResult.from_json(self.facts), recipe=self.recipe)

    @model_validator(mode="after")
    def _complete(self) -> "ArmRecord":
        if (missing := self.result.missing) and self.arm != CLASSICAL_RUN:
            raise ValueError(f"the result of a trained arm lacks {', '.join(missing)}")
        return self


def write_arms(out: Path, results: Results) -> None:
    """Write the results of all arms, without metadata of the sites, which is long."""
    lines = []
    for (modality, table), arms in sorted(results.items()):
        for arm, by_seed in sorted(arms.items()):
            for seed, result in by_seed.items():
                facts = replace(result, sites=None, recipe=None).to_json()
                record = ArmRecord(
                    modality=modality, table=table, arm=arm, seed=seed, recipe=result.recipe or "", facts=facts
                )
                lines.append(record.model_dump_json() + "\n")
    write_atomically(out / ARMS_FILE, "".join(lines).encode())


@dataclass(frozen=True)
class Published:
    """Published arms with their scores."""

    arms: tuple[tuple[ArmRecord, tuple[ScoreRow, ...]], ...]

    def put(self, out: Path, modalities: Collection[str]) -> int:
        """Write arms of these modalities that a comparison's folder lacks; returns their number."""
        count = 0
        for record, scores in self.arms:
            folder = out / record.modality / table_folder(record.table) / f"seed{record.seed}" / record.arm
            found = ArmResult.read(folder)
            if record.modality in modalities and (found is None or found.failed is not None):
                write_scores(folder / "scores.csv", scores)
                record.result.write(folder)
                count += 1
        return count


def require_place(out: Path, folder: Path, preset: Mapping[str, Any], modalities: Collection[str]) -> None:
    """Check that a comparison may be published in a folder, before anything is trained; create the folder.

    Parameters
    ----------
    preset
        From :meth:`federation.comparison.preset.Preset.described`.
    modalities
        Modalities in which the comparison may still gain arms.

    Raises
    ------
    DataError
        If the comparison has the user's own sites, the folder cannot be created or holds anything but tables of the
        same preset, or these tables have arms of other modalities that the comparison lacks.
    """
    if "sites" in preset:
        raise DataError(
            f"{out}: is a comparison of your own sites, and its scores name their volumes; expected a comparison at "
            "simulated hospitals, only these are published"
        )
    if folder.resolve() == out.resolve():
        raise DataError(f"{folder}: is the folder of the comparison; choose another for the published tables")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be a folder of tables ({error.strerror}); choose another") from None
    if others := [name for name in there if name not in (*_FILES, *_SCORES)]:
        raise DataError(f"{folder}: holds {others[0]}, which is no published table; choose another folder")
    if not there:
        return
    if not (folder / "preset.json").exists():
        raise DataError(
            f"{folder}: has no preset.json, so it is unknown which preset made its tables; choose another folder"
        )
    _require_preset(folder, preset, "tables", "choose another folder")
    lost = {arm for arm in _arms_in(folder / ARMS_FILE) - _arms_in(out / ARMS_FILE) if arm[0] not in modalities}
    if lost:
        modality, table, arm, seed = min(lost)
        what = f"{len(lost)} arms" if len(lost) > 1 else "an arm"
        raise DataError(
            f"{folder}: holds {what} that {out} lacks or leaves out ({arm}, seed {seed}, {modality}, {table!r}); go on "
            "from them with --from, without --modality, or choose another folder"
        )


def publish(out: Path, folder: Path) -> int:
    """Copy the tables of a comparison, without networks, to a folder that :func:`read_published` reads.

    Scores are packed. Older tables of the same preset are replaced.

    Returns
    -------
        Number of arms.

    Raises
    ------
    DataError
        As :func:`require_place`, for arms of every modality.
    """
    require_place(out, folder, read_json(out / "preset.json", _ADVICE), ())
    arms = _arms_in(out / ARMS_FILE)
    # The preset is written first: after an interruption the folder still counts as tables of this preset.
    for name in _FILES:
        if name == HYPOTHESES and not (out / name).exists():
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomically(folder / name, (out / name).read_bytes())
    packed, plain = (folder / name for name in _SCORES)
    write_atomically(packed, gzip.compress((out / "scores.csv").read_bytes(), mtime=0))
    plain.unlink(missing_ok=True)
    return len(arms)


def _require_preset(folder: Path, preset: Mapping[str, Any], what: str, advice: str) -> None:
    """Refuse tables of another preset, or of another version of it."""
    found = read_json(folder / "preset.json", advice)
    if without_seeds(found) != without_seeds(preset):
        raise DataError(
            f"{folder}: holds {what} of the preset {found.get('name')!r}, expected those of {preset['name']!r} as it "
            f"is now; {advice}"
        )


def _arms_in(path: Path) -> set[tuple[str, str, str, int]]:
    lines = path.read_bytes().splitlines() if path.exists() else ()
    records = (_record(path, number, line) for number, line in enumerate(lines, 1))
    return {(record.modality, record.table, record.arm, record.seed) for record in records}


def read_published(folder: Path, preset: Mapping[str, Any]) -> Published:
    """Read published tables.

    Raises
    ------
    DataError
        If they belong to another preset, or a file is missing or cannot be used.
    """
    packed, plain = (folder / name for name in _SCORES)
    scores_file = packed if packed.is_file() else plain
    for path in (folder / "preset.json", scores_file, folder / ARMS_FILE):
        if not path.is_file():
            raise DataError(
                f"{folder}: has no {path.name}; choose the folder of a comparison, or of its published tables"
            )
    _require_preset(folder, preset, "results", "choose the --preset of the results, or other results")
    tables = {table["name"] for table in preset["tables"]}
    rows: dict[tuple[str, str, str, int], list[ScoreRow]] = {}
    for row in read_scores(scores_file):
        arm = CLASSICAL_RUN if row.arm in classical_arms() else row.arm
        rows.setdefault((row.modality, row.table, arm, row.seed), []).append(row)
    arms = []
    volumes: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for number, line in enumerate((folder / ARMS_FILE).read_bytes().splitlines(), 1):
        record = _record(folder / ARMS_FILE, number, line)
        if record.modality not in preset["budgets"] or record.table not in tables:
            found_table = f"table {record.table!r} of {record.modality!r}"
            raise data_error(
                folder / ARMS_FILE, f"line {number}", found_table, f"one of the preset: {sorted(tables)}", _ADVICE
            )
        scores = rows.get((record.modality, record.table, record.arm, record.seed), [])
        scored = {(row.site, row.volume) for row in scores}
        if scored != volumes.setdefault((record.modality, record.table), scored) or not scored:
            where = f"{record.arm}, seed {record.seed}, {record.modality}, {record.table}"
            raise data_error(scores_file, where, f"scores of {len(scored)} volumes", "those of the other arms", _ADVICE)
        arms.append((record, tuple(scores)))
    return Published(tuple(arms))


def without_seeds(preset: Mapping[str, Any]) -> dict[str, Any]:
    """A preset without defaults, and without the numbers of seeds, which do not change the scores of an arm."""
    plain = {name: value for name, value in preset.items() if name != "small_effect_seeds"}
    tables = [{name: value for name, value in table.items() if name != "seeds"} for table in preset.get("tables", ())]
    budgets = {
        modality: Budget.chosen(budget) | {"network": NetworkSection.chosen(budget["network"])}
        for modality, budget in preset.get("budgets", {}).items()
    }
    return plain | {"tables": tables, "budgets": budgets}


def _record(path: Path, number: int, line: bytes) -> ArmRecord:
    try:
        return ArmRecord.model_validate_json(line)
    except ValidationError as error:
        raise data_error(path, f"line {number}", explained(error), "the record of an arm", _ADVICE) from None
