"""Non-uniform transforms of stacks of coil images, and their Gram, as pairs of a map and its transpose."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..autograd.constants import constants
from ..autograd.transpose_pair import TransposePair
from ..operator import Shape
from .sample_positions import SamplePositions
from .toeplitz import convolve, half_sample_ramps
from .trajectories import Array

#: Pixels of an image up to which a call takes longer than its work.
_SMALL = 2**14


class CoilTransform(TransposePair):
    """Samples of coil images, ``(n coils, height, width) -> (n coils, spokes, samples)``, by finufft on the CPU.

    Parameters
    ----------
    positions
        One set for all images, or one for each image in turn.
    coils
        Images with the same positions that follow each other.
    """

    def __init__(self, positions: Sequence[SamplePositions], coils: int) -> None:
        first = positions[0]
        super().__init__(first.shape, (first.trajectory.shape[0], first.trajectory.shape[1]))
        self.positions, self.coils = positions, coils

    def project(self, images: Tensor) -> Tensor:
        return self._each(SamplePositions.forward, images).reshape(-1, *self.range_shape)

    def backproject(self, data: Tensor) -> Tensor:
        return self._each(SamplePositions.adjoint, data.flatten(-2))

    def _each(self, transform: Callable[[SamplePositions, Array, torch.dtype], Array], data: Tensor) -> Tensor:
        """All coils of one image at a time: so plans are used again at any batch size."""
        stacks = data.detach().to("cpu", torch.complex128).unflatten(0, (-1, self.coils)).numpy()
        results = [
            transform(self.positions[index % len(self.positions)], stack, data.dtype)
            for index, stack in enumerate(stacks)
        ]
        joined = results[0] if len(results) == 1 else np.concatenate(results)
        return torch.from_numpy(joined).to(data.device, data.dtype)


class CoilConvolution(TransposePair):
    """The Gram of :class:`CoilTransform` by plain transforms on any device, ``(n coils, height, width)``.

    Parameters
    ----------
    positions
        As there.
    keep
        Samples that count, bool on the CPU, shape ``(*batch | none, spokes, samples)``; None: all.
    batch
        Axes of the trajectory before ``(spokes, samples, 2)``.
    stack
        Axes of coil images with the same or their own positions, ``(*batch, coils)``.
    """

    def __init__(self, positions: Sequence[SamplePositions], keep: Tensor | None, batch: Shape, stack: Shape) -> None:
        super().__init__(positions[0].shape, positions[0].shape)
        self.positions, self.keep, self.batch, self.stack = positions, keep, batch, stack
        self._spectrum: Tensor | None = None

    def project(self, images: Tensor) -> Tensor:
        stacks = images.unflatten(0, (-1, *self.stack))
        spectrum = self.spectrum(images.dtype, images.device)
        ramps = half_sample_ramps(self.domain_shape, images.dtype, images.device)
        if one_coil_at_a_time(images):
            coils = [convolve(coil, spectrum, ramps) for coil in stacks.unbind(-3)]
            return torch.stack(coils, -3).flatten(0, -3)
        return convolve(stacks, spectrum.unsqueeze(-5), ramps).flatten(0, -3)

    def backproject(self, data: Tensor) -> Tensor:
        return self.project(data)

    def spectrum(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Spectrum of the Gram, see :func:`toeplitz_spectrum`, complex, ``(*batch | none, 2, 2, height, width)``."""
        found = self._spectrum
        if found is None or (found.dtype, found.device) != (dtype, device):
            with constants():
                self._spectrum = found = self._made_spectrum(dtype).to(device, dtype)
        return found

    def _made_spectrum(self, dtype: torch.dtype) -> Tensor:
        batch = self.batch if self.keep is None or self.keep.ndim == 2 else tuple(self.keep.shape[:-2])
        keeps = [None] if self.keep is None else list(self.keep.reshape(-1, *self.keep.shape[-2:]))
        number = max(len(keeps), len(self.positions))
        spectra = [
            self.positions[index % len(self.positions)].spectrum(dtype, keeps[index % len(keeps)])
            for index in range(number)
        ]
        # The memory of the columns stays contiguous.
        stacked = torch.stack([spectrum.mT for spectrum in spectra])
        return stacked.reshape(*batch, 2, 2, *self.domain_shape[::-1]).mT


def one_coil_at_a_time(images: Tensor) -> bool:
    """Whether images of one coil fill a CPU's cache; smaller ones are faster in one call for all coils."""
    return images.device.type == "cpu" and images.shape[-2] * images.shape[-1] > _SMALL
