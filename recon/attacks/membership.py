"""Was a patient in the training data? Membership inference from losses, with intervals over patients."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Two-sided 95 % of the normal distribution.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Membership:
    """Success of an attacker who calls a patient with a low loss a member [Y]_.

    Attributes
    ----------
    auc
        Probability that a random member has a lower loss than a random non-member, ties counted half.
    low, high
        95 % interval of `auc` over patients, see :func:`auc_interval`.
    tpr
        Part of the members that are recognized at `fpr`, the largest part of wrongly accused non-members up to 1 %.
    resolution
        Smallest positive false-positive rate that so many non-members can show; above 1 %, `tpr` is that without any
        false accusation.

    References
    ----------
    .. [Y] Yeom et al., Privacy risk in machine learning: analyzing the connection to overfitting, CSF 2018. Metrics:
       Carlini et al., Membership inference attacks from first principles, IEEE S&P 2022.
    """

    members: int
    non_members: int
    auc: float
    low: float
    high: float
    tpr: float
    fpr: float
    resolution: float

    def to_json(self) -> dict[str, Any]:
        """As in ``privacy.json``."""
        return asdict(self)


def infer_membership(members: Sequence[float], non_members: Sequence[float], at_fpr: float = 0.01) -> Membership:
    """Success of membership inference from one loss per patient.

    Parameters
    ----------
    members, non_members
        Loss of every patient with and without training data in the network.
    at_fpr
        False-positive rate at which the true positives are counted.

    Raises
    ------
    ValueError
        If a group is empty or a loss is not finite.
    """
    for name, losses in (("members", members), ("non_members", non_members)):
        if not losses or not all(map(math.isfinite, losses)):
            raise ValueError(f"infer_membership: {name} are {list(losses)}, expected at least one finite loss")
    wins = sum(1.0 if m < n else 0.5 if m == n else 0.0 for m in members for n in non_members)
    auc = wins / (len(members) * len(non_members))
    low, high = auc_interval(auc, len(members), len(non_members))
    tpr, fpr = _at_fpr(members, non_members, at_fpr)
    return Membership(len(members), len(non_members), auc, low, high, tpr, fpr, 1 / len(non_members))


def auc_interval(auc: float, n_first: int, n_second: int) -> tuple[float, float]:
    r"""95 % interval of an AUC, method 5 of Newcombe [N]_.

    The values :math:`\theta` with :math:`(\hat\theta - \theta)^2 \le z^2 V(\theta)`,

    .. math:: V(\theta) = \frac{\theta (1 - \theta)}{m n}
              \left[1 + n^* \frac{1 - \theta}{2 - \theta} + n^* \frac{\theta}{1 + \theta}\right],
              \quad n^* = \frac{m + n}{2} - 1.

    Unlike DeLong's interval and the bootstrap it does not shrink to a point at an AUC of 1 with two patients.

    References
    ----------
    .. [N] Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
       Stat. Med. 25, 2006.
    """
    half = (n_first + n_second) / 2 - 1

    def inside(theta: float) -> bool:
        spread = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
        return (auc - theta) ** 2 <= _Z**2 * theta * (1 - theta) / (n_first * n_second) * spread

    return _edge(inside, auc, 0.0), _edge(inside, auc, 1.0)


def _edge(inside: Any, start: float, end: float) -> float:
    """The last value between ``start`` and ``end`` for which ``inside`` holds, by bisection."""
    near, far = start, end
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if inside(middle) else (near, middle)
    return (near + far) / 2


def _at_fpr(members: Sequence[float], non_members: Sequence[float], most: float) -> tuple[float, float]:
    """Largest part of the members below a threshold with at most so many non-members below it, and their part."""
    best = (0.0, 0.0)
    for threshold in sorted({*members, *non_members}):
        fpr = sum(loss <= threshold for loss in non_members) / len(non_members)
        if fpr <= most:
            best = (sum(loss <= threshold for loss in members) / len(members), fpr)
    return best
