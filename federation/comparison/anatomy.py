"""The preset `anatomy`: images of people dealt by person, every arm trained until its validation score is best."""

from dataclasses import dataclass, replace
from pathlib import Path

from recon import SEEDS_OF_SMALL_EFFECT

from ..recipes import NetworkSection
from .anatomy_sites import ANATOMY_SITES, make_anatomy_sites
from .arms import Arm, Budget
from .preset import Preset, TableSpec

#: Arms that the hypotheses need, on a network that knows the noise of the scan: each site keeps its precision.
ANATOMY_ARMS = (
    Arm("classical", kind="classical"),
    Arm("local", kind="local"),
    Arm("fedavg"),
    Arm("finetune", "fedavg_finetune"),
    # Steps that do not know the noise: one of each site, and one for all.
    Arm("blind", overrides=("network.consistency=gradient", "network.noise_level=false"), modalities=("mri",)),
    Arm("blind", overrides=("network.consistency=chebyshev", "network.noise_level=false"), modalities=("ct",)),
    Arm(
        "shared_step",
        overrides=("network.consistency=gradient", "network.noise_level=false", "scope.share=['consistency.*']"),
        modalities=("mri",),
    ),
    Arm(
        "shared_step",
        overrides=("network.consistency=chebyshev", "network.noise_level=false", "scope.share=['consistency.*']"),
        modalities=("ct",),
    ),
    Arm("conditioned", overrides=("network.condition=regularizer",)),
    Arm("unseen_finetune", overrides=("personal.steps=10",), modalities=("mri",)),
    Arm("no_physics", overrides=("network.consistency=none",)),
    Arm("no_physics_adjoint", overrides=("network.consistency=none", "network.start=adjoint"), modalities=("mri",)),
    Arm("scaffold", "scaffold"),
    Arm("fedprox", "fedprox"),
    Arm("fed_scales", "fed_scales"),
    Arm("fedpr", "fedpr"),
    Arm("joint", kind="joint"),
    Arm("sequential", kind="sequential"),
)
_FEW = ("classical", "local", "fedavg", "finetune")
#: The table with all arms, and the one of equal scanners with unequal numbers of slices.
MAIN, UNEQUAL = "16 slices a site", "unequal slices"


@dataclass(frozen=True)
class AnatomyTable(TableSpec):
    """A table at sites of real anatomy; ``train`` is the number of training slices of a site.

    ``by_site`` replaces it, for each of the five sites, which then have equal scanners.
    """

    by_site: tuple[int, ...] = ()


@dataclass(frozen=True)
class AnatomyPreset(Preset):
    """A comparison at sites of real anatomy, see :func:`make_anatomy_sites`.

    ``slices`` is the number of slices of a person for validation or test, ``validation`` and ``test`` count persons of
    an MRI site, who are the same in all tables with equal numbers of slices.
    """

    #: Persons of an MRI site.
    persons: int = 8
    #: Training slices of a site of the frozen base.
    base_slices: int = 32

    def make_sites(self, out: Path, modality: str, table: TableSpec, *, base: bool = False, jobs: int = 1) -> None:
        """Write the sites of a table; with ``base`` sites of other persons, or of phantoms where none is left.

        Raises
        ------
        ConfigError
            If the folder of images is not set.
        """
        sites = ANATOMY_SITES[modality]
        if base and sites.make_base is None:
            volumes = max(1, self.base_slices // self.slices)
            super().make_sites(out, modality, replace(table, train=volumes), base=True, jobs=jobs)
        elif base and sites.make_base is not None:
            sites.make_base(out, self.base_slices, self.size, self.base_seed)
        else:
            by_site = table.by_site if isinstance(table, AnatomyTable) else ()
            make_anatomy_sites(
                out,
                modality,
                by_site or (table.train,) * len(sites.names),
                persons=self.persons,
                test_slices=self.slices,
                matrix=self.size,
                seed=self.data_seed,
                equal_scanners=bool(by_site),
                overwrite=True,
            )


_MRI = Budget(
    NetworkSection(
        cascades=6, regularizer="cnn", channels=16, depth=4, consistency="noise_proximal", noise_level=True,
        ends_in="consistency",
    ),
    rounds=80,
    steps_per_round=25,
    learning_rate=3e-3,
    tv_weights=(2e-3, 5e-3, 1e-2, 2e-2, 4e-2),
    patience=10,
    schedule="constant",
    personal_rounds=8,
)  # fmt: skip

ANATOMY = AnatomyPreset(
    name="anatomy",
    size=64,
    slices=8,
    validation=2,
    test=2,
    budgets={"mri": _MRI, "ct": replace(_MRI, tv_weights=(3e-4, 6e-4, 1.2e-3, 2.5e-3, 5e-3))},
    tables=(
        AnatomyTable(MAIN, tuple(dict.fromkeys(arm.name for arm in ANATOMY_ARMS)), seeds=3, train=16),
        AnatomyTable("4 slices a site", _FEW, seeds=3, train=4),
        AnatomyTable("64 slices a site", _FEW, seeds=3, train=64, modalities=("mri",)),
        AnatomyTable("256 slices a site", _FEW, seeds=3, train=256, steps=2, modalities=("mri",)),
        AnatomyTable(UNEQUAL, _FEW, seeds=3, train=0, modalities=("mri",), by_site=(4, 16, 64, 256, 16)),
    ),
    arms=ANATOMY_ARMS,
    rates=(0.5, 1.0, 2.0),
    more_rates=1,
    small_effect_seeds=SEEDS_OF_SMALL_EFFECT,
)
