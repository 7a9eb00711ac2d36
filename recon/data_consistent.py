"""What is done to the image of a network at test time, with the scan's own operator and nothing to learn."""

from torch import Tensor, nn

from physics import LinearOperator, per_sample, solve_normal

from .calls import call


class DataConsistent(nn.Module):
    r"""A method whose image :math:`x_0` is made to explain the measurement.

    :math:`\arg\min_x \|A x - y\|^2 + \lambda \|A\|^2 \|x - x_0\|^2` by conjugate gradients from :math:`x_0`. In units
    of the operator norm one weight serves every scanner; samples are whitened, so rays and coils count as their
    noise deserves. A trained network is wrapped as it is and gains no parameter. The methods that meet the
    operator at inference only [G]_ do the same to the weights of a network; in the image the problem is convex and a
    few iterations solve it.

    Parameters
    ----------
    network
        Any method, called as ``network(y, A)`` or ``network(y, A, condition)``.
    weight
        :math:`\lambda > 0`: small trusts the measurement, large the network.
    iterations
        Conjugate-gradient iterations, each one application of :math:`A^H A`.

    References
    ----------
    .. [G] Elmas et al., Federated learning of generative image priors for MRI reconstruction (FedGIMP), IEEE Trans.
       Med. Imaging 42, 2023.
    """

    def __init__(self, network: nn.Module, weight: float = 0.05, iterations: int = 10) -> None:
        super().__init__()
        if not weight > 0:
            raise ValueError(f"DataConsistent: weight is {weight}, expected a positive number")
        if iterations < 1:
            raise ValueError(f"DataConsistent: iterations is {iterations}, expected at least 1")
        self.network, self.weight, self.iterations = network, weight, iterations

    @property
    def uses_condition(self) -> bool:
        """Whether the network does."""
        return bool(getattr(self.network, "uses_condition", False))

    def forward(self, y: Tensor, A: LinearOperator, condition: Tensor | None = None) -> Tensor:
        """Reconstruct, ``(*batch, *A.range_shape) -> (*batch, *A.domain_shape)``."""
        x = call(self.network, y, A, condition)
        # Zero for an empty slice, whose operator is zero: nothing moves its image then.
        damping = self.weight * A.norm**2
        rhs = A.adjoint(y) + per_sample(damping, len(A.domain_shape)) * x
        return solve_normal(A, rhs, damping, x0=x, max_iterations=self.iterations, gradient="unrolled")
