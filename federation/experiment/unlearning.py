"""A site leaves a run: training again without it, the same in a few rounds, and how the two compare."""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recon import PREPARING, DataError, data_error, doing, evaluate, infer_membership, write_atomically

from ..config import config_error, read_json
from ..methods import CHECKPOINTS, ServerState, load_parameters, state_of_checkpoint
from ..progress import Part, advanced, begin_parts, duration, within
from ..recipes import LOCAL, Recipe
from ..rounds import InProcessRuntime, Row, initial_network, read_rows, run_rounds
from ..serialization import load_newest, saved_rounds
from ..sites import SiteManifest
from ..worker_pool import run_jobs
from .patient_losses import losses_by_patient
from .planning import Planning
from .run_folder import RunFolder, Say, recorded_threads
from .score_text import score_text
from .task import ReconstructionTask, site_spec
from .train import algorithm_of, initial_state, secure_sum_at, train_run

#: What a run without a site was made from.
RECORD = "unlearning.json"
#: Folder of the rounds of approximate unlearning, and the name of their time.
APPROXIMATE = "approximate"
#: Networks that are compared: of the run with the site, after a few rounds without it, trained without it.
BEFORE, FEW_ROUNDS, EXACT = "before", "approximate", "exact"


@dataclass(frozen=True)
class Departure:
    """The site that left, the run that it left, and the rounds of approximate unlearning."""

    site: str
    source: RunFolder
    rounds: int

    def record(self, out: Path) -> dict[str, Any]:
        """Content of the record in the folder of the run without the site."""
        path = self.source.path.absolute()
        return {
            "site": self.site,
            "run": str(path),
            "beside": os.path.relpath(path, out.absolute()),
            "rounds": self.rounds,
        }


def train_without(
    site: str,
    source: Path | str,
    out: Path | str,
    *,
    overrides: Sequence[str] = (),
    sites: Path | str | None = None,
    rounds: int | None = None,
    jobs: int,
    resume: bool,
    say: Say,
    planning: Planning | None = None,
    logs: Sequence[str] = (),
    threads: int | None = None,
) -> RunFolder:
    """Train a run again without one of its sites, from the last state that did not see it.

    All sites of a run take part from its first round on, so this state is the one with which the run began: its initial
    parameters, or its base. The result is what the other sites would have trained had the site never joined: exact
    unlearning. Beside it, approximate unlearning makes a few rounds without the site from the end of the run.
    :func:`evaluate_run` compares the two with the network before.

    Parameters
    ----------
    site
        The site that leaves.
    source
        Folder of the run. It does not change.
    overrides
        Changes of the recipe, such as a smaller ``federation.quorum``.
    sites
        Folder of the manifests, if it has moved since training.
    rounds
        Rounds of approximate unlearning; None: a fifth of those of the recipe; 0: none.
    threads
        Threads of PyTorch at every site; None: those of the run.

    Raises
    ------
    DataError
        If the run has no such site, the site did not train, no other site is left, the base of the run has seen the
        site, ``out`` holds another run, or the training fails.
    """
    run = RunFolder.open(source, sites, overrides)
    departure = Departure(site, run, _rounds(run, rounds, say))
    others = _others(run, site)
    _require_unseen(run, site, say)
    out = Path(out)
    if out.resolve() == run.path.resolve():
        raise data_error(out, "--out", "the folder of the run itself", "another one", "choose another --out")
    _require_same(out, departure)
    threads = threads or recorded_threads(out) or run.threads()
    if not overrides and threads == run.threads():
        _copy_local_arms(run, others, out)
    say(f"training without {site} from the first round on, as if it had never joined ...")
    trained = train_run(
        run.recipe, others, out, jobs=jobs, resume=resume, say=say, planning=planning, logs=logs, threads=threads
    )
    write_atomically(out / RECORD, json.dumps(departure.record(out), indent=1).encode())
    if departure.rounds:
        _forget(trained, departure, jobs, say)
    return trained


def _copy_local_arms(run: RunFolder, others: Sequence[SiteManifest], out: Path) -> None:
    """Take over the local arms of the other sites, which do not depend on the site that left."""
    for manifest in others:
        source, target = run.local_folder(manifest.name), out / LOCAL / manifest.name
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target)


