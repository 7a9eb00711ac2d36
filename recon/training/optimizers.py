"""Optimizers over named parameters; their moments are read and written as flat tensors."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter]

#: Optimizers by the name used in recipes, each with the moments that it keeps per parameter.
OPTIMIZERS: dict[str, tuple[str, ...]] = {"adam": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class Stepper:
    """An optimizer that corrects gradients before a step and keeps their mean, both on request.

    Parameters
    ----------
    parameters
        By name; frozen ones are left out.
    name, learning_rate, momentum
        A key of :data:`OPTIMIZERS`; the momentum belongs to ``sgd``.
    moments
        Result of :meth:`moments`: the optimizer goes on as if it had never stopped. Empty: it starts anew.
    correction
        Added to the gradients by name before every step.
    collect
        Whether :meth:`mean_gradient` sums gradients.

    Raises
    ------
    ValueError
        If every parameter is frozen, an option is wrong, or moments or correction do not fit.
    """

    def __init__(
        self,
        parameters: Parameters,
        name: str,
        learning_rate: float,
        momentum: float,
        *,
        moments: Mapping[str, Tensor] = MappingProxyType({}),
        correction: Mapping[str, Tensor] = MappingProxyType({}),
        collect: bool = False,
    ) -> None:
        parameters = {n: p for n, p in parameters.items() if p.requires_grad}
        self.parameters, self.correction, self.count = parameters, correction, 0
        self.optimizer = _optimizer(name, parameters, learning_rate, momentum)
        self._kinds = () if name == "sgd" and momentum == 0 else OPTIMIZERS[name]
        if moments:
            self._load(moments)
        _check_correction(correction, parameters)
        self._sums = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items() if collect}

    def set_learning_rate(self, learning_rate: float) -> None:
        """Learning rate of the next steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def zero_gradients(self) -> None:
        """Drop the gradients of the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One step down the gradients that backward passes have added up."""
        self.count += 1
        for name, total in self._sums.items():
            total.add_(0.0 if (gradient := self.parameters[name].grad) is None else gradient)
        for name, tensor in self.correction.items():
            parameter = self.parameters[name]
            change = tensor.to(parameter)
            parameter.grad = change.clone() if parameter.grad is None else parameter.grad + change
        self.optimizer.step()

    def mean_gradient(self) -> dict[str, Tensor]:
        """Mean over the steps of the gradients before correction, by name; empty without ``collect``."""
        return {
            name: (total / max(self.count, 1)).to(self.parameters[name].dtype) for name, total in self._sums.items()
        }

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's moments as flat tensors."""
        moments = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            for kind in self._kinds:
                # A parameter without any gradient so far has no moments: Adam starts from zeros.
                fresh = torch.zeros(()) if kind == "step" else torch.zeros_like(parameter)
                moments[f"{kind}.{name}"] = state.get(kind, fresh).detach().clone()
        return moments

    def _load(self, state: Mapping[str, Tensor]) -> None:
        kinds = self._kinds
        for name, parameter in self.parameters.items():
            shapes = {f"{kind}.{name}": () if kind == "step" else tuple(parameter.shape) for kind in kinds}
            if any(key not in state or tuple(state[key].shape) != shape for key, shape in shapes.items()):
                raise ValueError(f"Stepper: the optimizer state does not fit parameter {name} {tuple(parameter.shape)}")
            if kinds:
                # Copies: moments are updated in place, and the caller keeps the state for a replay of the round.
                # Moments lie beside their parameter, the count of steps on the CPU, where Adam keeps it.
                self.optimizer.state[parameter] = {
                    kind: state[f"{kind}.{name}"].to("cpu" if kind == "step" else parameter.device, copy=True)
                    for kind in kinds
                }
        if extra := sorted(state.keys() - {f"{kind}.{name}" for kind in kinds for name in self.parameters}):
            raise ValueError(f"Stepper: the optimizer state holds {extra[0]}, of another optimizer or parameter")


def _check_correction(correction: Mapping[str, Tensor], parameters: Parameters) -> None:
    for name, tensor in correction.items():
        if name not in parameters:
            raise ValueError(f"Stepper: the correction names {name}, expected parameters that are trained")
        if tensor.shape != parameters[name].shape:
            found, expected = tuple(tensor.shape), tuple(parameters[name].shape)
            raise ValueError(f"Stepper: the correction of {name} has shape {found}, expected {expected}")


def _optimizer(name: str, parameters: Parameters, learning_rate: float, momentum: float) -> torch.optim.Optimizer:
    if name not in OPTIMIZERS:
        raise ValueError(f"Stepper: optimizer is {name!r}, expected one of {', '.join(OPTIMIZERS)}")
    if not parameters:
        raise ValueError("Stepper: every parameter is frozen, expected at least one to train")
    if name == "sgd":
        if not 0 <= momentum < 1:
            raise ValueError(f"Stepper: momentum is {momentum}, expected 0 or more and less than 1")
        return torch.optim.SGD(parameters.values(), lr=learning_rate, momentum=momentum)
    if momentum != 0:
        raise ValueError(f"Stepper: momentum is {momentum}, expected 0 with {name}; it is an option of sgd")
    # One kernel for all parameters; elsewhere torch chooses.
    on_cpu = all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in parameters.values())
    return torch.optim.Adam(parameters.values(), lr=learning_rate, fused=on_cpu or None)
