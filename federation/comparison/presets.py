"""What a comparison runs: hospitals, network, steps, tables, arms and seeds, in two sizes."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from recon import SEEDS_OF_SMALL_EFFECT, ScanSimulation, Simulation

from ..recipes import NetworkSection
from ..sites import (
    SimulatedScanner,
    SimulatedSite,
    make_ct_demo_sites,
    make_demo_sites,
    read_federation,
    scan_of,
    write_sites,
)
from .arms import Arm, Budget

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
#: Arms of the federation that are personal to a site.
PERSONAL_ARMS = ("finetune", "kept_last_cascade")
#: Arms that compete for being the best federated one.
FEDERATED_ARMS = ("fedavg", *PERSONAL_ARMS, "conditioned", "conditioned_step", "kept_weighting", "shared_step")
_FEW = ("classical", "local", "fedavg", *PERSONAL_ARMS)
#: What may depend on how sites differ: where the data consistency lives, what is conditioned, what is personal.
_ONE_FACTOR = (*_FEW, "no_physics", "shared_step", "kept_weighting", "conditioned_step", "conditioned")
#: What H6 compares.
_MORE_STEPS = ("classical", "fedavg", "finetune", "joint")

#: Hospitals of the comparison: another operator, another dose and another anatomy at every site.
MRI_SITES = (
    SimulatedSite("random4", 4, "t1", Simulation("random", 4, 0.08, noise_std=0.01)),
    SimulatedSite("equispaced3", 6, "t2", Simulation("equispaced", 3, 0.08, noise_std=0.03)),
    SimulatedSite("partial3", 8, "flair", Simulation("partial_fourier", 3, 0.08, noise_std=0.02)),
    SimulatedSite("random6", 8, "pd", Simulation("random", 6, 0.08, noise_std=0.005)),
    SimulatedSite("plane6", 6, "t2", Simulation("gaussian", 6, 0.08, noise_std=0.01)),
    SimulatedSite("unseen", 6, "t1", Simulation("random", 8, 0.06, noise_std=0.02), unseen=True),
)


def ct_sites(size: int) -> tuple[SimulatedScanner, ...]:
    """HyperFed's five protocols, a sparse and a limited scan, and an unseen one, at an image size."""
    sparse, unseen = (max(8, scan_of(2, size)[1].shape[0] // part) for part in (4, 3))
    return (
        SimulatedScanner("protocol1", 1, "chest"),
        SimulatedScanner("protocol2", 2, "abdomen"),
        SimulatedScanner("protocol3", 3, "pelvis"),
        SimulatedScanner("protocol4", 4, "knee"),
        SimulatedScanner("protocol5", 5, "head"),
        SimulatedScanner("sparse", 2, "chest", ScanSimulation(views=sparse)),
        SimulatedScanner("limited", 4, "pelvis", ScanSimulation(arc_deg=120)),
        SimulatedScanner("unseen", 2, "abdomen", ScanSimulation(views=unseen), unseen=True),
    )


def _mri_variant(name: str) -> tuple[SimulatedSite, ...]:
    alike = {
        "operator only": lambda s: replace(s, n_coils=6, family="t1", simulate=replace(s.simulate, noise_std=0.01)),
        "noise only": lambda s: replace(
            s, n_coils=6, family="t1", simulate=replace(MRI_SITES[0].simulate, noise_std=s.simulate.noise_std)
        ),
        "anatomy only": lambda s: replace(s, n_coils=6, simulate=MRI_SITES[0].simulate),
    }
    return tuple(alike[name](site) for site in MRI_SITES)


def _ct_variant(name: str, size: int) -> tuple[SimulatedScanner, ...]:
    alike = {
        "operator only": lambda s: replace(s, family="chest", photons=1e5),
        "noise only": lambda s: replace(
            s, protocol=2, family="chest", simulate=None, photons=scan_of(s.protocol, size)[2]
        ),
        "anatomy only": lambda s: replace(s, protocol=2, simulate=None),
    }
    return tuple(alike[name](site) for site in ct_sites(size))


def write_wrong_operators(out: Path, like: Path, size: int) -> None:
    """Write the sites of ``like`` with the same data, whose operators are wrong.

    In CT the axis is half a pixel of the image off, in MRI the maps are made of the low frequencies alone; the
    reference is then the root sum of squares, which does not depend on maps.
    """
    out.mkdir(parents=True, exist_ok=True)  # the root of the data is relative to it
    protocols = {site.name: site.protocol for site in ct_sites(size)}
    tables = []
    for manifest in read_federation(like):
        table = manifest.model_dump(mode="json", exclude_none=True)
        if manifest.modality == "ct":
            grid, scan, _ = scan_of(protocols[manifest.name], size)
            error = 0.5 * grid.pixel_mm * scan.source_to_detector_mm / scan.source_to_axis_mm
            table["simulate"] = {**table.get("simulate", {}), "axis_error_mm": error}
        else:
            table["data"] |= {"maps": "low_resolution", "reference": "rss"}
        table["data"]["root"] = os.path.relpath(manifest.root, out)
        tables.append(table)
    write_sites(out, tables, overwrite=True)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


@dataclass(frozen=True)
class TableSpec:
    """One table: its hospitals, training volumes per site, steps relative to the preset, arms and seeds."""

    name: str
    arms: tuple[str, ...]
    seeds: int
    train: int
    steps: int = 1
    modalities: tuple[str, ...] = ("mri", "ct")


@dataclass(frozen=True)
class Preset:
    """A comparison of some size."""

    name: str
    size: int
    slices: int
    validation: int
    test: int
    budgets: dict[str, Budget]
    tables: tuple[TableSpec, ...]
    arms: tuple[Arm, ...] = ARMS
    #: Factors on the learning rate that every arm is tried with, on validation data; one is no trial. Where the best of
    #: an arm is at an end, half or twice as much is tried too, at most ``more_rates`` times.
    rates: tuple[float, ...] = (1.0,)
    more_rates: int = 3
    #: Training seeds of arms that a claim compares, where the difference that was found with those of the table is
    #: small; 0 leaves it at those.
    small_effect_seeds: int = 0
    data_seed: int = 0
    #: Draws the data that a frozen base is trained on.
    base_seed: int = 1000
    #: Whether there are hospitals of another draw, to train that base at.
    has_base: ClassVar[bool] = True

    def described(self) -> dict[str, Any]:
        """All of it as JSON can say it."""
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
        """Bring hospitals that were made before up to date with what may change of them: of simulated ones, nothing."""

    def make_sites(self, out: Path, modality: str, table: TableSpec, *, base: bool = False, jobs: int = 1) -> None:
        """Write the hospitals of a table, or those of another draw that a base is trained at."""
        seed = self.base_seed if base else self.data_seed
        counts = {"train": table.train, "validation": self.validation, "test": 1 if base else self.test}
        if modality == "mri":
            sites: Sequence[SimulatedSite] = MRI_SITES if table.name not in VARIANTS else _mri_variant(table.name)
            make_demo_sites(out, size=self.size, seed=seed, slices=self.slices, sites=sites, overwrite=True, **counts)
            return
        known = table.name in VARIANTS
        scanners = _ct_variant(table.name, self.size) if known else ct_sites(self.size)
        make_ct_demo_sites(
            out, size=self.size, seed=seed, slices=self.slices, sites=scanners, jobs=jobs, overwrite=True, **counts
        )


#: Tables whose hospitals differ in one thing only.
VARIANTS = ("operator only", "noise only", "anatomy only")
#: The table with the data of ``together`` and operators that are wrong.
WRONG_OPERATOR = "operator wrong"

_NAMES = tuple(arm.name for arm in ARMS)


def _network(cascades: int, channels: int, depth: int) -> NetworkSection:
    return NetworkSection(
        cascades=cascades,
        regularizer="cnn",
        channels=channels,
        depth=depth,
        consistency="gradient",
    )


def _budgets(rounds: int, steps: int, network: NetworkSection) -> dict[str, Budget]:
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
        budgets=_budgets(8, 12, _network(6, 8, 3)),
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
        budgets=_budgets(10, 16, _network(6, 12, 3)),
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
