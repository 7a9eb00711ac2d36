"""Labels of images of people: grouped into classes, carried to the simulated scans, and written beside them."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon import ImageHeader, TaskKind, data_error, read_images, write_atomically, write_label_map

from ..config import config_error
from .people import PersonImage

#: Labels below the folder of a site's data: a map for every file, and a table of classes of slices.
MAPS, TABLE = "labels/{stem}.nii.gz", "labels.csv"
#: Fewest pixels of a slice in which a class counts as present.
LEAST_PIXELS = 4


@dataclass(frozen=True)
class ImageLabels:
    """Label images beside images of people, and the classes of a downstream task that their values mean.

    Parameters
    ----------
    pattern
        File of the labels, relative to the folder of the image: ``{stem}`` is the name of the image without end,
        ``{person}`` the person.
    classes
        Values of every class. All other values are background.
    kind
        Labels that the manifests name.
    """

    pattern: str
    classes: Mapping[str, tuple[int, ...]]
    kind: TaskKind = "segmentation"

    def read(self, image: PersonImage) -> Tensor:
        """Classes of the slices of a person, uint8 ``(slices, height, width)`` as :func:`recon.read_images` shows them.

        Raises
        ------
        DataError
            If the labels cannot be read, or lie in another place than the image.
        """
        stem = re.sub(r"\.nii(\.gz)?$", "", image.file.name, flags=re.IGNORECASE)
        path = image.file.parent / self.pattern.replace("{stem}", stem).replace("{person}", image.person)
        _require_same_place(image.file, path)
        values = _read(path)
        if image.slices is not None:
            values = values[image.slices[0] : image.slices[1] + 1]
        classes = torch.zeros_like(values, dtype=torch.uint8)
        for number, own in enumerate(self.classes.values(), start=1):
            classes[torch.isin(values, torch.tensor(own))] = number
        return classes

    def section(self) -> dict[str, Any]:
        """``[task]`` of the manifests."""
        return task_section(self.kind, tuple(self.classes))


@dataclass(frozen=True)
class Slices:
    """Slices of a person, and their classes on the same grid; None: no labels."""

    images: Tensor
    classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: Tensor | slice) -> "Slices":
        return Slices(self.images[chosen], None if self.classes is None else self.classes[chosen])

    def blocks(self, most: int) -> list["Slices"]:
        """Equal parts of at most so many slices."""
        parts = torch.arange(len(self)).chunk(-(-len(self) // most))
        return [self[part] for part in parts]


def parse_classes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Classes from texts as ``ventricles=4,11,49-52``.

    Raises
    ------
    ConfigError
        If one cannot be read, a name is there twice, or a value belongs to two classes.
    """
    classes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, listed = text.partition("=")
        parts = [re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip()) for part in listed.split(",")]
        spans = [(int(part[1]), int(part[2] or part[1])) for part in parts if part is not None]
        name, fits = name.strip(), len(spans) == len(parts) and all(low <= high for low, high in spans)
        if not name or name in classes or not fits:
            expected = "a name that is there once, and values from 0, as in ventricles=4,11,49-52"
            raise config_error("sites make", "--classes", repr(text), expected, "correct it")
        classes[name] = tuple(value for low, high in spans for value in range(low, high + 1))
    values = [value for own in classes.values() for value in own]
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise config_error("sites make", "--classes", f"value {twice[0]} twice", "every value once", "correct it")
    return classes


def require_classes(labels: ImageLabels, present: Sequence[Tensor]) -> None:
    """Refuse a class whose values no label image has.

    Raises
    ------
    ConfigError
        If there is one.
    """
    for number, (name, values) in enumerate(labels.classes.items(), start=1):
        if not any(bool((classes == number).any()) for classes in present):
            found = f"no pixel with the values {', '.join(map(str, values))} of {name} in any slice"
            raise config_error("sites make", "--classes", found, "values of the label images", "correct it")


def task_section(kind: TaskKind, classes: Sequence[str]) -> dict[str, Any]:
    """``[task]`` of a manifest whose labels :func:`write_labels` and :func:`write_table` wrote."""
    return {"kind": kind, "classes": list(classes), "labels": MAPS if kind == "segmentation" else TABLE}


def write_labels(scan: Path, classes: Tensor, header: ImageHeader) -> None:
    """Write the label map of a scan, on its displayed images."""
    write_label_map(scan.parent / MAPS.format(stem=scan.stem), classes, header)


def write_table(folder: Path, names: Sequence[str], classes: Mapping[str, Tensor]) -> None:
    """Write which slice shows which class, from the label maps of the files in a folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "slice", *names))
    for file, maps in classes.items():
        counts = [(maps == number).sum((-2, -1)) for number in range(1, len(names) + 1)]
        for i, pixels in enumerate(torch.stack(counts, dim=1).tolist()):
            writer.writerow((file, i, *(int(n >= LEAST_PIXELS) for n in pixels)))
    write_atomically(folder / TABLE, text.getvalue().encode())


@lru_cache(maxsize=1)  # files that hold several persons stand one after another
def _read(path: Path) -> Tensor:
    return read_images(path, labels=True).round().long()


def _require_same_place(image: Path, labels: Path) -> None:
    """Refuse labels whose corners are not those of the image, to half a pixel, whatever the order of axes."""
    if not labels.is_file():
        expected, advice = f"labels of {image.name}", "correct --labels, or leave the image out"
        raise data_error(labels, "file", "nothing", expected, advice)
    for path in (image, labels):
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            expected, advice = "NIfTI images and labels, whose places can be compared", "convert both"
            raise data_error(path, "file", "another format", expected, advice)
    own, wanted = _Voxels.of(labels), _Voxels.of(image)
    distance = np.linalg.norm(own.corners[:, None] - wanted.corners, axis=-1).min(1).max()
    if sorted(own.shape) != sorted(wanted.shape) or distance > wanted.edge / 2:
        found = f"{' x '.join(map(str, own.shape))} voxels with corners {distance:.1f} mm beside those of the image"
        expected = f"the {' x '.join(map(str, wanted.shape))} voxels of {image.name}"
        raise data_error(labels, "affine", found, expected, "resample the labels to the image")


@dataclass(frozen=True)
class _Voxels:
    """Shape, centers of the corners in mm, and shortest edge of the voxels of a NIfTI file."""

    shape: tuple[int, ...]
    corners: Any
    edge: float

    @classmethod
    def of(cls, path: Path) -> "_Voxels":
        import nibabel  # late: slow to import

        try:
            image: Any = nibabel.load(path)
        except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
            raise data_error(path, "file", f"no readable NIfTI ({error})", "a NIfTI volume", "copy it again") from None
        shape = (*image.shape, 1, 1)[:3]
        ends = np.array(np.meshgrid(*((0, n - 1) for n in shape))).reshape(3, -1).T
        corners = nibabel.affines.apply_affine(image.affine, ends)  # type: ignore[no-untyped-call]
        return cls(shape, corners, float(nibabel.affines.voxel_sizes(image.affine).min()))  # type: ignore[no-untyped-call]
