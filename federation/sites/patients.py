"""The patients of a site, as the units of differential privacy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recon import VolumeSlices

from .manifest import SiteManifest, names_person
from .manifest_schema import Split


@dataclass(frozen=True)
class Patients:
    """Slices of each patient in a split, by the subject of the manifest; ``unnamed`` files count as a patient each."""

    slices: Mapping[str, Sequence[int]]
    unnamed: int

    def __len__(self) -> int:
        return len(self.slices)


def patients_of(manifest: SiteManifest, samples: VolumeSlices, split: Split = "train") -> Patients:
    """The patients in `samples`, the slices of a split of a site, see :meth:`SiteManifest.subject`."""
    slices: dict[str, list[int]] = {}
    for number, (name, volume) in enumerate(zip(getattr(manifest.data, split), samples.volumes, strict=True)):
        first = samples.first(number)
        slices.setdefault(manifest.subject(name, volume.patient_id), []).extend(
            range(first, first + samples.n_slices(number))
        )
    return Patients(slices, sum(not names_person(subject) for subject in slices))
