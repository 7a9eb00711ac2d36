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
        false accusation. The three are None over several sites, see :func:`pool_membership`.

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
    tpr: float | None
    fpr: float | None
    resolution: float | None

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
    _require_losses("infer_membership", members, non_members)
    auc = _wins(members, non_members) / (len(members) * len(non_members))
    low, high = auc_interval(auc, len(members), len(non_members))
    tpr, fpr = _at_fpr(members, non_members, at_fpr)
    return Membership(len(members), len(non_members), auc, low, high, tpr, fpr, 1 / len(non_members))


def pool_membership(sites: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Membership:
    """Success of membership inference over several sites, as the losses of members and non-members of each.

    Losses are compared within a site only, as scanners differ: the AUC is the part of all pairs of a member and a
    non-member of one site in which the member has the lower loss, ties counted half. The interval takes the success as
    equal at all sites. There is no true-positive rate, which needs one threshold for all sites.

    Raises
    ------
    ValueError
        If there is no site, a group is empty or a loss is not finite.
    """
    if not sites:
        raise ValueError("pool_membership: found no site, expected at least one")
    for members, non_members in sites:
        _require_losses("pool_membership", members, non_members)
    sizes = [(len(members), len(non_members)) for members, non_members in sites]
    auc = sum(_wins(members, non_members) for members, non_members in sites) / sum(m * n for m, n in sizes)
    low, high = _interval(auc, sizes)
    return Membership(sum(m for m, _ in sizes), sum(n for _, n in sizes), auc, low, high, None, None, None)


def _require_losses(who: str, members: Sequence[float], non_members: Sequence[float]) -> None:
    for name, losses in (("members", members), ("non_members", non_members)):
        if not losses or not all(map(math.isfinite, losses)):
            raise ValueError(f"{who}: {name} are {list(losses)}, expected at least one finite loss")


def _wins(members: Sequence[float], non_members: Sequence[float]) -> float:
    """Pairs in which the member has the lower loss, ties counted half."""
    return sum(1.0 if m < n else 0.5 if m == n else 0.0 for m in members for n in non_members)


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
    return _interval(auc, [(n_first, n_second)])


def _interval(auc: float, sizes: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The interval of :func:`auc_interval` for the pairs within sites: variances of the numbers of wins add up."""
    pairs = sum(m * n for m, n in sizes)

    def inside(theta: float) -> bool:
        variance = sum((m * n / pairs) ** 2 * _variance(theta, m, n) for m, n in sizes)
        return (auc - theta) ** 2 <= _Z**2 * variance

    return _edge(inside, auc, 0.0), _edge(inside, auc, 1.0)


def _variance(theta: float, m: int, n: int) -> float:
    """Variance of the AUC of ``m`` and ``n`` patients where it is ``theta``."""
    half = (m + n) / 2 - 1
    return theta * (1 - theta) / (m * n) * (1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta))


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
