"""Presets of a comparison: simulated hospitals, network, steps, tables, arms and seeds, in two sizes."""

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
#: Federated arms with a personal part at every site.
PERSONAL_ARMS = ("finetune", "kept_last_cascade")
#: Candidates for the best federated arm.
FEDERATED_ARMS = ("fedavg", *PERSONAL_ARMS, "conditioned", "conditioned_step", "kept_weighting", "shared_step")
_FEW = ("classical", "local", "fedavg", *PERSONAL_ARMS)
#: Arms that may depend on how sites differ: in the place of the data consistency, conditions and personal parts.
_ONE_FACTOR = (*_FEW, "no_physics", "shared_step", "kept_weighting", "conditioned_step", "conditioned")
#: Arms of H6.
_MORE_STEPS = ("classical", "fedavg", "finetune", "joint")

#: MRI sites of the comparison: operator, noise and anatomy differ between all of them.
MRI_SITES = (
    SimulatedSite("random4", 4, "t1", Simulation("random", 4, 0.08, noise_std=0.01)),
    SimulatedSite("equispaced3", 6, "t2", Simulation("equispaced", 3, 0.08, noise_std=0.03)),
    SimulatedSite("partial3", 8, "flair", Simulation("partial_fourier", 3, 0.08, noise_std=0.02)),
    SimulatedSite("random6", 8, "pd", Simulation("random", 6, 0.08, noise_std=0.005)),
    SimulatedSite("plane6", 6, "t2", Simulation("gaussian", 6, 0.08, noise_std=0.01)),
    SimulatedSite("unseen", 6, "t1", Simulation("random", 8, 0.06, noise_std=0.02), unseen=True),
)


def ct_sites(size: int) -> tuple[SimulatedScanner, ...]:
    """CT sites at an image size: HyperFed's five protocols, a sparse, a limited and an unseen scan."""
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
    """Write sites with the data of the sites in ``like``, but with wrong operators.

    In CT the rotation axis is off by half an image pixel. In MRI the coil maps are estimated from the low frequencies
    alone; the reference is the root sum of squares, which does not depend on maps.
    """
    out.mkdir(parents=True, exist_ok=True)  # manifests name their data relative to it
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
    """One table: arms, seeds, training volumes per site, and a factor on the steps of the preset."""

    name: str
    arms: tuple[str, ...]
    seeds: int
    train: int
    steps: int = 1
    modalities: tuple[str, ...] = ("mri", "ct")


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
        if modality == "mri":
            sites: Sequence[SimulatedSite] = MRI_SITES if table.name not in VARIANTS else _mri_variant(table.name)
            make_demo_sites(out, size=self.size, seed=seed, slices=self.slices, sites=sites, overwrite=True, **counts)
            return
        known = table.name in VARIANTS
        scanners = _ct_variant(table.name, self.size) if known else ct_sites(self.size)
        make_ct_demo_sites(
            out, size=self.size, seed=seed, slices=self.slices, sites=scanners, jobs=jobs, overwrite=True, **counts
        )


#: Tables whose sites differ in one factor only.
VARIANTS = ("operator only", "noise only", "anatomy only")
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
