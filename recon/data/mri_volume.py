"""A checked k-space file: facts in memory, slices read on demand."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physics import ifft2c, root_sum_of_squares

from ..errors import data_error
from .complex_values import as_complex
from .hdf5_file import dataset_of, opened, read_part
from .image_header import ImageHeader, read_image_header
from .mri_header import Header
from .sample import center_crop

#: Largest value of k-space, maps and reconstructions: sums of squares stay finite in single precision.
LARGEST = 1e15
#: Largest difference between the two halves of zero padding as a fraction of the columns. Those of fastMRI differ by up
#: to two columns.
_SYMMETRIC = 0.05


@dataclass(frozen=True, eq=False)
class KSpaceVolume:
    """One k-space file: checked facts; slices are read on demand. No file stays open; pickling is allowed.

    Volumes of other layouts derive from it and override :meth:`_read`.

    Parameters
    ----------
    shape
        ``(slices, coils, readout, phase)``.
    mask
        Mask of the file, bool ``(width,)`` or ``(height, width)``; None where the file has none.
    rss_shape
        ``(height, width)`` of the reconstructions in the file; None where it has none.
    rss_key
        Their dataset: ``reconstruction_rss``, or ``reconstruction_esc`` of a single coil.
    has_maps
        Whether the file holds the true coil maps of a simulation.
    noise_covariance
        Covariance of the noise in k-space, complex ``(coils, coils)``, in squared units of the file; all zero: no
        noise; None: unknown.
    notes
        What the file contradicts or leaves out, and how it is read: one line each, with the path.
    reading
        What the file is read as, in a few words: axes, Fourier convention, scaling, averages.
    parts
        Volumes of the file, where it holds several: a name and the options that open it. This one is the first.
    sources
        Other files that the volume was read from.
    is_calibration
        Whether it is a calibration scan, for the coil maps of another one.
    frames
        Frames of a moving object. Slices of the volume are slices and frames, the slice counts fastest.
    """

    path: Path
    shape: tuple[int, int, int, int]
    header: Header
    mask: Tensor | None = None
    acquisition: str | None = None
    patient_id: str | None = None
    rss_shape: tuple[int, int] | None = None
    rss_key: str = "reconstruction_rss"
    has_maps: bool = False
    noise_covariance: Tensor | None = None
    notes: tuple[str, ...] = ()
    reading: str = ""
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    sources: tuple[Path, ...] = ()
    is_calibration: bool = False
    frames: int = 1
    #: Inode, size in bytes and time of change of the file when it was checked; read from the file.
    version: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        status = self.path.stat()
        object.__setattr__(self, "version", (status.st_ino, status.st_size, status.st_mtime_ns))

    @property
    def description(self) -> str:
        frames = f", {self.frames} frames" if self.frames > 1 else ""
        return f"{self.shape[1]} coils {self.shape[2]}x{self.shape[3]}{frames}"

    @property
    def acquired(self) -> Tensor:
        """Columns that the scanner encoded, bool ``(width,)``; the others are padding."""
        left, right = self.header.padding
        columns = torch.zeros(self.shape[-1], dtype=torch.bool)
        columns[max(left, 0) : max(right, 0)] = True
        return columns

    @property
    def partial_fourier(self) -> float | None:
        """Encoded columns over those of two sides as long as the longer one; None where the sides are alike."""
        columns = self.acquired.nonzero().flatten()
        first, end, width = int(columns.min()), int(columns.max()) + 1, self.shape[-1]
        if not one_sided(first, end, width):
            return None
        return len(columns) / (2 * max(width // 2 - first, end - width // 2))

    @property
    def available(self) -> Tensor:
        """Positions in the file, bool ``(1 | height, width)``: its mask without the padding columns."""
        mask = self.acquired if self.mask is None else self.acquired & self.mask
        return mask if mask.ndim == 2 else mask.unsqueeze(0)

    @property
    def undersampled(self) -> bool:
        """Whether the mask of the file leaves out encoded positions."""
        return self.mask is not None and not bool((self.mask | ~self.acquired).all())

    @property
    def crop_shape(self) -> tuple[int, int]:
        """Size of the displayed and scored image, from the header's reconstruction size or fields of view."""
        return displayed_crop((self.shape[-2], self.shape[-1]), self.header)

    @property
    def pixel_mm(self) -> tuple[float, float] | None:
        """Distance of rows and of columns of the image; None where the header states no field of view."""
        header = self.header
        if header.encoded_fov_mm is not None:  # also of an image without oversampling: its field of view shrank, too
            (rows, columns), (height, width) = header.encoded_fov_mm, header.encoded_shape
        elif header.recon_fov_mm is not None and self.crop_shape == header.recon_shape:
            (rows, columns), (height, width) = header.recon_fov_mm, header.recon_shape
        else:
            return None
        return rows / height, columns / width

    def image_header(self) -> ImageHeader:
        """What the file states of its images."""
        return read_image_header(
            self.path, self.shape[0], modality="MR", shape=self.crop_shape, pixel_mm=self.pixel_mm,
            patient_id=self.patient_id,
        )  # fmt: skip

    def read_slice(self, index: int) -> Tensor:
        """k-space of one slice, complex64 ``(coils, height, width)``; nothing else of the file is read.

        Raises
        ------
        DataError
            If the slice cannot be read, is not finite or exceeds `LARGEST`.
        """
        return torch.from_numpy(self._checked("kspace", index, np.complex64).reshape(self.shape[1:]))

    def read_rss(self, index: int) -> Tensor:
        """Reconstruction of one slice in the file, float32 ``(height, width)``."""
        if self.rss_shape is None:
            raise data_error(self.path, self.rss_key, "nothing", "a reconstruction", "use another reference")
        return torch.from_numpy(self._checked(self.rss_key, index, np.float32))

    def plain_image(self, index: int, shape: tuple[int, int]) -> Tensor | None:
        """Root sum of squares of the coil images of one slice, cropped to a shape; None: the file shows no image."""
        return center_crop(root_sum_of_squares(ifft2c(self.read_slice(index) * self.available)), shape)

    def read_maps(self, index: int) -> Tensor:
        """True coil maps of one simulated slice, complex64 ``(coils, height, width)``."""
        if not self.has_maps:
            raise data_error(self.path, "maps", "nothing", "true coil maps", 'estimate them (maps = "espirit")')
        return torch.from_numpy(self._checked("maps", index, np.complex64))

    def _checked(self, what: str, index: int, dtype: type[np.generic]) -> np.ndarray[Any, Any]:
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"KSpaceVolume: slice {index} of {self.path}, expected 0 to {self.shape[0] - 1}")
        array, key = self._read(what, index), f"{what}[{index}]"
        parts = array.view(array.real.dtype) if array.flags.c_contiguous else np.stack((array.real, array.imag))
        largest = max(parts.max(), -parts.min())  # faster than abs; NaN stays NaN
        if not np.isfinite(largest):
            raise data_error(self.path, key, "NaN or infinite values", "finite values", "repair or leave out the file")
        if largest > LARGEST:
            found, expected = f"values up to {largest:.0e}", f"at most {LARGEST:.0e}: squares must not overflow"
            raise data_error(self.path, key, found, expected, "scale the file")
        return np.require(array, dtype, "W")

    def _read(self, what: str, index: int) -> np.ndarray[Any, Any]:
        """One slice of ``kspace``, `rss_key` or ``maps``."""
        with opened(self.path) as file:
            dataset = dataset_of(file, self.path, what)
            # Maps may be one set for all slices.
            values = read_part(dataset, self.path, () if what == "maps" and dataset.ndim == 3 else index)
        return as_complex(values) if what == "kspace" else values


