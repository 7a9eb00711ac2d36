"""Trained weights of a head: which tensors another head takes over, and a file of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..data import TaskLabels
from ..errors import DataError
from .heads import TASK_HEADS

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class HeadStart:
    """Names of a head's parameters that begin with trained values, and of those that begin anew, in their order."""

    taken: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        new = "nothing" if not self.new else ", ".join(dict.fromkeys(_module(name) for name in self.new))
        taken = ", ".join(dict.fromkeys(name.split(".")[0] for name in self.taken))
        return f"{len(self.taken)} tensors are taken over ({taken}); new: {new}"


def class_parameters(name: str, labels: TaskLabels, options: Mapping[str, Any]) -> set[str]:
    """Parameters of the last layers of a head, whose shapes depend on the number of classes."""
    with torch.device("meta"):
        heads = [
            TASK_HEADS.make(name, {"outputs": labels.outputs + more, **options}, "head_options") for more in (0, 1)
        ]
    here, there = (dict(head.named_parameters()) for head in heads)
    return {name for name in here if here[name].shape != there[name].shape}


def start_head(head: nn.Module, state: State, classes: set[str], *, same_labels: bool) -> HeadStart:
    """Copy trained tensors into a head, by name.

    All parameters but those of the last layers must be in ``state`` in the same shape. Other tensors there, such as the
    decoder of a U-Net that starts a classifier, are not used.

    Parameters
    ----------
    head
        Changed in place.
    state
        By name: of a head, or of a network of torchvision for a :class:`TorchvisionHead`.
    classes
        :func:`class_parameters` of the head.
    same_labels
        Whether the classes are those of the trained head: only then the last layers are taken over.

    Raises
    ------
    ValueError
        At the first tensor that is missing or has another shape.
    """
    convert = getattr(head, "own_state", None)
    if convert is not None and not any(name.startswith("network.") for name in state):
        state = convert(state)
    parameters = dict(head.named_parameters())
    wanted = [name for name in parameters if same_labels or name not in classes]
    for name in wanted:
        expected = tuple(parameters[name].shape)
        if name not in state:
            raise ValueError(f"found no tensor {name}, expected one of shape {expected}; choose the head that it is of")
        if (found := tuple(state[name].shape)) != expected:
            raise ValueError(f"found {name} of shape {found}, expected {expected}; set task.head and task.head_options")
    with torch.no_grad():
        for name in wanted:
            parameters[name].copy_(state[name])
    return HeadStart(tuple(wanted), tuple(name for name in parameters if name not in wanted))


def read_head_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises
    ------
    DataError
        If it is none, or holds a number that is not finite.
    """
    try:
        found: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: found no safetensors file ({reason}), expected the weights of a head") from None
    if broken := [name for name, tensor in found.items() if not bool(tensor.isfinite().all())]:
        raise DataError(f"{path}: {broken[0]} holds numbers that are not finite, expected trained weights")
    return found


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0] or parameter
