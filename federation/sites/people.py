"""Images by person: read from a table, and dealt so that no person is at two sites or in two splits."""

import csv
import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recon import patient_of

from ..config import config_error
from .manifest import expand_variables, person_key
from .manifest_schema import SPLITS, Split
from .splits import assign_splits

#: Columns of a table of persons; the first two are required.
COLUMNS = ("file", "person", "contrast", "slices", "kind", "site", "split")
#: What a file holds: gray values, or a map of labels from which images are drawn.
KINDS = ("image", "labels")


@dataclass(frozen=True)
class PersonImage:
    """Slices of one person in one file.

    ``slices`` are the first and the last one, from 0, of a file that holds several persons; None: all. ``site`` and
    ``split`` are None where they are dealt. ``kind`` is one of `KINDS`. ``stem`` replaces the file's part of the name.
    """

    file: Path
    person: str
    contrast: str | None = None
    slices: tuple[int, int] | None = None
    kind: str = "image"
    site: str | None = None
    split: Split | None = None
    stem: str | None = None

    @property
    def name(self) -> str:
        """Person and file, as part of a file name, with the first slice if the file holds several persons."""
        person, stem = _slug(self.person) or "person", self.stem or _stem(self.file)
        name = stem if stem.startswith(person) else person if person.startswith(stem) else f"{person}_{stem}"
        return name if self.slices is None else f"{name}_{self.slices[0]:04d}"


@dataclass(frozen=True)
class Wish:
    """Persons that a site wants: those with an image of this contrast (None: any), this many (None: its share)."""

    contrast: str | None = None
    persons: int | None = None

    def fits(self, image: PersonImage) -> bool:
        return self.contrast is None or (image.contrast or "").lower() == self.contrast.lower()


