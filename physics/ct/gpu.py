"""Joseph's matrix on a GPU: tables of rays and pixels for the Triton kernels, and whether these kernels run.

The model is that of :mod:`.joseph`. Positions along the rays are rounded to 2**-40 pixels.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..autograd.constants import constants
from .beams import FanBeam, evenly_spaced
from .geometry import Geometry
from .grid import Array, ImageGrid
from .places import CURVED, FLAT, PARALLEL, places_of
from .rays import RayTable, backproject_reference, project_reference, trace
from .vectors import moved_fan

logger = logging.getLogger(__name__)

#: Rays of a view, and rows and columns of pixels, that one program of a kernel computes. No GPU has tuned them.
_RAYS, _ROWS, _COLUMNS = 128, 8, 16
#: Images of a batch that a thread computes at once: as many as one load has room for.
_LANES = (1, 2, 4)
#: Values that 32-bit indices of the kernels reach.
_MOST_VALUES = 2**31
#: Largest relative difference of the kernels from plain torch in single precision.
_SAME = 1e-5
#: Distance of the source from the focus of a curved detector, in radii, above which pixels are not placed.
_OFF_FOCUS = 0.9
#: Elements between which every ray of a view may pass a pixel.
_ANYWHERE = 1e9


@dataclass(frozen=True, eq=False)
class GpuRays:
    """Rays of a :class:`.RayTable` on a GPU, and the places of the pixels.

    ``bases`` and ``slopes`` are whole numbers in units of 2**-40 pixels, int64; ``lengths`` in mm, float64;
    ``by_rows`` int8, all ``(views, rays)``. ``spans`` are the lines in which a ray meets the image, int32, ``(views,
    rays, 2)``, first and after the last. ``beams`` are those of :func:`pixel_beams`, float32; a pixel is placed on the
    detector up to ``margin`` elements.
    """

    shape: tuple[int, int]
    bases: Tensor
    slopes: Tensor
    lengths: Tensor
    by_rows: Tensor
    spans: Tensor
    kind: int
    beams: Tensor
    margin: float

    @classmethod
    def of(cls, grid: ImageGrid, geometry: Geometry, table: RayTable, device: torch.device) -> Self:
        """Tables of a scan.

        Raises
        ------
        ValueError
            If images or sinograms are too large for the kernels.
        """
        values = _LANES[-1] * max(2 * table.shape[0] * table.shape[1], table.base.size)
        if values >= _MOST_VALUES:
            raise ValueError(
                f"RadonOperator: an image of {table.shape} and a sinogram of {table.base.shape} have {values} values "
                f"in four slices, expected less than {_MOST_VALUES} on {device}; use the CPU"
            )
        spans = _spans(table)
        missing = spans[..., 0] >= spans[..., 1]
        # A ray beside the image may have a position of any size; there, it meets no pixel.
        bases, slopes = _fixed(np.where(missing, -4.0, table.base)), _fixed(np.where(missing, 0.0, table.slope))
        kind, beams, margin = pixel_beams(grid, geometry)
        with constants():
            tensors = {
                name: torch.from_numpy(array).to(device)
                for name, array in {
                    "bases": bases,
                    "slopes": slopes,
                    "lengths": table.length,
                    "by_rows": table.by_rows.astype(np.int8),
                    "spans": spans,
                    "beams": beams.astype(np.float32),
                }.items()
            }
        return cls(table.shape, kind=kind, margin=margin, **tensors)

    def project(self, images: Tensor) -> Tensor:
        """Line integrals, ``(batch, height, width) -> (batch, views, rays)``."""
        from .kernels import gpu_kernels

        views, rays = self.bases.shape
        inner = _lanes_innermost(images)
        both = torch.stack((inner, inner.transpose(1, 2).reshape(inner.shape)), dim=1)
        sinogram = inner.new_empty(len(inner), views, rays, inner.shape[-1])
        with _current(images.device):
            gpu_kernels.project[(views, -(-rays // _RAYS), len(inner))](
                both, self.bases, self.slopes, self.lengths.to(images.dtype), self.by_rows, self.spans, sinogram, rays,
                *self.shape, RAYS=_RAYS, LANES=inner.shape[-1],
            )  # fmt: skip
        return _batch_outermost(sinogram, len(images))

    def backproject(self, sinograms: Tensor) -> Tensor:
        """Transpose of :meth:`project`, ``(batch, views, rays) -> (batch, height, width)``."""
        from .kernels import gpu_kernels

        (views, rays), (height, width) = self.bases.shape, self.shape
        inner = _lanes_innermost(sinograms * self.lengths.to(sinograms.dtype))
        image = inner.new_empty(len(inner), height, width, inner.shape[-1])
        with _current(sinograms.device):
            gpu_kernels.backproject[(-(-height // _ROWS), -(-width // _COLUMNS), len(inner))](
                inner, self.bases, self.slopes, self.by_rows, self.beams, image, views, rays, height, width,
                self.margin, KIND=self.kind, ROWS=_ROWS, COLUMNS=_COLUMNS, LANES=inner.shape[-1],
            )  # fmt: skip
        return _batch_outermost(image, len(sinograms))


def pixel_beams(grid: ImageGrid, geometry: Geometry) -> tuple[int, Array, float]:
    """Kind of detector, numbers that place a pixel on the detector, and the error of the places in elements.

    Of every view there are ten numbers. The first three give ``across`` as a number of its own plus multiples of row
    and column, the next three ``depth``. A pixel is at element ``across`` of a parallel beam, ``across / depth`` of a
    flat detector. Of a curved one it is at ``gain`` times the angle of ``(across, depth)``, plus that of a focus beside
    the source, plus ``shift``: the last four numbers are ``(gain, shift, off_u, off_n)``, see :class:`.Places`.
    """
    kind, directions, beams = places_of(geometry)
    (cos, sin), (R, lateral, gain, shift, off_u, off_n) = directions.T, beams.T
    (dy, dx), x, y = grid.spacing_mm, grid.x_mm[0], grid.y_mm[0]
    across = np.stack((x * cos + y * sin - lateral, -dy * sin, dx * cos))
    depth = np.stack((R - x * sin + y * cos, -dy * cos, -dx * sin))
    one = np.array([[1.0], [0.0], [0.0]])
    # Single precision places them up to a few of its digits, and the arc tangent of the kernel up to 7e-6.
    margin = 1 / 32 + 2.0**-16 * geometry.detectors
    if kind == PARALLEL:
        across, depth = gain * across + shift * one, one * np.ones(len(beams))
    elif kind == FLAT:
        across, depth = (gain * across + shift * depth) / R, depth / R
    elif kind == CURVED:
        across, depth = across / R, depth / R
        margin += 1e-5 * float(gain.max())
        if np.hypot(off_u, off_n).max() > _OFF_FOCUS:
            margin = _ANYWHERE
    return kind, np.stack((*across, *depth, gain, shift, off_u, off_n), axis=1), margin


def gpu_memory(grid: ImageGrid, geometry: Geometry, batch: int = 1, dtype: torch.dtype = torch.float32) -> int:
    """Most bytes of GPU memory of a projection of a batch or of its adjoint, without its argument.

    They hold the rays of the scan, which stay, the result, and what is freed with the call: copies of images and
    sinograms for the kernels. Plain torch needs more.
    """
    views, rays = geometry.shape
    lanes = _lanes_for(batch)
    filled = -(-batch // lanes) * lanes
    image, sinogram = filled * grid.shape[0] * grid.shape[1], filled * views * rays
    # Forward: lanes innermost, the same by columns, both of them; then both, and two sinograms. Adjoint: the product
    # with the lengths, filled, lanes innermost; then that and two images.
    values = max(4 * image, 3 * image + 2 * sinogram, 3 * sinogram, 2 * sinogram + 2 * image) + views * rays
    return 33 * views * rays + 40 * views + values * dtype.itemsize


def kernels_on(device: torch.device) -> str:
    """One line that says whether CT runs in the kernels on a GPU, and if not, why; it tries them."""
    reason = trouble_on(device)
    if reason:
        return f"CT on {device}: plain torch, more slowly than in kernels: {reason}"
    return f"CT on {device}: kernels of Triton {version('triton')}"


def runs_kernels(device: torch.device) -> bool:
    """Whether projections of tensors on a device run in these kernels; on other devices but the CPU in plain torch."""
    return device.type == "cuda" and not trouble_on(device)


@cache
def trouble_on(device: torch.device) -> str:
    """Why the kernels do not run on a GPU, logged as a warning once; empty if they do.

    They run if they compile and agree with plain torch on a small scan.
    """
    reason = "the package triton is not installed"
    if find_spec("triton") is not None:
        try:
            with constants():
                difference = _difference_on(device)
            # Not "difference > _SAME": a comparison with NaN is False.
            reason = "" if difference <= _SAME else f"the kernels' results are off by {difference:.1e}"
        except Exception as error:  # compilers and drivers that are missing or too old raise errors of many classes
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    if reason:
        logger.warning("CT on %s: projections run in plain torch, more slowly than in kernels: %s", device, reason)
    return reason


def _difference_on(device: torch.device) -> float:
    beam = FanBeam(evenly_spaced(5, 1.3, 0.1), 19, 1.5, 50.0, 80.0, "curved", 0.3)
    grid, scan = ImageGrid((9, 11), 1.5), moved_fan(beam, source_mm=(1.0, 0.5), tilt_rad=0.1)
    table = trace(grid, scan.rays, ordered=False)
    rays, generator = GpuRays.of(grid, scan, table, device), torch.Generator().manual_seed(0)
    images, sinograms = (torch.rand(2, *shape, generator=generator).to(device) for shape in (grid.shape, scan.shape))
    pairs = (
        (rays.project(images), project_reference(table, images)),
        (rays.backproject(sinograms), backproject_reference(table, sinograms)),
    )
    return max(float((found - expected).norm() / expected.norm()) for found, expected in pairs)


def _spans(table: RayTable) -> npt.NDArray[np.int32]:
    """First line and line after the last between which a ray is within a pixel of the image; none: first is larger."""
    height, width = table.shape
    lines, places = np.where(table.by_rows, height, width), np.where(table.by_rows, width, height)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack(((-1.0 - table.base) / table.slope, (places - table.base) / table.slope))
    first, last = ends.min(0), ends.max(0)
    inside = (table.base > -1) & (table.base < places)
    still = table.slope == 0
    first, last = (np.where(still, np.where(inside, a, b), end) for a, b, end in ((0, 1, first), (lines, 0, last)))
    # A line more at either end, for rounding.
    first = np.clip(np.floor(first) - 1, 0, lines)
    after = np.clip(np.ceil(last) + 2, 0, lines)
    empty = first >= after
    spans = np.stack((np.where(empty, np.iinfo(np.int32).max, first), np.where(empty, 0, after)), axis=-1)
    return spans.astype(np.int32)


def _lanes_for(count: int) -> int:
    return next((lanes for lanes in _LANES if lanes >= count), _LANES[-1])


def _lanes_innermost(batch: Tensor) -> Tensor:
    """``(batch, rows, columns) -> (parts, rows, columns, lanes)``, filled with zeros."""
    lanes = _lanes_for(len(batch))
    missing = -len(batch) % lanes
    filled = torch.cat((batch, batch.new_zeros(missing, *batch.shape[1:]))) if missing else batch
    return filled.detach().reshape(-1, lanes, *batch.shape[1:]).movedim(1, -1).contiguous()


def _batch_outermost(parts: Tensor, count: int) -> Tensor:
    """``(parts, rows, columns, lanes) -> (batch, rows, columns)``, without what :func:`_lanes_innermost` filled."""
    return parts.movedim(-1, 1).flatten(0, 1)[:count].contiguous()


def _fixed(pixels: Array) -> npt.NDArray[np.int64]:
    return np.asarray(np.rint(pixels * 2.0**40).astype(np.int64))


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current GPU, which may be another one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
