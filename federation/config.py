"""Recipes: one TOML file per published method, read into a checked, immutable model."""

import hashlib
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from recon import CLASSICAL, DATA_CONSISTENCY, LOSSES, REGULARIZERS, Augmentation

from .errors import ConfigError, config_error
from .scope import ScopeRules
from .server_rules import SERVER_RULES, ServerRule
from .tables import KeyPath, Table, one_of, parse_table, read_toml
from .transforms import TRANSFORMS, Chain
from .weighting import WEIGHTINGS, Weighting

_T = TypeVar("_T")

LOCAL = "local"
#: The arm of the shared network before the personal stage.
SHARED = "shared"

Names = Annotated[tuple[str, ...], Field(strict=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
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

    ``axis_correction`` lets a CT site learn where its rotation axis is. ``start`` is the first image: the operator's
    own (filtered back-projection; a few steps of CG-SENSE), or the scaled adjoint. ``condition`` says what depends on
    the scan's features. ``adapter`` adds parameters to a frozen ``base``, the folder of a run with the same network
    without them; ``adapter_size`` is the rank of LoRA, the number of tokens of prompts. ``twin`` gives each site a
    private network beside the shared one.

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
    start: Literal["operator", "adjoint"] = "operator"
    axis_correction: bool = False
    norm: Literal["none", "instance", "group"] = "none"
    attention: bool = False
    condition: Literal["none", "regularizer", "consistency", "both"] = "none"
    adapter: Literal["none", "lora", "dual_lora", "prompt", "scale"] = "none"
    adapter_size: int = Field(default=1, ge=1, le=4096)
    base: str | None = None
    twin: bool = False

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
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    optimizer_state: Literal["keep", "reset"] = "keep"
    augment: Annotated[AugmentTable | None, BeforeValidator(_switch)] = None

    def augmentation(self) -> Augmentation | None:
        """The augmentation of the training slices, None where the recipe has none."""
        return None if self.augment is None else Augmentation(**self.augment.model_dump())


class ObjectiveTable(Table):
    """What a site minimizes: ``task`` plus penalties, each a weight, 0 for none.

    ``supervised`` is ``training.loss`` against the reference; ``self_supervised`` and ``two_views`` split the
    measurement, ``split`` the part held back, and need no reference; ``mutual`` trains the private and the shared
    network of a twin on the task and on each other, weighed by ``distillation``. ``proximal`` pulls the shared
    parameters to the broadcast; ``contrastive`` too, relative to the distance from the site's own earlier ones, from
    round 2; ``moments`` aligns the mean and spread of the features matching ``features`` with their mean over the
    sites, from round 2; ``residual`` is the misfit to the measurement; ``distillation`` the distance to the image of
    the broadcast network.
    """

    task: Literal["supervised", "self_supervised", "two_views", "mutual"] = "supervised"
    split: float = Field(default=0.4, gt=0, lt=1)
    proximal: NonNegative = 0.0
    contrastive: NonNegative = 0.0
    moments: NonNegative = 0.0
    features: str = "regularizers.*.hidden.2"
    residual: NonNegative = 0.0
    distillation: NonNegative = 0.0

    @model_validator(mode="after")
    def _taught(self) -> "ObjectiveTable":
        if self.task == "mutual" and not self.distillation:
            raise ValueError("distillation: found 0 with the task 'mutual', expected the weight of the other's image")
        return self


Options = dict[str, float | int | str]


class FederationTable(Table):
    """What the server does.

    ``weights`` and ``server_rule`` with their options combine the updates. ``participation`` is the fraction of sites
    that take part in a round, drawn (``random``) or in turn (``cyclic``); ``drop_out`` the probability that one is
    absent after all; ``least_work`` the least part of ``steps_per_round`` that a site makes; ``quorum`` the least
    number of sites whose answers must be valid, all that take part by default.
    """

    rounds: int = Field(default=10, ge=1)
    weights: Annotated[str, AfterValidator(one_of(WEIGHTINGS))] = "samples"
    weight_options: Options = Field(default_factory=dict)
    participation: float = Field(default=1.0, gt=0, le=1)
    schedule: Literal["random", "cyclic"] = "random"
    drop_out: float = Field(default=0.0, ge=0, lt=1)
    least_work: float = Field(default=1.0, gt=0, le=1)
    quorum: int | None = Field(default=None, ge=1)
    server_rule: Annotated[str, AfterValidator(one_of(SERVER_RULES))] = "mean"
    server_options: Options = Field(default_factory=dict)
    seed: Seed = 0

    def weighting(self) -> Weighting:
        """The weights of the updates."""
        return _made(WEIGHTINGS[self.weights], self.weight_options, "weight_options")

    def rule(self) -> ServerRule:
        """How the server combines the updates."""
        return _made(SERVER_RULES[self.server_rule], self.server_options, "server_options")

    @model_validator(mode="after")
    def _possible(self) -> "FederationTable":
        self.weighting()
        self.rule()
        return self


class TransformTable(Table):
    """What happens to an update before it leaves: the ``chain`` of transforms, each with its ``options``.

    ``feedback`` adds what a lossy chain leaves out to the next update; ``both_ways`` encodes the broadcasts too.
    """

    chain: Annotated[tuple[Annotated[str, AfterValidator(one_of(TRANSFORMS))], ...], Field(strict=False)] = ()
    options: dict[str, Options] = Field(default_factory=dict)
    feedback: bool = True
    both_ways: bool = False

    def build(self) -> Chain | None:
        """The chain, None where parameters travel as they are."""
        if not self.chain:
            return None
        parts = [_made(TRANSFORMS[name], self.options.get(name, {}), f"options.{name}") for name in self.chain]
        return Chain(tuple(parts))

    @model_validator(mode="after")
    def _possible(self) -> "TransformTable":
        if unused := sorted(self.options.keys() - set(self.chain)):
            raise ValueError(f"options: found {', '.join(unused)}, expected only those of the chain {list(self.chain)}")
        if self.both_ways and not self.chain:
            raise ValueError("both_ways: found true without a chain, expected some transforms")
        self.build()
        return self


def _made(make: Callable[..., _T], options: Mapping[str, Any], key: str) -> _T:
    """Call ``make``; an option that it does not have is named with those that it has."""
    known = list(inspect.signature(make).parameters)
    for name in options:
        if name not in known:
            raise ValueError(f"{key}: found {name!r}, expected one of {', '.join(known) or 'none'}")
    return make(**options)


class ScopeTable(Table):
    """Patterns of parameter names that override what the modules declare, see :class:`ScopeRules`."""

    keep: Names = ()
    share: Names = ()
    freeze: Names = ()
    delta: Names = ()
    mix: dict[str, float] = Field(default_factory=dict)
    channels: dict[str, float] = Field(default_factory=dict)

    def rules(self) -> ScopeRules:
        """The entries of the scope map."""
        return ScopeRules(**{name: getattr(self, name) for name in type(self).model_fields})


class PersonalTable(Table):
    """What every site does for itself after the rounds.

    ``steps`` more on all parameters that train, with a fresh optimizer; an unseen site with training data makes them
    too. ``nearest_code`` lets an unseen site use the scan features of the most similar site that took part.
    ``test_time`` iterations of conjugate gradients pull every image to its measurement, with ``test_time_weight`` on
    the network's image.
    """

    steps: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    nearest_code: bool = False
    test_time: int = Field(default=0, ge=0)
    test_time_weight: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _one_condition(self) -> "PersonalTable":
        if self.nearest_code and self.steps:
            raise ValueError(
                "nearest_code: found true with steps, expected one of the two: a site that trains has a code of its own"
            )
        return self


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

    ``name`` is the method's arm in the report, ``paper`` where it was published, ``left_out`` what of that is not here,
    ``evidence`` how we know that it is that method. A file may begin with ``extends = "fedavg.toml"`` and say only what
    differs.
    """

    name: Annotated[Name, AfterValidator(_own_arm)]
    paper: str = ""
    left_out: str = ""
    evidence: Literal["", "defining property tested", "published ordering reproduced"] = ""
    network: NetworkTable = NetworkTable()
    training: TrainingTable = TrainingTable()
    federation: FederationTable = FederationTable()
    objective: ObjectiveTable = ObjectiveTable()
    scope: ScopeTable = ScopeTable()
    transform: TransformTable = TransformTable()
    personal: PersonalTable = PersonalTable()
    evaluation: EvaluationTable = EvaluationTable()

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

    def digest(self) -> str:
        """SHA-256 of all values, defaults included; the order of keys in the file does not matter."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_toml(self) -> str:
        """The resolved recipe, every default written out; reads back equal."""
        # TOML has no null: what is None is left out, and None is its default.
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


#: Keys of ``[network]`` that belong to a method and not to the network that methods are compared on.
METHOD_PARTS = (
    "norm",
    "attention",
    "condition",
    "adapter",
    "adapter_size",
    "twin",
    "site_strength",
    "axis_correction",
    "start",
)
#: The same, with what some methods replace.
METHOD_NETWORK = (*METHOD_PARTS, "regularizer", "consistency", "ends_in", "combine")


def load_recipe(path: Path | str, overrides: Sequence[str] = (), *, network: NetworkTable | None = None) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path
        TOML file, see :class:`Recipe`.
    overrides
        Assignments such as ``"federation.rounds=20"``; the last wins. Values are TOML or a bare word.
    network
        Stands in for that of the recipe which this one extends in the end: a method brings only its own parts.

    Raises
    ------
    ConfigError
        If the file, a key or a value cannot be used; an override is named by its own text.
    """
    path = Path(path)
    table = _read_extended(path, (), network)
    sources: dict[KeyPath, str] = {}
    for override in overrides:
        keys, value = parse_override(override)
        _assign(table, keys, value, override, path)
        sources = {key: text for key, text in sources.items() if key[: len(keys)] != keys}
        sources[keys] = f"--set {override}"
    return parse_table(Recipe, table, path, sources)


def _read_extended(path: Path, below: tuple[Path, ...], network: NetworkTable | None) -> dict[str, Any]:
    """The table of a file, over that of the file which it extends."""
    table = read_toml(path)
    if "extends" not in table:
        return table if network is None else table | {"network": _standing_in(network, table.get("network"))}
    extended = table.pop("extends")
    if not isinstance(extended, str):
        raise config_error(path, "extends", repr(extended), "the name of a recipe file", "correct it")
    base = path.parent / extended
    if base.resolve() in (path.resolve(), *below):
        raise config_error(path, "extends", f"{extended!r}, which extends this file", "another recipe", "correct it")
    extended_table = _read_extended(base, (*below, path.resolve()), network)
    # Another method is not of the same paper.
    for claim in ("paper", "left_out", "evidence"):
        extended_table.pop(claim, None)
    return _merged(extended_table, table)


def _standing_in(network: NetworkTable, root: Any) -> dict[str, Any]:
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
