"""Linear operators with checked shapes, an exact adjoint and a small algebra."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Scalar = float | complex | Tensor


def require_tensor(who: str, value: object, what: str) -> None:
    """Refuse numpy arrays, lists and None where a tensor is expected.

    Raises
    ------
    TypeError
        If the value is no tensor.
    """
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        raise TypeError(f"{who}: {what} is {kind}, expected a tensor; convert an array with torch.from_numpy")


class LinearOperator(nn.Module, ABC):
    """A linear map :math:`y = A x`. Trailing axes belong to the operator, all leading axes are batch.

    A subclass implements :meth:`_forward`, :meth:`_adjoint`, :attr:`norm` and :meth:`example`; this class adds shape
    checks, algebra (``A @ B``, ``A + B``, ``scalar * A``), :attr:`H` and :attr:`gram`. Tensors of an operator are
    non-persistent buffers: they follow ``.to(device)`` and never enter a ``state_dict``.

    Parameters
    ----------
    domain_shape
        Trailing shape of ``x``.
    range_shape
        Trailing shape of ``y``.
    """

    #: Whether image values have a unit, such as attenuation; MR images are known up to a factor.
    quantitative = False
    #: Slices of a volume that are reconstructed in one call.
    slices_at_once = 1

    def __init__(self, domain_shape: Shape, range_shape: Shape) -> None:
        super().__init__()
        self.domain_shape: Shape = tuple(int(n) for n in domain_shape)
        self.range_shape: Shape = tuple(int(n) for n in range_shape)

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    @property
    @abstractmethod
    def norm(self) -> Tensor:
        """Upper bound of the largest singular value per sample, real, shape ``(*batch,)``."""

    @classmethod
    def example(cls, generator: torch.Generator) -> Self:
        """Small instance in double precision for the property tests of every operator in `OPERATORS`."""
        raise NotImplementedError(f"{cls.__name__}: found no example, expected one to test a registered operator")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator, ``(..., *domain_shape) -> (..., *range_shape)``.

        Raises
        ------
        ValueError
            If the trailing shape of ``x`` is not ``domain_shape``.
        TypeError
            If ``x`` is no tensor.
        """
        require_tensor(type(self).__name__, x, "image")
        self._require(x, self.domain_shape, "image")
        return self._forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the adjoint, ``(..., *range_shape) -> (..., *domain_shape)``.

        Raises
        ------
        ValueError
            If the trailing shape of ``y`` is not ``range_shape``.
        TypeError
            If ``y`` is no tensor.
        """
        self.require_measurement(y)
        return self._adjoint(y)

    def require_measurement(self, y: Tensor) -> None:
        """Refuse a measurement that is no tensor, or whose trailing shape is not ``range_shape``.

        Raises
        ------
        ValueError, TypeError
            As :meth:`adjoint`.
        """
        require_tensor(type(self).__name__, y, "measurement")
        self._require(y, self.range_shape, "measurement")

    @property
    def H(self) -> "LinearOperator":
        """The adjoint as an operator."""
        return Adjoint(self)

    @property
    def gram(self) -> "LinearOperator":
        """The normal operator :math:`A^H A`, in closed form if the operator has one."""
        return Composition(Adjoint(self), self)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the operator's own tensors, complex128 without any; test data have this type."""
        for buffer in self.buffers():
            if buffer.is_floating_point() or buffer.is_complex():
                return buffer.dtype
        return torch.complex128

    def gpu_memory(self, batch: int = 1) -> int:
        """Bytes of GPU memory that applying the operator to a batch may need beside what a step keeps, with a margin.

        A bound for planning: eight copies of image and measurement unless overridden, for results, copies and the
        workspace of FFTs.
        """
        itemsize = torch.empty((), dtype=self.dtype).element_size()
        return 8 * batch * (math.prod(self.domain_shape) + math.prod(self.range_shape)) * itemsize

    def start(self, y: Tensor) -> Tensor:
        """Start image of an iterative method, ``(..., *domain_shape)``: the scaled adjoint unless overridden."""
        return LinearOperator.normalized_adjoint(self, y)

    def normalized_adjoint(self, y: Tensor) -> Tensor:
        r"""Adjoint preconditioned for steps of size one, :math:`A^H y / \|A\|^2` unless overridden."""
        return self.adjoint(y) * reciprocal(per_sample(self.norm**2, len(self.domain_shape)))

    def zero_filled(self, y: Tensor) -> Tensor:
        """Image of the measurement alone, with zeros where nothing was measured, ``(..., *domain_shape)``.

        The scaled adjoint unless overridden: its brightness is right up to one factor only.
        """
        return LinearOperator.normalized_adjoint(self, y)

    def estimate_noise_std(self, y: Tensor) -> Tensor:
        r"""Estimate of the noise :math:`\sqrt{E |n|^2}` per number of a measurement, ``(*batch,)``.

        Unless overridden the root mean square of :math:`A x - y` with x = :meth:`start`: too large where the start
        image does not fit, too small where it fits the noise.
        """
        axes = tuple(range(-len(self.range_shape), 0))
        measured = self.sampled.expand(y.shape)
        residual = (self(self.start(y)) - y) * measured
        squares = residual.abs().square().sum(axes) / measured.sum(axes).clamp_min(1)
        estimate: Tensor = squares.sqrt()
        return estimate

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Operators with equal keys can be joined by :meth:`collate`."""
        return (type(self).__name__, *(tuple(buffer.shape) for buffer in self.buffers()))

    @classmethod
    def collate(cls, operators: Sequence[Self]) -> Self:
        """One operator for a batch: the operators of single slices, joined along a new leading axis."""
        raise ValueError(f"collate: operator is {cls.__name__}, expected one with `collate`")

    @property
    def support(self) -> Tensor:
        """Pixels that influence the measurement, bool, broadcastable to ``(*batch, *domain_shape)``."""
        return torch.ones((1,) * len(self.domain_shape), dtype=torch.bool)

    @property
    def sampled(self) -> Tensor:
        """Positions that were measured, bool, broadcastable to ``(*batch, *range_shape)``."""
        return torch.ones((1,) * len(self.range_shape), dtype=torch.bool)

    def hold_out_candidates(self) -> Tensor:
        """Positions that may be held out of a measurement, for training and scores without a reference.

        Returns
        -------
            Bool, ``(*batch, *range_shape)`` with size 1 along axes that are held out as a whole.

        Raises
        ------
        TypeError
            If the operator does not define them.
        """
        raise TypeError(f"hold out: operator is {type(self).__name__}, expected one with `hold_out_candidates`")

    def draw_held_out(self, fraction: float, generator: torch.Generator) -> Tensor:
        """Draw the positions to hold out, separately for every sample whose candidates are its own.

        Parameters
        ----------
        fraction
            Fraction of the candidates, between 0 and 1; at least one is held out and at least one is kept.
        generator
            Random generator of the draw.

        Returns
        -------
            Bool, the shape of :meth:`hold_out_candidates`.

        Raises
        ------
        ValueError
            If a sample has fewer than two candidates.
        """
        candidates = self.hold_out_candidates()
        held_out = torch.zeros_like(candidates)
        shape = candidates.shape[-len(self.range_shape) :]
        for allowed, drawn in zip(candidates.reshape(-1, *shape), held_out.view(-1, *shape), strict=True):
            places = allowed.nonzero()
            if len(places) < 2:
                raise ValueError(
                    f"hold out: found {len(places)} candidates, expected at least 2 (positions outside the "
                    "calibration block, or views); use a reference, or leave the scan out"
                )
            count = min(max(round(fraction * len(places)), 1), len(places) - 1)
            chosen = places[torch.randperm(len(places), generator=generator)[:count].to(places.device)]
            drawn[chosen.unbind(-1)] = True
        return held_out

    def restrict(self, keep: Tensor) -> "LinearOperator":
        """The operator that measures only where ``keep`` is True; its measurement is ``y * keep``.

        An operator with a :meth:`start` of its own overrides it.

        Parameters
        ----------
        keep
            Boolean, broadcastable to ``range_shape``.
        """
        return Sampling(keep, self.range_shape) @ self

    def _require(self, tensor: Tensor, shape: Shape, what: str) -> None:
        found = tuple(tensor.shape[max(tensor.ndim - len(shape), 0) :])
        if found != shape:
            raise ValueError(f"{type(self).__name__}: {what} has trailing shape {found}, expected {shape}")

    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        return Composition(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        return Sum(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: "LinearOperator") -> "LinearOperator":
        return Sum(self, Scaled(-1.0, other)) if isinstance(other, LinearOperator) else NotImplemented

    def __rmul__(self, scalar: Scalar) -> "LinearOperator":
        return Scaled(scalar, self)

    def __mul__(self, scalar: Scalar) -> "LinearOperator":
        return Scaled(scalar, self)

    def __neg__(self) -> "LinearOperator":
        return Scaled(-1.0, self)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.domain_shape} -> {self.range_shape}"


class Adjoint(LinearOperator):
    """``A.H``: forward and adjoint are exchanged."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(operator.range_shape, operator.domain_shape)
        self.operator = operator

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator.forward(y)

    @property
    def H(self) -> LinearOperator:
        return self.operator

    @property
    def norm(self) -> Tensor:
        return self.operator.norm

    @classmethod
    def example(cls, generator: torch.Generator) -> "Adjoint":
        return cls(Sampling.example(generator))


