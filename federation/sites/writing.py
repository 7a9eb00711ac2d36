"""Write manifests with their lock files; what the makers of sites share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon import seed_from, write_atomically

from ..config import config_error
from .lock_file import LockedFile, lock_file, lock_path, write_lock
from .manifest import SiteManifest, parse_manifest, subject
from .manifest_schema import SPLITS, Split


def site_table(
    name: str, volumes: Sequence[tuple[Split, str]], origin: str, *, synthetic: bool, unseen: bool
) -> dict[str, Any]:
    """What every manifest of simulated data holds; its files are ``data/<site>/<name>``."""
    return {
        "name": name,
        "synthetic": synthetic,
        "unseen": unseen,
        "acquisition": {"origin": origin},
        "data": {
            "root": f"data/{name}",
            **{split: [file for of, file in volumes if of == split] for split in SPLITS},
        },
    }


def phantom_files(sites: Sequence[str], counts: tuple[int, int, int]) -> dict[str, list[tuple[Split, str]]]:
    """Split and name of every file per site, with so many volumes for training, validation and test."""
    return {
        site: [
            (split, f"{site}_{split}_{number:03d}.h5")
            for split, count in zip(SPLITS, counts, strict=True)
            for number in range(count)
        ]
        for site in sites
    }


def require_room(out: Path, volumes: Mapping[str, Sequence[tuple[Split, str]]], overwrite: bool) -> None:
    """Nothing is simulated before it is known that it may be written."""
    if overwrite:
        return
    for site, files in volumes.items():
        manifest = out / f"{site}.toml"
        require_absent(manifest, lock_path(manifest), *(out / "data" / site / name for _, name in files))


def seed_of(seed: int, name: str, purpose: str) -> int:
    """A seed of its own for every file and purpose."""
    return seed_from(f"{seed} {name} {purpose}", bits=32)


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
        lock = {name: locked_file(manifest, name) for _, name in manifest.data.named()}
        manifest.check_files(lock)
        made.append((manifest, lock))
    for manifest, lock in made:
        # The lock last: a manifest without one is checked all the same.
        write_atomically(manifest.path, manifest.to_toml().encode())
        write_lock(manifest.path, lock)
    return [MadeSite(m.name, m.path, {s: len(subjects_of(m, s, lock)) for s in SPLITS}) for m, lock in made]


def require_absent(*paths: Path) -> None:
    """Raise a ConfigError for the first path that exists."""
    for path in paths:
        if path.exists():
            raise config_error(path, "", "a file from before", "a new one", "use another folder or --overwrite")


def locked_file(manifest: SiteManifest, name: str) -> LockedFile:
    file = manifest.root / name
    return lock_file(file, manifest.open(file).patient_id)


def subjects_of(manifest: SiteManifest, split: Split, lock: Mapping[str, LockedFile]) -> set[str]:
    names: tuple[str, ...] = getattr(manifest.data, split)
    return {subject(name, lock[name].patient_id) for name in names}
