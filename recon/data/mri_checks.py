"""Whether the content of a k-space file is as its header, its mask and its reconstruction say."""

from collections.abc import Sequence

import torch
from torch import Tensor

from physics import calibration_block, fft2c, ifft2c, samples_center

from ..errors import data_error
from .mri_volume import LARGEST, KSpaceVolume, fitting_crop
from .mri_zeros import ROUNDED, ranges
from .sample import center_crop

#: Fewest lines of the fully sampled center for coil maps. Measured with CG-SENSE and ESPIRiT on a head, regular 3x: the
#: images correlate 0.86, 0.90, 0.95, 0.98 with the truth for 2, 3, 4, 6 lines, and the zero-filled one 0.90.
CALIBRATION_LINES = 4
#: Largest distance of the peak of k-space from the middle, as a fraction of an axis, and at least so many samples.
_OFF_CENTER, _OFF_CENTER_SAMPLES = 0.05, 2
#: Lines with less than so many times the energy of the median line are noise: nothing has a peak there.
_PEAK = 4.0
#: Least energy of a neighbor of the peak of an echo, as a part of the peak's.
_BESIDE = 0.02
#: Energy per sample in padding over that of the median column above which it is no rounding.
_IN_PADDING = 0.01
#: Least correlation of a reconstruction with k-space, over that of undersampling alone, and the gain by which another
#: orientation is told from this one: full sampling, at least a fifth, less. Measured on eleven scans: 0.985 and more
#: with a Hann filter; 0.93 to 4x, without a gain; 0.79 at 8x, with 0.02. Other people reach 0.72.
_FULL, _UNDERSAMPLED, _FEW = (0.97, 0.015), (0.9, 0.02), (0.6, 0.05)


