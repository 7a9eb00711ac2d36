"""What Cartesian scans of one image and of frames have in common: a plain FFT between two phase ramps, and a mask."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ..autograd.constants import is_constant, multiplied
from .coil_products import coil_images, combined
from .fourier import centering_phases
from .multi_coil import MultiCoilMRI


class FourierScan(MultiCoilMRI):
    """A Cartesian scan by several coils; subclasses check the mask and call :meth:`_measure`.

    The ramps are multiplied into maps and mask once, so that no call shifts an array; into the image where the maps are
    learned, so that no step of a training multiplies all maps.
    """

    mask: Tensor
    _encode: Tensor | None
    _ramp: Tensor
    _sample: Tensor

    def _measure(self, maps: Tensor, mask: Tensor) -> None:
        """Take maps and mask, at the end of `__init__`."""
        height, width = maps.shape[-2:]
        before_h, after_h = centering_phases(height, maps.dtype, maps.device)
        before_w, after_w = centering_phases(width, maps.dtype, maps.device)
        self.register_buffer("_ramp", before_h[:, None] * before_w, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        sample = mask.to(maps.dtype) * (after_h[:, None] * after_w)
        self.register_buffer("_sample", sample.unsqueeze(-3), persistent=False)
        self._use(maps)

    def _use(self, maps: Tensor) -> None:
        super()._use(maps)
        encode = self._of_images(maps * self._ramp) if is_constant(maps) else None
        self.register_buffer("_encode", encode, persistent=False)
        self.register_buffer("_decode", None if encode is None else encode.conj().resolve_conj(), persistent=False)

    def _of_images(self, maps: Tensor) -> Tensor:
        """The maps with the axes of the coil images of one sample."""
        return maps

    def _forward(self, x: Tensor) -> Tensor:
        self.require_batch(x, len(self.domain_shape), "image")
        # In place: the backward pass needs neither the output of the transform nor a gradient of the mask.
        return multiplied(torch.fft.fft2(self._coil_images(x), norm="ortho"), self._sample)

    def _adjoint(self, y: Tensor) -> Tensor:
        self.require_batch(y, len(self.range_shape), "measurement")
        return self._combined(torch.fft.ifft2(y * self._sample.conj(), norm="ortho"))

    def _coil_images(self, x: Tensor) -> Tensor:
        """Images of the coils before the plain FFT, with its ramp."""
        if self._encode is not None:
            return self._encode * x.unsqueeze(-3)
        return coil_images(self._of_images(self.maps), self._ramp * x)

    def _combined(self, images: Tensor) -> Tensor:
        """The adjoint of :meth:`_coil_images`."""
        if self._decode is None:
            return self._ramp.conj() * combined(self._of_images(self.maps), images)
        x: Tensor = (images * self._decode).sum(-3)
        return x

    @classmethod
    def collate(cls, operators: Sequence[Self]) -> Self:
        """Join operators of equal shape."""
        if len({operator.range_shape for operator in operators}) != 1:
            shapes = sorted({operator.range_shape for operator in operators})
            raise ValueError(f"{cls.__name__}.collate: operators have shapes {shapes}, expected one; batch by shape")
        # A batch may hold column masks and 2-D masks; it has a 1-D Gram only if all are column masks.
        masks = torch.broadcast_tensors(*(operator.mask for operator in operators))
        make: type = cls
        joined: Self = make(torch.stack([operator.maps for operator in operators]), torch.stack(list(masks)))
        return joined