def one_sided(first: int, end: int, width: int) -> bool:
    """Whether columns ``first:end`` of ``width`` lie on one side of the center more than on the other."""
    return abs((width // 2 - first) - (end - width // 2)) > max(2, _SYMMETRIC * width)


def displayed_crop(image_shape: tuple[int, int], header: Header) -> tuple[int, int]:
    """The center crop that is displayed: the header's reconstruction size, or the same field of view.

    The two differ where the scanner interpolates, so that the reconstruction has more pixels than were encoded: then
    each axis is cut to the part of the encoded field of view that ``fieldOfView_mm`` of the reconstruction leaves.
    Without fields of view only the axes that fit are cut. Never is a tenth of the stated field of view cut away.

    Parameters
    ----------
    image_shape
        ``(height, width)`` of the encoded image.
    header
        Its sizes and fields of view.
    """
    wanted = header.recon_shape
    if header.encoded_fov_mm is None or header.recon_fov_mm is None:
        kept = wanted
    else:
        # Not the size of the image: oversampling may have been removed already.
        fields = zip(header.encoded_shape, header.recon_fov_mm, header.encoded_fov_mm, strict=True)
        height, width = (max(round(size * recon / encoded), 1) for size, recon, encoded in fields)
        kept = (height, width)
    fits = all(want <= size for want, size in zip(wanted, image_shape, strict=True))
    if fits and all(keep <= 1.1 * want for keep, want in zip(kept, wanted, strict=True)):
        return wanted
    return min(kept[0], image_shape[0]), min(kept[1], image_shape[1])


def fitting_crop(image_shape: tuple[int, int], recon_shape: tuple[int, int]) -> tuple[int, int]:
    """The center crop that fastMRI scores: the reconstruction size, or a square where the image is too narrow.

    Parameters
    ----------
    image_shape
        ``(height, width)`` of the encoded image.
    recon_shape
        Reconstruction size of the header or shape of the target. If it does not fit into the image, the crop
        is a square with the image's shorter side.
    """
    if all(wanted <= size for wanted, size in zip(recon_shape, image_shape, strict=True)):
        return recon_shape
    side = min(image_shape)
    return (side, side)
