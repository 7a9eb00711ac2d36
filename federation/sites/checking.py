"""Check the sites of a federation: every byte, every slice, every person."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recon import DataError, doing, label_warnings, naming_file, write_atomically

from .label_counts import LabelFacts, count_labels, labels_of_split, missing_classes
from .lock_file import LockedFile, read_lock, write_lock
from .manifest import SiteManifest, names_person
from .manifest_files import read_federation, without_files
from .manifest_schema import SPLITS, Split
from .subjects import people_across_sites, unnamed_people
from .unusable import refuse
from .writing import locked_file, subjects_of

#: Version of the checks in the lock files: a new one makes `fedrecon train` check all files again.
CHECKS = 2


@dataclass(frozen=True)
class SplitFacts:
    """Content of a split of a site.

    ``measured`` describes the kinds of its volumes; ``accelerations`` are their lowest and highest effective
    acceleration; ``calibration`` are the fewest and most lines of their fully sampled centers, None where no operator
    is calibrated; ``labels`` count those of a downstream task, None without ``[task]``; ``warnings`` are those of
    :meth:`recon.VolumeSlices.check`, one line each.
    """

    split: Split
    files: int
    subjects: int
    slices: int
    measured: tuple[str, ...]
    accelerations: tuple[float, float]
    calibration: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()
    labels: LabelFacts | None = None


@dataclass(frozen=True)
class SiteFacts:
    """Result of :func:`check_sites` for a site.

    ``role`` is ``trains``, ``test only`` or ``unseen``. The lock file was ``verified``, ``written`` if there was none,
    or ``updated`` if the manifest lists other files. ``warnings`` are about its people and its labels.
    """

    name: str
    role: str
    lock: str
    splits: tuple[SplitFacts, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _CheckedFile:
    """A file that passed, with its new entry in the lock file."""

    locked: LockedFile
    slices: int
    description: str
    acceleration: float
    calibration: int | None
    warnings: tuple[str, ...]
    labels: LabelFacts | None


@dataclass(frozen=True)
class _SiteCheck:
    """A site with the content of its lock file, the files that passed, and the errors of the others."""

    manifest: SiteManifest
    old: Mapping[str, LockedFile]
    passed: Mapping[str, _CheckedFile]
    faults: Mapping[str, Exception]

    @property
    def lock(self) -> dict[str, LockedFile]:
        """New content of the lock file; a file that was not checked keeps its entry."""
        new = {**self.old, **{name: file.locked for name, file in self.passed.items()}}
        return {name: new[name] for _, name in self.manifest.data.named()}

    @property
    def warnings(self) -> list[str]:
        """Warning that files count as people, where the site has several splits."""
        lock, splits = self.lock, [split for split in SPLITS if self.manifest.files(split)]
        unnamed = [n for n in lock if not names_person(self.manifest.subject(n, lock[n].patient_id))]
        people = unnamed_people(self.manifest.path, unnamed) if len(splits) > 1 else []
        # Of some training files alone nothing follows.
        checked = all(name in self.passed for name in self.manifest.data.train)
        return [*people, *(missing_classes(self.manifest, self.labels("train")) if checked else [])]

    def labels(self, split: Split) -> LabelFacts | None:
        """Labels of a split whose files have all passed; None: without ``[task]``."""
        names: tuple[str, ...] = getattr(self.manifest.data, split)
        lock = self.lock
        people = [self.manifest.subject(name, lock[name].patient_id) for name in names]
        return labels_of_split(people, [self.passed[name].labels for name in names])


def check_sites(folder: Path | str, *, skip_bad: bool = False) -> list[SiteFacts]:
    """Check every byte and every slice of a federation; write missing lock files.

    Parameters
    ----------
    skip_bad
        Remove files that cannot be used from the manifests, with a warning for each.

    Raises
    ------
    DataError
        If a manifest or file cannot be used, or the checksum of a file differs from the lock file; of several such
        files, one line for each.
    """
    checks = []
    for manifest in read_federation(folder):
        old = read_lock(manifest.path)
        checks.append(_check_site(manifest, old, [name for _, name in manifest.data.named()]))
    faults = [fault for check in checks for fault in check.faults.values()]
    if skip_bad and faults:
        if lost := [check.manifest.name for check in checks if not check.passed]:
            refuse(faults, skip_bad=False, advice=f"site {lost[0]} has no other; correct them, or remove its manifest")
        # All manifests, before any is written.
        left = [without_files(check.manifest, check.faults) for check in checks]
        refuse(faults, skip_bad=True)
        for text, manifest in left:
            write_atomically(manifest.path, text.encode())
        checks = [replace(check, manifest=manifest) for check, (_, manifest) in zip(checks, left, strict=True)]
    else:
        refuse(faults, skip_bad=False)
    across = _require_people(checks)
    facts = []
    for check in checks:
        manifest, lock = check.manifest, check.lock
        same = _contents(lock) == _contents(check.old)
        if lock != check.old:
            with contextlib.suppress(*[DataError] * same):  # marks alone: the folder may be read-only
                write_lock(manifest.path, lock)
        state = "verified" if same else "updated" if check.old else "written"
        role = "unseen" if manifest.unseen else "trains" if manifest.trains else "test only"
        splits = tuple(_split_facts(check, split) for split in SPLITS if manifest.files(split))
        facts.append(SiteFacts(manifest.name, role, state, splits, (*check.warnings, *across[manifest.name])))
    return facts


def load_checked(folder: Path | str, say: Callable[[str], None]) -> list[SiteManifest]:
    """Read every manifest in a folder, and check every file whose entry in the lock file does not say that it passed.

    A second call checks nothing, unless files, manifests or the checks have changed since. ``say`` prints the number
    of files and the warnings.

    Raises
    ------
    DataError
        As :func:`check_sites`.
    """
    manifests = read_federation(folder)
    check_new(manifests, say)
    return manifests


def check_new(manifests: Sequence[SiteManifest], say: Callable[[str], None]) -> None:
    """Check every file whose entry in the lock file does not say that it passed, see :func:`load_checked`."""
    locks = [read_lock(manifest.path) for manifest in manifests]
    new = [_unchecked(manifest, lock) for manifest, lock in zip(manifests, locks, strict=True)]
    for manifest in manifests:
        manifest.torch_device()
    if any(new):
        say(f"checking {(count := sum(map(len, new)))} file{'s' * (count > 1)}, once ...")
    checks = [_check_site(*each) for each in zip(manifests, locks, new, strict=True)]
    faults = [fault for check in checks for fault in check.faults.values()]
    refuse(faults, skip_bad=False, advice="correct them, or leave them out with `fedrecon sites check --skip-bad`")
    across = _require_people(checks)
    for check in checks:
        if not check.passed:
            continue
        for line in grouped([*_file_warnings(check.passed.values()), *check.warnings, *across[check.manifest.name]]):
            say(f"warning: {line}")
        try:
            write_lock(check.manifest.path, check.lock)
        except DataError as error:  # the folder may be read-only
            say(f"note: {error}; its files are checked again the next time")


def grouped(warnings: Sequence[str]) -> list[str]:
    """One line for all warnings of a kind: those that differ in their path, in numbers and in nothing else."""
    kinds: dict[str, list[str]] = {}
    for warning in warnings:
        kinds.setdefault(re.sub(r"[\d.]+", "0", warning.partition(": ")[2]), []).append(warning)
    lines = []
    for first, *others in kinds.values():
        texts = {line.partition(": ")[2] for line in (first, *others)}
        how = "also" if len(texts) == 1 else "also, with other numbers"
        paths = [line.partition(": ")[0] for line in (first, *others)]
        short = [Path(path).name for path in paths]
        names = ", ".join((short if len(set(short)) == len(short) else paths)[1:])
        lines.append(f"{first}; {how}: {names}" if others else first)
    return lines


def _unchecked(manifest: SiteManifest, lock: Mapping[str, LockedFile]) -> list[str]:
    wanted = _conditions(manifest)
    return [name for _, name in manifest.data.named() if name not in lock or lock[name].checked != wanted]


def _conditions(manifest: SiteManifest) -> str:
    """Digest of all that the result of a check depends on, beside the file."""
    lists = {"root", "persons", *SPLITS}
    told = manifest.model_dump(mode="json", include={"modality", "plugins", "simulate", "data", "task"})
    if manifest.task is None:
        del told["task"]
    told["data"] = {key: value for key, value in told["data"].items() if key not in lists}
    return hashlib.sha256(json.dumps([CHECKS, told], sort_keys=True).encode()).hexdigest()[:16]


def _contents(lock: Mapping[str, LockedFile]) -> dict[str, tuple[str, str | None]]:
    """Checksums in a lock file, of files and of their labels."""
    return {name: (entry.sha256, entry.labels) for name, entry in lock.items()}


def _check_site(manifest: SiteManifest, old: Mapping[str, LockedFile], names: Collection[str]) -> _SiteCheck:
    manifest.require_root()
    passed: dict[str, _CheckedFile] = {}
    faults: dict[str, Exception] = {}
    for split, name in manifest.data.named():
        try:
            if name in names:
                with doing(f"checking {name}"):
                    passed[name] = _check_file(manifest, split, name, old.get(name))
            else:
                manifest.require_file(split, name, old[name], hashes=False)
        except (DataError, OSError) as error:
            faults[name] = error
    return _SiteCheck(manifest, old, passed, faults)


def _check_file(manifest: SiteManifest, split: Split, name: str, locked: LockedFile | None) -> _CheckedFile:
    manifest.require_file(split, name, locked, hashes=True)
    with naming_file(file := manifest.root / name, "file"):
        samples = manifest.samples([file])
        warnings, acceleration = tuple(samples.check(0)), samples.acceleration(0)
        calibration, labels = samples.calibration(0), count_labels(samples)
        if not manifest.synthetic:  # labels drawn with the scan fit; small ones may fit bone or air better by chance
            warnings += tuple(label_warnings(samples))
    marks = {"checked": _conditions(manifest), "labels": manifest.label_digest(file)}
    locked, what = (locked or locked_file(manifest, name)).model_copy(update=marks), samples.volumes[0].description
    return _CheckedFile(locked, len(samples), what, acceleration, calibration, warnings, labels)


def _require_people(checks: Sequence[_SiteCheck]) -> dict[str, list[str]]:
    """Refuse a subject in two splits, and the same bytes twice; warnings of people at two sites, by site."""
    for check in checks:
        check.manifest.check_files(check.lock)
    return people_across_sites([(check.manifest, check.lock) for check in checks])


def _split_facts(check: _SiteCheck, split: Split) -> SplitFacts:
    files = [check.passed[name] for name in getattr(check.manifest.data, split)]
    accelerations = [file.acceleration for file in files]
    lines = [file.calibration for file in files if file.calibration is not None]
    return SplitFacts(
        split=split,
        files=len(files),
        subjects=len(subjects_of(check.manifest, split, check.lock)),
        slices=sum(file.slices for file in files),
        measured=tuple(sorted({file.description for file in files})),
        accelerations=(min(accelerations), max(accelerations)),
        calibration=(min(lines), max(lines)) if lines else None,
        warnings=_file_warnings(files),
        labels=check.labels(split),
    )


def _file_warnings(files: Iterable[_CheckedFile]) -> tuple[str, ...]:
    return tuple(warning for file in files for warning in file.warnings)
