"""How many persons and files a site has, for cards and reports: counts alone, no names."""

from typing import NamedTuple

from .lock_file import read_lock
from .manifest import SiteManifest, names_person
from .manifest_schema import SPLITS, Split


class SplitCount(NamedTuple):
    """Persons and files of a split; ``unnamed`` files name no person, and are not counted among the persons."""

    persons: int
    unnamed: int
    files: int

    def __str__(self) -> str:
        if not self.files:
            return "none"
        persons = f"{self.persons} persons" if self.persons != 1 else "1 person"
        files = f"{self.files} files" if self.files != 1 else "1 file"
        return f"{persons} in {files}" + (f" ({self.unnamed} name no person)" if self.unnamed else "")


def split_counts(manifest: SiteManifest) -> dict[Split, SplitCount]:
    """Count every split, from the lock file of the manifest where there is one; opens no data file."""
    lock, found = read_lock(manifest.path), {}
    for split in SPLITS:
        files: tuple[str, ...] = getattr(manifest.data, split)
        patients = {name: lock[name].patient_id if name in lock else None for name in files}
        subjects = {manifest.subject(name, patient) for name, patient in patients.items()}
        unnamed = sum(not names_person(subject) for subject in subjects)
        found[split] = SplitCount(len(subjects) - unnamed, unnamed, len(files))
    return found
