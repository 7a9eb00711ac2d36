"""Every recipe does what its paper says: one defining property each, on tiny hospitals and real messages."""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from itertools import combinations
from math import ceil, exp, fsum
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from federation import (
    ConfigError,
    FederatedAlgorithm,
    Recipe,
    RunFolder,
    SiteManifest,
    SiteUpdate,
    build_network,
    evaluate_run,
    load_federation,
    load_recipe,
    make_ct_demo_sites,
    make_demo_sites,
    run_rounds,
    train_run,
)
from federation.experiment import ReconstructionTask
from federation.experiment.personal_stage import personalize, site_network
from federation.experiment.train import algorithm_of, initial_state
from federation.methods import ServerState, parameter_scope
from federation.methods.scope import parameters_of
from federation.privacy import SUM, vector_of
from federation.recipes import secure_sum_of
from federation.recipes.recipe_library import LIBRARY
from federation.rounds import InProcessRuntime, RoundContext
from federation.serialization import Broadcast, MessageError, load_checkpoint
from federation.serialization.packing import below, digest, layout, split, under
from federation.sites import Patients, SimulatedScanner, SimulatedSite
from recon import Sample, ScanSimulation, Simulation, SitePart, apply, base_name, collate, cosine_learning_rate
from recon.training import private_training

RECIPES = LIBRARY
STEMS = sorted(path.stem for path in RECIPES.glob("*.toml"))

#: A recipe with all its own parts, small and short.
TINY = (
    "network.cascades=2", "network.channels=4", "federation.rounds=2", "training.steps_per_round=2",
    "evaluation.arms=[]",
)  # fmt: skip

#: Plain gradient descent at a site.
DESCENT = ("training.optimizer=sgd", "training.learning_rate=0.1", "training.schedule=constant")

MRI = (
    SimulatedSite("east", 2, "t2", Simulation("equispaced", 2, 0.25, noise_std=0.03)),
    SimulatedSite("north", 2, "t1", Simulation("random", 2, 0.25, noise_std=0.01)),
    SimulatedSite("south", 3, "flair", Simulation("random", 2, 0.25, noise_std=0.02)),
    SimulatedSite("vale", 2, "pd", Simulation("gaussian", 2, 0.25, noise_std=0.01)),
    SimulatedSite("west", 3, "t1", Simulation("equispaced", 2, 0.25, noise_std=0.005)),
    SimulatedSite("zenith", 2, "t2", Simulation("random", 2, 0.25, noise_std=0.02), unseen=True),
)
#: Twice the training data, so that weights by samples are not uniform ones.
LARGE = ("north", "west")
CT = (
    SimulatedScanner("protocol1", 1, "chest"),
    SimulatedScanner("protocol3", 3, "pelvis"),
    SimulatedScanner("protocol4", 4, "knee"),
    SimulatedScanner("unseen", 3, "abdomen", ScanSimulation(views=3), unseen=True),
)
FILES = {"train": 1, "validation": 1, "test": 1, "slices": 2}

State = Mapping[str, Tensor]


# Playing a recipe


@lru_cache(maxsize=64)
def slices(manifest: Path, split: str) -> list[Sample]:
    """Samples of a site, read once: they depend on its files alone."""
    (found,) = (site for site in load_federation(manifest.parent) if site.path == manifest)
    samples = found.dataset(split)
    return [samples[index] for index in range(len(samples))]


class Listed(list[Sample]):
    """Samples that stand in no file."""

    volumes: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Task(ReconstructionTask):
    """A site's task on samples that may be changed."""

    change: Callable[[Sample], Sample] = lambda sample: sample

    def dataset(self, split: Any) -> Any:
        return Listed(self.change(sample) for sample in slices(self.manifest.path, split))

    def validation_slices(self) -> Any:
        return self.dataset("validation")

    def patients(self, samples: Any = None) -> Patients:
        found: dict[str, list[int]] = {}
        for index, sample in enumerate(slices(self.manifest.path, "train")):
            found.setdefault(sample.meta[0].volume, []).append(index)
        return Patients(found, 0)


class Watched:
    """A task that remembers how its training began and ended."""

    def __init__(self, task: ReconstructionTask) -> None:
        self.task = Task(task.manifest, task.recipe, task.maps_folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def train(self, network: nn.Module, *, context: RoundContext, **how: int) -> Any:
        before = everything(network)
        result = self.task.train(network, context=context, **how)
        self.trained = how, context, before, everything(network)
        return result


@dataclass(frozen=True, eq=False)
class Turn:
    """One site in one training round.

    ``start`` and ``sent`` are the messages, ``update`` is what the server makes of the reply, ``before`` and ``after``
    are all parameters of the site around its training.
    """

    request: bytes
    reply: bytes
    start: State
    sent: SiteUpdate
    update: SiteUpdate
    how: Mapping[str, int]
    context: RoundContext
    before: State
    after: State


class Server:
    """The algorithm of a recipe, which keeps its states: before every round and after the last one."""

    def __init__(self, recipe: Recipe) -> None:
        self.algorithm, self.states = algorithm_of(recipe), list[ServerState]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.algorithm, name)

    def start(self, shared: State, aux: State | None = None) -> ServerState:
        self.states.append(self.algorithm.start(shared, aux))
        return self.states[-1]

    def aggregate(self, state: ServerState, updates: Sequence[SiteUpdate], **more: int) -> ServerState:
        self.states.append(self.algorithm.aggregate(state, updates, **more))
        return self.states[-1]


