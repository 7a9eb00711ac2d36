"""How a reconstruction method is called on a batch: the one place that decides whether it sees the condition."""

from torch import Tensor, nn

from physics import LinearOperator

from .sample import Sample


def call(network: nn.Module, y: Tensor, A: LinearOperator, condition: Tensor | None = None) -> Tensor:
    """``network(y, A, condition)`` where there is a condition and the network declares ``uses_condition``.

    Else ``network(y, A)``: a network that does not know of conditions works on samples that carry one.
    """
    takes = condition is not None and getattr(network, "uses_condition", False)
    image: Tensor = network(y, A, condition) if takes else network(y, A)
    return image


def apply(network: nn.Module, batch: Sample) -> Tensor:
    """Image of a batch, ``(*batch, *A.domain_shape)``, in scaled units."""
    return call(network, batch.measurement, batch.operator, batch.condition)
