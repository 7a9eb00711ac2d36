"""Slices of a person: read from a file, and chosen for a site."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from recon import read_images

from ..config import ConfigError, config_error
from .image_labels import Slices
from .manifest_schema import Split
from .people import PersonImage, share
from .scanner_files import Scanner


def read_person(image: PersonImage, modality: Literal["CT", "MR"]) -> Tensor:
    """Slices of a person in a file; DICOM files must state this modality, or none.

    Raises
    ------
    ConfigError
        If the file has fewer slices.
    DataError
        If it cannot be read.
    """
    volume = _read(image.file, image.kind == "labels", modality)
    if image.slices is None:
        return volume
    first, last = image.slices
    if last >= len(volume):
        found = f"{first}-{last} of {len(volume)} slices"
        raise config_error(image.file, "slices", found, "slices of the file, from 0", "correct the table of persons")
    return volume[first : last + 1]


@lru_cache(maxsize=1)  # files that hold several persons stand one after another
def _read(file: Path, labels: bool, modality: Literal["CT", "MR"]) -> Tensor:
    return read_images(file, labels=labels, modality=None if labels else modality)


def origin_of(what: str, dealt: Sequence[tuple[Split, PersonImage]]) -> str:
    """Origin of a site's data for its manifest: the files, or the folders of many."""
    files = list(dict.fromkeys(image.file for _, image in dealt))
    if len(files) <= 5:
        return f"simulated from {what} {', '.join(file.name for file in files)}"
    persons = len({image.person for _, image in dealt})
    folders = ", ".join(dict.fromkeys(file.parent.name for file in files))
    return f"simulated from {what} of {persons} persons in {folders}"


def chosen_slices(
    site: Scanner, prepared: Sequence[tuple[Split, PersonImage, Slices]]
) -> Iterator[tuple[Split, PersonImage, Slices]]:
    """Evenly spaced slices, as many as the scanner's keys ``slices`` and ``train_slices`` say.

    Raises
    ------
    ConfigError
        If the persons have fewer.
    """
    available: dict[str, int] = {}
    for _, image, volume in prepared:
        available[image.person] = available.get(image.person, 0) + len(volume)
    part_of = {image.person: part for part, image, _ in prepared}
    wanted = {person: available[person] if site.slices is None else site.slices for person in available}
    if site.train_slices is not None:
        trained = [person for person in available if part_of[person] == "train"]
        wanted |= dict(zip(trained, share(site.train_slices, [available[p] for p in trained]), strict=True))
        if (found := sum(wanted[person] for person in trained)) < site.train_slices:
            raise _too_few(site, "train_slices", f"{found} slices with anatomy of {len(trained)} training persons")
    for person, number in wanted.items():
        if number > available[person]:
            raise _too_few(site, "slices", f"{available[person]} slices with anatomy of person {person}")
    for person in available:
        own = [entry for entry in prepared if entry[1].person == person]
        counts = share(wanted[person], [len(volume) for _, _, volume in own])
        for (part, image, volume), count in zip(own, counts, strict=True):
            if count:
                # The middles of equal parts: no slice at the very end, where there is little to see.
                yield part, image, volume[((torch.arange(count) + 0.5) * len(volume) / count).long()]


def _too_few(site: Scanner, key: str, found: str) -> ConfigError:
    expected = f"at least {getattr(site, key)}"
    return config_error("sites make", f"site {site.name}: {key}", found, expected, "add persons or ask for fewer")
