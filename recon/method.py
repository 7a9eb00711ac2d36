"""How a reconstruction method is called on a batch: with the condition or without, and on which device."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from physics import LinearOperator

from .data import Sample

Operator = TypeVar("Operator", bound=LinearOperator)


def call(network: nn.Module, y: Tensor, A: LinearOperator, condition: Tensor | None = None) -> Tensor:
    """``network(y, A, condition)`` where there is a condition and the network declares ``uses_condition``.

    Else ``network(y, A)``: a network that does not know of conditions works on samples that carry one.
    """
    takes = condition is not None and getattr(network, "uses_condition", False)
    image: Tensor = network(y, A, condition) if takes else network(y, A)
    return image


def beside(network: nn.Module, batch: Sample) -> Sample:
    """The batch on the device of the network; where it is for a method without parameters."""
    parameter = next(network.parameters(), None)
    return batch if parameter is None else batch.to(parameter.device)


def apply(network: nn.Module, batch: Sample) -> Tensor:
    """Image of a batch, ``(*batch, *A.domain_shape)``, in scaled units."""
    return call(network, batch.measurement, batch.operator, batch.condition)


def require_operator(who: str, A: LinearOperator, kind: type[Operator]) -> Operator:
    """The operator, checked to be of the class that a method is made for.

    The only question about an operator's class in `recon`: some methods use what one class alone has, such as coil maps
    or a scan geometry.

    Raises
    ------
    TypeError
        If it is of another class; ``who`` names the method.
    """
    if not isinstance(A, kind):
        raise TypeError(f"{who}: operator is {type(A).__name__}, expected {kind.__name__}")
    return A


def image_scale(image: Tensor, n_axes: int = 2) -> Tensor:
    """Robust maximum per sample, shape ``(*batch,)``: the 99.5 % quantile of the magnitude, 1 for an empty image."""
    magnitude = image.abs().flatten(image.ndim - n_axes)
    quantile = magnitude.kthvalue(max(1, round(0.995 * magnitude.shape[-1])), dim=-1).values
    return torch.where(quantile > 0, quantile, 1.0)
