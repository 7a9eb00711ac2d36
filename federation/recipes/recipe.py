"""Recipes: one TOML file per federated method, read into a checked, immutable model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, model_validator

from ..config import (
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
from .recipe_library import recipe_path
from .recipe_schema import (
    LOCAL,
    SHARED,
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

#: Keys of ``[network]`` that belong to a method and not to the network that methods are compared on.
METHOD_PARTS = (
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
#: The same, with what some methods replace.
METHOD_NETWORK = (
    *METHOD_PARTS,
    "regularizer",
    "regularizer_options",
    "consistency",
    "consistency_options",
    "ends_in",
    "combine",
)


def _own_arm(name: str) -> str:
    if name in {*classical_arms(), LOCAL, SHARED}:
        raise ValueError("a name that no other arm of the report has")
    return name


class Recipe(Section):
    """A federated method: network, local training, server, scope and what it is compared with.

    ``name`` is the method's arm in the report, ``paper`` where it was published, ``left_out`` what of that is not here,
    ``evidence`` how we know that it is that method. A file may begin with ``extends = "fedavg.toml"`` and say only what
    differs. ``plugins`` are Python files, relative to the recipe, that register parts which it names.
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
    personal: PersonalSection = PersonalSection()
    evaluation: EvaluationSection = EvaluationSection()
    tuning: TuningSection = TuningSection()

    @model_validator(mode="after")
    def _parts_agree(self) -> "Recipe":
        twin = self.network.twin
        if twin != getattr(self.objective.build_task(self.training.loss), "needs_twin", False):
            found, wanted = ("true", '"mutual"') if twin else ("false", "another")
            raise ValueError(f"network.twin: found {found} with the task {self.objective.task!r}, expected {wanted}")
        if twin and (self.network.adapter != "none" or self.network.base is not None):
            raise ValueError("network.twin: found true with an adapter or a base, expected neither")
        if self.personal.nearest_code and self.network.condition == "none":
            raise ValueError("personal.nearest_code: found true without network.condition, expected a condition")
        return self

    def choices(self) -> dict[str, Any]:
        """The five choices and what of the network belongs to the method: all that makes two methods differ."""
        table = self.model_dump(mode="json")
        federation = {
            key: value for key, value in table["federation"].items() if key not in ("rounds", "seed", "quorum")
        }
        network = {key: table["network"][key] for key in METHOD_NETWORK}
        training = {key: table["training"][key] for key in ("loss", "optimizer", "momentum", "optimizer_state")}
        personal = {key: value for key, value in table["personal"].items() if key != "learning_rate"}
        chosen = {key: table[key] for key in ("objective", "scope", "transform")}
        return chosen | {"federation": federation, "network": network, "training": training, "personal": personal}

    @property
    def tuned_value(self) -> Any:
        """What the recipe has for the key that is tuned, None where it leaves that to a default."""
        value: Any = self.model_dump(mode="json")
        for key in self.tuning.key.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def tuned(self, value: Any, path: Path | str) -> "Recipe":
        """The recipe of the file ``path`` with another value for the key that is tuned, as ``--set`` would put it.

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
        """SHA-256 of all values but ``[tuning]`` and defaults; the order of keys in the file does not matter."""
        return _digest(self.model_dump(mode="json", exclude_defaults=True, exclude={"tuning"}))

    def method_digest(self) -> str:
        """SHA-256 of what makes it another method: neither words, the seed, nor where the base of its adapters lies.

        Defaults are left out, so that a key which is new does not change it.
        """
        table = self.model_dump(mode="json", exclude_defaults=True, exclude={"tuning", "paper", "left_out", "evidence"})
        for part, key in (("federation", "seed"), ("network", "base")):
            table.get(part, {}).pop(key, None)
        return _digest({name: value for name, value in table.items() if value != {}})

    def to_toml(self) -> str:
        """The resolved recipe, every default written out; reads back equal."""
        # TOML has no null: what is None is left out, and None is its default.
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
) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path
        TOML file, see :class:`Recipe`, or the name of a recipe in the library.
    plugins
        Python files that register parts, beside those that the recipe names, see :func:`load_plugin`.
    overrides
        Assignments such as ``"federation.rounds=20"``; the last wins. Values are TOML or a bare word.
    network
        Stands in for that of the recipe which this one extends in the end: a method brings only its own parts.

    Raises
    ------
    ConfigError
        If the file, a key or a value cannot be used; an override is named by its own text.
    """
    path = recipe_path(path)
    table = _read_extended(path, (), network)
    if plugins:
        table["plugins"] = [*table.get("plugins", ()), *(load_plugin(plugin).name for plugin in plugins)]
    sources: dict[KeyPath, str] = {}
    for override in overrides:
        keys, value = parse_override(override)
        assign(table, keys, value, f"--set {override}", path)
        sources = {key: text for key, text in sources.items() if key[: len(keys)] != keys}
        sources[keys] = f"--set {override}"
    return parse_section(Recipe, table, path, sources)


def _read_extended(path: Path, below: tuple[Path, ...], network: NetworkSection | None) -> dict[str, Any]:
    """The table of a file, over that of the file which it extends."""
    table = read_toml(path)
    names = table.get("plugins", [])
    if isinstance(names, list) and all(isinstance(name, str) for name in names) and names:
        table["plugins"] = list(resolve_plugins(names, path.parent, path))
    if "extends" not in table:
        return table if network is None else table | {"network": _standing_in(network, table.get("network"))}
    extended = table.pop("extends")
    if not isinstance(extended, str):
        raise config_error(
            path, "extends", repr(extended), "the path of a recipe file or the name of a recipe", "correct it"
        )
    base = recipe_path(extended, beside=path.parent)
    if base.resolve() in (path.resolve(), *below):
        raise config_error(path, "extends", f"{extended!r}, which extends this file", "another recipe", "correct it")
    extended_table = _read_extended(base, (*below, path.resolve()), network)
    # Another method is not of the same paper.
    for claim in ("paper", "left_out", "evidence"):
        extended_table.pop(claim, None)
    if both := [*extended_table.get("plugins", ()), *table.get("plugins", ())]:
        table["plugins"] = list(dict.fromkeys(both))
    if "key" in table.get("tuning", {}):
        extended_table.pop("tuning", None)  # its values are of another key
    return _merged(extended_table, table)


def _standing_in(network: NetworkSection, root: Any) -> dict[str, Any]:
    """A network in the place of that of a root recipe, of which only the parts stay that belong to a method."""
    own = {key: value for key, value in root.items() if key in METHOD_PARTS} if isinstance(root, dict) else {}
    return network.model_dump(mode="json", exclude_none=True) | own


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``, table by table."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
