"""Arms of a comparison as one file beside its scores: with both, another comparison goes on where this one ended."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from recon import DataError, ScoreRow, data_error, read_scores, write_atomically, write_scores

from .arm_jobs import FACTS, RECIPE
from .comparison_plan import slug
from .recipe_tables import CLASSICAL_ARMS
from .records import read_json
from .tables import Name, Table

#: Name of the file: an arm, with one seed, a line.
ARMS = "arms.jsonl"
_ADVICE = "choose results that are whole"
#: Name of the arm that scores all classical methods.
CLASSICAL_RUN = "classical"


class ArmRecord(Table):
    """One line of the file: an arm of a table with one seed, the digest of its recipe, and what is known of it."""

    modality: Annotated[str, Field(pattern="^(mri|ct)$")]
    table: str
    arm: Name
    seed: Annotated[int, Field(ge=0)]
    recipe: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    facts: dict[str, Any]


def write_arms(
    out: Path,
    known: Mapping[tuple[str, str], Mapping[str, Sequence[Mapping[str, Any]]]],
    lost: Callable[[tuple[str, str], str], Sequence[str]],
) -> None:
    """Write what is known of every arm, by modality and table and by arm; ``lost`` tells what a CT arm lost there."""
    lines = []
    for key, arms in sorted(known.items()):
        for arm, runs in sorted(arms.items()):
            for run in runs:
                # What was measured at each site is long, and of the classical methods alone it is asked again.
                left_out = {"seed", "sites", "recipe"} | (set() if arm == CLASSICAL_RUN else {"quality"})
                facts = {name: value for name, value in run.items() if name not in left_out}
                if arm != CLASSICAL_RUN:
                    facts["lost"] = list(lost(key, arm))
                record = ArmRecord(
                    modality=key[0], table=key[1], arm=arm, seed=run["seed"], recipe=run["recipe"], facts=facts
                )
                lines.append(record.model_dump_json() + "\n")
    write_atomically(out / ARMS, "".join(lines).encode())


def go_on_from(published: Path, out: Path) -> int:
    """Put the arms of published results into a comparison's folder, but for those that it has; how many.

    Raises
    ------
    DataError
        If the results are of another preset, or a file of theirs is missing or cannot be used.
    """
    for name in ("preset.json", "scores.csv", ARMS):
        if not (published / name).is_file():
            raise DataError(
                f"{published}: has no {name}; choose the folder of a comparison, or of its published tables"
            )
    if read_json(published / "preset.json", _ADVICE) != read_json(out / "preset.json", _ADVICE):
        raise DataError(f"{published}: holds results of another preset; choose those of the same one")
    rows: dict[tuple[str, str, str, int], list[ScoreRow]] = {}
    for row in read_scores(published / "scores.csv"):
        arm = CLASSICAL_RUN if row.arm in CLASSICAL_ARMS else row.arm
        rows.setdefault((row.modality, row.table, arm, row.seed), []).append(row)
    records = [_record(published / ARMS, *line) for line in enumerate((published / ARMS).read_text().splitlines(), 1)]
    missing = []
    for record in records:
        scores = rows.get((record.modality, record.table, record.arm, record.seed))
        if scores is None:
            found, expected = f"no scores of {record.arm}", f"some with seed {record.seed} in {record.table}"
            raise data_error(published / "scores.csv", record.modality, found, expected, _ADVICE)
        folder = out / record.modality / slug(record.table) / f"seed{record.seed}" / record.arm
        if not (folder / FACTS).exists():
            missing.append((folder, record, scores))
    for folder, record, scores in missing:
        write_scores(folder / "scores.csv", scores)
        write_atomically(folder / RECIPE, record.recipe.encode())
        write_atomically(folder / FACTS, json.dumps({**record.facts, "recipe": record.recipe}, indent=1).encode())
    return len(missing)


def _record(path: Path, number: int, line: str) -> ArmRecord:
    try:
        return ArmRecord.model_validate_json(line)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, entry['loc']))} {entry['msg']}" for entry in error.errors())
        raise data_error(path, f"line {number}", found, "the record of an arm", _ADVICE) from None
