"""Operators as physics of deepinv, and linear physics of deepinv as operators.

deepinv has images ``(batch, channels, height, width)``. A complex image has two channels, real and imaginary part, and
so has a complex measurement, ``(batch, 2, *range_shape)``. A real one has one channel.
"""

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..operator import LinearOperator, Shape
from ..solvers import power_iteration

if TYPE_CHECKING:
    from deepinv.physics import LinearPhysics

#: Relative error of an adjoint that is taken for rounding in single precision.
_ADJOINT_TOLERANCE = 1e-3


def to_deepinv(A: LinearOperator, **options: Any) -> "LinearPhysics":
    """The operator as a linear physics of deepinv, for its algorithms, losses and networks.

    ``physics.A_adjoint_A`` is the closed-form Gram where the operator has one. Noise is added at sampled positions
    alone. The physics moves with ``.to`` and holds nothing that is saved.

    Parameters
    ----------
    A
        Any operator. With batch axes ``(batch,)`` of its own it takes batches of that size.
    options
        Arguments of `deepinv.physics.LinearPhysics`, such as ``noise_model``, ``max_iter``, ``solver``.

    Returns
    -------
        A physics of images ``(batch, 2, *domain_shape)`` and measurements ``(batch, 2, *range_shape)``; with one
        channel where the operator is real, as a :class:`RadonOperator` is.

    Raises
    ------
    ImportError
        If deepinv is not installed.
    """
    return _physics_class()(A, **options)


def from_deepinv(physics: "LinearPhysics", image_shape: Sequence[int]) -> LinearOperator:
    """A linear physics of deepinv as an operator, for our solvers, networks and data consistency.

    Images of two channels become complex images ``(height, width)``, and their measurements ``(1, 2, ...)`` complex
    ones. Images and measurements of one channel lose it. The operator holds a copy of the physics; its noise and sensor
    model are left out. :attr:`norm` is a power iteration with a margin of 1 %.

    Parameters
    ----------
    physics
        Linear; its adjoint is tested once on random numbers.
    image_shape
        ``(channels, height, width)`` of one image.

    Raises
    ------
    TypeError
        If the physics is not linear or its measurement is no tensor.
    ValueError
        If the measurement of a complex image has not two channels, or the adjoint is not that of the forward map.
    """
    return _FromDeepinv(physics, tuple(image_shape))


def _import() -> Any:
    try:
        import deepinv.physics
    except ImportError as error:
        raise ImportError(f"deepinv is not installed ({error}); pip install 'fedrecon[deepinv]'") from None
    return deepinv.physics


@cache
def _physics_class() -> type[Any]:
    class FedreconPhysics(_import().LinearPhysics):  # type: ignore[misc]
        """An operator of fedrecon."""

        def __init__(self, A: LinearOperator, **options: Any) -> None:
            self.channels = 2 if A.dtype.is_complex else 1
            super().__init__(img_size=(self.channels, *A.domain_shape), **options)
            self.operator, self.gram = A, A.gram

        def A(self, x: Tensor, **options: Any) -> Tensor:
            return self._map(self.operator, x, "image", options)

        def A_adjoint(self, y: Tensor, **options: Any) -> Tensor:
            return self._map(self.operator.H, y, "measurement", options)

        def A_adjoint_A(self, x: Tensor, **options: Any) -> Tensor:
            return self._map(self.gram, x, "image", options)

        def noise(self, x: Tensor, **options: Any) -> Tensor:
            sampled = self.operator.sampled
            at = sampled.unsqueeze(-1 - len(self.operator.range_shape)) if sampled.ndim else sampled
            noisy: Tensor = super().noise(x, **options) * at
            return noisy

        def _map(self, operator: LinearOperator, tensor: Tensor, what: str, options: dict[str, Any]) -> Tensor:
            if options:
                raise TypeError(
                    f"to_deepinv({self.operator!r}): found the arguments {sorted(options)}, expected none; maps, masks "
                    "and geometry belong to the operator, so make another one"
                )
            expected = (self.channels, *operator.domain_shape)
            if tuple(tensor.shape[1:]) != expected:
                raise ValueError(
                    f"to_deepinv({self.operator!r}): {what} has shape {tuple(tensor.shape)}, expected "
                    f"(batch, {', '.join(map(str, expected))})"
                )
            return to_channels(operator(from_channels(tensor)))

    return FedreconPhysics


