"""The result of an arm: one record, stored beside the arm and published with its scores."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from recon import DataError, LearningCurve, write_atomically

from ..config import read_json

#: File with the result of an arm, written last: an arm that has it is done.
RESULT_FILE = "facts.json"
_ADVICE = "delete it, and the arm is run again"
#: Fields that the tables need of every trained arm; ``value`` may be None.
_NEEDED = ("rate", "tuning", "trials", "at_end", "value_at_end", "chosen", "seconds", "peak_memory_mb", "steps",
           "least_steps")  # fmt: skip


def _readable(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records, if each is that of a learning curve."""
    try:
        for record in curves:
            _CURVE.validate_python(record)
    except ValidationError:
        expected = ", ".join(each.name for each in fields(LearningCurve))
        raise ValueError(f"Input should be learning curves, each with {expected}") from None
    return curves


_CURVE = TypeAdapter(LearningCurve)


@dataclass(frozen=True)
class ArmResult:
    """Everything known of an arm of one table with one seed after it ran, beside its scores. None: unknown."""

    __pydantic_config__ = ConfigDict(strict=True, revalidate_instances="always")

    failed: str | None = None  # why the arm could not be run, on one line
    parameters_shared: int | None = None
    parameters_kept: int | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    bytes_base: int | None = None  # of a frozen base, sent to every site once
    steps: int | None = None  # optimizer steps of the site with the most
    least_steps: int | None = None
    selected_steps: int | None = None  # the same up to the selected round, of the site with the most
    curves: Annotated[list[dict[str, Any]], AfterValidator(_readable)] | None = None  # see recon.LearningCurve
    seconds: float | None = None  # of training, as is the memory
    peak_memory_mb: float | None = None
    rate: float | None = None  # factor on the learning rate
    value: int | None = None  # number of the tuned value; None with a rate: the recipe's own value
    tuning: dict[str, Any] | None = None  # tuned key and values, as in the recipe
    trials: int | None = None
    at_end: bool | None = None  # whether the best learning rate is the smallest or largest tried
    value_at_end: bool | None = None
    chosen: dict[str, Any] | None = None  # learning rate and tuned value by key of the recipe
    label: str | None = None  # purpose of the arm
    validation: float | None = None  # mean score over the sites that train
    quality: dict[str, dict[str, dict[str, float | None]]] | None = None  # of CT images, by site and arm
    lost: list[str] | None = None  # flags of lost quality, in published tables without quality
    sites: dict[str, dict[str, Any]] | None = None  # metadata of scans and scoring by site; not published
    recipe: str | None = None  # digest of the method, see Recipe.method_digest
    order: tuple[str, ...] = field(default=(), compare=False)  # of the names in the record that was read

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "ArmResult":
        """The result in a record; unknown names are left out.

        Raises
        ------
        ValidationError
            If a value is of another type than its field.
        """
        names = {each.name for each in fields(ArmResult)}
        known = {name: value for name, value in record.items() if name in names}
        return _ADAPTER.validate_python(ArmResult(**known | {"order": tuple(record)}))

    def to_json(self) -> dict[str, Any]:
        """Known values by name, in the order of the record that was read: a published line stays the same."""
        known = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "order"}
        place = {name: number for number, name in enumerate(self.order)}
        return {
            name: known[name]
            for name in sorted(known, key=lambda name: place.get(name, len(place)))
            if known[name] is not None or (name == "value" and self.rate is not None)
        }

    @staticmethod
    def read(folder: Path) -> "ArmResult | None":
        """The result in the folder of an arm; None if the arm has not run.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        path = folder / RESULT_FILE
        if not path.exists():
            return None
        try:
            return ArmResult.from_json(read_json(path, _ADVICE))
        except ValidationError as error:
            raise DataError(f"{path}: found {explained(error)}, expected the result of an arm; {_ADVICE}") from None

    def write(self, folder: Path) -> None:
        """Write the result into the folder of its arm."""
        write_atomically(folder / RESULT_FILE, json.dumps(self.to_json(), indent=1).encode())

    @property
    def missing(self) -> list[str]:
        """Names that a table needs of a trained arm and that are unknown, as in results of an older fedrecon."""
        return [name for name in _NEEDED if getattr(self, name) is None]


_ADAPTER = TypeAdapter(ArmResult)


def explained(error: ValidationError) -> str:
    """All mistakes of a record on one line."""
    return "; ".join(f"{'.'.join(map(str, entry['loc']))} {entry['msg']}".strip() for entry in error.errors())
