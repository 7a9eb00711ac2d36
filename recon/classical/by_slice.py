"""Classical MRI methods that solve one slice after another, each scaled to a robust maximum of 1."""

from abc import abstractmethod

import torch
from torch import Tensor

from physics import CartesianMRI, LinearOperator, per_sample

from ..method import image_scale, require_operator
from .tuning import ClassicalMethod


class SliceMethod(ClassicalMethod):
    """A regularized reconstruction of one slice at a time; the same weight fits every scanner.

    Parameters
    ----------
    weight
        Regularization weight for images whose robust maximum is 1.
    iterations
        The most iterations of the solver.
    """

    candidates_key = "tv_weights"

    def __init__(self, weight: float, iterations: int) -> None:
        super().__init__()
        self.weight, self.iterations = weight, iterations

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        """Reconstruct ``(*batch, coils, height, width) -> (*batch, height, width)``; not differentiable.

        Raises
        ------
        TypeError
            If ``A`` is not a :class:`physics.CartesianMRI`.
        """
        scan = require_operator(type(self).__name__, A, CartesianMRI)
        with torch.no_grad():
            scale = image_scale(scan.start(y))
            batch, mask = y.shape[:-3], scan.mask.shape[-2:]
            slices = zip(
                scan.maps.expand(y.shape).reshape(-1, *scan.range_shape),
                scan.mask.expand(*batch, *mask).reshape(-1, *mask),
                (y / per_sample(scale, 3)).reshape(-1, *scan.range_shape),
                strict=True,
            )
            images = [self.of_slice(one, CartesianMRI(maps, mask)) for maps, mask, one in slices]
            return torch.stack(images).reshape(*batch, *scan.domain_shape) * per_sample(scale, 2)

    @abstractmethod
    def of_slice(self, y: Tensor, A: CartesianMRI) -> Tensor:
        """The image of one slice, ``(coils, height, width) -> (height, width)``."""
