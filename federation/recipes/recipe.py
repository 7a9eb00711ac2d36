"""Recipes: one TOML file per federated method, read into a checked, immutable model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, model_validator

from recon import TaskTerm

from ..config import (
    ConfigError,
    KeyPath,
    Name,
    Names,
    Section,
    assign,
    config_error,
    load_plugin,
    parse_override,
    parse_section,
    read_toml,
    resolve_plugins,
)
from .head_section import HeadSection, require_head
from .head_start import digest_of_head, pinned_head, with_head_of
from .privacy_section import PrivacySection
from .private_methods import require_private
from .recipe_library import recipe_path
from .recipe_schema import (
    CENTRALIZED,
    OWN_ARMS,
    OWN_CONSISTENCY,
    EvaluationSection,
    FederationSection,
    NetworkSection,
    ObjectiveSection,
    PersonalSection,
    ScopeSection,
    TrainingSection,
    TransformSection,
    TuningSection,
    classical_arms,
)
from .shared_noise import require_sharing
from .starting_point import digest_of_weights, pinned, trained_network, with_sizes_of
from .summable import require_summable

#: Keys of ``[network]`` that belong to a method; a comparison sets the others.
_METHOD_PARTS = (
    "norm",
    "attention",
    "condition",
    "adapter",
    "adapter_size",
    "twin",
    "site_strength",
    "correct_operator",
    "start",
)
#: Keys of ``[network]`` in which methods can differ.
_METHOD_NETWORK = (
    *_METHOD_PARTS,
    "architecture",
    "architecture_options",
    "regularizer",
    "regularizer_options",
    "consistency",
    "consistency_options",
    "ends_in",
    "combine",
    "share_cascades",
)
#: Keys of ``[network]`` that a recipe with another part of this key does not inherit.
_BELONGING = {
    "consistency": ("consistency_options", *OWN_CONSISTENCY),
    "regularizer": ("regularizer_options", "memory"),
}


def _own_arm(name: str) -> str:
    if name in {*classical_arms(), *OWN_ARMS}:
        raise ValueError("a name of no other arm of the report")
    return name


class Recipe(Section):
    """A federated method: network, local training, server, scope, and the other arms of its report.

    ``name`` is the method's arm in the report, ``paper`` its publication, ``left_out`` the parts of the paper that are
    missing, ``evidence`` the check that it is the published method. A file with ``extends = "fedavg.toml"`` holds only
    the differences. ``plugins`` are Python files, relative to the recipe, that register parts of the user; a loaded
    recipe names them by content.
    """

    name: Annotated[Name, AfterValidator(_own_arm)]
    paper: str = ""
    left_out: str = ""
    evidence: Literal["", "defining property tested", "published ordering reproduced"] = ""
    plugins: Names = ()
    network: NetworkSection = NetworkSection()
    training: TrainingSection = TrainingSection()
    federation: FederationSection = FederationSection()
    objective: ObjectiveSection = ObjectiveSection()
    scope: ScopeSection = ScopeSection()
    transform: TransformSection = TransformSection()
    privacy: PrivacySection = PrivacySection()
    personal: PersonalSection = PersonalSection()
    evaluation: EvaluationSection = EvaluationSection()
    task: HeadSection | None = None
    tuning: TuningSection = TuningSection()

    @model_validator(mode="after")
    def _parts_agree(self) -> "Recipe":
        require_head(self.task, self.network, self.objective, self.scope)
        twin = self.network.twin
        if twin != getattr(self.build_objective(), "needs_twin", False):
            found, wanted = ("true", '"mutual"') if twin else ("false", "another")
            raise ValueError(f"network.twin: found {found} with the task {self.objective.task!r}, expected {wanted}")
        if twin and (self.network.adapter != "none" or self.network.base is not None):
            raise ValueError("network.twin: found true with an adapter or a base, expected neither")
        if self.network.error_bars != (self.objective.weight("error_bars") > 0):
            found = "true without" if self.network.error_bars else "false with"
            expected = "both; set network.error_bars = true and objective.error_bars = 1.0, or neither"
            raise ValueError(f"network.error_bars: found {found} objective.error_bars, expected {expected}")
        if self.personal.nearest_code and self.network.condition == "none":
            raise ValueError("personal.nearest_code: found true without network.condition, expected a condition")
        if self.training.patience is not None and self.federation.schedule == "cyclic":
            found = f"found {self.training.patience} with federation.schedule = 'cyclic'"
            raise ValueError(f"training.patience: {found}, expected none: sites that take turns score other rounds")
        if self.privacy.secure_sum:
            require_summable(self.federation, self.transform)
        if self.privacy.noise() is not None:
            require_private(self.federation, self.objective, self.personal)
        if CENTRALIZED in self.evaluation.arms and self.privacy.noise() is not None:
            found = f"{CENTRALIZED!r} with privacy.noise_multiplier"
            raise ValueError(f"evaluation.arms: found {found}, expected one of them: that arm trains without noise")
        if self.privacy.shared_noise:
            require_sharing(self.privacy, self.training, self.federation, self.objective, self.scope, self.transform)
        return self

    def build_objective(self) -> TaskTerm:
        """The task in the loss of a site, with the loss of ``[training]`` and the keys of ``[task]``."""
        return self.objective.build_task(self.training.loss, {} if self.task is None else self.task.objective_options())

    def choices(self) -> dict[str, Any]:
        """Everything in which two methods can differ: the five choices and the network keys of a method."""
        table = self.model_dump(mode="json")
        federation = {
            key: value for key, value in table["federation"].items() if key not in ("rounds", "seed", "quorum")
        }
        network = {key: table["network"][key] for key in _METHOD_NETWORK}
        training = {key: table["training"][key] for key in ("loss", "optimizer", "momentum", "optimizer_state")}
        personal = {key: value for key, value in table["personal"].items() if key != "learning_rate"}
        chosen = {key: table[key] for key in ("objective", "scope", "transform", "privacy", "task")}
        return chosen | {"federation": federation, "network": network, "training": training, "personal": personal}

    @property
    def tuned_value(self) -> Any:
        """The recipe's own value of ``tuning.key``; None if it does not set that key."""
        value: Any = self.model_dump(mode="json")
        for key in self.tuning.key.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def tuned(self, value: Any, path: Path | str) -> "Recipe":
        """The recipe with another value of ``tuning.key``; ``path`` is its file, for messages.

        Raises
        ------
        ConfigError
            If there is no such key, or it cannot have this value.
        """
        keys, where = tuple(self.tuning.key.split(".")), f"{path}: tuning"
        table = self.model_dump(mode="json", exclude_none=True)
        assign(table, keys, value, where, path)
        return parse_section(Recipe, table, path, {keys: where})

    def digest(self) -> str:
        """SHA-256 of all values except defaults and ``[tuning]``, whatever the order of the keys.

        Weights that the network starts from count by their content, not by their name or place.
        """
        table = self._table({"tuning"})
        if (weights := digest_of_weights(self.network.base)) is not None:
            table["network"]["base"] = weights
        if self.task is not None and (weights := digest_of_head(self.task.head_weights)) is not None:
            table["task"]["head_weights"] = weights
        return _digest(table)

    def method_digest(self) -> str:
        """SHA-256 of the method: :meth:`digest` without words, seed and path of the base.

        Defaults do not count, so a key that is added later does not change it.
        """
        table = self._table({"tuning", "paper", "left_out", "evidence"})
        for part, key in (("federation", "seed"), ("network", "base"), ("task", "head_weights")):
            table.get(part, {}).pop(key, None)
        return _digest({name: value for name, value in table.items() if value != {}})

    def _table(self, exclude: set[str]) -> dict[str, Any]:
        """All values except defaults; ``validation_slices`` counts unless it is 0, as all slices were used once."""
        table = self.model_dump(mode="json", exclude_defaults=True, exclude=exclude)
        if slices := self.evaluation.validation_slices:
            table.setdefault("evaluation", {})["validation_slices"] = slices
        else:
            del table["evaluation"]["validation_slices"]
        return {name: value for name, value in table.items() if name != "evaluation" or value}

    def to_toml(self) -> str:
        """The recipe with all defaults; reads back equal."""
        # TOML has no null; None is the default of every key that can be None.
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def _digest(table: Mapping[str, Any]) -> str:
    canonical = json.dumps(table, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def load_recipe(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    network: NetworkSection | None = None,
    plugins: Sequence[Path | str] = (),
    start_from: Path | str | None = None,
) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path
        TOML file, see :class:`Recipe`, or the name of a recipe in the library.
    overrides
        Assignments such as ``"federation.rounds=20"``; the last one wins. Values are TOML or a bare word.
    network
        Replaces ``[network]`` of the recipe that extends no other, except the keys that belong to a method.
    plugins
        Further plugins, see :func:`load_plugin`.
    start_from
        Name of starter weights, a file of weights, or the folder of a run: they replace ``[network]``, except the
        adapters of the method, and are its ``base``. The head of a run starts that of the recipe, and sets its options.

    Raises
    ------
    ConfigError
        If the file, a key or a value cannot be used; the message names an override by its text.
    """
    path = recipe_path(path)
    trained = None if start_from is None else trained_network(start_from)
    table = _read_extended(path, (), trained or network)
    if trained is not None and isinstance(section := table.get("network"), dict):
        table["network"] = with_sizes_of(trained, section)
    if start_from is not None and isinstance(section := table.get("task"), dict):
        table["task"] = with_head_of(start_from, section)
    sources: dict[KeyPath, str] = {}
    parsed = [parse_override(override) for override in overrides]
    chosen = {keys[1]: value for keys, value in parsed if keys[:-1] == ("network",) and keys[-1] in _BELONGING}
    table = _without_options_of_another(table, {"network": chosen})
    for override, (keys, value) in zip(overrides, parsed, strict=True):
        assign(table, keys, value, f"--set {override}", path)
        sources = {key: text for key, text in sources.items() if key[: len(keys)] != keys}
        sources[keys] = f"--set {override}"
    if plugins or "plugins" in table:
        source = sources.get(("plugins",), path)
        names = resolve_plugins(table.get("plugins", []), Path(), source)  # of --set: relative to the working directory
        table["plugins"] = list(dict.fromkeys([*names, *(load_plugin(plugin).name for plugin in plugins)]))
    section = table.get("network")
    if isinstance(section, dict) and isinstance(base := section.get("base"), str):
        table["network"] = section | {"base": pinned(base)}
    section = table.get("task")
    if isinstance(section, dict) and isinstance(weights := section.get("head_weights"), str):
        table["task"] = section | {"head_weights": pinned_head(weights)}
    return parse_section(Recipe, table, path, sources)


def _read_extended(path: Path, below: tuple[Path, ...], network: NetworkSection | None) -> dict[str, Any]:
    """A file as a table, merged over the file that it extends; ``below`` are the files that extend it."""
    table = read_toml(path)
    if "plugins" in table:
        table["plugins"] = resolve_plugins(table["plugins"], path.parent, path)
    if "extends" not in table:
        return table if network is None else table | {"network": _replaced(table.get("network", {}), network)}
    extended = table.pop("extends")
    if not isinstance(extended, str):
        raise config_error(path, "extends", repr(extended), "a recipe file or the name of a recipe", "correct it")
    try:
        base = recipe_path(extended, beside=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: extends: {error}") from None
    if base.resolve() in (path.resolve(), *below):
        raise config_error(path, "extends", f"{extended!r}, which extends this file", "another recipe", "correct it")
    extended_table = _read_extended(base, (*below, path.resolve()), network)
    for key in ("paper", "left_out", "evidence"):  # of another method
        extended_table.pop(key, None)
    if both := [*extended_table.get("plugins", []), *table.get("plugins", [])]:
        table["plugins"] = both
    if isinstance(tuning := table.get("tuning"), dict) and "key" in tuning:
        extended_table.pop("tuning", None)  # its values belong to another key
    return _merged(_without_options_of_another(extended_table, table), table)


def _replaced(section: Any, network: NetworkSection) -> Any:
    """``network`` with those keys of a ``[network]`` section that belong to a method."""
    if not isinstance(section, dict):
        return section  # the check of the recipe refuses it
    own = {key: value for key, value in section.items() if key in _METHOD_PARTS}
    return network.model_dump(mode="json", exclude_none=True) | own


def _without_options_of_another(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` without the keys of ``[network]`` that belong to a part in place of which ``over`` chooses another."""
    below, above = base.get("network"), over.get("network")
    if not isinstance(below, dict) or not isinstance(above, dict):
        return base  # the check of the recipe refuses what is no section
    dropped = set[str]()
    for key, belonging in _BELONGING.items():
        before = below.get(key, getattr(NetworkSection(), key))
        dropped |= set(belonging) if above.get(key, before) != before else set()
    return base | {"network": {key: value for key, value in below.items() if key not in dropped}}


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``over``, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
