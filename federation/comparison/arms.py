"""The arms of a comparison: a recipe with what the comparison sets, or training with all data in one place."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..recipes import LIBRARY, NetworkSection, Recipe, load_recipe, recipe_path

Kind = Literal["federated", "local", "classical", "joint", "sequential"]


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Parameters
    ----------
    name
        Of the line.
    recipe
        Name of a recipe in the library, or the path of a TOML file.
    overrides
        Assignments as of ``--set``; ``{last}`` is the number of the last cascade.
    kind
        ``federated``; ``local``, every site on its own; ``classical``, methods without training; ``joint`` and
        ``sequential`` have the data of all sites in one place, see :class:`CentralArm`.
    modalities
        Where the arm makes sense.
    """

    name: str
    recipe: str = "fedavg"
    overrides: tuple[str, ...] = ()
    kind: Kind = "federated"
    modalities: tuple[str, ...] = ("mri", "ct")

    @property
    def path(self) -> Path:
        """The recipe's file."""
        return Path(self.recipe) if self.recipe.endswith(".toml") else LIBRARY / f"{self.recipe}.toml"


@dataclass(frozen=True)
class Budget:
    """What all arms of a table have in common: the network, and how long each site trains.

    A method's own parts of the network (normalization, conditions, adapters ...) come from its recipe.
    """

    network: NetworkSection
    rounds: int
    steps_per_round: int
    learning_rate: float
    tv_weights: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps of every site in every federated and local arm."""
        return self.rounds * self.steps_per_round

    def times(self, factor: int) -> "Budget":
        """So many times the rounds."""
        return replace(self, rounds=self.rounds * factor)

    def recipe(
        self,
        arm: Arm,
        modality: str,
        seed: int,
        *,
        base: Path | None = None,
        rate: float = 1.0,
        value: int | None = None,
    ) -> Recipe:
        """The recipe of an arm, on this network and within this budget.

        ``rate`` times its learning rate; ``value`` counts those of its ``[tuning]``, None is its own.

        Raises
        ------
        ConfigError
            If a file or an override cannot be used.
        """
        last = self.network.cascades - 1
        overrides = [override.replace("{last}", str(last)) for override in arm.overrides]
        own = load_recipe(arm.path, overrides, network=self.network)
        if value is not None:
            own = own.tuned(own.tuning.values[value], arm.path)
        network = own.network
        if network.adapter != "none":
            network = network.model_copy(update={"base": None if base is None else str(base)})
        # A personal stage is made within the budget, unless it is shorter than a round: then it comes on top.
        fine_tune = own.personal.steps
        if fine_tune >= self.steps_per_round:
            fine_tune = max(1, self.rounds // 5) * self.steps_per_round
        rounds = self.rounds - fine_tune // self.steps_per_round
        federation = own.federation.model_copy(update={"rounds": rounds, "seed": seed})
        training = own.training.model_copy(
            update={
                "steps_per_round": self.steps_per_round,
                "learning_rate": rate * self.learning_rate,
                "batch_size": 1,
                "schedule": "cosine",
                "augment": None,
            }
        )
        personal = own.personal.model_copy(update={"steps": fine_tune, "learning_rate": rate * self.learning_rate / 4})
        classical = ("zero_filled", "tv") if modality == "mri" else ("fbp", "tv")
        evaluation = own.evaluation.model_copy(
            update={
                "arms": classical if arm.kind == "classical" else (),
                "tv_weights": self.tv_weights,
                "tv_weights_ct": self.tv_weights,
            }
        )
        tables = {
            "name": arm.name,
            "network": network,
            "training": training,
            "federation": federation,
            "personal": personal,
            "evaluation": evaluation,
        }
        return own.model_copy(update=tables)


def arm_of(path: Path | str) -> Arm:
    """The arm of a recipe, a file or a name in the library; for CT alone where its data consistency is.

    Raises
    ------
    ConfigError
        If the file cannot be used.
    """
    path = recipe_path(path)
    recipe = load_recipe(path)
    only_ct = recipe.network.consistency == "primal_dual"
    return Arm(recipe.name, str(path), modalities=("ct",) if only_ct else ("mri", "ct"))


#: What of a network is no module of its own: LoRA and scales change weights, which FedAvg trains anyway; a twin without
#: mutual learning is nothing that anybody asks about.
_NO_MODULES = ("adapter", "adapter_size", "base", "twin")


def with_same_modules(arm: Arm, budget: Budget, modality: str) -> Arm | None:
    """Plain FedAvg on the network of a method that adds modules to that of the comparison.

    What is added is shared, what FedAvg keeps is kept; prompts come with their base, which trains here like all else.
    None where a method adds nothing, or is nothing but that.

    Raises
    ------
    ConfigError
        If the recipe cannot be used.
    """
    plain, own = (budget.recipe(each, modality, 0) for each in (Arm("fedavg"), arm))
    network = own.network
    parts = {
        key: getattr(network, key)
        for key in NetworkSection.model_fields
        if key not in _NO_MODULES and getattr(network, key) != getattr(plain.network, key)
    }
    if network.adapter == "prompt":
        parts |= {"adapter": "prompt", "adapter_size": network.adapter_size}
    if not parts or network.twin:
        return None
    overrides = [f"network.{key}={str(value).lower()}" for key, value in parts.items()]
    if parts.keys() & {"consistency", "consistency_ct"}:
        overrides.append("scope.share=['consistency.*']")
    alike = Arm(_named_by(parts), overrides=tuple(overrides), modalities=(modality,))
    return None if budget.recipe(alike, modality, 0).choices() == own.choices() else alike


def _named_by(parts: Mapping[str, Any]) -> str:
    """``fedavg`` with the parts, by their digest where that is no name any more."""
    name = "_".join(("fedavg", *(key if value is True else f"{key}_{value}" for key, value in parts.items()))).lower()
    return name if len(name) <= 64 else f"fedavg_{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def every_recipe() -> list[Arm]:
    """The arms of all recipes that come with fedrecon, by name."""
    return [arm_of(path) for path in sorted(LIBRARY.glob("*.toml"))]
