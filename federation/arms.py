"""The arms of a comparison: a recipe with what the comparison sets, or training with all data in one place."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .recipe import Recipe, load_recipe
from .recipe_tables import NetworkTable

RECIPES = Path(__file__).resolve().parents[1] / "scripts" / "recipes"

Kind = Literal["federated", "local", "classical", "joint", "sequential"]


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Parameters
    ----------
    name
        Of the line.
    recipe
        Stem of a file in ``scripts/recipes``, or the path of a TOML file.
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
        return Path(self.recipe) if self.recipe.endswith(".toml") else RECIPES / f"{self.recipe}.toml"


@dataclass(frozen=True)
class Budget:
    """What all arms of a table have in common: the network, and how long each site trains.

    A method's own parts of the network (normalization, conditions, adapters ...) come from its recipe.
    """

    network: NetworkTable
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
            own = own.tuned(own.tuning.values[value])
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


def arm_of(path: Path) -> Arm:
    """The arm of a recipe file, named as the recipe; on the modality that its data consistency is made for.

    Raises
    ------
    ConfigError
        If the file cannot be used.
    """
    recipe = load_recipe(path)
    only_ct = recipe.network.consistency == "primal_dual"
    return Arm(recipe.name, str(path), modalities=("ct",) if only_ct else ("mri", "ct"))


#: Parts of a network that are a method's own modules. LoRA and scales are none: what they add to a network whose
#: weights train, these could do themselves.
_MODULES = ("regularizer", "consistency", "ends_in", "combine", "norm", "attention", "condition", "share_cascades")


def with_same_modules(arm: Arm) -> Arm | None:
    """Plain FedAvg on the network of a method that adds modules to it, all of them shared; None where it adds none.

    Prompts come with their base, which trains here like all else.

    Raises
    ------
    ConfigError
        If the recipe cannot be used.
    """
    plain = NetworkTable()
    network = load_recipe(arm.path, arm.overrides, network=plain).network
    parts = {key: getattr(network, key) for key in _MODULES if getattr(network, key) != getattr(plain, key)}
    if network.adapter == "prompt":
        parts["adapter"] = "prompt"
    if not parts or network.twin:  # a twin without mutual learning is a network that nobody asks
        return None
    overrides = [f"network.{key}={str(value).lower()}" for key, value in parts.items()]
    if "adapter" in parts:
        overrides.append(f"network.adapter_size={network.adapter_size}")
    if "consistency" in parts:
        overrides.append("scope.share=['consistency.*']")
    name = "_".join(key if value is True else f"{key}_{value}" for key, value in parts.items())
    return Arm(f"fedavg_{name}", overrides=tuple(overrides), modalities=arm.modalities)


def every_recipe() -> list[Arm]:
    """The arms of all recipes that come with fedrecon, by name."""
    return [arm_of(path) for path in sorted(RECIPES.glob("*.toml"))]
