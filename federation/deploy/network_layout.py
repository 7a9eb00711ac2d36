"""Names and shapes of the parameters of a recipe's network, without memory for their values."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from recon import DataError

from ..methods import parameter_scope
from ..recipes import Recipe, network_of, without_base
from ..serialization import Layout, layout

#: Tensors without end would fill the memory too, each with its module.
_MOST_TENSORS = 100_000


class _WithoutValues(TorchFunctionMode):
    """Leaves out initial values: PyTorch loads for seconds to draw numbers without a place for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("uniform_", "normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class _Count:
    """Counts parameters as modules register them."""

    def __init__(self, most: int) -> None:
        self.most, self.parameters, self.tensors = most, 0, 0

    @property
    def is_exceeded(self) -> bool:
        return self.parameters > self.most or self.tensors > _MOST_TENSORS

    def __call__(self, module: object, name: str, parameter: torch.Tensor | None) -> None:
        if parameter is not None:
            self.parameters, self.tensors = self.parameters + parameter.numel(), self.tensors + 1
            if self.is_exceeded:
                raise RuntimeError("too many parameters")


def shared_layout(recipe: Recipe, most: int) -> Layout:
    """Layout of the shared parameters.

    Parameters
    ----------
    most
        Largest number of parameters of the network, shared or not; the count ends there.

    Raises
    ------
    DataError
        If the network is larger, or cannot be built.
    """
    count = _Count(most)
    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.random.fork_rng(devices=[]):
            network = _built(recipe, count)
    except Exception as error:
        if count.is_exceeded:
            raise DataError(
                f"network: found {count.parameters} parameters or more, in {count.tensors} tensors, expected at most "
                f"{most} in {_MOST_TENSORS}; do not approve it, or raise maximum_parameters in policy.toml"
            ) from None
        if isinstance(error, DataError):
            raise
        raise DataError(f"network: cannot be built ({' '.join(str(error).split())[:200]}); correct [network]") from None
    finally:
        hook.remove()
    shared = set(parameter_scope(network, recipe.scope.rules()).shared)
    return layout({name: parameter for name, parameter in network.named_parameters() if name in shared})


def _built(recipe: Recipe, count: _Count) -> nn.Module:
    recipe = without_base(recipe)
    try:
        with torch.device("meta"), _WithoutValues():
            return network_of(recipe)
    except Exception:
        if count.is_exceeded or not recipe.plugins:
            raise
    # A plugin may compute with values; whoever looks at the bundle has given its code, which has run already.
    count.parameters = count.tensors = 0
    return network_of(recipe)
