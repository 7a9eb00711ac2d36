"""Images of people and measured scans in FEDRECON_DATA, and simulated scans in a folder, for the starter weights.

Measured scans are for testing alone; persons of the validation scans are in none of the training scans.
"""

import os
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import h5py
import nibabel
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from federation.comparison.anatomy_persons import CT_TRAINING, DATA_VARIABLE, IXI, LABELS, LJUBLJANA, MSD, SBU
from physics import (
    CartesianMRI,
    RadonOperator,
    combine_coils,
    equispaced_mask,
    estimate_maps,
    ifft2c,
    random_mask,
)
from recon import (
    CT_SCALE,
    RandomCTScans,
    RandomScans,
    Sample,
    SampleMeta,
    Samples,
    SinogramSlices,
    read_images,
    reduce_matrix,
)

Item = TypeVar("Item")

#: Persons of the validation scans: the last of each collection.
VALIDATION = {"ixi": 4, "ljubljana": 1, "synthseg": 2, "sbu": 2, "msd": 1}


def data_folder() -> Path | None:
    """The folder of images and measured scans; None, with a line, where it is not set."""
    if DATA_VARIABLE not in os.environ:
        print("left out: needs FEDRECON_DATA, the folder of measured data and images of people")
        return None
    return Path(os.environ[DATA_VARIABLE])


