"""Comparison at the user's own sites: arms and steps of a preset, on their data instead of simulated hospitals."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from ..config import ConfigError, config_error
from ..experiment import Say
from ..sites import SiteManifest, check_new, load_federation, read_federation, write_sites
from .preset import Preset, TableSpec, set_devices

#: The one table of a comparison at such sites.
OWN_SITES = "own sites"


@dataclass(frozen=True)
class OwnSites(Preset):
    """A preset at given sites, in one table, without arms on adapters: no base exists for them."""

    has_base: ClassVar[bool] = False
    #: Folder of the manifests, and the text of each by site.
    sites: Path = Path()
    manifests: dict[str, str] = field(default_factory=dict)

    def make_sites(self, out: Path, modality: str, table: TableSpec, *, base: bool = False, jobs: int = 1) -> None:
        """Write the manifests of one modality; data are not copied."""
        tables = []
        for manifest in _of_modality(load_federation(self.sites), modality):
            entry = manifest.model_dump(mode="json", exclude_none=True)
            entry["data"]["root"] = os.path.abspath(manifest.root)
            tables.append(entry)
        write_sites(out, tables, overwrite=True)

    def refresh(self, sites: Path) -> None:
        """Copy the devices of the user's manifests into the existing ones."""
        devices = {manifest.name: manifest.device for manifest in read_federation(self.sites)}
        set_devices(sites, devices.__getitem__)

    def sites_with_patients(self) -> tuple[str, ...]:
        """Names of the sites in these modalities that train and are not declared synthetic."""
        listed = [m for m in read_federation(self.sites) if m.modality in self.budgets and m.data.train]
        return tuple(manifest.name for manifest in listed if not manifest.synthetic)


def at_sites(preset: Preset, folder: Path, modalities: Sequence[str], say: Say) -> OwnSites:
    """The arms, network, steps and seeds of a preset at the sites in a folder, whose files are checked.

    Raises
    ------
    DataError
        If a manifest or file cannot be used, a site has no test files with references, or fewer than two sites train.
    """
    manifests = read_federation(folder)
    if set(modalities) == set(preset.budgets):  # without --modality every site is compared
        for manifest in manifests:
            if manifest.modality not in preset.budgets:
                expected, advice = f"one of {', '.join(preset.budgets)}", "leave the site out, or choose a --modality"
                raise config_error(manifest.path, "modality", repr(manifest.modality), expected, advice)
    chosen = [modality for modality in modalities if _of_modality(manifests, modality)]
    if not chosen:
        raise ConfigError(f"{folder}: holds no {' or '.join(modalities)} site; choose another folder or --modality")
    check_new([manifest for manifest in manifests if manifest.modality in chosen], say)
    for modality in chosen:
        _require_comparable(folder, modality, _of_modality(manifests, modality))
    first = preset.tables[0]
    names = tuple(arm.name for arm in preset.arms if arm.name in first.arms and not preset.needs_base(arm))
    known = {each.name: getattr(preset, each.name) for each in fields(Preset)}
    known |= {
        "tables": (TableSpec(OWN_SITES, names, first.seeds, train=0, modalities=tuple(chosen)),),
        "budgets": {modality: preset.budgets[modality] for modality in chosen},
        "arms": tuple(arm for arm in preset.arms if arm.name in names),
    }
    # The device of a site does not change results.
    described = {m.name: m.model_copy(update={"device": None}).to_toml() for m in manifests}
    return OwnSites(**known, sites=folder.resolve(), manifests=described)


def _of_modality(manifests: Sequence[SiteManifest], modality: str) -> list[SiteManifest]:
    return [manifest for manifest in manifests if manifest.modality == modality]


def _require_comparable(folder: Path, modality: str, manifests: Sequence[SiteManifest]) -> None:
    """Refuse sites that cannot be scored, or fewer than two that train, before anything is trained."""
    for manifest in manifests:
        key = "data.test"
        if not manifest.data.test:
            raise config_error(manifest.path, key, "no files", "at least one to score the arms on", "list some")
        samples = manifest.dataset("test")
        for number, kind in enumerate(samples.reference_kinds):
            if kind == "none":
                found = f"{samples.volumes[number].path.name} without a reference"
                raise config_error(manifest.path, key, found, "scans with one", "leave it out: arms are scored on PSNR")
    training = [manifest for manifest in manifests if manifest.trains]
    if len(training) < 2:
        found = f"{len(training)} {modality} sites that train"
        raise ConfigError(f"{folder}: found {found}, expected two or more; add sites or choose another --modality")
    if not any(manifest.data.validation for manifest in training):
        raise ConfigError(
            f"{folder}: found no validation files at {modality} sites that train, expected some: learning rates and "
            "rounds are chosen on them; list some"
        )
