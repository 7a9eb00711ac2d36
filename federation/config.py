"""Recipes: one TOML file per published method, read into a checked, immutable model."""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from recon import CLASSICAL, DATA_CONSISTENCY, LOSSES, REGULARIZERS, Augmentation

from .errors import ConfigError, config_error
from .server_rules import SERVER_RULES
from .tables import KeyPath, Table, one_of, parse_table, read_toml

LOCAL = "local"
#: The arm of the shared network before the personal stage.
SHARED = "shared"

Names = Annotated[tuple[str, ...], Field(strict=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def safe_name(value: str) -> str:
    """Check a name that becomes a folder, a file name and a key of the report.

    Raises
    ------
    ValueError
        If it is not 1 to 64 lower-case letters, digits, ``-`` and ``_``, the first a letter or digit.
    """
    if not _NAME.fullmatch(value):
        raise ValueError("1 to 64 lower-case letters, digits, - and _, the first a letter or digit")
    return value


Name = Annotated[str, AfterValidator(safe_name)]


class NetworkTable(Table):
    """The unrolled network. ``channels`` and ``depth`` are those of the regularizer.

    ``depth`` counts the levels of the U-Net or the layers of the plain CNN. ``consistency_ct`` is that of CT
    sites where it differs from ``consistency``. ``site_strength`` lets each site learn how far it follows the
    regularizer.
    """

    cascades: int = Field(default=5, ge=1, le=100)
    regularizer: Annotated[str, AfterValidator(one_of(REGULARIZERS))] = "unet"
    channels: int = Field(default=16, ge=1, le=4096)
    depth: int = Field(default=2, ge=1, le=100)
    consistency: Annotated[str, AfterValidator(one_of(DATA_CONSISTENCY))] = "gradient"
    consistency_ct: Annotated[str, AfterValidator(one_of(DATA_CONSISTENCY))] | None = None
    combine: Literal["sequence", "sum"] = "sequence"
    site_strength: bool = False
    ends_in: Literal["regularizer", "consistency"] = "regularizer"
    share_cascades: bool = False

    def consistency_of(self, modality: str) -> str:
        """The data consistency of a site."""
        return self.consistency_ct if modality == "ct" and self.consistency_ct is not None else self.consistency

    @model_validator(mode="after")
    def _deep_enough(self) -> "NetworkTable":
        if self.regularizer == "cnn" and self.depth < 2:
            raise ValueError(f"depth: found {self.depth}, expected at least 2 layers for the cnn")
        return self


class AugmentTable(Table):
    """Augmentation of the image before the operator, the fields of :class:`recon.Augmentation`."""

    flip: bool = True
    max_rotation_deg: float = Field(default=10.0, ge=0, le=180)
    scale: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 1.1)
    probability: Fraction = 0.8

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentTable":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: found {list(self.scale)}, expected [low, high] with 0 < low <= high")
        return self


def _switch(value: Any) -> Any:
    """``true`` is the defaults, ``false`` is none."""
    return {} if value is True else None if value is False else value


