"""A run folder: what it holds, how it is trained, where its trained states are."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon import Codebook, DataError, write_atomically

from .algorithm import FederatedAlgorithm, ServerState
from .building import build_network
from .errors import config_error
from .frozen_base import digest_of_base, placed, require_base
from .manifest import SiteManifest, load_manifest
from .manifest_tables import Split
from .packing import State
from .parallel import run_jobs
from .recipe import Recipe, load_recipe
from .recipe_tables import LOCAL, TransformTable
from .records import read_json
from .replies import Row
from .rounds import run_rounds, selected_state
from .runtime import InProcessRuntime
from .scope import parameter_scope, parameters_of
from .site import SiteSpec, initial_network
from .task import MOMENTS, aux_layout, site_spec

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
    ``.json`` · ``base.safetensors``, the frozen base of a run that came from a deployment.
    """

    path: Path
    recipe: Recipe
    manifests: tuple[SiteManifest, ...]
    maps: Path | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        recipe: Recipe,
        manifests: Sequence[SiteManifest],
        *,
        resume: bool,
        maps: Path | None = None,
    ) -> "RunFolder":
        """Open the folder for training; ``maps`` holds the sites' coil maps where several runs share them.

        Raises
        ------
        DataError
            If it holds a run and ``resume`` is not set, or a run of another recipe or other sites.
        """
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
        run = cls(path, recipe, tuple(manifests), maps)
        write_atomically(path / "recipe.toml", recipe.to_toml().encode())
        seconds = read_json(record, _DAMAGED).get("seconds", {}) if record.exists() else {}
        write_atomically(record, json.dumps({**facts, "seconds": seconds}, indent=1).encode())
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of a run that was trained.

        Raises
        ------
        DataError
            If it is not one.
        """
        if not (path / "run.json").is_file():
            raise DataError(f"{path}: is not a run folder (no run.json); give the --out of `fedrecon train`")
        facts = read_json(path / "run.json", _DAMAGED)
        manifests = tuple(load_manifest(facts["sites"][name]) for name in sorted(facts["sites"]))
        recipe = load_recipe(path / "recipe.toml")
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
        recipe = _alone(self.recipe) if local else self.recipe
        return site_spec(manifest, recipe, folder / "kept", self.maps_folder(manifest.name))

    def selected(self, *, local: str | None = None) -> ServerState:
        """Shared parameters of the best round by validation, of the federation or of a site's local arm."""
        return selected_state(self.path if local is None else self.local_folder(local))

    def nearest_code(self, manifest: SiteManifest) -> Tensor:
        """The scan features of that site which took part whose features are nearest to those of ``manifest``."""
        book = Codebook({site.name: self._features(site) for site in self.participants})
        return book.codes[book.nearest(self._features(manifest))]

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


def train_run(
    recipe: Recipe,
    manifests: Sequence[SiteManifest],
    out: Path,
    *,
    jobs: int,
    resume: bool,
    say: Say,
    maps: Path | None = None,
) -> RunFolder:
    """Train the recipe on its sites, and every site on its own where the recipe compares with the local arm.

    Raises
    ------
    DataError
        If the folder holds another run, no site has training data, or a site fails.
    """
    run = RunFolder.create(out, recipe, manifests, resume=resume, maps=maps)
    if not run.participants:
        raise DataError(f"{out}: no site takes part; at least one manifest needs files under data.train")
    count, quorum = len(run.participants), recipe.federation.quorum
    if quorum is not None and quorum > count:
        advice = "lower it, or add sites"
        raise config_error("recipe", "federation.quorum", str(quorum), f"at most {count}, the number of sites", advice)
    require_base(recipe)
    begin = time.monotonic()
    _train_together(run, jobs, resume, say)
    run.record_seconds("federated", time.monotonic() - begin, resumed=resume)
    if LOCAL in recipe.evaluation.arms:
        begin = time.monotonic()
        say(f"training {len(run.learners)} sites on their own, the local arm ...")
        done = run_jobs(train_alone, [(run, manifest.name) for manifest in run.learners], jobs)
        for manifest, score in zip(run.learners, done, strict=True):
            say(f"local   {manifest.name:20s} {score_text(score)}")
        run.record_seconds("local", time.monotonic() - begin, resumed=resume)
    if recipe.personal.steps:
        begin = time.monotonic()
        _train_personally(run, jobs, say)
        run.record_seconds("personal", time.monotonic() - begin, resumed=resume)
    return run


