"""Local training: some optimizer steps on one site's samples. The same loop serves federated and local arms."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..data import Sample, Samples, VolumeSlices, batches, generator_for
from ..errors import DataError
from ..method import beside
from .feature_moments import watching
from .objectives import Supervised, TaskTerm
from .optimizers import Stepper
from .penalty import Penalty


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
        Slices, on any device: batches go to the network's. With a reference where the objective needs one.
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
        A name in :data:`recon.training.optimizers.OPTIMIZERS`; the momentum is that of ``sgd``.

    Raises
    ------
    DataError
        If a sample lacks what the objective needs, or the loss is not finite (a diverging site is named by its caller).
    ValueError
        If the optimizer state or the correction does not belong to this network, or options contradict each other.
    """
    if objective is not None and loss is not None:
        raise ValueError(f"train_locally: got loss {loss!r} and an objective, expected one of the two")
    task = objective or Supervised(loss or "l1")
    stepper = Stepper(
        {name: p for name, p in network.named_parameters() if p.requires_grad},
        optimizer,
        learning_rate,
        momentum,
        moments=optimizer_state or {},
        correction=correction or {},
        collect=collect_gradients,
    )
    # What the objective draws is apart from the order of the batches, which no objective may change.
    generator = generator_for("objective", seed)
    network.train()
    losses: list[float] = []
    n_samples = 0
    with watching(network, penalties):
        for step, drawn in zip(range(steps), _endless(samples, batch_size, seed), strict=False):
            batch = beside(network, drawn)
            value, image = task(network, batch, generator)
            for penalty in penalties:
                value = value + penalty(network, batch, image)
            losses.append(_finite(value, batch, step))
            stepper.step(value)
            n_samples += len(batch.meta)
            if progress is not None:
                progress(step, losses[-1])
    return TrainingResult(tuple(losses), n_samples, stepper.moments(), stepper.mean_gradient())


def cosine_learning_rate(base: float, progress: float) -> float:
    """Learning rate that falls from ``base`` to a hundredth of it along half a cosine, ``progress`` in 0 to 1."""
    return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _endless(samples: Samples, batch_size: int, seed: int) -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(seed)
    for epoch in itertools.count(seed):
        if isinstance(samples, VolumeSlices):
            samples.epoch = epoch  # another draw of the augmentation in every pass
        yield from batches(samples, batch_size, generator)


def _finite(value: Tensor, batch: Sample, step: int) -> float:
    number = float(value.detach())
    if not math.isfinite(number):
        raise DataError(f"{batch.meta[0].volume}: the loss is {number} at step {step}; lower the learning rate")
    return number
