"""Where the zero frequency of k-space lies: in the middle of the axes, or in the corner as an FFT writes it."""

from typing import Literal

import torch
from torch import Tensor

from physics import ifft2c

#: Largest distance of the peak of k-space from the middle, as a fraction of an axis, and at least so many samples.
_OFF_CENTER, _OFF_CENTER_SAMPLES = 0.05, 2
#: Lines with less than so many times the energy of the median line are noise: nothing has a peak there.
_PEAK = 4.0
#: Least energy of a neighbor of the peak of an echo, as a part of the peak's.
_BESIDE = 0.02
#: Least energy of the outer half of an image that is half a field of view off, in that of the inner half.
_OUTSIDE = 5.0


def power_of(kspace: Tensor) -> Tensor:
    """Squared magnitude of ``(coils, height, width)``, summed over the coils."""
    total = torch.zeros(kspace.shape[1], 2 * kspace.shape[2])
    for coil in torch.view_as_real(kspace):
        parts = coil.reshape(total.shape)
        total.addcmul_(parts, parts)
    return total.view(*kspace.shape[1:], 2).sum(-1)


def peak_line(energy: Tensor) -> int:
    """Line of the peak; the middle where nothing says otherwise."""
    middle, reach = len(energy) // 2, _reach(len(energy))
    measured = energy[energy > 0]
    largest = float(energy.max())
    if len(energy) < 8 * reach or largest < _PEAK * float(measured.median()):
        return middle
    near, at = float(energy[middle - reach : middle + reach + 1].max()), int(energy.argmax())
    beside = max(float(energy[at - 1]), float(energy[(at + 1) % len(energy)]))
    # An echo has neighbors, a spike has none.
    return middle if near >= 0.5 * largest or beside < _BESIDE * largest else at


def axes_in_corner(peak: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """Axes, -2 or -1, along which the peak lies at the ends: they lack an fftshift."""
    return [axis - 2 for axis, n in enumerate(size) if min(peak[axis], n - peak[axis]) <= _reach(n) < n // 2]


def zero_frequency(kspace: Tensor) -> tuple[Literal["middle", "corner", "unclear"], ...]:
    """Place of the peak along the two axes of one slice, complex ``(coils, height, width)``."""
    power = power_of(kspace.to(torch.complex64))
    lines = [power.sum(axis, dtype=torch.float64) for axis in (1, 0)]
    return tuple(_place(line) for line in lines)


def half_a_field_off(kspace: Tensor) -> bool:
    """Whether the image of one slice lies around the corners, as where half a field of view is missing.

    Then the outer half of the image, along both axes, has far more energy than the inner one.
    """
    power = power_of(ifft2c(kspace.to(torch.complex64)))
    return all(_is_outside(power.sum(axis, dtype=torch.float64)) for axis in (1, 0))


def _is_outside(energy: Tensor) -> bool:
    n = len(energy)
    inner = float(energy[n // 4 : n - n // 4].sum())
    return n >= 8 and float(energy.sum()) - inner > _OUTSIDE * inner


def _place(energy: Tensor) -> Literal["middle", "corner", "unclear"]:
    n, reach = len(energy), _reach(len(energy))
    largest = float(energy.max())
    if n < 8 * reach or largest == 0 or largest < _PEAK * float(energy[energy > 0].median()):
        return "unclear"
    at = peak_line(energy)
    if min(at, n - at) <= reach:
        return "corner"
    return "middle" if abs(int(energy.argmax()) - n // 2) <= reach else "unclear"


def _reach(n: int) -> int:
    """Lines from the middle within which a peak is in the middle."""
    return max(_OFF_CENTER_SAMPLES, round(_OFF_CENTER * n))