class TrainingTable(Table):
    """What every site does in a round. ``cosine`` lets the learning rate fall to a hundredth over the rounds."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    batch_size: int = Field(default=1, ge=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    steps_per_round: int = Field(default=20, ge=1)
    loss: Annotated[str, AfterValidator(one_of(LOSSES))] = "l1"
    optimizer: Literal["adam"] = "adam"
    optimizer_state: Literal["keep", "reset"] = "keep"
    augment: Annotated[AugmentTable | None, BeforeValidator(_switch)] = None

    def augmentation(self) -> Augmentation | None:
        """The augmentation of the training slices, None where the recipe has none."""
        return None if self.augment is None else Augmentation(**self.augment.model_dump())


class FederationTable(Table):
    """What the server does. ``participation`` is the fraction of sites that take part in a round."""

    rounds: int = Field(default=10, ge=1)
    weights: Literal["samples", "uniform"] = "samples"
    participation: float = Field(default=1.0, gt=0, le=1)
    server_rule: Annotated[str, AfterValidator(one_of(SERVER_RULES))] = "mean"
    seed: Seed = 0


class ScopeTable(Table):
    """Patterns of parameter names that override what the modules declare as kept or shared."""

    keep: Names = ()
    share: Names = ()


class PersonalTable(Table):
    """What every site does for itself after the rounds: ``steps`` more on all parameters, with a fresh optimizer."""

    steps: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)


def _once(arms: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(arms)) < len(arms):
        raise ValueError("each arm once")
    return arms


#: Classical methods of any modality; a site has those of its own.
_CLASSICAL = {name for methods in CLASSICAL.values() for name in methods}
Arm = Annotated[str, AfterValidator(one_of({*_CLASSICAL, LOCAL, SHARED}))]
Weight = Annotated[float, Field(gt=0)]


class EvaluationTable(Table):
    """The other arms of the report; a site has those of its modality.

    The weight of ``tv`` is tuned on ``tv_slices`` validation slices of each site.
    """

    arms: Annotated[tuple[Arm, ...], Field(strict=False), AfterValidator(_once)] = (
        "zero_filled",
        "cg_sense",
        "tv",
        LOCAL,
    )
    tv_weights: Annotated[tuple[Weight, ...], Field(strict=False, min_length=1)] = (
        2e-3,
        5e-3,
        1e-2,
        2e-2,
        4e-2,
    )
    tv_weights_ct: Annotated[tuple[Weight, ...], Field(strict=False, min_length=1)] = (3e-4, 6e-4, 1.2e-3, 2.5e-3, 5e-3)
    tv_slices: int = Field(default=3, ge=1)


def _own_arm(name: str) -> str:
    if name in {*_CLASSICAL, LOCAL, SHARED}:
        raise ValueError("a name that no other arm of the report has")
    return name


class Recipe(Table):
    """A federated method: network, local training, server, scope and what it is compared with.

    ``name`` is the method's arm in the report, ``paper`` where it was published.
    """

    name: Annotated[Name, AfterValidator(_own_arm)]
    paper: str = ""
    network: NetworkTable = NetworkTable()
    training: TrainingTable = TrainingTable()
    federation: FederationTable = FederationTable()
    scope: ScopeTable = ScopeTable()
    personal: PersonalTable = PersonalTable()
    evaluation: EvaluationTable = EvaluationTable()

    def digest(self) -> str:
        """SHA-256 of all values, defaults included; the order of keys in the file does not matter."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_toml(self) -> str:
        """The resolved recipe, every default written out; reads back equal."""
        # TOML has no null: what is None is left out, and None is its default.
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path
        TOML file, see :class:`Recipe`.
    overrides
        Assignments such as ``"federation.rounds=20"``; the last wins. Values are TOML or a bare word.

    Raises
    ------
    ConfigError
        If the file, a key or a value cannot be used; an override is named by its own text.
    """
    path = Path(path)
    table = read_toml(path)
    sources: dict[KeyPath, str] = {}
    for override in overrides:
        keys, value = parse_override(override)
        _assign(table, keys, value, override, path)
        sources = {key: text for key, text in sources.items() if key[: len(keys)] != keys}
        sources[keys] = f"--set {override}"
    return parse_table(Recipe, table, path, sources)


def parse_override(override: str) -> tuple[KeyPath, Any]:
    """Split ``"a.b=1"`` into ``(("a", "b"), 1)``.

    Raises
    ------
    ConfigError
        If it has no ``=``, an empty key, or a value that is neither TOML nor a bare word.
    """
    where = f"--set {override}"
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in keys):
        raise config_error(where, "", repr(override), "key=value", "write for example federation.rounds=20")
    text = text.strip()
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if re.fullmatch(r"[A-Za-z_][\w.*/+-]*", text):
            return keys, text
        raise config_error(
            where, "", f"{text!r} ({error})", "a TOML value", 'quote strings, as in ["a", "b"]'
        ) from None
    if table.keys() != {"value"}:
        raise config_error(where, "", "several lines", "one TOML value", "use one --set per key")
    return keys, table["value"]


def _assign(table: dict[str, Any], keys: KeyPath, value: Any, override: str, path: Path) -> None:
    for depth, key in enumerate(keys[:-1], start=1):
        below = table.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(
                f"--set {override}: {'.'.join(keys[:depth])} is {below!r} in {path}, expected a table; "
                "set it as a whole"
            )
        table = below
    table[keys[-1]] = value
