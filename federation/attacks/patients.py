"""Membership inference at the sites of a run: training patients against test patients of the same scanner."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recon import PREPARING, doing, infer_membership, pool_membership

from ..experiment import (
    ReconstructionTask,
    RunFolder,
    initial_state,
    loss_of_slice,
    losses_by_patient,
    site_network,
)
from ..methods import load_parameters
from ..progress import within
from ..rounds import initial_network

Losses = dict[str, dict[str, list[float]]]


def patient_losses(job: tuple[RunFolder, str]) -> Losses:
    """Loss of every patient of a site by network, as ``{network: {"members" or "non_members": losses}}``.

    ``shared`` is the network of the selected round with the site's kept parameters, ``initial`` that before training,
    ``personal`` the site's own.
    """
    run, name = job
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    with within(site=name, part="membership inference"), doing(PREPARING), torch.no_grad():
        found: Losses = {}
        for label, network in _networks(run, name).items():
            with task.at_work(network):
                members, others = losses_by_patient(task, network, "train"), losses_by_patient(task, network, "test")
            found[label] = {"members": members, "non_members": others}
        return found


def seconds_of_losses(run: RunFolder, name: str) -> float:
    """Time of :func:`patient_losses` at a site, from that of one slice, with the threads of the caller."""
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    network, samples = run.spec(manifest).build().network, task.measured("train")
    objective = run.recipe.build_objective()
    network.eval()
    seconds = 0.0
    with within(site=name, part="measuring the cost"), task.at_work(network), torch.no_grad():
        for _ in range(2):  # the first one also loads and compiles
            begin = time.monotonic()
            loss_of_slice(objective, network, samples[len(samples) // 2], 0)
            seconds = time.monotonic() - begin
    n_slices = len(samples) + len(task.measured("test"))
    return (2 + bool(run.recipe.personal.steps)) * n_slices * seconds


def _networks(run: RunFolder, name: str) -> dict[str, nn.Module]:
    manifest, state = run.manifest(name), run.selected()
    site = run.spec(manifest).build()
    initial = initial_network(site.task.network, run.recipe.federation.seed)
    load_parameters(initial, initial_state(run.recipe)[0])
    networks = {"shared": site.network_at(state.shared, state.round), "initial": initial}
    if run.recipe.personal.steps:
        networks["personal"] = site_network(run, manifest)
    return networks


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
