"""The sections of a recipe: keys, types, bounds and defaults."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from physics import options_of
from recon import (
    DATA_CONSISTENCY,
    LOSSES,
    MODALITIES,
    OBJECTIVES,
    PENALTIES,
    REGULARIZERS,
    Augmentation,
    NetworkSettings,
    Penalty,
    TaskTerm,
    cosine_learning_rate,
)

from ..config import Names, Section, Seed, nearest, one_of
from ..methods import SERVER_RULES, TRANSFORMS, WEIGHTINGS, Chain, ScopeRules, ServerRule, Weighting

#: Arm of every site alone, and arm of the shared network before the personal stage.
LOCAL, SHARED = "local", "shared"
#: Arm of the parameters before the first round, and arm of training with the data of all sites in one place.
START, CENTRALIZED = "start", "centralized"

Fraction = Annotated[float, Field(ge=0, le=1)]


def _option(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("true, false, a finite number or a text")
    return value


Options = dict[str, Annotated[Any, AfterValidator(_option)]]


#: Keys of ``[network]`` that name the data consistency of one modality.
OWN_CONSISTENCY = ("consistency_ct", "consistency_non_cartesian")


class NetworkSection(Section):
    """The unrolled network; ``library/README.md`` describes every key."""

    architecture: Literal["unrolled", "varnet", "direct_varnet", "corrected_tv"] = "unrolled"
    architecture_options: Options = Field(default_factory=dict)
    cascades: int = Field(default=5, ge=1, le=100)
    regularizer: Annotated[str, AfterValidator(one_of(REGULARIZERS))] = "unet"
    regularizer_options: Options = Field(default_factory=dict)
    channels: int = Field(default=16, ge=1, le=4096)
    depth: int = Field(default=2, ge=1, le=100)
    consistency: Annotated[str, AfterValidator(one_of(DATA_CONSISTENCY))] = "gradient"
    consistency_options: Options = Field(default_factory=dict)
    consistency_ct: Annotated[str, AfterValidator(one_of(DATA_CONSISTENCY))] | None = None
    consistency_non_cartesian: Annotated[str, AfterValidator(one_of(DATA_CONSISTENCY))] | None = None
    combine: Literal["sequence", "sum"] = "sequence"
    site_strength: bool = False
    ends_in: Literal["regularizer", "consistency"] = "regularizer"
    share_cascades: bool = False
    start: Literal["operator", "adjoint"] = "operator"
    correct_operator: bool = False
    norm: Literal["none", "instance", "group"] = "none"
    attention: bool = False
    condition: Literal["none", "regularizer", "consistency", "both"] = "none"
    tells_noise: bool = False
    noise_level: bool = False
    memory: int = Field(default=0, ge=0, le=4096)
    error_bars: bool = False
    adapter: Literal["none", "lora", "dual_lora", "prompt", "scale"] = "none"
    adapter_size: int = Field(default=1, ge=1, le=4096)
    base: str | None = None
    twin: bool = False

    def consistency_of(self, modality: str) -> str:
        """Name of the data consistency of a modality."""
        own: str | None = getattr(self, f"consistency_{modality}", None)
        return own or self.consistency

    @classmethod
    def chosen(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a stored ``[network]`` that are no defaults."""
        defaults = {key: field.get_default(call_default_factory=True) for key, field in cls.model_fields.items()}
        return {key: value for key, value in record.items() if value != defaults.get(key, ...)}

    def settings(self, consistency: str | None = None) -> NetworkSettings:
        """What the network is built from; ``consistency`` replaces the data consistency.

        The ``consistency_options`` belong to the section's own data consistency alone.
        """
        values = {field.name: getattr(self, field.name) for field in fields(NetworkSettings)}
        if consistency not in (None, self.consistency):
            values |= {"consistency": consistency, "consistency_options": {}}
        return NetworkSettings(**values)

    @model_validator(mode="after")
    def _possible(self) -> "NetworkSection":
        if self.regularizer == "cnn" and self.depth < 2:
            raise ValueError(f"depth: found {self.depth}, expected at least 2 layers for the cnn")
        self.settings().require_agreement()
        REGULARIZERS.check(self.regularizer, self.settings().regularizer_arguments(), "regularizer_options")
        DATA_CONSISTENCY.check(self.consistency, self.consistency_options, "consistency_options")
        return self


class AugmentSection(Section):
    """Augmentation of the image before the operator, the fields of :class:`recon.Augmentation`."""

    flip: bool = True
    max_rotation_deg: float = Field(default=10.0, ge=0, le=180)
    scale: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 1.1)
    probability: Fraction = 0.8

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentSection":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: found {list(self.scale)}, expected [low, high] with 0 < low <= high")
        return self


def _switch(value: Any) -> Any:
    """``true`` means a section of defaults, ``false`` no section."""
    return {} if value is True else None if value is False else value


