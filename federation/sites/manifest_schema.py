"""The sections of a manifest: the acquisition, and the files of every split."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal, cast

from pydantic import Field, field_validator, model_validator

import recon

from ..config import Names, Section, section_with

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class AcquisitionSection(Section):
    """Description of the measurement for reports; nothing is computed from it."""

    vendor: str | None = None
    model: str | None = None
    field_T: float | None = Field(default=None, gt=0)
    contrast: str | None = None
    anatomy: str | None = None
    origin: str | None = None
    license: str | None = None


class DataSection(Section):
    """Files of every split, their names relative to ``root``; the files of a subject are in one split.

    ``persons`` names the subject of files, in place of the ``patient_id`` in them.
    """

    root: str = Field(min_length=1)
    format: str
    train: Names = ()
    validation: Names = ()
    test: Names = ()
    persons: dict[str, str] = Field(default_factory=dict)

    @field_validator("train", "validation", "test")
    @classmethod
    def _inside_root(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.name:
                raise ValueError(f"file names below data.root with / between folders, without .. ({name!r})")
        # One spelling per file: "./a.h5" is "a.h5".
        return tuple(str(PurePosixPath(name)) for name in names)

    @model_validator(mode="after")
    def _once(self) -> "DataSection":
        first: dict[str, str] = {}
        for split, name in self.named():
            if name in first:
                found = f"found {name!r} also in {first[name]}"
                raise ValueError(f"{split}: {found}, expected every file once; remove one")
            first[name] = split
        if not first:
            raise ValueError("train, validation and test are all empty, expected at least one file; list one")
        for name, person in self.persons.items():
            if name not in first or not person:
                expected = "a name for a file of train, validation or test"
                raise ValueError(f"persons: found {person!r} for {name!r}, expected {expected}; correct it")
        return self

    @cached_property
    def names(self) -> dict[str, str]:
        """Name of every volume by its file, see :func:`recon.volume_names`."""
        return recon.volume_names([name for _, name in self.named()])

    def named(self) -> Iterator[tuple[Split, str]]:
        """Every file as ``(split, name)``."""
        for split in SPLITS:
            for name in getattr(self, split):
                yield split, name


def data_section(modality: str, readers: tuple[str, ...]) -> type[DataSection]:
    """``[data]`` of a modality: files and splits, the options of its dataset, and those of its ``readers``."""
    kind = recon.MODALITIES[modality]
    by_reader = {reader: kind.reader_options(reader) for reader in readers}
    of_readers: dict[str, Any] = {}
    for reader, options in by_reader.items():
        for key, option in options.items():
            if (other := of_readers.setdefault(key, option)) != option:
                expected = f"{other.default!r} of the same type, as of another reader"
                found = f"default {option.default!r} of the option {key!r}"
                raise ValueError(f"reader {reader!r}: found {found}, expected {expected}; rename the option")
    keys = {
        key: (option.annotation | None, None) if option.required else (option.annotation, option.default)
        for key, option in (kind.data_options() | of_readers).items()
    }

    def read_by_format(section: DataSection) -> DataSection:
        for key, option in of_readers.items():
            own, value = key in by_reader[section.format], getattr(section, key)
            if own and option.required and value is None:
                raise ValueError(f"{key}: missing key, which the format {section.format!r} needs; add it")
            if not own and value != keys[key][1]:
                raise ValueError(f"{key}: found {value!r}, expected none: {section.format} files hold it; leave it out")
        return section

    checks = {"_read_by_format": model_validator(mode="after")(read_by_format)}
    return cast(type[DataSection], section_with(f"{kind.title}DataSection", DataSection, keys, checks))
