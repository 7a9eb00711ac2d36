"""Scores of every arm at one site, computed at the site: what leaves is returned, the rest is written there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from physics import CartesianMRI
from recon import (
    CLASSICAL,
    CGSense,
    L1Wavelet,
    Sample,
    Samples,
    TotalVariation,
    VolumeImages,
    evaluate,
    tune,
    write_hdf5,
)

from .algorithm import ServerState
from .config import LOCAL
from .experiment import RunFolder
from .manifest import SiteManifest
from .scope import parameter_scope
from .task import ReconstructionTask, build_network

#: Relative dampings that CG-SENSE is tuned over.
CG_WEIGHTS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


@dataclass(frozen=True)
class SiteResult:
    """Outcome of :func:`score_site`.

    ``arms`` holds scores per arm as in ``report.json``; ``pictures`` one slice, reference and arms; ``facts`` what is
    printed about the site; ``references`` and ``crops`` what the metric card must name.
    """

    arms: dict[str, dict[str, Any]]
    pictures: dict[str, np.ndarray[Any, Any]]
    facts: dict[str, Any]
    references: tuple[str, ...]
    crops: tuple[tuple[int, int], ...]


def score_site(job: tuple[RunFolder, str, ServerState]) -> SiteResult:
    """Score every arm of the recipe on the test data of one site.

    Parameters
    ----------
    job
        The run, the site's name, the federation's selected state.
    """
    run, name, state = job
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    samples = task.dataset("test")
    arms: dict[str, dict[str, Any]] = {}
    collected = _Collected()
    tuned: dict[str, float] = {}
    for arm, method in _methods(run, manifest, task, state, tuned).items():
        arms[arm] = evaluate(method, samples, on_volume=collected.receiver(arm)).to_json()
    for arm, weight in tuned.items():
        arms[arm]["tuned_weight"] = weight
    if manifest.synthetic:
        collected.write_test_set(run, name)
    return SiteResult(
        arms,
        collected.pictures(),
        _facts(run, manifest, task, tuned),
        tuple(sorted(set(samples.reference_kinds))),
        tuple(sorted(collected.crops)),
    )


def _methods(
    run: RunFolder,
    manifest: SiteManifest,
    task: ReconstructionTask,
    state: ServerState,
    tuned: dict[str, float],
) -> dict[str, nn.Module]:
    """Every arm's method at this site, in the order of the report."""
    methods: dict[str, nn.Module] = {}
    for arm in run.recipe.evaluation.arms:
        if arm != LOCAL:
            methods[arm] = _classical(arm, run, task, tuned)
        elif manifest.data.train:
            local = run.selected(local=manifest.name)
            methods[arm] = run.spec(manifest, local=True).build().network_at(local.shared, local.round)
    methods[run.recipe.name] = run.spec(manifest).build().network_at(state.shared, state.round)
    return methods


def _classical(arm: str, run: RunFolder, task: ReconstructionTask, tuned: dict[str, float]) -> nn.Module:
    """A classical method, its weight tuned on validation slices of the site where it has some."""
    make = CLASSICAL[arm]
    weights: dict[type[nn.Module], Sequence[float]] = {
        CGSense: CG_WEIGHTS,
        TotalVariation: run.recipe.evaluation.tv_weights,
        L1Wavelet: run.recipe.evaluation.tv_weights,
    }
    if make not in weights or not task.manifest.data.validation:
        return make()
    slices = _spread(task.dataset("validation"), run.recipe.evaluation.tv_slices)

    def score(method: nn.Module) -> float:
        found = evaluate(method, slices).selection_score()
        return -np.inf if found is None else found

    factory: Callable[[float], nn.Module] = make
    method, tuned[arm], _ = tune(factory, weights[make], score)
    return method


def _spread(samples: Samples, count: int) -> list[Sample]:
    """Slices evenly spread over a data set, each counted as a volume of its own by its position."""
    positions = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[int(position)] for position in sorted(set(positions))]


