"""Arms of a comparison: a recipe with the network and steps of the comparison, or training without a federation."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from recon import DATA_CONSISTENCY, MODALITIES

from ..config import config_error
from ..recipes import LIBRARY, OWN_CONSISTENCY, NetworkSection, Recipe, load_recipe, recipe_path
from .hospitals import COMPARED

Kind = Literal["federated", "local", "classical", "joint", "sequential"]


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Parameters
    ----------
    recipe
        Name of a recipe in the library, or the path of a TOML file.
    overrides
        Assignments as for ``--set``; ``{last}`` is the number of the last cascade.
    kind
        ``federated``; ``local``: every site trains alone; ``classical``: methods without training; ``joint`` and
        ``sequential``: the data of all sites are in one place, see :class:`CentralArm`.
    modalities
        Modalities in which the arm is run.
    """

    name: str
    recipe: str = "fedavg"
    overrides: tuple[str, ...] = ()
    kind: Kind = "federated"
    modalities: tuple[str, ...] = COMPARED

    @property
    def path(self) -> Path:
        """File of the recipe."""
        return Path(self.recipe) if self.recipe.endswith(".toml") else LIBRARY / f"{self.recipe}.toml"


@dataclass(frozen=True)
class Budget:
    """Network and training common to all arms of a table.

    Parts of the network that a method adds (normalization, conditions, adapters ...) come from its recipe. ``rounds``
    are the most rounds, and ``patience`` ends every arm earlier, see :class:`Stopping`; an arm whose sites take turns
    makes all rounds. ``personal_rounds`` is the length of a personal stage, None: a fifth of ``rounds``.
    """

    network: NetworkSection
    rounds: int
    steps_per_round: int
    learning_rate: float
    tv_weights: tuple[float, ...]
    patience: int | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    personal_rounds: int | None = None

    @classmethod
    def chosen(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a stored budget that are no defaults: a preset of an older version lacks later fields."""
        defaults = {field.name: field.default for field in fields(cls)}
        return {key: value for key, value in record.items() if value != defaults.get(key, MISSING)}

    def times(self, factor: int) -> "Budget":
        """The same with ``factor`` times the rounds."""
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
        """Recipe of an arm on this network, with these steps.

        Parameters
        ----------
        rate
            Factor on the learning rate.
        value
            Number of a value in the recipe's ``[tuning]``; None: the recipe's own value.

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
        # A personal stage replaces rounds, unless it is shorter than a round: then its steps are added.
        fine_tune = own.personal.steps
        if fine_tune >= self.steps_per_round:
            fine_tune = (self.personal_rounds or max(1, self.rounds // 5)) * self.steps_per_round
        rounds = self.rounds - fine_tune // self.steps_per_round
        federation = own.federation.model_copy(update={"rounds": rounds, "seed": seed})
        training = own.training.model_copy(
            update={
                "steps_per_round": self.steps_per_round,
                "learning_rate": rate * self.learning_rate,
                "batch_size": 1,
                "schedule": self.schedule,
                "patience": None if own.federation.schedule == "cyclic" else self.patience,
                "augment": None,
                "redraw": False,
            }
        )
        personal = own.personal.model_copy(update={"steps": fine_tune, "learning_rate": rate * self.learning_rate / 4})
        classical = MODALITIES[modality].baselines
        evaluation = own.evaluation.model_copy(
            update={
                "arms": classical if arm.kind == "classical" else (),
                "tv_weights": self.tv_weights,
                "tv_weights_ct": self.tv_weights,
                "validation_slices": 0,  # as the published tables; the sites of the presets have few
            }
        )
        sections = {"training": training, "federation": federation, "personal": personal, "evaluation": evaluation}
        return own.model_copy(update={"name": arm.name, "network": network, **sections})


def arm_of(path: Path | str) -> Arm:
    """Arm of a recipe, a file or a name in the library, in the modalities of its data consistency.

    Raises
    ------
    ConfigError
        If the file cannot be used.
    """
    path = recipe_path(path)
    recipe = load_recipe(path)
    if recipe.task is not None:
        expected, advice = "a recipe of a reconstruction network", "compare heads by `fedrecon evaluate` of their runs"
        raise config_error(path, "task", f"a head, {recipe.task.head}", expected, advice)
    only = getattr(DATA_CONSISTENCY[recipe.network.consistency], "only_for", "")
    return Arm(recipe.name, str(path), modalities=(only,) if only else COMPARED)


#: Keys of the network that add no module to FedAvg: LoRA and scales change weights, which FedAvg trains anyway; a twin
#: is useful with mutual learning only.
_NO_MODULES = ("adapter", "adapter_size", "base", "twin")


def with_same_modules(arm: Arm, budget: Budget, modality: str) -> Arm | None:
    """Plain FedAvg on the network of a method that adds modules to the network of the comparison.

    Added modules are shared; parameters that FedAvg keeps at the site are kept. Prompts bring their base, which trains
    too. None if the method adds no module, or differs from FedAvg in its modules only.

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
    overrides = [f"network.{key}={_written(value)}" for key, value in parts.items()]
    if parts.keys() & {"consistency", *OWN_CONSISTENCY}:
        overrides.append("scope.share=['consistency.*']")
    alike = Arm(_named_by(parts), overrides=tuple(overrides), modalities=(modality,))
    return None if budget.recipe(alike, modality, 0).choices() == own.choices() else alike


def _written(value: Any) -> str:
    """A value of a recipe as in ``--set``; options are an inline table."""
    if not isinstance(value, Mapping):
        return str(value).lower()
    return "{" + ", ".join(f"{key} = {json.dumps(option)}" for key, option in value.items()) + "}"


def _named_by(parts: Mapping[str, Any]) -> str:
    """``fedavg`` followed by the parts, or by their digest if they hold options or are longer than 64 characters."""
    written = {key: _written(value) if isinstance(value, Mapping) else value for key, value in parts.items()}
    name = "_".join(("fedavg", *(key if value is True else f"{key}_{value}" for key, value in written.items()))).lower()
    short = len(name) <= 64 and written == parts
    return name if short else f"fedavg_{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def every_recipe() -> list[Arm]:
    """Arms of all recipes in the library, by name."""
    return [arm_of(path) for path in sorted(LIBRARY.glob("*.toml"))]
