"""Local training: some optimizer steps on one site's samples. The same loop serves federated and local arms."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .errors import DataError
from .kspace import KSpaceSlices
from .losses import LOSSES
from .sample import Sample, Samples, batches


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of :func:`train_locally`: loss per step, slices seen, and the optimizer's moments as flat tensors."""

    losses: tuple[float, ...]
    n_samples: int
    optimizer_state: dict[str, Tensor]


def train_locally(
    network: nn.Module,
    samples: Samples,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    loss: str = "l1",
    seed: int = 0,
    optimizer_state: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> TrainingResult:
    """Run ``steps`` Adam steps in place, on batches drawn by ``seed``, passing over the samples as often as needed.

    Parameters
    ----------
    network
        Called as ``network(y, A)``.
    samples
        Slices with a reference.
    learning_rate
        Adam's, constant; a schedule belongs to the caller.
    loss
        A name in :data:`recon.LOSSES`; computed on magnitudes in scaled units.
    optimizer_state
        ``optimizer_state`` of an earlier result: Adam goes on as if it had never stopped.
    progress
        Called after every step with its number and loss.

    Raises
    ------
    DataError
        If a sample has no reference, or the loss is not finite (a diverging site is named by its caller).
    ValueError
        If the optimizer state does not belong to this network.
    """
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=learning_rate)
    if optimizer_state:
        _load_moments(optimizer, parameters, optimizer_state)
    network.train()
    losses: list[float] = []
    n_samples = 0
    for step, batch in zip(range(steps), _endless(samples, batch_size, seed), strict=False):
        if batch.reference is None:
            raise DataError(
                f"{batch.meta[0].volume}: has no reference to train on; use fully sampled files for training"
            )
        optimizer.zero_grad(set_to_none=True)
        image = network(batch.measurement, batch.operator)
        value = LOSSES[loss](batch.magnitude(image), batch.target())
        if not math.isfinite(float(value.detach())):
            raise DataError(
                f"{batch.meta[0].volume}: the loss is {float(value.detach())} at step {step}; lower the learning rate"
            )
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
        n_samples += len(batch.meta)
        if progress is not None:
            progress(step, losses[-1])
    return TrainingResult(tuple(losses), n_samples, _moments(optimizer, parameters))


def cosine_learning_rate(base: float, progress: float) -> float:
    """Learning rate that falls from ``base`` to a hundredth of it along half a cosine, ``progress`` in 0 to 1."""
    return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _endless(samples: Samples, batch_size: int, seed: int) -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(seed)
    for epoch in itertools.count(seed):
        if isinstance(samples, KSpaceSlices):
            samples.epoch = epoch  # another draw of the augmentation in every pass
        yield from batches(samples, batch_size, generator)


def _moments(optimizer: torch.optim.Adam, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": value.detach().clone()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def _load_moments(
    optimizer: torch.optim.Adam, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    for name, parameter in parameters.items():
        keys = ("step", "exp_avg", "exp_avg_sq")
        missing = [key for key in keys if f"{key}.{name}" not in state]
        if missing or state[f"exp_avg.{name}"].shape != parameter.shape:
            raise ValueError(
                f"train_locally: the optimizer state does not fit parameter {name} {tuple(parameter.shape)}"
            )
        # clone: Adam updates its moments in place, and the caller keeps the state for a replay of the round
        optimizer.state[parameter] = {key: state[f"{key}.{name}"].clone() for key in keys}
