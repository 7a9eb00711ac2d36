"""Total variation of complex images: splitting, whose linear systems share their search directions."""

import torch
from torch import Tensor

from physics import CartesianMRI, LinearOperator

from .by_slice import SliceMethod

#: Differences that an iteration shrinks to zero, in an image of maximum 1; 0.05 and 0.2 need more iterations.
_THRESHOLD = 0.1
#: New search directions of the first linear system and of every later one.
_FIRST, _MORE = 6, 2


class TotalVariation(SliceMethod):
    r"""Anisotropic total variation, :math:`\min_x \tfrac12 \|A x - y\|^2 + w \sum |D x|`, D circular differences.

    The objective is that of ``sigpy.mri.app.TotalVariationRecon``; see :func:`total_variation`.

    Parameters
    ----------
    weight
        ``w``, for images whose robust maximum is 1.
    iterations
        The most iterations.
    tolerance
        Relative change of the image in an iteration at which it ends. 1e-3 is within 0.05 dB of the limit.
    """

    def __init__(self, weight: float = 1e-2, iterations: int = 40, tolerance: float = 1e-3) -> None:
        super().__init__(weight, iterations)
        if not weight > 0:
            raise ValueError(f"TotalVariation: weight is {weight}, expected a positive number")
        self.tolerance = tolerance

    def of_slice(self, y: Tensor, A: CartesianMRI) -> Tensor:
        return total_variation(A.gram, A.adjoint(y), self.weight, A.start(y), self.iterations, self.tolerance)


def total_variation(
    gram: LinearOperator, b: Tensor, weight: float, x: Tensor, iterations: int, tolerance: float
) -> Tensor:
    r"""Minimize :math:`\tfrac12 x^H G x - \mathrm{Re}\, b^H x + w \sum |D x|` by the alternating direction method [B]_.

    All its linear systems have one matrix, :math:`M = G + \rho D^T D`. The search directions of earlier systems are
    kept: a system is first solved exactly in their span, then with a few new, conjugate directions. So few
    applications of G serve many iterations.

    Parameters
    ----------
    gram
        :math:`G = A^H A` for one image.
    b
        :math:`A^H y`, shape ``(height, width)``, scaled so that the image has a maximum of about 1.
    x
        Start image.
    iterations, tolerance
        See :class:`TotalVariation`.

    References
    ----------
    .. [B] Boyd et al., Distributed optimization and statistical learning via the alternating direction method of
       multipliers, Found. Trends Mach. Learn. 3, 2011.
    """
    if not b.any():
        return torch.zeros_like(b)
    rho = weight / _THRESHOLD
    systems = _Systems(gram, rho, x, _FIRST + _MORE * iterations)
    gradient = differences(x)
    split = _shrink(gradient, _THRESHOLD)
    dual = gradient - split
    for iteration in range(iterations):
        before = systems.x
        systems.solve(b + rho * divergence(split - dual), _MORE if iteration else _FIRST)
        change = (systems.x - before).norm() / systems.x.norm()
        # The first systems may hardly change a good start image, though the dual variable is far from its limit.
        if iteration >= 2 and float(change) <= tolerance:
            break
        gradient = differences(systems.x)
        split = _shrink(gradient + dual, _THRESHOLD)
        dual += gradient - split
    return systems.x


class _Systems:
    """Solves :math:`(G + \\rho D^T D) x = r` for one right-hand side after another, each from the last solution."""

    def __init__(self, gram: LinearOperator, rho: float, x: Tensor, most: int) -> None:
        self.gram, self.rho, self.x = gram, rho, x
        self._image = self._matrix(x)
        # Conjugate directions P and their images Q = M P, with P^H Q = 1; memory is used as they come.
        self._directions, self._images = (x.new_empty(most, x.numel()) for _ in range(2))
        self._count = 0

    def solve(self, right: Tensor, directions: int) -> None:
        """Minimize the error over the span of all directions, new ones included."""
        x, residual, n = self.x.flatten(), (right - self._image).flatten(), self._count
        if n:
            steps = _products(self._directions[:n], residual)
            x = x + steps @ self._directions[:n]
            residual -= steps @ self._images[:n]
        for n in range(self._count, min(self._count + directions, len(self._directions))):
            direction = residual
            if n:
                direction = residual - _products(self._images[:n], residual) @ self._directions[:n]
            image = self._matrix(direction.reshape(self.x.shape)).flatten()
            energy = float(torch.linalg.vecdot(direction, image).real)
            if not energy > 0:
                break  # the system is solved
            self._directions[n], self._images[n] = direction / energy**0.5, image / energy**0.5
            step = torch.linalg.vecdot(self._directions[n], residual)
            x = x + step * self._directions[n]
            residual -= step * self._images[n]
            self._count = n + 1
        self.x, self._image = x.reshape(self.x.shape), right - residual.reshape(self.x.shape)

    def _matrix(self, x: Tensor) -> Tensor:
        image: Tensor = self.gram(x)
        return image.add_(_laplacian(x), alpha=self.rho)


def differences(x: Tensor) -> Tensor:
    """Differences to the row above and to the column on the left, circular, ``(2, *x.shape)``."""
    return torch.stack((x - x.roll(1, -2), x - x.roll(1, -1)))


def divergence(dual: Tensor) -> Tensor:
    """The transpose of :func:`differences`."""
    down, right = dual
    image: Tensor = down - down.roll(-1, -2) + right - right.roll(-1, -1)
    return image


def _laplacian(x: Tensor) -> Tensor:
    """``divergence(differences(x))`` with a single temporary."""
    image = 4 * x
    for axis in (-2, -1):
        last = x.shape[axis] - 1
        image.narrow(axis, 0, last).sub_(x.narrow(axis, 1, last))
        image.narrow(axis, last, 1).sub_(x.narrow(axis, 0, 1))
        image.narrow(axis, 1, last).sub_(x.narrow(axis, 0, last))
        image.narrow(axis, 0, 1).sub_(x.narrow(axis, last, 1))
    return image


def _shrink(z: Tensor, threshold: float) -> Tensor:
    """Magnitudes less the threshold, at least zero."""
    return z * (1 - threshold / z.abs().clamp_min_(threshold))


def _products(vectors: Tensor, with_: Tensor) -> Tensor:
    """:math:`V^H r` for rows of V, without a conjugate copy of V."""
    products: Tensor = (vectors @ with_.conj()).conj()
    return products
