"""Membership inference at the sites of a run: training patients against test patients of the same scanner."""

import time
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from torch import nn

from recon import PREPARING, Sample, TaskTerm, collate, doing, infer_membership, made, pool_membership, to_device_of

from ..experiment import ReconstructionTask, RunFolder, initial_state, site_network
from ..methods import derive_seed, load_parameters
from ..progress import within
from ..rounds import initial_network
from ..sites import Split, patients_of

Losses = dict[str, dict[str, list[float]]]


def patient_losses(job: tuple[RunFolder, str]) -> Losses:
    """Loss of every patient of a site by network, as ``{network: {"members" or "non_members": losses}}``.

    A patient's loss is the mean over the slices of the training loss without penalties. ``shared`` is the network of
    the selected round with the site's kept parameters, ``initial`` that before training, ``personal`` the site's own.
    """
    run, name = job
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    with within(site=name, part="membership inference"), doing(PREPARING), torch.no_grad():
        found: Losses = {}
        for label, network in _networks(run, name).items():
            with task.at_work(network):
                members, others = _losses(task, network, "train"), _losses(task, network, "test")
            found[label] = {"members": members, "non_members": others}
        return found


def seconds_of_losses(run: RunFolder, name: str) -> float:
    """Time of :func:`patient_losses` at a site, from that of one slice, with the threads of the caller."""
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    network, samples = run.spec(manifest).build().network, manifest.dataset("train", task.maps_folder)
    objective = run.recipe.objective.build_task(run.recipe.training.loss)
    network.eval()
    seconds = 0.0
    with within(site=name, part="measuring the cost"), task.at_work(network), torch.no_grad():
        for _ in range(2):  # the first one also loads and compiles
            begin = time.monotonic()
            _loss(objective, network, samples[len(samples) // 2], 0)
            seconds = time.monotonic() - begin
    n_slices = len(samples) + len(manifest.dataset("test", task.maps_folder))
    return (2 + bool(run.recipe.personal.steps)) * n_slices * seconds


def _loss(objective: TaskTerm, network: nn.Module, sample: Sample, seed: int) -> float:
    loss, _ = objective(network, to_device_of(network, collate([sample])), torch.Generator().manual_seed(seed))
    return float(loss)


def _networks(run: RunFolder, name: str) -> dict[str, nn.Module]:
    manifest, state = run.manifest(name), run.selected()
    site = run.spec(manifest).build()
    initial = initial_network(site.task.network, run.recipe.federation.seed)
    load_parameters(initial, initial_state(run.recipe)[0])
    networks = {"shared": site.network_at(state.shared, state.round), "initial": initial}
    if run.recipe.personal.steps:
        networks["personal"] = site_network(run, manifest)
    return networks


def _losses(task: ReconstructionTask, network: nn.Module, split: Split) -> list[float]:
    manifest, recipe = task.manifest, task.recipe
    samples = manifest.dataset(split, task.maps_folder)
    objective = recipe.objective.build_task(recipe.training.loss)
    patients = patients_of(manifest, samples, split).slices
    patient_of = {number: patient for patient, numbers in patients.items() for number in numbers}
    by_patient: dict[str, list[float]] = defaultdict(list)
    network.eval()
    with doing("losses of slices,", len(samples)):
        for number in range(len(samples)):
            seed = derive_seed(recipe.federation.seed, "membership", f"{split} {number}")
            by_patient[patient_of[number]].append(_loss(objective, network, samples[number], seed))
            made(number + 1)
    return [fmean(losses) for _, losses in sorted(by_patient.items())]


def membership_rows(found: Mapping[str, Losses]) -> list[dict[str, Any]]:
    """Success of membership inference per site and network, and over all sites.

    ``calibrated`` subtracts the loss of the initial network: patients differ in difficulty. Over all sites patients are
    compared within their site only: scanners differ.
    """
    rows = []
    scores = {site: _scores(losses) for site, losses in found.items()}
    networks = list(dict.fromkeys(network for by_network in scores.values() for network in by_network))
    for network in networks:
        pooled = []
        for site, by_network in scores.items():
            members, others = by_network[network]["members"], by_network[network]["non_members"]
            pooled.append((members, others))
            rows.append({"site": site, "network": network} | infer_membership(members, others).to_json())
        if len(scores) > 1:
            rows.append({"site": "all sites", "network": network} | pool_membership(pooled).to_json())
    return rows


def _scores(losses: Losses) -> dict[str, dict[str, list[float]]]:
    """Loss, and loss minus that of the initial network, of every trained network."""
    scores = {}
    for network, groups in losses.items():
        if network == "initial":
            continue
        scores[network] = groups
        scores[f"{network}, calibrated"] = {
            group: [loss - before for loss, before in zip(values, losses["initial"][group], strict=True)]
            for group, values in groups.items()
        }
    return scores
