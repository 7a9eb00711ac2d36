"""Presets of a comparison: simulated hospitals, network, steps, tables, arms and seeds, in two sizes."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from recon import SEEDS_OF_SMALL_EFFECT

from ..recipes import NetworkSection
from .arms import Arm, Budget
from .hospitals import COMPARED, HOSPITALS

#: Arms that the hypotheses need.
ARMS = (
    Arm("classical", kind="classical"),
    Arm("local", kind="local"),
    Arm("fedavg"),
    Arm("finetune", "fedavg_finetune"),
    Arm("no_physics", overrides=("network.consistency=none",)),
    Arm("no_physics_adjoint", overrides=("network.consistency=none", "network.start=adjoint"), modalities=("mri",)),
    Arm("shared_step", overrides=("scope.share=['consistency.*']",)),
    Arm("kept_weighting", overrides=("network.consistency=weighted",), modalities=("mri",)),
    Arm("kept_weighting", overrides=("network.consistency=weighted_chebyshev",), modalities=("ct",)),
    Arm("conditioned_step", overrides=("network.condition=consistency", "scope.share=['consistency.*']")),
    Arm("kept_last_cascade", overrides=("scope.keep=['regularizers.{last}.*']",)),
    Arm("conditioned", overrides=("network.condition=regularizer",)),
    Arm("unseen_finetune", overrides=("personal.steps=10",)),
    Arm("joint", kind="joint"),
    Arm("sequential", kind="sequential"),
    Arm("fed_scales", "fed_scales"),
    Arm("fedpr", "fedpr"),
    Arm("corrected", overrides=("network.correct_operator=true",)),
    Arm("int8", "int8"),
    Arm("topk", "topk"),
)
#: Federated arms with a personal part at every site.
PERSONAL_ARMS = ("finetune", "kept_last_cascade")
#: Candidates for the best federated arm.
FEDERATED_ARMS = ("fedavg", *PERSONAL_ARMS, "conditioned", "conditioned_step", "kept_weighting", "shared_step")
_FEW = ("classical", "local", "fedavg", *PERSONAL_ARMS)
#: Arms that may depend on how sites differ: in the place of the data consistency, conditions and personal parts.
_ONE_FACTOR = (*_FEW, "no_physics", "shared_step", "kept_weighting", "conditioned_step", "conditioned")
#: Arms of H6.
_MORE_STEPS = ("classical", "fedavg", "finetune", "joint")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


@dataclass(frozen=True)
class TableSpec:
    """One table: arms, seeds, training volumes per site, and a factor on the steps of the preset."""

    name: str
    arms: tuple[str, ...]
    seeds: int
    train: int
    steps: int = 1
    modalities: tuple[str, ...] = COMPARED


@dataclass(frozen=True)
class Preset:
    """A comparison of one size."""

    name: str
    size: int
    slices: int
    validation: int
    test: int
    budgets: dict[str, Budget]
    tables: tuple[TableSpec, ...]
    arms: tuple[Arm, ...] = ARMS
    #: Factors on the learning rate that are tried for every arm on validation data; a single one needs no trial. If the
    #: best is the smallest or largest, half or twice the rate is tried too, at most ``more_rates`` times.
    rates: tuple[float, ...] = (1.0,)
    more_rates: int = 3
    #: Training seeds of arms whose difference a claim needs, if it is small with the seeds of the table; 0: no more.
    small_effect_seeds: int = 0
    data_seed: int = 0
    #: Seed of the data on which a frozen base is trained.
    base_seed: int = 1000
    #: Whether sites of another draw exist for training that base.
    has_base: ClassVar[bool] = True

    def described(self) -> dict[str, Any]:
        """All fields as JSON."""
        described: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_plain))
        return described

    def needs_base(self, arm: Arm) -> bool:
        """Whether an arm trains adapters on a frozen base."""
        return any(
            budget.recipe(arm, modality, 0).network.adapter != "none"
            for modality, budget in self.budgets.items()
            if modality in arm.modalities
        )

    def refresh(self, sites: Path) -> None:
        """Update existing manifests where they may change; those of simulated hospitals never do."""

    def make_sites(self, out: Path, modality: str, table: TableSpec, *, base: bool = False, jobs: int = 1) -> None:
        """Write the sites of a table, or with ``base`` the sites of another draw for training a base."""
        seed = self.base_seed if base else self.data_seed
        counts = {"train": table.train, "validation": self.validation, "test": 1 if base else self.test}
        hospitals = HOSPITALS[modality]
        hospitals.make(
            out,
            size=self.size,
            seed=seed,
            slices=self.slices,
            sites=hospitals.of_table(table.name, self.size),
            jobs=jobs,
            overwrite=True,
            **counts,
        )


#: The table with the data of ``together`` and wrong operators.
WRONG_OPERATOR = "operator wrong"

_NAMES = tuple(arm.name for arm in ARMS)


def _budgets(rounds: int, steps: int, channels: int) -> dict[str, Budget]:
    network = NetworkSection(cascades=6, regularizer="cnn", channels=channels, depth=3, consistency="gradient")
    mri = Budget(network, rounds, steps, 6e-3, (2e-3, 5e-3, 1e-2, 2e-2, 4e-2))
    return {
        "mri": mri,
        "ct": replace(
            mri,
            network=network.model_copy(update={"consistency": "chebyshev"}),
            learning_rate=4e-3,
            tv_weights=(3e-4, 6e-4, 1.2e-3, 2.5e-3, 5e-3),
        ),
    }


PRESETS = {
    "laptop": Preset(
        name="laptop",
        size=64,
        slices=4,
        validation=1,
        test=4,
        budgets=_budgets(8, 12, 8),
        tables=(
            TableSpec("together", _NAMES, seeds=1, train=8),
            TableSpec(WRONG_OPERATOR, ("classical", "local", "fedavg", "corrected"), seeds=1, train=8),
        ),
    ),
    "full": Preset(
        name="full",
        size=64,
        slices=4,
        validation=1,
        test=8,
        budgets=_budgets(10, 16, 12),
        tables=(
            TableSpec("together", _NAMES, seeds=3, train=8),
            TableSpec(WRONG_OPERATOR, ("classical", "fedavg", "corrected"), seeds=3, train=8),
            TableSpec("4 slices a site", _FEW, seeds=3, train=1),
            TableSpec("256 slices a site", _FEW, seeds=3, train=64),
            TableSpec("twice the steps", _MORE_STEPS, seeds=3, train=8, steps=2),
            TableSpec("four times the steps", _MORE_STEPS, seeds=3, train=8, steps=4),
            TableSpec("operator only", _ONE_FACTOR, seeds=1, train=8),
            TableSpec("noise only", _ONE_FACTOR, seeds=1, train=8),
            TableSpec("anatomy only", _ONE_FACTOR, seeds=1, train=8),
        ),
        rates=(0.5, 1.0, 2.0, 4.0),
        small_effect_seeds=SEEDS_OF_SMALL_EFFECT,
    ),
}