class KSpaceContent:
    """What the slices of a volume hold, looked at one after another.

    Parameters
    ----------
    volume
        The file.

    Attributes
    ----------
    energy
        Sum of squared magnitudes by slice.
    """

    def __init__(self, volume: KSpaceVolume) -> None:
        self.volume = volume
        self.energy: dict[int, float] = {}
        self._largest = 0.0
        self._findings: dict[str, list[tuple[int, str, str, str]]] = {}
        self._available = volume.available.expand(volume.shape[2:])

    def look(self, index: int, kspace: Tensor) -> None:
        """Look at one slice, complex ``(coils, readout, phase)``.

        Raises
        ------
        DataError
            If the zero frequency lies in the corner, or rows are missing between others.
        """
        power = _power(kspace)
        by_row, by_column = (power.sum(axis, dtype=torch.float64) for axis in (1, 0))
        self.energy[index] = float(by_row.sum())
        brightest = float(power.max())
        self._largest = max(self._largest, brightest**0.5 if brightest > 1e-30 else float(kspace.abs().max()))
        if brightest == 0:
            return
        self._look_for_zeros(index, power > 0, by_row > 0, by_column > 0)
        self._look_at_padding(index, by_column)
        self._look_at_center(index, by_row, by_column)

    def warnings(self) -> list[str]:
        """What makes the volume doubtful, one line each, with the file's path.

        Raises
        ------
        DataError
            If all values are too small, or the slices are partitions of 3-D k-space.
        """
        path, count = self.volume.path, len(self.energy)
        if 0 < self._largest < 1 / LARGEST:
            found = f"values up to {self._largest:.0e}"
            expected = f"at least {1 / LARGEST:.0e}: squares must not vanish"
            raise data_error(path, "kspace", found, expected, "scale the file")
        self._require_slices()
        if self._largest == 0:
            return [str(data_error(path, "kspace", "only zeros", "a measurement", "leave out the file"))]
        lines = []
        for of_a_kind in self._findings.values():
            index, found, expected, advice = of_a_kind[0]
            found += f" ({len(of_a_kind)} of {count} slices)" if count > 1 else ""
            lines.append(str(data_error(path, f"kspace[{index}]", found, expected, advice)))
        return lines

    def _find(self, kind: str, index: int, found: str, expected: str, advice: str) -> None:
        self._findings.setdefault(kind, []).append((index, found, expected, advice))

    def _look_for_zeros(self, index: int, nonzero: Tensor, rows: Tensor, columns: Tensor) -> None:
        measured = rows.nonzero().flatten()
        between = int((~rows[int(measured[0]) : int(measured[-1])]).sum())
        if between > ROUNDED * len(rows):
            found = f"only zeros in {between} rows between others"
            advice = "rows are the readout: exchange the last two axes of kspace, or leave out the file"
            raise data_error(self.volume.path, f"kspace[{index}]", found, "signal along the whole readout", advice)
        missing = self._available & ~nonzero
        if not missing.any():
            return
        if (empty := self._available.any(1) & ~rows).any():
            found, expected = f"only zeros in rows {ranges(empty.tolist())}", "signal along the whole readout"
            advice = "an asymmetric echo or zero padding, read as measured: images are smooth along the readout"
            self._find("rows", index, found, expected, advice)
        lost = missing.all(0) & self._available.any(0)
        part = self._available & rows[:, None] & columns
        if lost.any():
            found = f"only zeros in columns {ranges(lost.tolist())}, which count as measured"
        elif int((missing & part).sum()) > ROUNDED * int(part.sum()):
            found = f"zeros at {int((missing & part).sum())} of {int(part.sum())} measured positions"
        else:
            return
        self._find("zeros", index, found, "signal", "correct the mask, or leave out the file")

    def _look_at_padding(self, index: int, by_column: Tensor) -> None:
        padding, inside = by_column[~self.volume.acquired], by_column[self._available.any(0)]
        if len(padding) and len(inside) and float(padding.mean()) > _IN_PADDING * float(inside.median()):
            left, right = self.volume.header.padding
            found, expected = "signal in the padding", f"zeros outside columns {left} to {right - 1}"
            self._find("padding", index, found, expected, "it is not used; correct encodingLimits of the header")

    def _look_at_center(self, index: int, by_row: Tensor, by_column: Tensor) -> None:
        size, peak = (len(by_row), len(by_column)), (_peak(by_row), _peak(by_column))
        corner = [axis - 2 for axis, n in enumerate(size) if min(peak[axis], n - peak[axis]) <= _reach(n) < n // 2]
        if corner:
            found = f"the peak at row {peak[0]}, column {peak[1]}"
            expected = f"it in the middle, {size[0] // 2}, {size[1] // 2}"
            advice = f"the zero frequency lies in the corner: apply np.fft.fftshift along {', '.join(map(str, corner))}"
            raise data_error(self.volume.path, f"kspace[{index}]", found, expected, advice)
        for n, at, line in zip(size, peak, ("row", "column"), strict=True):
            if at != n // 2:
                found, expected = f"the peak at {line} {at}", f"it at {line} {n // 2}, the middle"
                self._find(line, index, found, expected, f"shift k-space by {n // 2 - at:+d} {line}s")

    def _require_slices(self) -> None:
        """Refuse partitions of 3-D k-space: the middle one outshines its neighbors, as no anatomy does."""
        n, partitions = self.volume.shape[0], self.volume.header.partitions
        if partitions == 1 or n < 4 or len(self.energy) < n:
            return
        energy = [self.energy[index] for index in range(n)]
        largest, median = max(energy), sorted(energy)[n // 2]
        middle = energy.index(largest)
        neighbors = max(energy[max(middle - 1, 0) : middle] + energy[middle + 1 : middle + 2])
        if abs(middle - n // 2) <= 1 and neighbors < 0.6 * largest and median < 0.05 * largest:
            key, found = "ismrmrd_header encodedSpace/matrixSize/z", f"{partitions}, and partitions of 3-D k-space"
            advice = "transform kspace along its first axis, then write 1"
            raise data_error(self.volume.path, key, found, "slices", advice)


def calibration_lines(mask: Tensor) -> int:
    """Lines of the fully sampled center of a mask ``(1 | height, width)``: columns, or the shorter edge of a plane."""
    if not samples_center(mask):
        return 0
    return min(int(block.stop - block.start) for block in calibration_block(mask))


def check_reference(volume: KSpaceVolume, energy: Sequence[float], is_used: bool = True) -> list[str]:
    """Compare the reconstruction in a file with its k-space: values, scale, orientation, position.

    One slice is reconstructed by root sum of squares: a bright one, but not the middle one, which stays where it is
    if the slices are stored in reverse.

    Parameters
    ----------
    volume
        A file with a reconstruction.
    energy
        Energy of the k-space of every slice.
    is_used
        Whether it is the reference; if not, its scale does not matter.

    Returns
    -------
        What does not fit, one line each, with the file's path.

    Raises
    ------
    DataError
        If the reconstruction is not finite or all zero.
    """
    key, path = volume.rss_key, volume.path
    empty = [index for index in range(len(energy)) if not volume.read_rss(index).any()]
    if len(empty) == len(energy):
        raise data_error(path, key, "only zeros", "images", "reconstruct them again, or use another reference")
    lines = []
    if dark := [index for index in empty if energy[index] > 0]:
        found = f"only zeros ({len(dark)} of {len(energy)} slices)"
        lines.append(str(data_error(path, f"{key}[{dark[0]}]", found, "images", "reconstruct them again")))
    shown = [index for index in range(len(energy)) if index not in empty and energy[index] > 0]
    if shown:
        index = max(shown, key=lambda index: (2 * index + 1 != len(energy), energy[index]))
        lines += _compare(volume, index, is_used)
    return lines


def _compare(volume: KSpaceVolume, index: int, is_used: bool) -> list[str]:
    size, available = (volume.shape[2], volume.shape[3]), volume.available
    crop = fitting_crop(size, volume.rss_shape or volume.crop_shape)
    reference = center_crop(volume.read_rss(index), crop).double()
    image = center_crop(_power(ifft2c(volume.read_slice(index) * available)).sqrt(), crop).double()
    own, perfect, (least, margin) = _correlation(reference, image), 1.0, _FULL
    if volume.undersampled:
        # Undersampling blurs and aliases: no more than it takes from the reference itself.
        mask = center_crop(available.expand(size), crop)
        perfect = _correlation(reference, ifft2c(fft2c(reference + 0j) * mask).abs())
        least, margin = _FEW if float(available.float().mean()) < 0.2 else _UNDERSAMPLED
    # No turn gains so much on a perfect fit: sound files are checked fast.
    name, best = ("", own) if own > 1 - margin else _best_fit(reference, image)
    factor = float((reference * image).sum() / image.square().sum())
    low, high = (0.5, 2.0) if volume.undersampled else (0.8, 1.25)
    if best > own + margin and best > least * perfect:
        found, expected, advice = f"an image that is {name}", "it as kspace shows it", "turn or shift it back"
    elif own < least * perfect:
        found, expected = f"an image that correlates {own:.2f} with kspace", f"at least {least * perfect:.2f}"
        advice = "is it of another scan? reconstruct it again"
    elif is_used and not low < factor < high:
        found, expected = f"values {factor:.3g} times those of kspace", "the scale of its root sum of squares"
        advice = f"divide it by {factor:.3g}"
    else:
        return []
    return [str(data_error(volume.path, f"{volume.rss_key}[{index}]", found, expected, advice))]


def _best_fit(reference: Tensor, image: Tensor) -> tuple[str, float]:
    """Orientation and shift at which the reference fits best, in words, and the correlation there."""
    turns = {"": (), "upside down": (0,), "left-right mirrored": (1,), "rotated by 180 degrees": (0, 1)}
    best, name = -1.0, ""
    for transposed in (False, True) if image.shape[0] == image.shape[1] else (False,):
        for turn, axes in turns.items():
            values = _correlations(torch.flip(reference.mT if transposed else reference, axes), image)
            if float(values.max()) > best + 1e-3:
                best = float(values.max())
                at = divmod(int(values.argmax()), values.shape[1])
                rows, columns = (size - n if n > size // 2 else -n for n, size in zip(at, values.shape, strict=True))
                # A flip moves an image of even size by one pixel.
                moved = max(abs(rows), abs(columns)) > (1 if turn or transposed else 0)
                shift = f"shifted by {rows} rows and {columns} columns" if moved else ""
                name = ", ".join(filter(None, ("transposed" if transposed else "", turn, shift)))
    return name, best


def _correlation(reference: Tensor, image: Tensor) -> float:
    """Correlation coefficient of two images."""
    a, b = reference - reference.mean(), image - image.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-300))


def _correlations(reference: Tensor, image: Tensor) -> Tensor:
    """Correlation coefficient of two images for every circular shift of the reference."""
    a, b = reference - reference.mean(), image - image.mean()
    product: Tensor = torch.fft.irfft2(torch.fft.rfft2(a).conj() * torch.fft.rfft2(b), s=a.shape)
    product /= (a.norm() * b.norm()).clamp_min(1e-300)
    return product


def _power(kspace: Tensor) -> Tensor:
    """Squared magnitude, summed over the coils."""
    total = torch.zeros(kspace.shape[1], 2 * kspace.shape[2])
    for coil in torch.view_as_real(kspace):
        parts = coil.reshape(total.shape)
        total.addcmul_(parts, parts)
    return total.view(*kspace.shape[1:], 2).sum(-1)


def _peak(energy: Tensor) -> int:
    """Line of the peak; the middle where nothing says otherwise."""
    middle, reach = len(energy) // 2, _reach(len(energy))
    measured = energy[energy > 0]
    largest = float(energy.max())
    if len(energy) < 8 * reach or largest < _PEAK * float(measured.median()):
        return middle
    near, at = float(energy[middle - reach : middle + reach + 1].max()), int(energy.argmax())
    beside = max(float(energy[at - 1]), float(energy[(at + 1) % len(energy)]))
    # An echo has neighbors, a spike has none.
    return middle if near >= 0.5 * largest or beside < _BESIDE * largest else at


def _reach(n: int) -> int:
    """Lines from the middle within which a peak is in the middle."""
    return max(_OFF_CENTER_SAMPLES, round(_OFF_CENTER * n))
