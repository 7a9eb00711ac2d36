"""Optimizers over named parameters, whose moments go in and out as flat tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Parameters = Mapping[str, nn.Parameter]

#: Optimizers by the name used in recipes, each with the moments that it keeps per parameter.
OPTIMIZERS: dict[str, tuple[str, ...]] = {"adam": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class Stepper:
    """Steps on gradients, corrected or not, and remembers their mean if asked.

    Parameters
    ----------
    parameters
        By name, those that are trained.
    name, learning_rate, momentum
        A key of :data:`OPTIMIZERS`; the momentum is that of ``sgd``.
    moments
        What :meth:`moments` returned: the optimizer goes on as if it had never stopped. Empty starts anew.
    correction
        Added to the gradients by name before every step.
    collect
        Whether :meth:`mean_gradient` is wanted.

    Raises
    ------
    ValueError
        If nothing is trained, an option is wrong, or moments or correction do not fit.
    """

    def __init__(
        self,
        parameters: Parameters,
        name: str,
        learning_rate: float,
        momentum: float,
        *,
        moments: Mapping[str, Tensor],
        correction: Mapping[str, Tensor],
        collect: bool,
    ) -> None:
        self.parameters, self.correction, self.count = parameters, correction, 0
        self.optimizer = _optimizer(name, parameters, learning_rate, momentum)
        self._kinds = () if name == "sgd" and momentum == 0 else OPTIMIZERS[name]
        if moments:
            self._load(moments)
        _check_correction(correction, parameters)
        self._sums = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items() if collect}

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of ``loss``."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.count += 1
        for name, total in self._sums.items():
            total.add_(0.0 if (gradient := self.parameters[name].grad) is None else gradient)
        for name, tensor in self.correction.items():
            parameter = self.parameters[name]
            change = tensor.to(parameter)
            parameter.grad = change.clone() if parameter.grad is None else parameter.grad + change
        self.optimizer.step()

    def mean_gradient(self) -> dict[str, Tensor]:
        """Mean over the steps of the gradients before correction, by name; empty if none was wanted."""
        return {
            name: (total / max(self.count, 1)).to(self.parameters[name].dtype) for name, total in self._sums.items()
        }

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's moments as flat tensors."""
        moments = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            for kind in self._kinds:
                # A parameter that no gradient has reached has none yet: zeros are where it starts.
                fresh = torch.zeros(()) if kind == "step" else torch.zeros_like(parameter)
                moments[f"{kind}.{name}"] = state.get(kind, fresh).detach().clone()
        return moments

    def _load(self, state: Mapping[str, Tensor]) -> None:
        kinds = self._kinds
        for name, parameter in self.parameters.items():
            shapes = {f"{kind}.{name}": () if kind == "step" else tuple(parameter.shape) for kind in kinds}
            if any(key not in state or tuple(state[key].shape) != shape for key, shape in shapes.items()):
                raise ValueError(
                    f"train_locally: the optimizer state does not fit parameter {name} {tuple(parameter.shape)}"
                )
            if kinds:
                # Copies: moments are updated in place, and the caller keeps the state for a replay of the round.
                # Moments lie beside their parameter, the count of steps on the CPU, where Adam keeps it.
                self.optimizer.state[parameter] = {
                    kind: state[f"{kind}.{name}"].to("cpu" if kind == "step" else parameter.device, copy=True)
                    for kind in kinds
                }
        if extra := sorted(state.keys() - {f"{kind}.{name}" for kind in kinds for name in self.parameters}):
            raise ValueError(f"train_locally: the optimizer state holds {extra[0]}, of another optimizer or parameter")


def _check_correction(correction: Mapping[str, Tensor], parameters: Parameters) -> None:
    for name, tensor in correction.items():
        if name not in parameters:
            raise ValueError(f"train_locally: the correction names {name}, expected parameters that are trained")
        if tensor.shape != parameters[name].shape:
            found, expected = tuple(tensor.shape), tuple(parameters[name].shape)
            raise ValueError(f"train_locally: the correction of {name} has shape {found}, expected {expected}")


def _optimizer(name: str, parameters: Parameters, learning_rate: float, momentum: float) -> torch.optim.Optimizer:
    if name not in OPTIMIZERS:
        raise ValueError(f"train_locally: optimizer is {name!r}, expected one of {', '.join(OPTIMIZERS)}")
    if not parameters:
        raise ValueError("train_locally: every parameter is frozen, expected at least one to train")
    if name == "sgd":
        if not 0 <= momentum < 1:
            raise ValueError(f"train_locally: momentum is {momentum}, expected 0 or more and less than 1")
        return torch.optim.SGD(parameters.values(), lr=learning_rate, momentum=momentum)
    if momentum != 0:
        raise ValueError(f"train_locally: momentum is {momentum}, expected 0 with {name}; it is an option of sgd")
    return torch.optim.Adam(parameters.values(), lr=learning_rate)
