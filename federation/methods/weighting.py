"""Weights of the sites in the server's mean: one class per weighting; its fields are the options in a recipe."""

import logging
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..serialization import State
from .server_rule import INVARIANTS, Contribution, check_number

logger = logging.getLogger(__name__)

# Lower bound of a weight: server rules expect positive weights.
_TINY = sys.float_info.min


def validation_loss(score: float) -> float:
    """Validation loss, a squared error, from a validation score; lower is better.

    Parameters
    ----------
    score
        With references, a PSNR in dB, not negative: the loss is the squared error ``10 ** (-score / 10)``, relative to
        the square of the data range. Without, the negative held-out residual: the loss is ``score ** 2``, relative to
        the variance of the noise. Compare losses of one kind only: their units differ.

    Raises
    ------
    ValueError
        If the loss is not a positive finite number.
    """
    loss = 10 ** (-score / 10) if score >= 0 else score * score
    if not _TINY <= loss < math.inf:
        raise ValueError(f"validation_loss: score is {score}, expected a PSNR in dB or a negative residual")
    return loss


def decibels(score: float) -> float:
    """A PSNR, or minus the held-out residual in dB; higher is better."""
    return score if score >= 0 else -20 * math.log10(max(-score, _TINY))


@dataclass(frozen=True)
class Weighting(ABC):
    """Weights of the sites, from their contributions; pure and deterministic.

    A subclass writes :meth:`_weigh`. ``invariants`` declares the :data:`INVARIANTS` of the mean with these weights.
    One that does not look at ``score_after`` sets ``uses_score_after = False``: sites then validate once per round.
    """

    uses_score_after: ClassVar[bool] = True
    # The effect of a constant factor on the weights depends on the rule.
    invariants: ClassVar[frozenset[str]] = INVARIANTS - {"scale_free_weights"}

    def start(self) -> State:
        """The memory before round 0, tensors by name."""
        return {}

    def weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        """A positive weight per site, not normalized, and the new memory.

        Parameters
        ----------
        contributions
            One per participant, in any order.
        memory
            Memory of :meth:`start` or of the round before.

        Raises
        ------
        ValueError
            Without contributions, or if one lacks a score that the weighting needs.
        """
        if not contributions:
            raise ValueError(f"{type(self).__name__}: no contributions, expected at least one")
        return self._weigh(sorted(contributions, key=lambda contribution: contribution.site), memory)

    def known_weight(self, n_samples: int) -> float | None:
        """Weight of a site by its number of training samples, for a secure sum; None if more decides."""
        return None

    @abstractmethod
    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]: ...


@dataclass(frozen=True)
class Samples(Weighting):
    """Weight by the number of training samples."""

    uses_score_after: ClassVar[bool] = False

    def known_weight(self, n_samples: int) -> float:
        return float(n_samples)

    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        return {c.site: float(c.n_samples) for c in contributions}, {}


@dataclass(frozen=True)
class Uniform(Weighting):
    """Equal weights."""

    uses_score_after: ClassVar[bool] = False

    def known_weight(self, n_samples: int) -> float:
        return 1.0

    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        return {c.site: 1.0 for c in contributions}, {}


@dataclass(frozen=True)
class Softmax(Weighting):
    r"""Softmax of minus the validation loss after training, as in [ModFed]_.

    .. math:: w_s \propto \exp(-\ell_s / (T \bar\ell)), \qquad \bar\ell = \text{mean of } \ell_s

    with :math:`\ell` the :func:`validation_loss`. It is divided by its mean because squared errors are so small that
    all weights would be nearly equal.

    Parameters
    ----------
    temperature
        :math:`T`; towards 0, only the best site counts; towards infinity, weights are equal.

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

    After [ProFed]_, which weighs and selects sites by the confidence of their predictions. Here the squared error on
    validation data stands for that confidence, and no site is left out.

    References
    ----------
    .. [ProFed] Zafar et al., Projection Guided Personalized Federated Learning for Low Dose CT Denoising, 2026.
    """

    def _weigh(self, contributions: Sequence[Contribution], memory: State) -> tuple[dict[str, float], State]:
        return {site: 1 / loss for site, loss in _losses(self, contributions).items()}, {}


@dataclass(frozen=True)
class Fairness(Weighting):
    r"""More weight for sites whose score falls by the averaging, after [GAutoMRI]_.

    The gap of a site is the increase of its validation loss, in dB, from its trained parameters to their average with
    the other sites,

    .. math:: g_s = \max(L_s^\text{averaged} - L_s^\text{trained}, 0), \qquad L = 10 \log_{10} \ell,

    with :math:`\ell` the :func:`validation_loss`; :math:`-L` are the :func:`decibels`. The first term is known one
    round later, as the site's score of the next broadcast before training; the second is stored until then. Then

    .. math:: w_s \leftarrow w_s + \gamma g_s / \max_t g_t,

    and the weights are normalized to their previous sum. They start uniform. An absent site keeps its weight; its gap
    refers to its trained parameters of the last round in which it took part. :math:`\gamma` refers to weights that sum
    to 1, as the returned ones do; stored weights have mean 1.

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
        trained = _scores(self, contributions, "score_after")
        averaged = _scores(self, contributions, "score_before")
        before, gaps = {}, {}
        for site in trained:
            known = f"weight.{site}" in memory
            before[site] = memory[f"weight.{site}"].item() if known else 1.0
            last = memory[f"score_after.{site}"].item() if known else averaged[site]
            gaps[site] = max(decibels(last) - decibels(averaged[site]), 0.0)
        total, largest = math.fsum(before.values()), max(gaps.values())
        raised = {
            site: before[site] / total + (self.step * gaps[site] / largest if largest > 0 else 0.0) for site in trained
        }
        scale = math.fsum(raised.values())
        weights = {site: max(value / scale, _TINY) for site, value in raised.items()}
        after = {f"weight.{site}": total * weight for site, weight in weights.items()}
        after |= {f"score_after.{site}": score for site, score in trained.items()}
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in after.items()}
        return weights, {**memory, **tensors}


def limit_share(weights: Mapping[str, float], most: float) -> dict[str, float]:
    """Weights of which one site has at most the part ``most``; equal to the given ones if none has more.

    A site states its number of samples and its scores, which decide its weight. Of two sites one always has half:
    there the limit lies halfway between ``most`` and 1. A site alone has no limit.

    Parameters
    ----------
    most
        0.5 to 1; 1 is no limit.
    """
    limited = dict(weights)
    part = (1 + most) / 2 if len(weights) == 2 else most
    if len(weights) < 2 or part >= 1:
        return limited
    site = max(sorted(weights), key=lambda name: weights[name])
    others = math.fsum(weight for name, weight in weights.items() if name != site)
    bound = others * part / (1 - part)
    if weights[site] > bound:
        share = weights[site] / (weights[site] + others)
        logger.warning("site %s has %.1f %% of the weight, counted as %.0f %%", site, 100 * share, 100 * part)
        limited[site] = bound
    return limited


def _losses(weighting: Weighting, contributions: Sequence[Contribution]) -> dict[str, float]:
    """Validation losses after training, all of one kind."""
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