def _train_personally(run: RunFolder, jobs: int, say: Say) -> None:
    from .personal import personalize  # it needs the run folder, which is defined here

    work = [(run, manifest.name, False) for manifest in run.learners]
    if LOCAL in run.recipe.evaluation.arms:
        work += [(run, manifest.name, True) for manifest in run.learners]
    say(f"{run.recipe.personal.steps} personal steps at every site ...")
    for (_, name, local), (before, after) in zip(work, run_jobs(personalize, work, jobs), strict=True):
        say(f"personal {'local   ' if local else ''}{name:20s} {score_text(before)} -> {score_text(after)}")


def algorithm_of(recipe: Recipe) -> FederatedAlgorithm:
    """What the server does in a round."""
    federation = recipe.federation
    return FederatedAlgorithm(
        federation.seed,
        federation.participation,
        federation.schedule,
        federation.drop_out,
        federation.weighting(),
        federation.rule(),
        recipe.transform.build(),
        recipe.transform.both_ways,
    )


def _alone(recipe: Recipe) -> Recipe:
    """The recipe of the local arm: one site, so nothing to combine, to encode or to wait for."""
    federation = recipe.federation.model_copy(
        update={
            "participation": 1.0,
            "schedule": "random",
            "drop_out": 0.0,
            "quorum": None,
            "weights": "samples",
            "weight_options": {},
            "server_rule": "mean",
            "server_options": {},
        }
    )
    objective = recipe.objective.model_copy(update={"moments": 0.0})
    return recipe.model_copy(update={"federation": federation, "objective": objective, "transform": TransformTable()})


def initial_state(recipe: Recipe) -> tuple[State, State]:
    """The shared parameters before the first round and the first means of what sites tell, the same everywhere."""
    network = initial_network(partial(build_network, recipe.network), recipe.federation.seed)
    shared = parameters_of(network, parameter_scope(network, recipe.scope.rules()).shared)
    entries = aux_layout(recipe, network, shared).items()
    aux = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in entries if name.startswith(MOMENTS)}
    return shared, aux


def _train_together(run: RunFolder, jobs: int, resume: bool, say: Say) -> None:
    names = ", ".join(manifest.name for manifest in run.participants)
    say(f"training {run.recipe.name} at {len(run.participants)} sites: {names}")

    def progress(round: int, rounds: int, rows: Sequence[Row]) -> None:
        scores = "  ".join(f"{row['site']} {score_text(row['score_before'])}" for row in rows)
        say(f"round {round:3d}/{rounds}  {scores}")

    specs = [run.spec(manifest) for manifest in run.participants]
    with InProcessRuntime(specs, jobs) as runtime:
        shared, aux = initial_state(run.recipe)
        run_rounds(
            algorithm_of(run.recipe),
            runtime,
            shared,
            run.path,
            rounds=run.recipe.federation.rounds,
            aux=aux,
            quorum=run.recipe.federation.quorum,
            resume=resume,
            progress=progress,
        )


def train_alone(job: tuple[RunFolder, str]) -> float | None:
    """The same loop, rounds and steps with one site; goes on where an earlier call stopped."""
    run, name = job
    folder = run.local_folder(name)
    with InProcessRuntime([run.spec(run.manifest(name), local=True)]) as runtime:
        result = run_rounds(
            algorithm_of(_alone(run.recipe)),
            runtime,
            initial_state(_alone(run.recipe))[0],
            folder,
            rounds=run.recipe.federation.rounds,
            resume=True,
        )
    best = result.state.best
    return None if best is None else best.mean


def score_text(score: float | None) -> str:
    """A validation score: PSNR, or the negative held-out residual of a site without references."""
    if score is None:
        return "no score"
    return f"{score:.2f} dB" if score > 0 else f"residual {-score:.2f}"
