"""Scores of every arm at one site: returns aggregates and pictures, writes the images of simulated sites."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recon import PREPARING, LabelSetControl, VolumeImages, VolumeSlices, doing, evaluate, made, write_hdf5

from ..methods import ServerState, parameter_scope
from ..progress import within
from ..recipes import CENTRALIZED, LOCAL, SHARED, START, consistency_at, network_of
from ..rounds import initial_network
from ..sites import SiteManifest
from .centralized import central_arm
from .classical_arms import classical_method
from .error_bars import calibration_of, score_error_bars, with_half_widths
from .head_scores import controls_of, score_heads
from .personal_stage import site_network
from .pictured_slices import pictured_slices
from .run_folder import RunFolder
from .task import ReconstructionTask
from .usual_scans import write_usual_scans


@dataclass(frozen=True)
class SiteResult:
    """Outcome of :func:`score_site`.

    ``arms`` holds scores per arm as in ``report.json``; ``pictures`` the slices of :func:`pictured_slices`; ``facts``
    the description of the site; ``references`` and ``crops`` entries of the metric card; ``quality`` image quality
    per arm, see :class:`recon.Quality`; ``error_bars`` coverage and width, see :func:`recon.coverage_scores`; ``task``
    scores of the head per arm, see :func:`recon.task_scores`.
    """

    arms: dict[str, dict[str, Any]]
    pictures: list[dict[str, Any]]
    facts: dict[str, Any]
    references: tuple[str, ...]
    crops: tuple[tuple[int, int], ...]
    quality: dict[str, dict[str, Any]]
    error_bars: dict[str, Any] | None = None
    task: dict[str, dict[str, Any]] | None = None


def score_site(job: tuple[RunFolder, str, ServerState]) -> SiteResult:
    """Score every arm of the recipe on the test data of one site.

    Parameters
    ----------
    job
        The run, the name of the site, the selected state of the federation.
    """
    run, name, state = job
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    with within(site=name, part="tests"), doing(PREPARING):
        methods, tuned = _methods(run, manifest, task, state)
        sets = controls_of(run, name)
        found = score_methods(task, methods, tuned, keep_in=run if manifest.synthetic else None, label_sets=sets)
        write_usual_scans(run, task, methods[run.recipe.name])
        if (calibration := calibration_of(run, name)) is None:
            return found
        network = methods[run.recipe.name]
        pictures = with_half_widths(found.pictures, task, network, calibration.factor)
        return replace(found, error_bars=score_error_bars(task, network, calibration), pictures=pictures)


def score_methods(
    task: ReconstructionTask,
    methods: Mapping[str, nn.Module],
    tuned: Mapping[str, float] | None = None,
    *,
    keep_in: RunFolder | None = None,
    label_sets: Mapping[str, LabelSetControl] | None = None,
) -> SiteResult:
    """Score methods by arm on the test data of one site.

    Parameters
    ----------
    methods
        By arm. The last is the one whose PSNR chooses the slices of the pictures.
    tuned
        Weights of classical methods, for the result.
    keep_in
        Run whose folder gets test data and all images, ``test/<site>.h5``; None: none.
    label_sets
        Of a head, see :func:`controls_of`; None: none.
    """
    manifest, tuned = task.manifest, tuned or {}
    samples = task.dataset("test")
    arms: dict[str, dict[str, Any]] = {}
    collected = _Collected()
    for arm, method in methods.items():
        with task.at_work(method), doing(f"scoring {arm},"):
            arms[arm] = evaluate(method, samples, on_volume=collected.receiver(arm)).to_json()
    quality = _quality(task, samples, methods, collected)
    heads = score_heads(task, samples, methods, collected.images, collected.references)
    for arm, weight in tuned.items():
        arms[arm]["tuned_weight"] = weight
    if keep_in is not None:
        collected.write_test_set(keep_in, manifest.name, samples)
    last = list(methods)[-1]
    pictures = pictured_slices(
        collected.volumes, collected.images, collected.references, last, collected.frames,
        {} if heads is None else heads.most_labelled(),
    )  # fmt: skip
    return SiteResult(
        arms,
        pictures if heads is None else heads.outlined(pictures),
        _facts(task, tuned),
        tuple(sorted(set(samples.reference_kinds))),
        tuple(sorted(collected.crops)),
        quality,
        task=None if heads is None else heads.scores(label_sets),
    )


def _methods(
    run: RunFolder,
    manifest: SiteManifest,
    task: ReconstructionTask,
    state: ServerState,
) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """The methods of all arms in the order of the report, and the weights of those that were tuned."""
    methods: dict[str, nn.Module] = {}
    tuned: dict[str, float] = {}
    for arm in run.recipe.evaluation.arms:
        if arm in manifest.kind.methods:
            methods[arm] = classical_method(arm, task, tuned)
        elif arm == LOCAL and manifest.data.train and not run.is_exported:
            methods[arm] = site_network(run, manifest, local=True)
        elif arm == SHARED:
            methods[arm] = run.spec(manifest).build().network_at(state.shared, state.round)
        elif arm == START:
            methods[arm] = initial_network(task.network, run.recipe.federation.seed)
        elif arm == CENTRALIZED and not run.is_exported:
            central = central_arm(run)
            methods[arm] = central.network_at(manifest, central.train())
    methods[run.recipe.name] = site_network(run, manifest)
    return methods, tuned


class _Collected:
    """Images of the test set by arm, with references."""

    def __init__(self) -> None:
        self.volumes: list[str] = []
        self.images: dict[str, list[np.ndarray[Any, Any]]] = {}
        self.references: list[np.ndarray[Any, Any] | None] = []
        self.crops: set[tuple[int, int]] = set()
        self.frames: list[int] = []

    def receiver(self, arm: str) -> Callable[[VolumeImages], None]:
        """Function that collects the images of one arm, and of the first arm also names and references."""
        first = not self.images
        images = self.images.setdefault(arm, [])

        def receive(volume: VolumeImages) -> None:
            images.append(volume.images.numpy())
            self.crops.add((volume.images.shape[-2], volume.images.shape[-1]))
            if first:
                self.volumes.append(volume.volume)
                self.frames.append(volume.frames)
                self.references.append(None if volume.reference is None else volume.reference.numpy())

        return receive

    def all_references(self) -> np.ndarray[Any, Any] | None:
        """Slices of all references, ``(slices, height, width)``; None if a volume has none, or sizes differ."""
        known = [reference for reference in self.references if reference is not None]
        sizes = {reference.shape[1:] for reference in known}
        return np.concatenate(known) if len(known) == len(self.references) and len(sizes) == 1 else None

    def write_test_set(self, run: RunFolder, name: str, dataset: VolumeSlices) -> None:
        """Write ``test/<site>.h5``: whitened, scaled measurements, references, and the images of all arms.

        Slices of all volumes are concatenated; ``volume`` names the volume of each slice. Measurements and operators
        are the :meth:`recon.VolumeSlices.arrays` of the dataset, read again: with their operators the samples of a
        site would fill the memory.
        """
        references = self.all_references()
        shapes, origin, noise = set[tuple[int, ...]](), list[str](), list[Tensor]()
        parts: dict[str, list[Tensor]] = {}
        count = 0 if references is None else len(dataset)
        with doing("writing test data", count):
            for index in range(count):
                made(index)
                sample = dataset[index]
                shapes.add(tuple(sample.measurement.shape))
                origin += [meta.volume for meta in sample.meta]
                noise.append(sample.noise_std)
                for key, array in dataset.arrays([sample]).items():
                    parts.setdefault(key, []).append(array)
        if references is None or len(shapes) != 1:
            return  # not data of one shape with references
        arrays: dict[str, Any] = {
            "reference": _by_sample(references, len(origin)),
            "volume": np.array(origin, dtype="S"),
            "noise_std": torch.stack(noise).numpy(),
        }
        arrays |= {key: torch.cat(parts.pop(key)).numpy() for key in list(parts)}
        arrays |= {f"images/{arm}": _by_sample(np.concatenate(v), len(origin)) for arm, v in self.images.items()}
        attributes = {"site": name, "recipe": run.recipe.name, "recipe_digest": run.recipe.digest()}
        write_hdf5(run.path / "test" / f"{name}.h5", arrays, attributes)


def _by_sample(images: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """2-D images as those of so many samples, ``(samples, frames, height, width)`` where these have frames."""
    frames = len(images) // count
    return images if frames == 1 else images.reshape(count, frames, *images.shape[1:])


def _quality(
    task: ReconstructionTask,
    samples: VolumeSlices,
    methods: Mapping[str, nn.Module],
    collected: _Collected,
) -> dict[str, dict[str, Any]]:
    """Image quality of every arm, if the modality measures any and all volumes have references of one size."""
    prepare, references = task.manifest.kind.quality, collected.all_references()
    if prepare is None or references is None:
        return {}
    measure = prepare(samples, references)
    found = {}
    for arm, method in methods.items():
        with task.at_work(method), doing(f"image quality of {arm}"):
            found[arm] = measure(method, np.concatenate(collected.images[arm]))
    return found


def _facts(task: ReconstructionTask, tuned: Mapping[str, float]) -> dict[str, Any]:
    manifest, recipe, samples = task.manifest, task.recipe, task.dataset("test")
    accelerations = [samples.acceleration(number) for number in range(len(samples.volumes))]
    network = network_of(recipe, manifest)
    scope = parameter_scope(network, recipe.scope.rules())
    sizes = {parameter: tensor.numel() for parameter, tensor in network.named_parameters()}
    return samples.facts() | {
        "modality": manifest.modality,
        "synthetic": manifest.synthetic,
        "unseen": manifest.unseen,
        "consistency": consistency_at(manifest, recipe.network),
        "effective_acceleration": sum(accelerations) / len(accelerations),
        "volumes": {split: len(getattr(manifest.data, split)) for split in ("train", "validation", "test")},
        "train_slices": len(task.dataset("train")) if manifest.data.train else 0,
        "test_slices": len(samples),
        "parameters_shared": sum(sizes[parameter] for parameter in scope.shared),
        "parameters_kept": sum(sizes[parameter] for parameter in scope.kept),
        "parameters_frozen": sum(sizes[parameter] for parameter in scope.frozen),
        "tuned_weights": dict(tuned),
        "acquisition": manifest.acquisition.model_dump(exclude_none=True),
    }
