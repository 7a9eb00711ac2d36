"""Grid of the pixels of a CT image, and checks of numbers that are counts or lengths."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ImageGrid:
    """Pixels of an image in the plane of the scan. All pairs are in the order of the axes: rows first.

    Parameters
    ----------
    shape
        ``(height, width)``, odd or even.
    pixel_mm
        Edge of a pixel, or ``(dy, dx)``: distances between neighboring rows, and between neighboring columns. Two equal
        numbers become one.
    center_mm
        Middle of the image as ``(y, x)``, +y towards the top and +x to the right of the axis of rotation, at (0, 0).

    Raises
    ------
    ValueError
        If an edge is not positive or the center is not finite.
    """

    shape: tuple[int, int]
    pixel_mm: float | tuple[float, float]
    center_mm: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        shape = tuple(self.shape) if np.ndim(self.shape) == 1 else ()
        if len(shape) != 2 or not all(is_count(n) for n in shape):
            raise ValueError(f"ImageGrid: shape is {self.shape}, expected (height, width), positive whole numbers")
        set_field(self, "shape", (int(shape[0]), int(shape[1])))
        set_field(self, "pixel_mm", _edges(self.pixel_mm))
        center = _pair(self.center_mm)
        if center is None:
            found = f"{self.center_mm!r:.60}"
            raise ValueError(f"ImageGrid: center_mm is {found}, expected (y, x), finite numbers in mm")
        set_field(self, "center_mm", center)

    def __repr__(self) -> str:
        center = f", center_mm={self.center_mm!r}" if any(self.center_mm) else ""
        return f"ImageGrid(shape={self.shape!r}, pixel_mm={self.pixel_mm!r}{center})"

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """``(dy, dx)``: distances between neighboring rows, and between neighboring columns."""
        return self.pixel_mm if isinstance(self.pixel_mm, tuple) else (self.pixel_mm, self.pixel_mm)

    @property
    def is_square(self) -> bool:
        """Whether pixels are square."""
        return not isinstance(self.pixel_mm, tuple)

    @property
    def x_mm(self) -> Array:
        """Centers of the columns, increasing to the right."""
        return (np.arange(self.shape[1]) - (self.shape[1] - 1) / 2) * self.spacing_mm[1] + self.center_mm[1]

    @property
    def y_mm(self) -> Array:
        """Centers of the rows, decreasing from the top."""
        return ((self.shape[0] - 1) / 2 - np.arange(self.shape[0])) * self.spacing_mm[0] + self.center_mm[0]

    @property
    def extent_mm(self) -> tuple[float, float]:
        """``(height, width)`` of the image."""
        (height, width), (dy, dx) = self.shape, self.spacing_mm
        return height * dy, width * dx

    @property
    def inscribed_radius_mm(self) -> float:
        """Radius of the inscribed circle of the image around its middle."""
        return min(self.extent_mm) / 2

    @property
    def corner_radius_mm(self) -> float:
        """Distance of the farthest corner from the axis of rotation."""
        (height, width), (y, x) = self.extent_mm, self.center_mm
        return math.hypot(height + 2 * abs(y), width + 2 * abs(x)) / 2

    @property
    def text(self) -> str:
        """Edges of a pixel for messages: ``1 mm``, or ``0.5x1 mm`` (rows first)."""
        return "x".join(f"{edge:g}" for edge in dict.fromkeys(self.spacing_mm)) + " mm"

    def refined(self, factor: int) -> "ImageGrid":
        """The same field of view with pixels ``factor`` times smaller, for simulation."""
        if not is_count(factor):
            raise ValueError(f"ImageGrid: refinement is {factor!r}, expected a positive whole number")
        dy, dx = self.spacing_mm
        shape = self.shape[0] * factor, self.shape[1] * factor
        return ImageGrid(shape, (dy / factor, dx / factor), self.center_mm)

    def resized(self, shape: tuple[int, int], factor: float) -> "ImageGrid":
        """Another number of pixels around the same middle, each with edges ``factor`` times as long."""
        dy, dx = self.spacing_mm
        return ImageGrid(shape, (dy * factor, dx * factor), self.center_mm)


def _edges(value: Any) -> float | tuple[float, float]:
    number = finite_number(value)
    if number > 0:
        return number
    edges = _pair(value)
    if edges is None or not min(edges) > 0:
        expected = "the edge of a pixel in mm, or those of its rows and columns (dy, dx), above zero"
        raise ValueError(f"ImageGrid: pixel_mm is {f'{value!r}':.60}, expected {expected}")
    return edges[0] if edges[0] == edges[1] else edges


def _pair(value: Any) -> tuple[float, float] | None:
    """Two finite numbers; None for everything else."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or np.ndim(value) != 1 or len(value) != 2:
        return None
    first, second = (finite_number(number) for number in value)
    return None if math.isnan(first + second) else (first, second)


def is_count(value: Any) -> bool:
    """Whether a value is a positive whole number."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)


def length_mm(who: str, name: str, value: Any, meaning: str) -> float:
    """A length above zero.

    Raises
    ------
    ValueError
        For everything else.
    """
    number = finite_number(value)
    if not number > 0:
        raise ValueError(f"{who}: {name} is {value!r}, expected {meaning} in mm, above zero")
    return number


def finite_number(value: Any) -> float:
    """A finite number, NaN for everything else."""
    if isinstance(value, (bool, str, bytes)):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except (TypeError, ValueError):
        return math.nan


def set_field(instance: object, name: str, value: Any) -> None:
    """Set a field of a frozen dataclass, in its ``__post_init__``."""
    object.__setattr__(instance, name, value)
