"""Local training: some optimizer steps on one site's samples. The same loop serves federated and local arms."""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .errors import DataError
from .kspace import KSpaceSlices
from .moments import watching
from .objectives import Penalty, Supervised, TaskTerm
from .sample import Sample, Samples, batches

Parameters = Mapping[str, nn.Parameter]

#: Optimizers by the name used in recipes, each with the moments that it keeps per parameter.
OPTIMIZERS: dict[str, tuple[str, ...]] = {"adam": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of :func:`train_locally`.

    Loss per step, penalties included; slices seen; the optimizer's moments as flat tensors; and, where it was asked
    for, the mean of the gradients over the steps by name of the parameter, before any correction.
    """

    losses: tuple[float, ...]
    n_samples: int
    optimizer_state: dict[str, Tensor]
    mean_gradient: dict[str, Tensor] = field(default_factory=dict)


def train_locally(
    network: nn.Module,
    samples: Samples,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    loss: str | None = None,
    seed: int = 0,
    optimizer_state: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, float], None] | None = None,
    objective: TaskTerm | None = None,
    penalties: Sequence[Penalty] = (),
    correction: Mapping[str, Tensor] | None = None,
    collect_gradients: bool = False,
    optimizer: str = "adam",
    momentum: float = 0.0,
) -> TrainingResult:
    """Run ``steps`` optimizer steps in place, on batches drawn by ``seed``, going over the samples again and again.

    Frozen parameters stay as they are. The order of the batches depends on the seed alone, not on the objective.

    Parameters
    ----------
    network
        Called as ``network(y, A)``, or with the condition, see :func:`recon.apply`.
    samples
        Slices; with a reference where the objective needs one.
    learning_rate
        Constant; a schedule belongs to the caller.
    loss
        Short for ``objective=Supervised(loss)``.
    optimizer_state
        ``optimizer_state`` of an earlier result: the optimizer goes on as if it had never stopped.
    progress
        Called after every step with its number and loss.
    objective, penalties
        What is minimized: the task, by default :class:`recon.Supervised`, plus the sum of the penalties.
    correction
        Added to the gradients by name before every step: in SCAFFOLD the server's control minus the site's.
    collect_gradients
        Whether the result has the mean gradient.
    optimizer, momentum
        A name in :data:`recon.OPTIMIZERS`; the momentum is that of ``sgd``.

    Raises
    ------
    DataError
        If a sample lacks what the objective needs, or the loss is not finite (a diverging site is named by its caller).
    ValueError
        If the optimizer state or the correction does not belong to this network, or options contradict each other.
    """
    if objective is not None and loss is not None:
        raise ValueError(f"train_locally: got loss {loss!r} and an objective, expected one of the two")
    task, correction = objective or Supervised(loss or "l1"), correction or {}
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    stepper = _optimizer(optimizer, parameters, learning_rate, momentum)
    kinds = () if optimizer == "sgd" and momentum == 0 else OPTIMIZERS[optimizer]
    if optimizer_state:
        _load_moments(stepper, kinds, parameters, optimizer_state)
    _check_correction(correction, parameters)
    gradients = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items() if collect_gradients}
    generator = _task_generator(seed)
    network.train()
    losses: list[float] = []
    n_samples = 0
    with watching(network, penalties):
        for step, batch in zip(range(steps), _endless(samples, batch_size, seed), strict=False):
            stepper.zero_grad(set_to_none=True)
            value, image = task(network, batch, generator)
            for penalty in penalties:
                value = value + penalty(network, batch, image)
            losses.append(_finite(value, batch, step))
            value.backward()
            for name, total in gradients.items():
                total.add_(0.0 if (gradient := parameters[name].grad) is None else gradient)
            _correct(parameters, correction)
            stepper.step()
            n_samples += len(batch.meta)
            if progress is not None:
                progress(step, losses[-1])
    mean = {name: (total / max(steps, 1)).to(parameters[name].dtype) for name, total in gradients.items()}
    return TrainingResult(tuple(losses), n_samples, _moments(stepper, kinds, parameters), mean)


def cosine_learning_rate(base: float, progress: float) -> float:
    """Learning rate that falls from ``base`` to a hundredth of it along half a cosine, ``progress`` in 0 to 1."""
    return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _endless(samples: Samples, batch_size: int, seed: int) -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(seed)
    for epoch in itertools.count(seed):
        if isinstance(samples, KSpaceSlices):
            samples.epoch = epoch  # another draw of the augmentation in every pass
        yield from batches(samples, batch_size, generator)


def _task_generator(seed: int) -> torch.Generator:
    """For what the objective draws; apart from the order of the batches, which no objective may change."""
    digest = hashlib.sha256(f"objective {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _finite(value: Tensor, batch: Sample, step: int) -> float:
    number = float(value.detach())
    if not math.isfinite(number):
        raise DataError(f"{batch.meta[0].volume}: the loss is {number} at step {step}; lower the learning rate")
    return number


def _check_correction(correction: Mapping[str, Tensor], parameters: Parameters) -> None:
    for name, tensor in correction.items():
        if name not in parameters:
            raise ValueError(f"train_locally: the correction names {name}, expected parameters that are trained")
        if tensor.shape != parameters[name].shape:
            found, expected = tuple(tensor.shape), tuple(parameters[name].shape)
            raise ValueError(f"train_locally: the correction of {name} has shape {found}, expected {expected}")


def _correct(parameters: Parameters, correction: Mapping[str, Tensor]) -> None:
    for name, tensor in correction.items():
        parameter = parameters[name]
        change = tensor.to(parameter)
        parameter.grad = change.clone() if parameter.grad is None else parameter.grad + change


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


def _moments(stepper: torch.optim.Optimizer, kinds: Sequence[str], parameters: Parameters) -> dict[str, Tensor]:
    moments = {}
    for name, parameter in parameters.items():
        state = stepper.state[parameter]
        for kind in kinds:
            # A parameter that no gradient has reached has none yet: zeros are where it starts.
            fresh = torch.zeros(()) if kind == "step" else torch.zeros_like(parameter)
            moments[f"{kind}.{name}"] = state.get(kind, fresh).detach().clone()
    return moments


def _load_moments(
    stepper: torch.optim.Optimizer, kinds: Sequence[str], parameters: Parameters, state: Mapping[str, Tensor]
) -> None:
    for name, parameter in parameters.items():
        shapes = {f"{kind}.{name}": () if kind == "step" else tuple(parameter.shape) for kind in kinds}
        if any(key not in state or tuple(state[key].shape) != shape for key, shape in shapes.items()):
            raise ValueError(
                f"train_locally: the optimizer state does not fit parameter {name} {tuple(parameter.shape)}"
            )
        if kinds:
            # clone: moments are updated in place, and the caller keeps the state for a replay of the round
            stepper.state[parameter] = {kind: state[f"{kind}.{name}"].clone() for kind in kinds}
    if extra := sorted(state.keys() - {f"{kind}.{name}" for kind in kinds for name in parameters}):
        raise ValueError(f"train_locally: the optimizer state holds {extra[0]}, of another optimizer or parameter")
