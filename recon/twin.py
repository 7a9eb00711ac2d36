"""Two networks in one: a private one that stays at its site, and a shared one that travels."""

from torch import Tensor, nn

from physics import LinearOperator

from .calls import call


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
