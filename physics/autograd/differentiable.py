"""Base class of autograd functions that also work under the transforms of `torch.func`."""

from types import new_class
from typing import Any

import torch
from torch import Tensor

from .constants import makes_constants


class Differentiable(torch.autograd.Function):
    """An autograd function that also works under the transforms of `torch.func`; :meth:`of` calls it.

    Subclasses have ``setup_context``, ``backward``, ``jvp`` and a rule for ``vmap``.

    Outside `torch.func` a twin is called whose ``forward`` takes the context: there autograd binds the arguments of a
    function with ``setup_context`` by its signature, 20 to 90 microseconds in each call.
    """

    _ordinary: type[torch.autograd.Function]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        rules = {"forward": forward, "backward": cls.backward, "jvp": cls.jvp}
        static = {name: staticmethod(rule) for name, rule in rules.items()}
        cls._ordinary = new_class(cls.__name__, (torch.autograd.Function,), exec_body=lambda body: body.update(static))

    @classmethod
    def of(cls, *inputs: Any) -> Tensor:
        """Apply the function."""
        if not torch._C._are_functorch_transforms_active():
            output: Tensor = cls._ordinary.apply(*inputs)
        elif makes_constants():
            output = cls.forward(*inputs)
        else:
            output = cls.apply(*inputs)
        return output
