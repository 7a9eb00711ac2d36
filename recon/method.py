"""Call a reconstruction method on a batch: with or without condition, on its device."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from physics import LinearOperator

from .data import Sample

Operator = TypeVar("Operator", bound=LinearOperator)


def call(
    network: nn.Module,
    y: Tensor,
    A: LinearOperator,
    condition: Tensor | None = None,
    noise_std: Tensor | None = None,
) -> Tensor:
    """``network(y, A)``, with what else is known and the network declares that it uses.

    The condition is the third argument of a network with ``uses_condition``, the noise level the keyword
    ``noise_std`` of one with ``uses_noise``.
    """
    conditions = (condition,) if condition is not None and getattr(network, "uses_condition", False) else ()
    noise = {"noise_std": noise_std} if noise_std is not None and getattr(network, "uses_noise", False) else {}
    image: Tensor = network(y, A, *conditions, **noise)
    return image


def to_device_of(network: nn.Module, batch: Sample) -> Sample:
    """The batch on the device of the network; unchanged for a method without parameters."""
    parameter = next(network.parameters(), None)
    return batch if parameter is None else batch.to(parameter.device)


def apply(network: nn.Module, batch: Sample) -> Tensor:
    """Image of a batch, ``(*batch, *A.domain_shape)``, in scaled units."""
    return call(network, batch.measurement, batch.operator, batch.condition, batch.noise_std)


def require_operator(who: str, A: LinearOperator, kind: type[Operator]) -> Operator:
    """The operator, if it is of the class that a method needs, such as for its coil maps or its scan geometry.

    The only place in `recon` that asks for the class of an operator.

    Raises
    ------
    TypeError
        If it is of another class; ``who`` names the method.
    """
    if not isinstance(A, kind):
        raise TypeError(f"{who}: operator is {type(A).__name__}, expected {kind.__name__}")
    return A


def image_scale(image: Tensor, n_axes: int = 2) -> Tensor:
    """Robust maximum per sample, shape ``(*batch,)``: 0.995 quantile of the magnitude; 1 for an empty image."""
    magnitude = image.abs().flatten(image.ndim - n_axes)
    quantile = magnitude.kthvalue(max(1, round(0.995 * magnitude.shape[-1])), dim=-1).values
    return torch.where(quantile > 0, quantile, 1.0)
