"""Filtered back-projection for parallel and fan beams: any set of angles, short scans, displaced detectors."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..autograd.transpose_pair import Transposed
from ..operator import require_tensor
from .beams import FanBeam, ParallelBeam
from .fbp_weights import redundancy_weights, scan_coverage, view_angles
from .geometry import Geometry, hole_radius_mm, rays_of, require_scan
from .grid import Array, ImageGrid
from .places import Places, places_of
from .rays import PAD, by_lanes
from .vectors import FanVectors, ParallelVectors

logger = logging.getLogger(__name__)

#: Windows of the ramp filter by name, functions of the frequency in units of the cut-off.
WINDOWS: dict[str, Callable[[Array], Array]] = {
    "ramp": np.ones_like,
    "shepp_logan": lambda f: np.sinc(f / 2),
    "cosine": lambda f: np.cos(np.pi * f / 2),
    "hann": lambda f: 0.5 + 0.5 * np.cos(np.pi * f),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(np.pi * f),
}
#: Largest :attr:`FanVectors.departure` for which the weights of the nominal beam are right.
LARGEST_DEPARTURE = 0.03
#: Scans whose missing degrees need no line in the log.
_SAID: set[tuple[Geometry, ImageGrid]] = set()
#: Largest number of values that the torch reference interpolates at a time.
_VALUES_AT_ONCE = 2**22


#: Bytes of a position that the images of a batch share: double precision, index, weight and scale.
_BYTES_OF_A_POSITION = 80


def plain_backprojection_memory(geometry: Geometry, grid: ImageGrid, batch: int, itemsize: int) -> int:
    """Most bytes of filtered back-projection of a batch in plain torch, as on a GPU."""
    (views, rays), pixels = geometry.shape, grid.shape[0] * grid.shape[1]
    positions = min(max(_VALUES_AT_ONCE // batch, pixels), pixels * views)
    # The filter pads views to a power of two above twice the detectors with margins, and has a complex spectrum.
    filtering = 3 * batch * views * (1 << math.ceil(math.log2(4 * rays))) * itemsize
    images = batch * (views * (rays + 2 * PAD) + 2 * pixels) * itemsize
    return max(positions * (_BYTES_OF_A_POSITION + 5 * batch * itemsize), filtering) + images


def filtered_backprojection(
    sinogram: Tensor, geometry: Geometry, grid: ImageGrid, window: str = "ramp", cutoff: float = 1.0
) -> Tensor:
    r"""Reconstruct attenuation from line integrals with the ramp filter.

    Neither the adjoint nor an exact inverse of `RadonOperator`: every pixel sums the filtered views, interpolated
    linearly at its projection. Views are weighted by their angular width, whatever the order and spacing of the angles.
    Lines measured twice (short and full scans, displaced detectors) have smooth weights that add up to one [N]_; for a
    short scan these act as Parker's weights. A scan that misses lines through the image, as of a limited angle, a fan
    beam over less than half a turn and the angle of its fan, or a displaced detector over less than a turn, is logged
    as a warning with the missing degrees. Differentiable to any order.

    Scans of vectors are back-projected along their own rays, with the filter and the weights of the nearest beam: right
    up to the square of the deviations in offset, and to first order in those of distances and tilts.

    Parameters
    ----------
    sinogram
        Line integrals, float32 or float64, shape ``(..., views, detectors)``, dimensionless.
    window
        Key of :data:`WINDOWS`.
    cutoff
        Highest frequency, in units of the detector's Nyquist frequency.

    Returns
    -------
        Attenuation in 1/mm, shape ``(..., height, width)``.

    Raises
    ------
    ValueError
        If sinogram and geometry disagree in shape, the window is unknown, the cut-off is not in (0, 1], or the views
        of a scan of vectors are too far from those of a beam (:func:`has_filtered_backprojection`).
    TypeError
        If the sinogram is no tensor of floating-point numbers.

    References
    ----------
    .. [KS] Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, ch. 3.
    .. [N] Noo, Defrise, Clackdoyle and Kudo, Image reconstruction from fan-beam projections on less than a short scan,
       Phys. Med. Biol. 47, 2002.
    """
    who = "filtered_backprojection"
    if torch.compiler.is_compiling():  # tables of numpy and kernels are no graph
        outside: Tensor = torch.compiler.disable(filtered_backprojection)(sinogram, geometry, grid, window, cutoff)
        return outside
    require_tensor(who, sinogram, "sinogram")
    require_scan(who, grid, geometry)
    found = tuple(sinogram.shape[-2:])
    if found != geometry.shape:
        hint = "; exchange its last two axes" if found == geometry.shape[::-1] else ""
        raise ValueError(
            f"{who}: sinogram has trailing shape {found}, expected {geometry.shape}, (views, detectors){hint}"
        )
    if sinogram.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{who}: sinogram has dtype {sinogram.dtype}, expected float32 or float64")
    if window not in WINDOWS:
        raise ValueError(f"{who}: window is {window!r}, expected one of {', '.join(WINDOWS)}")
    if not isinstance(cutoff, Real) or not 0 < cutoff <= 1:
        raise ValueError(f"{who}: cutoff is {cutoff!r}, expected more than 0 and at most 1")
    plan = _plan(geometry, grid)
    weighted = torch.nn.functional.pad(sinogram * torch.from_numpy(plan.weights).to(sinogram), plan.margins)
    response = torch.from_numpy(plan.response(window, cutoff)).to(sinogram)
    n = 2 * (len(response) - 1)
    filtered = torch.fft.irfft(torch.fft.rfft(weighted, n=n) * response, n=n)[..., : weighted.shape[-1]]
    return Transposed.of(filtered, plan.backproject, plan.transpose)


@dataclass(frozen=True, eq=False)
class _Plan:
    """Everything that depends only on scan and grid: ray weights, filter, back-projection and its transpose."""

    geometry: Geometry
    grid: ImageGrid

    @cached_property
    def weights(self) -> Array:
        """All factors of a ray that do not depend on the pixel, ``(views, detectors)``."""
        geometry = self.geometry
        weights = redundancy_weights(geometry) * view_angles(geometry)[:, None]
        if isinstance(geometry, ParallelBeam):
            return weights
        if isinstance(geometry, FanBeam):
            R = geometry.source_to_axis_mm
            return weights * np.cos(geometry.fan_angles) * (R**2 if geometry.detector == "flat" else R)
        return weights * self._vector_weights(geometry)

    def _vector_weights(self, geometry: ParallelVectors | FanVectors) -> Array:
        """The factors of :attr:`weights` for the lengths of every view; the filter is that of the nominal beam."""
        if isinstance(geometry, ParallelVectors):
            weights: Array = geometry.gains[:, None] * geometry.nominal.pitch_mm
            return weights
        rays, beam = rays_of(geometry), geometry.nominal
        cos, sin = np.cos(geometry.angles)[:, None], np.sin(geometry.angles)[:, None]
        R, D = geometry.depths_mm[:, None], geometry.distances_mm[:, None]
        obliquity = rays.direction_y * cos - rays.direction_x * sin
        if geometry.detector == "curved":
            return np.asarray(obliquity * R)
        return np.asarray(obliquity * R**2 * (beam.source_to_axis_mm / beam.source_to_detector_mm) * (D / R))

    @cached_property
    def margins(self) -> tuple[int, int]:
        """Elements added at either end of a displaced detector, where the filtered view is not zero."""
        u, pitch = self.geometry.nominal.u_mm, self.geometry.nominal.pitch_mm
        excess = round(float(u[0] + u[-1]) / pitch)
        return max(excess, 0), max(-excess, 0)

    @property
    def elements(self) -> int:
        """Detector elements, margins included."""
        return self.geometry.detectors + sum(self.margins)

    def response(self, window: str, cutoff: float) -> Array:
        """Windowed ramp filter at the non-negative frequencies of a zero-padded view."""
        geometry = self.geometry.nominal
        size = 2 ** math.ceil(math.log2(2 * self.elements))
        n = np.arange(1, self.elements, 2)
        pitch, curvature = geometry.pitch_mm, np.ones(len(n))
        if not isinstance(geometry, ParallelBeam):
            flat = geometry.detector == "flat"
            # A flat detector is filtered in its pitch at the axis, a curved one in angles.
            pitch *= (geometry.source_to_axis_mm if flat else 1.0) / geometry.source_to_detector_mm
            curvature = curvature if flat else (n * pitch / np.sin(n * pitch)) ** 2
        kernel = np.zeros(size)
        kernel[0] = 1 / (4 * pitch)
        # Sampled in space: sampling |f| would make the zero frequency 0 and lower the whole image.
        kernel[n] = kernel[-n] = -curvature / (math.pi**2 * n**2 * pitch)
        response = np.fft.rfft(kernel).real
        frequency = np.linspace(0, 1, len(response)) / cutoff
        filtered: Array = np.where(frequency <= 1, response * WINDOWS[window](frequency), 0.0)
        return filtered

    @cached_property
    def places(self) -> Places:
        """Where pixels meet the filtered views; elements count from the padding."""
        return places_of(self.geometry, first=PAD + self.margins[0])

    def backproject(self, views: Tensor) -> Tensor:
        """Back-project filtered views, ``(batch, views, elements) -> (batch, height, width)``."""
        compiled = views.device.type == "cpu"
        return by_lanes(self._backproject_compiled, views) if compiled else self.backproject_reference(views)

    def backproject_reference(self, views: Tensor) -> Tensor:
        """:meth:`backproject` in plain torch: for any device, and the reference of the kernels' tests."""
        images = views.new_zeros(len(views), self.grid.shape[0] * self.grid.shape[1])
        for some, index, weight, scale in self._places(views):
            flat = torch.nn.functional.pad(views[:, some], (PAD, PAD)).flatten(1)
            left, right = flat[:, index], flat[:, index + 1]
            images += ((left + weight * (right - left)) * scale).sum(1)
        return images.reshape(len(views), *self.grid.shape)

    def transpose(self, images: Tensor) -> Tensor:
        """Transpose of :meth:`backproject`, ``(batch, height, width) -> (batch, views, elements)``."""
        compiled = images.device.type == "cpu"
        return by_lanes(self._transpose_compiled, images) if compiled else self.transpose_reference(images)

    def transpose_reference(self, images: Tensor) -> Tensor:
        """:meth:`transpose` in plain torch."""
        views = images.new_zeros(len(images), len(self.places.beams), self.elements)
        for some, index, weight, scale in self._places(images):
            value = images.flatten(1).unsqueeze(1) * scale
            total = images.new_zeros(len(images), len(index) * (self.elements + 2 * PAD))
            total.index_add_(1, index.flatten(), (value * (1 - weight)).flatten(1))
            total.index_add_(1, index.flatten() + 1, (value * weight).flatten(1))
            views[:, some] = total.reshape(len(images), len(index), -1)[..., PAD:-PAD]
        return views

    def _places(self, like: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """In parts: views, flat index of the element left of each pixel, weight of the right element, scale.

        All but the views have shape ``(views, pixels)``.
        """
        kind, *tables = self.places
        # In double precision, on the device of the images: on a GPU these places are most of the work.
        x, y = (
            torch.from_numpy(part.reshape(-1)).to(like.device) for part in np.meshgrid(self.grid.x_mm, self.grid.y_mm)
        )
        directions, table = (torch.from_numpy(part).to(like.device) for part in tables)
        at_once = max(1, _VALUES_AT_ONCE // (len(x) * len(like)))
        for first in range(0, len(directions), at_once):
            cos, sin = directions[first : first + at_once].T[..., None]
            R, lateral, gain, shift, off_u, off_n = table[first : first + at_once].T[..., None]
            across, along = x * cos + y * sin - lateral, R - x * sin + y * cos
            scale = torch.ones_like(across) if kind == 0 else 1 / (along**2 + across**2 * (kind == 2))
            place = across if kind == 0 else across / along if kind == 1 else torch.arctan2(across, along)
            if kind == 2:
                place = place + torch.arcsin((off_u * along - off_n * across) * scale.sqrt())
            place = (gain * place + shift).clamp(0, self.elements + PAD)
            left = place.floor()
            rows = torch.arange(len(cos), device=like.device)[:, None]
            index = left.long() + rows * (self.elements + 2 * PAD)
            yield slice(first, first + len(cos)), index, (place - left).to(like), scale.to(like)

    def _backproject_compiled(self, views: Tensor) -> Tensor:
        from .kernels import compiled, pixel_kernels

        count, (height, width) = len(views), self.grid.shape
        sinogram = _batch_last(torch.nn.functional.pad(views, (PAD, PAD)))
        xs = self._columns
        image = np.zeros(height * len(xs) * count, sinogram.dtype)
        kind, directions, beams = self.places
        common = (kind, sinogram, directions, beams, self.elements, image, xs, self.grid.y_mm)
        jobs = [(*common, rows, (0.0,) * count) for rows in compiled.parts(height)]
        compiled.run_threads(pixel_kernels.backproject, jobs)
        return torch.from_numpy(image.reshape(height, len(xs), count)[:, :width]).movedim(-1, 0)

    def _transpose_compiled(self, images: Tensor) -> Tensor:
        from .kernels import compiled, pixel_kernels

        views, count, xs = len(self.places.beams), len(images), self._columns
        image = _batch_last(torch.nn.functional.pad(images, (0, len(xs) - images.shape[-1])))
        sinogram = np.zeros(views * (self.elements + 2 * PAD) * count, image.dtype)
        kind, directions, beams = self.places
        common = (kind, sinogram, directions, beams, self.elements, image, xs, self.grid.y_mm)
        jobs = [(*common, part, (0.0,) * count) for part in compiled.parts(views)]
        compiled.run_threads(pixel_kernels.transpose, jobs)
        return torch.from_numpy(sinogram.reshape(views, -1, count)[:, PAD:-PAD]).movedim(-1, 0)

    @cached_property
    def _columns(self) -> Array:
        """Centers of the columns in mm, continued to a multiple of the kernels' block."""
        from .kernels.lanes import ROWS

        width = self.grid.shape[1]
        filled: Array = self.grid.x_mm[0] + np.arange(-(-width // ROWS) * ROWS) * self.grid.spacing_mm[1]
        return filled


def has_filtered_backprojection(geometry: Geometry) -> bool:
    """Whether the weights of filtered back-projection are right for a scan: of every beam, and of vectors near one."""
    return departure_of(geometry) <= LARGEST_DEPARTURE


def departure_of(geometry: Geometry) -> float:
    """Largest relative deviation of a view from the nominal beam; 0 for beams."""
    return geometry.departure if isinstance(geometry, ParallelVectors | FanVectors) else 0.0


def coverage_is_said(geometry: Geometry, grid: ImageGrid) -> None:
    """Log the missing degrees of a scan no more: the caller says them."""
    _SAID.add((geometry, grid))


@lru_cache(maxsize=16)
def _plan(geometry: Geometry, grid: ImageGrid) -> _Plan:
    if not (coverage := scan_coverage(geometry, grid)).is_complete and (geometry, grid) not in _SAID:
        logger.warning(
            "filtered_backprojection: the views cover %.0f of the %.0f degrees that this scan needs, %.0f degrees are "
            "missing: expect artefacts along them",
            *coverage,
        )
    if not has_filtered_backprojection(geometry):
        raise ValueError(
            f"filtered_backprojection: views differ from those of a beam by {100 * departure_of(geometry):.2g} % of "
            f"its lengths, expected at most {100 * LARGEST_DEPARTURE:g} %: the formula has no weights for larger tilts "
            "and changes of distance; use an iterative method, such as TV or SIRT"
        )
    hole = hole_radius_mm(geometry)
    if hole > 0:
        logger.warning(
            "filtered_backprojection: no ray passes within %.3g mm of the axis: expect artefacts there; check "
            "offset_mm and detectors",
            hole,
        )
    return _Plan(geometry, grid)


def _batch_last(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().movedim(0, -1).contiguous().numpy().reshape(-1)
