"""Adaptation of a trained network to the scan at hand, without a reference."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..data import Sample, doing, generator_for, held_out_split, require_fraction
from ..errors import DataError
from ..evaluation import held_out_residual
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
        Slices of one scan, not collated; a reference is not looked at, and noise that is unknown is estimated.
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
        If a slice has too few measurements to hold some out, or no slice has any.

    References
    ----------
    .. [Y] Yaman, Hosseini and Akcakaya, Zero-shot self-supervised learning for MRI reconstruction, ICLR 2022.
    """
    require_fraction("adapt", held_out)
    if not samples or min(steps, check_every, patience) < 1:
        found = f"{len(samples)} slices, steps {steps}, check_every {check_every}, patience {patience}"
        raise ValueError(f"adapt: got {found}, expected at least 1 each")
    network, generator = copy.deepcopy(network), generator_for("adapt", seed)
    known = [_with_noise(sample) for sample in samples]
    parts = [(sample, *held_out_split(sample, held_out, generator)) for sample in known]
    residuals = [_residual(network, parts)]
    best, best_state, moments = 0, copy.deepcopy(network.state_dict()), dict[str, Tensor]()
    for check, done in enumerate(range(0, steps, check_every), start=1):
        made = min(check_every, steps - done)
        with doing(f"adapting from step {done} on"):
            moments = _train(network, [kept for _, kept, _ in parts], made, learning_rate, seed + check, moments)
        with doing("residual of held-out measurements"):
            residuals.append(_residual(network, parts))
        if progress is not None:
            progress(done + made, residuals[-1])
        if residuals[-1] < residuals[best]:
            best, best_state = check, copy.deepcopy(network.state_dict())
        elif check - best >= patience:
            break
    network.load_state_dict(best_state)
    return Adaptation(network.eval(), tuple(residuals), best)


def _train(
    network: nn.Module,
    samples: Sequence[Sample],
    steps: int,
    learning_rate: float,
    seed: int,
    moments: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Train in place on one slice a step; returns the moments of the optimizer."""
    return train_locally(
        network,
        samples,
        steps=steps,
        batch_size=1,
        learning_rate=learning_rate,
        objective=SelfSupervised(),
        seed=seed,
        optimizer_state=moments,
    ).optimizer_state


def _with_noise(sample: Sample) -> Sample:
    """The sample with an estimate of its noise where that is unknown."""
    if float(sample.noise_std) > 0:
        return sample
    return replace(sample, noise_std=sample.operator.estimate_noise_std(sample.measurement))


def _residual(network: nn.Module, parts: Sequence[tuple[Sample, Sample, Tensor]]) -> float:
    found = held_out_residual(network.eval(), parts)
    if found is None:
        raise DataError(f"{parts[0][0].meta[0].volume}: adapt: found no measurement, expected a scan; correct the file")
    return found
