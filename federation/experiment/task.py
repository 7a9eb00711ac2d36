"""The task of a site: training and validation of the network on the data of its manifest."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recon import (
    PENALTIES,
    ChosenSlices,
    DataError,
    MaskedImages,
    Penalty,
    Proximal,
    RoundStart,
    TaskNetwork,
    VolumeSlices,
    doing,
    error_bar_misfit,
    error_bars_of,
    evaluate,
    explained_variance,
    require_hold_out,
    task_score_in_db,
    train_locally,
    train_privately,
    validation_accuracy,
)

from ..config import ConfigError
from ..methods import derive_seed, load_parameters, parameter_scope, parameters_of, selected_state
from ..privacy import PrivateSteps
from ..recipes import ObjectiveSection, Recipe, load_recipe, network_of, run_of_base
from ..rounds import LocalResult, RoundContext, SiteSpec
from ..serialization import Layout, State, below, layout, under
from ..sites import Patients, SiteManifest, Split, patients_of
from .head_labels import has_labels, require_labels
from .head_slices import head_slices, keeps_images, seen_slices

#: Prefix of SCAFFOLD's control variates among the tensors beside the parameters; a penalty's prefix is its name.
CONTROL = "control."
#: Share of the misfit of error bars in the validation score, in dB: it decides between equal images alone.
_SHARE_OF_ERROR_BARS = 1e-3
#: Validation slices on which it is measured.
_SLICES_OF_ERROR_BARS = 4
#: Marks the message of a failed device, after which another attempt may succeed; a reply keeps nothing but the message.
DEVICE_FAILED = "device: failed"
_OF_A_GPU = ("CUDA", "cuDNN", "CUBLAS", "CUFFT")


@dataclass(frozen=True)
class ReconstructionTask:
    """Training and validation on the slices of one manifest, by one recipe.

    Parameters
    ----------
    maps_folder
        Folder of the site's estimated coil maps.
    """

    manifest: SiteManifest
    recipe: Recipe
    maps_folder: Path

    @property
    def raw_coils(self) -> bool:
        """Whether the network takes coils and readout as measured, see :class:`recon.KSpaceSlices`."""
        return self.recipe.network.settings().raw_coils

    def network(self) -> nn.Module:
        network = network_of(self.recipe, self.manifest)
        base = None if self.recipe.task is None else run_of_base(self.recipe)
        if base is not None:
            # Of the run, also what this site keeps: the head reads the image that the site had there.
            load_parameters(network.get_submodule("reconstruction"), self._parameters_in(base))
        return network

    def _parameters_in(self, base: Path) -> State:
        """All parameters of the network that the site had in the selected round of another run."""
        state, recipe = selected_state(base), load_recipe(base / "recipe.toml")
        site = site_spec(self.manifest, recipe, kept_folder(base, self.manifest.name), self.maps_folder).build()
        network = site.network_at(state.shared, state.round)
        if isinstance(network, TaskNetwork):  # trained end to end
            network = network.reconstruction
        return parameters_of(network, [name for name, _ in network.named_parameters()])

    @property
    def reads_images(self) -> bool:
        """Whether the head reads images of the network in training, and not references."""
        return self.recipe.task is not None and self.recipe.task.input != "reference"

    def aux(self, network: nn.Module, shared: State) -> Layout:
        return aux_layout(self.recipe, network, shared)

    @contextmanager
    def at_work(self, method: nn.Module) -> Iterator[None]:
        """Context with a method on the device of the site, back on the CPU afterwards.

        GPUs compute in full single precision (no TF32) in it, so that scores do not depend on the device.

        Raises
        ------
        ConfigError
            If this machine has no such device.
        DataError
            If the device fails, for example out of memory; the message holds :data:`DEVICE_FAILED`.
        """
        device = self.manifest.torch_device()
        if device.type == "cpu":
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            try:
                try:
                    method.to(device)
                    yield
                finally:
                    method.to("cpu")
                    torch.cuda.empty_cache()  # for the other sites' processes
            except RuntimeError as error:
                reason = str(error).split("\n")[0]
                if not isinstance(error, torch.OutOfMemoryError) and not any(word in reason for word in _OF_A_GPU):
                    raise
                raise DataError(
                    f"{self.manifest.path}: {DEVICE_FAILED} ({device}: {reason}); run fewer sites at a time on it "
                    "(--jobs 1), give the site another, or leave the key out"
                ) from None

    def train(self, network: nn.Module, *, round: int, steps: int, seed: int, context: RoundContext) -> LocalResult:
        with self.at_work(network):
            return self._train(network, round, steps, seed, context)

    def _train(self, network: nn.Module, round: int, steps: int, seed: int, context: RoundContext) -> LocalResult:
        training = self.recipe.training
        require_labels(self.recipe, [self.manifest])
        dataset = self.dataset("train")
        objective = self.recipe.build_objective()
        if round == 0 and getattr(objective, "holds_out", False):
            require_hold_out(dataset)
        samples, objective = head_slices(self.recipe, self.manifest, network, dataset, objective)
        how: dict[str, Any] = {
            "steps": steps,
            "batch_size": training.batch_size,
            "learning_rate": training.learning_rate_at(round / self.recipe.federation.rounds),
            "objective": objective,
            "penalties": _penalties_of_round(self.recipe.objective, network, context, round),
            "optimizer": training.optimizer,
            "momentum": training.momentum,
            "seed": seed,
            "optimizer_state": context.optimizer_state,
        }
        noise = self.recipe.privacy.noise()
        if noise is not None:
            sharing, patients = self.recipe.privacy.shared_noise, self.patients(dataset).slices
            part = noise.part_of(self.recipe.privacy.shared_by)
            private = train_privately(network, samples, patients, part, collect_gradients=sharing, **how)
            # One plain step, which float32 would round at each site before the noises of all are in it.
            change = {name: -how["learning_rate"] * g for name, g in private.mean_gradient.items()} if sharing else {}
            # Without the losses, which have no noise.
            return LocalResult((), _on_cpu(private.optimizer_state), len(dataset), change=_on_cpu(change))
        # SCAFFOLD: control variate of the server minus that of the site.
        server = below(CONTROL, context.aux)
        own = {name: context.memory.get(CONTROL + name, torch.zeros_like(c)) for name, c in server.items()}
        correction = {name: server[name] - own[name] for name in server}
        result = train_locally(network, samples, correction=correction, collect_gradients=bool(server), **how)
        # The site adds to its control variate the change that it sends, rounded as the server receives it.
        sent = {CONTROL + name: result.mean_gradient[name].cpu() - own[name] for name in server}
        memory = under(CONTROL, {name: own[name] + sent[CONTROL + name] for name in server})
        for name, penalty, options in _penalties(self.recipe.objective):
            sent |= under(f"{name}.", _on_cpu(penalty.measure(network, dataset, **options)))
        return LocalResult(result.losses, _on_cpu(result.optimizer_state), len(dataset), memory, sent)

    def patients(self, samples: VolumeSlices | None = None) -> Patients:
        """The patients in the training slices, which are ``samples`` if given."""
        return patients_of(self.manifest, self.dataset("train") if samples is None else samples)

    def private_steps(self, steps: int) -> PrivateSteps:
        """What so many private steps cost the patients of the site.

        Raises
        ------
        ConfigError
            If it has fewer patients than a step needs.
        """
        return private_steps(self.recipe, self.manifest, len(self.patients()), steps)

    def penalties_of_a_round(self, network: nn.Module) -> list[Penalty]:
        """The penalties of a round after the first, as if nothing had changed since the first."""
        shared = parameters_of(network, parameter_scope(network, self.recipe.scope.rules()).shared)
        aux = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in self.aux(network, shared).items()}
        return _penalties_of_round(self.recipe.objective, network, RoundContext(shared, aux, shared, None, {}), 1)

    def fine_tune(self, network: nn.Module, shared: State) -> None:
        """The steps of the personal stage on all parameters that are not frozen, in place and with a new optimizer.

        Parameters
        ----------
        shared
            The selected shared parameters, to which ``personal.proximal`` pulls those of the site.
        """
        stage = self.recipe.personal
        training, seed = self.recipe.training, self.recipe.federation.seed
        with self.at_work(network):
            samples, objective = head_slices(
                self.recipe, self.manifest, network, self.dataset("train"), self.recipe.build_objective()
            )
            train_locally(
                network,
                samples,
                steps=stage.steps,
                batch_size=training.batch_size,
                learning_rate=stage.learning_rate,
                objective=objective,
                penalties=[Proximal(stage.proximal, shared)] if stage.proximal else (),
                optimizer=training.optimizer,
                momentum=training.momentum,
                seed=derive_seed(seed, "personal", self.manifest.name),
            )

    def validate(self, network: nn.Module) -> float | None:
        if not self.manifest.data.validation:
            return None
        samples = self.validation_slices()
        with self.at_work(network), doing("validation"):
            if isinstance(network, TaskNetwork):
                return self._score_of_head(network, samples)
            score = evaluate(network, samples).selection_score()
            if score is None or error_bars_of(network) is None:
                return score
            # Of rounds with equal images, the one with the better error bars.
            return score - _SHARE_OF_ERROR_BARS * (error_bar_misfit(network, samples, _SLICES_OF_ERROR_BARS) or 0.0)

    def _score_of_head(self, network: TaskNetwork, samples: ChosenSlices) -> float | None:
        objective = self.recipe.build_objective()
        if isinstance(objective, MaskedImages):
            on_reference, patch, part = not self.reads_images, objective.patch, objective.part
            explained = explained_variance(network, samples, on_reference=on_reference, patch=patch, part=part)
            return None if explained is None else task_score_in_db(explained)
        if not has_labels(self.recipe, self.manifest):
            return None
        if keeps_images(self.recipe, network):
            seen = seen_slices(self.recipe, self.manifest, network, samples.slices)
            accuracy = validation_accuracy(network, [seen[index] for index in samples.indices], on_reference=True)
        else:
            accuracy = validation_accuracy(network, samples, on_reference=not self.reads_images)
        return None if accuracy is None else task_score_in_db(accuracy)

    def validation_slices(self) -> ChosenSlices:
        """The validation slices of every round."""
        return ChosenSlices(self.dataset("validation"), self.recipe.evaluation.validation_slices)

    def dataset(self, split: Split) -> VolumeSlices:
        """Slices of a split; training slices with the augmentation and the new draws of the recipe."""
        return self._slices(split, trains=split == "train")

    def measured(self, split: Split) -> VolumeSlices:
        """Slices of a split as the network takes them, as measured."""
        return self._slices(split, trains=False)

    def _slices(self, split: Split, *, trains: bool) -> VolumeSlices:
        training = self.recipe.training
        return self.manifest.dataset(
            split,
            self.maps_folder,
            training.augmentation() if trains else None,
            self.recipe.federation.seed,
            redraw=training.redraw and trains,
            raw_coils=self.raw_coils,
        )


def private_steps(recipe: Recipe, manifest: SiteManifest, patients: int, steps: int) -> PrivateSteps:
    """So many private steps by a recipe, at a site with so many patients.

    Raises
    ------
    ConfigError
        If it has fewer patients than a step needs, or delta is too large for their number.
    """
    noise, delta = recipe.privacy.noise(), recipe.privacy.delta
    if noise is None:
        raise ValueError(f"private_steps: the recipe {recipe.name} has no noise, expected some")
    where = f"{manifest.path}: data.train has {patients} patient{'s' * (patients != 1)}"
    if patients < noise.patients_per_step:
        raise ConfigError(f"{where}, expected at least privacy.patients_per_step, {noise.patients_per_step}; lower it")
    if delta * patients >= 1:
        raise ConfigError(f"{where}, expected privacy.delta, {delta:g}, below one in their number; lower it")
    return PrivateSteps(steps, noise.probability(patients), noise.noise_multiplier, recipe.privacy.shared_by, patients)


def aux_layout(recipe: Recipe, network: nn.Module, shared: State) -> Layout:
    """Layout of the tensors beside the parameters: control variates of the server rule, tensors of penalties.

    Raises
    ------
    ConfigError
        If a penalty cannot be used with the network or its options.
    """
    aux = dict(layout(recipe.federation.rule().aux_layout(shared)))
    for name, penalty, options in _penalties(recipe.objective):
        try:
            sent = layout(penalty.sends(network, **options))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"recipe: objective.{name}: {' '.join(str(error).split())}") from error
        aux.update(under(f"{name}.", sent))
    return aux


def _on_cpu(state: State) -> State:
    return {name: tensor.cpu() for name, tensor in state.items()}


def _penalties(objective: ObjectiveSection) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, class and options of every penalty."""
    for name in objective.penalties():
        yield name, PENALTIES[name], objective.penalty_options(name)


