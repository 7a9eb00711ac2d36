"""Convert scans of other layouts into those of fedrecon, slice by slice."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physics import measured_trajectory

from ..errors import DataError, data_error
from ..files import written_hdf5
from .image_header import ORIENTATION, POSITION
from .mri_checks import KSpaceContent
from .mri_formats import MRI_READERS
from .mri_header import header_xml
from .mri_volume import KSpaceVolume
from .progress import doing, made
from .trajectory_facts import SampleContent
from .trajectory_volume import TrajectoryVolume

#: Bytes of a file beside its arrays, more than enough.
_HEADERS = 1 << 20


@dataclass(frozen=True)
class Conversion:
    """A file that was written.

    Parameters
    ----------
    path
        The new file.
    format
        Name of the reader.
    description
        What was read as what, in one line.
    warnings
        What makes the scan doubtful, one line each.
    sources
        Files that were read.
    """

    path: Path
    format: str
    description: str
    warnings: tuple[str, ...]
    sources: tuple[Path, ...]


def convert_scan(
    source: Path | str,
    out: Path | str,
    *,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Conversion]:
    """Write a scan of any layout of :data:`MRI_READERS` in the fastMRI layout, along a trajectory in ours.

    Every file appears complete or not at all. k-space keeps the scale of the source; header, mask, noise covariance,
    reconstructions, person, contrast and orientation are those of the source, as far as it states them.

    Parameters
    ----------
    source
        The file.
    out
        The file to write. A source that holds several volumes, such as contrasts, makes several files, whose names end
        in that of the volume; separate calibration lines stand in a file of that end.
    format
        Name of the reader; None: told from the content.
    options
        Options of the reader.
    overwrite
        Replace existing files.

    Raises
    ------
    DataError
        If no reader takes the file, or several do; if the file cannot be used; if a file exists.
    """
    source, out, chosen = Path(source), Path(out), dict(options or {})
    name = format or MRI_READERS.detect(source)
    if name not in MRI_READERS:
        raise data_error(source, "format", repr(name), f"one of {', '.join(MRI_READERS)}", "correct the name")
    try:
        MRI_READERS.check(name, chosen, key=f"options of {name}")
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None
    first = MRI_READERS.open(source, name, **chosen)
    if not first.parts:
        places = {out: first}
    else:
        opened = {part: MRI_READERS.open(source, name, **(chosen | dict(keys))) for part, keys in first.parts}
        places = {_place(out, part): volume for part, volume in opened.items()}
    for place, volume in places.items():
        if any(place.resolve() == file.resolve() for file in (source, *volume.sources)):
            raise data_error(place, "OUT", "the file that is read", "another file", "choose another name")
        if place.exists() and not overwrite:
            raise data_error(place, "OUT", "an existing file", "a new one", "choose another name, or add --overwrite")
    return [_written(volume, place, name, source) for place, volume in places.items()]


def _place(out: Path, part: str) -> Path:
    return out.with_name(f"{out.stem}_{part}{out.suffix}") if part else out


def _written(volume: KSpaceVolume, out: Path, name: str, source: Path) -> Conversion:
    is_along = isinstance(volume, TrajectoryVolume)
    content = SampleContent(volume) if isinstance(volume, TrajectoryVolume) else KSpaceContent(volume)
    size = 8 * math.prod(volume.shape) * (2 if volume.has_maps else 1) + 4 * volume.shape[0] * math.prod(
        volume.rss_shape or (0,)
    )
    size *= 1 + is_along  # with positions, at most as large
    with written_hdf5(out, size + _HEADERS) as file, doing("converting", volume.shape[0]):
        data = file.create_dataset("kspace", volume.shape, np.complex64)
        for index in range(volume.shape[0]):
            kspace = volume.read_slice(index)
            content.look(index, kspace)
            data[index] = kspace.numpy()
            made(index + 1)
        warnings = content.warnings()
        if not any(content.energy.values()):
            raise data_error(source, "kspace", "only zeros", "a measurement", "leave out the file")
        file["ismrmrd_header"] = header_xml(volume.header)
        if isinstance(volume, TrajectoryVolume):
            file["trajectory"] = _positions(volume)
        if volume.mask is not None:
            file["mask"] = volume.mask.numpy()
        if volume.noise_covariance is not None:
            file["noise_covariance"] = volume.noise_covariance.numpy()
        if volume.rss_shape is not None:
            file[volume.rss_key] = np.stack([volume.read_rss(index).numpy() for index in range(volume.shape[0])])
        if volume.has_maps:
            file["maps"] = np.stack([volume.read_maps(index).numpy() for index in range(volume.shape[0])])
        if volume.is_calibration:
            file.attrs["is_calibration"] = True
        if volume.frames > 1:
            file.attrs["frames"] = volume.frames
        arrays, attributes = volume.image_header().carried
        file.attrs.update({key: value for key, value in attributes.items() if key in (ORIENTATION, POSITION)})
        if POSITION in arrays:
            file[POSITION] = arrays[POSITION]
        facts = {"patient_id": volume.patient_id, "acquisition": volume.acquisition, "read_as": volume.reading or None}
        file.attrs.update({key: text for key, text in facts.items() if text is not None})
    notes = tuple(dict.fromkeys((*volume.notes, *warnings)))
    return Conversion(out, name, _description(volume), notes, (source, *volume.sources))


def _positions(volume: TrajectoryVolume) -> np.ndarray[Any, Any]:
    """Positions ``(spokes, samples, 2)``, with slices in front where they differ."""
    each = np.stack([volume.positions(index).numpy() for index in range(volume.shape[0])])
    return np.asarray(each[0] if (each == each[0]).all() else each)


def _description(volume: KSpaceVolume) -> str:
    if isinstance(volume, TrajectoryVolume):
        return _description_along(volume)
    slices, coils, height, width = volume.shape
    if volume.undersampled:
        available, acquired = volume.available.expand(height, width), volume.acquired.expand(height, width)
        sampling = f"undersampled {float(acquired.sum()) / float(available.sum()):.2f}x"
    elif (share := volume.partial_fourier) is not None:
        sampling = f"partial Fourier, {share:.0%} of the lines"
    else:
        sampling = "fully sampled"
    noise = _noise_words(volume)
    sizes = f"{slices} slice{'s' * (slices != 1)}, {coils} coil{'s' * (coils != 1)}, {height}x{width}"
    return f"{sizes}; {sampling}; {noise}; {volume.reading}; zero frequency in the middle, values as stored"


def _description_along(volume: TrajectoryVolume) -> str:
    slices, coils, spokes, samples = volume.shape
    height, width = volume.image_shape
    scan = measured_trajectory(volume.positions(0), volume.image_shape)
    sizes = (
        f"{slices} slice{'s' * (slices != 1)}, {coils} coil{'s' * (coils != 1)}, {spokes} spokes of {samples} samples"
    )
    sampling = f"image {height}x{width}; {scan.family}, {scan.effective_acceleration:.2f}x"
    return f"{sizes}, {sampling}; {_noise_words(volume)}; {volume.reading}; values as stored"


def _noise_words(volume: KSpaceVolume) -> str:
    return "noise covariance of the scan" if volume.noise_covariance is not None else "noise not stated"
