r"""Calibrated error bars: how far an image may be from the truth, pixel by pixel, with a coverage that holds at a site.

A network with :class:`recon.ErrorBars` gives a half-width w per pixel. Its size is relative: calibration finds the
factor f with which the interval :math:`[x - f w, x + f w]` holds the truth in the wanted part of the pixels of the
object. It is split conformal prediction, with people in place of points: pixels of a person are not independent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from .errors import FACTORS, PersonErrors, Values


@dataclass(frozen=True, eq=False)
class CoverageCurve:
    """Coverage at a site for every factor in :data:`FACTORS`, which is what a site tells the federation.

    Parameters
    ----------
    people
        Number of people.
    mean
        Mean over people of the part of the pixels whose error is at most the factor times the half-width.
    variance
        Variance over people, without bias; zero for one person.
    """

    people: int
    mean: Values
    variance: Values

    @classmethod
    def of(cls, people: Sequence[Values]) -> "CoverageCurve":
        """The curve of a site from those of its people."""
        stacked = np.stack(people)
        variance = stacked.var(0, ddof=1) if len(stacked) > 1 else np.zeros(len(FACTORS))
        return cls(len(stacked), stacked.mean(0), variance)

    def factor(self, coverage: float) -> float:
        """The smallest factor with this coverage, by linear interpolation."""
        return _factor(self.mean, coverage)


@dataclass(frozen=True, eq=False)
class SiteCurves:
    """What a site tells the federation: coverage of its half-widths, and of constant intervals, by factor.

    Parameters
    ----------
    half_widths
        Of the half-widths, in the object.
    constant, constant_image
        Of constant intervals, in the object and in the whole image.
    target
        Coverage of these people for which a person who was left out has the wanted one, see :func:`left_out_target`.
    """

    half_widths: CoverageCurve
    constant: CoverageCurve
    constant_image: CoverageCurve
    target: float

    @classmethod
    def of(cls, people: Sequence[PersonErrors], coverage: float) -> "SiteCurves":
        """The curves of a site from the errors of its people."""
        inside = [person.inside.covered for person in people]
        return cls(
            CoverageCurve.of(inside),
            CoverageCurve.of([person.inside.covered_by_constant for person in people]),
            CoverageCurve.of([person.image.covered_by_constant for person in people]),
            left_out_target(inside, coverage),
        )


def left_out_target(people: Sequence[Values], coverage: float) -> float:
    """Coverage to aim at, so that people who do not take part in the calibration have the wanted one in the mean.

    Coverage grows ever slower with the factor: a factor that is too small by chance loses more than one that is too
    large gains. So each person is left out in turn, and the factor comes from the others.

    Parameters
    ----------
    people
        Coverage by factor of each person.

    Returns
    -------
        At least ``coverage``, at most halfway from it to 1; ``coverage`` for one person.
    """
    if len(people) < 2:
        return coverage
    total = np.sum(people, axis=0)
    others = [(total - curve) / (len(people) - 1) for curve in people]

    def reached(target: float) -> float:
        pairs = zip(people, others, strict=True)
        return float(np.mean([_at(curve, _factor(rest, target)) for curve, rest in pairs]))

    low, high = coverage, (1 + coverage) / 2
    if reached(low) >= coverage or reached(high) < coverage:
        return low if reached(low) >= coverage else high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= coverage else (middle, high)
    return high


@dataclass(frozen=True)
class ErrorBarCalibration:
    """Factor of the half-widths at a site, and where it is from.

    Parameters
    ----------
    coverage
        Part of the pixels of the object whose error the intervals should hold.
    factor
        Factor of the half-widths.
    constant, constant_image
        Half-width of a constant interval with this coverage in the object, and in the whole image, for comparison; in
        parts of the brightest pixel of the references.
    people
        People of the site whose scans it is from.
    own_weight
        Weight of the site's own curve, 0 to 1; the rest is that of all sites.
    standard_error
        Of the coverage, from the spread between the people of the calibration; 0 for one person.
    """

    coverage: float
    factor: float
    constant: float
    constant_image: float
    people: int
    own_weight: float
    standard_error: float


def calibrate_error_bars(curves: Mapping[str, "SiteCurves"], coverage: float) -> dict[str, ErrorBarCalibration]:
    r"""Calibrate the error bars of all sites, each for itself, with the help of the others where people are few.

    The curve of a site is its own, with the weight :math:`\tau^2 / (\tau^2 + \sigma^2 / n)`, plus the mean of all:
    :math:`\sigma^2` is the variance between people of a site, :math:`\tau^2` that between sites beyond it, and n the
    number of people. A site that differs from the others and has many people keeps its own curve; where sites are
    alike, all share one. Pooling alone would miss the wanted coverage at every site that differs.

    The coverage is that of the mean over people like those of the calibration, who are left out in turn for it
    (:func:`left_out_target`). For few people this is an estimate, not a guarantee: with 10 people of spread 0.05 its
    standard error is 0.016.

    Parameters
    ----------
    curves
        What every site tells.
    coverage
        Wanted coverage, between 0 and 1.

    Raises
    ------
    ValueError
        If there is no site, or the coverage is not between 0 and 1.

    References
    ----------
    .. [A] Angelopoulos et al., Image-to-image regression with distribution-free uncertainty quantification and
       applications in imaging, ICML 2022.
    .. [L] Lu et al., Federated conformal predictors for distributed uncertainty quantification, ICML 2023.
    .. [E] Efron and Morris, Data analysis using Stein's estimator and its generalizations, JASA 70, 1975.
    """
    if not curves:
        raise ValueError("calibrate_error_bars: got no site, expected at least one")
    if not 0 < coverage < 1:
        raise ValueError(f"calibrate_error_bars: coverage is {coverage}, expected a number between 0 and 1")
    targets = {site: told.target for site, told in curves.items()}
    factors, weights = _shrunk({site: told.half_widths for site, told in curves.items()}, coverage, targets)
    constants, _ = _shrunk({site: told.constant for site, told in curves.items()}, coverage)
    images, _ = _shrunk({site: told.constant_image for site, told in curves.items()}, coverage)
    return {
        site: ErrorBarCalibration(
            coverage,
            factors[site],
            constants[site],
            images[site],
            told.half_widths.people,
            weights[site],
            math.sqrt(_at(told.half_widths.variance, factors[site]) / told.half_widths.people),
        )
        for site, told in curves.items()
    }


def _shrunk(
    curves: Mapping[str, CoverageCurve], coverage: float, targets: Mapping[str, float] | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Factor of every site, and the weight of its own curve."""
    means = np.stack([curve.mean for curve in curves.values()])
    pooled = means.mean(0)
    at = int(np.searchsorted(pooled, coverage).clip(0, len(FACTORS) - 1))
    known = [curve for curve in curves.values() if curve.people > 1]
    within = sum((c.people - 1) * c.variance[at] for c in known) / sum(c.people - 1 for c in known) if known else None
    factors, weights = {}, {}
    for site, curve in curves.items():
        if len(curves) == 1:
            weight = 1.0
        elif within is None:
            weight = 0.5  # one person at each site: nothing tells people from sites
        else:
            noise = np.mean([within / c.people for c in curves.values()])
            between = max(0.0, float(means[:, at].var(ddof=1) - noise))
            spread = between + within / curve.people
            weight = between / spread if spread > 0 else 1.0
        target = coverage if targets is None else targets[site]
        factors[site] = _factor(weight * curve.mean + (1 - weight) * pooled, target)
        weights[site] = float(weight)
    return factors, weights


