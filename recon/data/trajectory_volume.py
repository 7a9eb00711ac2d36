"""A checked file of samples along a trajectory: facts in memory, slices read on demand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import data_error
from .complex_values import Array
from .hdf5_file import dataset_of, opened, read_part
from .mri_volume import KSpaceVolume, displayed_crop

#: Room for rounding at the edge of k-space, as float32 positions have it.
_ROUNDING = 1e-4

#: Reads samples ``(coils, spokes, samples)``, or positions ``(spokes, samples, 2)``, of one slice.
ReadPart = Callable[[int], Array]


@dataclass(frozen=True, eq=False)
class TrajectoryVolume(KSpaceVolume):
    """Samples along a trajectory, such as a radial or spiral scan; a measurement as it is, without a reference.

    ``shape`` is ``(slices, coils, spokes, samples)``; the header's ``encoded_shape`` is ``(height, width)`` of the
    image that the positions refer to, without oversampling.

    Parameters
    ----------
    read, read_positions
        Read one slice, functions that can be pickled; None: from the datasets ``kspace`` and ``trajectory``.
    """

    read: ReadPart | None = None
    read_positions: ReadPart | None = None

    @property
    def description(self) -> str:
        height, width = self.image_shape
        return f"{self.shape[1]} coils {self.shape[2]}x{self.shape[3]} samples of {height}x{width}"

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.header.encoded_shape

    @property
    def acquired(self) -> Tensor:
        return torch.ones(self.shape[-1], dtype=torch.bool)

    @property
    def available(self) -> Tensor:
        return self.acquired.unsqueeze(0)

    @property
    def partial_fourier(self) -> float | None:
        return None

    @property
    def undersampled(self) -> bool:
        """True: no Cartesian k-space exists from which a reference could be made."""
        return True

    @property
    def crop_shape(self) -> tuple[int, int]:
        return displayed_crop(self.image_shape, self.header)

    def positions(self, index: int) -> Tensor:
        """Positions of one slice in cycles per pixel along height and width, float64 ``(spokes, samples, 2)``.

        Raises
        ------
        DataError
            If they cannot be read, are not finite, or lie beyond half a cycle per pixel.
        """
        positions = self._stored_positions(index) if self.read_positions is None else self.read_positions(index)
        key, shape = f"trajectory[{index}]", (*self.shape[2:], 2)
        if positions.shape != shape:
            raise data_error(self.path, key, f"shape {positions.shape}", f"{shape}, as of kspace", "write it again")
        return torch.from_numpy(checked_positions(self.path, key, positions))

    def plain_image(self, index: int, shape: tuple[int, int]) -> None:
        return None

    def _stored_positions(self, index: int) -> Array:
        with opened(self.path) as file:
            dataset = dataset_of(file, self.path, "trajectory")
            return read_part(dataset, self.path, () if dataset.ndim == 3 else index)

    def _read(self, what: str, index: int) -> Array:
        if what == "kspace" and self.read is not None:
            return self.read(index)
        return super()._read(what, index)


def checked_positions(path: Path, key: str, positions: Any) -> Array:
    """Positions as float64, rounding at the edge removed.

    Raises
    ------
    DataError
        If one is not finite or lies beyond half a cycle per pixel, or all are zero.
    """
    values = np.asarray(positions, np.float64)
    expected, advice = "positions from -0.5 to 0.5 cycles per pixel", "divide 1/mm by the pixels per mm"
    if not np.isfinite(values).all():
        raise data_error(path, key, "NaN or infinite positions", expected, "repair or leave out the file")
    largest = float(np.abs(values).max())
    if largest > 0.5 + _ROUNDING:
        raise data_error(path, key, f"a position of {largest:.4g}", expected, advice)
    if largest == 0:
        raise data_error(path, key, "only zeros", expected, "write the trajectory of the scan")
    return np.clip(values, -0.5, 0.5)
