"""The folder of a run: its files and records."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon import DataError, data_error, nearest_code, require_maps_cache, write_atomically

from ..config import config_error, read_json, read_toml, store_plugins
from ..methods import ServerState, selected_state
from ..recipes import (
    LOCAL,
    FederationSection,
    PrivacySection,
    Recipe,
    TransformSection,
    as_copy,
    attach_base,
    digest_of_base,
    digest_of_head,
    digest_of_weights,
    file_of_head,
    head_as_copy,
    load_recipe,
    run_of_base,
    run_of_head,
    weights_of,
)
from ..rounds import SiteSpec
from ..sites import SiteManifest, Split, load_manifest, read_federation
from ..worker_pool import Queue
from .gpu_share import GpuShare, cards_of, free_memory, queue_of
from .task import site_spec

Say = Callable[[str], None]
#: The base of a run that came from a deployment, whose recipe names it by a digest; or a copy of its weights.
BASE = "base.safetensors"
#: Copy of the file that its head starts from.
HEAD = "head.safetensors"
#: Keys of ``run.json`` that a resumed run keeps.
_MEASURED = ("seconds", "memory", "gpu_memory", "gpu_at_once")


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run.

    ``recipe.toml`` (with all defaults) · ``plugins/`` of the recipe · ``run.json`` (sites, digest of the recipe,
    seconds) · ``rounds.jsonl`` · ``checkpoints/`` of the server · ``sites/<name>/``: kept state, personal network,
    report of measured data · ``local/<name>/``: the same for the local arm · ``test/<name>.h5`` of simulated
    sites · ``report.html``, ``report.json`` · ``base.safetensors`` · ``head.safetensors``.
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
        exported: bool = False,
        threads: int | None = None,
    ) -> "RunFolder":
        """Open the folder for training.

        Parameters
        ----------
        maps
            Folder of coil maps that several runs share.
        threads
            Threads of PyTorch at every site; None: as the run began, 1 in a new run.
        exported
            Whether a deployed site writes it, which never trains alone.

        Raises
        ------
        DataError
            If it holds a run and ``resume`` is not set, or a run of another recipe, other sites or another number of
            threads, or one whose base has changed since. With ``resume`` the recipe may have more rounds.
        """
        path = Path(path)
        facts: dict[str, Any] = {
            "recipe_digest": recipe.digest(),
            "sites": {m.name: str(m.path) for m in manifests},
            "beside": {m.name: os.path.relpath(m.path, path.absolute()) for m in manifests},
        }
        kept: dict[str, Any] = {"threads": threads or 1, "seconds": {}} | ({"exported": True} if exported else {})
        if (path / "run.json").exists():
            found = _record(path)
            if found.get("recipe_digest") != facts["recipe_digest"] and not (resume and fewer_rounds(path, recipe)):
                raise DataError(
                    f"{path}: holds a run of another recipe (digest {str(found.get('recipe_digest'))[:12]}, "
                    f"this one is {recipe.digest()[:12]}); choose another --out"
                )
            if found["sites"].keys() != facts["sites"].keys():
                raise DataError(f"{path}: holds a run of the sites {sorted(found['sites'])}; choose another --out")
            if not resume:
                raise DataError(f"{path}: holds a run already; go on with --resume, or choose another --out")
            if threads not in (None, begun := found.get("threads", 1)):
                expected = f"{begun}, with which the run began: the last bits of its results depend on it"
                raise data_error(path, "--threads", str(threads), expected, "leave it out")
            kept |= {"threads": begun} | {key: found[key] for key in _MEASURED if key in found}
            _require_unchanged(path, recipe, found)
        kept |= {"begins_with": _digests_of_runs(recipe)}
        store_plugins(recipe.plugins, path)
        if recipe.network.base is not None and (weights := weights_of(recipe.network.base)) is not None:
            write_atomically(path / BASE, weights.path.read_bytes())
        if recipe.task is not None and digest_of_head(recipe.task.head_weights) is not None:
            write_atomically(path / HEAD, file_of_head(recipe.task.head_weights or "").read_bytes())
        # First: with its digest the recipe of an interrupted extension is written again.
        write_atomically(path / "run.json", json.dumps({**facts, **kept}, indent=1).encode())
        write_atomically(path / "recipe.toml", recipe.to_toml().encode())
        return cls(path, recipe, tuple(manifests), None if maps is None else Path(maps))

    @classmethod
    def open(cls, path: Path | str, sites: Path | str | None = None, overrides: Sequence[str] = ()) -> "RunFolder":
        """Open the folder of a trained run.

        Parameters
        ----------
        sites
            Folder of the manifests, if it has moved since; None: where they were in training.
        overrides
            Changes of the recipe, as in :func:`load_recipe`.

        Raises
        ------
        DataError
            If it is none, its recipe or a manifest cannot be read, a site of the run has no manifest, or a run that it
            begins with was changed since.
        """
        path = Path(path)
        if not (path / "run.json").is_file():
            raise DataError(f"{path}: is not a run folder (no run.json); give the --out of `fedrecon train`")
        record = _record(path)
        trained = record["sites"]
        # First: its plugins may register readers. A run from before that key validated on all slices.
        old = "validation_slices" not in read_toml(path / "recipe.toml").get("evaluation", {})
        recipe = load_recipe(path / "recipe.toml", [*["evaluation.validation_slices=0"] * old, *overrides])
        if sites is None:
            trained = {name: _found(path, file, record.get("beside", {}).get(name)) for name, file in trained.items()}
            if missing := [file for file in trained.values() if not Path(file).is_file()]:
                advice = "name the folder where the manifests are now with --sites"
                raise data_error(missing[0], "file", "nothing", f"a manifest of {path}", advice)
            manifests = tuple(load_manifest(trained[name]) for name in sorted(trained))
        else:
            manifests = tuple(manifest for manifest in read_federation(sites) if manifest.name in trained)
            if missing := sorted(trained.keys() - {manifest.name for manifest in manifests}):
                expected = f"all sites of {path}"
                raise data_error(sites, "manifests", f"none of {', '.join(missing)}", expected, "correct --sites")
        recipe = _with_head(_with_base(recipe, path / BASE), path / HEAD)
        _require_unchanged(path, recipe, record)
        return cls(path, recipe, manifests)

    @property
    def participants(self) -> tuple[SiteManifest, ...]:
        """Sites that take part in the rounds."""
        return tuple(manifest for manifest in self.manifests if manifest.trains)

    @property
    def learners(self) -> tuple[SiteManifest, ...]:
        """Sites with training data; an unseen one trains its local arm alone."""
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
        """Folder of coil maps: the given one, else ``sites/<name>/maps`` if it exists, else that of all runs."""
        if self.maps is not None:
            return self.maps / name
        own = self.site_folder(name) / "maps"
        return own if own.is_dir() else require_maps_cache()

    def keep_maps(self, name: str) -> None:
        """Store the coil maps of a site in this folder, and not beside those of other runs."""
        (self.site_folder(name) / "maps").mkdir(parents=True, exist_ok=True)

    def local_folder(self, name: str) -> Path:
        return self.path / LOCAL / name

    def personal_folder(self, name: str, *, local: bool = False) -> Path:
        return (self.local_folder(name) if local else self.site_folder(name)) / "personal"

    def spec(self, manifest: SiteManifest, *, local: bool = False) -> SiteSpec:
        """The site in the federation, or in its local arm."""
        folder = self.local_folder(manifest.name) if local else self.site_folder(manifest.name)
        recipe = local_recipe(self.recipe) if local else self.recipe
        arm = "local arm" if local else ""
        return site_spec(manifest, recipe, folder / "kept", self.maps_folder(manifest.name), arm)

    def selected(self, *, local: str | None = None) -> ServerState:
        """Shared parameters of the best round by validation, of the federation or of a site's local arm."""
        return selected_state(self.path if local is None else self.local_folder(local))

    def nearest_code(self, manifest: SiteManifest) -> Tensor:
        """Scan features of the participant that are nearest to those of ``manifest``."""
        codes = {site.name: self._features(site) for site in self.participants}
        return codes[nearest_code(codes, self._features(manifest))]

    def _features(self, manifest: SiteManifest) -> Tensor:
        """Mean over the training slices, or the test slices of a site without."""
        split: Split = "train" if manifest.data.train else "test"
        samples = manifest.dataset(split, self.maps_folder(manifest.name))
        conditions = [samples[index].condition for index in range(len(samples))]
        return torch.stack([c for c in conditions if c is not None]).mean(0)

    @property
    def is_exported(self) -> bool:
        """Whether a deployed site exported the run; such a run has no local arm."""
        return bool(_record(self.path).get("exported"))

    def threads(self) -> int:
        """Threads of PyTorch at every site."""
        return recorded_threads(self.path) or 1

    def memory(self) -> int | None:
        """Bytes of a site's process as measured before the training; None: they were not measured."""
        found: int | None = _record(self.path).get("memory")
        return found

    def record_memory(self, memory: int) -> None:
        """Record the bytes of a site's process."""
        write_atomically(self.path / "run.json", json.dumps(_record(self.path) | {"memory": memory}, indent=1).encode())

    def record_gpus(self, gpus: GpuShare) -> None:
        """Record what the sites need of their GPUs, and how many compute on each at a time."""
        facts = _record(self.path) | {"gpu_memory": dict(gpus.needs), "gpu_at_once": gpus.at_once}
        write_atomically(self.path / "run.json", json.dumps(facts, indent=1).encode())

    def queue(self, sites: Sequence[str]) -> Queue:
        """Queue of these sites by name: on a GPU as many at a time as were recorded, or one."""
        places = cards_of(manifest for manifest in self.manifests if manifest.name in sites)
        return queue_of(places, _record(self.path).get("gpu_at_once", {}))

    def renew_queue(self, sites: Sequence[str]) -> None:
        """Record how many of these sites compute on a GPU at a time, from the memory that is free now.

        Nothing is recorded where the needs of no site are known.

        Raises
        ------
        DataError
            If a GPU fails.
        """
        places = cards_of(manifest for manifest in self.manifests if manifest.name in sites)
        needs: dict[str, int] = _record(self.path).get("gpu_memory", {})
        if places and needs:
            # A site that was not measured, such as an unseen one, counts as the largest.
            known = {site: needs.get(site, max(needs.values())) for site in places}
            share = GpuShare(places, known, free_memory(places.values()))
            self.record_gpus(replace(share, needs=needs | known))

    def seconds(self) -> dict[str, float]:
        """Wall time of the parts of the run, by name."""
        found: dict[str, float] = _record(self.path).get("seconds", {})
        return found

    def record_seconds(self, name: str, seconds: float, *, resumed: bool = False) -> None:
        """Record the wall time of a part, added to that of earlier attempts if ``resumed``."""
        facts = _record(self.path)
        times = facts.setdefault("seconds", {})
        times[name] = round(seconds + (times.get(name, 0.0) if resumed else 0.0), 1)
        write_atomically(self.path / "run.json", json.dumps(facts, indent=1).encode())


