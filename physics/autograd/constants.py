"""Constants and values under the transforms of `torch.func`, where the results of all operations are wrapped."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad


@contextmanager
def constants() -> Iterator[None]:
    """Make ordinary tensors of constants, also under `torch.func` and in inference mode, that later calls may use.

    A tensor that a transform has wrapped has no memory for numpy, and a tensor of inference mode no derivative.
    """
    with torch.inference_mode(False), torch.no_grad(), torch._C._DisableFuncTorch():
        yield


def makes_constants() -> bool:
    """Whether :func:`constants` is active inside of a transform, where autograd functions cannot be called."""
    front = torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode
    return bool(torch._C._dispatch_tls_is_dispatch_key_excluded(front))


def is_constant(tensor: Tensor) -> bool:
    """Whether no derivative with respect to the tensor is asked for and no transform has wrapped it.

    False in a graph of `torch.compile`, which has plain operations and nothing that is stored.
    """
    if torch.compiler.is_compiling() or _functorch.is_functorch_wrapped_tensor(tensor):
        return False
    return not _is_differentiated(tensor)


def constant_of(tensor: Tensor) -> Tensor | None:
    """The tensor without the wrappers of transforms that do not differentiate it; None if one does, or maps over it."""
    while _functorch.is_gradtrackingtensor(tensor) and not _is_differentiated(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor if is_constant(tensor) else None


def values_of(tensor: Tensor) -> Tensor:
    """The numbers beneath all transforms, for checks and decisions: of all samples where `vmap` maps over them."""
    while not torch.compiler.is_compiling() and _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor.detach()


def multiplied(fresh: Tensor, factor: Tensor) -> Tensor:
    """``fresh * factor``, in place unless a transform has wrapped the factor, whose samples may not fit into it."""
    if torch.compiler.is_compiling():
        return fresh * factor
    return fresh * factor if _functorch.is_functorch_wrapped_tensor(factor) else fresh.mul_(factor)


def _is_differentiated(tensor: Tensor) -> bool:
    if tensor.requires_grad:
        return True
    # Asking for a tangent takes as long as a small multiplication.
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None
