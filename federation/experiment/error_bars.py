"""Error bars of a run: calibrated at every site on its validation scans, scored on its test scans."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from recon import (
    PREPARING,
    ErrorBarCalibration,
    PersonErrors,
    SiteCurves,
    calibrate_error_bars,
    coverage_scores,
    data_error,
    doing,
    errors_by_person,
    with_half_width,
    write_atomically,
)

from ..config import read_json
from ..progress import within
from ..sites import Split, patients_of
from ..worker_pool import run_jobs
from .personal_stage import site_network
from .run_folder import RunFolder, Say
from .task import ReconstructionTask

#: Calibrations of the sites in a run folder.
CALIBRATIONS = "error_bars.json"


def calibrate_run(run: RunFolder, coverage: float, jobs: int, say: Say) -> dict[str, ErrorBarCalibration]:
    """Calibrate the error bars of every site that has validation scans with references, and write them.

    Only curves of coverage leave the site: 449 numbers per curve, means over its people, see :class:`SiteCurves`. With
    differential privacy of patients none does, and every site calibrates alone.

    Returns
    -------
        By site; empty if the network has no error bars or no site can be calibrated.
    """
    place = run.path / CALIBRATIONS
    if not run.recipe.network.error_bars:
        place.unlink(missing_ok=True)
        return {}
    sites = [manifest.name for manifest in run.manifests if manifest.data.validation]
    say(f"calibrating the error bars of {len(sites)} sites on their validation scans ...")
    work, queue = [(run, name, coverage) for name in sites], run.queue(sites).in_order(sites)
    told = run_jobs(_curves_of_site, work, jobs, threads=run.threads(), queue=queue)
    curves = {name: found for name, found in zip(sites, told, strict=True) if found is not None}
    if left := [name for name in sites if name not in curves]:
        say(f"without error bars, as their validation scans have no references: {', '.join(left)}")
    # Curves of coverage are outside of the budget of differential privacy: they stay at their site.
    shared = run.recipe.privacy.noise() is None
    groups = [curves] if shared else [{site: told} for site, told in curves.items()]
    found: dict[str, ErrorBarCalibration] = {}
    for group in groups if curves else ():
        found |= calibrate_error_bars(group, coverage)
    write_atomically(place, json.dumps({site: asdict(one) for site, one in found.items()}, indent=1).encode())
    return found


def calibration_of(run: RunFolder, site: str) -> ErrorBarCalibration | None:
    """Calibration of a site, written by :func:`calibrate_run`; None: there is none.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    place = run.path / CALIBRATIONS
    if not run.recipe.network.error_bars or not place.is_file():
        return None
    advice = f"write it again with `fedrecon evaluate {run.path}`"
    stored = read_json(place, advice).get(site)
    if stored is None:
        return None
    try:
        return ErrorBarCalibration(**stored)
    except TypeError:
        raise data_error(place, site, repr(stored)[:60], "the calibration of a site", advice) from None


def score_error_bars(
    task: ReconstructionTask, network: nn.Module, calibration: ErrorBarCalibration
) -> dict[str, Any] | None:
    """Coverage and width on the test scans of a site; None if they have no references."""
    found = _errors(task, network, "test")
    return None if found is None else coverage_scores(found, calibration)


def with_half_widths(
    pictures: Sequence[Mapping[str, Any]], task: ReconstructionTask, network: nn.Module, factor: float
) -> list[dict[str, Any]]:
    """The pictured slices of the test set, each with its calibrated ``half_width``, ``(height, width)``."""
    samples, shown = task.dataset("test"), []
    with torch.no_grad(), task.at_work(network):
        for one in pictures:
            half_width = with_half_width(network, samples[one["index"]])[1]
            frame = half_width if half_width.ndim == 2 else half_width[one["frame"]]
            shown.append({**one, "half_width": factor * frame.numpy()})
    return shown


def _curves_of_site(job: tuple[RunFolder, str, float]) -> SiteCurves | None:
    run, name, coverage = job
    manifest = run.manifest(name)
    task = ReconstructionTask(manifest, run.recipe, run.maps_folder(name))
    with within(site=name, part="error bars"), doing(PREPARING):
        found = _errors(task, site_network(run, manifest), "validation")
    return None if found is None else SiteCurves.of(list(found.values()), coverage)


def _errors(task: ReconstructionTask, network: nn.Module, split: Split) -> dict[str, PersonErrors] | None:
    samples = task.dataset(split)
    if "none" in samples.reference_kinds:
        return None
    people = patients_of(task.manifest, samples, split).slices
    with task.at_work(network):
        return errors_by_person(network, samples, people)
