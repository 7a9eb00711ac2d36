"""Training steps of the default networks in other ways than the plain one; part of `benchmarks/gpu.py`.

Ways: `torch.compile` of the regularizers, or of the whole network; a CUDA graph of forward and backward pass; and
regularizers in bfloat16, see `bfloat16_regularizers.py`. A way that does not run is named with the reason.
"""

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bfloat16_regularizers import RECIPES, bfloat16_regularizers
from timing import paired_medians, print_ratios
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from federation import build_network, load_recipe
from physics import (
    CartesianMRI,
    FanBeam,
    ImageGrid,
    LinearOperator,
    RadonOperator,
    birdcage_maps,
    evenly_spaced,
    random_mask,
)
from recon import Regularizer

#: A way is worth its code if a step takes at most this part of the plain one.
BAR = 1 / 1.3
Step = Callable[[], Tensor]


def compare_ways(device: str, size: int, repeats: int) -> None:
    """Times of a step by each way, and the difference of its gradients; on a CPU without CUDA graphs."""
    for modality, (A, x) in {"mri": _mri(size), "ct": _ct(size)}.items():
        torch.manual_seed(0)
        network = build_network(load_recipe(RECIPES[modality]).network).to(device)
        with torch.no_grad():  # the last layers are zero at first, and so are most gradients
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        y = A(x).contiguous().to(device)
        step, reads = _plain(copy.deepcopy(network), copy.deepcopy(A).to(device), y), NumbersRead()
        step()
        with reads:
            step()
        title = f"{modality.upper()} {size}x{size}, default network, forward and backward on {device}"
        print(f"{title}: {reads.count} numbers read back to the CPU, copies {dict(reads.copies)}")
        runs: dict[str, Step] = {"plain": step}
        for name, make in _WAYS.items():
            try:
                way = make(copy.deepcopy(network), copy.deepcopy(A).to(device), y)
                way()
            except Exception as error:  # compilers and captures fail in many ways
                print(f"{name} is not compared: {type(error).__name__}: {error}".partition("\n")[0])
            else:
                runs[name] = way
        waited = {name: partial(_waited, run, device) for name, run in runs.items()}
        bars = dict.fromkeys(list(runs)[1:], BAR) if device == "cuda" else {}
        print_ratios(title, paired_medians(waited, repeats=repeats), "plain", bars)
        expected = step()
        differences = {name: float((run() - expected).norm() / expected.norm()) for name, run in runs.items()}
        print("difference of gradients:", ", ".join(f"{name} {d:.1e}" for name, d in differences.items()), "\n")


class NumbersRead(TorchDispatchMode):
    """Context that counts what a CUDA graph does not allow: numbers read back to the CPU, and copies between devices.

    Attributes
    ----------
    count
        Numbers that Python reads.
    copies
        Copies between devices, by their kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count, self.copies = 0, Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += "_local_scalar_dense" in str(func)
        if "_to_copy" in str(func) and args[0].device != result.device:
            self.copies[f"{args[0].device.type} to {result.device.type}"] += 1
        return result


def _gradients(network: nn.Module, image: Tensor) -> Tensor:
    image.abs().mean().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def _plain(network: nn.Module, A: LinearOperator, y: Tensor, called: Callable[..., Tensor] | None = None) -> Step:
    call = network if called is None else called

    def step() -> Tensor:
        network.zero_grad(set_to_none=True)
        return _gradients(network, call(y, A))

    return step


def _compile(function: Callable[..., Tensor], y: Tensor) -> Callable[..., Tensor]:
    # On the CPU, only what happens before code is generated: the compiler takes minutes.
    backend = "inductor" if y.is_cuda else "aot_eager"
    compiled: Callable[..., Tensor] = torch.compile(function, backend=backend, dynamic=False)
    return compiled


def _compiled_regularizers(network: nn.Module, A: LinearOperator, y: Tensor) -> Step:
    for module in network.modules():
        if isinstance(module, Regularizer):
            object.__setattr__(module, "refine", _compile(module.refine, y))
    return _plain(network, A, y)


def _compiled_network(network: nn.Module, A: LinearOperator, y: Tensor) -> Step:
    return _plain(network, A, y, _compile(network, y))


class _OfOperator(nn.Module):
    """A network with its operator: CUDA graphs take tensors alone."""

    def __init__(self, network: nn.Module, A: LinearOperator) -> None:
        super().__init__()
        self.network, self.A = network, A

    def forward(self, y: Tensor) -> Tensor:
        image: Tensor = self.network(y, self.A)
        return image


def _graph(network: nn.Module, A: LinearOperator, y: Tensor) -> Step:
    if not y.is_cuda:
        raise RuntimeError("needs a GPU")
    # Tables and norms of the operator are made before the capture.
    _plain(network, A, y)()
    network.zero_grad(set_to_none=True)
    graphed: Any = torch.cuda.make_graphed_callables(_OfOperator(network, A), (y,))
    return _plain(network, A, y, lambda y, A: graphed(y))


def _bfloat16(network: nn.Module, A: LinearOperator, y: Tensor) -> Step:
    step = _plain(network, A, y)

    def half() -> Tensor:
        with bfloat16_regularizers(network):
            return step()

    return half


_WAYS: dict[str, Callable[[nn.Module, LinearOperator, Tensor], Step]] = {
    "torch.compile of the regularizers": _compiled_regularizers,
    "torch.compile of the network": _compiled_network,
    "CUDA graph": _graph,
    "regularizers in bfloat16": _bfloat16,
}


def _mri(size: int) -> tuple[LinearOperator, Tensor]:
    mask = random_mask(size, 4, 0.08, 0).mask
    A = CartesianMRI.collate([CartesianMRI(birdcage_maps(8, (size, size)), mask)])
    return A, torch.randn(1, size, size, dtype=torch.complex64)


def _ct(size: int) -> tuple[LinearOperator, Tensor]:
    pixel = 400.0 / size
    scan = FanBeam(evenly_spaced(size, 2 * torch.pi / size), 3 * size // 2, 1.5 * pixel, 600.0, 1000.0)
    return RadonOperator(ImageGrid((size, size), pixel), scan), torch.rand(1, size, size)


def _waited(run: Step, device: str) -> None:
    run()
    if device == "cuda":
        torch.cuda.synchronize()