def read_persons(path: Path | str) -> list[PersonImage]:
    """Read a CSV table with a line for every file of a person.

    The columns are those of `COLUMNS`. Paths are relative to the table, and ``${VARIABLES}`` in them are replaced.
    ``slices`` is ``first-last``, from 0. An empty cell is an absent one.

    Raises
    ------
    ConfigError
        If the table is unreadable, a column is missing or unknown, or a cell is wrong: one line with its number.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = tuple(name.strip() for name in reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        found = f"no readable table ({error})"
        raise config_error(path, "", found, "a CSV file in UTF-8", "correct the path or the file") from None
    missing = [name for name in COLUMNS[:2] if name not in columns]
    unknown = [name for name in columns if name not in COLUMNS]
    if missing or unknown or len(set(columns)) < len(columns):
        found = f"columns {', '.join(columns) or 'none'}"
        raise config_error(path, "header", found, f"{', '.join(COLUMNS)}; the first two at least", "correct the header")
    if not rows:
        raise config_error(path, "", "no line below the header", "one line per file", "list the files")
    images = []
    for line, row in rows:
        where = f"{path}, line {line}"
        if None in row or None in row.values():
            raise config_error(where, "", "another number of cells", f"{len(columns)}, as in the header", "correct it")
        images.append(_person_image({key.strip(): value.strip() for key, value in row.items()}, path, where))
    return images


def _person_image(cells: Mapping[str, str], path: Path, where: str) -> PersonImage:
    for key in COLUMNS[:2]:
        if not cells[key]:
            raise config_error(where, key, "an empty cell", f"a {key}", "fill it in")
    for key, known in (("kind", KINDS), ("split", SPLITS)):
        if cells.get(key) and cells[key] not in known:
            raise config_error(where, key, repr(cells[key]), f"one of {', '.join(known)}", "correct it")
    slices = None
    if text := cells.get("slices"):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        slices = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if slices[0] > slices[1]:
            raise config_error(where, "slices", repr(text), "first-last, from 0, as in 4-9", "correct it")
    file = Path(expand_variables(cells["file"], where, "file")).expanduser()
    split = next((split for split in SPLITS if split == cells.get("split")), None)
    return PersonImage(
        file=path.parent / file,
        person=cells["person"],
        contrast=cells.get("contrast") or None,
        slices=slices,
        kind=cells.get("kind") or "image",
        site=cells.get("site") or None,
        split=split,
    )


def one_person_per_file(files: Sequence[Path]) -> list[PersonImage]:
    """Every file is a person of its own, named after the file, or its path where two file names are equal.

    DICOM files that share a PatientID are one person, named after the first of them. An ID that all files
    share tells nothing, as anonymized files may hold one and the same: then every file is a person.
    """
    stems, patients = Counter(map(_stem, files)), [patient_of(file) for file in files]
    several = len(set(patients) - {None}) > 1
    named: dict[str, str] = {}
    images = []
    for file, patient in zip(files, patients, strict=True):
        person = _stem(file) if stems[_stem(file)] == 1 else _path(file, files)
        images.append(PersonImage(file, named.setdefault(patient, person) if patient and several else person))
    return images


def named_apart(images: Sequence[PersonImage]) -> list[PersonImage]:
    """The images, of which those of one name are named after their paths."""
    count, files = Counter(image.name for image in images), [image.file for image in images]
    return [i if count[i.name] == 1 else replace(i, stem=_slug(_path(i.file, files))) for i in images]


def _path(file: Path, files: Sequence[Path]) -> str:
    """Path without suffix, from the folder that holds all files."""
    folder = os.path.commonpath([other.absolute().parent for other in files])
    return (file.absolute().parent / _stem(file)).relative_to(folder).as_posix()


def _stem(file: Path) -> str:
    return file.name.split(".")[0]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")


def deal_persons(
    images: Sequence[PersonImage],
    wishes: Mapping[str, Wish],
    fractions: tuple[float, float, float],
    seed: int,
    source: Path | str = "sites make",
) -> dict[str, list[tuple[Split, PersonImage]]]:
    """Deal whole persons to the sites, and at each site to the splits.

    A person whose table names a site or split goes there. The others go, in the order of the table, to the sites in
    turn; a site that wants a contrast takes persons that have it, and only their images of this contrast.

    Parameters
    ----------
    images
        All images of all persons.
    wishes
        The sites in their order.
    fractions
        For training, validation and test, as for :func:`assign_splits`.
    seed
        Seed of the splits.
    source
        The table, for errors.

    Raises
    ------
    ConfigError
        If a person is named for two sites or splits, two persons have the same slices, or a site gets no person or
        fewer than it wants.
    """
    images = _in_one_spelling(images)
    _require_disjoint(images, source)
    persons: dict[str, list[PersonImage]] = {}
    for image in images:
        persons.setdefault(image.person, []).append(image)
    named = {person: _named(person, own, wishes, source) for person, own in persons.items()}
    home = {person: site for person, (site, _) in named.items() if site is not None}
    free = [person for person in persons if person not in home]
    while free:
        takes = {
            site: [person for person in free if any(map(wish.fits, persons[person]))]
            for site, wish in wishes.items()
            if wish.persons is None or _count(home, site) < wish.persons
        }
        open_sites = [site for site, candidates in takes.items() if candidates]
        if not open_sites:
            break
        # The site with the fewest persons so far, of equals the one with the smallest choice.
        site = min(open_sites, key=lambda name: (_count(home, name), len(takes[name])))
        # A person that no other site can use: the others keep theirs.
        person = min(takes[site], key=lambda person: sum(person in takes[name] for name in open_sites))
        home[person] = site
        free.remove(person)
    dealt: dict[str, list[tuple[Split, PersonImage]]] = {}
    for site, wish in wishes.items():
        own = [person for person in persons if home.get(person) == site]
        least = wish.persons or 1
        if len(own) < least:
            of = "" if wish.contrast is None else f" with an image of contrast {wish.contrast!r}"
            found = f"{len(own)} persons{of}"
            raise config_error(source, f"site {site}", found, str(least), "add persons or ask for fewer")
        fixed = {person: split for person in own if (split := named[person][1]) is not None}
        splits = fixed | assign_splits({site: [p for p in own if p not in fixed]}, fractions, seed)[site]
        dealt[site] = [(splits[person], image) for person in own for image in persons[person] if wish.fits(image)]
        if not dealt[site]:
            raise config_error(source, f"site {site}", "no image of its contrast", "one", "correct the table")
    return dealt


def _in_one_spelling(images: Sequence[PersonImage]) -> list[PersonImage]:
    first: dict[str, str] = {}
    return [replace(image, person=first.setdefault(person_key(image.person), image.person)) for image in images]


def _require_disjoint(images: Sequence[PersonImage], source: Path | str) -> None:
    by_file: dict[Path, list[PersonImage]] = {}
    for image in images:
        by_file.setdefault(image.file.resolve(), []).append(image)
    for file, own in by_file.items():
        whole = (0, sys.maxsize)
        spans = sorted((image.slices or whole, image.person) for image in own)
        for ((_, last), person), ((first, _), other) in itertools.pairwise(spans):
            if first <= last:
                found = f"slice {first} of persons {person} and {other}"
                raise config_error(source, file.name, found, "every slice once", "correct the column slices")


def _count(home: Mapping[str, str], site: str) -> int:
    return sum(name == site for name in home.values())


def _named(
    person: str, images: Sequence[PersonImage], wishes: Mapping[str, Wish], source: Path | str
) -> tuple[str | None, Split | None]:
    """Site and split that the table names for a person."""
    sites = {image.site for image in images if image.site is not None}
    splits = {image.split for image in images if image.split is not None}
    for key, found in (("site", sites), ("split", splits)):
        if len(found) > 1:
            both = f"{key}s {', '.join(sorted(found))}"
            raise config_error(source, f"person {person}", both, f"one {key}: no person is in two places", "correct it")
    site = next(iter(sites), None)
    if site is not None and site not in wishes:
        raise config_error(source, f"person {person}", f"site {site!r}", f"one of {', '.join(wishes)}", "correct it")
    return site, next(iter(splits), None)


def share(total: int, available: Sequence[int]) -> list[int]:
    """Deal a number as evenly as the parts have room, the first ones first; less than the total if there is no room."""
    taken = [0] * len(available)
    for _ in range(total):
        open_parts = [i for i, room in enumerate(available) if taken[i] < room]
        if not open_parts:
            break
        taken[min(open_parts, key=lambda i: taken[i])] += 1
    return taken
