"""Networks around networks: a private one beside a shared one, one fixed condition, data consistency at test time."""

from torch import Tensor, nn

from physics import LinearOperator, per_sample, solve_normal

from ..method import call


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


class TwinNetwork(nn.Module):
    """A site's own network beside one that all sites share; they teach each other (:class:`MutualDistillation`).

    The two need not be alike: the private one may have any architecture, another one at every site. Parameters are
    named ``private.*`` and ``shared.*``, so a scope keeps the first with ``keep = ["private.*"]``.
    """

    def __init__(self, private: nn.Module, shared: nn.Module) -> None:
        super().__init__()
        self.private, self.shared = private, shared

    @property
    def uses_condition(self) -> bool:
        """Whether one of the two does; each gets the condition only if it does itself."""
        return any(getattr(network, "uses_condition", False) for network in (self.private, self.shared))

    def forward(self, y: Tensor, A: LinearOperator, condition: Tensor | None = None) -> Tensor:
        """Image of the private network: what the site uses."""
        return call(self.private, y, A, condition)


class FixedCondition(nn.Module):
    """A network that sees one condition whatever the scan: an unseen site uses that of the most similar known one."""

    def __init__(self, network: nn.Module, condition: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("condition", condition, persistent=False)

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        """Reconstruct with the fixed condition."""
        image: Tensor = self.network(y, A, self.condition)
        return image
