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
        return np.moveaxis(_inverse(kspace, 3), 3, 0), lines, "slices by an inverse FFT along the partitions"
    planes = np.moveaxis(_inverse(kspace, 1), 1, 0)
    return planes, measured, "slices by an inverse FFT along the readout, planes (ky, kz)"


def _inverse(kspace: Array, axis: int) -> Array:
    with np.errstate(invalid="ignore"):  # the volume refuses what is not finite
        image = np.fft.ifft(np.fft.ifftshift(kspace, axes=axis), axis=axis, norm="ortho")
    return np.asarray(np.fft.fftshift(image, axes=axis), np.complex64)
