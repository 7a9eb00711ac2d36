"""The centralized arms: the data of all sites in one place, one regularizer, every site's own data consistency."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from recon import LOSSES, DataError, Sample, VolumeSlices, apply, batches, cosine_learning_rate

from ..experiment import ReconstructionTask
from ..methods import derive_seed, load_parameters, parameter_scope, parameters_of
from ..recipes import Recipe
from ..rounds import initial_network
from ..serialization import load_newest, save_checkpoint
from ..sites import SiteManifest

#: ``joint``: as many steps as a site makes, each on a batch of every site. ``sequential``: a step per site and batch,
#: as many as all sites make together.
Updates = Literal["joint", "sequential"]


@dataclass(frozen=True)
class CentralArm:
    """Training with all data in one place, the bound that a federation is measured against.

    The regularizer is one and the same; each site keeps its data consistency, as in the federation.

    Parameters
    ----------
    recipe
        Network, loss, learning rate, rounds and steps; Adam on the references. Its other choices are not used.
    caches
        Folder of the estimated coil maps by site.
    """

    recipe: Recipe
    manifests: tuple[SiteManifest, ...]
    folder: Path
    caches: Mapping[str, Path]
    updates: Updates

    def train(self) -> dict[str, nn.Module]:
        """Networks by site, those of the round with the best mean validation score; done once, then read.

        Raises
        ------
        DataError
            If training diverges.
        """
        tasks = {m.name: ReconstructionTask(m, self.recipe, self.caches[m.name]) for m in self.manifests}
        networks = self._networks(tasks)
        done = load_newest(self.folder)
        if done is None:
            best = self._best(tasks, networks)
            save_checkpoint(self.folder, self.recipe.federation.rounds, best, {})
        else:
            best = dict(done.tensors)
        for site, network in networks.items():
            load_parameters(network, {name: best[f"{site}/{name}"] for name, _ in network.named_parameters()})
        return {site: copy.deepcopy(network) for site, network in networks.items()}

    def _networks(self, tasks: Mapping[str, ReconstructionTask]) -> dict[str, nn.Module]:
        """One network per site; their shared parameters are the same tensors."""
        seed = self.recipe.federation.seed
        networks = {site: initial_network(task.network, seed) for site, task in tasks.items()}
        first = next(iter(networks.values()))
        shared = dict(first.named_parameters())
        names = parameter_scope(first, self.recipe.scope.rules()).shared
        for network in list(networks.values())[1:]:
            for name in names:
                parent, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(parent), leaf, shared[name])
        return networks

    def _best(
        self, tasks: Mapping[str, ReconstructionTask], networks: Mapping[str, nn.Module]
    ) -> dict[str, torch.Tensor]:
        training, federation = self.recipe.training, self.recipe.federation
        parameters = {id(p): p for network in networks.values() for p in network.parameters() if p.requires_grad}
        optimizer = torch.optim.Adam(parameters.values(), lr=training.learning_rate)
        streams = {site: _endless(task.dataset("train"), training.batch_size, federation.seed, site)
                   for site, task in tasks.items()}  # fmt: skip
        best: dict[str, torch.Tensor] = {}
        best_score = -float("inf")
        turns = itertools.cycle([[site] for site in tasks] if self.updates == "sequential" else [list(tasks)])
        n_steps = training.steps_per_round * (len(tasks) if self.updates == "sequential" else 1)
        for round_ in range(federation.rounds + 1):
            scores = [score for site, task in tasks.items() if (score := task.validate(networks[site])) is not None]
            if not best or sum(scores) > best_score:
                best, best_score = _state(networks), sum(scores)
            if round_ == federation.rounds:
                break
            for group in optimizer.param_groups:
                group["lr"] = cosine_learning_rate(training.learning_rate, round_ / federation.rounds)
            for network in networks.values():
                network.train()
            for sites in itertools.islice(turns, n_steps):
                optimizer.zero_grad(set_to_none=True)
                for site in sites:
                    batch = next(streams[site])
                    loss = LOSSES[training.loss](batch.magnitude(apply(networks[site], batch)), batch.target())
                    if not bool(loss.isfinite()):
                        raise DataError(f"central arm, site {site}: training has diverged; lower the learning rate")
                    (loss / len(sites)).backward()
                optimizer.step()
        return best


def _state(networks: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    return {
        f"{site}/{name}": tensor
        for site, network in networks.items()
        for name, tensor in parameters_of(network, [name for name, _ in network.named_parameters()]).items()
    }


def _endless(samples: VolumeSlices, batch_size: int, seed: int, site: str) -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(derive_seed(seed, "central", site))
    while True:
        yield from batches(samples, batch_size, generator)


def caches_of(manifests: Sequence[SiteManifest], folder: Path) -> dict[str, Path]:
    """Folders of coil maps below one folder, by site."""
    return {manifest.name: folder / manifest.name for manifest in manifests}
