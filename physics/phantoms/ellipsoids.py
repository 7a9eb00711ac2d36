"""Ellipsoids with exact line integrals along any rays in space: test data for cone-beam scans."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


class Ellipsoid(NamedTuple):
    """An ellipsoid of constant attenuation in 1/mm, added to those that it overlaps; lengths in mm.

    ``angle_rad`` turns it about the z axis, counter-clockwise.
    """

    value: float
    center: tuple[float, float, float]
    semi_axes: tuple[float, float, float]
    angle_rad: float = 0.0


@dataclass(frozen=True)
class EllipsoidPhantom:
    """A sum of ellipsoids."""

    ellipsoids: tuple[Ellipsoid, ...]

    def line_integrals(self, source: Array, directions: Array) -> Array:
        """Exact integrals along rays from a point, ``(..., 3)`` unit directions to ``(...)``, dimensionless.

        The rays begin at the source and are not cut off at a detector.
        """
        total: Array = np.zeros(directions.shape[:-1])
        for e in self.ellipsoids:
            p, d = _scaled(source - np.array(e.center), e), _scaled(directions, e)
            a, b, c = (d * d).sum(-1), (d * p).sum(-1), (p * p).sum() - 1
            total += e.value * 2 * np.sqrt(np.clip(b * b - a * c, 0, None)) / a
        return total

    def slice(self, z_mm: float, x_mm: Array, y_mm: Array, slope: tuple[float, float] = (0.0, 0.0)) -> Array:
        """Attenuation above the points of a grid in a plane, ``(len(y), len(x))``.

        The plane is at ``z_mm`` on the z axis; ``slope`` is its rise per mm along x and y.
        """
        x, y = np.meshgrid(x_mm, y_mm)
        points = np.stack((x, y, z_mm + slope[0] * x + slope[1] * y), axis=-1)
        image: Array = np.zeros(x.shape)
        for e in self.ellipsoids:
            image += e.value * ((_scaled(points - np.array(e.center), e) ** 2).sum(-1) <= 1)
        return image


def _scaled(vectors: Array, e: Ellipsoid) -> Array:
    """Vectors in the axes of an ellipsoid, in units of its semi-axes."""
    cos, sin = math.cos(e.angle_rad), math.sin(e.angle_rad)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    scaled: Array = np.stack((x * cos + y * sin, y * cos - x * sin, z), axis=-1) / np.array(e.semi_axes)
    return scaled
