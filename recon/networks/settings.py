"""Settings of an unrolled network, for recipes and files of weights alike, and the network that they describe."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any, Literal, TypeAlias

from physics import Registry

from ..data import CONDITION_DIM
from .conditioning import StepScale
from .corrected_tv import CorrectedTV
from .direct_varnet import DirectVarNet
from .operator_corrections import OperatorCorrection
from .registries import DATA_CONSISTENCY, REGULARIZERS
from .regularizers import Regularizer
from .unrolled import UnrolledNetwork
from .varnet import VarNet

#: Whatever a recipe or a file of weights describes.
Network: TypeAlias = UnrolledNetwork | VarNet | CorrectedTV

_OTHERS: Registry[VarNet | CorrectedTV] = Registry(
    "architecture", {"varnet": VarNet, "direct_varnet": DirectVarNet, "corrected_tv": CorrectedTV}
)
_SIZE = ("cascades", "channels", "depth")


@dataclass(frozen=True)
class NetworkSettings:
    """Keys of ``[network]`` of a recipe that decide which parameters a network has, with the same defaults.

    ``architecture`` is ``"unrolled"``, the network of all other keys, ``"varnet"``, :class:`VarNet`,
    ``"direct_varnet"``, :class:`DirectVarNet`, or ``"corrected_tv"``, :class:`CorrectedTV`. The size of the last three
    are ``channels``, ``depth``, ``architecture_options`` and, but for the last, ``cascades``. The parts are named as
    in :data:`REGULARIZERS` and :data:`DATA_CONSISTENCY`; ``condition`` names what reads the scan's features, and
    ``correct_operator`` adds the correction of the modality. :class:`UnrolledNetwork` describes the others.
    """

    architecture: Literal["unrolled", "varnet", "direct_varnet", "corrected_tv"] = "unrolled"
    architecture_options: Mapping[str, Any] = field(default_factory=dict)
    cascades: int = 5
    regularizer: str = "unet"
    regularizer_options: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 16
    depth: int = 2
    consistency: str = "gradient"
    consistency_options: Mapping[str, Any] = field(default_factory=dict)
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
    memory: int = 0
    error_bars: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "NetworkSettings":
        """Settings from stored values; keys that are left out have their defaults.

        Raises
        ------
        ValueError
            If a key is unknown, or a value of another type than its default.
        """
        defaults = cls.defaults()
        for key, value in record.items():
            if key not in defaults:
                near = difflib.get_close_matches(key, defaults, n=1)
                raise ValueError(f"{key}: unknown key{f'; did you mean {near[0]!r}?' if near else ''}")
            if type(value) is not type(defaults[key]):
                raise ValueError(f"{key}: found {value!r}, expected a value such as {defaults[key]!r}")
        return cls(**record)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Default of every key."""
        return {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(cls)}

    @property
    def raw_coils(self) -> bool:
        """Whether the network takes scans as measured, see :class:`VarNet`; all others take whitened coils."""
        return self.architecture_options.get("raw_coils", False) is True

    def record(self) -> dict[str, Any]:
        """Values that are no defaults, as JSON holds them; the inverse of :meth:`of`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {key: value for key, value in values.items() if value != self.defaults()[key]}

    def require_agreement(self) -> None:
        """Refuse keys that the architecture does not use.

        Raises
        ------
        ValueError
            The message begins with the key.
        """
        if self.architecture == "unrolled":
            if self.architecture_options:
                found = ", ".join(self.architecture_options)
                raise ValueError(f"architecture_options: found {found}, expected none for the architecture 'unrolled'")
            having = [name for name in REGULARIZERS if "memory_out" in REGULARIZERS.options(name)]
            if self.memory and self.regularizer not in having:
                found = f"{self.memory} with the regularizer {self.regularizer!r}"
                raise ValueError(f"memory: found {found}, expected 0, or the regularizer {' or '.join(having)}")
            if stated := self.regularizer_options.keys() & {"memory_in", "memory_out"}:
                raise ValueError(f"regularizer_options: found {min(stated)!r}, expected none: `memory` decides it")
            return
        if self.architecture not in _OTHERS:
            known = ", ".join(("unrolled", *_OTHERS))
            raise ValueError(f"architecture: found {self.architecture!r}, expected one of {known}")
        _OTHERS.check(self.architecture, self.architecture_options, "architecture_options")
        for key, value in self.record().items():
            if key not in ("architecture", "architecture_options", *self._size()):
                expected = f"the default, {self.defaults()[key]!r}: {self.architecture!r} has parts of its own"
                raise ValueError(f"{key}: found {value!r}, expected {expected}; correct the recipe or the manifest")

    def _size(self) -> dict[str, Any]:
        """Keys of the size that another architecture than ``"unrolled"`` has."""
        return _OTHERS.declared(self.architecture, {key: getattr(self, key) for key in _SIZE})

    def regularizer_arguments(self) -> dict[str, Any]:
        """Arguments of the regularizer: its size if it has one, its options, and what the other keys add."""
        size = {"channels": self.channels, "depth": self.depth}
        chosen = REGULARIZERS.declared(self.regularizer, size) | dict(self.regularizer_options)
        if self.condition in ("regularizer", "both"):
            chosen["condition_dim"] = CONDITION_DIM
        if self.tells_noise or self.noise_level:
            chosen["noise_level"] = True
        if self.norm != "none":
            chosen["norm"] = self.norm
        if self.attention:
            chosen["attention"] = True
        return chosen

    def build(self, correction: Callable[[], OperatorCorrection] | None = None) -> Network:
        """The network, initialized from torch's global generator; ``correction`` is that of the modality.

        Raises
        ------
        ValueError
            If a part is unknown or refuses its options, or a key has no effect.
        """
        self.require_agreement()
        if self.architecture in _OTHERS:
            options = self._size() | dict(self.architecture_options)
            return _OTHERS.make(self.architecture, options, "architecture_options")
        for key, registry in (("regularizer", REGULARIZERS), ("consistency", DATA_CONSISTENCY)):
            if (name := getattr(self, key)) not in registry:
                raise ValueError(f"{key}: found {name!r}, expected one of {', '.join(registry)}")
        if self.correct_operator and correction is None:
            raise ValueError("correct_operator: found true without the correction of a modality, expected one")
        return UnrolledNetwork(
            self.cascades,
            partial(DATA_CONSISTENCY.make, self.consistency, self.consistency_options, "consistency_options"),
            self._regularizer,
            share_regularizer=self.share_cascades,
            ends_in=self.ends_in,
            combine=self.combine,
            site_strength=self.site_strength,
            start=self.start,
            correction=correction if self.correct_operator else None,
            step_scale=partial(StepScale, CONDITION_DIM) if self.condition in ("consistency", "both") else None,
            uses_condition=self.condition in ("regularizer", "both"),
            tells_noise=self.tells_noise,
            noise_level=self.noise_level,
            memory=self.memory,
            error_bars=self.error_bars,
        )

    def _regularizer(self, **memory: int) -> Regularizer:
        return REGULARIZERS.make(self.regularizer, self.regularizer_arguments() | memory, "regularizer_options")
