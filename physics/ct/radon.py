"""Line integrals of attenuation along the rays of a CT scan, as a differentiable operator."""

import logging
import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ..autograd.constants import constants, is_constant, values_of
from ..autograd.transpose_pair import TransposePair
from ..operator import LinearOperator, reciprocal, require_tensor
from .beams import FanBeam, ParallelBeam, evenly_spaced
from .fbp import filtered_backprojection, has_filtered_backprojection, plain_backprojection_memory
from .fbp_weights import goes_all_round
from .gaps import across_gaps
from .geometry import (
    Geometry,
    covered_radius_mm,
    field_of_view_radius_mm,
    hole_radius_mm,
    is_displaced,
    require_scan,
)
from .gpu import gpu_memory
from .grid import ImageGrid
from .projector import Projector, projector_of
from .rays import plain_memory
from .transmission import estimate_ray_noise
from .vectors import ParallelVectors

logger = logging.getLogger(__name__)

#: Iterations of SIRT from which scans without filtered back-projection start.
_SIRT = 20


class RadonOperator(LinearOperator):
    r"""Line integrals :math:`y_i = w_i \int_{L_i} x \, ds` by Joseph's method.

    ``(height, width) -> (views, detectors)``, attenuation in 1/mm to dimensionless numbers.

    Forward and adjoint are the same matrix; each is the backward pass of the other, for derivatives of any order.

    Parameters
    ----------
    grid
        Pixels of the image.
    geometry
        The scan. Pixels that some views do not cover are logged and no error.
    ray_weights
        Weights :math:`w_i \ge 0` of the rays, real, ``(*batch, views, detectors)``: square roots of the statistical
        weights, by which the measurement is multiplied too. They may require a gradient. None: all one.

    Raises
    ------
    ValueError
        If the radius of the field of view is less than half that of the image's inscribed circle, no ray comes near the
        axis, the source is within the image, or the weights are negative or have another shape. The field of view of a
        displaced detector is what its longer side covers in a full turn.

    Notes
    -----
    Data are float32 or float64, positions along the rays are computed in double precision. Compiled kernels on as many
    threads as torch uses on the CPU, and kernels of Triton on GPUs, where positions are rounded to 2**-40 pixels. Plain
    torch, which is much slower, on a GPU where Triton is missing or its kernels do not run, which is logged as a
    warning, and on other devices.
    """

    ray_weights: Tensor | None
    quantitative = True
    slices_at_once = 8  # the kernels are three times faster per image on eight of them

    def __init__(self, grid: ImageGrid, geometry: Geometry, ray_weights: Tensor | None = None) -> None:
        require_scan("RadonOperator", grid, geometry)
        super().__init__(grid.shape, geometry.shape)
        self.grid, self.geometry = grid, geometry
        _require_coverage(grid, geometry)
        if ray_weights is not None:
            require_tensor("RadonOperator", ray_weights, "ray_weights")
            self._require(ray_weights, self.range_shape, "ray_weights")
            if not ray_weights.is_floating_point() or not bool((values_of(ray_weights) >= 0).all()):
                raise ValueError("RadonOperator: ray_weights hold NaN or negative values, expected real weights >= 0")
        self.register_buffer("ray_weights", ray_weights, persistent=False)
        self._matrix = _Matrix(grid, geometry)
        # Computed once: every layer of a network needs them.
        self._norm: Tensor | None = None
        self._sums: tuple[Tensor, Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.ray_weights is None else self.ray_weights.dtype

    def gpu_memory(self, batch: int = 1) -> int:
        """See :meth:`LinearOperator.gpu_memory`: the larger of a projection and of filtered back-projection.

        Projections are those of the kernels (:func:`physics.gpu_memory`) where Triton is installed, otherwise those of
        plain torch.
        """
        itemsize = torch.empty((), dtype=self.dtype).element_size()
        start = plain_backprojection_memory(self.geometry, self.grid, batch, itemsize)
        if find_spec("triton") is None:
            n_rays = math.prod(self.range_shape)
            return max(start, plain_memory(self.grid.shape, n_rays, batch, itemsize))
        rays = gpu_memory(self.grid, self.geometry, batch, self.dtype)
        return rays + start  # the tables of the rays stay

    @property
    def projector(self) -> Projector:
        """The matrix without weights, shared by all operators of this grid and geometry."""
        return projector_of(self.grid, self.geometry)

    def _forward(self, x: Tensor) -> Tensor:
        self._require_real(x, "image")
        return self.weighted(self._matrix.forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        self._require_real(y, "measurement")
        return self._matrix.transpose(self.weighted(y))

    def _require_real(self, tensor: Tensor, what: str) -> None:
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"RadonOperator: {what} has dtype {tensor.dtype}, expected float32 or float64")

    def _require(self, tensor: Tensor, shape: tuple[int, ...], what: str) -> None:
        if tuple(tensor.shape[-2:]) == shape[::-1] != shape:
            found = tuple(tensor.shape[-2:])
            axes = "(views, detectors)" if shape == self.range_shape else "(height, width)"
            raise ValueError(
                f"RadonOperator: {what} has trailing shape {found}, expected {shape}, {axes}; "
                "exchange its last two axes"
            )
        super()._require(tensor, shape, what)

    @property
    def norm(self) -> Tensor:
        r"""Upper bound of the largest singular value, within one percent if the rays have no weights.

        The matrix :math:`G = A^T A` is non-negative, so :math:`\max_j (G v)_j / v_j` bounds its largest eigenvalue for
        any positive v [CW]_. The vector v comes from power iterations: a few without weights, then two with weights.

        References
        ----------
        .. [CW] Collatz, Einschliessungssatz fuer die charakteristischen Zahlen von Matrizen, Math. Z. 48, 1942.
        """
        if self._is_learned:
            return self._bound()
        if self._norm is None:
            with constants():
                self._norm = self._bound()
        return self._norm if self.ray_weights is None else self._norm.to(self.ray_weights.device)

    @property
    def _is_learned(self) -> bool:
        """Whether what follows from the weights must be computed in each call."""
        return self.ray_weights is not None and not is_constant(self.ray_weights)

    def _bound(self) -> Tensor:
        with constants():
            vector, bound = _perron(self.grid, self.geometry)
            if self.ray_weights is None:
                return torch.tensor(bound, dtype=torch.float32)
            v = vector.to(self.ray_weights.device, self.ray_weights.dtype)
        ratios = []
        for _ in range(2):
            Gv = self._matrix.transpose(self.ray_weights**2 * self._matrix.forward(v))
            ratios.append((Gv / v).amax((-2, -1)))
            v = (Gv / Gv.amax((-2, -1), keepdim=True).clamp_min(1e-30)).clamp_min(1e-3)
        return torch.minimum(*ratios).sqrt()

    def start(self, y: Tensor) -> Tensor:
        """Filtered back-projection, :meth:`backprojected`.

        Twenty iterations of SIRT where the scan has no filtered back-projection (:func:`has_filtered_backprojection`).
        """
        if has_filtered_backprojection(self.geometry):
            return self.backprojected(y)
        x = self.normalized_adjoint(y)
        for _ in range(_SIRT - 1):
            x = x + self.normalized_adjoint(y - self._forward(x))
        return x

    def backprojected(self, y: Tensor, window: str = "ramp", cutoff: float = 1.0) -> Tensor:
        """Filtered back-projection of the line integrals of a measurement.

        Views whose weights are all zero are left out. Other rays of weight zero, such as those of dead elements, are
        interpolated along the detector, see :func:`across_gaps`.

        Parameters
        ----------
        window, cutoff
            As of :func:`filtered_backprojection`.
        """
        if self.ray_weights is None:
            return filtered_backprojection(y, self.geometry, self.grid, window, cutoff)
        with constants():
            measured = values_of(self.ray_weights) > 0
            used = measured.reshape(-1, *self.range_shape).any(-1).any(0).cpu().numpy()
            complete = bool(measured.all())
        lines, geometry = self.line_integrals(y), self.geometry
        if not used.any():
            return torch.zeros(*y.shape[:-2], *self.domain_shape, dtype=y.dtype, device=y.device)
        if not used.all():
            views = torch.from_numpy(used.nonzero()[0]).to(lines.device)
            lines, measured = lines.index_select(-2, views), measured.to(lines.device).index_select(-2, views)
            geometry = geometry.subset(used)
            complete = bool(measured.all())
        if not complete:
            lines = across_gaps(lines, measured.to(lines.device))
        return filtered_backprojection(lines, geometry, self.grid, window, cutoff)

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        """Noise of the measurement from :func:`estimate_ray_noise`; the weights change slowly along the detector."""
        return estimate_ray_noise(y)

    def normalized_adjoint(self, y: Tensor) -> Tensor:
        r"""SIRT's :math:`C A^T R y` with the inverse row sums R and column sums C of A; :math:`C A^T R A \le 1`."""
        self.require_measurement(y)  # would broadcast
        if self._is_learned:
            rows, columns = self._reciprocal_sums(y)
        else:
            if self._sums is None:
                with constants():
                    self._sums = self._reciprocal_sums(y)
            rows, columns = (sums.to(y.device, y.dtype) for sums in self._sums)
        return columns * self._adjoint(rows * y)

    def _reciprocal_sums(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Reciprocals of the sums over the rows and columns of the matrix."""
        with constants():
            image, lines = (
                torch.ones(shape, dtype=like.dtype, device=like.device)
                for shape in (self.domain_shape, self.range_shape)
            )
        return reciprocal(self._forward(image)), reciprocal(self._adjoint(lines))

    @property
    def sampled(self) -> Tensor:
        return super().sampled if self.ray_weights is None else self.ray_weights > 0

    def hold_out_candidates(self) -> Tensor:
        """Whole views, the same for all samples of a batch: filtered back-projection needs one geometry."""
        device = None if self.ray_weights is None else self.ray_weights.device
        return torch.ones(self.range_shape[0], 1, dtype=torch.bool, device=device)

    def line_integrals(self, y: Tensor) -> Tensor:
        """Line integrals of a measurement: divided by the weights of the rays, 0 where a weight is 0.

        Raises
        ------
        ValueError, TypeError
            As :meth:`adjoint`.
        """
        self.require_measurement(y)
        return y if self.ray_weights is None else y * reciprocal(self.ray_weights)

    def weighted(self, lines: Tensor) -> Tensor:
        """The measurement of line integrals: multiplied by the weights of the rays."""
        return lines if self.ray_weights is None else self.ray_weights * lines

    def restrict(self, keep: Tensor) -> "RadonOperator":
        """The operator with weight zero for every ray where ``keep`` is False."""
        weights = self.weighted(keep).to(self.dtype)
        weights = weights.expand(*weights.shape[:-2], *self.range_shape)
        return RadonOperator(self.grid, self.geometry, weights)

    @property
    def batch_key(self) -> tuple[object, ...]:
        return (*super().batch_key, self.grid, self.geometry)

    @classmethod
    def collate(cls, operators: Sequence["RadonOperator"]) -> "RadonOperator":
        """Join operators of one scan: stack their weights; without weights they are the same operator."""
        first = operators[0]
        weights = [operator.ray_weights for operator in operators]
        for operator in operators:
            if operator.batch_key != first.batch_key:
                raise ValueError(
                    f"RadonOperator.collate: {operator!r} and {first!r} differ in grid, scan or weights; batch by scan"
                )
        stacked = [w for w in weights if w is not None]
        return cls(first.grid, first.geometry, torch.stack(stacked)) if stacked else first

    @classmethod
    def example(cls, generator: torch.Generator) -> "RadonOperator":
        geometry = ParallelBeam(evenly_spaced(5, 0.7, 0.1), 11, 1.0)
        weights = torch.rand(2, 5, 11, generator=generator, dtype=torch.float64)
        return cls(ImageGrid((7, 6), 1.2), geometry, weights)


class _Matrix(TransposePair):
    """The matrix of a scan without weights, whose tables are shared and not pickled."""

    def __init__(self, grid: ImageGrid, geometry: Geometry) -> None:
        self.grid, self.geometry = grid, geometry
        super().__init__(grid.shape, geometry.shape)

    def project(self, images: Tensor) -> Tensor:
        return projector_of(self.grid, self.geometry).project(images)

    def backproject(self, data: Tensor) -> Tensor:
        return projector_of(self.grid, self.geometry).backproject(data)


@lru_cache(maxsize=16)
def _perron(grid: ImageGrid, geometry: Geometry) -> tuple[Tensor, float]:
    """A positive vector near the leading eigenvector of :math:`A^T A`, and its bound of the norm of A."""
    projector = projector_of(grid, geometry)
    vector = torch.ones(1, *grid.shape)
    for _ in range(8):
        product = projector.backproject(projector.project(vector))
        ratio = float((product / vector).max())
        # The bound needs a positive vector; pixels that no ray meets would become zero.
        vector = (product / product.max()).clamp_min(1e-3)
    product = projector.backproject(projector.project(vector))
    ratio = min(ratio, float((product / vector).max()))
    # Single precision may round the bound down.
    return vector[0], (ratio * (1 + 1e-5)) ** 0.5


def _require_coverage(grid: ImageGrid, geometry: Geometry) -> None:
    turn = goes_all_round(geometry)
    radius, hole = (covered_radius_mm if turn else field_of_view_radius_mm)(geometry), hole_radius_mm(geometry)
    reach = math.hypot(*grid.center_mm) + grid.inscribed_radius_mm / 2
    if radius < reach:
        off = " off the axis" if any(grid.center_mm) else ""
        part = "" if turn or not is_displaced(geometry) else " of a displaced detector over a part of a turn"
        raise ValueError(
            f"RadonOperator: the field of view{part} has a radius of {radius:.4g} mm, less than half of the "
            f"image's inscribed circle, {grid.inscribed_radius_mm:.4g} mm{off}; check pitch_mm, detectors, offset_mm "
            "and pixel_mm"
        )
    if hole > min(grid.spacing_mm):
        raise ValueError(
            f"RadonOperator: no ray passes within {hole:.4g} mm of the axis, the middle of the image; check offset_mm, "
            "detectors and pitch_mm"
        )
    nearest = _nearest_source_mm(geometry)
    if nearest <= grid.corner_radius_mm:
        raise ValueError(
            f"RadonOperator: the source is {nearest:.4g} mm from the axis, expected outside the "
            f"image, whose corners are {grid.corner_radius_mm:.4g} mm away; check source_to_axis_mm and pixel_mm"
        )
    if radius < grid.corner_radius_mm:
        logger.info(
            "some views do not cover the corners of the image: field of view %.4g mm, corners %.4g mm from the axis",
            radius,
            grid.corner_radius_mm,
        )


def _nearest_source_mm(geometry: Geometry) -> float:
    """Least distance of the source from the axis; infinite for parallel beams."""
    if isinstance(geometry, ParallelBeam | ParallelVectors):
        return math.inf
    return geometry.source_to_axis_mm if isinstance(geometry, FanBeam) else float(geometry.depths_mm.min())
