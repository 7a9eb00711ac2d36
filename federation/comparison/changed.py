"""A preset with changed values: ``fedrecon compare --set KEY=VALUE``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..config import config_error, nearest, parse_override, parse_section
from ..recipes import NetworkSection, TrainingSection
from .arms import Budget
from .preset import Preset

#: Fields of a budget by the key of a recipe; all keys of ``[network]`` can be set, too.
_KEYS = {
    "federation.rounds": "rounds",
    "training.steps_per_round": "steps_per_round",
    "training.learning_rate": "learning_rate",
    "training.patience": "patience",
    "training.schedule": "schedule",
    "evaluation.tv_weights": "tv_weights",
}
#: Ends the name of a preset with changed values: no claim was registered for it.
CHANGED = "+set"


def with_values(preset: Preset, overrides: Sequence[str]) -> Preset:
    """The preset with another network or another training of all of its arms.

    Raises
    ------
    ConfigError
        If a key is none that all arms have in common, or a value cannot be used.
    """
    if not overrides:
        return preset
    budgets = {modality: _changed(budget, overrides) for modality, budget in preset.budgets.items()}
    return replace(preset, name=preset.name + CHANGED, budgets=budgets)


def _changed(budget: Budget, overrides: Sequence[str]) -> Budget:
    for override in overrides:
        keys, value = parse_override(override)
        key, where = ".".join(keys), f"--set {override}"
        if len(keys) == 2 and keys[0] == "network":
            section = budget.network.model_dump(exclude_unset=True) | {keys[1]: value}
            budget = replace(budget, network=parse_section(NetworkSection, section, f"{where}: network"))
        elif key in _KEYS:
            budget = replace(budget, **{_KEYS[key]: _checked(key, value, where)})
        else:
            known = (*_KEYS, *(f"network.{name}" for name in NetworkSection.model_fields))
            expected = f"network.* or one of {', '.join(_KEYS)}, which all arms have in common{nearest(key, known)}"
            raise config_error(where, "", repr(key), expected, "write the change into a recipe, and compare that")
    return budget


def _checked(key: str, value: Any, where: str) -> Any:
    """The value, checked as that of a recipe."""
    section, name = key.split(".")
    if section == "training":
        return getattr(parse_section(TrainingSection, {name: value}, f"{where}: training"), name)
    is_number = not isinstance(value, bool) and isinstance(value, int | float)
    if section == "federation":
        if not (is_number and isinstance(value, int) and value >= 1):
            raise config_error(where, key, repr(value), "a whole number from 1", "correct it")
        return value
    weights = value if isinstance(value, list) else [value]
    if not weights or not all(isinstance(weight, int | float) and weight > 0 for weight in weights):
        raise config_error(where, key, repr(value), "numbers above 0", "correct it")
    return tuple(float(weight) for weight in weights)
