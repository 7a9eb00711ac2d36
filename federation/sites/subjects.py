"""The person of a file: named by a pattern or a table, missing, or met at two sites."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..config import config_error
from .lock_file import LockedFile
from .manifest import SiteManifest, names_person
from .manifest_schema import Split
from .people import PersonImage, read_persons

_ADVICE = (
    "if several files show one person, name the persons with --subject or --persons of `fedrecon sites make`, or in "
    "[data.persons] of the manifest"
)


def persons_by_pattern(files: Iterable[str], pattern: str) -> dict[str, str]:
    """Person of every file: the group of a regular expression that is searched in its path.

    Raises
    ------
    ConfigError
        If the pattern is none, has not one group, or does not match a file.
    """
    key, expected = "--subject", "a regular expression with one group, the person, as in '^([^_]+)_'"
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise config_error("sites make", key, f"{pattern!r} ({error})", expected, "correct it") from None
    if expression.groups != 1:
        raise config_error("sites make", key, f"{pattern!r} with {expression.groups} groups", expected, "correct it")
    persons = {}
    for file in files:
        match = expression.search(file)
        if match is None or not match[1]:
            raise config_error(
                "sites make", key, f"{pattern!r}, which finds no person in {file}", expected, "correct it"
            )
        persons[file] = match[1]
    return persons


def require_one_source(pattern: str | None, table: Path | str | None) -> None:
    """Refuse a pattern beside a table of persons.

    Raises
    ------
    ConfigError
        If both are given.
    """
    if pattern is not None and table is not None:
        raise config_error("sites make", "--subject", "--persons, too", "one of them", "leave one out")


def images_of_persons(files: Sequence[Path], pattern: str) -> list[PersonImage]:
    """Images, each of the person that :func:`persons_by_pattern` finds in its path."""
    persons = persons_by_pattern([file.as_posix() for file in files], pattern)
    return [PersonImage(file, persons[file.as_posix()]) for file in files]


def persons_by_table(files: Mapping[str, Path], table: Path) -> dict[str, str]:
    """Person of every file, from a CSV table with the columns ``file`` and ``person``.

    Parameters
    ----------
    files
        Paths by name. The table names them by path, from its folder on, or by their names.

    Raises
    ------
    ConfigError
        If the table cannot be read, gives a file no person or two, or has other columns.
    """
    known: dict[Path, str] = {}
    for image in read_persons(table):
        if image.slices or image.contrast or image.site or image.split or image.kind != "image":
            found = f"{image.file.name} with more than a person"
            raise config_error(table, "", found, "the columns file and person", "leave out the others")
        relative = image.file.relative_to(table.parent) if image.file.is_relative_to(table.parent) else image.file
        for path in (image.file.resolve(), relative):
            if known.setdefault(path, image.person) != image.person:
                found = f"{image.file.name} of {known[path]} and {image.person}"
                raise config_error(table, "person", found, "one person per file", "correct it")
    persons = {}
    for name, path in files.items():
        person = known.get(path.resolve()) or known.get(Path(name)) or known.get(Path(path.name))
        if person is None:
            raise config_error(table, "", f"no line for {name}", "a person for every file", "add a line")
        persons[name] = person
    return persons


def unnamed_people(source: Path | str, names: Sequence[str], lack: str = " without patient_id") -> list[str]:
    """Warning that each of these files, which name no person, counts as a person; none for less than two files."""
    if len(names) < 2:
        return []
    alike = _alike(names)
    seems = f" ({alike[0]} and {alike[1]} seem to show one)" if alike else ""
    return [f"{source}: {len(names)} files{lack}: each counts as a person of its own{seems}; {_ADVICE}"]


def _alike(names: Sequence[str]) -> tuple[str, str] | None:
    """Two files of one numbered folder or beginning, where others have another: ``p01_T1``, ``p01_T2``, ``p02_T1``."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, stem = Path(name).parent.name, Path(name).name.split(".")[0]
        beginning = re.match(r"(.*?\d[^-_ ]*)[-_ ]", stem)
        if beginning or re.search(r"\d", folder):
            groups[f"{folder}/{beginning[1]}" if beginning else folder].append(name)
    found = next((group for group in groups.values() if len(group) > 1), None)
    return (found[0], found[1]) if found and len(groups) > 1 else None


def people_across_sites(sites: Sequence[tuple[SiteManifest, Mapping[str, LockedFile]]]) -> dict[str, list[str]]:
    """Warnings by site, one for every earlier site that has the same persons or files, by name and checksum.

    Two hospitals may number their patients alike: hence no error.

    Parameters
    ----------
    sites
        Manifests with the content of their lock files.
    """
    seen: dict[str, tuple[str, Split, str]] = {}
    warnings: dict[str, list[str]] = {}
    for manifest, lock in sites:
        own: dict[str, tuple[str, Split, str]] = {}
        shared: dict[str, dict[str, tuple[Split, str, Split, str]]] = defaultdict(dict)
        for split, name in manifest.data.named():
            subject = manifest.subject(name, lock[name].patient_id)
            keys = [subject, lock[name].sha256] if names_person(subject) else [lock[name].sha256]
            own |= {key: (manifest.name, split, name) for key in keys}
            if (key := next((key for key in keys if key in seen), None)) is not None:
                site, other, where = seen[key]
                shared[site].setdefault(subject, (split, name, other, where))
        seen = own | seen
        warnings[manifest.name] = [_shared(manifest.path, site, list(found.values())) for site, found in shared.items()]
    return warnings


def _shared(path: Path, site: str, found: Sequence[tuple[Split, str, Split, str]]) -> str:
    apart = [each for each in found if each[0] != each[2]]
    split, name, other, where = (apart or found)[0]
    persons = f"{len(found)} person{'s' * (len(found) > 1)}"
    example = f"{name} ({split}) and {where} ({other})"
    effect = "; scores are then not those of new people" if apart else ""
    advice = "keep every person at one site, unless the two sites number other people alike"
    return f"{path}: {persons} also at site {site}, such as that of {example}{effect}; {advice}"
