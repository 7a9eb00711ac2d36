"""what a run folder holds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon import DataError, nearest_code, write_atomically

from ..config import read_json, store_plugins
from ..methods import ServerState, selected_state
from ..recipes import LOCAL, Recipe, TransformSection, digest_of_base, load_recipe, placed
from ..rounds import SiteSpec
from ..sites import SiteManifest, Split, load_manifest
from .task import site_spec

Say = Callable[[str], None]


#: Where the base lies that the recipe of a run names by its digest.
BASE = "base.safetensors"


_DAMAGED = "choose another --out"


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run.

    ``recipe.toml`` (resolved) · ``run.json`` (sites, recipe digest, seconds) · ``rounds.jsonl`` · ``checkpoints/`` of
    the server · ``sites/<name>/`` what is the site's own: kept state, personal network, coil maps, pictures of real
    data · ``local/<name>/`` the same for the local arm · ``test/<name>.h5`` of simulated sites · ``report.html``,
    ``.json`` · ``plugins/`` of the recipe · ``base.safetensors``, the frozen base of a run that came from a deployment.
    """

    path: Path
    recipe: Recipe
    manifests: tuple[SiteManifest, ...]
    maps: Path | None = None

    @classmethod
    def create(
        cls,
        path: Path | str,
        recipe: Recipe,
        manifests: Sequence[SiteManifest],
        *,
        resume: bool,
        maps: Path | str | None = None,
    ) -> "RunFolder":
        """Open the folder for training; ``maps`` holds the sites' coil maps where several runs share them.

        Raises
        ------
        DataError
            If it holds a run and ``resume`` is not set, or a run of another recipe or other sites.
        """
        path = Path(path)
        record = path / "run.json"
        facts: dict[str, Any] = {"recipe_digest": recipe.digest(), "sites": {m.name: str(m.path) for m in manifests}}
        if record.exists():
            found = read_json(record, _DAMAGED)
            if found.get("recipe_digest") != facts["recipe_digest"]:
                raise DataError(
                    f"{path}: holds a run of another recipe (digest {str(found.get('recipe_digest'))[:12]}, "
                    f"this one is {recipe.digest()[:12]}); choose another --out"
                )
            if found.get("sites", {}).keys() != facts["sites"].keys():
                raise DataError(
                    f"{path}: holds a run of the sites {sorted(found.get('sites', {}))}; choose another --out"
                )
            if not resume:
                raise DataError(f"{path}: holds a run already; go on with --resume, or choose another --out")
        run = cls(path, recipe, tuple(manifests), None if maps is None else Path(maps))
        store_plugins(recipe.plugins, path)
        write_atomically(path / "recipe.toml", recipe.to_toml().encode())
        seconds = read_json(record, _DAMAGED).get("seconds", {}) if record.exists() else {}
        write_atomically(record, json.dumps({**facts, "seconds": seconds}, indent=1).encode())
        return run

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """Open the folder of a run that was trained.

        Raises
        ------
        DataError
            If it is not one.
        """
        path = Path(path)
        if not (path / "run.json").is_file():
            raise DataError(f"{path}: is not a run folder (no run.json); give the --out of `fedrecon train`")
        facts = read_json(path / "run.json", _DAMAGED)
        recipe = load_recipe(path / "recipe.toml")  # first: its plugins may bring readers
        manifests = tuple(load_manifest(facts["sites"][name]) for name in sorted(facts["sites"]))
        return cls(path, placed(recipe, path / BASE) if digest_of_base(recipe) else recipe, manifests)

    @property
    def participants(self) -> tuple[SiteManifest, ...]:
        """Sites that train together."""
        return tuple(manifest for manifest in self.manifests if manifest.trains)

    @property
    def learners(self) -> tuple[SiteManifest, ...]:
        """Sites with training data; an unseen one among them trains in the local arm only."""
        return tuple(manifest for manifest in self.manifests if manifest.data.train)

    def manifest(self, name: str) -> SiteManifest:
        """The manifest of a site.

        Raises
        ------
        DataError
            If the run has no such site.
        """
        for manifest in self.manifests:
            if manifest.name == name:
                return manifest
        raise DataError(f"{self.path}: has no site {name!r}; it has {', '.join(m.name for m in self.manifests)}")

    def site_folder(self, name: str) -> Path:
        return self.path / "sites" / name

    def maps_folder(self, name: str) -> Path:
        return self.site_folder(name) / "maps" if self.maps is None else self.maps / name

    def local_folder(self, name: str) -> Path:
        return self.path / LOCAL / name

    def personal_folder(self, name: str, *, local: bool = False) -> Path:
        return (self.local_folder(name) if local else self.site_folder(name)) / "personal"

    def spec(self, manifest: SiteManifest, *, local: bool = False) -> SiteSpec:
        """The site as the federation, or the local arm, runs it."""
        folder = self.local_folder(manifest.name) if local else self.site_folder(manifest.name)
        recipe = local_recipe(self.recipe) if local else self.recipe
        return site_spec(manifest, recipe, folder / "kept", self.maps_folder(manifest.name))

    def selected(self, *, local: str | None = None) -> ServerState:
        """Shared parameters of the best round by validation, of the federation or of a site's local arm."""
        return selected_state(self.path if local is None else self.local_folder(local))

    def nearest_code(self, manifest: SiteManifest) -> Tensor:
        """The scan features of that site which took part whose features are nearest to those of ``manifest``."""
        codes = {site.name: self._features(site) for site in self.participants}
        return codes[nearest_code(codes, self._features(manifest))]

    def _features(self, manifest: SiteManifest) -> Tensor:
        """Mean over the slices that the site has most of."""
        split: Split = "train" if manifest.data.train else "test"
        samples = manifest.dataset(split, self.maps_folder(manifest.name))
        conditions = [samples[index].condition for index in range(len(samples))]
        return torch.stack([c for c in conditions if c is not None]).mean(0)

    def seconds(self) -> dict[str, float]:
        """Wall time of what was run so far, by name."""
        found: dict[str, float] = read_json(self.path / "run.json", _DAMAGED).get("seconds", {})
        return found

    def record_seconds(self, name: str, seconds: float, *, resumed: bool = False) -> None:
        """Keep the wall time of a part; what a resumed part took before is added."""
        facts = read_json(self.path / "run.json", _DAMAGED)
        times = facts.setdefault("seconds", {})
        times[name] = round(seconds + (times.get(name, 0.0) if resumed else 0.0), 1)
        write_atomically(self.path / "run.json", json.dumps(facts, indent=1).encode())


def local_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the local arm: one site, so nothing to combine, to encode or to wait for."""
    federation = recipe.federation.model_copy(
        update={
            "participation": 1.0,
            "schedule": "random",
            "quorum": None,
            "weights": "samples",
            "weight_options": {},
            "server_rule": "mean",
            "server_options": {},
        }
    )
    objective = recipe.objective.without("moments")
    return recipe.model_copy(update={"federation": federation, "objective": objective, "transform": TransformSection()})
