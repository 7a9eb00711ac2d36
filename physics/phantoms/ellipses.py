"""Ellipse phantoms with analytic k-space and line integrals."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..ct import Geometry, ImageGrid, rays_of


class Ellipse(NamedTuple):
    """Uniform ellipse; lengths in fields of view, x right, y down, origin at the center, angle from x to y."""

    value: float
    center_x: float
    center_y: float
    semi_x: float
    semi_y: float
    angle_rad: float


@dataclass(frozen=True)
class EllipsePhantom:
    """A sum of ellipses with exact Fourier and Radon transforms: test data that need no discrete transform."""

    ellipses: tuple[Ellipse, ...]

    def image(self, shape: tuple[int, int], supersampling: int = 4) -> Tensor:
        """Pixel means over ``supersampling**2`` points each, float64, pixel centers as in :func:`fft2c`."""
        if min(shape) < 1 or supersampling < 1:
            raise ValueError(f"EllipsePhantom: shape {tuple(shape)}, supersampling {supersampling}, expected positive")
        y, x = (
            (torch.arange(n * supersampling, dtype=torch.float64) + 0.5) / (n * supersampling) - 0.5 / n - (n // 2) / n
            for n in shape
        )
        fine = torch.zeros(len(y), len(x), dtype=torch.float64)
        for e in self.ellipses:
            u, v = _turned(x[None, :] - e.center_x, y[:, None] - e.center_y, e.angle_rad)
            fine += e.value * ((u / e.semi_x) ** 2 + (v / e.semi_y) ** 2 <= 1).double()
        return torch.nn.functional.avg_pool2d(fine[None], supersampling)[0]

    def attenuation(self, grid: ImageGrid, extent_mm: float, supersampling: int = 8) -> Tensor:
        """Pixel means on the grid of a CT scan, float64, for a field of view ``extent_mm`` wide."""
        fine = grid.refined(supersampling)
        x, y = torch.from_numpy(fine.x_mm / extent_mm), torch.from_numpy(-fine.y_mm / extent_mm)
        image = torch.zeros(fine.shape, dtype=torch.float64)
        for e in self.ellipses:
            u, v = _turned(x[None, :] - e.center_x, y[:, None] - e.center_y, e.angle_rad)
            image += e.value * ((u / e.semi_x) ** 2 + (v / e.semi_y) ** 2 <= 1).double()
        return torch.nn.functional.avg_pool2d(image[None], supersampling)[0]

    def line_integrals(self, geometry: Geometry, extent_mm: float) -> Tensor:
        """Exact integrals along the rays of a scan, float64, ``(views, detectors)``."""
        rays = [torch.from_numpy(part) for part in rays_of(geometry)]
        total = torch.zeros(geometry.shape, dtype=torch.float64)
        for e in self.ellipses:
            # A chord of the unit circle, in coordinates scaled by the semi-axes; y of an ellipse points down.
            x, y = _turned(rays[0] / extent_mm - e.center_x, -rays[1] / extent_mm - e.center_y, e.angle_rad)
            along_x, along_y = _turned(rays[2], -rays[3], e.angle_rad)
            x, y, along_x, along_y = x / e.semi_x, y / e.semi_y, along_x / e.semi_x, along_y / e.semi_y
            speed, toward = along_x**2 + along_y**2, x * along_x + y * along_y
            inside = toward**2 - speed * (x**2 + y**2 - 1)
            total += e.value * extent_mm * 2 * inside.clamp_min(0).sqrt() / speed
        return total

    def kspace(self, shape: tuple[int, int]) -> Tensor:
        r"""Samples of the continuous Fourier transform in the convention of :func:`fft2c`, complex128.

        An ellipse of value v and semi-axes a, b contributes :math:`\sqrt{HW}\,v\,ab\,J_1(2\pi\rho)/\rho` times the
        phase ramp of its center, with :math:`\rho^2 = (a k_u)^2 + (b k_v)^2` and k in cycles per field of view along
        its axes. Equal to :func:`fft2c` of point samples up to aliasing.
        """
        q, p = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
        total = torch.zeros(shape, dtype=torch.complex128)
        for e in self.ellipses:
            along, across = _turned(p[None, :], q[:, None], e.angle_rad)
            rho = torch.hypot(e.semi_x * along, e.semi_y * across)
            # J1(2 pi rho) / rho tends to pi at 0.
            safe = rho.clamp_min(1e-9)
            disc = torch.where(rho > 1e-9, torch.special.bessel_j1(2 * torch.pi * safe) / safe, torch.pi)
            shift = -2 * torch.pi * (p[None, :] * e.center_x + q[:, None] * e.center_y)
            total += torch.polar(e.value * e.semi_x * e.semi_y * torch.ones_like(shift), shift) * disc
        return total * math.sqrt(shape[0] * shape[1])


def _turned(x: Tensor, y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    c, s = math.cos(angle), math.sin(angle)
    return c * x + s * y, c * y - s * x


def shepp_logan() -> EllipsePhantom:
    """The Shepp-Logan head with Toft's contrast, the nose up."""
    table = (
        (1.0, 0.69, 0.92, 0.0, 0.0, 0),
        (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0),
        (-0.2, 0.11, 0.31, 0.22, 0.0, -18),
        (-0.2, 0.16, 0.41, -0.22, 0.0, 18),
        (0.1, 0.21, 0.25, 0.0, 0.35, 0),
        (0.1, 0.046, 0.046, 0.0, 0.1, 0),
        (0.1, 0.046, 0.046, 0.0, -0.1, 0),
        (0.1, 0.046, 0.023, -0.08, -0.605, 0),
        (0.1, 0.023, 0.023, 0.0, -0.606, 0),
        (0.1, 0.023, 0.046, 0.06, -0.605, 0),
    )
    # The table has y up and a width of 2; an ellipse has y down and a field of view of 1.
    return EllipsePhantom(
        tuple(Ellipse(v, x / 2, -y / 2, a / 2, b / 2, -math.radians(degrees)) for v, a, b, x, y, degrees in table)
    )