class Composition(LinearOperator):
    """``A @ B``: first ``B``, then ``A``."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if left.domain_shape != right.range_shape:
            raise ValueError(f"Composition: {left!r} cannot follow {right!r}; expected range {left.domain_shape}")
        super().__init__(right.domain_shape, left.range_shape)
        self.left, self.right = left, right

    def _forward(self, x: Tensor) -> Tensor:
        return self.left.forward(self.right.forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.right.adjoint(self.left.adjoint(y))

    @property
    def norm(self) -> Tensor:
        return self.left.norm * self.right.norm

    @property
    def sampled(self) -> Tensor:
        left = self.left.sampled
        return left & self.right.sampled if isinstance(self.left, Sampling) else left

    @property
    def batch_key(self) -> tuple[object, ...]:
        return (type(self).__name__, self.left.batch_key, self.right.batch_key)

    @classmethod
    def collate(cls, operators: Sequence[Self]) -> Self:
        lefts, rights = [A.left for A in operators], [A.right for A in operators]
        return cls(type(lefts[0]).collate(lefts), type(rights[0]).collate(rights))

    @classmethod
    def example(cls, generator: torch.Generator) -> "Composition":
        right = Sampling.example(generator)
        return cls(2.0 * Sampling(torch.rand(right.range_shape, generator=generator) < 0.5, right.range_shape), right)


class Sum(LinearOperator):
    """``A + B``."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if (left.domain_shape, left.range_shape) != (right.domain_shape, right.range_shape):
            raise ValueError(f"Sum: {left!r} and {right!r} differ in shape; both sides need the same shapes")
        super().__init__(left.domain_shape, left.range_shape)
        self.left, self.right = left, right

    def _forward(self, x: Tensor) -> Tensor:
        return self.left.forward(x) + self.right.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.left.adjoint(y) + self.right.adjoint(y)

    @property
    def norm(self) -> Tensor:
        return self.left.norm + self.right.norm

    @classmethod
    def example(cls, generator: torch.Generator) -> "Sum":
        return cls(Sampling.example(generator), 1j * Sampling.example(generator))


