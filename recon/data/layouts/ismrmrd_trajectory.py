"""Radial, spiral and other trajectories of ISMRMRD files: each line is a spoke."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ...errors import data_error
from ..complex_values import Array
from ..mri_header import Header
from ..trajectory_file import require_image
from ..trajectory_volume import TrajectoryVolume, checked_positions
from .ismrmrd_encoding import Encoding
from .ismrmrd_lines import Lines, read_spokes
from .ismrmrd_selection import Selection, chosen_lines, selected_encoding
from .ismrmrd_spokes import SpokeOrder, computed_positions, order_spokes, plane_positions, stack_as_slices
from .ismrmrd_units import cycles_per_pixel, image_shape, pixel_mm
from .line_volume import line_noise

#: Smallest ratio of the fields of view that is oversampling, not rounding.
_OVERSAMPLED = 1.05


@dataclass(frozen=True, eq=False)
class _Spokes:
    """Samples ``(slices, coils, spokes, samples)``, positions ``(images, spokes, samples, 2)``, and their origin."""

    samples: Array
    positions: Array
    order: SpokeOrder
    unit: str

    @property
    def slices_per_image(self) -> int:
        return len(self.samples) // len(self.positions)


def trajectory_volume(path: Path, selection: Selection) -> TrajectoryVolume:
    """The volume of lines with positions that a selection chooses.

    Positions are taken as the file states them, the first axis along the height, the second along the width. Their unit
    is told from the data, see :func:`cycles_per_pixel`. All samples are kept; oversampling of the readout shows in the
    image alone, which is that of the reconstructed field of view. A stack of stars, equal spokes in every partition,
    becomes slices by an inverse FFT.

    Raises
    ------
    DataError
        If positions are missing, 3-D or of an unclear unit, lines do not fit the header or each other, or a partition
        is missing.
    """
    version = (path.stat().st_size, path.stat().st_mtime_ns)
    lines, encodings, number = selected_encoding(path, version, selection)
    encoding = encodings[number]
    if selection.calibration:
        found, expected = f"calibration lines of a {encoding.header.trajectory} scan", "Cartesian calibration lines"
        raise data_error(path, "calibration", found, expected, "leave out the option")
    numbers, parts, notes = chosen_lines(path, lines, encoding, number, len(encodings), selection)
    spokes = _sorted(path, version, selection)
    covariance, noise_words, noise_notes = line_noise(path, selection.source, lines, numbers, encoding, 1)
    slices, coils, n_spokes, n_samples = spokes.samples.shape
    volume = TrajectoryVolume(
        path=path,
        shape=(slices, coils, n_spokes, n_samples),
        header=_header(encoding),
        patient_id=encoding.patient_id,
        acquisition=encoding.protocol,
        noise_covariance=covariance,
        notes=(*notes, *noise_notes, *_center_notes(path, lines, spokes)),
        reading="; ".join((*_words(lines, encoding, spokes), noise_words)),
        parts=parts,
        read=partial(_samples, path, version, selection),
        read_positions=partial(_positions, path, version, selection),
    )
    require_image(volume)
    return volume


def _header(encoding: Encoding) -> Header:
    shape, pixel = image_shape(encoding), pixel_mm(encoding)
    fov = None if pixel is None else (shape[0] * pixel, shape[1] * pixel)
    recon_fov = None if encoding.recon_fov_mm is None else (encoding.recon_fov_mm[0], encoding.recon_fov_mm[1])
    return replace(
        encoding.header,
        encoded_shape=shape,
        recon_shape=(encoding.recon_size[0], encoding.recon_size[1]),
        padding=(0, shape[1]),
        encoded_fov_mm=fov,
        recon_fov_mm=recon_fov,
        partitions=1,
        acceleration=1.0,
    )


def _words(lines: Lines, encoding: Encoding, spokes: _Spokes) -> Iterator[str]:
    """What the file is read as."""
    kind, numbers = encoding.header.trajectory, spokes.order.numbers
    yield f"{numbers.size} ISMRMRD lines of a {kind} scan, {spokes.unit}, first axis along the height"
    frames = len({frame for frame, _ in spokes.order.images})
    if frames > 1:
        yield f"{frames} frames x {len(spokes.order.images) // frames} slices, the slice fastest"
    if encoding.size[2] > 1:
        kept = spokes.slices_per_image
        inner = f", the inner {kept} of {encoding.size[2]} kept" if kept < encoding.size[2] else ""
        yield f"stack of {encoding.size[2]} partitions, made slices by an inverse FFT{inner}"
    averages = len(np.unique(lines.counter("average")[numbers]))
    if averages > 1:
        yield f"{averages} averages as further spokes"
    if encoding.oversampling(0) > _OVERSAMPLED:
        yield "all samples of the oversampled readout kept, image of the field of view alone"
    if turned := int(lines.reverse[numbers].sum()):
        yield f"{turned} reversed lines turned round"
    if lines.left_out:
        yield "left out: " + ", ".join(f"{n} {kind} lines" for kind, n in lines.left_out.items())


def _center_notes(path: Path, lines: Lines, spokes: _Spokes) -> Iterator[str]:
    """A line where ``center_sample`` is not where the trajectory is nearest to the center."""
    first = spokes.order.numbers[:, spokes.order.numbers.shape[1] // 2]
    head = lines.head[first]
    stated = head["center_sample"].astype(np.int64) - head["discard_pre"]
    stated = np.where(lines.reverse[first], spokes.order.samples - 1 - stated, stated)
    nearest = np.hypot(spokes.positions[..., 0], spokes.positions[..., 1]).argmin(-1)
    if head["center_sample"].all() and (off := np.abs(stated - nearest)).max() > 1:
        worst = np.unravel_index(int(off.argmax()), off.shape)
        found, expected = (
            f"center_sample {int(stated[worst])}",
            f"sample {int(nearest[worst])}, the nearest to the center",
        )
        advice = "positions are used; look for artifacts of a shifted echo"
        yield str(data_error(path, f"data[{int(first[worst])}]", found, expected, advice))


@lru_cache(maxsize=1)
def _sorted(path: Path, version: tuple[int, int], selection: Selection) -> _Spokes:
    """All samples and positions; those of the last file stay in memory."""
    lines, encodings, number = selected_encoding(path, version, selection)
    encoding = encodings[number]
    numbers, _, _ = chosen_lines(path, lines, encoding, number, len(encodings), selection)
    order = order_spokes(path, lines, numbers, encoding)
    axes = np.unique(lines.head["trajectory_dimensions"][numbers]).tolist()
    if len(axes) != 1 or axes[0] not in (0, 2, 3):
        found, expected = f"positions along {' and '.join(map(str, axes))} axes", "2 or 3 axes in all lines"
        raise data_error(path, "data trajectory_dimensions", found, expected, "write the positions of every sample")
    images, depth, count = order.numbers.shape
    samples = np.empty((images, depth, order.coils, count, order.samples), np.complex64)
    stored = np.empty((images, depth, count, order.samples, axes[0]))
    places = {int(line): np.unravel_index(i, order.numbers.shape) for i, line in enumerate(order.numbers.flat)}
    for line, values, positions in read_spokes(path, lines, numbers):
        image, partition, spoke = places[line]
        if not np.isfinite(positions).all():
            found, advice = "NaN or infinite positions", "repair or leave out the file"
            raise data_error(path, f"data[{line}] traj", found, "finite ones", advice)
        samples[image, partition, :, spoke], stored[image, partition, spoke] = values, positions
    unit = f"{selection.angles} angles by kspace_encode_step_1"
    if axes[0] == 0:
        plane = plane_positions(path, computed_positions(path, lines, order, encoding, selection.angles), depth)
    else:
        plane = plane_positions(path, stored, depth)
        if not plane.any():
            advice = "write the positions of every sample"
            raise data_error(path, "data traj", "only zeros", "positions", advice)
        plane, found_unit = cycles_per_pixel(path, plane, encoding, selection.trajectory_unit)
        unit = f"positions in {found_unit}"
    plane = checked_positions(path, "data traj", plane)
    kept = depth
    if depth > 1 and (ratio := encoding.oversampling(2)) > _OVERSAMPLED:
        kept = max(round(depth / ratio), 1)
    return _Spokes(samples[:, 0] if depth == 1 else stack_as_slices(samples, kept), plane, order, unit)


def _samples(path: Path, version: tuple[int, int], selection: Selection, index: int) -> Array:
    return np.array(_sorted(path, version, selection).samples[index])


def _positions(path: Path, version: tuple[int, int], selection: Selection, index: int) -> Array:
    spokes = _sorted(path, version, selection)
    return np.array(spokes.positions[index // spokes.slices_per_image])
