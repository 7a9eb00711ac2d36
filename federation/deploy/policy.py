"""The policy of a hospital: what a federation may do with its data. The site checks it before and after each round."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w
from pydantic import Field

from ..config import Names, NonNegative, Section, parse_section, read_toml

if TYPE_CHECKING:
    from ..recipes import Recipe


class PolicyError(Exception):
    """The site's policy forbids a request; the text goes to the site's own log only."""


class Policy(Section):
    """``policy.toml`` of a site; the file explains each key."""

    minimum_participants: int = Field(
        default=2, ge=1, description="Least number of sites in a round: an average of fewer reveals too much about one."
    )
    methods: Names = Field(default=("*",), description="Patterns of the names of accepted recipes.")
    may_share: Names = Field(default=("regularizers.*",), description="Patterns of the parameters that may leave.")
    may_tell: Names = Field(
        default=(), description="Patterns of other tensors that may leave: control variates, moments of features."
    )
    megabytes_per_round: NonNegative = Field(default=200.0, description="Megabytes that may leave in a round.")
    megabytes_in_total: NonNegative = Field(default=20_000.0, description="Megabytes that may leave in all runs.")
    tell_scores: bool = Field(
        default=True, description="Whether validation scores and loss may leave; if not, the last round is selected."
    )
    minimum_slices: int = Field(
        default=16, ge=1, description="Least number of training slices: fewer reveal more of single images."
    )
    minimum_steps: int = Field(default=4, ge=1, description="Least number of steps in a round, for the same reason.")
    maximum_parameters: int = Field(
        default=50_000_000, ge=1, description="Largest number of parameters of a network that `site approve` looks at."
    )
    maximum_change: NonNegative = Field(
        default=1.0,
        description="Largest relative change of a tensor from the server since the last message, or since the initial "
        "parameters; training changes about 0.5 in a round and 1 in many.",
    )
    maximum_aux: NonNegative = Field(
        default=10.0, description="The same for tensors beside the parameters: control variates, moments of features."
    )
    epsilon_budget: NonNegative = Field(
        default=10.0,
        description="Largest epsilon of the patients, all runs with differential privacy together: the site stops by "
        "itself before a round that exceeds it.",
    )
    epsilon_delta: float = Field(
        default=1e-5,
        ge=1e-10,
        lt=0.1,
        description="Delta of this budget; it must be below one in the number of patients.",
    )
    private_only: bool = Field(
        default=False, description="Whether only runs with differential privacy of patients are answered."
    )
    may_share_noise: bool = Field(
        default=False,
        description="Whether runs are answered in which this site adds only a part of the noise: their epsilon holds "
        "if the other sites add theirs, and tell the server nothing of it.",
    )

    def to_toml(self) -> str:
        """The file: each value after a comment with its meaning."""
        parts = ["# What a federation may do with this hospital's data. Changes apply from the next round on."]
        for key, value in self.model_dump(mode="json").items():
            parts.append(f"# {type(self).model_fields[key].description}\n{tomli_w.dumps({key: value}).rstrip()}")
        return "\n\n".join(parts) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Policy":
        """Read the file.

        Raises
        ------
        ConfigError
            If it is missing, or a key or value is wrong.
        """
        return parse_section(cls, read_toml(path), path)

    def check_recipe(self, recipe: "Recipe", shared: Iterable[str], aux: Iterable[str]) -> None:
        """Check a method.

        Raises
        ------
        PolicyError
            With the key of the policy that forbids it.
        """
        if not _matches(recipe.name, self.methods):
            raise PolicyError(f"methods: {recipe.name!r} is not accepted")
        if self.private_only and recipe.privacy.noise() is None:
            raise PolicyError("private_only: found a recipe without privacy.noise_multiplier, expected one with it")
        if recipe.privacy.shared_noise and not self.may_share_noise:
            raise PolicyError(
                "may_share_noise: found a recipe with privacy.shared_noise, expected one in which each site adds all "
                "of its noise; set it to true if you trust the other sites"
            )
        for key, names in (("may_share", shared), ("may_tell", aux)):
            refused = [name for name in names if not _matches(name, getattr(self, key))]
            if refused:
                raise PolicyError(f"{key}: {len(refused)} tensors may not leave, the first is {sorted(refused)[0]!r}")
        steps = recipe.training.steps_per_round
        least = max(1, round(steps * recipe.federation.least_work))
        if least < self.minimum_steps:
            raise PolicyError(f"minimum_steps: a round may have {least}, expected at least {self.minimum_steps}")

    def check_round(self, participants: int, slices: int) -> None:
        """Check a round.

        Raises
        ------
        PolicyError
            With the key of the policy that forbids it.
        """
        for key, found in (("minimum_participants", participants), ("minimum_slices", slices)):
            if found < getattr(self, key):
                raise PolicyError(f"{key}: found {found}, expected at least {getattr(self, key)}")

    def check_bytes(self, reply: int, before: int) -> None:
        """Check the size of a reply, alone and added to the bytes that left ``before``.

        Raises
        ------
        PolicyError
            With the key of the policy that forbids it.
        """
        for key, found in (("megabytes_per_round", reply), ("megabytes_in_total", before + reply)):
            if found > getattr(self, key) * 1e6:
                raise PolicyError(f"{key}: {found / 1e6:.3f} would leave, expected at most {getattr(self, key):g}")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
