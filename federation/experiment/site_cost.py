"""Measure what a training step, a validation slice and coil maps cost at one site, on its own data."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TypeVar

import torch
from torch import nn

from recon import PREPARING, Sample, doing, evaluate, train_locally, train_privately

from ..machine import peak_memory, reset_peak_memory, shared_memory
from ..methods import parameter_scope
from ..progress import within
from ..rounds import initial_network
from ..sites import SPLITS
from .task import ReconstructionTask

#: Short steps are repeated up to this time.
_SECONDS = 0.2
_MOST_REPEATS = 5
Found = TypeVar("Found")


@dataclass(frozen=True)
class PrivateCost:
    """Expected seconds of a step with differential privacy, reading included, and slices that it reads."""

    step: float
    slices: float


@dataclass(frozen=True)
class SiteCost:
    """Seconds and bytes measured at a site.

    ``build``: making network and datasets, once per round; ``step``: one training step with its batch; ``validation``:
    one validation slice; ``maps``: coil maps of one slice, once, ``map_bytes`` on the disk; ``memory``: of the process;
    ``slices`` by split, those that a round validates under ``validation``;
    ``parameters``: shared, and all that train; ``private``: of a step in the rounds with differential privacy, None
    without.
    """

    site: str
    build: float
    step: float
    validation: float
    maps: float
    map_bytes: int
    memory: int
    slices: dict[str, int]
    parameters: tuple[int, int]
    private: PrivateCost | None = None


def measure_site(job: tuple[ReconstructionTask, bool]) -> SiteCost | str:
    """Measure one site, or say why this failed; network and optimizer are discarded, the coil maps are kept.

    Parameters
    ----------
    job
        The task of the site; True: measure memory alone, once, so that processes at a time can be chosen.
    """
    task, once = job
    name = task.manifest.name
    with within(site=name, part="measuring the cost"), doing(PREPARING), torch.random.fork_rng(devices=[]):
        try:
            return _measure(task, once)
        except Exception as error:  # the run meets it where it belongs
            return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _measure(task: ReconstructionTask, once: bool) -> SiteCost:
    reset_peak_memory()
    recipe, repeats = task.recipe, 1 if once else _MOST_REPEATS
    network = initial_network(task.network, recipe.federation.seed)
    scope = parameter_scope(network, recipe.scope.rules())
    for frozen in scope.frozen:
        network.get_parameter(frozen).requires_grad_(False)
    training = task.dataset("train")
    training[0]  # its time is that of imports and of the facts of its volume, too
    second = min(1, len(training) - 1)
    training[second]
    read, sample = _timed(lambda: training[second])
    step = _step_seconds(task, network, repeats, partial(train_locally, samples=[sample] * recipe.training.batch_size))
    private = _private_cost(task, network, sample, read, repeats)
    validation = _validation_seconds(task, network, repeats) if task.manifest.data.validation else 0.0
    build, _ = _timed(lambda: (task.network(), task.dataset("train"), *_validation_set(task)))
    count = {name: parameter.numel() for name, parameter in network.named_parameters()}
    return SiteCost(
        site=task.manifest.name,
        build=build,
        step=step + recipe.training.batch_size * read,
        validation=validation,
        maps=0.0 if once else _maps_seconds(task, second, read),
        map_bytes=training.map_bytes(sample),
        memory=peak_memory() - shared_memory(),
        slices=_slices(task),
        parameters=(sum(count[n] for n in scope.shared), sum(count[n] for n in (*scope.shared, *scope.kept))),
        private=private,
    )


def _private_cost(
    task: ReconstructionTask, network: nn.Module, sample: Sample, read: float, repeats: int
) -> PrivateCost | None:
    """Expected cost of a private step, from steps with one and with two patients of one batch each."""
    noise, size = task.recipe.privacy.noise(), task.recipe.training.batch_size
    if noise is None:
        return None
    counts = [min(len(s), noise.slices_per_patient or len(s)) for s in task.patients().slices.values()]
    slices = noise.patients_per_step * fmean(counts)
    batches = noise.patients_per_step * fmean(math.ceil(count / size) for count in counts)
    of_one = min(size, max(counts))

    def seconds(n_patients: int) -> float:
        train = partial(
            train_privately,
            samples=[sample] * (n_patients * of_one),
            patients={str(number): range(number * of_one, (number + 1) * of_one) for number in range(n_patients)},
            noise=replace(noise, patients_per_step=n_patients, slices_per_patient=None),  # each of them is drawn
            collect_gradients=task.recipe.privacy.shared_noise,
        )
        return _step_seconds(task, network, repeats, train)

    one = seconds(1)
    more = max(seconds(2) - one, 0.0) if repeats > 1 else 0.0  # noise and optimizer's step are made once
    return PrivateCost(one + (batches - 1) * more + slices * read, slices)


def _maps_seconds(task: ReconstructionTask, index: int, read: float) -> float:
    """Seconds for the coil maps of a slice, stored or not, beside those for reading it."""
    estimating = task.manifest.dataset("train", raw_coils=task.raw_coils)
    estimating[index]  # imports, and the facts of its volume
    return max(_timed(lambda: estimating[index])[0] - read, 0.0)


def _step_seconds(task: ReconstructionTask, network: nn.Module, repeats: int, train: Callable[..., object]) -> float:
    """Seconds of a training step by ``train`` on slices in memory; one more is made before."""
    training, trained = task.recipe.training, copy.deepcopy(network)
    penalties = task.penalties_of_a_round(trained)

    def step() -> None:
        train(
            trained,
            steps=1,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            objective=task.recipe.build_objective(),
            penalties=penalties,
            optimizer=training.optimizer,
            momentum=training.momentum,
        )
        if task.manifest.torch_device().type == "cuda":
            torch.cuda.synchronize()

    with task.at_work(trained):
        step()
        return 0.0 if repeats == 1 else _shortest(step, repeats)


def _validation_seconds(task: ReconstructionTask, network: nn.Module, repeats: int) -> float:
    """Seconds of a validation slice with reading."""
    chosen = task.validation_slices()
    sample = chosen[0]
    at_once = min(sample.operator.slices_at_once, max(chosen.counts()))
    slices = [sample] * at_once
    with task.at_work(network), doing("validation"):
        evaluate(network, slices)
        seconds = 0.0 if repeats == 1 else _shortest(lambda: evaluate(network, slices), repeats)
    read, _ = _timed(lambda: chosen[0])
    return seconds / at_once + read


def _validation_set(task: ReconstructionTask) -> tuple[object, ...]:
    return (task.dataset("validation"),) if task.manifest.data.validation else ()


def _slices(task: ReconstructionTask) -> dict[str, int]:
    found: dict[str, int] = {split: len(task.dataset(split)) for split in SPLITS if task.manifest.files(split)}
    return found | ({"validation": len(task.validation_slices())} if "validation" in found else {})


def _timed(function: Callable[[], Found]) -> tuple[float, Found]:
    begin = time.perf_counter()
    found = function()
    return time.perf_counter() - begin, found


def _shortest(function: Callable[[], object], repeats: int) -> float:
    """Shortest time of some calls, of which long ones are made once: whatever disturbs a call makes it longer."""
    begin, times = time.perf_counter(), list[float]()
    while len(times) < repeats and (not times or time.perf_counter() - begin < _SECONDS):
        times.append(_timed(function)[0])
    return min(times)
