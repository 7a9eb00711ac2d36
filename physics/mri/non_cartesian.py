"""Multi-coil MRI at any positions of k-space, such as radial and spiral scans."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..autograd.constants import constant_of, constants, is_constant
from ..autograd.transpose_pair import Transposed
from ..operator import LinearOperator, Shape, reciprocal
from ..solvers import solve_normal
from .coil_products import coil_images, combined
from .coil_transforms import CoilConvolution, CoilTransform, one_coil_at_a_time
from .fourier import fft2c
from .multi_coil import MultiCoilGram, MultiCoilMRI, require_maps
from .sample_positions import SamplePositions
from .toeplitz import convolve, half_sample_ramps
from .trajectories import require_trajectory


class NonCartesianMRI(MultiCoilMRI):
    r"""Multi-coil acquisition at any positions of k-space.

    .. math:: y_{c,s} = \frac{1}{\sqrt{HW}} \sum_r S_c(r)\, x(r)\, e^{-2 \pi i\, k_s \cdot (r - r_0)}

    with pixels r and :math:`r_0` = ``(height // 2, width // 2)``: at the positions of a Cartesian grid it equals
    :class:`CartesianMRI`. Forward and adjoint are non-uniform transforms by finufft [B]_, each the backward pass of the
    other; their relative error is below 1e-6 in single and 1e-12 in double precision. They run on the CPU, also for
    tensors on a GPU. :attr:`gram` needs plain transforms only, on any device: networks and conjugate gradients, which
    compute :math:`A^H y` once, run no others.

    Parameters
    ----------
    maps
        Coil sensitivity maps :math:`S_c`, complex, shape ``(*batch, coils, height, width)``. They may require a
        gradient.
    trajectory
        Positions :math:`k_s` in cycles per pixel, from -0.5 to 0.5, along height and width: real, shape
        ``(spokes, samples, 2)``, or ``(*batch, spokes, samples, 2)`` with the batch axes of the maps. A spoke, a line
        or an interleaf, is held out as a whole. Positions have no gradient.
    keep
        Samples that count, bool, shape ``(spokes, samples)`` or ``(*batch, spokes, samples)``; the measurement of the
        others is zero. None: all.

    Raises
    ------
    TypeError
        If the maps are not complex or the trajectory is not real.
    ValueError
        If the shapes disagree, a position is not finite or outside of the range, or no sample counts.

    References
    ----------
    .. [B] Barnett, Magland and af Klinteberg, A parallel nonuniform fast Fourier transform library based on an
       "exponential of semicircle" kernel, SIAM J. Sci. Comput. 41, 2019.
    """

    keep: Tensor

    def __init__(self, maps: Tensor, trajectory: Tensor, keep: Tensor | None = None) -> None:
        require_maps("NonCartesianMRI", maps)
        # No buffer: `.to(torch.complex64)` would round it, and the transforms run on the CPU.
        positions = require_trajectory("NonCartesianMRI", trajectory)
        spokes, samples = positions.shape[-3:-1]
        super().__init__(maps, (spokes, samples))
        self.trajectory = positions
        batch, own = tuple(maps.shape[:-3]), tuple(positions.shape[:-3])
        if own not in ((), batch):
            raise ValueError(f"NonCartesianMRI: trajectory has batch axes {own}, the maps have {batch}; expected equal")
        kept = self._checked_keep(keep)
        shape = (maps.shape[-2], maps.shape[-1])
        with constants():
            self.register_buffer("keep", kept.to(maps.device), persistent=False)
            self._keeps_all = bool(kept.all())
            each = positions.reshape(-1, spokes, samples, 2).unbind()
            self._positions = [SamplePositions.of(one, shape) for one in each]
            counted = None if self._keeps_all else kept.cpu()
        self._transform = CoilTransform(self._positions, maps.shape[-3])
        self._convolution = CoilConvolution(self._positions, counted, own, tuple(maps.shape[:-2]))
        self._use(maps)

    def _checked_keep(self, keep: Tensor | None) -> Tensor:
        shape, batch = self.range_shape[1:], tuple(self.maps.shape[:-3])
        if keep is None:
            return torch.ones(shape, dtype=torch.bool)
        expected = f"expected bool {shape} or {(*batch, *shape)}, True somewhere"
        if keep.dtype != torch.bool or tuple(keep.shape) not in (shape, (*batch, *shape)):
            raise ValueError(f"NonCartesianMRI: keep is {keep.dtype} of shape {tuple(keep.shape)}, {expected}")
        constant = constant_of(keep)
        if constant is None:
            raise ValueError(f"NonCartesianMRI: keep is an argument of vmap, {expected}; make a batch of operators")
        if not constant.any():
            raise ValueError(f"NonCartesianMRI: keep is False everywhere, {expected}")
        return constant

    def _forward(self, x: Tensor) -> Tensor:
        self.require_batch(x, 2, "image")
        y = self._transform.forward(self._coil_images(x))
        return y if self._keeps_all else y * self.sampled

    def _adjoint(self, y: Tensor) -> Tensor:
        self.require_batch(y, 3, "measurement")
        kept = y if self._keeps_all else y * self.sampled
        images = self._transform.transpose(self._with_batch(kept))
        return self._combined(images)

    def _coil_images(self, x: Tensor) -> Tensor:
        return coil_images(self.maps, x) if self._decode is None else self.maps * x.unsqueeze(-3)

    def _combined(self, images: Tensor) -> Tensor:
        if self._decode is None:
            return combined(self.maps, images)
        x: Tensor = (self._decode * images).sum(-3)
        return x

    def _with_batch(self, y: Tensor) -> Tensor:
        """A measurement of all samples where each has its own positions, of the dtype of the operator."""
        y = y.to(torch.promote_types(y.dtype, self.maps.dtype))
        batch = self.maps.shape[:-3]
        return y if len(self._positions) == 1 else y.expand(*torch.broadcast_shapes(batch, y.shape[:-3]), *y.shape[-3:])

    @property
    def gram(self) -> LinearOperator:
        return NonCartesianGram(self)

    def _largest(self) -> Tensor:
        """Samples that do not count leave the norm as it is, as columns do in :class:`CartesianMRI`."""
        largest = super()._largest()
        with constants():
            norms = torch.tensor([positions.norm for positions in self._positions], dtype=largest.dtype)
            norms = norms.reshape(self.trajectory.shape[:-3]).to(largest.device)
        return largest * norms

    @property
    def density(self) -> Tensor:
        """Samples that count per pixel, ``(*batch | none)``: the mean eigenvalue of the Gram of one coil."""
        pixels = self.domain_shape[0] * self.domain_shape[1]
        return self.keep.sum((-2, -1)).to(self.maps.real.dtype) / pixels

    def zero_filled(self, y: Tensor) -> Tensor:
        r"""Gridding: :math:`A^H W y / \sum_c |S_c|^2` with density weights W by Pipe and Menon."""
        self.require_measurement(y)
        with constants():
            weights = torch.stack([positions.density for positions in self._positions])
            weights = weights.reshape(self.trajectory.shape[:-1]).to(y.device, y.dtype.to_real())
        return self.adjoint(y * weights.unsqueeze(-3)) * reciprocal(self.rss**2)

    def start(self, y: Tensor) -> Tensor:
        """CG-SENSE from the gridded image, 6 iterations, damped by a tenth of the mean sampling density.

        The squared norm is the density of the center, ten to a hundred times the mean one: it would damp the details.
        """
        damping = 0.1 * self.density * self.rss.square().amax((-2, -1))
        x0, b = self.zero_filled(y), self.adjoint(y)
        return solve_normal(self, b, damping, x0=x0, max_iterations=6, gradient="unrolled")

    @property
    def sampled(self) -> Tensor:
        return self.keep.unsqueeze(-3)

    @property
    def batch_key(self) -> tuple[object, ...]:
        return (*super().batch_key, tuple(self.trajectory.shape))

    def hold_out_candidates(self) -> Tensor:
        """Spokes with samples that count, held out as a whole and for all coils.

        Coil maps are estimated from the center, which every spoke crosses: they know a little of what is held out.
        """
        spokes = self.keep.any(-1)[..., None, :, None]
        batch = self.maps.shape[:-3]
        return spokes.expand(*batch, *spokes.shape[-3:]).clone()

    def restrict(self, keep: Tensor) -> LinearOperator:
        """The operator of the samples that are also in ``keep``; only its Gram costs a new transform.

        Parameters
        ----------
        keep
            Bool, broadcastable to ``range_shape``, with its batch axes those of the maps.
        """
        if keep.ndim > 2:
            if keep.shape[-3] != 1:
                return super().restrict(keep)
            keep = keep.squeeze(-3)
        kept = self.keep & keep
        return NonCartesianMRI(self.maps, self.trajectory, kept)

    def separate(self, batch: Shape) -> list["NonCartesianMRI"]:
        """Operators of the slices of a batch with these axes, in order: the inverse of :meth:`collate`."""
        maps = self.maps.expand(*batch, *self.maps.shape[-3:]).reshape(-1, *self.maps.shape[-3:])
        trajectories = self.trajectory.expand(*batch, *self.trajectory.shape[-3:]).reshape(
            -1, *self.trajectory.shape[-3:]
        )
        keeps = self.keep.expand(*batch, *self.keep.shape[-2:]).reshape(-1, *self.keep.shape[-2:])
        return [NonCartesianMRI(*of_slice) for of_slice in zip(maps, trajectories, keeps, strict=True)]

    @classmethod
    def collate(cls, operators: Sequence["NonCartesianMRI"]) -> "NonCartesianMRI":
        """Join operators of equal shape; equal trajectories stay one."""
        if len({A.range_shape for A in operators}) != 1 or len({A.domain_shape for A in operators}) != 1:
            shapes = sorted({f"{A.domain_shape} -> {A.range_shape}" for A in operators})
            raise ValueError(f"NonCartesianMRI.collate: operators have shapes {shapes}, expected one; batch by shape")
        first = operators[0]
        trajectory = first.trajectory
        if any(A._positions[0] is not first._positions[0] for A in operators):
            trajectory = torch.stack([A.trajectory for A in operators])
        keep = torch.stack([A.keep for A in operators])
        keeps_all = all(A._keeps_all for A in operators)
        return cls(torch.stack([A.maps for A in operators]), trajectory, None if keeps_all else keep)

    @classmethod
    def example(cls, generator: torch.Generator) -> "NonCartesianMRI":
        maps = torch.randn(3, 6, 5, dtype=torch.complex128, generator=generator)
        return cls(maps, torch.rand(4, 7, 2, dtype=torch.float64, generator=generator) - 0.5)


def gridded_kspace(samples: Tensor, trajectory: Tensor, shape: tuple[int, int]) -> Tensor:
    """Cartesian k-space of the gridded coil images, from whose center coil maps are estimated.

    Parameters
    ----------
    samples
        Measurement of every coil, complex, shape ``(coils, spokes, samples)``.
    trajectory
        As for :class:`NonCartesianMRI`, shape ``(spokes, samples, 2)``.
    shape
        ``(height, width)`` of the images.

    Returns
    -------
        Complex, shape ``(coils, height, width)``; right only where the trajectory samples fully.
    """
    one_coil = NonCartesianMRI(torch.ones(1, *shape, dtype=samples.dtype, device=samples.device), trajectory)
    return fft2c(one_coil.zero_filled(samples.unsqueeze(-3)))


class NonCartesianGram(MultiCoilGram):
    r""":math:`A^H A` of :class:`NonCartesianMRI` by plain transforms of the size of the image."""

    operator: NonCartesianMRI

    def _forward(self, x: Tensor) -> Tensor:
        A = self.operator
        A.require_batch(x, 2, "image")
        batch, shape = A.maps.shape[:-3], self._shape
        x = x.to(torch.promote_types(x.dtype, A.maps.dtype))
        if A._decode is None or not is_constant(A._decode):
            return A._combined(A._convolution.forward(A._coil_images(x)))
        x = x.expand(*torch.broadcast_shapes(batch, x.shape[:-2]), *shape)
        if (x.requires_grad and torch.is_grad_enabled()) or torch._C._are_functorch_transforms_active():
            return Transposed.of(x, self._apply_once, self._apply_once)
        return self._apply_once(x.reshape(-1, *shape)).reshape(x.shape)

    @property
    def _shape(self) -> tuple[int, int]:
        return (self.domain_shape[0], self.domain_shape[1])

    def _apply_once(self, x: Tensor) -> Tensor:
        """The Gram without a graph, ``(n, height, width)``, coil by coil: images of one coil stay in a CPU's cache."""
        A = self.operator
        assert A._decode is not None
        x = x.unflatten(0, (-1, *A.maps.shape[:-3]))
        ramps = half_sample_ramps(self._shape, x.dtype, x.device)
        spectrum = A._convolution.spectrum(x.dtype, x.device)
        if not one_coil_at_a_time(x):
            images = convolve(A.maps * x.unsqueeze(-3), spectrum.unsqueeze(-5), ramps)
            return images.mul_(A._decode).sum(-3).flatten(0, -3)
        total: Tensor | None = None
        for coil, conjugate in zip(A.maps.unbind(-3), A._decode.unbind(-3), strict=True):
            image = convolve(coil * x, spectrum, ramps)
            total = image.mul_(conjugate) if total is None else total.addcmul_(image, conjugate)
        assert total is not None
        return total.flatten(0, -3)

    @classmethod
    def example(cls, generator: torch.Generator) -> "NonCartesianGram":
        return cls(NonCartesianMRI.example(generator))