def fewer_rounds(path: Path | str, recipe: Recipe) -> int | None:
    """Rounds of the run in a folder, if its recipe is this one but for fewer rounds; None: it is another."""
    path = Path(path)
    if not (path / "run.json").exists() or not (path / "recipe.toml").exists():
        return None
    rounds = read_toml(path / "recipe.toml").get("federation", {}).get("rounds")
    if not isinstance(rounds, int) or rounds >= recipe.federation.rounds:
        return None
    federation = recipe.federation.model_copy(update={"rounds": rounds})
    same = recipe.model_copy(update={"federation": federation}).digest() == _record(path).get("recipe_digest")
    return rounds if same else None


def recorded_threads(path: Path | str) -> int | None:
    """Threads of PyTorch at every site of the run in a folder, 1 before this was recorded; None: there is no run."""
    if not (Path(path) / "run.json").exists():
        return None
    threads: int = _record(Path(path)).get("threads", 1)
    return threads


def _found(run: Path, file: str, beside: object) -> str:
    """Path of a manifest: where it was in training, else at the same place as seen from the run folder."""
    moved = run / beside if isinstance(beside, str) else None
    return str(moved) if moved is not None and moved.is_file() and not Path(file).is_file() else file


def _with_base(recipe: Recipe, copy: Path) -> Recipe:
    """The recipe with its base in the run folder, if that holds one."""
    if digest_of_base(recipe):
        return attach_base(recipe, copy)
    network = recipe.network
    if network.base is None or digest_of_weights(network.base) is None:
        return recipe
    return recipe.model_copy(update={"network": network.model_copy(update={"base": as_copy(network.base, copy)})})


