"""A scan whose image has no symmetry, to write in every layout: a wrong axis, flip or shift shows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recon import KSpaceVolume

Array = NDArray[Any]


def fft2c(image: Array) -> Array:
    """Centered orthonormal FFT over the last two axes."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=axes), norm="ortho"), axes=axes)


def ifft2c(kspace: Array) -> Array:
    """Inverse of `fft2c`."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)


def coil_images(slices: int = 3, coils: int = 2, shape: tuple[int, int] = (48, 40)) -> Array:
    """Images ``(slices, coils, height, width)``: an off-center body with a bright corner; every slice differs."""
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    images = []
    for number in range(slices):
        body = ((y - 0.1) ** 2 / 0.5 + (x + 0.05) ** 2 / 0.35 < 1).astype(float)
        body += 2.0 * ((y + 0.3) ** 2 + (x - 0.2) ** 2 < 0.02 + 0.02 * number)
        body += 1.5 * ((y - 0.5) ** 2 + (x + 0.1) ** 2 < 0.01)
        maps = [np.exp(-((x - 0.8 * np.cos(k)) ** 2) + 1j * (0.4 * x + 0.2 * y + k)) for k in range(coils)]
        images.append([body * one for one in maps])
    return np.array(images)


@pytest.fixture
def images() -> Array:
    return coil_images()


@pytest.fixture
def kspace(images: Array) -> Array:
    """k-space ``(slices, coils, readout, phase)`` of the convention of fedrecon, at the scale of a scanner."""
    return (1e-5 * fft2c(images)).astype(np.complex64)


@pytest.fixture
def shows(images: Array) -> Callable[..., None]:
    """Asserts that a volume holds the images, in order, orientation and phase; the scale is free, of all alike."""

    def check(volume: KSpaceVolume, truth: Array = images, least: float = 0.9999, phase: bool = True) -> None:
        found = np.array([volume.read_slice(i).numpy() for i in range(volume.shape[0])])
        assert found.shape == truth.shape == volume.shape
        image = ifft2c(found)
        magnitude = [np.sqrt((np.abs(array) ** 2).sum(1)).ravel() for array in (image, truth)]
        assert np.corrcoef(*magnitude)[0, 1] > least
        brightest = np.unravel_index(np.abs(found).sum((0, 1)).argmax(), found.shape[2:])
        assert all(abs(at - n // 2) <= 1 for at, n in zip(brightest, found.shape[2:], strict=True))
        if phase:
            norms = np.linalg.norm(image) * np.linalg.norm(truth)
            assert abs(np.vdot(image, truth)) / norms > least

    return check
