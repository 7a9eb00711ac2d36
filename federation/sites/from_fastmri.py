"""Make sites from a folder of measured MRI files."""

import logging
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from recon import (
    MRI_READERS,
    NON_CARTESIAN,
    KSpaceVolume,
    Simulation,
    TrajectorySimulation,
    TrajectoryVolume,
    calibration_path,
    format_of,
    shown_files,
    volume_names,
)

from ..config import ConfigError, config_error, nearest
from .manifest import expand_variables, names_person, subject
from .manifest_schema import SPLITS, Split
from .splits import deal_files
from .subjects import persons_by_pattern, persons_by_table, require_one_source, unnamed_people
from .unusable import usable
from .writing import MadeSite, simulated, write_sites

logger = logging.getLogger(__name__)

#: Properties of files that group them to sites, from header or attributes.
GROUPINGS: dict[str, Callable[[KSpaceVolume], str | None]] = {
    "vendor": lambda volume: volume.header.vendor,
    "model": lambda volume: volume.header.model,
    "field": lambda volume: None if volume.header.field_T is None else f"{volume.header.field_T:.1f}T",
    "contrast": lambda volume: volume.acquisition,
    "coils": lambda volume: f"{volume.shape[1]}coils",
}

#: Calibration scan beside a scan, as `fedrecon convert` names it.
CALIBRATION = "{stem}_calibration.h5"
#: Suffixes of files that must be scans; of others the content decides.
_SUFFIXES = (".h5", ".hdf5", ".mrd")
#: Default undersampling of sites of fully sampled files: that of fastMRI's 4x track.
FASTMRI_4X = Simulation("random", 4, 0.08)


def make_fastmri_sites(
    folder: Path | str,
    out: Path | str,
    *,
    by: Sequence[str] = ("model", "field", "contrast"),
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    simulate: Simulation | TrajectorySimulation | None = FASTMRI_4X,
    overwrite: bool = False,
    subject_pattern: str | None = None,
    persons: Path | str | None = None,
    skip_bad: bool = False,
    format: str | None = None,
) -> list[MadeSite]:
    """Group the MRI files below a folder into sites and write a manifest and a lock file for each.

    Files of any reader in :data:`recon.MRI_READERS` are used, told by their content; a site has one format. Files of
    other suffixes than ``.h5``, ``.hdf5`` and ``.mrd`` that no reader takes are passed over.

    Reads headers and attributes, and every byte once for the checksums of the lock file. Subjects are split, not files,
    and a subject is in the same split at every site. Of two subjects one goes to training, the other to validation.
    Undersampled files, which have no reference to train on, make sites of their own for test alone. Files of samples
    along a trajectory make sites of non-Cartesian MRI, as measured; networks train on them by self-supervision.

    Parameters
    ----------
    folder
        Searched recursively; ``${VARIABLES}`` in it stay in the manifests.
    out
        Folder of the manifests.
    by
        Names in `GROUPINGS`; files with the same values make a site, named after the values.
    split
        Fractions of the subjects for training, validation and test.
    seed
        Seed of the split.
    simulate
        ``[simulate]`` of fully sampled files, which also decides their modality; None: none.
    overwrite
        Replace manifests and lock files that exist.
    subject_pattern
        Regular expression whose group is the person, searched in the path of every file below the folder.
    persons
        CSV table with the columns ``file`` and ``person``. Without pattern and table, a person is the ``patient_id`` of
        the file, or, with a warning, the file.
    skip_bad
        Leave out files that cannot be used, with a warning for each.
    format
        Reader of all files, such as ``"m4raw"``; None: told from their content.

    Returns
    -------
        The sites; :attr:`MadeSite.missing` names splits without a subject.

    Raises
    ------
    ConfigError
        If the folder holds no file, a grouping is unknown, or a file to be written exists.
    DataError
        If a file cannot be used; of several such files, one line for each.
    """
    _require_groupings(by)
    _require_fractions(split)
    _require_format(format)
    root, expanded = _root(folder)
    files = {file.relative_to(expanded).as_posix(): file for file in _scans(expanded)}
    found = usable(files, lambda name: _opened(files[name], format), skip_bad=skip_bad)
    formats = {name: reader for name, (reader, _) in found.items()}
    volumes, calibrations = _scans_alone({name: volume for name, (_, volume) in found.items()})
    groups = _group(volumes, by, formats)
    told = _told_persons({name: files[name] for name in volumes}, subject_pattern, persons)
    names = volume_names(list(volumes))
    subjects = {file: subject(names[file], told.get(file) or volume.patient_id) for file, volume in volumes.items()}
    for_test = [name for name, group in groups.items() if _is_for_test(volumes[group[0]])]
    splits = deal_files(groups, subjects, split, seed, for_test)
    manifests = []
    for name, group in groups.items():
        reading = _reading(formats[group[0]], [files[file] for file in group], calibrations)
        data = {"data": _data(root, splits[name], told, reading)}
        manifests.append(_table(name, [volumes[file] for file in group], simulate) | data)
    for warning in unnamed_people(expanded, [file for file in volumes if not names_person(subjects[file])]):
        logger.warning(warning)
    return write_sites(out, manifests, overwrite=overwrite)


