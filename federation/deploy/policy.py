"""What a hospital lets a federation do with its data; checked at the site, before and after every round."""

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
    """Something that the site's policy forbids; the text is for the site's own log."""


class Policy(Section):
    """``policy.toml`` of a site; what each key means is told in the file itself."""

    minimum_participants: int = Field(
        default=2, ge=1, description="Sites that a round must ask: with fewer, an average says too much about one."
    )
    methods: Names = Field(default=("*",), description="Patterns of the names of recipes that are accepted.")
    may_share: Names = Field(default=("regularizers.*",), description="Patterns of the parameters that may leave.")
    may_tell: Names = Field(
        default=(), description="Patterns of tensors that may leave beside them: control variates, moments of features."
    )
    megabytes_per_round: NonNegative = Field(default=200.0, description="The most that may leave in a round.")
    megabytes_in_total: NonNegative = Field(default=20_000.0, description="The most that may leave, over all runs.")
    tell_scores: bool = Field(
        default=True, description="Whether validation scores and loss may leave; without, the last round is selected."
    )
    minimum_slices: int = Field(
        default=16, ge=1, description="Training slices that there must be: the fewer, the nearer to single images."
    )
    minimum_steps: int = Field(default=4, ge=1, description="Steps that a round must make, for the same reason.")
    maximum_change: NonNegative = Field(
        default=1.0,
        description="The most that a tensor of the server may change in a round, relative to it; training makes 0.5.",
    )

    def to_toml(self) -> str:
        """The values with what they mean."""
        parts = [
            "# What this hospital lets a federation do. A change counts from the next round on, without a restart."
        ]
        for key, value in self.model_dump(mode="json").items():
            parts.append(f"# {type(self).model_fields[key].description}\n{tomli_w.dumps({key: value}).rstrip()}")
        return "\n\n".join(parts) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Policy":
        """Read the file.

        Raises
        ------
        ConfigError
            If it is missing or holds something else.
        """
        return parse_section(cls, read_toml(path), path)

    def check_recipe(self, recipe: "Recipe", shared: Iterable[str], aux: Iterable[str]) -> None:
        """Refuse a method.

        Raises
        ------
        PolicyError
            Naming the key of the policy.
        """
        if not _matches(recipe.name, self.methods):
            raise PolicyError(f"methods: {recipe.name!r} is not accepted")
        for key, names in (("may_share", shared), ("may_tell", aux)):
            refused = [name for name in names if not _matches(name, getattr(self, key))]
            if refused:
                raise PolicyError(f"{key}: {len(refused)} tensors may not leave, the first is {sorted(refused)[0]!r}")
        steps = recipe.training.steps_per_round
        least = max(1, round(steps * recipe.federation.least_work))
        if least < self.minimum_steps:
            raise PolicyError(f"minimum_steps: a round may make {least}, expected at least {self.minimum_steps}")

    def check_round(self, participants: int, slices: int) -> None:
        """Refuse a round.

        Raises
        ------
        PolicyError
            Naming the key of the policy.
        """
        for key, found in (("minimum_participants", participants), ("minimum_slices", slices)):
            if found < getattr(self, key):
                raise PolicyError(f"{key}: found {found}, expected at least {getattr(self, key)}")

    def check_bytes(self, reply: int, before: int) -> None:
        """Refuse a reply that is too large, or too much with what left ``before``.

        Raises
        ------
        PolicyError
            Naming the key of the policy.
        """
        for key, found in (("megabytes_per_round", reply), ("megabytes_in_total", before + reply)):
            if found > getattr(self, key) * 1e6:
                raise PolicyError(f"{key}: {found / 1e6:.3f} would leave, expected at most {getattr(self, key):g}")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
