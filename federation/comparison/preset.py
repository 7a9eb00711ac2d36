"""One comparison: its sites, budgets, tables and arms."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from recon import write_atomically

from ..recipes import Recipe
from ..sites import load_manifest
from .arms import Arm, Budget
from .hospitals import COMPARED, HOSPITALS


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
    arms: tuple[Arm, ...]
    #: Factors on the learning rate that are tried for every arm on validation data; a single one needs no trial. If the
    #: best is the smallest or largest, half or twice the rate is tried too, at most ``more_rates`` times.
    rates: tuple[float, ...] = (1.0,)
    more_rates: int = 3
    #: Training seeds of arms whose difference a claim needs, if it is small with the seeds of the table; 0: no more.
    small_effect_seeds: int = 0
    data_seed: int = 0
    #: Seed of the data on which a frozen base is trained.
    base_seed: int = 1000
    #: Device of every site, as in a manifest; None: the CPU. It is not described, as results do not depend on it.
    device: str | None = None
    #: Whether sites of another draw exist for training that base.
    has_base: ClassVar[bool] = True

    def described(self) -> dict[str, Any]:
        """All fields but the device as JSON."""
        described: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_plain))
        del described["device"]
        return described

    def needs_base(self, arm: Arm) -> bool:
        """Whether an arm trains adapters on a frozen base."""
        return any(recipe.network.adapter != "none" for recipe in self._recipes(arm))

    def has_noise(self, arm: Arm) -> bool:
        """Whether an arm trains with differential privacy."""
        return any(recipe.privacy.noise() is not None for recipe in self._recipes(arm))

    def sites_with_patients(self) -> tuple[str, ...]:
        """Names of the user's own sites whose training data belong to patients; none where sites are made."""
        return ()

    def _recipes(self, arm: Arm) -> Iterator[Recipe]:
        """Recipes of an arm in its modalities."""
        for modality, budget in self.budgets.items():
            if modality in arm.modalities:
                yield budget.recipe(arm, modality, 0)

    def refresh(self, sites: Path) -> None:
        """Update existing manifests where they may change: the device.

        Raises
        ------
        ConfigError
            If this machine has no such device.
        """
        set_devices(sites, lambda site: self.device)

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


def set_devices(sites: Path, device_of: Callable[[str], str | None]) -> None:
    """Write the device of every site, by its name, into the manifests of a folder.

    Raises
    ------
    ConfigError
        If this machine has no such device.
    """
    for path in sorted(sites.glob("*.toml")):
        manifest = load_manifest(path)
        changed = manifest.model_copy(update={"device": device_of(manifest.name)})
        if changed.device != manifest.device:
            write_atomically(path, changed.to_toml().encode())
        load_manifest(path).torch_device()