def _data(
    root: str, splits: Mapping[str, Split], told: Mapping[str, str], reading: Mapping[str, Any]
) -> dict[str, Any]:
    """Section ``[data]`` of a manifest: files of a site by split, how they are read, and the persons that were told."""
    by_split: dict[str, list[str]] = {split: [file for file, of in splits.items() if of == split] for split in SPLITS}
    return {"root": root, **by_split, **reading, "persons": {file: told[file] for file in splits if file in told}}


def _table(
    name: str, volumes: Sequence[KSpaceVolume], simulate: Simulation | TrajectorySimulation | None
) -> dict[str, Any]:
    """Manifest of a site without its files."""
    table: dict[str, Any] = {"name": name, "acquisition": _shared_facts(volumes)}
    if isinstance(volumes[0], TrajectoryVolume):
        return table | {"modality": NON_CARTESIAN.name}
    return table if volumes[0].undersampled else table | simulated(simulate)


def _is_for_test(volume: KSpaceVolume) -> bool:
    return volume.undersampled and not isinstance(volume, TrajectoryVolume)


def _reading(format: str, files: Sequence[Path], calibrations: Collection[Path]) -> dict[str, str]:
    """Keys of ``[data]`` on how the files of a site are read."""
    keys = {}
    if calibrations and all(calibration_path(file, CALIBRATION) in calibrations for file in files):
        keys["calibration_scan"] = CALIBRATION
    return keys if format == "fastmri" else keys | {"format": format}


def _scans(folder: Path) -> list[Path]:
    """Files below a folder that are scans, by suffix or content; names the formats of others where there is none."""
    shown = shown_files(folder, recursive=True) if folder.is_dir() else []
    files = [file for file in shown if file.suffix.lower() in _SUFFIXES or _is_taken(file)]
    if files:
        return files
    others = {known: file.name for file in shown if file.is_file() and (known := format_of(file)) is not None}
    named = ", ".join(f"{known.name} ({file})" for known, file in others.items())
    found = f"no *.h5 or *.hdf5 file{', but ' * bool(others)}{named}"
    advice = next((known.advice for known in others), "correct the path")
    raise config_error(folder, "", found, "a folder of MRI files", advice)


def _is_taken(file: Path) -> bool:
    """Whether a reader takes a file of any suffix; the header of a pair of BART files counts with its data."""
    return file.is_file() and file.suffix != ".hdr" and bool(MRI_READERS.takes(file))


def _root(folder: Path | str) -> tuple[str, Path]:
    """The folder as manifests name it, absolute unless it holds variables, and as it is here."""
    root = str(folder)
    expanded = Path(expand_variables(root, "sites make", "folder")).expanduser()
    return (str(expanded.absolute()) if expanded == Path(root) else root), expanded