def _factor(curve: Values, coverage: float) -> float:
    """The smallest factor at which a curve reaches a coverage; linear in the logarithm between two factors."""
    at = int(np.searchsorted(curve, coverage))
    if at >= len(FACTORS):
        return float(FACTORS[-1])
    if at == 0:
        return float(FACTORS[0])
    below, above = curve[at - 1], curve[at]
    part = (coverage - below) / (above - below)
    return float(FACTORS[at - 1] * (FACTORS[at] / FACTORS[at - 1]) ** part)


def coverage_scores(found: Mapping[str, PersonErrors], calibration: ErrorBarCalibration) -> dict[str, Any]:
    """Coverage and width of calibrated error bars on other people, as JSON values.

    Returns
    -------
        ``coverage`` in the object, the mean over people, and its 95 % ``interval`` (Student's t over the people of test
        and calibration, cut at 0 and 1: the coverage that others would find; None for one person); ``coverage_image``
        in the whole image. ``half_width`` and ``constant_half_width`` are means in the object in parts of the brightest
        pixel, ``..._image`` the same in the whole image. ``curve``: mean half-width and mean error of ten groups of
        pixels.
    """
    people = list(found.values())
    covered = np.array([_at(person.inside.covered, calibration.factor) for person in people])
    groups = np.mean([person.groups for person in people], axis=0)
    interval = None
    if len(people) > 1:
        error = math.hypot(float(covered.std(ddof=1)) / math.sqrt(len(people)), calibration.standard_error)
        reach = float(student.ppf(0.975, len(people) - 1 + max(0, calibration.people - 1))) * error
        interval = [max(0.0, float(covered.mean()) - reach), min(1.0, float(covered.mean()) + reach)]
    return {
        "people": len(people),
        "wanted": calibration.coverage,
        "coverage": float(covered.mean()),
        "interval": interval,
        "coverage_image": float(np.mean([_at(person.image.covered, calibration.factor) for person in people])),
        "half_width": calibration.factor * float(np.mean([person.inside.half_width for person in people])),
        "half_width_image": calibration.factor * float(np.mean([person.image.half_width for person in people])),
        "constant_half_width": calibration.constant,
        "constant_half_width_image": calibration.constant_image,
        "constant_coverage": float(
            np.mean([_at(person.inside.covered_by_constant, calibration.constant) for person in people])
        ),
        "calibrated_on": calibration.people,
        "own_weight": calibration.own_weight,
        "curve": {"half_width": (calibration.factor * groups[0]).tolist(), "error": groups[1].tolist()},
    }


def _at(curve: Values, factor: float) -> float:
    return float(np.interp(math.log(factor), np.log(FACTORS), curve))
