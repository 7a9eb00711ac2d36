"""Count the bytes of tensors that live at the same time, whatever made them."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Torch's allocator of GPU memory gives multiples of this: https://docs.pytorch.org/docs/stable/notes/cuda.html
_BLOCK = 512


class LiveTensors(TorchDispatchMode):
    """Context in which every storage that an operation reads or makes is counted until it is freed.

    It counts parameters, samples, activations that the backward pass needs, gradients and moments of the optimizer,
    and results that are freed at once. It counts no memory inside an operation, such as the workspace of an FFT.

    Attributes
    ----------
    peak
        Most bytes at a time.
    largest
        Bytes of the largest storage.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.largest = self._now = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self._see((args, kwargs))
        result = func(*args, **(kwargs or {}))
        self._see(result)
        return result

    def _see(self, tree: object) -> None:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._known:
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK

        def freed(_: object) -> None:
            self._known.pop(key, None)
            self._now -= size

        self._known[key] = weakref.ref(storage, freed)
        self._now += size
        self.peak, self.largest = max(self.peak, self._now), max(self.largest, size)
