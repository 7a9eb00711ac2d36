"""A federation that trains in milliseconds: linear regression at sites that differ, with kept scales."""

import functools
import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from federation import FederatedAlgorithm, run_rounds
from federation.methods import parameter_scope, parameters_of
from federation.privacy import Member, Roster, SecureSum
from federation.rounds import InProcessRuntime, LocalResult, RoundContext, RunResult, SiteSpec, initial_network
from federation.rounds.masked_site import make_key
from federation.serialization import Layout, State
from recon import SiteDataConsistency

SEED = 7
STEPS = 3


class ToyConsistency(SiteDataConsistency):
    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(2))

    def forward(self, x, y=None, A=None, backprojection=None) -> Tensor:
        return x * self.log_scale.exp().repeat(2)


class ToyNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.consistency = ToyConsistency()
        self.regularizer = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1), nn.Linear(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.regularizer(self.consistency(x))


class ToyData:
    """The memory of a site; counts how many live at the same time."""

    alive = 0
    most_alive = 0

    def __init__(self, site: int, n_samples: int) -> None:
        generator = torch.Generator().manual_seed(site)
        self.x = torch.randn(n_samples, 4, generator=generator)
        self.y = self.x @ torch.randn(4, 4, generator=generator)
        ToyData.alive += 1
        ToyData.most_alive = max(ToyData.alive, ToyData.most_alive)
        weakref.finalize(self, ToyData._gone)

    @staticmethod
    def _gone() -> None:
        ToyData.alive -= 1


class ToyTask:
    def __init__(self, site: int = 0, n_samples: int = 16, has_scores: bool = True) -> None:
        self.data = ToyData(site, n_samples)
        self.has_scores = has_scores

    def network(self) -> nn.Module:
        return ToyNetwork()

    def aux(self, network: nn.Module, shared: State) -> Layout:
        return {}

    def train(self, network: nn.Module, *, round: int, steps: int, seed: int, context: RoundContext) -> LocalResult:
        optimizer_state = context.optimizer_state
        parameters = dict(network.named_parameters())
        adam = torch.optim.Adam(parameters.values(), lr=0.02)
        for name, parameter in parameters.items() if optimizer_state else ():
            adam.state[parameter] = {
                key: optimizer_state[f"{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
            }
        generator = torch.Generator().manual_seed(seed)
        network.train()
        losses = []
        for _ in range(steps):
            batch = torch.randint(len(self.data.x), (4,), generator=generator)
            loss = (network(self.data.x[batch]) - self.data.y[batch]).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(float(loss.detach()))
        moments = {
            f"{key}.{name}": value.clone()
            for name, parameter in parameters.items()
            for key, value in adam.state[parameter].items()
        }
        return LocalResult(losses, moments, len(self.data.x))

    @torch.no_grad()
    def validate(self, network: nn.Module) -> float | None:
        network.eval()
        return -float((network(self.data.x) - self.data.y).square().mean()) if self.has_scores else None


def toy_specs(folder: Path, n_sites: int = 2, task: Callable = ToyTask, **kwargs) -> list[SiteSpec]:
    """Sites ``s0``, ``s1`` ... with 16, 20 ... samples."""
    return [
        SiteSpec(
            f"s{site}",
            functools.partial(task, site, 16 + 4 * site),
            folder / "sites" / f"s{site}",
            seed=SEED,
            steps=STEPS,
            **kwargs,
        )
        for site in range(n_sites)
    ]


def secure_specs(
    folder: Path,
    n_sites: int,
    masked: bool = True,
    task: Callable = ToyTask,
    bits: int = 32,
    weights: Mapping[str, float] | None = None,
    **kwargs,
) -> tuple[list[SiteSpec], SecureSum]:
    """Sites with keys, and the secure sum of their run."""
    specs = toy_specs(folder, n_sites, task=task, **kwargs)
    keys = {spec.name: folder / "keys" / spec.name for spec in specs}
    slices = {f"s{site}": 16 + 4 * site for site in range(n_sites)}
    members = {name: Member(n, make_key(keys[name]).public.hex() if masked else "") for name, n in slices.items()}
    secure = SecureSum(Roster(members), weights or slices, bits, masked=masked, run="toy")
    return [replace(spec, secure=secure, key=keys[spec.name]) for spec in specs], secure


def initial_shared() -> State:
    network = initial_network(ToyNetwork, SEED)
    return parameters_of(network, parameter_scope(network).shared)


def run_toy(
    folder: Path, specs: list[SiteSpec] | None = None, *, jobs: int = 1, rounds: int = 3, **kwargs
) -> RunResult:
    algorithm = kwargs.pop("algorithm", FederatedAlgorithm(seed=SEED))
    with InProcessRuntime(specs or toy_specs(folder), jobs) as runtime:
        return run_rounds(algorithm, runtime, initial_shared(), folder, rounds=rounds, **kwargs)


def traces(folder: Path) -> dict[str, object]:
    """All that a run leaves, but for the seconds: equal traces are bit-identical runs."""
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "rounds.jsonl"
    }
    return {"rows": rows, **files}
