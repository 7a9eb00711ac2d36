"""Training: one loop of optimizer steps, for a network at its site and for networks that share parameters."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import Sample, Samples, VolumeSlices, batches, doing_unless_named, generator_for, made
from ..errors import DataError
from ..method import to_device_of
from .feature_moments import watching
from .objectives import Supervised, TaskTerm
from .optimizers import Stepper
from .penalty import Penalty


class Learner:
    """A network, its endless stream of batches and its loss: the objective plus the sum of the penalties.

    Parameters
    ----------
    network
        Called as ``network(y, A)``, or with the condition, see :func:`recon.apply`.
    samples
        Slices on any device; a batch moves to the device of the network. The objective may need references.
    seed
        Seeds the order of the batches and, separately, the draws of the objective: no objective changes the order.
    """

    #: Whether the progress shows the loss.
    tells_loss = True

    def __init__(
        self,
        network: nn.Module,
        samples: Samples,
        *,
        batch_size: int,
        seed: int,
        objective: TaskTerm,
        penalties: Sequence[Penalty] = (),
    ) -> None:
        self.network, self.objective, self.penalties = network, objective, penalties
        self._batches = _endless(samples, batch_size, seed)
        self._generator = generator_for("objective", seed)

    def add_gradient(self, count: int, step: int) -> float:
        """Add the gradient of the next batch's loss, divided by ``count``, to the parameters; return the loss.

        Raises
        ------
        DataError
            If a sample lacks what the objective needs, or the loss is not finite at this ``step``.
        """
        batch = to_device_of(self.network, next(self._batches))
        loss, number = self.loss_of(batch, self._generator, step)
        (loss / count).backward()
        return number

    def loss_of(self, batch: Sample, generator: torch.Generator, step: int) -> tuple[Tensor, float]:
        """Loss of a batch on the device of the network, penalties included, as a tensor and as a number.

        Raises
        ------
        DataError
            As for :meth:`add_gradient`.
        """
        loss, image = self.objective(self.network, batch, generator)
        _require_number(self.objective, loss)
        for penalty in self.penalties:
            value = penalty(self.network, batch, image)
            _require_number(penalty, value)
            loss = loss + value
        number = float(loss.detach())
        if not math.isfinite(number):
            raise DataError(f"{batch.meta[0].volume}: the loss is {number} at step {step}; lower the learning rate")
        return loss, number


def _require_number(term: TaskTerm | Penalty, value: Tensor) -> None:
    if value.ndim or value.is_complex():
        found = f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
        name = getattr(term, "__name__", type(term).__name__)
        raise ValueError(f"{name}: gives {found}, expected a real number; take the mean over the batch")


def train_in_turns(stepper: Stepper, turns: Sequence[Sequence[Learner]]) -> tuple[float, ...]:
    """Make one optimizer step per turn, in place, on the mean loss of its learners; return these losses.

    Learners may share parameters, and continue their streams of batches from call to call.

    Raises
    ------
    DataError
        As :meth:`Learner.add_gradient`; the caller names the site.
    """
    losses = []
    with ExitStack() as stack:
        for learner in dict.fromkeys(learner for turn in turns for learner in turn):
            learner.network.train()
            stack.enter_context(watching(learner.network, learner.penalties))
        stack.enter_context(doing_unless_named("training", len(turns), "steps"))
        for step, turn in enumerate(turns):
            stepper.zero_gradients()
            # One backward pass per learner: its graph is freed before the next one is built.
            losses.append(sum(learner.add_gradient(len(turn), step) for learner in turn) / len(turn))
            stepper.step()
            made(step + 1, losses[-1] if all(learner.tells_loss for learner in turn) else None)
    return tuple(losses)


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of :func:`train_locally`.

    Loss per step, penalties included; the optimizer's moments as flat tensors; the mean gradient over the steps by
    name of the parameter, before any correction, empty unless asked for.
    """

    losses: tuple[float, ...]
    optimizer_state: dict[str, Tensor]
    mean_gradient: dict[str, Tensor]


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
    objective: TaskTerm | None = None,
    penalties: Sequence[Penalty] = (),
    correction: Mapping[str, Tensor] | None = None,
    collect_gradients: bool = False,
    optimizer: str = "adam",
    momentum: float = 0.0,
) -> TrainingResult:
    """Make ``steps`` optimizer steps in place; passes over the samples follow each other.

    Frozen parameters stay as they are.

    Parameters
    ----------
    network, samples, seed, penalties
        As for :class:`Learner`.
    learning_rate
        Constant; a schedule belongs to the caller.
    objective
        The task, by default :class:`recon.Supervised`.
    loss
        Short for ``objective=Supervised(loss)``.
    optimizer_state
        ``optimizer_state`` of an earlier result: the optimizer goes on as if it had never stopped.
    correction
        Added to the gradients by name before every step: in SCAFFOLD the server's control minus the site's.
    collect_gradients
        Whether the result has the mean gradient.
    optimizer, momentum
        A name in :data:`recon.training.optimizers.OPTIMIZERS`; the momentum belongs to ``sgd``.

    Raises
    ------
    DataError
        If a sample lacks what the objective needs, or the loss is not finite; the caller names the site.
    ValueError
        If the optimizer state or the correction does not belong to this network, or options contradict each other.
    """
    if objective is not None and loss is not None:
        raise ValueError(f"train_locally: got loss {loss!r} and an objective, expected one of the two")
    task = objective or Supervised(loss or "l1")
    learner = Learner(network, samples, batch_size=batch_size, seed=seed, objective=task, penalties=penalties)
    stepper = Stepper(
        dict(network.named_parameters()),
        optimizer,
        learning_rate,
        momentum,
        moments=optimizer_state or {},
        correction=correction or {},
        collect=collect_gradients,
    )
    losses = train_in_turns(stepper, [[learner]] * steps)
    return TrainingResult(losses, stepper.moments(), stepper.mean_gradient())


def cosine_learning_rate(base: float, progress: float) -> float:
    """Learning rate that falls from ``base`` to a hundredth of it along half a cosine, ``progress`` in 0 to 1."""
    return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _endless(samples: Samples, batch_size: int, seed: int) -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(seed)
    for epoch in itertools.count(seed):
        if isinstance(samples, VolumeSlices):
            samples.epoch = epoch  # another draw in every pass
        yield from batches(samples, batch_size, generator)
