"""Lines of an ISMRMRD file with a trajectory, in order: images, partitions, spokes."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from physics import GOLDEN_ANGLE_RAD

from ...errors import data_error
from ..complex_values import Array
from .ismrmrd_encoding import Encoding
from .ismrmrd_lines import Lines
from .ismrmrd_selection import SpokeAngles

#: Largest change of a position that is none, as a part of the largest position.
_SAME = 1e-3


@dataclass(frozen=True, eq=False)
class SpokeOrder:
    """Lines by image, partition and spoke.

    ``numbers`` are those of the lines, ``(images, partitions, spokes)``; ``images`` are the pairs of frame and slice;
    ``samples`` and ``coils`` are those of every line.
    """

    numbers: Array
    images: tuple[tuple[int, int], ...]
    samples: int
    coils: int


def order_spokes(path: Path, lines: Lines, numbers: Array, encoding: Encoding) -> SpokeOrder:
    """Order lines by frame, slice, partition and ``kspace_encode_step_1``; averages are further spokes.

    Raises
    ------
    DataError
        If lines differ in coils or samples, images in their number of spokes, or a partition is missing.
    """
    head = lines.head[numbers]
    coils = np.unique(head["active_channels"])
    if len(coils) != 1 or coils[0] == 0:
        found = f"lines of {' and '.join(str(n) for n in coils[:4])} coils"
        raise data_error(path, "data active_channels", found, "lines of one number of coils", "split the file")
    samples = head["number_of_samples"].astype(np.int64) - head["discard_pre"] - head["discard_post"]
    if len(np.unique(samples)) != 1 or samples[0] < 2:
        found, expected = f"lines of {samples.min()} to {samples.max()} samples", "one number of samples, at least 2"
        advice = "split the file, or leave out lines that are no image data"
        raise data_error(path, "data number_of_samples", found, expected, advice)
    frames, slices = lines.counter("phase")[numbers], lines.counter("slice")[numbers]
    pairs = sorted(set(zip(frames.tolist(), slices.tolist(), strict=True)))
    partitions = _partitions(path, lines, numbers, encoding)
    steps = lines.counter("kspace_encode_step_1")[numbers]
    order = np.lexsort((steps, partitions, slices, frames))  # stable: equal steps stay in the order of the file
    count, rest = divmod(len(numbers), len(pairs) * encoding.size[2])
    keys = frames[order], slices[order], partitions[order]
    shape = (len(pairs), encoding.size[2], count)
    even = rest == 0 and count > 0
    if even:
        by_group = [key.reshape(shape) for key in keys]
        even = all((key == key[..., :1]).all() for key in by_group)
        even = even and bool((by_group[2][..., 0] == np.arange(encoding.size[2])).all())
    if not even:
        if encoding.size[2] > 1:
            present = len(np.unique(partitions))
            found = f"{len(numbers)} lines in {present} of {encoding.size[2]} partitions, not as many in each"
            advice = "partial or undersampled partitions are not reconstructed"
            raise data_error(path, "data kspace_encode_step_2", found, "every partition with the same spokes", advice)
        found, advice = "images of different numbers of spokes", "write each of them with recon.write_non_cartesian"
        raise data_error(path, "data idx", found, "as many in every slice and frame", advice)
    return SpokeOrder(numbers[order].reshape(shape), tuple(pairs), int(samples[0]), int(coils[0]))


def _partitions(path: Path, lines: Lines, numbers: Array, encoding: Encoding) -> Array:
    depth, middle = encoding.size[2], encoding.center[1]
    shift = 0 if middle is None else depth // 2 - middle
    found = lines.counter("kspace_encode_step_2")[numbers] + shift
    if (found < 0).any() or (found >= depth).any():
        outside = int(found[(found < 0) | (found >= depth)][0]) - shift
        words, expected = (
            f"kspace_encode_step_2 {outside}",
            f"{-min(shift, 0)} to {depth - 1 - shift}, as of the header",
        )
        raise data_error(path, "data idx", words, expected, "correct matrixSize/z or the center of encodingLimits")
    return found


def plane_positions(path: Path, positions: Array, depth: int) -> Array:
    """Positions in the plane, ``(..., 2)``, of positions along two or three axes ``(images, partitions, spokes, ...)``.

    Raises
    ------
    DataError
        If the third axis changes within a line, or along partitions that the header does not state, or the spokes of
        partitions differ.
    """
    key, plane = "data traj", positions[..., :2]
    scale = float(np.abs(plane).max())
    if positions.shape[-1] == 3 and np.abs(third := positions[..., 2]).max() > _SAME * scale:
        if np.ptp(third, axis=-1).max() > _SAME * np.abs(third).max():
            found, expected = "positions whose third axis changes along a line", "a 2-D trajectory or a stack of stars"
            advice = "3-D trajectories are not reconstructed; leave out a third axis that holds density weights"
            raise data_error(path, key, found, expected, advice)
        if depth == 1 and np.ptp(third) > _SAME * np.abs(third).max():
            found, expected = "lines at several positions of the third axis", "matrixSize/z partitions"
            raise data_error(path, key, found, expected, "state the partitions in header and kspace_encode_step_2")
    if depth > 1:
        turned = float(np.abs(plane - plane[:, depth // 2][:, None]).max())
        if turned > _SAME * scale:
            found, expected = "spokes that differ from partition to partition", "a stack of equal stars"
            advice = "partitions with spokes of their own cannot be separated; this is a 3-D scan"
            raise data_error(path, key, found, expected, advice)
    return plane[:, depth // 2]


def computed_positions(
    path: Path, lines: Lines, order: SpokeOrder, encoding: Encoding, angles: SpokeAngles | None
) -> Array:
    """Positions of a radial scan that states none, in cycles per pixel, ``(images, partitions, spokes, samples, 2)``.

    The angle is that of :func:`physics.golden_angle_trajectory` or :func:`physics.radial_trajectory`, with the number
    ``kspace_encode_step_1``; the center is ``center_sample``.

    Raises
    ------
    DataError
        If the header is not radial, no angles are told, or ``center_sample`` lies outside of the line.
    """
    kind, key = encoding.header.trajectory, "data traj"
    if kind not in ("radial", "goldenangle"):
        raise data_error(path, key, f"no positions of a {kind} scan", "them", "write the positions into the file")
    if angles is None:
        found, expected = f"no positions; the header says {kind!r} alone", "positions, or the angles of the spokes"
        advice = 'set angles = "golden" (111.25 degrees from spoke to spoke) or "uniform" (over half a turn)'
        raise data_error(path, key, found, expected, advice)
    if angles not in (known := get_args(SpokeAngles)):
        raise data_error(path, "angles", repr(angles), f"one of {', '.join(known)}", "correct it")
    steps = lines.counter("kspace_encode_step_1")[order.numbers]
    if steps.max() == steps.min() and order.numbers.shape[-1] > 1:
        found, expected = f"kspace_encode_step_1 {int(steps.max())} in all lines", "the number of the spoke"
        raise data_error(path, "data idx", found, expected, "write the positions into the file")
    head, n = lines.head[order.numbers], order.samples
    center = head["center_sample"].astype(np.int64) - head["discard_pre"]
    center = np.where(lines.reverse[order.numbers], n - 1 - center, center)
    radius = (np.arange(n) - center[..., None]) / encoding.size[0]
    if np.abs(radius).max() > 0.5:
        found = f"{n} samples with the center at {int(center.flat[0])}"
        expected = f"a spoke on the {encoding.size[0]} samples of the encoded matrix"
        raise data_error(path, "data center_sample", found, expected, "correct the header")
    count = max(encoding.lines or 0, int(steps.max()) + 1)
    angle = steps * (GOLDEN_ANGLE_RAD if angles == "golden" else math.pi / count)
    return np.stack([radius * f(angle)[..., None] for f in (np.sin, np.cos)], axis=-1)


def stack_as_slices(samples: Array, kept: int) -> Array:
    """Slices of a stack of stars by a centered inverse FFT along the partitions.

    Parameters
    ----------
    samples
        ``(images, partitions, coils, spokes, samples)``.
    kept
        Slices that are kept, the inner ones.

    Returns
    -------
        ``(images * kept, coils, spokes, samples)``, complex64.
    """
    images, depth = samples.shape[:2]
    first = depth // 2 - kept // 2
    slices = np.empty((images, kept, *samples.shape[2:]), np.complex64)
    transform = partial(np.fft.ifft, axis=0, norm="ortho")
    for image in range(images):
        for coil in range(samples.shape[2]):  # one by one: the FFT multiplies the memory
            with np.errstate(invalid="ignore"):  # the volume refuses what is not finite
                one = np.fft.fftshift(transform(np.fft.ifftshift(samples[image, :, coil], axes=0)), axes=0)
            slices[image, :, coil] = one[first : first + kept]
    return slices.reshape(images * kept, *samples.shape[2:])
