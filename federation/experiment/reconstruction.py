"""Reconstruct scans with a trained run or with weights alone, into files of the format that their name asks for."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from recon import (
    SUFFIXES,
    DataError,
    PngSlices,
    SiteScores,
    VolumeSlices,
    adapt,
    data_error,
    doing,
    error_bars_of,
    evaluate,
    made,
    os_error_line,
    require_export,
    require_png,
    shown_files,
    suffix_of,
    write_reconstruction,
)

from .load_method import method_of_run
from .method import Method, reconstructed
from .run_folder import Say
from .usual_scans import FULL

#: Shape of the reconstruction, and its scores.
Reconstructed = tuple[tuple[int, ...], SiteScores]


@dataclass(frozen=True)
class ReconstructOptions:
    """How scans are reconstructed and written.

    Parameters
    ----------
    simulate
        Apply ``[simulate]`` of the manifest to the scan, and score against the scan as measured.
    adapt_steps
        Largest number of steps of :func:`recon.adapt` on each scan; None: no adaptation.
    overwrite
        Replace existing files.
    slices
        Slices of a PNG: the middle one or all.
    """

    simulate: bool = False
    adapt_steps: int | None = None
    overwrite: bool = False
    slices: PngSlices = "middle"


def reconstruct_file(
    path: Path | str,
    site: str,
    scan: Path | str,
    out: Path | str,
    *,
    sites: Path | str | None = None,
    say: Say = lambda text: None,
    **options: Any,
) -> Reconstructed:
    """Reconstruct a scan with the network that a site of the run uses.

    Parameters
    ----------
    path
        Folder of a trained run.
    site
        A site of the run; an unseen one has the initial kept parameters.
    scan
        A file in the format of the site, or in another one, which is told from its content.
    out
        File to write, in the format of its name, see :func:`recon.write_reconstruction`. In HDF5 ``reconstruction``
        ``(slices, height, width)`` holds magnitudes in MRI, attenuation in CT, and ``image``, in MRI complex, the same
        on the encoded grid without readout oversampling; in the units of the coil images of the file, or in 1/mm.
    sites
        Folder of the manifests, if it has moved since training.
    say
        Prints the progress, and whether the scan is fully sampled.
    options
        Fields of :class:`ReconstructOptions`.

    Returns
    -------
        Shape of the reconstruction, and its scores.

    Raises
    ------
    DataError
        If the name of the file, the run, the site or the scan cannot be used.
    """
    chosen = ReconstructOptions(**{"overwrite": True, **options})
    require_export(Path(out), overwrite=chosen.overwrite, slices=chosen.slices)
    return reconstruct_scan(method_of_run(path, site, sites), Path(scan), Path(out), chosen, say)


def reconstruct_scan(
    method: Method, scan: Path, out: Path, options: ReconstructOptions, say: Say = lambda text: None
) -> Reconstructed:
    """Reconstruct one file, write the images, and score them; :func:`reconstruct_file` says more.

    The image is written before it is scored: whatever the scores meet, the image exists.
    """
    require_export(out, overwrite=options.overwrite, slices=options.slices)
    with method.stored_maps() as maps, method.at_work(method.network):  # the scores read every slice again
        samples = method.samples(scan, simulate=options.simulate, maps_folder=maps)
        if (usual := method.usual_format) not in (None, samples.format):
            say(f"note: {scan} is read as {samples.format}, told from its content; the files of the site are {usual}")
        if not options.simulate:
            _say_if_full(samples, method.simulates, say)
        _say_coverage(samples, say)
        if method.calibration is None and error_bars_of(method.network) is not None:
            say(f"note: no error bars: they are not calibrated; run `fedrecon evaluate {method.source}` first")
        network, adapted = _adapted(method.network, samples, options.adapt_steps, say)
        found = reconstructed(method, network, samples)
        found = replace(found, attributes={**found.attributes, **adapted})
        if samples.image_header(0).planes is not None:
            say(f"note: {scan.name} has tilted planes: {found.attributes['planes']}")
        for line in write_reconstruction(found, out, slices=options.slices):
            say(f"note: {line}")
        shape: tuple[int, ...] = found.magnitude.shape
        scores = evaluate(network, samples)
        for line in method.warnings(samples, shape[1:]):
            say(f"warning: {line}")
        return shape, scores


def reconstruct_folder(
    method: Method,
    folder: Path,
    out: Path,
    suffix: str,
    options: ReconstructOptions,
    say: Say,
    done: Callable[[Path, Reconstructed], None] = lambda path, result: None,
) -> int:
    """Reconstruct every scan of a folder into another folder; goes on after a scan that cannot be used.

    Parameters
    ----------
    suffix
        End of the names of the files; with ``.dcm`` every scan has a folder of its own.
    done
        Called with every file that was written.

    Returns
    -------
        Number of scans.

    Raises
    ------
    DataError
        If the folder holds no scan or two of one name; at the end, with their names, if some scans failed.
    """
    if options.slices == "all":
        require_png(suffix)
    places = _places(method, folder, out, suffix)
    failed: list[str] = []
    for number, (scan, place) in enumerate(places.items()):
        say(f"{number + 1}/{len(places)}  {scan.name}")
        try:
            done(place, reconstruct_scan(method, scan, place, options, say))
        except (DataError, OSError) as error:
            failed.append(scan.name)
            say(f"failed: {os_error_line(error) if isinstance(error, OSError) else error}")
    if failed:
        count = f"{len(failed)} of {len(places)} scans"
        raise DataError(f"{folder}: {count} were not reconstructed: {', '.join(failed)}; the lines above say why")
    return len(places)


def _places(method: Method, folder: Path, out: Path, suffix: str) -> Mapping[Path, Path]:
    """The file of every scan."""
    if suffix not in SUFFIXES:
        raise data_error("reconstruct", "--suffix", repr(suffix), f"one of {', '.join(SUFFIXES)}", "choose one")
    if suffix_of(out) in SUFFIXES or out.is_file():
        found, expected = "the name of a file", "a folder for the images of the scans"
        raise data_error(out, "--out", found, expected, f"name a folder, and add --suffix {suffix_of(out) or suffix}")
    suffixes = method.suffixes
    scans = [file for file in shown_files(folder) if method.takes(file)]
    if not scans:
        found, expected = f"no {' or '.join(sorted(suffixes))} file", "scans"
        raise data_error(folder, "folder", found, expected, "name the folder of the scans")
    names: dict[Path, Path] = {}
    for scan in scans:
        place = out / f"{scan.name.removesuffix(scan.suffix)}{'' if suffix == '.dcm' else suffix}"
        if place in names.values():
            found = f"two scans whose image would be {place.name}"
            raise data_error(scan, "file name", found, "one", "rename one, or reconstruct them one by one")
        names[scan] = place
    return names


def _say_if_full(samples: VolumeSlices, can_simulate: bool, say: Say) -> None:
    """Say that a scan is fully sampled, or nearly, where its scores would pass for those of an accelerated scan.

    That is where the reference is the measurement itself, or the site degrades its scans.
    """
    acceleration, kind = samples.acceleration(0), samples.reference_kinds[0]
    if acceleration > FULL or kind == "none" or not (can_simulate or kind == "coil_combined"):
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

    slices = []
    with doing("reading the scan", len(samples)):
        for index in range(len(samples)):
            slices.append(samples[index])
            made(index + 1)
    try:
        adapted = adapt(network, slices, steps=steps, progress=progress)
    except DataError as error:
        raise DataError(f"{error}; or leave out --adapt") from None
    first, last = adapted.residuals[0], adapted.residuals[adapted.best]
    kept = f"fell from {first:.3f} to {last:.3f}" if adapted.best else f"did not fall from {first:.3f}: not adapted"
    say(f"the residual of held-out measurements {kept} ({time.monotonic() - begin:.0f} s)")
    return adapted.network, {"adapted_checks": adapted.best, "adapted_residuals": adapted.residuals}
