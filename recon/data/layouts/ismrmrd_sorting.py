"""Lines of an ISMRMRD file sorted into k-space: averages, oversampling, slabs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import data_error
from ..complex_values import Array
from .ismrmrd_encoding import Encoding
from .ismrmrd_lines import Lines
from .ismrmrd_selection import LineFile
from .slab import slab_as_slices

#: Smallest ratio of the fields of view that is oversampling, not rounding.
_OVERSAMPLED = 1.05


@dataclass(frozen=True, eq=False)
class Places:
    """Where lines belong: by line, the number of the image (frame and slice) and the positions along phase and slab.

    ``images`` are the pairs of frame and slice, ``start`` is the first sample on the grid of the readout.
    """

    numbers: Array
    image: Array
    phase: Array
    partition: Array
    start: Array
    images: tuple[tuple[int, int], ...]
    coils: int

    def count(self, size: tuple[int, int, int]) -> Array:
        """Lines by image and position, ``(images, phase, partitions)``."""
        count = np.zeros((len(self.images), size[1], size[2]), np.int64)
        np.add.at(count, (self.image, self.phase, self.partition), 1)
        return count


def place_lines(path: Path, lines: Lines, numbers: Array, encoding: Encoding) -> Places:
    """Place lines on the grid of an encoding.

    Raises
    ------
    DataError
        If a line has other coils, more samples than the encoded matrix, or lies outside of it.
    """
    head = lines.head[numbers]
    coils = np.unique(head["active_channels"])
    if len(coils) != 1 or coils[0] == 0:
        found = f"lines of {' and '.join(str(n) for n in coils[:4])} coils"
        raise data_error(path, "data active_channels", found, "lines of one number of coils", "split the file")
    width = encoding.size[0]
    samples = (head["number_of_samples"].astype(np.int64) - head["discard_pre"]) - head["discard_post"]
    if (samples < 1).any() or (samples > width).any():
        found, expected = f"lines of {int(samples.max())} samples", f"1 to {width}, the encoded matrix"
        raise data_error(path, "data number_of_samples", found, expected, "correct encodedSpace/matrixSize/x")
    center = head["center_sample"].astype(np.int64) - head["discard_pre"]
    center = np.where(lines.reverse[numbers], samples - 1 - center, center)
    start = np.where(samples == width, 0, width // 2 - center)
    if (start < 0).any() or (start + samples > width).any():
        worst = int(np.flatnonzero((start < 0) | (start + samples > width))[0])
        found = f"{int(samples[worst])} samples with the center at {int(center[worst])}"
        expected = f"an echo on the {width} samples of the encoded matrix"
        raise data_error(path, f"data[{int(numbers[worst])}] center_sample", found, expected, "correct the header")
    positions = []
    for axis, name in ((1, "kspace_encode_step_1"), (2, "kspace_encode_step_2")):
        size, middle = encoding.size[axis], encoding.center[axis - 1]
        shift = 0 if middle is None else size // 2 - middle
        position = lines.counter(name)[numbers] + shift
        if (position < 0).any() or (position >= size).any():
            outside = int(position[(position < 0) | (position >= size)][0]) - shift
            found, expected = f"{name} {outside}", f"{-min(shift, 0)} to {size - 1 - shift}, as of the header"
            raise data_error(path, "data idx", found, expected, "correct matrixSize or the center of encodingLimits")
        positions.append(position)
    pairs = list(zip(lines.counter("phase")[numbers].tolist(), lines.counter("slice")[numbers].tolist(), strict=True))
    images = tuple(sorted(set(pairs)))
    of_pair = {pair: number for number, pair in enumerate(images)}
    image = np.array([of_pair[pair] for pair in pairs], np.int64)
    return Places(numbers, image, positions[0], positions[1], start, images, int(coils[0]))


def sorted_kspace(
    path: Path, lines: Lines, at: Places, encoding: Encoding, source: LineFile
) -> tuple[Array, Array, str]:
    """k-space ``(slices, coils, readout, phase)``, its mask, and what was done, in words.

    Positions that were measured several times are averaged. Readout oversampling is removed where all lines are
    complete; oversampled partitions are cut off.
    """
    width, height, depth = encoding.size
    kspace = np.zeros((len(at.images), at.coils, width, height, depth), np.complex64)
    row = {int(number): index for index, number in enumerate(at.numbers)}
    for number, values in source.samples(path, lines, at.numbers):
        i = row[number]
        start = int(at.start[i])
        kspace[at.image[i], :, start : start + values.shape[1], at.phase[i], at.partition[i]] += values
    count = at.count(encoding.size)
    with np.errstate(invalid="ignore"):  # the volume refuses what is not finite
        kspace /= np.maximum(count, 1)[:, None, None].astype(np.float32)
    said = []
    kept = kept_readout(at, lines, encoding)
    if kept < width:
        kspace = _crop_readout(kspace, kept)
        said.append(f"readout oversampling removed ({width} to {kept} samples)")
    measured = np.asarray((count > 0).any(0))
    if depth == 1:
        return kspace[..., 0], np.asarray(measured[:, 0]), "; ".join(said)
    done = [slab_as_slices(slab, measured) for slab in kspace]
    slabs, (_, mask, words) = [slab for slab, _, _ in done], done[0]
    if mask.ndim == 1 and (ratio := encoding.oversampling(2)) > _OVERSAMPLED:
        inner = max(round(depth / ratio), 1)
        first = depth // 2 - inner // 2
        slabs = [slab[first : first + inner] for slab in slabs]
        words += f", the inner {inner} of {depth} kept"
    return slabs[0] if len(slabs) == 1 else np.concatenate(slabs), mask, "; ".join([*said, words])


def kept_readout(places: Places, lines: Lines, encoding: Encoding) -> int:
    """Samples of the readout without oversampling; all where a line is not complete."""
    width, ratio = encoding.size[0], encoding.oversampling(0)
    head = lines.head[places.numbers]
    samples = head["number_of_samples"].astype(np.int64) - head["discard_pre"] - head["discard_post"]
    if ratio < _OVERSAMPLED or (samples < width).any():
        return width
    return min(max(round(width / ratio), 1), width)


def _crop_readout(kspace: Array, kept: int) -> Array:
    """k-space of the inner part of the image along the readout, axis 2."""
    width = kspace.shape[2]
    first = width // 2 - kept // 2
    cropped = np.empty((*kspace.shape[:2], kept, *kspace.shape[3:]), np.complex64)
    for index in np.ndindex(kspace.shape[:2]):  # one by one: the FFT multiplies the memory
        with np.errstate(invalid="ignore"):
            shifted = np.fft.ifft(np.fft.ifftshift(kspace[index], axes=0), axis=0, norm="ortho")
            inner = np.fft.fftshift(shifted, axes=0)[first : first + kept]
            spectrum = np.fft.fft(np.fft.ifftshift(inner, axes=0), axis=0, norm="ortho")
        cropped[index] = np.fft.fftshift(spectrum, axes=0)
    return cropped
