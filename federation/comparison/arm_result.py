"""The result of an arm: one record, stored beside the arm and published with its scores."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from recon import DataError, write_atomically

from ..config import read_json

#: File with the result of an arm, written last: an arm that has it is done.
RESULT_FILE = "facts.json"
_ADVICE = "delete it, and the arm is run again"
#: Fields that the tables need of every trained arm; ``value`` may be None.
_NEEDED = ("rate", "tuning", "trials", "at_end", "value_at_end", "chosen", "seconds", "peak_memory_mb", "steps",
           "least_steps")  # fmt: skip


@dataclass(frozen=True)
class ArmResult:
    """Everything that is known of an arm of one table with one seed after it ran, beside its scores.

    None stands for an unknown value: bytes of an arm without a federation, training of classical methods.
    """

    __pydantic_config__ = ConfigDict(strict=True, revalidate_instances="always")

    #: Reason on one line if the arm could not be run.
    failed: str | None = None
    parameters_shared: int | None = None
    parameters_kept: int | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    #: A frozen base, sent to every site once.
    bytes_base: int | None = None
    #: Optimizer steps of the site with the most and with the fewest.
    steps: int | None = None
    least_steps: int | None = None
    #: Seconds and peak memory of training.
    seconds: float | None = None
    peak_memory_mb: float | None = None
    #: Factor on the learning rate, and number of the tuned value; None: the recipe's own value.
    rate: float | None = None
    value: int | None = None
    #: The key that was tuned and its values, as in the recipe.
    tuning: dict[str, Any] | None = None
    trials: int | None = None
    #: Whether the best learning rate, the best value is the smallest or largest tried.
    at_end: bool | None = None
    value_at_end: bool | None = None
    #: Learning rate and tuned value by key of the recipe.
    chosen: dict[str, Any] | None = None
    #: Purpose of the arm.
    label: str | None = None
    #: Mean validation score over the sites that train.
    validation: float | None = None
    #: CT image quality by site and arm.
    quality: dict[str, dict[str, dict[str, float | None]]] | None = None
    #: Flags of lost quality in published tables that hold no quality.
    lost: list[str] | None = None
    #: Metadata of the scans and of scoring by site; not published.
    sites: dict[str, dict[str, Any]] | None = None
    #: Digest of the method, see :meth:`federation.recipes.Recipe.method_digest`.
    recipe: str | None = None
    #: Names in the order of the record that was read.
    order: tuple[str, ...] = field(default=(), compare=False)

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
