"""Centralized arms: training on the data of all sites at once, with one regularizer and a data consistency per site."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from recon import (
    MEAN_OF_SITES,
    PREPARING,
    DataError,
    Learner,
    LearningCurve,
    Stepper,
    Supervised,
    TaskTerm,
    doing,
    train_in_turns,
)

from ..config import config_error
from ..methods import RoundScore, best_of, derive_seed, load_parameters, parameter_scope, parameters_of
from ..progress import within
from ..recipes import CENTRALIZED, Recipe
from ..rounds import Stopping, initial_network
from ..serialization import load_newest, save_checkpoint
from ..sites import SiteManifest
from .learning import curve, trained_parameters, training_slices
from .run_folder import RunFolder
from .task import ReconstructionTask

#: ``joint``: a step uses a batch of every site; as many steps as a site makes in the federation. ``sequential``: a step
#: uses a batch of one site, and sites take turns; as many steps as all sites make together.
Updates = Literal["joint", "sequential"]


@dataclass(frozen=True)
class CentralArm:
    """Training with all data in one place, the reference for a federation.

    All sites have the same regularizer; each keeps its data consistency, as in the federation. Training runs on the
    device of the first site.

    Parameters
    ----------
    recipe
        Network, scope, loss, optimizer, learning rate, rounds, steps and patience are used; penalties, transform and
        personal stage are not. Differential privacy is refused.
    maps
        Folder of the estimated coil maps by site.
    task
        What a step minimizes; None: the distance to the reference.
    """

    recipe: Recipe
    manifests: tuple[SiteManifest, ...]
    folder: Path
    maps: Mapping[str, Path]
    updates: Updates
    task: TaskTerm | None = None

    def __post_init__(self) -> None:
        if self.recipe.privacy.noise() is not None:
            expected = "none in a centralized arm, which trains without noise"
            advice = "leave [privacy] out, or train it as a federation"
            raise config_error(f"recipe {self.recipe.name}", "privacy.noise_multiplier", "noise", expected, advice)

    def train(self) -> dict[str, nn.Module]:
        """Networks by site from the round with the best mean validation score; stored in the folder and read again.

        Without scores, from the last round.

        Raises
        ------
        DataError
            If training diverges.
        """
        tasks = {m.name: ReconstructionTask(m, self.recipe, self.maps[m.name]) for m in self.manifests}
        networks = self._networks(tasks)
        done = load_newest(self.folder)
        if done is None or done.round != self.recipe.federation.rounds:  # of a run that goes on with more rounds
            best, history = self._best(tasks, networks)
            numbers = {"history": [list(score) for score in history]}
            save_checkpoint(self.folder, self.recipe.federation.rounds, best, numbers)
        else:
            best = dict(done.tensors)
        for site, network in networks.items():
            load_parameters(network, {name: best[f"{site}/{name}"] for name, _ in network.named_parameters()})
        return {site: copy.deepcopy(network) for site, network in networks.items()}

    def network_at(self, manifest: SiteManifest, networks: Mapping[str, nn.Module]) -> nn.Module:
        """The network of a site of :meth:`train`; at an unseen one with the shared parameters, others as initialized.

        Parameters
        ----------
        networks
            Those of :meth:`train`.
        """
        if manifest.name in networks:
            return networks[manifest.name]
        first = next(iter(networks.values()))
        shared = parameters_of(first, parameter_scope(first, self.recipe.scope.rules()).shared)
        task = ReconstructionTask(manifest, self.recipe, self.maps[manifest.name])
        network = initial_network(task.network, self.recipe.federation.seed)
        load_parameters(network, shared)
        return network

    @property
    def history(self) -> tuple[RoundScore, ...]:
        """Validation scores of the rounds of a trained arm; empty if an older fedrecon trained it."""
        done = load_newest(self.folder)
        return () if done is None else tuple(RoundScore(*score) for score in done.numbers.get("history", ()))

    @property
    def rounds_made(self) -> int:
        """Rounds that a trained arm made."""
        history = self.history
        return history[-1].round if history else self.recipe.federation.rounds

    @property
    def steps_per_round(self) -> int:
        """Optimizer steps of a round."""
        return self.recipe.training.steps_per_round * (len(self.manifests) if self.updates == "sequential" else 1)

    @property
    def curves(self) -> list[LearningCurve]:
        """The learning curve of a trained arm; none without scores by round."""
        history = self.history
        if not history:
            return []
        best = best_of(history)
        selected = history[-1].round if best is None else best.round
        slices = {m.name: training_slices(self.recipe, m, self.maps[m.name]) for m in self.manifests}
        size = max(trained_parameters(self.recipe, manifest) for manifest in self.manifests)
        steps = selected * self.steps_per_round
        return [curve(self.recipe, MEAN_OF_SITES, history, selected, steps, slices, size)]

    def _networks(self, tasks: Mapping[str, ReconstructionTask]) -> dict[str, nn.Module]:
        """One network per site; their shared parameters are the same tensors."""
        seed = self.recipe.federation.seed
        networks = {site: initial_network(task.network, seed) for site, task in tasks.items()}
        shared = dict(next(iter(networks.values())).named_parameters())
        for network in networks.values():
            scope = parameter_scope(network, self.recipe.scope.rules())
            for name in scope.frozen:
                network.get_parameter(name).requires_grad_(False)
            for name in scope.shared:
                parent, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(parent), leaf, shared[name])
        return networks

    def _best(
        self, tasks: Mapping[str, ReconstructionTask], networks: Mapping[str, nn.Module]
    ) -> tuple[dict[str, torch.Tensor], list[RoundScore]]:
        """Train; parameters of the best round by site and name, as :func:`_state` gives them, and all scores."""
        training, rounds, seed = self.recipe.training, self.recipe.federation.rounds, self.recipe.federation.seed
        learners = [
            Learner(
                networks[site],
                task.dataset("train"),
                batch_size=training.batch_size,
                seed=derive_seed(seed, "central", site),
                objective=self.task or Supervised(training.loss),
            )
            for site, task in tasks.items()
        ]
        turns = [learners] if self.updates == "joint" else [[learner] for learner in learners]
        together = nn.ModuleList(networks.values())  # names a shared parameter once
        stepper = Stepper(
            dict(together.named_parameters()), training.optimizer, training.learning_rate, training.momentum
        )
        first_site = next(iter(tasks.values()))
        state: dict[str, torch.Tensor] = {}
        history: list[RoundScore] = []
        stopping = Stopping(rounds, training.patience)
        while True:
            round_ = len(history)
            scores = [score for site, task in tasks.items() if (score := task.validate(networks[site])) is not None]
            history.append(RoundScore(round_, len(scores), sum(scores) / len(scores) if scores else None))
            best = best_of(history)
            if best is None or best.round == round_:
                state = _state(networks)
            if stopping.is_over(history):
                return state, history
            stepper.set_learning_rate(training.learning_rate_at(round_ / rounds))
            try:
                with first_site.at_work(together):
                    train_in_turns(stepper, turns * training.steps_per_round)
            except DataError as error:
                raise DataError(f"{self.updates} arm: {error}") from None


def central_arm(run: RunFolder) -> CentralArm:
    """The centralized arm of a run: as many steps as all sites make together, on what the recipe minimizes."""
    maps = {manifest.name: run.maps_folder(manifest.name) for manifest in run.manifests}
    task = run.recipe.build_objective()
    return CentralArm(run.recipe, run.participants, run.path / CENTRALIZED, maps, "sequential", task)


def train_centrally(run: RunFolder) -> RoundScore | None:
    """Train the centralized arm of a run; if it is interrupted, it begins anew. Returns its best score, None: none."""
    arm = central_arm(run)
    with within(site=CENTRALIZED, part="centralized arm"), doing(PREPARING):
        arm.train()
    return best_of(arm.history)


def _state(networks: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    return {
        f"{site}/{name}": tensor
        for site, network in networks.items()
        for name, tensor in parameters_of(network, [name for name, _ in network.named_parameters()]).items()
    }
