"""How much each site counts in the server's mean: one class per weighting, its fields the options of a recipe."""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..serialization import State
from .server_rule import INVARIANTS, Contribution, check_number

# What a vanishing weight is raised to: rules expect positive ones.
_TINY = sys.float_info.min


def validation_loss(score: float) -> float:
    """A loss from a validation score: squared error relative to its unit, lower is better.

    Parameters
    ----------
    score
        A PSNR in dB (not negative), which becomes the squared error ``10 ** (-score / 10)`` relative to the square of
        the data range; or, where there is no reference, the negative held-out residual, which becomes ``score ** 2``,
        relative to the variance of the noise. The two have different units: compare losses of one kind only.

    Raises
    ------
    ValueError
        If the score is so far from either that the loss is no positive number.
    """
    loss = 10 ** (-score / 10) if score >= 0 else score * score
    if not _TINY <= loss < math.inf:
        raise ValueError(f"validation_loss: score is {score}, expected a PSNR in dB or a negative residual")
    return loss


@dataclass(frozen=True)
class Weighting(ABC):
    """Weights of the sites from what they contribute; pure and deterministic.

    ``invariants`` are what the weighting promises of the plain mean with its weights, some of :data:`INVARIANTS`.
    """

    # What a constant factor on the weights does is a matter of the rule.
    invariants: ClassVar[frozenset[str]] = INVARIANTS - {"scale_free_weights"}

    def start(self) -> State:
        """The memory before round 0, tensors by name."""
        return {}

    def weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        """A positive weight for each site, not normalized, and the new memory.

        Parameters
        ----------
        contributions
            One of each participant, in any order.
        memory
            That of :meth:`start`, or of the round before.

        Raises
        ------
        ValueError
            If there is no contribution, or one lacks a score that is needed.
        """
        if not contributions:
            raise ValueError(f"{type(self).__name__}: no contributions, expected at least one")
        return self._weigh(sorted(contributions, key=lambda contribution: contribution.site), memory)

    @abstractmethod
    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]: ...


@dataclass(frozen=True)
class Samples(Weighting):
    """The number of training samples."""

    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        return {c.site: float(c.n_samples) for c in contributions}, {}


@dataclass(frozen=True)
class Uniform(Weighting):
    """All sites alike."""

    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        return {c.site: 1.0 for c in contributions}, {}


@dataclass(frozen=True)
class Softmax(Weighting):
    r"""Softmax of minus the validation loss after training, as in [ModFed]_.

    .. math:: w_s \propto \exp(-\ell_s / (T \bar\ell)), \qquad \bar\ell = \text{mean of } \ell_s

    with :math:`\ell` the :func:`validation_loss`. Relative to its mean: the squared errors themselves are so
    small that all weights would be alike.

    Parameters
    ----------
    temperature
        :math:`T`; towards 0 the best site takes all, towards infinity all count alike.

    References
    ----------
    .. [ModFed] Wu et al., Model-based federated learning for accurate MR image reconstruction from undersampled
       k-space data, 2024.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "temperature", lambda value: value > 0, "a positive number")

    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        losses = _losses(self, contributions)
        scale = self.temperature * math.fsum(losses.values()) / len(losses)
        best = min(losses.values())
        return {site: max(math.exp((best - loss) / scale), _TINY) for site, loss in losses.items()}, {}


@dataclass(frozen=True)
class Uncertainty(Weighting):
    r"""Inverse uncertainty, :math:`w_s = 1 / \ell_s`, with :math:`\ell` the :func:`validation_loss` after training.

    Our reading of [ProFed]_, which weighs and selects sites by the confidence of their predictions. Left out: an
    estimate of that confidence, whose place the squared error on validation data takes, and the selection.

    References
    ----------
    .. [ProFed] Zafar et al., Projection Guided Personalized Federated Learning for Low Dose CT Denoising, 2026.
    """

    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        return {site: 1 / loss for site, loss in _losses(self, contributions).items()}, {}


@dataclass(frozen=True)
class Fairness(Weighting):
    r"""More weight for sites that lose by the averaging, after [GAutoMRI]_.

    The gap of a site is by how many dB its validation loss is higher with the averaged parameters than with its own
    before the averaging,

    .. math:: g_s = \max(L_s^\text{averaged} - L_s^\text{own}, 0), \qquad L = 10 \log_{10} \ell,

    with :math:`\ell` the :func:`validation_loss`; of a PSNR, :math:`L` is minus the PSNR. The server learns the first
    term one round late, as the score of the next broadcast before training, and remembers the second. Then

    .. math:: w_s \leftarrow w_s + \gamma g_s / \max_t g_t

    and the weights are normalized to their sum before. They start uniform. A site that was absent keeps its weight,
    and its gap is that to its parameters of the last round in which it took part. In the memory the weights of all
    sites have mean 1, those that are returned sum to 1, and so do those to which :math:`\gamma` refers.

    Parameters
    ----------
    step
        :math:`\gamma`.

    References
    ----------
    .. [GAutoMRI] Wu et al., Generalizable Reconstruction for Accelerating MR Imaging via Federated Learning with
       Neural Architecture Search, 2024.
    """

    step: float = 0.05

    def __post_init__(self) -> None:
        check_number(self, "step", lambda value: value > 0, "a positive number")

    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        own = _scores(self, contributions, "score_after")
        averaged = _scores(self, contributions, "score_before")
        before, gaps = {}, {}
        for site in own:
            known = f"weight.{site}" in memory
            before[site] = memory[f"weight.{site}"].item() if known else 1.0
            last = memory[f"score_after.{site}"].item() if known else averaged[site]
            gaps[site] = max(_decibels(averaged[site]) - _decibels(last), 0.0)
        total, largest = math.fsum(before.values()), max(gaps.values())
        raised = {
            site: before[site] / total + (self.step * gaps[site] / largest if largest > 0 else 0.0) for site in own
        }
        scale = math.fsum(raised.values())
        weights = {site: max(value / scale, _TINY) for site, value in raised.items()}
        after = {f"weight.{site}": total * weight for site, weight in weights.items()}
        after |= {f"score_after.{site}": score for site, score in own.items()}
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in after.items()}
        return weights, {**memory, **tensors}


def _decibels(score: float) -> float:
    return 10 * math.log10(validation_loss(score))


def _losses(weighting: Weighting, contributions: Sequence[Contribution]) -> dict[str, float]:
    """Validation losses after training, of one kind."""
    scores = _scores(weighting, contributions, "score_after")
    residuals = [site for site, score in scores.items() if score < 0]
    if residuals and len(residuals) < len(scores):
        raise ValueError(
            f"{type(weighting).__name__}: {', '.join(residuals)} have no reference, the other sites do, so their "
            'validation losses differ in kind; choose the weights "samples"'
        )
    return {site: validation_loss(score) for site, score in scores.items()}


def _scores(
    weighting: Weighting, contributions: Sequence[Contribution], name: Literal["score_before", "score_after"]
) -> dict[str, float]:
    scores = {c.site: getattr(c, name) for c in contributions}
    without = [site for site, score in scores.items() if score is None]
    if without:
        raise ValueError(
            f"{type(weighting).__name__}: no validation score of {', '.join(without)}; give each site validation "
            'files, or choose the weights "samples"'
        )
    return scores
