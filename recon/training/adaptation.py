"""Adaptation of a trained network to the scan at hand, without a reference."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import Sample, collate, generator_for, held_out_split, require_fraction
from ..method import apply, to_device_of
from .local_training import train_locally
from .objectives import SelfSupervised


@dataclass(frozen=True)
class Adaptation:
    """A network adapted to a scan.

    ``residuals`` are the root mean squares of ``A x - y`` on held-out measurements, in units of the noise, before the
    first step and after every check; ``best`` is the check whose parameters the network has, 0 for none better.
    """

    network: nn.Module
    residuals: tuple[float, ...]
    best: int

    @property
    def gain(self) -> float:
        """Part by which the residual on held-out measurements fell, 0 to 1."""
        return 1 - self.residuals[self.best] / self.residuals[0] if self.residuals[0] > 0 else 0.0


def adapt(
    network: nn.Module,
    samples: Sequence[Sample],
    *,
    steps: int = 100,
    learning_rate: float = 3e-4,
    held_out: float = 0.2,
    check_every: int = 10,
    patience: int = 3,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Adaptation:
    r"""Train a copy of a network on the slices of one scan, with early stopping; no reference is used (ZS-SSL [Y]_).

    A part of the measurements is held out for good. Every step splits the rest at random: the network reconstructs from
    one part and predicts the other, see :class:`SelfSupervised`. Every ``check_every`` steps the residual on the
    measurements that are held out for good is computed. Training stops when it has not fallen ``patience`` times in a
    row; the parameters with the smallest residual are kept. The given network is unchanged, and the adapted one is
    called with all measurements.

    Parameters
    ----------
    network
        A trained network; its frozen parameters stay as they are.
    samples
        Slices of one scan, not collated; a reference is not looked at.
    steps
        Largest number of optimizer steps, one slice each.
    learning_rate
        Of Adam; smaller than in training, because the network is trained already.
    held_out
        Part of the candidates that is held out for good: lines or points in MRI, views in CT.
    check_every, patience
        See above, at least 1.
    seed
        Seeds the splits.
    progress
        Called after every check with the number of steps and the residual.

    Raises
    ------
    ValueError
        If there is no slice, or a number is out of range.
    DataError
        If a slice has too few measurements to hold some out.

    References
    ----------
    .. [Y] Yaman, Hosseini and Akcakaya, Zero-shot self-supervised learning for MRI reconstruction, ICLR 2022.
    """
    require_fraction("adapt", held_out)
    if not samples or min(steps, check_every, patience) < 1:
        found = f"{len(samples)} slices, steps {steps}, check_every {check_every}, patience {patience}"
        raise ValueError(f"adapt: got {found}, expected at least 1 each")
    network = copy.deepcopy(network)
    generator = generator_for("adapt", seed)
    split = [held_out_split(sample, held_out, generator) for sample in samples]
    kept = [part for part, _ in split]
    residuals = [_residual(network, samples, split)]
    best, best_state = 0, copy.deepcopy(network.state_dict())
    moments: dict[str, Tensor] = {}
    for check in range(1, -(-steps // check_every) + 1):
        result = train_locally(
            network,
            kept,
            steps=min(check_every, steps - (check - 1) * check_every),
            batch_size=1,
            learning_rate=learning_rate,
            objective=SelfSupervised(),
            seed=seed + check,
            optimizer_state=moments,
        )
        moments = result.optimizer_state
        residuals.append(_residual(network, samples, split))
        if progress is not None:
            progress(min(check * check_every, steps), residuals[-1])
        if residuals[-1] < residuals[best]:
            best, best_state = check, copy.deepcopy(network.state_dict())
        elif check - best >= patience:
            break
    network.load_state_dict(best_state)
    return Adaptation(network.eval(), tuple(residuals), best)


def _residual(network: nn.Module, samples: Sequence[Sample], split: Sequence[tuple[Sample, Tensor]]) -> float:
    """Root mean square of ``A x - y`` on the held-out measurements, in units of the noise where it is known."""
    network.eval()
    squares, count = 0.0, 0
    with torch.no_grad():
        for sample, (kept, held_out) in zip(samples, split, strict=True):
            image = apply(network, to_device_of(network, collate([kept])))[0].to(sample.measurement.device)
            error = (sample.operator(image) - sample.measurement) * held_out
            noise = float(sample.noise_std) or 1.0
            squares += float(error.abs().square().sum()) / noise**2
            count += int(held_out.expand(error.shape).sum())
    return math.sqrt(squares / max(count, 1))
