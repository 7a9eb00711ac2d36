"""Make sites from a folder of fastMRI files, and check the sites of a federation."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from physics import ParallelBeam
from recon import Simulation, SinogramVolume, Volume, open_volume, write_atomically

from .errors import ConfigError, config_error
from .lock import LockedFile, lock_file, lock_path, read_lock, write_lock
from .manifest import SiteManifest, expand_variables, parse_manifest, read_federation, subject
from .manifest_tables import SPLITS, Split
from .splits import assign_splits
from .tables import nearest

#: What a folder of files may be grouped by; every value comes from the header or an attribute.
GROUPINGS: dict[str, Callable[[Volume], str | None]] = {
    "vendor": lambda volume: volume.header.vendor,
    "model": lambda volume: volume.header.model,
    "field": lambda volume: None if volume.header.field_T is None else f"{volume.header.field_T:.1f}T",
    "contrast": lambda volume: volume.acquisition,
    "coils": lambda volume: f"{volume.shape[1]}coils",
}

#: Undersampling of sites made from fully sampled files unless another is given: that of fastMRI's 4x track.
FASTMRI_4X = Simulation("random", 4, 0.08)


@dataclass(frozen=True)
class MadeSite:
    """A site that was written: number of subjects per split, and the splits for which there were too few."""

    name: str
    path: Path
    subjects: dict[Split, int]

    @property
    def missing(self) -> tuple[Split, ...]:
        """Splits without a subject."""
        return tuple(split for split in SPLITS if not self.subjects[split])


@dataclass(frozen=True)
class SplitFacts:
    """What a split of a site holds.

    ``measured`` describes the kinds of its volumes, ``accelerations`` are their lowest and highest effective one.
    """

    split: Split
    files: int
    subjects: int
    slices: int
    measured: tuple[str, ...]
    accelerations: tuple[float, float]


@dataclass(frozen=True)
class SiteFacts:
    """What :func:`check_sites` found at a site.

    ``role`` is ``trains``, ``test only`` or ``unseen``; ``lock`` says whether the lock file was ``verified``,
    ``written`` because there was none, or ``updated`` because the manifest lists other files than it.
    """

    name: str
    role: str
    lock: str
    splits: tuple[SplitFacts, ...]


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


def write_sites(out: Path | str, tables: Sequence[Mapping[str, Any]], *, overwrite: bool = False) -> list[MadeSite]:
    """Write manifests with their lock files, each atomically, after all of them were checked.

    Raises
    ------
    ConfigError
        If a manifest is not valid, a file is missing, or one to be written exists and may not be replaced.
    """
    out = Path(out)
    made = []
    for table in tables:
        path = out / f"{table['name']}.toml"
        manifest = parse_manifest(table, path)
        if not overwrite:
            require_absent(path, lock_path(path))
        lock = {name: _locked(manifest, name) for _, name in manifest.data.named()}
        manifest.check_files(lock)
        made.append((manifest, lock))
    for manifest, lock in made:
        # The lock last: a manifest without one is checked all the same.
        write_atomically(manifest.path, manifest.to_toml().encode())
        write_lock(manifest.path, lock)
    return [MadeSite(m.name, m.path, {s: len(_subjects(m, s, lock)) for s in SPLITS}) for m, lock in made]


def require_absent(*paths: Path) -> None:
    """Raise a ConfigError for the first path that exists."""
    for path in paths:
        if path.exists():
            raise config_error(path, "", "a file from before", "a new one", "use another folder or --overwrite")


def check_sites(folder: Path | str) -> list[SiteFacts]:
    """Check every byte and every slice of a federation; write the lock files that are missing.

    Raises
    ------
    DataError
        At the first manifest or file that cannot be used, or whose checksum differs from the lock file.
    """
    return [_check_site(manifest) for manifest in read_federation(folder)]


def facts_table(facts: Sequence[SiteFacts]) -> str:
    """The facts as an aligned text table, one row per site and split."""
    header = (
        "site",
        "role",
        "lock",
        "split",
        "files",
        "subjects",
        "slices",
        "measured",
        "acceleration",
    )
    rows = [header]
    for site in facts:
        for index, part in enumerate(site.splits):
            low, high = (f"{value:.2f}" for value in part.accelerations)
            rows.append(
                (
                    *((site.name, site.role, site.lock) if index == 0 else ("", "", "")),
                    part.split,
                    str(part.files),
                    str(part.subjects),
                    str(part.slices),
                    ", ".join(part.measured),
                    low if low == high else f"{low}-{high}",
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _check_site(manifest: SiteManifest) -> SiteFacts:
    manifest.verify(hashes=True)
    old = read_lock(manifest.path)
    lock = {name: old.get(name) or _locked(manifest, name) for _, name in manifest.data.named()}
    # Once more with what the files say of themselves: their patients and whether two hold the same bytes.
    manifest.check_files(lock)
    splits = tuple(_split_facts(manifest, split, lock) for split in SPLITS if manifest.files(split))
    if lock != old:
        write_lock(manifest.path, lock)
    state = "verified" if lock == old else "updated" if old else "written"
    role = "unseen" if manifest.unseen else "trains" if manifest.trains else "test only"
    return SiteFacts(manifest.name, role, state, splits)


def _locked(manifest: SiteManifest, name: str) -> LockedFile:
    file = manifest.root / name
    return lock_file(file, manifest.open(file).patient_id)


def _split_facts(manifest: SiteManifest, split: Split, lock: Mapping[str, LockedFile]) -> SplitFacts:
    dataset = manifest.dataset(split)
    for volume in dataset.volumes:
        for index in range(volume.shape[0]):
            volume.read_slice(index)
    accelerations = [dataset.acceleration(number) for number in range(len(dataset.volumes))]
    return SplitFacts(
        split=split,
        files=len(dataset.volumes),
        subjects=len(_subjects(manifest, split, lock)),
        slices=len(dataset),
        measured=tuple(sorted({_measured(volume) for volume in dataset.volumes})),
        accelerations=(min(accelerations), max(accelerations)),
    )


def _measured(volume: Volume | SinogramVolume) -> str:
    if isinstance(volume, SinogramVolume):
        (height, width), beam = volume.grid.shape, "parallel" if isinstance(volume.geometry, ParallelBeam) else "fan"
        return f"{beam} beam {volume.shape[1]} views x {volume.shape[2]} elements, {height}x{width}"
    return f"{volume.shape[1]} coils {volume.shape[2]}x{volume.shape[3]}"


def _subjects(manifest: SiteManifest, split: Split, lock: Mapping[str, LockedFile]) -> set[str]:
    names: tuple[str, ...] = getattr(manifest.data, split)
    return {subject(name, lock[name].patient_id) for name in names}


def _group(volumes: Mapping[str, Volume], by: Sequence[str]) -> dict[str, list[str]]:
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


def _shared_facts(volumes: Sequence[Volume]) -> dict[str, Any]:
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
