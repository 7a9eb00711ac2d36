"""Cartesian sampling masks: fastMRI's column masks, partial Fourier, and 2-D masks of variable density."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
from torch import Tensor

#: Largest deviation of the effective acceleration of a Poisson-disc mask from the wanted one.
_POISSON_TOLERANCE = 0.1
#: An int, or the sequence of ints that fastMRI makes of a file name, see :func:`file_seed`.
Seed = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class SamplingMask:
    """The measured positions of k-space.

    Parameters
    ----------
    mask
        Boolean, ``(width,)`` along the phase axis, or ``(height, width)`` for the 2-D families.
    family
        Key of :data:`SAMPLINGS`.
    center_lines
        Requested width of the fully sampled center in columns; for the 2-D families the shorter edge of the
        calibration rectangle.

    Raises
    ------
    ValueError
        If the mask samples nothing.
    """

    mask: Tensor
    family: str
    center_lines: int

    def __post_init__(self) -> None:
        if not bool(self.mask.any()):
            raise ValueError(
                f"SamplingMask: the {self.family} mask of shape {tuple(self.mask.shape)} samples nothing; "
                "lower the acceleration or raise the center fraction"
            )

    @property
    def effective_acceleration(self) -> float:
        """All positions divided by measured positions; a dense center makes it lower than the nominal value."""
        return self.mask.numel() / int(self.mask.sum())


def file_seed(name: str) -> tuple[int, ...]:
    """fastMRI's seed of a volume: the code points of the characters of its file name."""
    return tuple(map(ord, name))


def random_mask(width: int, acceleration: float, center_fraction: float, seed: Seed) -> SamplingMask:
    """Columns drawn independently, ``width / acceleration`` on average; bit-equal to fastMRI's ``RandomMaskFunc``.

    Parameters
    ----------
    width
        Columns along the phase axis.
    acceleration
        Nominal acceleration, at least 1. The effective acceleration scatters: 3.1 to 5.3 for a nominal 4.
    center_fraction
        Fraction of the columns in the fully sampled center, 0 to 1.
    seed
        An int or a sequence of ints; :func:`file_seed` gives fastMRI's seed of a file.
    """
    center, generator = _center("random_mask", width, acceleration, center_fraction, seed)
    n_center = int(center.sum())
    probability = 1.0 if n_center == width else (width / acceleration - n_center) / (width - n_center)
    return _columns("random", center | (generator.uniform(size=width) < probability), n_center)


def equispaced_mask(width: int, acceleration: float, center_fraction: float, seed: Seed) -> SamplingMask:
    """Every ``acceleration``-th column from a random offset, plus the center; fastMRI's ``EquiSpacedMaskFunc``.

    The center is added, so the effective acceleration is lower: 3.23 for a nominal 4 with a center of 8 %.
    Parameters as in :func:`random_mask`; the acceleration must be a whole number.
    """
    step = _whole("equispaced_mask", acceleration)
    center, generator = _center("equispaced_mask", width, acceleration, center_fraction, seed)
    mask = center.copy()
    mask[generator.randint(0, high=step) :: step] = True
    return _columns("equispaced", mask, int(center.sum()))


def equispaced_fraction_mask(width: int, acceleration: float, center_fraction: float, seed: Seed) -> SamplingMask:
    """Nearly equispaced columns, spaced to reach the acceleration; fastMRI's ``EquispacedMaskFractionFunc``.

    Parameters as in :func:`random_mask`. A ValueError if the center alone has ``width / acceleration`` columns.
    """
    center, generator = _center("equispaced_fraction_mask", width, acceleration, center_fraction, seed)
    n_center = int(center.sum())
    if n_center * acceleration >= width:
        raise _over_budget("equispaced_fraction_mask", n_center, width, acceleration)
    step = (acceleration * (n_center - width)) / (n_center * acceleration - width)
    offset = generator.randint(0, high=round(step))
    mask = center.copy()
    mask[np.around(np.arange(offset, width - 1, step)).astype(np.intp)] = True
    return _columns("equispaced_fraction", mask, n_center)


