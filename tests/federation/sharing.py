"""Overrides of a recipe in which the sites of a secure sum share the noise."""

from collections.abc import Iterable

#: Of ``fedavg``: two sites or more have all of the noise.
SHARED = (
    "privacy.secure_sum=true", "privacy.threshold=2", "privacy.shared_noise=true", "privacy.clip=0.5",
    "privacy.noise_multiplier=2.0", "privacy.patients_per_step=1", "training.steps_per_round=1",
    "training.optimizer=sgd", "training.learning_rate=0.01", "federation.weights=uniform",
    "scope.freeze=['consistency.*']",
)  # fmt: skip


def without(key: str, overrides: Iterable[str] = SHARED) -> list[str]:
    """The overrides but for that of a key."""
    return [override for override in overrides if not override.startswith(f"{key}=")]
