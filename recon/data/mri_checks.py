"""Whether the content of a k-space file is as its header and its mask say."""

import torch
from torch import Tensor

from physics import calibration_block, samples_center

from ..errors import data_error
from .mri_center import axes_in_corner, peak_line, power_of
from .mri_volume import LARGEST, KSpaceVolume
from .mri_zeros import ROUNDED, ranges

#: Fewest lines of the fully sampled center for coil maps. Measured with CG-SENSE and ESPIRiT on a head, regular 3x: the
#: images correlate 0.86, 0.90, 0.95, 0.98 with the truth for 2, 3, 4, 6 lines, and the zero-filled one 0.90.
CALIBRATION_LINES = 4
#: Energy per sample in padding over that of the median column above which it is no rounding.
_IN_PADDING = 0.01


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
    lacks_readout
        Whether rows at an end of the readout hold only zeros in a slice that is not empty: an asymmetric echo.
    """

    def __init__(self, volume: KSpaceVolume) -> None:
        self.volume = volume
        self.energy: dict[int, float] = {}
        self.lacks_readout = False
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
        power = power_of(kspace)
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
        self.lacks_readout |= not bool(rows[0] and rows[-1])
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
        size, peak = (len(by_row), len(by_column)), (peak_line(by_row), peak_line(by_column))
        if corner := axes_in_corner(peak, size):
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