@dataclass(eq=False)
class Play:
    """Some rounds of a recipe as ``run_rounds`` makes them, with this as its transport: every message is kept.

    ``turns`` are those of every training round by site; ``messages`` all that was sent, the last evaluation included.
    """

    stem: str
    overrides: tuple[str, ...]
    run: RunFolder
    turns: list[dict[str, Turn]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)

    jobs = 1

    def rounds(self) -> None:
        shared, aux = initial_state(self.recipe)
        run_rounds(self.server, self, shared, self.run.path, rounds=self.recipe.federation.rounds, aux=aux)

    def sites(self) -> list[str]:
        return sorted(manifest.name for manifest in self.run.participants)

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        turns = {}
        for name in sorted(requests):
            request, site = requests[name], self.run.spec(self.run.manifest(name)).build()
            site.task = watched = Watched(site.task)
            reply = site.handle(request)
            self.messages += [request, reply]
            if hasattr(watched, "trained"):
                turns[name] = self._turn(name, request, reply, watched)
            yield name, reply
        self.turns += [turns] if turns else []

    def _turn(self, name: str, request: bytes, reply: bytes, watched: Watched) -> Turn:
        state = self.states[-1]
        wire = self.server.wire(state)
        broadcast = Broadcast.from_bytes(request, site=name, wire=wire)
        sent = SiteUpdate.from_bytes(reply, broadcast=broadcast, wire=wire)
        update = replace(sent, shared=wire.decode(state.shared, sent.shared), encoded=False) if sent.encoded else sent
        return Turn(request, reply, state.shared, sent, update, *watched.trained)

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    @cached_property
    def server(self) -> Server:
        return Server(self.recipe)

    @property
    def states(self) -> list[ServerState]:
        return self.server.states

    @property
    def unseen(self) -> SiteManifest:
        return next(manifest for manifest in self.run.manifests if manifest.unseen)

    @cached_property
    def network(self) -> nn.Module:
        """As every site builds it."""
        return self.run.spec(self.run.participants[0]).build().network

    def updates(self, round: int) -> list[SiteUpdate]:
        return [turn.update for turn in self.turns[round].values()]

    def again(self, round: int, name: str, *overrides: str, **other: Any) -> dict[str, Tensor]:
        """All parameters after the same training, but for ``overrides``, a ``context``, ``change``, ``steps`` ..."""
        turn, site = self.turns[round][name], self.run.spec(self.run.manifest(name)).build()
        recipe = load_recipe(path_of(self.stem), (*self.overrides, *overrides))
        change = other.pop("change", lambda sample: sample)
        task = Task(site.task.manifest, recipe, site.task.maps_folder, change)
        site.network.load_state_dict(dict(turn.before))
        task.train(site.network, **{"context": turn.context, **turn.how, **other})
        return everything(site.network)


@dataclass(frozen=True)
class Hospitals:
    """The sites of this module, and the plays on them, each played once."""

    folder: Path
    plays: dict[tuple[Any, ...], Play] = field(default_factory=dict)

    def manifests(self, stem: str, count: int) -> list[SiteManifest]:
        found = load_federation(self.folder / modality(stem))
        trains = [manifest for manifest in found if manifest.trains]
        return trains[:count] + [manifest for manifest in found if manifest.unseen]

    def overrides(self, stem: str) -> tuple[str, ...]:
        """With few patients: one in a step. With adapters: on a trained base, FedAvg's network of the same size."""
        if raw(stem).get("network", {}).get("adapter") is None:
            return (*TINY, "privacy.patients_per_step=1") if "clip" in raw(stem).get("privacy", {}) else TINY
        base = self.play("fedavg", "training.steps_per_round=8", "training.learning_rate=1e-3").run
        assert base.selected().round > 0
        return (*TINY, f"network.base='{base.path}'")

    def play(self, stem: str, *overrides: str, sites: int = 2) -> Play:
        key = (stem, overrides, sites)
        if key not in self.plays:
            chosen = (*self.overrides(stem), *overrides)
            out, maps = self.folder / "plays" / f"{stem}{len(self.plays)}", self.folder / "maps"
            recipe = load_recipe(path_of(stem), chosen)
            run = RunFolder.create(out, recipe, self.manifests(stem, sites), resume=False, maps=maps)
            self.plays[key] = Play(stem, chosen, run)
            self.plays[key].rounds()
        return self.plays[key]


def path_of(stem: str) -> Path:
    return RECIPES / f"{stem}.toml"


def raw(stem: str) -> dict[str, Any]:
    return tomllib.loads(path_of(stem).read_text(encoding="utf-8"))


