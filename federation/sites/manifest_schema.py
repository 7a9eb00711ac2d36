"""The sections of a manifest: what was measured, which files belong to which split."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal, cast

from pydantic import Field, field_validator, model_validator

import recon

from ..config import Names, Section, section_with

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class AcquisitionSection(Section):
    """Facts about what was measured. Nothing is computed from them; reports print them."""

    vendor: str | None = None
    model: str | None = None
    field_T: float | None = Field(default=None, gt=0)
    contrast: str | None = None
    anatomy: str | None = None
    origin: str | None = None


class DataSection(Section):
    """Where the files are and which split each belongs to, by subject. Names are relative to ``root``."""

    root: str = Field(min_length=1)
    format: str
    train: Names = ()
    validation: Names = ()
    test: Names = ()

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
        # By base name: it seeds the mask of a volume and names it in the report.
        first: dict[str, str] = {}
        for split, name in self.named():
            base = PurePosixPath(name).name
            if base in first:
                found = f"found {base!r} also in {first[base]}"
                raise ValueError(f"{split}: {found}, expected every file name once; remove or rename one")
            first[base] = split
        if not first:
            raise ValueError("train, validation and test are all empty, expected at least one file; list one")
        return self

    def named(self) -> Iterator[tuple[Split, str]]:
        """Every file as ``(split, name)``."""
        for split in SPLITS:
            for name in getattr(self, split):
                yield split, name


@lru_cache(maxsize=16)
def data_section(modality: str, readers: tuple[str, ...]) -> type[DataSection]:
    """``[data]`` of a modality: files and splits, the options of its dataset, and those of all its readers.

    ``readers`` are the names of its readers now: one that is registered later brings keys of its own.
    """
    kind = recon.MODALITIES[modality]
    options = kind.data_options()

    def known_to_the_file(section: DataSection) -> DataSection:
        own = kind.reader_options(section.format)
        others = {key for reader in readers for key in kind.reader_options(reader)} - own.keys()
        for key in sorted(others & section.model_fields_set):
            if getattr(section, key) != options[key].default:
                raise ValueError(f"{key}: found a value, expected none: {section.format} files hold it; leave it out")
        return section

    keys = {key: (option.annotation, option.default) for key, option in options.items()}
    checks = {"_known_to_the_file": model_validator(mode="after")(known_to_the_file)}
    return cast(type[DataSection], section_with(f"{kind.title}DataSection", DataSection, keys, checks))
