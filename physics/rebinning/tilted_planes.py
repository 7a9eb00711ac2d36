"""Axial images of tilted planes, interpolated along z."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..ct import ImageGrid
from .cone_scan import Array

#: Part of a length by which rounding may exceed it.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class TiltedPlanes:
    """Planes of images that are tilted against the axis, each in its own direction: those of :class:`SliceRebinning`.

    Pixel (x, y) of a plane is at the height ``z + slope_x x + slope_y y``.

    Parameters
    ----------
    z_mm
        Heights of the planes at the axis, increasing, ``(planes,)``.
    slopes
        Rise of every plane per mm along x and y, ``(planes, 2)``.

    Raises
    ------
    ValueError
        If shapes disagree, a number is not finite, or heights do not increase.
    """

    z_mm: Array
    slopes: Array

    def __post_init__(self) -> None:
        z, slopes = np.asarray(self.z_mm, dtype=np.float64), np.asarray(self.slopes, dtype=np.float64)
        if z.ndim != 1 or slopes.shape != (len(z), 2):
            found = f"{z.shape} and {slopes.shape}"
            raise ValueError(f"TiltedPlanes: z_mm and slopes have shapes {found}, expected (planes,) and (planes, 2)")
        if not (np.isfinite(z).all() and np.isfinite(slopes).all()) or (np.diff(z) <= 0).any():
            raise ValueError("TiltedPlanes: expected finite numbers, and heights that increase")
        object.__setattr__(self, "z_mm", z)
        object.__setattr__(self, "slopes", slopes)

    @property
    def tilt_rad(self) -> float:
        """Largest angle between a plane and the axial one."""
        return math.atan(float(np.hypot(*self.slopes.T).max()))

    def axial_mm(self, grid: ImageGrid, spacing_mm: float) -> Array:
        """Heights of axial images at this distance, in the middle of what the planes cover at every pixel of a grid.

        Raises
        ------
        ValueError
            If planes cross within the grid, or cover no axial image.
        """
        low, high = self._covered(grid)
        if high < low:
            raise ValueError(
                f"TiltedPlanes: planes from {self.z_mm[0]:g} to {self.z_mm[-1]:g} mm, tilted by "
                f"{math.degrees(self.tilt_rad):.2f} degrees, cover no axial image of radius {_radius(grid):.0f} mm"
            )
        count = int((high - low) / spacing_mm + _ROUNDING) + 1
        heights: Array = (np.arange(count) - (count - 1) / 2) * spacing_mm + (low + high) / 2
        return heights

    def axial_images(self, images: npt.NDArray[np.float32], grid: ImageGrid, at_mm: Array) -> npt.NDArray[np.float32]:
        """Axial images, on a straight line along z between the planes below and above each pixel.

        Parameters
        ----------
        images
            Those of the planes, ``(planes, height, width)``.
        at_mm
            Heights of the axial images.

        Returns
        -------
            ``(len(at_mm), height, width)``.

        Raises
        ------
        ValueError
            If the images do not fit planes and grid, planes cross within the grid, or do not cover a height.
        """
        if images.shape != (len(self.z_mm), *grid.shape):
            expected = (len(self.z_mm), *grid.shape)
            raise ValueError(f"TiltedPlanes: images have shape {images.shape}, expected {expected}")
        low, high = self._covered(grid)
        reach = math.tan(self.tilt_rad) * _radius(grid)
        found = np.zeros((len(at_mm), *grid.shape), np.float32)
        for image, z in zip(found, at_mm, strict=True):
            if not low - _ROUNDING <= z <= high + _ROUNDING:
                raise ValueError(f"TiltedPlanes: {z:g} mm, expected {low:g} to {high:g}, which the planes cover")
            first = max(int(np.searchsorted(self.z_mm, z - reach, "right")) - 1, 0)
            last = min(int(np.searchsorted(self.z_mm, z + reach, "left")), len(self.z_mm) - 1)
            below = self._heights(first, grid)
            if first == last:
                image[:] = images[first]
            for number in range(first, last):
                above = self._heights(number + 1, grid)
                part = (z - below) / (above - below)
                # Pixels at the height of the outermost planes: rounding must not leave them out.
                inside = (part >= 0) | (number == first)
                inside &= (part < 1) | (number == last - 1)
                share = np.clip(part, 0, 1)
                image[inside] = ((1 - share) * images[number] + share * images[number + 1])[inside]
                below = above
        return found

    def _heights(self, number: int, grid: ImageGrid) -> Array:
        slope_x, slope_y = self.slopes[number]
        heights: Array = self.z_mm[number] + slope_y * grid.y_mm[:, None] + slope_x * grid.x_mm
        return heights

    def _covered(self, grid: ImageGrid) -> tuple[float, float]:
        """Heights between which every pixel lies between two planes."""
        radius = _radius(grid)
        closest = np.diff(self.z_mm) - np.hypot(*np.diff(self.slopes, axis=0).T) * radius
        if (closest <= 0).any():
            number = int(np.argmin(closest))
            raise ValueError(f"TiltedPlanes: planes {number} and {number + 1} cross within {radius:.0f} mm of the axis")
        return float(self._heights(0, grid).max()), float(self._heights(len(self.z_mm) - 1, grid).min())


def _radius(grid: ImageGrid) -> float:
    """Distance of the farthest pixel from the axis."""
    return math.hypot(np.abs(grid.x_mm).max(), np.abs(grid.y_mm).max())
