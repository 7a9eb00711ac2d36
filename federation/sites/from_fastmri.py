"""Make sites from a folder of fastMRI files, and check the sites of a federation."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recon import KSpaceVolume, Simulation, open_volume

from ..config import ConfigError, config_error, nearest
from .manifest import expand_variables, subject
from .manifest_schema import SPLITS
from .splits import assign_splits
from .writing import MadeSite, write_sites

#: What a folder of files may be grouped by; every value comes from the header or an attribute.
GROUPINGS: dict[str, Callable[[KSpaceVolume], str | None]] = {
    "vendor": lambda volume: volume.header.vendor,
    "model": lambda volume: volume.header.model,
    "field": lambda volume: None if volume.header.field_T is None else f"{volume.header.field_T:.1f}T",
    "contrast": lambda volume: volume.acquisition,
    "coils": lambda volume: f"{volume.shape[1]}coils",
}

#: Undersampling of sites made from fully sampled files unless another is given: that of fastMRI's 4x track.
FASTMRI_4X = Simulation("random", 4, 0.08)


def make_fastmri_sites(
    folder: Path | str,
    out: Path | str,
    *,
    by: Sequence[str] = ("model", "field", "contrast"),
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    simulate: Simulation | None = FASTMRI_4X,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Group the ``*.h5`` below a folder into sites and write a manifest and a lock file for each.

    Only headers and attributes are decoded; for the checksums of the lock file every byte is read once.
    Subjects are split, not files, and a subject is in the same split at every site. Of two subjects one goes
    to training, the other to validation. Undersampled files make sites of their own, for test alone: they
    have no reference to train on.

    Parameters
    ----------
    folder
        Searched recursively; may hold ``${VARIABLES}``, which the manifests then keep.
    out
        Folder of the manifests.
    by
        Names in `GROUPINGS`; files that agree in all of them make a site, named after the values.
    split
        Fractions of the subjects for training, validation and test.
    seed
        Draws the split.
    simulate
        ``[simulate]`` of the manifests of fully sampled files; None leaves them as measured.
    overwrite
        Replace manifests and lock files that exist.

    Returns
    -------
        One entry per site; see :attr:`MadeSite.missing`.

    Raises
    ------
    ConfigError
        If the folder holds no file, a grouping is unknown, or a file to be written exists.
    DataError
        If a file is not of the fastMRI layout.
    """
    _require_groupings(by)
    _require_fractions(split)
    root = str(folder)
    expanded = Path(expand_variables(root, "sites make", "folder")).expanduser()
    if expanded == Path(root):
        root = str(expanded.absolute())
    files = sorted(expanded.rglob("*.h5")) if expanded.is_dir() else []
    if not files:
        raise config_error(expanded, "", "no *.h5 file", "a folder of fastMRI files", "correct the path")
    volumes = {file.relative_to(expanded).as_posix(): open_volume(file) for file in files}
    groups = _group(volumes, by)
    splits = assign_splits(
        {name: [subject(file, volumes[file].patient_id) for file in group] for name, group in groups.items()},
        split,
        seed,
        test_only=[name for name, group in groups.items() if volumes[group[0]].undersampled],
    )
    manifests = []
    for name, group in groups.items():
        table: dict[str, Any] = {
            "name": name,
            "acquisition": _shared_facts([volumes[file] for file in group]),
        }
        if simulate is not None and not volumes[group[0]].undersampled:
            table["simulate"] = asdict(simulate)
        of = {file: splits[name][subject(file, volumes[file].patient_id)] for file in group}
        table["data"] = {"root": root, **{s: [file for file in group if of[file] == s] for s in SPLITS}}
        manifests.append(table)
    return write_sites(out, manifests, overwrite=overwrite)


def _group(volumes: Mapping[str, KSpaceVolume], by: Sequence[str]) -> dict[str, list[str]]:
    """Files by site name."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for file, volume in volumes.items():
        values = [GROUPINGS[key](volume) or f"unknown {key}" for key in by]
        groups.setdefault((*values, *(["undersampled"] if volume.undersampled else [])), []).append(file)
    named: dict[str, list[str]] = {}
    for group, files in sorted(groups.items()):
        name = slug(group)
        number = 2
        while name in named:
            name = f"{slug(group)[:60]}-{number}"
            number += 1
        named[name] = files
    return named


def slug(values: Sequence[str]) -> str:
    """A site name from the values of a group: ``("Prisma_fit", "2.9T") -> "prisma-fit_2-9t"``."""
    parts = (re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") for value in values)
    return "_".join(part or "unknown" for part in parts)[:64]


def _shared_facts(volumes: Sequence[KSpaceVolume]) -> dict[str, Any]:
    """What all volumes of a site say alike about their acquisition."""
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


def _require_fractions(split: tuple[float, float, float]) -> None:
    if len(split) != 3 or min(split) < 0 or split[0] == 0 or not math.isclose(sum(split), 1, abs_tol=1e-6):
        raise ConfigError(
            f"sites make: split: found {split}, expected fractions for training, validation and test that "
            "add up to 1, the first positive"
        )
