"""Networks around networks: data consistency at inference, a private beside a shared network, a fixed condition."""

from torch import Tensor, nn

from physics import LinearOperator, per_sample, solve_normal

from ..method import call


class DataConsistent(nn.Module):
    r"""A method whose image :math:`x_0` is made consistent with the measurement at inference, without training.

    :math:`\arg\min_x \|A x - y\|^2 + \lambda \|A\|^2 \|x - x_0\|^2` by conjugate gradients from :math:`x_0`. In units
    of the operator norm one weight suits every scanner; samples are whitened, so rays and coils are weighted by their
    noise. Methods that apply the operator only at inference [G]_ minimize over the weights of a network instead; over
    the image the problem is convex and a few iterations solve it.

    Parameters
    ----------
    network
        Any method, called as ``network(y, A)`` or ``network(y, A, condition)``.
    weight
        :math:`\lambda > 0`: a small value trusts the measurement, a large one the network.
    iterations
        Conjugate-gradient iterations, each with one application of :math:`A^H A`.

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
        """Whether the wrapped network uses a condition."""
        return bool(getattr(self.network, "uses_condition", False))

    @property
    def uses_noise(self) -> bool:
        """Whether the wrapped network uses the noise level."""
        return bool(getattr(self.network, "uses_noise", False))

    def forward(
        self, y: Tensor, A: LinearOperator, condition: Tensor | None = None, noise_std: Tensor | None = None
    ) -> Tensor:
        """Reconstruct, ``(*batch, *A.range_shape) -> (*batch, *A.domain_shape)``."""
        x = call(self.network, y, A, condition, noise_std)
        # The operator of an empty slice is zero, and so is its damping: its image stays unchanged.
        damping = self.weight * A.norm**2
        rhs = A.adjoint(y) + per_sample(damping, len(A.domain_shape)) * x
        return solve_normal(A, rhs, damping, x0=x, max_iterations=self.iterations, gradient="unrolled")


class TwinNetwork(nn.Module):
    """A private network of a site beside the shared network; each learns from the other (:class:`MutualDistillation`).

    The private network may have any architecture, which may differ between sites. Parameters are named ``private.*``
    and ``shared.*``; a scope keeps the private ones with ``keep = ["private.*"]``.
    """

    def __init__(self, private: nn.Module, shared: nn.Module) -> None:
        super().__init__()
        self.private, self.shared = private, shared

    @property
    def uses_condition(self) -> bool:
        """Whether one of the two networks uses a condition; only that network gets it."""
        return any(getattr(network, "uses_condition", False) for network in (self.private, self.shared))

    @property
    def uses_noise(self) -> bool:
        """Whether one of the two networks uses the noise level."""
        return any(getattr(network, "uses_noise", False) for network in (self.private, self.shared))

    def forward(
        self, y: Tensor, A: LinearOperator, condition: Tensor | None = None, noise_std: Tensor | None = None
    ) -> Tensor:
        """Image of the private network."""
        return call(self.private, y, A, condition, noise_std)


class FixedCondition(nn.Module):
    """A network with one condition for all scans: an unseen site uses the condition of the most similar known site."""

    condition: Tensor

    def __init__(self, network: nn.Module, condition: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("condition", condition, persistent=False)

    @property
    def uses_noise(self) -> bool:
        """Whether the wrapped network uses the noise level."""
        return bool(getattr(self.network, "uses_noise", False))

    def forward(self, y: Tensor, A: LinearOperator, *, noise_std: Tensor | None = None) -> Tensor:
        """Reconstruct with the fixed condition."""
        noise = {"noise_std": noise_std} if noise_std is not None else {}
        image: Tensor = self.network(y, A, self.condition, **noise)
        return image
