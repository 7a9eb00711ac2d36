"""Smaller scans with the same image: a readout without oversampling, virtual coils in place of many coils."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from physics import coil_compression

from .mri_volume import KSpaceVolume, fitting_crop
from .sample import center_crop

#: Coils above which `"auto"` compresses, and the part of the energy that it keeps. Measured with CG-SENSE at 4x: of 16
#: simulated coils 6 or 7 are left and 0.01 dB are lost (99.95 %: 5 and 0.04 dB; 99.8 %: 4 and 0.1 dB). All 16 coils of
#: a measured sphere are kept; 99.95 % would leave 15 and lose 0.08 dB, and 0.22 dB at 2x.
_MANY_COILS, _ENERGY = 12, 0.9999
#: Edge in samples of the center of k-space that coils are compressed by.
_CENTER = 24


def coil_choice(value: Any) -> Any:
    """Check a value of `compress_coils`.

    Raises
    ------
    ValueError
        If it is neither ``"auto"``, False, a number of coils nor a part of the energy.
    """
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value == "auto" or value is False or number or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError('"auto", false, a number of coils from 1, or a part of the energy between 0 and 1')


#: ``"auto"``: 99.99 % of the energy where there are more than 12 coils. False: the coils as measured. An integer: at
#: most so many virtual coils. A number between 0 and 1: the part of the energy that is kept, for any number of coils.
CoilChoice = Annotated[Any, coil_choice]


@dataclass(frozen=True)
class Reduction:
    """Reduction of a scan: readout oversampling removed or not, coils compressed, whitened or not."""

    remove_oversampling: bool = True
    compress_coils: str | bool | int | float = "auto"
    whitens: bool = True

    @classmethod
    def none(cls) -> "Reduction":
        """Coils and readout as the file holds them."""
        return cls(remove_oversampling=False, compress_coils=False, whitens=False)

    def matrix(self, gram: Tensor, covariance: Tensor) -> Tensor | None:
        """Matrix of :func:`physics.coil_compression`; None: the coils stay."""
        choice, n_coils = self.compress_coils, len(gram)
        if choice is False or (choice == "auto" and n_coils <= _MANY_COILS):
            return None
        if isinstance(choice, int):
            matrix = coil_compression(gram, covariance, coils=choice)
        else:
            matrix = coil_compression(gram, covariance, energy=_ENERGY if choice == "auto" else float(choice))
        return matrix if len(matrix) < n_coils else None


def center_gram(sampled: Tensor) -> Tensor:
    r""":math:`\sum k k^H` over the center of k-space ``(coils, height, width)``, complex128 ``(coils, coils)``."""
    height, width = sampled.shape[-2:]
    block = center_crop(sampled, (min(height, _CENTER), min(width, _CENTER)))
    if not block.any():  # the maps come from another scan
        block = sampled
    block = block.flatten(1).to(torch.complex128)
    gram: Tensor = block @ block.mH
    return gram


def shown_rows(volume: KSpaceVolume, mask: Tensor) -> int:
    """Rows of the image without readout oversampling; all rows where there is none, or where the rows of a mask differ.

    Oversampled is a readout whose encoded field of view exceeds that of the reconstruction, or, where the header does
    not state both, whose encoded size is at least twice the reconstruction's.

    Parameters
    ----------
    volume
        The file.
    mask
        Sampled positions, ``(1 | height, width)``.
    """
    header, size = volume.header, (volume.shape[2], volume.shape[3])
    if header.encoded_fov_mm is None or header.recon_fov_mm is None:
        oversampled = header.encoded_shape[0] >= 2 * header.recon_shape[0]
    else:
        oversampled = header.encoded_fov_mm[0] > 1.01 * header.recon_fov_mm[0]
    removed = header.encoded_shape[0] != size[0]
    if not oversampled or removed or not torch.equal(mask, mask[:1].expand_as(mask)):
        return size[0]
    shown = volume.crop_shape[0]
    if volume.rss_shape is not None:
        scored = fitting_crop(size, volume.rss_shape)[0]
        shown = max(shown, scored)
    # An even number of rows is cut, so that every center crop has the same middle as before.
    return min(shown + (size[0] - shown) % 2, size[0])