class Scaled(LinearOperator):
    """``scalar * A``; a tensor of scalars has one per sample, shape ``(*batch,)``."""

    scalar: Tensor

    def __init__(self, scalar: Scalar, operator: LinearOperator) -> None:
        super().__init__(operator.domain_shape, operator.range_shape)
        self.operator = operator
        value = scalar if isinstance(scalar, Tensor) else torch.tensor(scalar, dtype=_python_dtype(scalar))
        self.register_buffer("scalar", value, persistent=False)

    def _forward(self, x: Tensor) -> Tensor:
        return self._factor(len(self.range_shape)) * self.operator.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._factor(len(self.domain_shape)).conj() * self.operator.adjoint(y)

    def _factor(self, n_axes: int) -> Tensor:
        # With axes of size one a single number in double precision would make all results double.
        return per_sample(self.scalar, n_axes) if self.scalar.ndim else self.scalar

    @property
    def norm(self) -> Tensor:
        return self.scalar.abs() * self.operator.norm

    @property
    def dtype(self) -> torch.dtype:
        return self.operator.dtype

    @classmethod
    def example(cls, generator: torch.Generator) -> "Scaled":
        return cls(0.5 - 2.0j, Sampling.example(generator))


class Sampling(LinearOperator):
    """Keep some samples of a measurement and set the others to zero: an orthogonal projection.

    Parameters
    ----------
    mask
        Boolean, broadcastable to ``shape``.
    shape
        Shape of domain and range.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, shape: Shape) -> None:
        super().__init__(shape, shape)
        if mask.dtype != torch.bool:
            raise TypeError(f"Sampling: mask has dtype {mask.dtype}, expected torch.bool; use mask != 0")
        if torch.broadcast_shapes(mask.shape[-len(shape) :], self.domain_shape) != self.domain_shape:
            raise ValueError(f"Sampling: mask of shape {tuple(mask.shape)} does not broadcast to {self.domain_shape}")
        self.register_buffer("mask", mask, persistent=False)

    def _forward(self, x: Tensor) -> Tensor:
        return x * self.mask

    def _adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask

    @property
    def gram(self) -> LinearOperator:
        return self

    @property
    def sampled(self) -> Tensor:
        return self.mask

    @property
    def norm(self) -> Tensor:
        return torch.ones((), device=self.mask.device)

    @classmethod
    def collate(cls, operators: Sequence[Self]) -> Self:
        shape = operators[0].domain_shape
        return cls(torch.stack([operator.mask.expand(shape) for operator in operators]), shape)

    @classmethod
    def example(cls, generator: torch.Generator) -> "Sampling":
        return cls(torch.rand(3, 5, 4, generator=generator) < 0.5, (3, 5, 4))


def per_sample(values: Tensor, n_axes: int) -> Tensor:
    """Append ``n_axes`` axes of size 1, so that one value per sample broadcasts over the operator's axes."""
    return values.reshape(*values.shape, *([1] * n_axes))


def reciprocal(values: Tensor) -> Tensor:
    """``1 / values``, and 0 where ``values`` is 0, as for the zero operator of an empty slice."""
    return torch.where(values > 0, 1.0 / torch.where(values > 0, values, 1.0), 0.0)


def _python_dtype(scalar: float | complex) -> torch.dtype:
    if not math.isfinite(abs(scalar)):
        raise ValueError(f"Scaled: scalar is {scalar}, expected a finite number")
    # A 0-d tensor does not promote the data that it multiplies: double precision costs nothing.
    return torch.complex128 if isinstance(scalar, complex) else torch.float64