def _penalties_of_round(
    objective: ObjectiveSection, network: nn.Module, context: RoundContext, round: int
) -> list[Penalty]:
    """The penalties of a round; those that need an earlier round begin with the second."""
    made = []
    for name, penalty, options in _penalties(objective):
        at = RoundStart(network, context.shared, context.previous, below(f"{name}.", context.aux), round)
        made.append(penalty.for_round(objective.weight(name), at, **options))
    return [penalty for penalty in made if penalty is not None]


def kept_folder(run: Path, site: str) -> Path:
    """Folder of the kept state of a site in the folder of a run."""
    return run / "sites" / site / "kept"


def site_spec(
    manifest: SiteManifest, recipe: Recipe, folder: Path | str, maps_folder: Path | str, arm: str = ""
) -> SiteSpec:
    """Specification of a site in the rounds; ``folder`` holds its kept state, ``arm`` names the arm in the progress."""
    return SiteSpec(
        name=manifest.name,
        task=partial(ReconstructionTask, manifest, recipe, Path(maps_folder)),
        folder=Path(folder),
        seed=recipe.federation.seed,
        steps=recipe.training.steps_per_round,
        scope=recipe.scope.rules(),
        least_work=recipe.federation.least_work,
        chain=recipe.transform.build(),
        feedback=recipe.transform.feedback,
        keep_previous=any(penalty.needs_previous for _, penalty, _ in _penalties(recipe.objective)),
        keep_broadcast=recipe.transform.both_ways,
        optimizer_state=recipe.training.optimizer_state,
        score_after=recipe.federation.uses_score_after,
        rounds=recipe.federation.rounds,
        arm=arm,
        delta=None if recipe.privacy.noise() is None else recipe.privacy.delta,
        shared_noise=recipe.privacy.shared_noise,
    )