def modality(stem: str) -> str:
    return "ct" if raw(stem).get("extends") == "demos/fedavg_ct.toml" else "mri"


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    folder = tmp_path_factory.mktemp("recipes")
    for train in (1, 2):
        sites = [site for site in MRI if (site.name in LARGE) == (train == 2)]
        make_demo_sites(folder / "mri", size=24, sites=sites, **{**FILES, "train": train})
    make_ct_demo_sites(folder / "ct", size=24, sites=CT, **FILES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Hospitals(folder)
    torch.set_num_threads(threads)
    slices.cache_clear()


# What is looked at


def everything(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def tensors(play: Play, message: bytes) -> dict[str, Tensor]:
    """What a message holds, read by the library and not by our own reader; joined tensors by their names."""
    wire = play.server.wire(play.states[0])
    found = safetensors.torch.load(message)
    shared = {name: tensor for name, tensor in found.items() if not name.startswith("aux/")}
    if shared.keys() == {"F32"}:
        shared = split(shared, wire.shared, "parameters")
    return {**shared, **under("aux/", split(below("aux/", found), wire.aux, "beside them") if found else {})}


def travelled(play: Play) -> set[str]:
    return {name for message in play.messages for name in tensors(play, message)}


def matching(names: Iterable[str], pattern: str) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    assert found, pattern
    return found


def flat(state: State, names: Iterable[str] | None = None) -> Tensor:
    return torch.cat([state[name].double().reshape(-1) for name in sorted(state if names is None else names)])


def distance(a: State, b: State, names: Iterable[str]) -> float:
    chosen = list(names)
    return float((flat(a, chosen) - flat(b, chosen)).norm())


def same(a: State, b: State, names: Iterable[str] | None = None) -> bool:
    return torch.equal(flat(a, names), flat(b, names))


def close(found: State, expected: State, tolerance: float = 1e-6) -> bool:
    """Relative to the largest number; the sums of the server are rounded to float32 once."""
    a, b = flat(found), flat(expected, found)
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def average(updates: Sequence[SiteUpdate], weights: Mapping[str, float]) -> dict[str, Tensor]:
    total = fsum(weights[update.site] for update in updates)
    return {
        name: torch.stack([weights[u.site] / total * u.shared[name].double() for u in updates]).sum(0)
        for name in updates[0].shared
    }


def by_samples(updates: Sequence[SiteUpdate]) -> dict[str, float]:
    return {update.site: float(update.n_samples) for update in updates}


def squared_error(update: SiteUpdate) -> float:
    """From the PSNR after training, relative to the data range."""
    assert update.score_after is not None and update.score_after > 0
    return 10 ** (-update.score_after / 10)


def site_parts(network: nn.Module) -> set[str]:
    """Names of the parameters of data consistency, which every site keeps."""
    own = {id(p) for module in network.modules() if isinstance(module, SitePart) for p in module.parameters()}
    return {name for name, parameter in network.named_parameters() if id(parameter) in own}


def site_memory(play: Play, name: str, prefix: str, version: int | None = None) -> dict[str, Tensor]:
    """What a site keeps on its disk under a prefix; nothing if it never took part."""
    folder = play.run.site_folder(name) / "kept"
    versions = sorted(int(path.stem.removeprefix("round_")) for path in folder.glob("*.json"))
    if not versions:
        return {}
    kept = load_checkpoint(folder, versions[-1] if version is None else version).tensors
    return {key.removeprefix(prefix): tensor for key, tensor in kept.items() if key.startswith(prefix)}


def image(network: nn.Module, sample: Sample) -> Tensor:
    with torch.no_grad():
        return apply(network.eval(), collate([sample]))


# Properties that several methods have


def shares_all_but(play: Play, *kept: str, beside: Iterable[str] = ()) -> list[str]:
    """All travels but the data consistency and the parameters of these patterns, which differ between sites.

    With nothing ``beside`` the parameters but this.
    """
    names = [name for name, _ in play.network.named_parameters()]
    own = [name for pattern in kept for name in matching(names, pattern)]
    shared = set(names) - set(own) - site_parts(play.network)
    assert play.states[0].shared.keys() == shared
    sent = shared | {f"aux/{name}" for name in beside}
    assert travelled(play) == sent
    for turns in play.turns:
        for turn in turns.values():
            assert tensors(play, turn.request).keys() == tensors(play, turn.reply).keys() == sent
            kept = [turn.after[name] for name in own if turn.after[name].numel() > 3]
            assert not any(tensor.numpy().tobytes() in turn.reply for tensor in kept)
    for a, b in combinations(play.turns[-1].values(), 2):
        for name in own:
            assert not torch.equal(a.after[name], b.after[name]), name
    return own


def acts(play: Play, without: str, *, from_round: int = 0) -> None:
    """What ``without`` switches off changes the update, from a round on."""
    for round, turns in enumerate(play.turns):
        name, turn = next(iter(turns.items()))
        assert same(play.again(round, name), turn.after)
        changed = not same(play.again(round, name, without), turn.after, turn.update.shared)
        assert changed == (round >= from_round), (round, without)


def averages(play: Play, round: int, weights: Mapping[str, float]) -> None:
    """The new parameters are the mean with these weights, and not with equal ones."""
    updates = play.updates(round)
    assert close(play.states[round + 1].shared, average(updates, weights))
    assert not close(play.states[round + 1].shared, average(updates, dict.fromkeys(weights, 1.0)))


def personal_stage(play: Play) -> None:
    """Every site trains its network on, unseen ones too, and nothing is written but in the folders of the sites."""
    run, selected = play.run, play.run.selected()

    def files() -> dict[Path, bytes]:
        return {path.relative_to(run.path): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    before, used = files(), set()
    for manifest in run.manifests:
        shared = run.spec(manifest).build().network_at(selected.shared, selected.round)
        tuned = deepcopy(shared)
        task = Task(manifest, play.recipe, run.maps_folder(manifest.name))
        task.fine_tune(tuned, selected.shared)
        assert not same(everything(shared), everything(tuned))
        score, personal_score = personalize((run, manifest.name, False))
        assert (score, personal_score) == (task.validate(shared), task.validate(tuned))
        # What does not help on validation is not used.
        used |= {manifest.name} if personal_score >= score else set()
        chosen = tuned if manifest.name in used else shared
        assert same(everything(site_network(run, manifest)), everything(chosen))
    assert used
    after = files()
    assert all(after[path] == content for path, content in before.items())
    assert {path.parts[:3] for path in after.keys() - before.keys()} == {
        ("sites", manifest.name, "personal") for manifest in run.manifests
    }


def blind(play: Play) -> None:
    """Training needs no reference and does not look at one."""

    def stripped(sample: Sample) -> Sample:
        return replace(sample, reference=None, meta=tuple(replace(m, reference_kind="none") for m in sample.meta))

    def wrong(sample: Sample) -> Sample:
        assert sample.reference is not None
        return replace(sample, reference=torch.full_like(sample.reference, 7.0))

    for round, turns in enumerate(play.turns):
        for name, turn in turns.items():
            assert not same(turn.before, turn.after)
            for change in (stripped, wrong):
                assert same(play.again(round, name, change=change), turn.after)


def adapters_only(play: Play, pattern: str) -> None:
    """Only adapters travel; the base is that of the other run, bit for bit, before and after training."""
    names = [name for name, _ in play.network.named_parameters()]
    assert travelled(play) == play.states[0].shared.keys() == set(matching(names, pattern))
    base = RunFolder.open(Path(play.recipe.network.base or "")).selected().shared
    plain = {name: base_name(name) for name in names}
    frozen = [name for name in names if plain[name] in base]
    assert {plain[name] for name in frozen} == base.keys()
    for turns in play.turns:
        for turn in turns.values():
            for name in frozen:
                assert torch.equal(turn.after[name], base[plain[name] or ""]), name
            for name in turn.update.shared:
                assert not torch.equal(turn.after[name], turn.before[name]), name


# The methods


def fedavg(play: Play) -> None:
    shares_all_but(play)
    assert len(set(by_samples(play.updates(0)).values())) > 1
    for round in range(2):
        averages(play, round, by_samples(play.updates(round)))


def fedprox(play: Play) -> None:
    acts(play, "objective.proximal=0")
    shared, turn = play.states[0].shared, play.turns[0]["east"]
    context = replace(turn.context, optimizer_state=None)

    def moved(mu: float, steps: int) -> dict[str, Tensor]:
        """By gradient descent in small steps, of which all is known."""
        how = (*DESCENT, "training.learning_rate=1e-3", f"objective.proximal={mu}")
        return play.again(0, "east", *how, context=context, steps=steps)

    # The gradient of mu / 2 |w - g|^2 is seen from the second step on: the first starts at g.
    first, free, held = moved(0, 1), moved(0, 2), moved(300, 2)
    expected = {name: free[name].double() - 1e-3 * 300 * (first[name] - turn.start[name]) for name in shared}
    assert distance(held, expected, shared) < 1e-2 * distance(held, free, shared)
    # The larger mu, the nearer: a step that goes all the way back leaves the last gradient alone.
    assert distance(moved(1000, 6), turn.start, shared) < distance(moved(0, 6), turn.start, shared) / 3


def adaptive(second_moment: Callable[[Tensor, Tensor], Tensor], beta1: float) -> Callable[[Play], None]:
    """Algorithm 2 of Reddi et al. with this rule for v, and the options of the recipe."""

    def check(play: Play) -> None:
        rule: Any = play.recipe.federation.rule()
        assert rule.beta1 == beta1
        shares_all_but(play)
        m = {name: torch.zeros_like(x).double() for name, x in play.states[0].shared.items()}
        v = {name: torch.full_like(x, rule.tau**2) for name, x in m.items()}
        for round, state in enumerate(play.states[:-1]):
            mean = average(play.updates(round), by_samples(play.updates(round)))
            change = {name: mean[name] - x for name, x in state.shared.items()}
            m = {name: beta1 * m[name] + (1 - beta1) * change[name] for name in m}
            v = {name: second_moment(v[name], change[name] ** 2) for name in v}
            step = {name: rule.learning_rate * m[name] / (v[name].sqrt() + rule.tau) for name in m}
            after = play.states[round + 1]
            made = {name: after.shared[name].double() - x for name, x in state.shared.items()}
            assert close(after.shared, {name: x + step[name] for name, x in state.shared.items()})
            assert close({name: after.memory[f"rule/second_moment.{name}"] for name in v}, v)
            assert not close(after.shared, mean)
            if round == 0:
                assert bool((flat(made) * flat(change) >= 0).all()) and float(flat(made).norm()) > 0

    return check


def scaffold(play: Play) -> None:
    """Two of five sites in each round: the control variate of the server stays the mean of theirs all the same."""
    assert all(len(turns) == 2 for turns in play.turns) and len(play.sites()) == 5
    zeros = {name: torch.zeros_like(x) for name, x in play.states[0].shared.items()}
    shares_all_but(play, beside=(f"control.{name}" for name in zeros))
    for round, turns in enumerate(play.turns):
        assert close(play.states[round + 1].shared, average(play.updates(round), dict.fromkeys(turns, 1.0)))
    own = [site_memory(play, site, "memory.control.") or zeros for site in play.sites()]
    control = {name: play.states[-1].memory[f"rule/control.{name}"] for name in zeros}
    assert sum(not same(c, zeros) for c in own) > 2
    assert close({name: torch.stack([c[name].double() for c in own]).mean(0) for name in zeros}, control)
    # What a step of gradient descent gets beside its gradient is c - c_i.
    name, turn = next((n, t) for n, t in play.turns[-1].items() if t.context.memory)
    context = replace(turn.context, optimizer_state=None)
    plain = replace(context, memory={}, aux={key: torch.zeros_like(c) for key, c in context.aux.items()})
    corrected, free = (play.again(-1, name, *DESCENT, context=c, steps=1) for c in (context, plain))
    for key in zeros:
        drift = context.aux[f"control.{key}"] - context.memory[f"control.{key}"]
        torch.testing.assert_close(corrected[key] - free[key], -0.1 * drift, rtol=1e-3, atol=1e-7)


def fednova(play: Play) -> None:
    unequal = False
    for round, state in enumerate(play.states[:-1]):
        updates = play.updates(round)
        steps, samples = {u.site: u.n_steps for u in updates}, by_samples(updates)
        assert all(play.turns[round][site].how["steps"] == count for site, count in steps.items())
        unequal |= len(set(steps.values())) > 1
        p = {site: count / sum(samples.values()) for site, count in samples.items()}
        length = sum(p[site] * steps[site] for site in p)
        expected = {
            name: x - length * sum(p[u.site] * (x - u.shared[name].double()) / u.n_steps for u in updates)
            for name, x in state.shared.items()
        }
        assert close(play.states[round + 1].shared, expected)
        assert close(play.states[round + 1].shared, average(updates, samples)) == (len(set(steps.values())) == 1)
    assert unequal


def keeps(*patterns: str) -> Callable[[Play], None]:
    def check(play: Play) -> None:
        shares_all_but(play, *patterns)

    return check


def fedmri(play: Play) -> None:
    shares_all_but(play, "regularizers.*.last.*")
    acts(play, "objective.contrastive=0", from_round=1)


def aligned(*kept: str) -> Callable[[Play], None]:
    """Two numbers per channel travel beside the parameters, and the sites receive their mean."""

    def check(play: Play) -> None:
        network, features = play.network, play.recipe.objective.features
        modules = matching([name for name, _ in network.named_modules()], features)
        channels = {name: network.get_submodule(name).out_channels for name in modules}
        moments = {f"moments.{name}.{k}": count for name, count in channels.items() for k in ("mean", "std")}
        shares_all_but(play, *kept, beside=moments)
        for round, turns in enumerate(play.turns):
            for turn in turns.values():
                for message in (turn.request, turn.reply):
                    shapes = {name: tuple(tensor.shape) for name, tensor in tensors(play, message).items()}
                    assert all(shapes[f"aux/{name}"] == (count,) for name, count in moments.items())
                if round > 0:
                    received = [before.sent.aux for before in play.turns[round - 1].values()]
                    mean = {n: torch.stack([aux[n].double() for aux in received]).mean(0) for n in received[0]}
                    assert close(turn.context.aux, mean)
        acts(play, "objective.moments=0", from_round=1)

    return check


def fedpr(play: Play) -> None:
    adapters_only(play, "*.prompt")
    projected = 0
    for turns in play.turns[1:]:
        for turn in turns.values():
            for name, prompt in turn.start.items():
                # The eigenvectors of the uncentered covariance; the recipe drops the leading fifth of them.
                values, vectors = torch.linalg.eigh(prompt.double().T @ prompt.double())
                dropped = vectors[:, -max(1, prompt.shape[1] // 5) :]
                assert values[-1] > 0
                step, meant = (x[name].double() - prompt for x in (turn.update.shared, turn.after))
                assert float((step @ dropped).norm()) < 1e-5 * float(step.norm())
                projected += float((meant @ dropped).norm()) > 1e-2 * float(meant.norm())
    assert projected
    for message in (play.turns[-1]["east"].request, play.turns[-1]["east"].reply):
        assert safetensors.torch.load(message).keys() == {"F32"}
    assert size_of_message("fedpr") < 0.06 * size_of_message("fedavg")


def size_of_message(stem: str) -> int:
    """Bytes of a broadcast of the recipe's own network."""
    recipe = load_recipe(path_of(stem))
    network = build_network(recipe.network)
    shared = parameters_of(network, parameter_scope(network, recipe.scope.rules()).shared)
    return len(Broadcast(0, "east", shared, digest(shared)).to_bytes())


def gautomri(play: Play) -> None:
    weights, own = dict.fromkeys(play.sites(), 1 / len(play.sites())), {}
    raised = 0
    for round in range(len(play.turns)):
        scores = {u.site: (u.score_before, u.score_after) for u in play.updates(round)}
        # In dB, by how much the averaged model is worse than what the site had made itself.
        gaps = {site: max(own.get(site, before) - before, 0.0) for site, (before, _) in scores.items()}
        if max(gaps.values()) > 0:
            raised += 1
            weights = {site: w + 0.05 * gaps[site] / max(gaps.values()) for site, w in weights.items()}
            weights = {site: w / sum(weights.values()) for site, w in weights.items()}
            averages(play, round, weights)
        assert close(play.states[round + 1].shared, average(play.updates(round), weights))
        own = {site: after for site, (_, after) in scores.items()}
    assert raised


def profed(play: Play) -> None:
    shares_all_but(play)
    matching(play.states[0].shared, "scales.*.hyper.*")
    averages(play, 1, {u.site: 1 / squared_error(u) for u in play.updates(1)})
    acts(play, "objective.residual=0")


def modfed(play: Play) -> None:
    shares_all_but(play, "regularizers.*.last.*", "*.attention.*")
    losses = {u.site: squared_error(u) for u in play.updates(1)}
    mean = sum(losses.values()) / len(losses)
    averages(play, 1, {site: exp(-loss / mean) for site, loss in losses.items()})
    acts(play, "objective.distillation=0")


def levac(play: Play) -> None:
    shares_all_but(play)
    consistency = matching(site_parts(play.network), "consistency.*")
    for a, b in combinations(play.turns[-1].values(), 2):
        assert not same(a.after, b.after, consistency)
    acts(play, "training.loss=l1")
    personal_stage(play)


def fedavg_secure(play: Play) -> None:
    """The mean of the clipped changes, from integers of which one alone cannot be decoded."""
    shares_all_but(play)
    updates, state = play.updates(0), play.states[0]
    secure = secure_sum_of(play.recipe, {update.site: update.n_samples for update in updates})
    assert secure is not None and len(updates) > 2
    changes = {u.site: {name: u.shared[name] - x for name, x in state.shared.items()} for u in updates}
    sums = [secure.encode(u.site, u.n_samples, changes[u.site], {}) for u in updates]
    total = vector_of(torch.stack([sent[SUM] for sent in sums]).sum(0, dtype=torch.int32))
    mean, _ = secure.mean(total, changes, layout(state.shared), {})
    expected = average(updates, by_samples(updates))
    assert max((state.shared[n] + mean[n] - expected[n]).abs().max() for n in mean) < 1e-6
    wire = secure.wire(play.server.wire(state))
    with pytest.raises(MessageError, match="one update cannot be decoded"):
        wire.decode(state.shared, sums[0])


def fedavg_private(play: Play) -> None:
    """The gradient of the patient is shortened to the norm, then noise is added, other noise each time."""
    shares_all_but(play)
    averages(play, 0, by_samples(play.updates(0)))
    clip, rate = 1e-4, 0.5  # far below the gradient
    descent = ("training.optimizer=sgd", f"training.learning_rate={rate}", f"privacy.clip={clip}")
    before = play.turns[0]["east"].before

    def step() -> Tensor:
        return (flat(play.again(0, "east", *descent, steps=1)) - flat(before)) / (rate * clip)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_training, "secret_normal", torch.zeros)
        assert float(step().norm()) == pytest.approx(1.0, rel=1e-2)  # float32
    steps = [step(), step()]
    assert all(float(s.norm()) == pytest.approx(len(s) ** 0.5, rel=0.2) for s in steps)
    assert float((steps[0] - steps[1]).norm()) > len(steps[0]) ** 0.5
    for turns in play.turns:
        assert all(turn.sent.loss is None and turn.sent.epsilon > 0 for turn in turns.values())


def fedavg_finetune(play: Play) -> None:
    shares_all_but(play)
    personal_stage(play)


def ditto(play: Play) -> None:
    """The second plain step of a site ends nearer to the shared parameters, by rate times weight times distance."""
    shares_all_but(play)
    personal_stage(play)
    run, state, manifest = play.run, play.run.selected(), play.run.participants[0]
    rate, pull = 0.1, 0.5

    def tuned(steps: int, proximal: float) -> dict[str, Tensor]:
        stage = (f"personal.steps={steps}", f"personal.learning_rate={rate}", f"personal.proximal={proximal}")
        recipe = load_recipe(path_of("ditto"), (*play.overrides, *DESCENT, *stage))
        network = run.spec(manifest).build().network_at(state.shared, state.round)
        Task(manifest, recipe, run.maps_folder(manifest.name)).fine_tune(network, state.shared)
        return everything(network)

    first, free, held = tuned(1, pull), tuned(2, 0.0), tuned(2, pull)
    for name, begun in state.shared.items():
        assert torch.allclose(free[name] - held[name], rate * pull * (first[name] - begun), atol=1e-6)
    assert not same(free, held)


def fedftn(play: Play) -> None:
    shares_all_but(play, "*.attention.*")
    personal_stage(play)


def ssdu(play: Play) -> None:
    shares_all_but(play)
    blind(play)


def ssfedmri(play: Play) -> None:
    shares_all_but(play)
    blind(play)
    regularizers = matching(play.states[0].shared, "regularizers.*")
    for name, turn in play.turns[1].items():
        own = play.turns[0][name].after
        mixed = {key: 0.7 * turn.start[key] + 0.3 * own[key] for key in regularizers}
        assert close({key: turn.before[key] for key in regularizers}, mixed)
        assert not close(mixed, turn.start) and not close(mixed, own)
        assert same(turn.before, own, site_parts(play.network))


def acm_fedmri(play: Play) -> None:
    """A quarter of the channels, those that moved most relative to their size, is the site's own."""
    shares_all_but(play, "*.hyper.*")
    names = matching(play.states[0].shared, "regularizers.*.hidden.*.weight")
    others = play.states[0].shared.keys() - set(names)
    for site, turn in play.turns[1].items():
        assert same(turn.before, turn.start, others)
        for name in names:
            broadcast, own, began = (s[name].flatten(1) for s in (turn.start, play.turns[0][site].after, turn.before))
            moved = (own - broadcast).norm(dim=1) / broadcast.norm(dim=1)
            kept = moved.argsort(descending=True)[: ceil(0.25 * len(moved))].tolist()
            assert len(kept) == 2
            for channel in range(len(moved)):
                assert torch.equal(began[channel], (own if channel in kept else broadcast)[channel])
            assert not torch.equal(began, broadcast) and not torch.equal(began, own)


def fedgimp(play: Play) -> None:
    shares_all_but(play)
    state = play.run.selected()
    for manifest in play.run.manifests:
        prior = play.run.spec(manifest).build().network_at(state.shared, state.round)
        adapted = site_network(play.run, manifest)
        for sample in slices(manifest.path, "test"):
            batch = collate([sample])

            def misfit(x: Tensor, batch: Sample = batch) -> float:
                return float((batch.operator(x) - batch.measurement).abs().square().sum())

            assert misfit(image(adapted, sample)) < misfit(image(prior, sample))


def hyperfed(play: Play) -> None:
    own = shares_all_but(play, "*.hyper.*")
    assert matching(own, "scales.*") and matching(own, "*.film.*")
    acts(play, "objective.proximal=0")
    for manifest in play.run.participants:
        network: Any = site_network(play.run, manifest)
        sample = slices(manifest.path, "test")[0]
        other = next(slices(m.path, "test")[0].condition for m in play.run.participants if m is not manifest)
        assert not torch.equal(image(network, sample), image(network, replace(sample, condition=other)))
        for scale in network.scales:
            assert not torch.equal(scale(sample.condition), scale(other))


def fedct(play: Play) -> None:
    names = [name for name, _ in play.network.named_parameters()]
    dual = matching(names, "consistency.*.dual.*")
    shares_all_but(play)
    assert not travelled(play) & set(dual)
    assert travelled(play) >= set(matching(names, "regularizers.*.film.*"))
    for a, b in combinations(play.turns[-1].values(), 2):
        assert not same(a.after, b.after, dual)
    for turn in play.turns[-1].values():
        assert not same(turn.before, turn.after, dual)


def scan_physfed(play: Play) -> None:
    """Every site goes on with its own decoder; an unseen one takes the nearest code, and its image depends on it."""
    shares_all_but(play)
    decoders = matching(play.states[0].shared, "regularizers.*.last.*")
    others = play.states[0].shared.keys() - set(decoders)
    for site, turn in play.turns[1].items():
        own = play.turns[0][site].after
        assert distance(turn.before, own, decoders) < 1e-4 * distance(turn.start, own, decoders)
        assert same(turn.before, turn.start, others)
    state, unseen = play.run.selected(), play.unseen

    def code(manifest: SiteManifest, split: str) -> Tensor:
        return torch.stack([c for s in slices(manifest.path, split) if (c := s.condition) is not None]).mean(0)

    def apart(one: Tensor, two: Tensor) -> float:
        # Values and presence bits in turn.
        common = (one[1::2] > 0.5) & (two[1::2] > 0.5)
        return float((one - two)[0::2][common].double().square().mean())

    own_code = code(unseen, "train")
    known = {manifest.name: code(manifest, "train") for manifest in play.run.participants}
    nearest = min(known, key=lambda name: apart(known[name], own_code))
    assert nearest == "protocol3" and not torch.equal(known[nearest], own_code)
    network = site_network(play.run, unseen)
    plain = play.run.spec(unseen).build().network_at(state.shared, state.round)
    for sample in slices(unseen.path, "test"):
        as_nearest = image(plain, replace(sample, condition=known[nearest]))
        assert torch.equal(image(network, sample), as_nearest)
        assert not torch.equal(image(plain, sample), as_nearest)


def fedm2ct(play: Play) -> None:
    shares_all_but(play, "private.*")
    names = matching((name for name, _ in play.network.named_parameters()), "*.regularizers.*")
    halves = [matching(names, f"{half}.*") for half in ("private", "shared")]
    for site, turn in play.turns[1].items():
        pulled, free = (play.again(1, site, f"objective.distillation={w}", steps=2) for w in (100.0, 1e-9))
        for half in halves:
            assert not same(turn.before, turn.after, half)
            assert not same(pulled, free, half)
        samples = slices(play.run.manifest(site).path, "train")

        def apart(state: State, samples: Sequence[Sample] = tuple(samples)) -> float:
            network: Any = play.network
            network.load_state_dict(dict(state))
            return sum(float((image(network.private, s) - image(network.shared, s)).norm()) for s in samples)

        assert apart(pulled) < apart(free)


def icp2p(play: Play) -> None:
    shares_all_but(play)
    visited = [list(turns) for turns in play.turns]
    assert visited == [[site] for site in play.sites()]
    for round, turns in enumerate(play.turns):
        (turn,) = turns.values()
        assert same(play.states[round + 1].shared, turn.after, turn.update.shared)
        assert not same(turn.start, turn.after, turn.update.shared)


def fedpt(play: Play) -> None:
    """The frozen layers are those that the seed draws, at every site and in every round, and never travel."""
    names = [name for name, _ in play.network.named_parameters()]
    frozen = matching(names, "regularizers.*.hidden.[24].*")
    assert travelled(play) == play.states[0].shared.keys() == set(names) - set(frozen) - site_parts(play.network)
    drawn = everything(play.network)
    for turns in play.turns:
        for turn in turns.values():
            assert same(turn.before, drawn, frozen) and same(turn.after, drawn, frozen)
            assert not same(turn.before, turn.after, turn.update.shared)
    assert size_of_message("fedpt") < 0.3 * size_of_message("fedavg")


def fedpaq(play: Play) -> None:
    """Half of the sites send eight bits per number; what rounding loses is forgotten, and the rate does not fall."""
    acts(play, "training.schedule=cosine", from_round=1)
    for round, turns in enumerate(play.turns):
        assert 2 * len(turns) == len(play.sites())
        assert close(play.states[round + 1].shared, average(play.updates(round), dict.fromkeys(turns, 1.0)))
        for site, turn in turns.items():
            assert safetensors.torch.load(turn.request).keys() == {"F32"}
            assert safetensors.torch.load(turn.reply).keys() == {"codes", "scales"}
            changes = [flat(state, turn.start) - flat(turn.start) for state in (turn.update.shared, turn.after)]
            error, largest = (changes[0] - changes[1]).abs().max(), changes[1].abs().max()
            assert 0 < error < largest / 127
            assert not site_memory(play, site, "residual.")


def local_adam(play: Play) -> None:
    """Every round begins with new moments: Adam's first step is the learning rate wherever there is a gradient."""
    shares_all_but(play)
    rate = cosine_learning_rate(play.recipe.training.learning_rate, 1 / play.recipe.federation.rounds)
    for site, turn in play.turns[1].items():
        assert turn.context.optimizer_state is None and not site_memory(play, site, "optimizer.")
        moved = (flat(play.again(1, site, steps=1)) - flat(turn.before)).abs()
        assert moved.max() < 1.001 * rate and (moved > 0.9 * rate).double().mean() > 0.5


def modl(play: Play) -> None:
    """One regularizer serves every cascade and travels once; each site keeps its weights of data consistency."""
    shares_all_but(play)
    assert play.network.cascades == 2 and len(play.network.regularizers) == 1
    own = matching(site_parts(play.network), "consistency.*")
    for a, b in combinations(play.turns[-1].values(), 2):
        assert not same(a.after, b.after, own)
    assert size_of_message("modl") < 0.25 * size_of_message("fedavg")


def varnet(play: Play) -> None:
    """In every cascade x + (data consistency - x) + (U-Net - x), both of the same x; the first is zero-filled."""
    shares_all_but(play)
    manifest = play.run.participants[0]
    network: Any = site_network(play.run, manifest)
    seen: list[tuple[Tensor, Tensor]] = []
    for part in (*network.consistency, *network.regularizers):
        part.register_forward_hook(lambda _, arguments, after: seen.append((arguments[0], after)))
    sample = slices(manifest.path, "test")[0]
    image(network, sample)
    batch = collate([sample])
    assert len(seen) == 4
    start, first = batch.operator.normalized_adjoint(batch.measurement), seen[0][0]
    torch.testing.assert_close(first.abs() / first.abs().max(), start.abs() / start.abs().max())
    for number in range(0, 4, 2):
        (x, consistent), (same_x, refined) = seen[number : number + 2]
        assert torch.equal(x, same_x) and not torch.equal(x, consistent) and not torch.equal(x, refined)
    (x, consistent), (_, refined), (following, _) = seen[:3]
    torch.testing.assert_close(following, consistent + refined - x)


def lora(play: Play) -> None:
    adapters_only(play, "*.lora_*")


def dual_lora(play: Play) -> None:
    adapters_only(play, "*.lora_*")
    own = matching((name for name, _ in play.network.named_parameters()), "*.own_*")
    for a, b in combinations(play.turns[-1].values(), 2):
        for name in own:
            assert not torch.equal(a.after[name], b.after[name]), name


def fed_scales(play: Play) -> None:
    adapters_only(play, "*.channel_scale")


def lying(updates: Sequence[SiteUpdate], value: float) -> list[SiteUpdate]:
    """The last site sends nonsense."""
    *honest, last = updates
    return [*honest, replace(last, shared={name: torch.full_like(x, value) for name, x in last.shared.items()})]


def robust(least: int) -> Callable[[Play], None]:
    """No site moves a number out of the range of the honest ones; with fewer sites than ``least`` nothing begins."""

    def check(play: Play) -> None:
        shares_all_but(play)
        state, updates = play.states[0], play.updates(0)
        values = torch.stack([flat(update.shared) for update in updates[:-1]])
        low, high = values.amin(0), values.amax(0)

        def is_within(algorithm: FederatedAlgorithm, value: float) -> bool:
            found = flat(algorithm.aggregate(state, lying(updates, value)).shared)
            return bool(((low <= found) & (found <= high)).all())

        for value in (1e6, -1e6):
            assert is_within(play.server.algorithm, value)
            assert not is_within(FederatedAlgorithm(), value)
        specs = [play.run.spec(manifest) for manifest in play.run.participants]
        with pytest.raises(ConfigError) as error:
            run_rounds(algorithm_of(play.recipe), InProcessRuntime(specs[: least - 1]), state.shared, Path(), rounds=1)
        assert f"at least {least} sites" in str(error.value) and "\n" not in str(error.value)

    return check


def norm_clip(play: Play) -> None:
    """Every change is shortened to the median of their lengths, so a liar counts no more than another."""
    shares_all_but(play)
    state = play.states[0]
    for updates in (play.updates(0), lying(play.updates(0), 1e6)):
        samples = by_samples(updates)
        changes = {u.site: {name: u.shared[name].double() - x for name, x in state.shared.items()} for u in updates}
        norms = {site: float(flat(change).norm()) for site, change in changes.items()}
        bound = sorted(norms.values())[len(norms) // 2]
        expected = {
            name: x
            + sum(w * min(1, bound / norms[s]) * changes[s][name] for s, w in samples.items()) / sum(samples.values())
            for name, x in state.shared.items()
        }
        found = play.server.algorithm.aggregate(state, updates).shared
        assert close(found, expected)
        assert not close(found, average(updates, samples))
        honest = [norms[update.site] for update in play.updates(0)[:-1]]
        assert distance(found, state.shared, state.shared) <= max(honest)


def shortened(factor: float) -> Callable[[Play], None]:
    """Fewer bytes by this factor from the second round on, of the recipe's own network; what is left out is kept."""

    def check(play: Play) -> None:
        assert len(play.turns) == 3 and play.network.cascades == load_recipe(path_of(play.stem)).network.cascades
        shared = play.states[0].shared
        expected = set(shared) - site_parts(play.network)
        assert shared.keys() == expected
        plain = len(play.turns[0]["east"].request)
        assert tensors(play, play.turns[0]["east"].request).keys() == expected
        for round, turns in enumerate(play.turns):
            for turn in turns.values():
                assert turn.update.loaded_digest == play.states[round].digest
                assert same(turn.before, play.states[round].shared, shared)
                assert plain >= factor * len(turn.reply)
                if round > 0 and play.recipe.transform.both_ways:
                    assert plain >= factor * len(turn.request)
                received = {name: turn.update.shared[name].double() - turn.start[name] for name in shared}
                lost = {name: turn.after[name].double() - turn.start[name] - received[name] for name in shared}
                # At first only the last layers have a gradient, which low rank sends as they are.
                assert round == 0 or float(flat(lost).norm()) > 1e-3 * float(flat(received).norm())
        # What was left out until the last round waits at the site, and nowhere else.
        last = len(play.turns)
        for site, turn in play.turns[-1].items():
            before, after = (site_memory(play, site, "residual.", version) for version in (last - 1, last))
            owed = {name: before[name] + turn.after[name].double() - turn.update.shared[name] for name in shared}
            assert float(flat(before).norm()) > 0 and close(after, owed, 1e-3)
        assert not any("residual" in name for name in travelled(play))

    return check


#: What of a play differs from the others': overrides and the number of sites.
SETTINGS: dict[str, tuple[tuple[str, ...], int]] = {
    "acm_fedmri": (("network.channels=8",), 2),
    "fedavg_private": (("federation.rounds=1",), 3),
    "fedavg_secure": (("federation.rounds=1",), 3),
    "fedavg_finetune": (("personal.steps=4", "personal.learning_rate=3e-4"), 2),
    "ditto": (("personal.steps=4", "personal.learning_rate=3e-4"), 2),
    "fedftn": (("personal.steps=4", "personal.learning_rate=3e-4"), 2),
    "fednova": (("training.steps_per_round=4",), 3),
    "gautomri": (("federation.rounds=3",), 3),
    "icp2p": (("federation.rounds=3",), 3),
    "krum": (("federation.rounds=1",), 5),
    "levac": (("personal.steps=4", "personal.learning_rate=3e-4"), 2),
    "median": (("federation.rounds=1",), 3),
    "norm_clip": (("federation.rounds=1",), 3),
    "scaffold": (("federation.rounds=4", "federation.participation=0.3"), 5),
    "scan_physfed": ((), 3),
    "trimmed_mean": (("federation.rounds=1",), 3),
    "varnet": (("training.learning_rate=6e-3",), 2),  # the untrained U-Net is the identity
} | {
    stem: (
        (
            "network.cascades=6",
            "network.channels=16",
            "federation.rounds=3",
            "training.steps_per_round=1",
            "training.learning_rate=6e-3",  # so that what is left out is large against rounding
        ),
        2,
    )
    for stem in ("int8", "low_rank", "qsparse", "topk")
}

PROPERTIES: dict[str, Callable[[Play], None]] = {
    "acm_fedmri": acm_fedmri,
    "ditto": ditto,
    "fed_crfd": aligned("regularizers.*.last.*"),
    "fed_scales": fed_scales,
    "fedadagrad": adaptive(lambda v, squared: v + squared, beta1=0.0),
    "fedadam": adaptive(lambda v, squared: 0.99 * v + 0.01 * squared, beta1=0.9),
    "fedavg": fedavg,
    "fedavg_finetune": fedavg_finetune,
    "fedavg_private": fedavg_private,
    "fedavg_secure": fedavg_secure,
    "fedbn": keeps("*.norm.*"),
    "fedct": fedct,
    "fedfdd": keeps("*.low.*"),
    "fedftn": fedftn,
    "fedgimp": fedgimp,
    "fedm2ct": fedm2ct,
    "fedmri": fedmri,
    "fednova": fednova,
    "fedpaq": fedpaq,
    "fedper": keeps("regularizers.*.last.*"),
    "fedpr": fedpr,
    "fedprox": fedprox,
    "fedpt": fedpt,
    "fedyogi": adaptive(lambda v, squared: v - 0.01 * squared * (v - squared).sign(), beta1=0.9),
    "fl_mrcm": aligned(),
    "gautomri": gautomri,
    "hyperfed": hyperfed,
    "icp2p": icp2p,
    "int8": shortened(3.5),
    "krum": robust(5),
    "levac": levac,
    "lg_fedavg": keeps("regularizers.*.hidden.0.*"),
    "local_adam": local_adam,
    "low_rank": shortened(1.5),
    "med_dual_lora": dual_lora,
    "med_lora": lora,
    "median": robust(3),
    "modfed": modfed,
    "modl": modl,
    "norm_clip": norm_clip,
    "profed": profed,
    "qsparse": shortened(10.0),
    "scaffold": scaffold,
    "scan_physfed": scan_physfed,
    "ssdu": ssdu,
    "ssfedmri": ssfedmri,
    "topk": shortened(10.0),
    "trimmed_mean": robust(3),
    "varnet": varnet,
}


@pytest.mark.parametrize("stem", STEMS)
def test_defining_property(stem: str, hospitals: Hospitals) -> None:
    assert stem in PROPERTIES, f"{stem}.toml: say in PROPERTIES what defines the method"
    overrides, sites = SETTINGS.get(stem, ((), 2))
    PROPERTIES[stem](hospitals.play(stem, *overrides, sites=sites))


def test_every_property_has_a_recipe() -> None:
    assert PROPERTIES.keys() == set(STEMS)
    assert SETTINGS.keys() <= PROPERTIES.keys()


# The recipes together


def test_no_two_recipes_resolve_to_the_same_choices() -> None:
    choices = {stem: load_recipe(path_of(stem)).choices() for stem in STEMS}
    alike = [(a, b) for a, b in combinations(STEMS, 2) if choices[a] == choices[b]]
    assert not alike


@pytest.mark.parametrize("stem", STEMS)
def test_every_recipe_names_its_paper_and_evidence(stem: str) -> None:
    """In its own file: inherited claims belong to another method."""
    own = raw(stem)
    assert len(own.get("paper", "")) > 5
    assert own.get("evidence") in ("defining property tested", "published ordering reproduced")
    if "adapter" in own.get("network", {}):
        assert "Needs network.base" in own["left_out"]


#: Rows of the table of published methods, and their recipes.
METHODS = {
    "FedAvg (FL-MR)": ["fedavg"],
    "FedProx": ["fedprox"],
    "FedAdam / FedYogi / FedAdagrad": ["fedadam", "fedyogi", "fedadagrad"],
    "SCAFFOLD": ["scaffold"],
    "FedBN / FedPer / LG-FedAvg": ["fedbn", "fedper", "lg_fedavg"],
    "FL-MRCM": ["fl_mrcm"],
    "FedMRI": ["fedmri"],
    "FedPR": ["fedpr"],
    "ModFed": ["modfed"],
    "Levac": ["levac"],
    "GAutoMRI without its search": ["gautomri"],
    "SSFedMRI": ["ssfedmri"],
    "ACM-FedMRI": ["acm_fedmri"],
    "FedGIMP / FedGAT": ["fedgimp"],
    "Fed-CRFD": ["fed_crfd"],
    "HyperFed": ["hyperfed"],
    "FedCT": ["fedct"],
    "FedFDD": ["fedfdd"],
    "SCAN-PhysFed": ["scan_physfed"],
    "ProFed": ["profed"],
    "FedM2CT": ["fedm2ct"],
    "icP2P-FL": ["icp2p"],
    "FTL / FedFTN": ["fedavg_finetune", "fedftn"],
    "Ditto": ["ditto"],
    "Fed-MedLoRA / Med-DualLoRA": ["med_lora", "med_dual_lora"],
    # Server rules and transforms of the five choices that no row names.
    "FedNova": ["fednova"],
    "Robust rules": ["median", "trimmed_mean", "krum", "norm_clip"],
    "Transforms": ["int8", "topk", "low_rank", "fedpaq"],
    "FedPT": ["fedpt"],
    "Local Adam": ["local_adam"],
    "MoDL / VarNet": ["modl", "varnet"],
}


def test_every_published_method_has_a_recipe() -> None:
    missing = {row: stem for row, stems in METHODS.items() for stem in stems if stem not in STEMS}
    assert not missing


#: Recipes whose ways through the commands differ: what travels, what is kept, how sites train, what comes afterwards.
WAYS = (
    "fedavg", "fedavg_finetune", "fedavg_secure", "fedct", "fedm2ct", "fedpr", "hyperfed", "med_lora", "modfed",
    "scaffold", "ssdu", "topk",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stem", WAYS)
def test_two_rounds(stem: str, hospitals: Hospitals, tmp_path: Path) -> None:
    """Trained together and alone, its personal stage, scored and reported, as the command line does it."""
    steps = ("personal.steps=2",) if raw(stem).get("personal", {}).get("steps") else ()
    recipe = load_recipe(path_of(stem), [*hospitals.overrides(stem), *steps, "evaluation.arms=['local']"])
    manifests = hospitals.manifests(stem, SETTINGS.get(stem, ((), 2))[1])
    run = train_run(recipe, manifests, tmp_path / "run", jobs=1, resume=False, say=lambda _: None)
    results = evaluate_run(run.path, jobs=1, say=lambda _: None)
    assert results["method"] == stem and (run.path / "report.html").is_file()
    scores = results["arms"][stem]["sites"]
    assert scores.keys() == {manifest.name for manifest in manifests}
    assert all(score["psnr"] > 5 for score in scores.values())
