"""What cannot be used with noise that the sites of a secure sum share, and why; see docs/differential-privacy.md.

The noise of one site is weak. It is enough for what leaves in the sum, where the noises of the others are, and for
nothing else: neither a second step at the site, nor a parameter that it keeps, may depend on it.
"""

import math

from recon import PENALTIES, PatientNoise, Penalty

from ..privacy import SecureSum
from .privacy_section import PrivacySection
from .recipe_schema import FederationSection, ObjectiveSection, ScopeSection, TrainingSection, TransformSection

#: Least standard deviation of the noise of one site, in steps of the integers of the sum: what a site rounds off is
#: then uniform whatever its patients, to exp(-9 pi^2) < 1e-38, and tells nothing beside the sum.
_LEAST_STEPS = 3.0


def require_sharing(
    privacy: PrivacySection,
    training: TrainingSection,
    federation: FederationSection,
    objective: ObjectiveSection,
    scope: ScopeSection,
    transform: TransformSection,
) -> None:
    """Check that the sum is all that leaves a site or stays there of its noisy gradient, and has all of the noise.

    Raises
    ------
    ValueError
        With the key, and the reason in the words of the method.
    """
    found = _unfit(training, federation, objective, scope, transform)
    if found is not None:
        key, value, expected, why = found
        raise ValueError(f"{key}: found {value} with privacy.shared_noise, expected {expected}: {why}")
    noise = privacy.noise()
    assert noise is not None  # the section is refused otherwise
    if privacy.modulus_bits != 32:
        why = "the last digits of 64 bits would show the size of a single site's numbers"
        raise ValueError(f"privacy.modulus_bits: found 64 with privacy.shared_noise, expected 32: {why}")
    most = training.learning_rate * _largest_gradient(noise.part_of(privacy.shared_by))
    if most > privacy.largest_change:
        why = "a site that refuses its own change would tell of it"
        raise ValueError(
            f"privacy.largest_change: found {privacy.largest_change:g} with privacy.shared_noise, expected "
            f"{1.06 * most:.2g} or more: {why}; or lower training.learning_rate"
        )


def _unfit(
    training: TrainingSection,
    federation: FederationSection,
    objective: ObjectiveSection,
    scope: ScopeSection,
    transform: TransformSection,
) -> tuple[str, str, str, str] | None:
    """Key, value, expected value and reason of the first setting that does not fit; None: all fit."""
    if training.steps_per_round != 1:
        why = "a second step would depend on patients through the weak noise of one site"
        return "training.steps_per_round", str(training.steps_per_round), "1", why
    if training.optimizer != "sgd" or training.momentum:
        found = f"momentum {training.momentum:g}" if training.optimizer == "sgd" else repr(training.optimizer)
        why = "noises add up in plain gradients alone; an optimizer of the server such as fedadam sees their sum"
        return "training.optimizer", found, "'sgd' without momentum", why
    if federation.weights != "uniform":
        why = "a site with a larger weight would need more noise of the others"
        return "federation.weights", repr(federation.weights), "'uniform'", why
    if federation.uses_score_after:
        why = "scores after training would tell of the update of one site"
        return "federation.server_rule", repr(federation.server_rule), "one that reads no score_after", why
    if transform.chain:
        why = "noises add up in plain sums alone; privacy.clip bounds what a patient changes"
        return "transform.chain", repr(transform.chain[0]), "none", why
    why = "a site would train from its last update, which has the weak noise of one site"
    if mixed := [*scope.mix, *scope.channels]:
        return f"scope.{'mix' if scope.mix else 'channels'}", repr(mixed[0]), "none", why
    if previous := [name for name in objective.penalties() if _needs_previous(PENALTIES[name])]:
        return f"objective.{previous[0]}", "a weight", "none", why
    return None


def _needs_previous(penalty: object) -> bool:
    return bool(getattr(penalty, "needs_previous", Penalty.needs_previous))


def _largest_gradient(noise: PatientNoise) -> float:
    """Bound of each number of a noisy gradient, exceeded with a probability below 1e-20, whoever the patients are.

    The number of drawn patients is a sum of independent draws with the mean ``patients_per_step``, bounded by
    Bernstein's inequality; the noise is bounded by ten standard deviations.
    """
    most = noise.patients_per_step + 12 * math.sqrt(noise.patients_per_step) + 50
    return noise.clip * (most + 10 * noise.noise_multiplier) / noise.patients_per_step


def require_resolution(privacy: PrivacySection, training: TrainingSection, rounds: int, secure: SecureSum) -> None:
    """Check that the noise of one site is larger than the steps of the integers of the sum.

    Else rounding would remove it from single updates, and the noises of several sites would not add up.

    Raises
    ------
    ValueError
        With the key.
    """
    noise = privacy.noise()
    if not privacy.shared_noise or noise is None:
        return
    rate = training.learning_rate_at((rounds - 1) / rounds)
    spread = rate * noise.part_of(privacy.shared_by).noise_multiplier * noise.clip / noise.patients_per_step
    if spread < (least := _LEAST_STEPS * secure.resolution):
        raise ValueError(
            f"training.learning_rate: the noise of one site is {spread:.2g} in the last round, expected {least:.2g} or "
            "more with privacy.shared_noise, as rounding to integers would remove it; raise the rate, or lower "
            "privacy.largest_change"
        )
