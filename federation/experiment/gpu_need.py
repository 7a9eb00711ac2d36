"""Bound the GPU memory of a site's steps before any GPU is used, from the same steps on the CPU."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from recon import PREPARING, Sample, VolumeSlices, collate, doing, evaluate, train_locally, train_privately

from ..machine import CUDA_CONTEXT
from ..methods import parameter_scope
from ..progress import within
from ..rounds import initial_network
from .live_tensors import LiveTensors
from .task import ReconstructionTask

#: Memory that the allocator of PyTorch holds over that of tensors, at most: it rounds and cannot join free pieces. From
#: reports of runs at https://github.com/pytorch/pytorch/issues; not measured here.
_FRAGMENTS = 1.25
#: Workspace of a convolution or an FFT, in parts of the largest tensor.
_WORKSPACES = 2


def gpu_need(task: ReconstructionTask) -> int | str:
    """Bytes of GPU memory that a process of the site needs at most, or why this cannot be told.

    The bound holds the context of CUDA; parameters, gradients and moments of the optimizer; all tensors that live at
    the same time in a training step on the largest slice, or in its validation, measured on the CPU; the workspace of
    FFTs and convolutions; and what the operator needs beside them on a GPU, see
    :meth:`physics.LinearOperator.gpu_memory`. Network and optimizer are discarded.
    """
    name = task.manifest.name
    with within(site=name, part="bounding the memory"), doing(PREPARING), torch.random.fork_rng(devices=[]):
        try:
            return _need(replace(task, manifest=task.manifest.model_copy(update={"device": None})))
        except Exception as error:  # the run meets it where it belongs
            return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _need(task: ReconstructionTask) -> int:
    recipe = task.recipe
    network = initial_network(task.network, recipe.federation.seed)
    for frozen in parameter_scope(network, recipe.scope.rules()).frozen:
        network.get_parameter(frozen).requires_grad_(False)
    training = task.dataset("train")
    samples = [training[_largest(training)]] * recipe.training.batch_size
    noise, penalties = recipe.privacy.noise(), task.penalties_of_a_round(network)
    how: dict[str, Any] = {
        "steps": 1,
        "batch_size": len(samples),
        "learning_rate": recipe.training.learning_rate,
        "objective": recipe.build_objective(),
        "penalties": penalties,
        "optimizer": recipe.training.optimizer,
        "momentum": recipe.training.momentum,
    }
    with LiveTensors() as live:
        train_locally(copy.deepcopy(network), samples=samples, **how)
    found = _bound(live, samples)
    if noise is not None:
        patients, every = {"0": range(len(samples))}, replace(noise, patients_per_step=1, slices_per_patient=None)
        with LiveTensors() as live:
            train_privately(copy.deepcopy(network), samples=samples, patients=patients, noise=every, **how)
        found = max(found, _bound(live, samples))
    if task.manifest.data.validation:
        chosen = task.validation_slices()
        sample = chosen.slices[_largest(chosen.slices)]
        together = [sample] * min(sample.operator.slices_at_once, max(chosen.counts()))
        with LiveTensors() as live, doing("validation"):
            evaluate(network, together)
        found = max(found, _bound(live, together))
    return CUDA_CONTEXT + found


def _bound(live: LiveTensors, samples: Sequence[Sample]) -> int:
    tensors = math.ceil(_FRAGMENTS * (live.peak + _WORKSPACES * live.largest))
    return tensors + collate(list(samples)).operator.gpu_memory(len(samples))


def _largest(samples: VolumeSlices) -> int:
    """Index of a slice of the volume with the largest slices."""
    sizes = [math.prod(volume.shape) // samples.n_slices(number) for number, volume in enumerate(samples.volumes)]
    return samples.first(sizes.index(max(sizes)))
