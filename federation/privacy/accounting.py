"""Privacy of the patients of a site: the epsilon of the steps that it has made."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from recon import DataError

#: Widths of the grid of privacy losses: for most runs, for many small steps, and for an epsilon that protects nothing.
_GRID, _FINE_GRID, _COARSE_GRID = 1e-3, 1e-4, 1e-2
_MANY_STEPS, _NO_PROTECTION = 1000, 100.0


@dataclass(frozen=True)
class PrivateSteps:
    """Steps of a site in which each patient takes part with one probability: the Poisson-sampled Gaussian mechanism.

    Parameters
    ----------
    steps
        Number of steps.
    probability
        Probability of a patient in a step.
    noise_multiplier
        Standard deviation of the noise in units of the clipping norm.
    shared_by
        Number of sites that add this noise together, each its part; 1: each site adds all of it.
    patients
        Training patients of the site; None: not known, as in records before this field. Epsilon does not need it.
    """

    steps: int
    probability: float
    noise_multiplier: float
    shared_by: int = 1
    patients: int | None = None

    def __post_init__(self) -> None:
        fits = self.steps >= 0 and 0 < self.probability <= 1 and 0 < self.noise_multiplier < math.inf
        if not fits or self.shared_by < 1 or (self.patients is not None and self.patients < 1):
            counts = "steps of 0 or more, patients and sites of 1 or more"
            expected = f"{counts}, a probability above 0 and at most 1, positive noise"
            raise ValueError(f"PrivateSteps: found {self}, expected {expected}")

    def without(self, sites: int) -> "PrivateSteps":
        """The steps for an observer who knows the parts of the noise that so many other sites have added.

        Raises
        ------
        ValueError
            If no part is left.
        """
        if not 0 <= sites < self.shared_by:
            raise ValueError(f"PrivateSteps: {sites} of {self.shared_by} sites are known, expected fewer")
        left = self.shared_by - sites
        noise = self.noise_multiplier * math.sqrt(left / self.shared_by)
        return replace(self, noise_multiplier=noise, shared_by=left)


def require_accounting() -> None:
    """Check that the package of the accountant is installed.

    Raises
    ------
    DataError
        If it is not.
    """
    try:
        import dp_accounting.pld  # noqa: F401
    except ImportError:
        raise DataError(
            "differential privacy: found no package dp-accounting, expected it to compute epsilon; install it with "
            "pip install 'fedrecon[privacy]'"
        ) from None


def epsilon_of(made: Iterable[PrivateSteps], delta: float) -> float:
    r"""Epsilon after some steps: training on all patients and on all but one are :math:`(\epsilon, \delta)` alike.

    An upper bound by distributions of the privacy loss (PLD [K]_), with the package dp-accounting.

    Parameters
    ----------
    delta
        Between 0 and 1; below 1 / patients to mean anything.

    Raises
    ------
    DataError
        If dp-accounting is not installed.

    References
    ----------
    .. [K] Koskela et al., Computing tight differential privacy guarantees using FFT, AISTATS 2020.
    """
    counts: Counter[tuple[float, float]] = Counter()
    for part in made:
        counts[part.probability, part.noise_multiplier] += part.steps
    counts = Counter({mechanism: steps for mechanism, steps in counts.items() if steps})
    if not 0 < delta < 1:
        raise ValueError(f"epsilon_of: delta is {delta}, expected more than 0 and less than 1")
    return _epsilon(tuple(sorted(counts.items())), delta) if counts else 0.0


@lru_cache(maxsize=256)
def _epsilon(counts: tuple[tuple[tuple[float, float], int], ...], delta: float) -> float:
    """Epsilon of steps by probability and noise multiplier."""
    require_accounting()
    from dp_accounting import (
        GaussianDpEvent,
        NeighboringRelation,
        PoissonSampledDpEvent,
        PrivacyAccountant,
        SelfComposedDpEvent,
    )
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    def by(accountant: PrivacyAccountant) -> float:
        for (probability, noise), steps in counts:
            step = PoissonSampledDpEvent(probability, GaussianDpEvent(noise))
            accountant.compose(SelfComposedDpEvent(step, steps))
        return float(accountant.get_epsilon(delta))

    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    rough = by(RdpAccountant(range(2, 65), relation))
    return by(PLDAccountant(relation, _grid(sum(steps for _, steps in counts), rough)))


def _grid(steps: int, rough: float) -> float:
    """Width of the grid for so many steps and a rough epsilon; a fine one for a large epsilon would need gigabytes."""
    if rough > _NO_PROTECTION:
        return _COARSE_GRID
    return _GRID if steps <= _MANY_STEPS else _FINE_GRID
