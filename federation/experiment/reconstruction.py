"""Reconstruct one file, with a trained run or with weights alone."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from recon import (
    MODALITIES,
    DataError,
    SiteScores,
    VolumeSlices,
    adapt,
    data_error,
    doing,
    evaluate,
    load_weights,
    made,
    open_weights,
    reconstruct,
    write_hdf5,
)

from ..config import config_error, nearest
from .personal_stage import site_network
from .run_folder import RunFolder, Say
from .task import ReconstructionTask

#: A scan of a lower acceleration counts as fully sampled.
_FULL = 1.2
#: Shape of the reconstruction, and its scores.
Reconstructed = tuple[tuple[int, ...], SiteScores]


def reconstruct_file(
    path: Path | str,
    site: str,
    scan: Path | str,
    out: Path | str,
    *,
    simulate: bool = False,
    adapt_steps: int | None = None,
    sites: Path | str | None = None,
    say: Say = lambda text: None,
) -> Reconstructed:
    """Reconstruct a scan with the network that a site of the run uses.

    Parameters
    ----------
    path
        Folder of a trained run.
    site
        A site of the run; an unseen one has the initial kept parameters.
    scan
        A file in the format of the site.
    out
        HDF5 file to write, ``.h5`` or ``.hdf5``: ``reconstruction`` ``(slices, height, width)``, magnitudes in MRI,
        attenuation in CT, and ``image``, in MRI complex and on the encoded grid; in the units of the coil images of the
        file, or in 1/mm.
    simulate
        Apply ``[simulate]`` of the manifest to the scan, and score against the scan as measured.
    adapt_steps
        Largest number of steps of :func:`recon.adapt` on this scan; None: no adaptation.
    sites
        Folder of the manifests, if it has moved since training.
    say
        Prints the progress, and whether the scan is fully sampled.

    Returns
    -------
        Shape of the reconstruction, and its scores.

    Raises
    ------
    DataError
        If the run, the site or the scan cannot be used.
    """
    _require_hdf5_name(Path(out))
    run = RunFolder.open(path, sites)
    manifest = run.manifest(site)
    if simulate and manifest.simulate is None:
        raise DataError(f"{manifest.path}: has no [simulate] to apply; leave out --simulate")
    state = run.selected()
    network = site_network(run, manifest)
    samples = manifest.samples([Path(scan)], degraded=simulate, maps_folder=run.maps_folder(site))
    if not simulate:
        _say_if_full(samples, manifest.simulate is not None, say)
    attributes = {
        "site": site,
        "recipe": run.recipe.name,
        "recipe_digest": run.recipe.digest(),
        "round": state.round,
    }
    with ReconstructionTask(manifest, run.recipe, run.maps_folder(site)).at_work(network):
        _say_coverage(samples, say)
        network, adapted = _adapted(network, samples, adapt_steps, say)
        return _write(network, samples, Path(out), attributes | adapted)


def reconstruct_with_weights(
    weights: Path | str,
    scan: Path | str,
    out: Path | str,
    *,
    format: str | None = None,
    adapt_steps: int | None = None,
    say: Say = lambda text: None,
) -> Reconstructed:
    """Reconstruct a scan with starter weights or a file of weights; needs neither run nor site.

    Parameters
    ----------
    weights
        A name in :data:`recon.STARTER_WEIGHTS`, or a file of :func:`recon.save_weights`.
    scan
        A file of the modality of the weights.
    format
        Format of the scan, a reader of the modality; None: the usual one.
    out, adapt_steps, say
        As for :func:`reconstruct_file`, which also describes what is returned.

    Raises
    ------
    DataError
        If the weights, the format or the scan cannot be used.
    """
    _require_hdf5_name(Path(out))
    file = open_weights(weights)
    network: nn.Module = load_weights(weights)
    kind = MODALITIES[file.modality]
    if format is not None and format not in kind.readers:
        expected = f"one of {', '.join(kind.readers)}{nearest(format, kind.readers)}"
        raise config_error("--format", "", repr(format), expected, f"{file.name} is for {kind.title}")
    chosen = {} if format is None else {"format": format}
    attributes = {"weights": file.name, "weights_sha256": file.sha256()}
    with TemporaryDirectory() as maps:  # the scores read every slice again
        samples = kind.slices([Path(scan)], "scan", **kind.arguments(maps_folder=Path(maps)), **chosen)
        _say_if_full(samples, False, say)

        def progress(done: int) -> None:
            say(f"slice {done}/{len(samples)}")

        _say_coverage(samples, say)
        network, adapted = _adapted(network, samples, adapt_steps, say)
        done = _write(network, samples, Path(out), attributes | adapted, progress)
        for text in file.beyond(matrix=max(done[0][1:]), acceleration=samples.acceleration(0)):
            say(f"warning: {text} for {file.name}; compare the image with another method")
    return done


def _require_hdf5_name(out: Path) -> None:
    if out.suffix.lower() not in (".h5", ".hdf5") or out.is_dir():
        found = "a folder" if out.is_dir() else f"the ending {out.suffix!r}"
        raise data_error(out, "--out", found, "a file name that ends in .h5 or .hdf5", "the image is written as HDF5")


def _say_if_full(samples: VolumeSlices, can_simulate: bool, say: Say) -> None:
    """Say that a scan is fully sampled, or nearly, where its scores would pass for those of an accelerated scan.

    That is where the reference is the measurement itself, or the site degrades its scans.
    """
    acceleration, kind = samples.acceleration(0), samples.reference_kinds[0]
    if acceleration > _FULL or kind == "none" or not (can_simulate or kind == "coil_combined"):
        return
    advice = "; --simulate degrades it as in [simulate] of the site" if can_simulate else ""
    state, zeros = "not degraded as in training", ""
    if kind == "coil_combined":
        state = f"{samples.completeness(0)} (R = {acceleration:.2f})"
        zeros = "" if samples.completeness(0) == "fully sampled" else "; the reference has zeros in the missing lines"
    say(
        f"note: {samples.volumes[0].path} is {state} and reconstructed as it is: its scores are not those of "
        f"accelerated or noisier scans{zeros}{advice}"
    )


def _say_coverage(samples: VolumeSlices, say: Say) -> None:
    """Warn where a scan does not see the whole object, or the image does not hold it."""
    for warning in samples.coverage_warnings(0):
        say(f"warning: {warning}")


def _adapted(
    network: nn.Module, samples: VolumeSlices, steps: int | None, say: Say
) -> tuple[nn.Module, dict[str, Any]]:
    """The network after adaptation to the scan, and what the file says of it."""
    if steps is None:
        return network, {}
    begin = time.monotonic()
    say(f"adapting to {len(samples)} slices, at most {steps} steps, without a reference ...")

    def progress(done: int, residual: float) -> None:
        left = (time.monotonic() - begin) / done * (steps - done)
        say(f"step {done}/{steps}   residual of held-out measurements {residual:.3f} of the noise   {left:.0f} s left")

    with doing("reading the scan"):
        slices = [samples[index] for index in range(len(samples))]
    try:
        adapted = adapt(network, slices, steps=steps, progress=progress)
    except DataError as error:
        raise DataError(f"{error}; or leave out --adapt") from None
    first, last = adapted.residuals[0], adapted.residuals[adapted.best]
    kept = f"fell from {first:.3f} to {last:.3f}" if adapted.best else f"did not fall from {first:.3f}: not adapted"
    say(f"the residual of held-out measurements {kept} ({time.monotonic() - begin:.0f} s)")
    return adapted.network, {"adapted_checks": adapted.best, "adapted_residuals": adapted.residuals}


def _write(
    network: nn.Module,
    samples: VolumeSlices,
    out: Path,
    attributes: dict[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> Reconstructed:
    magnitudes, images = [], []
    network.eval()
    with torch.no_grad(), doing("reconstructing", len(samples)):
        for index in range(len(samples)):
            sample = samples[index]
            image = reconstruct(network, sample)
            images.append(image * sample.scale)
            magnitudes.append(sample.magnitude(image) * sample.scale)
            made(index + 1)
            progress(index + 1)
    reconstruction, image = torch.stack(magnitudes), torch.stack(images)
    if not (bool(reconstruction.isfinite().all()) and bool(image.isfinite().all())):
        found, expected = "NaN or infinite values in the image", "finite ones"
        advice = "check the values of the scan and the weights of the network; nothing was written"
        raise data_error(samples.volumes[0].path, "reconstruction", found, expected, advice)
    # Before the scores: whatever they meet, the image exists.
    write_hdf5(out, {"reconstruction": reconstruction.numpy(), "image": image.numpy()}, attributes)
    return tuple(reconstruction.shape), evaluate(network, samples)
