"""Write sites: simulated files, manifests and lock files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from recon import MODALITIES, seed_from, write_atomically

from ..config import config_error, store_plugins
from ..worker_pool import run_jobs
from .lock_file import LockedFile, lock_file, lock_path, write_lock
from .manifest import SiteManifest, parse_manifest
from .manifest_schema import SPLITS, Split

#: Split and name of the files of every site.
Files = Mapping[str, Sequence[tuple[Split, str]]]


class Simulated(Protocol):
    """A site to simulate."""

    @property
    def name(self) -> str: ...

    @property
    def unseen(self) -> bool: ...

    @property
    def simulate(self) -> Any:
        """Retrospective degradation, a dataclass; None: none."""

    def manifest_keys(self) -> dict[str, Any]:
        """Further keys of the manifest and of its ``[acquisition]``."""


Scanner = TypeVar("Scanner", bound=Simulated)
Result = TypeVar("Result")


def write_simulated_sites(
    out: Path,
    sites: Sequence[Scanner],
    files: Files,
    write: Callable[[tuple[Scanner, str]], None],
    origin: str | Mapping[str, str],
    *,
    synthetic: bool,
    overwrite: bool,
    jobs: int = 1,
) -> list["MadeSite"]:
    """Write ``data/<site>/<file>`` of every site with ``write``, a function of site and file name; then manifests.

    ``origin`` is that of all sites, or of every site by name.

    Raises
    ------
    ConfigError
        If a file exists and may not be replaced; nothing is written then.
    """
    write_scans(out, sites, files, write, overwrite=overwrite, jobs=jobs)
    return write_manifests(out, sites, files, origin, synthetic=synthetic, overwrite=overwrite)


def write_scans(
    out: Path,
    sites: Sequence[Scanner],
    files: Files,
    write: Callable[[tuple[Scanner, str]], Result],
    *,
    overwrite: bool,
    jobs: int = 1,
) -> dict[tuple[str, str], Result]:
    """Results of ``write`` by site and file; parameters and errors of :func:`write_simulated_sites`."""
    if not overwrite:
        for site, named in files.items():
            manifest = out / f"{site}.toml"
            require_absent(manifest, lock_path(manifest), *(out / "data" / site / name for _, name in named))
    work = [(site, name) for site in sites for _, name in files[site.name]]
    results = run_jobs(write, work, jobs, what="simulating", unit="files")
    return {(site.name, name): result for (site, name), result in zip(work, results, strict=True)}


def write_manifests(
    out: Path,
    sites: Sequence[Simulated],
    files: Files,
    origin: str | Mapping[str, str],
    *,
    synthetic: bool,
    overwrite: bool,
    task: Mapping[str, Any] | None = None,
) -> list["MadeSite"]:
    """Manifests of the scans of :func:`write_simulated_sites`; ``task`` is the section of all sites."""
    origins = {site.name: origin if isinstance(origin, str) else origin[site.name] for site in sites}
    tables = [_table(site, files[site.name], origins[site.name], synthetic) for site in sites]
    section = {} if task is None else {"task": task}
    return write_sites(out, [table | section for table in tables], overwrite=overwrite)


def _table(site: Simulated, files: Sequence[tuple[Split, str]], origin: str, synthetic: bool) -> dict[str, Any]:
    keys = site.manifest_keys()
    table = {
        "name": site.name,
        "synthetic": synthetic,
        "unseen": site.unseen,
        **keys,
        "acquisition": {"origin": origin, **keys.get("acquisition", {})},
        "data": {"root": f"data/{site.name}"} | {s: [file for of, file in files if of == s] for s in SPLITS},
    }
    return table | simulated(site.simulate)


def simulated(simulate: Any) -> dict[str, Any]:
    """``modality`` and ``[simulate]`` of a manifest from a simulation; empty for None."""
    if simulate is None:
        return {}
    modality = next(kind.name for kind in MODALITIES.values() if isinstance(simulate, kind.simulation))
    return {
        "modality": modality,
        "simulate": {key: value for key, value in asdict(simulate).items() if value is not None},
    }


def phantom_files(sites: Sequence[Simulated], train: int, validation: int, test: int) -> Files:
    """Files of every site, with this many volumes for each split."""
    return {
        site.name: [
            (split, f"{site.name}_{split}_{number:03d}.h5")
            for split, count in zip(SPLITS, (train, validation, test), strict=True)
            for number in range(count)
        ]
        for site in sites
    }


def require_different(names: Sequence[str]) -> None:
    """Refuse images of which two have one name."""
    if len(set(names)) < len(names):
        raise config_error("sites make", "images", ", ".join(names), "different names", "rename one")


def seed_of(seed: int, name: str, purpose: str) -> int:
    """Derived seed of a file for one purpose."""
    return seed_from(f"{seed} {name} {purpose}", bits=32)


@dataclass(frozen=True)
class MadeSite:
    """A site that was written, and its number of subjects per split."""

    name: str
    path: Path
    subjects: dict[Split, int]

    @property
    def missing(self) -> tuple[Split, ...]:
        """Splits without a subject."""
        return tuple(split for split in SPLITS if not self.subjects[split])


def write_sites(out: Path | str, tables: Sequence[Mapping[str, Any]], *, overwrite: bool = False) -> list[MadeSite]:
    """Write manifests with their lock files and plugins, each file atomically, after all were checked.

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
        store_plugins(manifest.plugins, out)
        # The lock last: a manifest without one is checked all the same.
        write_atomically(manifest.path, manifest.to_toml().encode())
        write_lock(manifest.path, lock)
    return [MadeSite(m.name, m.path, {s: len(subjects_of(m, s, lock)) for s in SPLITS}) for m, lock in made]


def require_absent(*paths: Path) -> None:
    """Refuse files that exist.

    Raises
    ------
    ConfigError
        If one does.
    """
    for path in paths:
        if path.exists():
            raise config_error(path, "", "a file from before", "a new one", "use another folder or --overwrite")


def locked_file(manifest: SiteManifest, name: str) -> LockedFile:
    """Size, checksum, patient and labels of a file of a site."""
    file = manifest.root / name
    locked = lock_file(file, manifest.open(file).patient_id)
    return locked.model_copy(update={"labels": manifest.label_digest(file)})


def subjects_of(manifest: SiteManifest, split: Split, lock: Mapping[str, LockedFile]) -> set[str]:
    """Subjects of a split."""
    names: tuple[str, ...] = getattr(manifest.data, split)
    return {manifest.subject(name, lock[name].patient_id) for name in names}