def magic_mask(width: int, acceleration: float, center_fraction: float, seed: Seed) -> SamplingMask:
    """Equispaced columns with other offsets on either side of k-space, which interleave under conjugate symmetry.

    Bit-equal to fastMRI's ``MagicMaskFunc``. Parameters as in :func:`random_mask`; the acceleration must be a
    whole number.

    References
    ----------
    .. [D] Defazio, Offset sampling improves deep learning based accelerated MRI reconstructions by exploiting
       symmetry, arXiv:1912.01101, 2019.
    """
    step = _whole("magic_mask", acceleration)
    center, generator = _center("magic_mask", width, acceleration, center_fraction, seed)
    return _columns("magic", center | _offset_columns(width, step, generator), int(center.sum()))


def magic_fraction_mask(width: int, acceleration: float, center_fraction: float, seed: Seed) -> SamplingMask:
    """:func:`magic_mask` spaced to reach the acceleration; fastMRI's ``MagicMaskFractionFunc``.

    The center has at least one and at most ``width / acceleration`` columns. Parameters as in
    :func:`random_mask`. A ValueError if the center leaves no other columns to measure.
    """
    wanted, generator = _center("magic_fraction_mask", width, acceleration, center_fraction, seed)
    n_budget = round(width / acceleration)
    n_center = max(min(int(wanted.sum()), n_budget), 1)
    if n_budget <= n_center:
        raise _over_budget("magic_fraction_mask", int(wanted.sum()), width, acceleration)
    mask = _center_columns(width, n_center) | _offset_columns(width, round(width / (n_budget - n_center)), generator)
    return _columns("magic_fraction", mask, n_center)


def partial_fourier_mask(
    width: int, acceleration: float, center_fraction: float, seed: Seed, fraction: float = 0.75
) -> SamplingMask:
    """Equispaced columns in the acquired ``fraction`` of k-space; the most negative frequencies are left out.

    Parameters as in :func:`random_mask`. The acceleration is the spacing inside the acquired fraction: a nominal
    3 with fraction 0.75 approaches an effective 4.

    Raises
    ------
    ValueError
        If the fraction is not above one half (the center would not be acquired) or cuts into the center.
    """
    if not 0.5 < fraction <= 1:
        raise ValueError(f"partial_fourier_mask: fraction is {fraction}, expected more than 0.5 and at most 1")
    equispaced = equispaced_mask(width, acceleration, center_fraction, seed)
    first = width - round(fraction * width)
    n_center = equispaced.center_lines
    if n_center and first > (width - n_center + 1) // 2:
        raise ValueError(
            f"partial_fourier_mask: fraction {fraction} of {width} columns cuts into the center of {n_center}; "
            "raise the fraction or lower the center fraction"
        )
    mask = equispaced.mask.clone()
    mask[:first] = False
    return SamplingMask(mask, "partial_fourier", n_center)


def poisson_mask(shape: tuple[int, int], acceleration: float, center_fraction: float, seed: Seed) -> SamplingMask:
    """Variable-density Poisson-disc mask in the plane of two phase axes (ky, kz), from sigpy.

    For slices of 3-D acquisitions, in which both axes are phase-encoded. The corners outside the inscribed
    ellipse are not sampled.

    Parameters
    ----------
    shape
        ``(height, width)`` of the plane.
    acceleration
        Effective acceleration, above 1, reached within 0.1.
    center_fraction
        Edges of the calibration rectangle as a fraction of height and width.
    seed
        An int or a sequence of ints.

    Raises
    ------
    ValueError
        If no such mask exists, or five draws did not find one: at accelerations below 4/pi or above what the center
        allows, and in small planes.
    """
    _require("poisson_mask", shape, acceleration, center_fraction)
    center = (round(shape[0] * center_fraction), round(shape[1] * center_fraction))
    key = tuple(int(number) for number in seed) if isinstance(seed, Sequence) else seed
    drawn = np.unpackbits(_poisson_points(tuple(shape), acceleration, center, key), count=shape[0] * shape[1])
    return SamplingMask(torch.from_numpy(drawn.reshape(shape) != 0), "poisson", min(center))


