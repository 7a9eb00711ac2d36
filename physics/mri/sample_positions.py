"""Non-uniform Fourier transforms at fixed positions, and what follows from the positions alone, computed once."""

import hashlib
import math
from collections import OrderedDict
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .toeplitz import toeplitz_norm, toeplitz_spectrum
from .trajectories import Array

#: Relative error that finufft is asked for, by the data type of the images. The transforms themselves run in double
#: precision: single precision rounds the positions, which alone is an error of 1e-5 at 256 pixels and is not faster.
_TOLERANCE = {torch.complex64: 1e-7, torch.complex128: 1e-14}
#: Oversampling of finufft's grid: 1.25 is faster, but not exact enough for double precision.
_OVERSAMPLING = {torch.complex64: 1.25, torch.complex128: 2.0}
#: Sets of positions whose plans are kept, and plans of each set.
_POSITIONS, _PLANS = 16, 8
#: Iterations and tolerance of the density weights; they make a start image, no data term.
_DENSITY_ITERATIONS, _DENSITY_TOLERANCE = 15, 1e-4


class SamplePositions:
    """Positions in k-space for images of one shape: transforms, spectrum of the Gram, density weights.

    Make it with :meth:`of`, which returns the same object for equal positions: finufft's plans and the spectrum are
    then made once. Copies and pickles keep this.

    Parameters
    ----------
    trajectory
        float64, shape ``(spokes, samples, 2)``, cycles per pixel along height and width.
    shape
        ``(height, width)`` of the images.
    """

    def __init__(self, trajectory: Tensor, shape: tuple[int, int]) -> None:
        self.trajectory, self.shape = trajectory, shape
        radians = 2 * math.pi * trajectory.reshape(-1, 2).numpy()
        self._coordinates = [np.ascontiguousarray(radians[:, axis]) for axis in (0, 1)]
        self._plans: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = Lock()
        self._spectra: dict[torch.dtype, Tensor] = {}
        self._norm: float | None = None
        self._density: Tensor | None = None

    @staticmethod
    def of(trajectory: Tensor, shape: tuple[int, int]) -> "SamplePositions":
        """The positions, shared between all who ask for equal ones."""
        return _shared(_Key(trajectory, shape))

    def __deepcopy__(self, memo: object) -> "SamplePositions":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return SamplePositions.of, (self.trajectory, self.shape)

    def forward(self, images: Array, dtype: torch.dtype) -> Array:
        r"""Samples :math:`(HW)^{-1/2} \sum_r x_r e^{-2 \pi i k r}`, complex128 ``(n, height, width) -> (n, samples)``.

        Parameters
        ----------
        images
            Pixel ``(height // 2, width // 2)`` is the origin of r.
        dtype
            complex64 or complex128: the accuracy, a relative error below 1e-6 or 1e-12.
        """
        return self._scaled(self._run(2, self.shape, images, dtype))

    def adjoint(self, samples: Array, dtype: torch.dtype) -> Array:
        """Adjoint of :meth:`forward`, complex128 ``(n, samples) -> (n, height, width)``."""
        return self._scaled(self._run(1, self.shape, samples, dtype))

    def _scaled(self, output: Array) -> Array:
        output *= 1 / math.sqrt(math.prod(self.shape))
        return output

    def spectrum(self, dtype: torch.dtype, keep: Tensor | None = None) -> Tensor:
        """Real spectrum of the Gram, see :func:`toeplitz_spectrum`, float64 ``(2, 2, height, width)``.

        Parameters
        ----------
        keep
            Bool ``(spokes, samples)``: the samples that count; None: all, whose spectrum is stored.
        """
        if keep is not None:
            return self._spectrum_of(keep.reshape(1, -1).numpy().astype(np.complex128), dtype)
        if dtype not in self._spectra:
            self._spectra[dtype] = self._spectrum_of(np.ones((1, len(self._coordinates[0])), np.complex128), dtype)
        return self._spectra[dtype]

    def _spectrum_of(self, weights: Array, dtype: torch.dtype) -> Tensor:
        height, width = self.shape
        kernel = self._run(1, (2 * height, 2 * width), weights, dtype)[0] / (height * width)
        return toeplitz_spectrum(torch.from_numpy(kernel))

    @property
    def norm(self) -> float:
        """Largest singular value of the transform of one image, by a power iteration with a margin of 1 %."""
        if self._norm is None:
            self._norm = toeplitz_norm(self.spectrum(torch.complex64))
        return self._norm

    @property
    def density(self) -> Tensor:
        r"""Density weights w by the iteration of Pipe and Menon, float64 ``(spokes, samples)``.

        :math:`w \leftarrow w / (K w)` with the kernel of the doubled field of view, :math:`K = B_2 D B_2^H`, where D is
        a triangle and :math:`B_2` the transform of an image of twice the size: the spectrum of a triangle is positive.
        At the fixed point :math:`w_s` is the area of k-space of sample s, in units of one Cartesian sample.

        References
        ----------
        .. [PM] Pipe and Menon, Sampling density compensation in MRI: rationale and an iterative numerical solution,
           Magn. Reson. Med. 41, 1999.
        """
        if self._density is None:
            height, width = self.shape
            rows, columns = (1 - np.abs(np.arange(-n, n)) / n for n in (height, width))
            window = rows[:, None] * columns / (height * width)
            weights = np.ones((1, len(self._coordinates[0])))
            for _ in range(_DENSITY_ITERATIONS):
                image = self._run(1, (2 * height, 2 * width), weights.astype(np.complex128), None) * window
                weights = weights / np.maximum(self._run(2, (2 * height, 2 * width), image, None).real, 1e-6)
            self._density = torch.from_numpy(weights.reshape(self.trajectory.shape[:-1]))
        return self._density

    def _run(self, kind: int, shape: tuple[int, int], data: Array, dtype: torch.dtype | None) -> Array:
        """A transform of finufft, type 1 (samples to image, sign +) or 2 (image to samples, sign -)."""
        tolerance, oversampling = (_TOLERANCE[dtype], _OVERSAMPLING[dtype]) if dtype else (_DENSITY_TOLERANCE, 1.25)
        key = (kind, shape, len(data), tolerance, torch.get_num_threads())
        # A plan has buffers: two threads must not run it at a time.
        with self._lock:
            plan = self._plans.pop(key, None)
            if plan is None:
                import finufft  # late: only these scans need its library

                plan = finufft.Plan(
                    kind, shape, n_trans=len(data), eps=tolerance, isign=1 if kind == 1 else -1, dtype="complex128",
                    nthreads=torch.get_num_threads(), upsampfac=oversampling,
                )  # fmt: skip
                plan.setpts(*self._coordinates)
            self._plans[key] = plan
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
            output: Array = plan.execute(np.ascontiguousarray(data)).reshape(
                len(data), *(shape if kind == 1 else (-1,))
            )
        return output


class _Key:
    """Positions as a key of the cache: equal positions and shape are equal keys."""

    def __init__(self, trajectory: Tensor, shape: tuple[int, int]) -> None:
        self.trajectory, self.shape = trajectory, shape
        content = trajectory.contiguous().numpy().tobytes()
        self._identity = (hashlib.sha256(content).digest(), tuple(trajectory.shape), shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


@lru_cache(maxsize=_POSITIONS)
def _shared(key: _Key) -> SamplePositions:
    return SamplePositions(key.trajectory, key.shape)
