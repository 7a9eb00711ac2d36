"""Presets of a comparison at simulated hospitals, in three sizes, and at sites of real anatomy."""

from dataclasses import replace

from recon import SEEDS_OF_SMALL_EFFECT

from ..recipes import NetworkSection
from .anatomy import ANATOMY
from .arms import Arm, Budget
from .preset import Preset, TableSpec

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

#: The table with the data of ``together`` and wrong operators.
WRONG_OPERATOR = "operator wrong"

#: The preset that shows in minutes whether a recipe runs; its numbers decide nothing.
TINY = "tiny"

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
        arms=ARMS,
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
        arms=ARMS,
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
    TINY: Preset(
        name=TINY,
        size=64,
        slices=2,
        validation=1,
        test=2,
        budgets=_budgets(4, 6, 6),
        arms=tuple(arm for arm in ARMS if arm.name in ("classical", "local", "fedavg")),
        tables=(TableSpec("together", ("classical", "local", "fedavg"), seeds=1, train=4),),
    ),
    "anatomy": ANATOMY,
}