class TrainingSection(Section):
    """Local training in a round."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    batch_size: int = Field(default=1, ge=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    steps_per_round: int = Field(default=20, ge=1)
    patience: int | None = Field(default=None, ge=1)
    loss: Annotated[str, AfterValidator(one_of(LOSSES))] = "l1"
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    optimizer_state: Literal["keep", "reset"] = "keep"
    augment: Annotated[AugmentSection | None, BeforeValidator(_switch)] = None
    redraw: bool = False

    def augmentation(self) -> Augmentation | None:
        """Augmentation of the training slices; None: none."""
        return None if self.augment is None else Augmentation(**self.augment.model_dump())

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate of a round; ``progress`` is its number divided by the maximum of rounds."""
        return cosine_learning_rate(self.learning_rate, progress) if self.schedule == "cosine" else self.learning_rate


class ObjectiveSection(Section):
    """The loss of a site: a task, plus penalties by their names in :data:`recon.PENALTIES`, each with its weight.

    ``options`` holds the options of task and penalties by their names.
    """

    model_config = ConfigDict(extra="allow")

    task: Annotated[str, AfterValidator(one_of(OBJECTIVES))] = "supervised"
    split: float = Field(default=0.4, gt=0, lt=1)
    features: str = "regularizers.*.hidden.2"
    options: dict[str, Options] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _only_penalties(cls, section: Any) -> Any:
        """Drop weights of 0, which are the default, and refuse keys that name no penalty."""
        if not isinstance(section, Mapping):
            return section
        known = [*cls.model_fields, *PENALTIES]
        kept = {}
        for key, value in section.items():
            if key in PENALTIES:
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                    raise ValueError(f"{key}: found {value!r}, expected a weight of 0 or more")
                if value == 0:
                    continue
            elif key not in cls.model_fields:
                raise ValueError(f"{key}: unknown key{nearest(key, known)}, expected one of {', '.join(known)}")
            kept[key] = float(value) if key in PENALTIES else value
        return kept

    @model_validator(mode="after")
    def _possible(self) -> "ObjectiveSection":
        if self.task == "mutual" and not self.weight("distillation"):
            raise ValueError("distillation: found 0 with the task 'mutual', expected the weight of the other's image")
        if unused := sorted(self.options.keys() - {self.task, *self.weights}):
            raise ValueError(f"options: found {', '.join(unused)}, expected the task or a penalty with a weight")
        self.build_task("l1")
        for name in self.weights:
            self.penalty_options(name)
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the penalties by name, those above 0."""
        return dict(self.__pydantic_extra__ or {})

    def weight(self, name: str) -> float:
        """Weight of one penalty."""
        return self.weights.get(name, 0.0)

    def alone(self) -> "ObjectiveSection":
        """The same objective without the penalties that exchange tensors with other sites."""
        gone = set(self.sending())
        values = {key: value for key, value in self.model_dump().items() if key not in gone}
        values["options"] = {name: options for name, options in self.options.items() if name not in gone}
        return type(self).model_validate(values)

    def sending(self) -> list[str]:
        """Names of the penalties that exchange tensors with other sites."""
        plain: Any = Penalty.sends
        made: dict[str, Any] = {name: PENALTIES[name] for name in self.weights}
        return [name for name, penalty in made.items() if penalty.sends.__func__ is not plain.__func__]

    def build_task(self, loss: str, settings_of_head: Mapping[str, Any] | None = None) -> TaskTerm:
        """The task with the loss of ``[training]``, and with settings of ``[task]`` if it trains a head."""
        settings: dict[str, Any] = {"loss": loss, "fraction": self.split}
        if (distillation := self.weight("distillation")) > 0:
            settings["distillation"] = distillation
        return OBJECTIVES.make(
            self.task,
            OBJECTIVES.declared(self.task, settings | dict(settings_of_head or {})) | self.options.get(self.task, {}),
            f"options.{self.task}",
        )

    def penalties(self) -> list[str]:
        """Names of the penalties that are added to the task, without those whose weight the task uses itself."""
        used = OBJECTIVES.options(self.task).keys()
        return [name for name in self.weights if name not in used]

    def penalty_options(self, name: str) -> dict[str, Any]:
        """Options of a penalty beside its weight.

        Raises
        ------
        ValueError
            If one is unknown.
        """
        make: Any = PENALTIES[name]
        if Penalty not in getattr(make, "__mro__", ()):
            raise ValueError(f"{name}: found a penalty that is no subclass of recon.Penalty, expected one")
        plain: Any = Penalty.for_round
        overridden = make.for_round.__func__ is not plain.__func__
        known = list(options_of(make.for_round))[2:] if overridden else list(options_of(make))[1:]
        own = self.options.get(name, {})
        if unknown := sorted(own.keys() - set(known)):
            raise ValueError(f"options.{name}: found {unknown[0]!r}, expected one of {', '.join(known) or 'none'}")
        shared = {"features": self.features}
        return {key: value for key, value in (shared | own).items() if key in known}


class FederationSection(Section):
    """The rounds: which sites take part, how much each trains, how the server combines their updates."""

    rounds: int = Field(default=10, ge=1)
    weights: Annotated[str, AfterValidator(one_of(WEIGHTINGS))] = "samples"
    weight_options: Options = Field(default_factory=dict)
    participation: float = Field(default=1.0, gt=0, le=1)
    schedule: Literal["random", "cyclic"] = "random"
    least_work: float = Field(default=1.0, gt=0, le=1)
    quorum: int | None = Field(default=None, ge=1)
    server_rule: Annotated[str, AfterValidator(one_of(SERVER_RULES))] = "mean"
    server_options: Options = Field(default_factory=dict)
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _without_drop_out(cls, values: Any) -> Any:
        """Recipes in run folders and bundles of an older version hold the default of a key that is gone."""
        if isinstance(values, Mapping) and values.get("drop_out") == 0:
            return {key: value for key, value in values.items() if key != "drop_out"}
        return values

    def weighting(self) -> Weighting:
        """The weights of the updates."""
        return WEIGHTINGS.make(self.weights, self.weight_options, "weight_options")

    def rule(self) -> ServerRule:
        """How the server combines the updates."""
        return SERVER_RULES.make(self.server_rule, self.server_options, "server_options")

    @property
    def uses_score_after(self) -> bool:
        """Whether the server needs the validation scores after training."""
        return self.weighting().uses_score_after or self.rule().uses_score_after

    @model_validator(mode="after")
    def _possible(self) -> "FederationSection":
        self.weighting()
        self.rule()
        return self


class TransformSection(Section):
    """The transforms of an update before it leaves the site, in this order, with their options by name."""

    chain: Annotated[tuple[Annotated[str, AfterValidator(one_of(TRANSFORMS))], ...], Field(strict=False)] = ()
    options: dict[str, Options] = Field(default_factory=dict)
    feedback: bool = True
    both_ways: bool = False

    def build(self) -> Chain | None:
        """The chain; None: none."""
        parts = [TRANSFORMS.make(name, self.options.get(name, {}), f"options.{name}") for name in self.chain]
        return Chain(tuple(parts)) if parts else None

    @model_validator(mode="after")
    def _possible(self) -> "TransformSection":
        if unused := sorted(self.options.keys() - set(self.chain)):
            raise ValueError(f"options: found {', '.join(unused)}, expected only those of the chain {list(self.chain)}")
        if self.both_ways and not self.chain:
            raise ValueError("both_ways: found true without a chain, expected some transforms")
        self.build()
        return self


class ScopeSection(Section):
    """Patterns of parameter names that override the defaults of the modules, see :class:`ScopeRules`."""

    keep: Names = ()
    share: Names = ()
    freeze: Names = ()
    delta: Names = ()
    mix: dict[str, float] = Field(default_factory=dict)
    channels: dict[str, float] = Field(default_factory=dict)

    def rules(self) -> ScopeRules:
        """The patterns for :func:`parameter_scope`."""
        return ScopeRules(**{name: getattr(self, name) for name in type(self).model_fields})


class PersonalSection(Section):
    """The personal stage: further local training after the rounds, and corrections of each image at test time."""

    steps: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    proximal: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    nearest_code: bool = False
    test_time: int = Field(default=0, ge=0)
    test_time_weight: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _one_condition(self) -> "PersonalSection":
        if self.nearest_code and self.steps:
            expected = "one of the two: a site that trains has a code of its own"
            raise ValueError(f"nearest_code: found true with steps, expected {expected}")
        if self.proximal and not self.steps:
            raise ValueError(f"proximal: found {self.proximal:g} with steps = 0, expected steps, on which it acts")
        return self


class TuningSection(Section):
    """The key that a comparison tunes beside the learning rate, and the values that it tries beside the recipe's own.

    Training does not read this section.
    """

    key: str = ""
    values: Annotated[tuple[Any, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _both(self) -> "TuningSection":
        if bool(self.key) != bool(self.values):
            raise ValueError(f"found key {self.key!r} with {len(self.values)} values, expected both")
        return self


def _once(arms: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(arms)) < len(arms):
        raise ValueError("every arm once")
    return arms


#: Arms that are no classical methods.
OWN_ARMS = (LOCAL, SHARED, START, CENTRALIZED)


def classical_arms() -> set[str]:
    """Names of the classical methods of all modalities."""
    return {name for modality in MODALITIES.values() for name in modality.methods}


Arm = Annotated[str, AfterValidator(one_of(lambda: {*classical_arms(), *OWN_ARMS}))]
Weights = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)]


class EvaluationSection(Section):
    """The other arms of the report, each at the sites whose modality has it, how they are tuned, and validation.

    ``validation_slices`` are the most slices on which every site scores a network in a round, always the same ones, see
    :func:`recon.spread_over`; 0: all. Their score selects the round, ends the training by ``patience`` and decides
    whether a personal network is used. Test data are scored on all slices.
    """

    arms: Annotated[tuple[Arm, ...], Field(strict=False), AfterValidator(_once)] = (
        "zero_filled", "cg_sense", "tv", LOCAL,
    )  # fmt: skip
    tv_weights: Weights = (2e-3, 5e-3, 1e-2, 2e-2, 4e-2)
    tv_weights_ct: Weights = (3e-4, 6e-4, 1.2e-3, 2.5e-3, 5e-3)
    tv_slices: int = Field(default=3, ge=1)
    validation_slices: int = Field(default=16, ge=0)