def _with_head(recipe: Recipe, copy: Path) -> Recipe:
    """The recipe with the file that its head starts from in the run folder, if that holds one."""
    task = recipe.task
    if task is None or task.head_weights is None or digest_of_head(task.head_weights) is None or not copy.is_file():
        return recipe
    return recipe.model_copy(
        update={"task": task.model_copy(update={"head_weights": head_as_copy(task.head_weights, copy)})}
    )


def _digests_of_runs(recipe: Recipe) -> dict[str, str]:
    """Digest of the selected parameters of every run that a recipe begins with, by the key that names it."""
    runs = {"network.base": run_of_base(recipe), "task.head_weights": run_of_head(recipe.task)}
    # A run that is gone is refused with a line of its own where its parameters are read.
    there = {key: run for key, run in runs.items() if run is not None and (run / "run.json").is_file()}
    return {key: selected_state(run).digest for key, run in there.items()}


def _require_unchanged(path: Path, recipe: Recipe, record: Mapping[str, Any]) -> None:
    """Refuse a run whose base was trained further, or anew, since it began; its parameters would have another meaning.

    A run from before this was recorded is not checked.
    """
    wanted = record.get("begins_with")
    if not isinstance(wanted, dict):
        return
    for key, found in _digests_of_runs(recipe).items():
        if found != (expected := wanted.get(key, found)):
            run = run_of_base(recipe) if key == "network.base" else run_of_head(recipe.task)
            begun = f"{expected[:12]}, with which {path} began"
            advice = "the run was trained further or anew: put it back as it was, or train anew in another --out"
            raise config_error(str(run), key, f"parameters with the digest {found[:12]}", begun, advice)


def _record(path: Path) -> dict[str, Any]:
    """Content of ``run.json``.

    Raises
    ------
    DataError
        If it is damaged.
    """
    found = read_json(path / "run.json", "choose another --out")
    if not isinstance(found.get("sites"), dict):
        raise DataError(f"{path / 'run.json'}: found no table 'sites', expected the manifests; choose another --out")
    return found


def local_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the local arm: one site has nothing to combine, to exchange, to encode or to wait for."""
    federation = FederationSection(
        rounds=recipe.federation.rounds, least_work=recipe.federation.least_work, seed=recipe.federation.seed
    )
    alone = {"federation": federation, "objective": recipe.objective.alone()}
    changed = {**alone, "transform": TransformSection(), "privacy": PrivacySection()}
    return recipe.model_copy(update=changed)
