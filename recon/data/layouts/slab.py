"""3-D k-space as slices: an inverse FFT along the partitions, or along the readout where partitions are left out."""

import numpy as np

from ..complex_values import Array


def slab_as_slices(kspace: Array, measured: Array) -> tuple[Array, Array, str]:
    """Slices of 3-D k-space.

    Parameters
    ----------
    kspace
        Complex ``(coils, kx, ky, kz)``, zero where not measured; the zero frequency is in the middle.
    measured
        Bool ``(ky, kz)``.

    Returns
    -------
        k-space ``(slices, coils, readout, phase)``, the mask of its planes, and what was done, in words. Where all kz
        of every sampled ky were measured, slices are along z and planes are ``(kx, ky)``; else slices are along x and
        planes are ``(ky, kz)``.
    """
    lines = np.asarray(measured.any(1))
    if np.array_equal(measured, np.broadcast_to(lines[:, None], measured.shape)):
        return _slices(kspace, 3), lines, "slices by an inverse FFT along the partitions"
    return _slices(kspace, 1), measured, "slices by an inverse FFT along the readout, planes (ky, kz)"


def _slices(kspace: Array, axis: int) -> Array:
    """Inverse FFT along an axis, which comes first; coil by coil, as the FFT multiplies the memory."""
    shape = (kspace.shape[axis], len(kspace), *(n for i, n in enumerate(kspace.shape) if i not in (0, axis)))
    slices = np.empty(shape, np.complex64)
    for coil, one in enumerate(kspace):
        with np.errstate(invalid="ignore"):  # the volume refuses what is not finite
            image = np.fft.ifft(np.fft.ifftshift(one, axes=axis - 1), axis=axis - 1, norm="ortho")
        slices[:, coil] = np.moveaxis(np.fft.fftshift(image, axes=axis - 1), axis - 1, 0)
    return slices