def _opened(file: Path, format: str | None) -> tuple[str, KSpaceVolume]:
    """Name of the reader of a file and its volume; the usual reader where none takes it, as its errors say most."""
    taken = file.is_file() and MRI_READERS.takes(file)
    reader = format or (MRI_READERS.detect(file) if taken else "fastmri")
    return reader, MRI_READERS.open(file, reader)


def _scans_alone(volumes: Mapping[str, KSpaceVolume]) -> tuple[dict[str, KSpaceVolume], set[Path]]:
    """Volumes less calibration scans and files that were read with another one; the files of the calibration scans."""
    read: set[Path] = set()
    kept = {}
    for name, volume in volumes.items():
        if not volume.is_calibration and not read.intersection(volume.sources):
            kept[name] = volume
            read.update(volume.sources)
    return kept, {volume.path for volume in volumes.values() if volume.is_calibration}


def _told_persons(files: Mapping[str, Path], pattern: str | None, table: Path | str | None) -> dict[str, str]:
    require_one_source(pattern, table)
    if table is not None:
        return persons_by_table(files, Path(table))
    return {} if pattern is None else persons_by_pattern(files, pattern)


def _group(volumes: Mapping[str, KSpaceVolume], by: Sequence[str], formats: Mapping[str, str]) -> dict[str, list[str]]:
    """Files by site name."""
    groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for file, volume in volumes.items():
        values = [GROUPINGS[key](volume) or f"unknown {key}" for key in by]
        state = ["undersampled"] if _is_for_test(volume) else []
        state += ["non-cartesian"] if isinstance(volume, TrajectoryVolume) else []
        groups.setdefault(((*values, *state), formats[file]), []).append(file)
    named: dict[str, list[str]] = {}
    for (group, _), files in sorted(groups.items()):
        name = slug(group)
        number = 2
        while name in named:
            name = f"{slug(group)[:60]}-{number}"
            number += 1
        named[name] = files
    return named


def slug(values: Sequence[str]) -> str:
    """Name of a site from the values of its files: ``("Prisma_fit", "2.9T") -> "prisma-fit_2-9t"``."""
    parts = (re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") for value in values)
    return "_".join(part or "unknown" for part in parts)[:64]


def _shared_facts(volumes: Sequence[KSpaceVolume]) -> dict[str, Any]:
    """``[acquisition]``: properties that all volumes of a site share."""
    facts: dict[str, set[Any]] = {
        "vendor": {volume.header.vendor for volume in volumes},
        "model": {volume.header.model for volume in volumes},
        "field_T": {volume.header.field_T for volume in volumes},
        "contrast": {volume.acquisition for volume in volumes},
    }
    return {key: next(iter(values)) for key, values in facts.items() if len(values) == 1 and None not in values}


def _require_groupings(by: Sequence[str]) -> None:
    if not by:
        raise ConfigError(f"sites make: --by names nothing, expected some of {', '.join(GROUPINGS)}")
    for key in by:
        if key not in GROUPINGS:
            hint = nearest(key, GROUPINGS)
            raise ConfigError(f"sites make: --by: found {key!r}, expected some of {', '.join(GROUPINGS)}{hint}")


def _require_format(format: str | None) -> None:
    if format is not None and format not in MRI_READERS:
        expected = f"one of {', '.join(MRI_READERS)}{nearest(format, MRI_READERS)}"
        raise config_error("sites make", "--format", repr(format), expected, "correct the name")


def _require_fractions(split: tuple[float, float, float]) -> None:
    if len(split) != 3 or min(split) < 0 or split[0] == 0 or not math.isclose(sum(split), 1, abs_tol=1e-6):
        raise ConfigError(
            f"sites make: split: found {split}, expected fractions for training, validation and test that "
            "add up to 1, the first positive"
        )