def _rounds(run: RunFolder, rounds: int | None, say: Say) -> int:
    """Rounds of approximate unlearning."""
    rounds = max(1, run.recipe.federation.rounds // 5) if rounds is None else rounds
    if rounds and run.recipe.privacy.noise() is not None:
        say("no approximate unlearning: its private steps would add to what the patients of this run have spent")
        return 0
    return rounds


def _others(run: RunFolder, site: str) -> list[SiteManifest]:
    """The manifests of the other sites."""
    if run.is_exported:
        exported, advice = "a run that a deployed site exported", "name a run that was trained on this machine"
        raise data_error(run.path / "run.json", "exported", exported, "a run with the data of all sites", advice)
    run.selected()
    if not run.manifest(site).trains:
        found = f"{site!r}, which did not take part"
        raise data_error(run.path, "--without", found, "a site that did", "nothing of it is in the network")
    others = [manifest for manifest in run.manifests if manifest.name != site]
    if not any(manifest.trains for manifest in others):
        advice = "there is nothing to train; remove the run"
        raise data_error(run.path, "--without", f"{site!r}, the only site that takes part", "other sites", advice)
    return others


def _require_unseen(run: RunFolder, site: str, say: Say) -> None:
    """Refuse a run that began with another run in which the site took part, however far back."""
    begun = _begins_with(run)
    while begun:
        below, key, base = begun.pop()
        if not (Path(base) / "run.json").is_file():
            say(f"note: {below} began with {base}: if {site} has a part in these weights, it stays in them")
            continue
        earlier = RunFolder.open(base)
        if any(manifest.name == site and manifest.trains for manifest in earlier.manifests):
            found = f"{base}, in which {site} took part"
            advice = (
                f"first `fedrecon train --without {site} --start-from {base} --out NEW`, then train "
                f"{below / 'recipe.toml'} with --start-from NEW"
            )
            raise config_error(str(below), key, found, "a base that has not seen the site", advice)
        begun += _begins_with(earlier)


def _begins_with(run: RunFolder) -> list[tuple[Path, str, str]]:
    """The run, the key that names what it begins with, and this, for network and head."""
    task = run.recipe.task
    begun = {"network.base": run.recipe.network.base, "task.head_weights": None if task is None else task.head_weights}
    return [(run.path, key, base) for key, base in begun.items() if base is not None]


def _require_same(out: Path, departure: Departure) -> None:
    """Refuse to go on in the folder of another departure."""
    if not (out / RECORD).exists():
        return
    found, expected = read_json(out / RECORD, "choose another --out"), departure.record(out)
    for key in ("site", "rounds"):
        if found.get(key) != expected[key]:
            raise data_error(out / RECORD, key, repr(found.get(key)), repr(expected[key]), "choose another --out")


def _forget(run: RunFolder, departure: Departure, jobs: int, say: Say) -> None:
    """Approximate unlearning: some rounds at the other sites from the selected state of the run with the site."""
    source, recipe, folder = departure.source, _briefly(run.recipe, departure.rounds), run.path / APPROXIMATE
    state, names = source.selected(), [manifest.name for manifest in run.participants]
    specs, secure = [], secure_sum_at(recipe, run.manifests)
    for manifest in run.participants:
        spec = site_spec(manifest, recipe, _kept(run, manifest), run.maps_folder(manifest.name), "approximate")
        if not saved_rounds(spec.folder):
            spec.build().begin_with(source.spec(manifest).build().network_at(state.shared, state.round))
        specs.append(replace(spec, secure=secure))
    seconds = run.seconds().get("federated", 0.0) / max(1, _made(run)) * departure.rounds
    begun = f"{departure.rounds} rounds from round {state.round} of {source.path}"
    say(f"approximate unlearning: {begun}, {duration(seconds)} ...")
    begin_parts([Part(names, seconds=seconds)])

    def progress(round: int, rounds: int, rows: Sequence[Row]) -> None:
        scores = "  ".join(f"{row['site']} {score_text(row['score_before'], run.recipe)}" for row in rows)
        say(f"approximate round {round:3d}/{rounds}  {scores}")
        advanced(names, (round + 1) / (rounds + 0.5))

    begin, resumed = time.monotonic(), bool(saved_rounds(folder / CHECKPOINTS))
    with InProcessRuntime(specs, jobs, run.threads()) as runtime:
        runtime.queue = run.queue(runtime.sites())
        run_rounds(
            algorithm_of(recipe),
            runtime,
            state.shared,
            folder,
            rounds=departure.rounds,
            aux=initial_state(recipe)[1],
            quorum=recipe.federation.quorum,
            resume=True,
            progress=progress,
            secure=secure,
        )
    run.record_seconds(APPROXIMATE, time.monotonic() - begin, resumed=resumed)
    begin_parts(())


def _briefly(recipe: Recipe, rounds: int) -> Recipe:
    """The recipe with fewer rounds. All of them are made, as the score of a network that remembers may be better."""
    federation = recipe.federation.model_copy(update={"rounds": rounds})
    training = recipe.training.model_copy(update={"patience": None})
    return recipe.model_copy(update={"federation": federation, "training": training})


def _kept(run: RunFolder, manifest: SiteManifest) -> Path:
    """Folder of a site's kept state in approximate unlearning."""
    return run.path / APPROXIMATE / "sites" / manifest.name / "kept"


def _made(run: RunFolder) -> int:
    return len({row["round"] for row in read_rows(run.path)})


def compare_unlearning(run: RunFolder, jobs: int, say: Say, sites: Path | str | None = None) -> dict[str, Any]:
    """``unlearning`` of :func:`recon.write_report`; empty for a run that no site has left.

    If the run with the site or its data are not there any more, it holds the reason as ``left_out``.
    """
    if not (run.path / RECORD).exists():
        return {}
    record = read_json(run.path / RECORD, "train again with --without in another folder")
    name = record["site"]
    try:
        departure = Departure(name, _source(run, record, sites), record["rounds"])
        left = departure.source.manifest(name)
        states = _states(run, departure)
        say(f"comparing {' and '.join(states)}, with and without {name} ...")
        tested = [manifest for manifest in run.participants if manifest.data.test]
        work = [(run, departure, manifest.name) for manifest in tested]
        names = [manifest.name for manifest in tested]
        queue = run.queue(names).in_order(names)
        scores = dict(zip(names, run_jobs(_scores, work, jobs, threads=run.threads(), queue=queue), strict=True))
        (losses,) = run_jobs(_departed, [(run, departure)], 1, threads=run.threads())
    except DataError as error:
        say(f"no comparison with the run with {name}: {error}")
        return {"site": name, "rounds": record["rounds"], "left_out": str(error)}
    patients = {"members": len(losses[BEFORE]["members"]), "non_members": len(losses[BEFORE]["non_members"])}
    return {
        "site": name,
        "rounds": record["rounds"],
        "synthetic": left.synthetic,
        "patients": patients,
        "networks": {label: _row(run, departure, label, scores, losses) for label in states},
    }


def _source(run: RunFolder, record: Mapping[str, Any], sites: Path | str | None) -> RunFolder:
    """The run with the site: where it was, else at the same place as seen from the run without it."""
    path = Path(record["run"])
    moved = run.path / record["beside"]
    return RunFolder.open(moved if not path.is_dir() and moved.is_dir() else path, sites)


def _states(run: RunFolder, departure: Departure) -> dict[str, ServerState]:
    """Shared parameters of every network that is compared."""
    states = {BEFORE: departure.source.selected()}
    folder = run.path / APPROXIMATE
    newest = load_newest(folder / CHECKPOINTS)
    if newest is not None:
        # The last round, not the best one, which may be that of the network before.
        states[FEW_ROUNDS] = state_of_checkpoint(newest, folder)
    return states | {EXACT: run.selected()}


def _scores(job: tuple[RunFolder, Departure, str]) -> dict[str, dict[str, float]]:
    """Scores of every network at one of the other sites, with its kept parameters."""
    run, departure, name = job
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    approximate = site_spec(manifest, run.recipe, _kept(run, manifest), run.maps_folder(name))
    specs = {BEFORE: departure.source.spec(manifest), FEW_ROUNDS: approximate, EXACT: run.spec(manifest)}
    found = {}
    with within(site=name, part="unlearning"), doing(PREPARING):
        samples = task.dataset("test")
        for label, state in _states(run, departure).items():
            network = specs[label].build().network_at(state.shared, state.round)
            with task.at_work(network), doing(f"scoring {label},"):
                scores = evaluate(network, samples).to_json()
            found[label] = {key: scores[key] for key in ("psnr", "residual") if scores.get(key) is not None}
    return found


def _departed(job: tuple[RunFolder, Departure]) -> dict[str, dict[str, list[float]]]:
    """Loss of every patient of the site that left, by network; ``initial`` is the network before any training.

    The networks have the shared parameters and the initial kept ones, as whoever has the shared parameters computes
    them: the site's kept parameters never left it.
    """
    run, departure = job
    name = departure.site
    manifest, recipe = departure.source.manifest(name), run.recipe
    task = ReconstructionTask(manifest, recipe, departure.source.maps_folder(name))
    shared = {label: state.shared for label, state in _states(run, departure).items()}
    found = {}
    with within(site=name, part="membership inference"), doing(PREPARING), torch.no_grad():
        for label, state in (shared | {"initial": initial_state(recipe)[0]}).items():
            network: nn.Module = initial_network(task.network, recipe.federation.seed)
            load_parameters(network, state)
            with task.at_work(network):
                found[label] = {"members": losses_by_patient(task, network, "train"), "non_members": []}
                if manifest.data.test:
                    found[label]["non_members"] = losses_by_patient(task, network, "test")
    return found


def _row(
    run: RunFolder,
    departure: Departure,
    label: str,
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    losses: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, Any]:
    times = {
        BEFORE: departure.source.seconds().get("federated"),
        FEW_ROUNDS: run.seconds().get(APPROXIMATE),
        EXACT: run.seconds().get("federated"),
    }
    by_group = {
        group: [
            loss - untrained for loss, untrained in zip(losses[label][group], losses["initial"][group], strict=True)
        ]
        for group in losses[label]
    }
    row = {"seconds": times[label], "sites": {name: found[label] for name, found in scores.items()}}
    if by_group["non_members"]:
        row["membership"] = infer_membership(by_group["members"], by_group["non_members"]).to_json()
    return row