# A draw takes up to two seconds, and every round of training asks for the same masks again.
@lru_cache(maxsize=4096)
def _poisson_points(
    shape: tuple[int, int], acceleration: float, center: tuple[int, int], seed: int | tuple[int, ...]
) -> np.ndarray:
    """The mask of :func:`poisson_mask` as packed bits."""
    squares = []
    for size, edge, axis in zip(shape, center, np.ogrid[: shape[0], : shape[1]], strict=True):
        distance = np.maximum(abs(axis - size / 2) - edge / 2, 0)
        squares.append((distance / max(distance.max(), 1e-9)) ** 2)
    radius = np.sqrt(squares[0] + squares[1])
    calibration = prod(int(n / 2 + edge / 2) - int(n / 2 - edge / 2) for n, edge in zip(shape, center, strict=True))
    # Between all positions inside the ellipse and the calibration rectangle alone.
    lowest, highest = radius.size / max(int((radius < 1).sum()), 1), radius.size / max(calibration, 1)
    if not max(lowest - _POISSON_TOLERANCE, 1) < acceleration < highest + _POISSON_TOLERANCE:
        reason = f"possible are about {lowest:.3g} to {highest:.3g}"
        raise _no_poisson_mask(shape, acceleration, center, reason)
    generator = np.random.RandomState(seed)
    # For some seeds the search ends without the wanted acceleration: another draw of the same generator has it.
    for _ in range(5):
        mask = _search_poisson(radius, acceleration, center, int(generator.randint(2**31 - 1)))
        if mask is not None:
            return np.packbits(mask)
    raise _no_poisson_mask(shape, acceleration, center, f"none of 5 draws is within {_POISSON_TOLERANCE}")


def _no_poisson_mask(shape: tuple[int, int], acceleration: float, center: tuple[int, int], reason: str) -> ValueError:
    return ValueError(
        f"poisson_mask: found no mask of shape {shape} with acceleration {acceleration} and a center of {center}: "
        f"{reason}; change acceleration or center_fraction"
    )


def _search_poisson(radius: np.ndarray, acceleration: float, center: tuple[int, int], seed: int) -> np.ndarray | None:
    """The search of ``sigpy.mri.poisson``, bit-equal where that ends with a mask; None where it fails or never ends.

    Parameters
    ----------
    radius
        Distance from the calibration rectangle, 1 at the edge of the inscribed ellipse, ``(height, width)``.

    Raises
    ------
    ValueError
        If the densest mask has too few points.
    """
    from sigpy.mri.samp import _poisson  # late: it imports numba, 1.5 s

    (height, width), longest = radius.shape, max(radius.shape)

    def drawn(slope: float) -> tuple[np.ndarray, float]:
        radii = (np.clip((1 + radius * slope) * size / longest, 1, None) for size in (width, height))
        mask = _poisson(width, height, 30, *radii, center, seed) * (radius < 1)
        return mask != 0, float(mask.size / max(mask.sum(), 1e-9))

    if acceleration < 2:
        # Near the densest mask the search halves slopes down to rounding; the number of points hardly changes there.
        densest = drawn(0.0)[1]
        if densest - acceleration > _POISSON_TOLERANCE + 3 * acceleration / radius.size**0.5:
            reason = f"the densest has {densest:.3g}"
            raise _no_poisson_mask((height, width), acceleration, center, reason)
    low, high = 0.0, float(longest)
    while True:
        slope = (low + high) / 2
        mask, found = drawn(slope)
        if abs(found - acceleration) < _POISSON_TOLERANCE:
            return mask
        # The interval cannot be halved again, or the slope is below rounding: all later masks are this one.
        if slope in (low, high) or slope < 1e-17:
            return None
        low, high = (slope, high) if found < acceleration else (low, slope)


