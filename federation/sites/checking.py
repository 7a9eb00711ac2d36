"""Check the sites of a federation: every byte, every slice."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .lock_file import LockedFile, read_lock, write_lock
from .manifest import SiteManifest, read_federation
from .manifest_schema import SPLITS, Split
from .writing import locked_file, subjects_of


@dataclass(frozen=True)
class SplitFacts:
    """Content of a split of a site.

    ``measured`` describes the kinds of its volumes; ``accelerations`` are their lowest and highest effective
    acceleration; ``warnings`` are those of :meth:`recon.VolumeSlices.check`, one line each.
    """

    split: Split
    files: int
    subjects: int
    slices: int
    measured: tuple[str, ...]
    accelerations: tuple[float, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class SiteFacts:
    """Result of :func:`check_sites` for a site.

    ``role`` is ``trains``, ``test only`` or ``unseen``. The lock file was ``verified``, ``written`` if there was none,
    or ``updated`` if the manifest lists other files.
    """

    name: str
    role: str
    lock: str
    splits: tuple[SplitFacts, ...]


def check_sites(folder: Path | str) -> list[SiteFacts]:
    """Check every byte and every slice of a federation; write missing lock files.

    Raises
    ------
    DataError
        At the first manifest or file that cannot be used, or file whose checksum differs from the lock file.
    """
    return [_check_site(manifest) for manifest in read_federation(folder)]


def _check_site(manifest: SiteManifest) -> SiteFacts:
    manifest.verify(hashes=True)
    old = read_lock(manifest.path)
    lock = {name: old.get(name) or locked_file(manifest, name) for _, name in manifest.data.named()}
    # Again with patients and checksums: a subject in two splits, the same bytes twice.
    manifest.check_files(lock)
    splits = tuple(_split_facts(manifest, split, lock) for split in SPLITS if manifest.files(split))
    if lock != old:
        write_lock(manifest.path, lock)
    state = "verified" if lock == old else "updated" if old else "written"
    role = "unseen" if manifest.unseen else "trains" if manifest.trains else "test only"
    return SiteFacts(manifest.name, role, state, splits)


def _split_facts(manifest: SiteManifest, split: Split, lock: Mapping[str, LockedFile]) -> SplitFacts:
    dataset = manifest.dataset(split)
    warnings = tuple(warning for number in range(len(dataset.volumes)) for warning in dataset.check(number))
    accelerations = [dataset.acceleration(number) for number in range(len(dataset.volumes))]
    return SplitFacts(
        split=split,
        files=len(dataset.volumes),
        subjects=len(subjects_of(manifest, split, lock)),
        slices=len(dataset),
        measured=tuple(sorted({volume.description for volume in dataset.volumes})),
        accelerations=(min(accelerations), max(accelerations)),
        warnings=warnings,
    )
