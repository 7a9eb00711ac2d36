"""Section ``[privacy]`` of a recipe: secure sum and differential privacy of patients."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from recon import PatientNoise

from ..config import Name, Section


def _word_size(bits: int) -> int:
    if bits not in (32, 64):
        raise ValueError("32 or 64")
    return bits


class SummedSite(Section):
    """A deployed site in a secure sum: training slices and public key, from ``fedrecon deploy site roster``."""

    slices: int = Field(ge=1)
    key: str = Field(pattern=r"^[0-9a-f]{64}$")


#: Keys of ``[privacy]`` of the noise in training, and those of them that have no default.
_NOISE_KEYS = ("clip", "noise_multiplier", "patients_per_step", "slices_per_patient", "delta")
_NEEDED = _NOISE_KEYS[:3]


class PrivacySection(Section):
    """What the server may learn. ``secure_sum``: the sum of the sites' changes, no single one.

    ``modulus_bits`` are the bits of a number on the way, ``largest_change`` its largest magnitude, ``threshold`` the
    least number of sites in a sum; None: just above half. ``sites`` are the deployed sites by name.

    ``clip``, ``noise_multiplier`` and ``patients_per_step`` together: sites train with differential privacy of
    patients, see :class:`recon.PatientNoise`; epsilon is stated at ``delta``. ``shared_noise``: each site adds a part
    of the noise, so that every sum of ``threshold`` sites or more has all of it.
    """

    secure_sum: bool = False
    modulus_bits: Annotated[int, AfterValidator(_word_size)] = 32
    largest_change: float = Field(default=4.0, gt=0, le=1e6)
    threshold: int | None = Field(default=None, ge=2)
    sites: dict[Name, SummedSite] = Field(default_factory=dict)
    clip: float | None = Field(default=None, gt=0, le=1e6)
    noise_multiplier: float | None = Field(default=None, ge=0.3, le=1e4)
    patients_per_step: int | None = Field(default=None, ge=1)
    slices_per_patient: int | None = Field(default=None, ge=1)
    shared_noise: bool = False
    delta: float = Field(default=1e-5, ge=1e-10, lt=0.1)

    def noise(self) -> PatientNoise | None:
        """How the steps become private for whoever sees sums of the sites, or one site that adds all; None: not."""
        if self.clip is None or self.noise_multiplier is None or self.patients_per_step is None:
            return None
        return PatientNoise(self.clip, self.noise_multiplier, self.patients_per_step, self.slices_per_patient)

    @property
    def shared_by(self) -> int:
        """Number of sites that add the noise together; 1: each site adds all of it."""
        return self.threshold if self.shared_noise and self.threshold is not None else 1

    @model_validator(mode="after")
    def _used(self) -> "PrivacySection":
        chosen = self.model_dump(exclude_defaults=True)
        if not self.secure_sum and chosen.keys() - set(_NOISE_KEYS):
            raise ValueError("secure_sum: found false with options of it, expected true")
        missing = [key for key in _NEEDED if key not in chosen]
        if missing and chosen.keys() & set(_NOISE_KEYS):
            found = ", ".join(sorted(chosen.keys() & set(_NOISE_KEYS)))
            raise ValueError(f"{missing[0]}: missing key beside {found}; expected {', '.join(_NEEDED)} together")
        if self.shared_noise and self.noise() is None:
            raise ValueError(f"shared_noise: found true without noise, expected {', '.join(_NEEDED)}")
        if self.shared_noise and self.threshold is None:
            why = "each site adds the noise divided by its square root"
            raise ValueError(f"threshold: missing key beside shared_noise; expected the least sites in a sum: {why}")
        return self