def heads(data: Path, validation: bool) -> list[Tensor]:
    """Images of the persons for training, or for validation: magnitudes, or labels as integers."""
    images: list[Tensor] = []
    for path in _chosen(sorted((data / IXI).glob("*_T1.nii.gz")), VALIDATION["ixi"], validation):
        volume = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).get_fdata(), np.float32)
        volume = np.ascontiguousarray(volume[::-1, ::-1].transpose(2, 1, 0))
        for image in torch.from_numpy(volume[24:78:3]):
            images.append(_padded(image, 128) / volume.max())
    patients = sorted({path.name.split("_")[0] for path in (data / LJUBLJANA).glob("*.nii.gz")})
    for patient in _chosen(patients, VALIDATION["ljubljana"], validation):
        for path in sorted((data / LJUBLJANA).glob(f"{patient}_*.nii.gz")):
            volume = np.asarray(nibabel.load(path).get_fdata(), np.float32)
            for z in range(volume.shape[-1]):
                image = torch.from_numpy(np.rot90(volume[..., z]).copy())
                half = [min(n // 4 * 2, 192) for n in image.shape]
                low = reduce_matrix(image, (half[0], half[1]))
                images.append((low / low.flatten().quantile(0.999)).clamp(0, 1.2))
    labels = np.load(data / LABELS)["labels"].astype(np.int64)
    for person in _chosen(list(labels), VALIDATION["synthseg"], validation):
        for number, image in enumerate(torch.from_numpy(person)):
            images.append((image[32:-32, 32:-32] if number % 4 == 0 else image[::2, ::2]).contiguous())
    return images


def _chosen(items: Sequence[Item], last: int, validation: bool) -> Sequence[Item]:
    return items[-last:] if validation else items[:-last]


def _padded(image: Tensor, size: int) -> Tensor:
    out = torch.zeros(size, size)
    top, left = ((size - n) // 2 for n in image.shape)
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out


def bodies(data: Path, validation: bool) -> list[Tensor]:
    """CT images in Hounsfield units of the persons for training, or for validation."""
    images: list[Tensor] = []
    if not validation:
        for name, _ in CT_TRAINING:
            volume = read_images(data / name)
            # The trunk is one person in 112 slices, 3 mm apart.
            images += list(volume[5:-5:2] if len(volume) > 100 else volume)
    pairs = list(read_images(data / SBU).unflatten(0, (-1, 2)))  # two slices a person
    for pair in _chosen(pairs, VALIDATION["sbu"], validation):
        images += list(pair)
    images += _chosen(list(read_images(data / MSD)), VALIDATION["msd"], validation)
    return images


class StoredScans:
    """Samples in a folder, one file each; missing ones are made by ``jobs`` processes."""

    def __init__(self, folder: Path, scans: RandomScans | RandomCTScans, jobs: int) -> None:
        self.folder, self.count = folder, len(scans)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [i for i in range(len(scans)) if not (folder / f"{i}.safetensors").exists()]
        if not missing:
            return
        print(f"simulating {len(missing)} scans into {folder} by {jobs} processes", flush=True)
        with get_context("spawn").Pool(jobs) as pool:
            pool.map(_store, [(folder, scans, missing[k::jobs]) for k in range(jobs)])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        stored = load_file(self.folder / f"{index}.safetensors")
        return Sample(
            measurement=stored["measurement"],
            operator=CartesianMRI(stored["maps"], stored["mask"]),
            noise_std=stored["noise_std"],
            reference=stored["reference"],
            scale=torch.tensor(1.0),
            condition=stored.get("condition"),
            meta=(SampleMeta("random", "random", index, 1.0, "coil_combined"),),
        )


class CachedScans:
    """Samples that are made once and kept in memory: sinograms are small."""

    def __init__(self, *scans: Samples) -> None:
        self.places = [(part, index) for part in scans for index in range(len(part))]
        self._made: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._made:
            part, place = self.places[index]
            self._made[index] = part[place]
        return self._made[index]


def _store(part: tuple[Path, RandomScans, list[int]]) -> None:
    torch.set_num_threads(1)
    folder, scans, numbers = part
    for i in numbers:
        sample = scans[i]
        A: Any = sample.operator
        found = {
            "measurement": sample.measurement,
            "maps": A.maps,
            "mask": A.mask,
            "reference": sample.reference,
            "noise_std": sample.noise_std,
            "condition": sample.condition,
        }
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / f"{i}.tmp")
        (folder / f"{i}.tmp").replace(folder / f"{i}.safetensors")


def measured_heads(data: Path) -> Iterator[tuple[str, Sample]]:
    """Measured heads, kept from training, under masks; maps, noise and scale as at a site."""
    for title, kspace, mask, reference in measured_kspace(data):
        yield title, measured_sample(kspace, mask, reference)


def measured_kspace(data: Path) -> Iterator[tuple[str, Tensor, Tensor, bool]]:
    """K-space ``(coils, height, width)``, mask ``(height or 1, width)``, and whether all of k-space was measured."""
    head = _kspace(data / "mr_kspace_head_t2_4coil" / "head_t2_axial_4coil.h5")
    sagittal = _kspace(data / "mri_kspace" / "head_t1_sagittal_1coil.h5")
    for name, kspace, rates in (
        ("T2 head, 4 coils, 128", _cropped(head, 128), (2, 3, 4)),
        ("T2 head, 4 coils, 256", head, (2, 3, 4)),
        ("sagittal head, 1 coil", sagittal, (2, 3)),
    ):
        for rate in rates:
            for kind, make in (("random", random_mask), ("equispaced", equispaced_mask)):
                yield f"{name}, {rate}x {kind}", kspace, make(kspace.shape[-1], rate, 0.1, 3).mask[None], True
    with h5py.File(data / "mri_kspace" / "head_8coil_poisson_R8.h5") as file:
        kspace, mask = torch.from_numpy(file["kspace"][0]), torch.from_numpy(file["mask"][()]) != 0
    yield "head, 8 coils, Poisson 8x", kspace, mask if mask.ndim == 2 else mask[None], False


def _kspace(path: Path) -> Tensor:
    with h5py.File(path) as file:
        return torch.from_numpy(file["kspace"][0]).to(torch.complex64)


def _cropped(kspace: Tensor, size: int) -> Tensor:
    rows, columns = (slice(n // 2 - size // 2, n // 2 + size // 2) for n in kspace.shape[-2:])
    return kspace[:, rows, columns].contiguous()


def measured_sample(kspace: Tensor, mask: Tensor, reference: bool) -> Sample:
    """The scan under a mask, with the image of all of k-space as its reference."""
    maps = estimate_maps(kspace * mask, mask)
    A = CartesianMRI(maps, mask)
    scale = float(A.start(kspace * mask).abs().max())
    return Sample(
        measurement=kspace * mask / scale,
        operator=A,
        noise_std=A.estimate_noise_std(kspace * mask) / scale,
        reference=combine_coils(ifft2c(kspace), maps) / scale if reference else None,
        scale=torch.tensor(scale),
        condition=None,
        meta=(SampleMeta("measured", "scan", 0, 1.0, "coil_combined" if reference else "none"),),
    )


def measured_discs(data: Path, views: Sequence[int] = (120, 60, 30)) -> Iterator[tuple[str, Sample]]:
    """Discs of the Helsinki challenge with some of their 720 views.

    They have references ``(3, height, width)``: the FBPs of two halves of the other views, and an upper bound of the
    squared aliases. The noise of the halves is independent of each other and of the scan. As the halves lie between
    each other, the aliases of one are those of the other with opposite sign. The bound has the aliases that projections
    of the FBP of all views show, whose noise counts as structure.
    """
    for disc in ("solid_disc", "ta", "tb"):
        path = data / "ct_projections" / "htc2022" / f"htc2022_{disc}_full.mat"
        full = SinogramSlices([path], "measured", format="htc2022", size=256)[0]
        A: Any = full.operator
        place = torch.linspace(-1, 1, A.grid.shape[0])
        seen = A.start(full.measurement) * (torch.hypot(place[:, None], place) < 1)
        projected = A(seen)
        for count in views:
            chosen = np.arange(0, 720, 720 // count)
            others = np.setdiff1d(np.arange(720), chosen)
            halves, aliases = [], []
            for part in (others[::2], others[1::2]):
                of_half = RadonOperator(A.grid, A.geometry.subset(part))
                halves.append(of_half.start(full.measurement[part]))
                aliases.append(of_half.start(projected[part]) - A.start(projected))
            yield (
                f"{disc}, {count} views",
                Sample(
                    measurement=full.measurement[chosen],
                    operator=RadonOperator(A.grid, A.geometry.subset(chosen)),
                    noise_std=full.noise_std,
                    reference=torch.stack([*halves, -aliases[0] * aliases[1]]),
                    scale=torch.tensor(CT_SCALE),
                    condition=None,
                    meta=(SampleMeta("measured", "scan", 0, 721 / count, "attenuation"),),
                ),
            )
