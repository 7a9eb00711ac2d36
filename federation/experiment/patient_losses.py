"""Loss of every patient of a site, from which membership is inferred."""

from collections import defaultdict
from statistics import fmean

import torch
from torch import nn

from recon import Sample, TaskTerm, collate, doing, made, to_device_of

from ..methods import derive_seed
from ..sites import Split, patients_of
from .task import ReconstructionTask


def losses_by_patient(task: ReconstructionTask, network: nn.Module, split: Split) -> list[float]:
    """Training loss without penalties of every patient in a split: the mean over the patient's slices.

    Call it without gradients, and with the network at work (:meth:`ReconstructionTask.at_work`).
    """
    manifest, recipe = task.manifest, task.recipe
    samples = task.measured(split)
    objective = recipe.build_objective()
    patients = patients_of(manifest, samples, split).slices
    patient_of = {number: patient for patient, numbers in patients.items() for number in numbers}
    by_patient: dict[str, list[float]] = defaultdict(list)
    network.eval()
    with doing("losses of slices,", len(samples)):
        for number in range(len(samples)):
            seed = derive_seed(recipe.federation.seed, "membership", f"{split} {number}")
            by_patient[patient_of[number]].append(loss_of_slice(objective, network, samples[number], seed))
            made(number + 1)
    return [fmean(losses) for _, losses in sorted(by_patient.items())]


def loss_of_slice(objective: TaskTerm, network: nn.Module, sample: Sample, seed: int) -> float:
    """Training loss without penalties of one slice; ``seed`` is for the draws of the objective."""
    loss, _ = objective(network, to_device_of(network, collate([sample])), torch.Generator().manual_seed(seed))
    return float(loss)
