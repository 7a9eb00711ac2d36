"""Parts of the phantoms: random fields, shapes with soft edges, layers of tissue."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

#: Standard deviation of the point spread in halves of the field of view: 0.6 pixels of a 128x128 image.
POINT_SPREAD = 0.009


class Field:
    """Two random fields of unit variance with wavelengths around ``1 / cycles``, varying smoothly with z."""

    def __init__(self, generator: torch.Generator, cycles: float, bandwidth: float) -> None:
        reach = math.ceil(cycles + 2 * bandwidth)
        mode = torch.arange(-reach, reach + 1, dtype=torch.float32)
        weight = torch.exp(-0.5 * ((torch.hypot(mode[:, None], mode) - cycles) / bandwidth) ** 2)
        weight[reach, reach] = 0
        drawn = torch.randn(2, len(mode), len(mode), dtype=torch.complex64, generator=generator)
        self.mode = mode
        # Real and imaginary part of one transform are independent fields of half the power each.
        self.coefficients = drawn * (weight / weight.square().sum().sqrt() * math.sqrt(2))

    def at(self, z: float, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        turn = 3.0 * z
        mixed = math.cos(turn) * self.coefficients[0] + math.sin(turn) * self.coefficients[1]
        height, width = shape
        reach = len(self.mode) // 2
        # Grid points are pixel centers, half a pixel from the edge, so that every resolution has the same field.
        rows, columns = (torch.polar(torch.ones_like(self.mode), math.pi / n * self.mode) for n in shape)
        mixed = mixed * rows[:, None] * columns
        cut_y, cut_x = min(reach, (height - 1) // 2), min(reach, (width - 1) // 2)
        mixed = mixed[reach - cut_y : reach + cut_y + 1, reach - cut_x : reach + cut_x + 1]
        spectrum = torch.zeros(shape, dtype=torch.complex64)
        y = torch.arange(-cut_y, cut_y + 1) % height
        x = torch.arange(-cut_x, cut_x + 1) % width
        spectrum[y[:, None], x] = mixed
        field = torch.fft.ifft2(spectrum, norm="forward")
        return field.real, field.imag


class Canvas:
    """Tissue values and texture strengths, painted back to front.

    Parameters
    ----------
    tissues
        Value and texture of each tissue by name.
    """

    def __init__(self, shape: tuple[int, int], tissues: Mapping[str, tuple[float, float]], background: float = 0.0):
        self.shape = shape
        self.tissues = tissues
        self.layers = torch.stack((torch.full(shape, background), torch.zeros(shape)))
        self.covered: dict[str, Tensor] = {}

    def paint(self, tissue: str, inside: Tensor, softness: float = 0.008, only: str | None = None) -> None:
        """Cover the image with a tissue where ``inside``, about the signed distance to its edge, is positive.

        ``only`` limits it to one other tissue, whose position :meth:`watch` records.
        """
        cover = coverage(inside, softness)
        if only is not None:
            cover = cover * self.covered[only]
        new = torch.tensor(self.tissues[tissue])
        self.layers += cover * (new[:, None, None] - self.layers)
        for watched, before in self.covered.items():
            self.covered[watched] = torch.maximum(before, cover) if tissue == watched else before * (1 - cover)

    def watch(self, tissue: str) -> None:
        """Record from now on where a tissue lies, for ``only`` of :meth:`paint`."""
        self.covered[tissue] = torch.zeros(self.shape)


def resolved(layers: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Signal, texture and coverage at half the resolution; a point spread blurs signal and texture only."""
    rows, columns = (_blur(n) for n in inside.shape)
    signal, texture = rows @ layers @ columns.T
    return signal, texture, torch.nn.functional.avg_pool2d(inside[None], 2)[0]


def _blur(n: int) -> Tensor:
    """Matrix ``(n // 2, n)`` of Gaussian blur followed by the mean of two neighbors."""
    position = (torch.arange(n) + 0.5) * (2 / n)
    weight = torch.exp(-0.5 * ((position[:, None] - position) / POINT_SPREAD) ** 2)
    # Denormal numbers would make the products ten times slower.
    weight = torch.where(weight > 1e-6, weight, 0)
    weight = weight / weight.sum(1, keepdim=True)
    return (weight[0::2] + weight[1::2]) / 2


def coverage(inside: Tensor, softness: float) -> Tensor:
    """Covered fraction of a pixel at a signed distance from a soft edge, 0 to 1."""
    return (inside / softness + 0.5).clamp(0, 1)


def ellipse(x: Tensor, y: Tensor, cx: float, cy: float, rx: float, ry: float, angle: float) -> Tensor:
    """Approximate signed distance to the edge of an ellipse, positive inside."""
    c, s = math.cos(angle), math.sin(angle)
    u, v = (c * (x - cx) + s * (y - cy)) / rx, (c * (y - cy) - s * (x - cx)) / ry
    return (1 - torch.hypot(u, v)) * min(rx, ry)


def pixel_centers(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixel centers, y as a column and x as a row, in (-1, 1)."""
    y, x = (((torch.arange(n) + 0.5) * (2 / n) - 1) for n in shape)
    return y[:, None], x[None, :]