class _Collected:
    """Images of the test set as the arms make them."""

    def __init__(self) -> None:
        self.images: dict[str, list[np.ndarray[Any, Any]]] = {}
        self.references: list[np.ndarray[Any, Any]] = []
        self.samples: list[Sample] = []
        self.crops: set[tuple[int, int]] = set()

    def receiver(self, arm: str) -> Callable[[VolumeImages], None]:
        """Keeps the images of one arm; the first arm also brings reference and samples."""
        first = not self.images
        images = self.images.setdefault(arm, [])

        def receive(volume: VolumeImages) -> None:
            images.append(volume.images.numpy())
            self.crops.add((volume.images.shape[-2], volume.images.shape[-1]))
            if first:
                self.samples += volume.samples
                if volume.reference is not None:
                    self.references.append(volume.reference.numpy())

        return receive

    def pictures(self) -> dict[str, np.ndarray[Any, Any]]:
        """The middle slice of the first volume: reference, where there is one, and arms."""
        middle = len(next(iter(self.images.values()))[0]) // 2
        named = {arm: volumes[0][middle] for arm, volumes in self.images.items()}
        return ({"reference": self.references[0][middle]} if self.references else {}) | named

    def write_test_set(self, run: RunFolder, name: str) -> None:
        """Write ``test/<site>.h5``: whitened, scaled k-space, masks and maps as the arms saw them, magnitudes.

        Slices of all volumes follow each other; ``volume`` names that of each slice. ``reference_complex`` is what
        ``CartesianMRI(maps, mask)`` maps to the noise-free ``kspace``.
        """
        if not self.references or len({sample.measurement.shape for sample in self.samples}) > 1:
            return  # simulated sites have references of one shape; nothing else belongs into this file
        operators = [sample.operator for sample in self.samples]
        masks = [A.mask.expand(A.domain_shape) for A in operators if isinstance(A, CartesianMRI)]
        maps = [A.maps for A in operators if isinstance(A, CartesianMRI)]
        arrays: dict[str, Any] = {
            "kspace": torch.stack([sample.measurement for sample in self.samples]).numpy(),
            "mask": torch.stack(masks).numpy(),
            "maps": torch.stack(maps).numpy(),
            "reference": np.concatenate(self.references),
            "volume": np.array([sample.meta[0].volume for sample in self.samples], dtype="S"),
            "noise_std": torch.stack([sample.noise_std for sample in self.samples]).numpy(),
        }
        complex_references = [sample.reference for sample in self.samples if sample.reference is not None]
        arrays["reference_complex"] = torch.stack(complex_references).numpy()
        arrays |= {f"images/{arm}": np.concatenate(volumes) for arm, volumes in self.images.items()}
        attributes = {"site": name, "recipe": run.recipe.name, "recipe_digest": run.recipe.digest()}
        write_hdf5(run.path / "test" / f"{name}.h5", arrays, attributes)


def _facts(run: RunFolder, manifest: SiteManifest, task: ReconstructionTask, tuned: dict[str, float]) -> dict[str, Any]:
    samples = task.dataset("test")
    accelerations = [samples.acceleration(number) for number in range(len(samples.volumes))]
    network = build_network(run.recipe.network)
    scope = parameter_scope(network, run.recipe.scope.keep, run.recipe.scope.share)
    sizes = {parameter: tensor.numel() for parameter, tensor in network.named_parameters()}
    simulation = manifest.simulation()
    acquisition = manifest.acquisition.model_dump(exclude_none=True)
    return {
        "synthetic": manifest.synthetic,
        "unseen": manifest.unseen,
        "coils": sorted({volume.shape[1] for volume in samples.volumes}),
        "sampling": "as measured" if simulation is None else simulation.sampling,
        "nominal_acceleration": None if simulation is None else simulation.acceleration,
        "effective_acceleration": sum(accelerations) / len(accelerations),
        "noise_std": None if simulation is None else simulation.noise_std,
        "maps": manifest.data.maps,
        "volumes": {split: len(getattr(manifest.data, split)) for split in ("train", "validation", "test")},
        "test_slices": len(samples),
        "parameters_shared": sum(sizes[parameter] for parameter in scope.shared),
        "parameters_kept": sum(sizes[parameter] for parameter in scope.kept),
        "tuned_weights": tuned,
        "acquisition": acquisition,
    }