def gaussian_mask(shape: tuple[int, int], acceleration: float, center_fraction: float, seed: Seed) -> SamplingMask:
    """Points drawn without replacement from a Gaussian density in the plane of two phase axes (ky, kz).

    The standard deviation is a fifth of each edge. Exactly ``round(height * width / acceleration)`` points are
    measured, those of the calibration rectangle included. Parameters as in :func:`poisson_mask`.
    """
    _require("gaussian_mask", shape, acceleration, center_fraction)
    n_points = round(shape[0] * shape[1] / acceleration)
    n_center = tuple(round(n * center_fraction) for n in shape)
    center = _center_columns(shape[0], n_center[0])[:, None] & _center_columns(shape[1], n_center[1])
    if center.sum() > n_points:
        raise _over_budget("gaussian_mask", int(center.sum()), shape[0] * shape[1], acceleration)
    y, x = ((np.arange(n) - n // 2) / (0.2 * n) for n in shape)
    density = np.exp(-0.5 * (y[:, None] ** 2 + x**2)) * ~center
    generator = np.random.RandomState(seed)
    # The points with the largest keys u**(1/density) are a draw without replacement from the density.
    keys = np.log(generator.uniform(size=shape)) / np.maximum(density, 1e-300)
    chosen = np.argsort(np.where(center, -np.inf, keys), axis=None)[::-1][: n_points - center.sum()]
    mask = center.copy()
    mask.flat[chosen] = True
    return SamplingMask(torch.from_numpy(mask), "gaussian", min(n_center))


COLUMN_SAMPLINGS: dict[str, Callable[[int, float, float, Seed], SamplingMask]] = {
    "random": random_mask,
    "equispaced": equispaced_mask,
    "equispaced_fraction": equispaced_fraction_mask,
    "magic": magic_mask,
    "magic_fraction": magic_fraction_mask,
    "partial_fourier": partial_fourier_mask,
}
PLANE_SAMPLINGS: dict[str, Callable[[tuple[int, int], float, float, Seed], SamplingMask]] = {
    "poisson": poisson_mask,
    "gaussian": gaussian_mask,
}
#: Every family by name. Families in `COLUMN_SAMPLINGS` take a width, those in `PLANE_SAMPLINGS` a shape.
SAMPLINGS: dict[str, Callable[..., SamplingMask]] = {**COLUMN_SAMPLINGS, **PLANE_SAMPLINGS}


def make_mask(
    family: str, shape: tuple[int, int], acceleration: float, center_fraction: float, seed: Seed
) -> SamplingMask:
    """Mask of any family for k-space whose last two axes are ``shape = (height, width)``."""
    if family in COLUMN_SAMPLINGS:
        return COLUMN_SAMPLINGS[family](shape[1], acceleration, center_fraction, seed)
    if family in PLANE_SAMPLINGS:
        return PLANE_SAMPLINGS[family](shape, acceleration, center_fraction, seed)
    near = difflib.get_close_matches(str(family), SAMPLINGS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"make_mask: no sampling family {family!r}; {hint}expected one of {', '.join(SAMPLINGS)}")


def samples_center(mask: Tensor) -> bool:
    """Whether a mask ``(1 | height, width)`` samples the center of k-space and so has a calibration block."""
    return bool(mask[mask.shape[0] // 2, mask.shape[1] // 2])


def calibration_block(mask: Tensor) -> tuple[slice, ...]:
    """Fully sampled block around the center of k-space, one slice per axis of the mask.

    For a column mask the longest run of sampled columns around the center; for a plane a rectangle grown from
    the center one side at a time. Sampled neighbors of the requested center belong to it. Slices and not widths:
    fastMRI's centers of even width in k-space of odd width lie one column to the right of a centered crop.

    Parameters
    ----------
    mask
        ``(width,)``, ``(1, width)`` or ``(height, width)``, boolean or 0/1.

    Raises
    ------
    ValueError
        If the center of k-space is not sampled.
    """
    if mask.ndim == 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim not in (1, 2):
        raise ValueError(f"calibration_block: mask has shape {tuple(mask.shape)}, expected (width,) or (height, width)")
    plane = np.atleast_2d(mask.detach().cpu().numpy() != 0)
    low, high = [n // 2 for n in plane.shape], [n // 2 + 1 for n in plane.shape]
    if not plane[low[0], low[1]]:
        raise ValueError(
            "calibration_block: the mask does not sample the center of k-space, so nothing can be calibrated "
            "from it; use a mask with a center fraction above 0"
        )
    grown = True
    while grown:
        grown = False
        for axis in (0, 1):
            across = slice(low[1 - axis], high[1 - axis])
            lines = plane if axis == 0 else plane.T
            if low[axis] > 0 and lines[low[axis] - 1, across].all():
                low[axis], grown = low[axis] - 1, True
            if high[axis] < len(lines) and lines[high[axis], across].all():
                high[axis], grown = high[axis] + 1, True
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))[2 - mask.ndim :]


def calibration_width(mask: Tensor) -> int | tuple[int, int]:
    """Size of :func:`calibration_block`: columns of a column mask, ``(height, width)`` of a plane."""
    sizes = [block.stop - block.start for block in calibration_block(mask)]
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def _center(
    who: str, width: int, acceleration: float, center_fraction: float, seed: Seed
) -> tuple[np.ndarray, np.random.RandomState]:
    _require(who, (width,), acceleration, center_fraction)
    generator = np.random.RandomState(seed)
    return _center_columns(width, round(width * center_fraction)), generator


def _center_columns(width: int, n_center: int) -> np.ndarray:
    center = np.zeros(width, dtype=bool)
    first = (width - n_center + 1) // 2
    center[first : first + n_center] = True
    return center


def _offset_columns(width: int, step: int, generator: np.random.RandomState) -> np.ndarray:
    offset = int(generator.randint(0, high=step))
    # Conjugate symmetry pairs columns p and -p: the pairs interleave if the sum of the two offsets is odd.
    positive_offset, negative_offset = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    positive = np.zeros((width + 1) // 2, dtype=bool)
    negative = np.zeros(width // 2, dtype=bool)
    positive[positive_offset::step] = True
    negative[negative_offset::step] = True
    return np.fft.fftshift(np.concatenate((positive, negative[::-1])))


def _columns(family: str, mask: np.ndarray, n_center: int) -> SamplingMask:
    return SamplingMask(torch.from_numpy(mask), family, n_center)


def _whole(who: str, acceleration: float) -> int:
    if acceleration != round(acceleration):
        raise ValueError(f"{who}: acceleration is {acceleration}, expected a whole number of columns")
    return round(acceleration)


def _require(who: str, shape: tuple[int, ...], acceleration: float, center_fraction: float) -> None:
    if min(shape) < 1:
        raise ValueError(f"{who}: size is {shape}, expected at least 1 along each axis")
    if not acceleration >= 1:
        raise ValueError(f"{who}: acceleration is {acceleration}, expected at least 1")
    if not 0 <= center_fraction <= 1:
        raise ValueError(f"{who}: center_fraction is {center_fraction}, expected 0 to 1")


def _over_budget(who: str, n_center: int, n_all: int, acceleration: float) -> ValueError:
    return ValueError(
        f"{who}: a center of {n_center} of {n_all} leaves nothing to sample at acceleration {acceleration}; "
        "lower the center fraction or the acceleration"
    )