def from_channels(tensor: Tensor) -> Tensor:
    """``(batch, 2, ...)`` to complex ``(batch, ...)``, and ``(batch, 1, ...)`` to real."""
    return torch.complex(tensor[:, 0], tensor[:, 1]) if tensor.shape[1] == 2 else tensor.squeeze(1)


def to_channels(tensor: Tensor) -> Tensor:
    """Inverse of :func:`from_channels`."""
    return torch.view_as_real(tensor).movedim(-1, 1) if tensor.is_complex() else tensor.unsqueeze(1)


def _device_of(physics: torch.nn.Module) -> torch.device:
    tensor = next(chain(physics.buffers(), physics.parameters()), None)
    return torch.device("cpu") if tensor is None else tensor.device


class _FromDeepinv(LinearOperator):
    """A linear physics of deepinv."""

    def __init__(self, physics: Any, image_shape: Shape) -> None:
        if not isinstance(physics, _import().LinearPhysics):
            raise TypeError(f"from_deepinv: physics is {type(physics).__name__}, expected a deepinv LinearPhysics")
        own = physics.clone()
        # Operators are never part of a state_dict.
        for module in own.modules():
            module._non_persistent_buffers_set.update(module._buffers)
        real = next((b.real.dtype for b in own.buffers() if b.is_floating_point() or b.is_complex()), torch.float32)
        with torch.no_grad():
            y = own.A(torch.zeros(1, *image_shape, dtype=real, device=_device_of(own)))
        if not isinstance(y, Tensor):
            raise TypeError(f"from_deepinv: measurement is {type(y).__name__}, expected a tensor; take one physics")
        is_complex = image_shape[0] == 2
        if is_complex and (y.ndim < 3 or y.shape[1] != 2):
            raise ValueError(
                f"from_deepinv: images have 2 channels, real and imaginary part, and the measurement has shape "
                f"{tuple(y.shape)}, expected (1, 2, ...)"
            )
        left_out, with_channels = 2 if is_complex else 1, (image_shape, tuple(y.shape[1:]))
        super().__init__(*(shape[1:] if shape[0] == left_out else shape for shape in with_channels))
        self.physics, self.channels = own, with_channels
        self._dtype = real.to_complex() if is_complex else real
        self._norm: Tensor | None = None
        self._require_adjoint()

    def _forward(self, x: Tensor) -> Tensor:
        return self._map(self.physics.A, x, *self.channels, self.domain_shape, self.range_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._map(self.physics.A_adjoint, y, *self.channels[::-1], self.range_shape, self.domain_shape)

    def _map(self, function: Any, tensor: Tensor, before: Shape, after: Shape, shape: Shape, result: Shape) -> Tensor:
        batch = tensor.shape[: tensor.ndim - len(shape)]
        flat = tensor.reshape(-1, *shape)
        if self._dtype.is_complex:
            out = from_channels(function(to_channels(flat.to(self._dtype))))
        else:
            out = function(flat.reshape(-1, *before)).reshape(-1, *result)
        return out.reshape(*batch, *result)

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def norm(self) -> Tensor:
        if self._norm is None:
            # The power iteration asks for shape and device of the norm.
            self._norm = torch.zeros((), dtype=self._dtype.to_real(), device=_device_of(self.physics))
            with torch.no_grad():
                self._norm = 1.01 * power_iteration(self, generator=torch.Generator().manual_seed(0))
        return self._norm.to(_device_of(self.physics))

    def _require_adjoint(self) -> None:
        generator = torch.Generator().manual_seed(0)
        device = _device_of(self.physics)
        x, y = (
            torch.randn(shape, dtype=self._dtype, generator=generator).to(device)
            for shape in (self.domain_shape, self.range_shape)
        )
        with torch.no_grad():
            Ax, back = self._forward(x), self._adjoint(y)
        error = float((torch.vdot(y.flatten(), Ax.flatten()) - torch.vdot(back.flatten(), x.flatten())).abs())
        size = float(Ax.norm() * y.norm())
        if error > _ADJOINT_TOLERANCE * size:
            raise ValueError(
                f"from_deepinv: A_adjoint of {type(self.physics).__name__} is off by {error / size:.1e}, expected the "
                "adjoint of A; use deepinv's adjoint_function"
            )
