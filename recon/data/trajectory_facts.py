"""Facts that hold for all slices of a measured radial or spiral scan: scale, noise, acceleration, center."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from physics import gridded_kspace, ifft2c, measured_trajectory, root_sum_of_squares

from ..errors import data_error
from .mri_reduction import Reduction, center_gram
from .mri_scaling import PROBED_SLICES, VolumeFacts, robust_maximum, whitening_of
from .mri_volume import LARGEST
from .sample import center_crop
from .trajectory_volume import TrajectoryVolume

#: Samples beyond this part of the largest radius are taken for noise, where nothing states the noise.
_EDGE = 0.92
#: Part of the signal outside of the image above which `check` warns.
_OUTSIDE = 0.05
#: Largest step along a readout that is twice oversampled, in Cartesian samples, and fewest samples of a smooth image.
_OVERSAMPLED_STEP, _SMOOTH = 0.55, 16


class SampleContent:
    """What the slices of a volume hold, looked at one after another, as :class:`KSpaceContent` for Cartesian k-space.

    Attributes
    ----------
    energy
        Sum of squared magnitudes by slice.
    """

    def __init__(self, volume: TrajectoryVolume) -> None:
        self.volume = volume
        self.energy: dict[int, float] = {}
        self._largest = 0.0
        self._empty: list[tuple[int, int]] = []

    def look(self, index: int, samples: Tensor) -> None:
        """Look at one slice, complex ``(coils, spokes, samples)``."""
        by_spoke = samples.abs().square().sum((0, 2), dtype=torch.float64)
        self.energy[index] = float(by_spoke.sum())
        self._largest = max(self._largest, float(samples.abs().max()))
        if self.energy[index] and (empty := int((by_spoke == 0).sum())):
            self._empty.append((index, empty))

    def warnings(self) -> list[str]:
        """What makes the volume doubtful, one line each.

        Raises
        ------
        DataError
            If all values are too small.
        """
        path = self.volume.path
        if 0 < self._largest < 1 / LARGEST:
            found, expected = (
                f"values up to {self._largest:.0e}",
                f"at least {1 / LARGEST:.0e}: squares must not vanish",
            )
            raise data_error(path, "kspace", found, expected, "scale the file")
        if self._largest == 0:
            return [str(data_error(path, "kspace", "only zeros", "a measurement", "leave out the file"))]
        if not self._empty:
            return []
        index, spokes = self._empty[0]
        found = f"only zeros in {spokes} of {self.volume.shape[2]} spokes"
        advice = "they count as measured: leave out these spokes, or the file"
        return [str(data_error(path, f"kspace[{index}]", found, "signal in every spoke", advice))]


def outside_warning(volume: TrajectoryVolume) -> str | None:
    """A line where a scan has signal outside of its image, from the middle slice; None: little, or that is unknown.

    An oversampled readout measures what lies beyond the image along it; the image cannot hold that. It shows in a
    smooth image of twice the field of view, made from the center that is fully sampled for it. Without oversampling,
    or with few spokes, signal beyond the image cannot be told from aliasing.
    """
    index, shape = volume.shape[0] // 2, volume.image_shape
    positions, double = volume.positions(index), (2 * shape[0], 2 * shape[1])
    steps = (positions.diff(dim=-2) * torch.tensor(shape)).square().sum(-1).sqrt()
    width = measured_trajectory(positions, double).center_width
    if float(steps.median()) > _OVERSAMPLED_STEP or width < _SMOOTH:
        return None
    y, x = (torch.arange(n) - n // 2 for n in double)
    rows, columns = (
        torch.where(at.abs() < width / 2, 0.5 + 0.5 * torch.cos(2 * torch.pi * at / width), 0) for at in (y, x)
    )
    smooth = gridded_kspace(volume.read_slice(index), positions, double) * rows[:, None] * columns
    energy = root_sum_of_squares(ifft2c(smooth)).square()
    # A pixel of the smooth image may reach over the edge.
    room = [shape[axis] / 2 + double[axis] / width for axis in (0, 1)]
    outside = (y[:, None].abs() > room[0]) | (x.abs() > room[1])
    share = float(energy[outside].sum() / energy.sum().clamp_min(1e-30))
    if share <= _OUTSIDE:
        return None
    found = f"{share:.0%} of the signal outside of the image of {shape[0]}x{shape[1]} pixels"
    advice = "the image cannot hold it: streaks are to be expected, unless the field of view is enlarged"
    return str(data_error(volume.path, "trajectory", found, f"at most {_OUTSIDE:.0%}", advice))


def probe_trajectory(volume: TrajectoryVolume, reduction: Reduction) -> VolumeFacts:
    """Measure the facts of a volume on up to `PROBED_SLICES` slices; a process reads a file once.

    The scale is that of the gridded image. Where the file states no noise, an upper bound is taken from the outermost
    samples. The mask of the facts is the fully sampled center.

    Raises
    ------
    DataError
        If the file is gone, or a slice cannot be read or used.
    """
    return _probed(_Probe((volume.path.resolve(), volume.version), reduction, volume))


@dataclass(frozen=True)
class _Probe:
    file: tuple[Path, tuple[int, int, int]]
    reduction: Reduction
    volume: TrajectoryVolume = field(compare=False)


@lru_cache(maxsize=1024)
def _probed(probe: _Probe) -> VolumeFacts:
    volume = probe.volume
    shape, n_coils = volume.image_shape, volume.shape[1]
    covariance, gram = torch.zeros(2, n_coils, n_coils, dtype=torch.complex128)
    pixels, content = [], SampleContent(volume)
    scan = measured_trajectory(volume.positions(0), shape)
    probed = torch.linspace(0, volume.shape[0] - 1, min(volume.shape[0], PROBED_SLICES)).round().int().tolist()
    for i in probed:
        samples, positions = volume.read_slice(i), volume.positions(i)
        content.look(i, samples)
        gridded = gridded_kspace(samples, positions, shape)
        pixels.append(center_crop(root_sum_of_squares(ifft2c(gridded)), volume.crop_shape).flatten())
        covariance += _edge_covariance(samples, positions) / len(probed)
        gram += center_gram(gridded)
    estimate = volume.noise_covariance is None
    if volume.noise_covariance is not None:
        covariance = volume.noise_covariance
    whitening, variance = whitening_of(covariance)
    noise_is_white = whitening is None
    noise = torch.zeros_like(covariance) if estimate else covariance
    if (matrix := probe.reduction.matrix(gram, noise)) is not None:
        whitening, variance = whitening_of(matrix @ covariance @ matrix.mH)
    return VolumeFacts(
        rows=shape[0],
        mask=center_mask(shape, scan.center_width),
        compression=matrix,
        added_noise=None,
        noise_is_white=noise_is_white,
        whitening=whitening,
        noise_std=variance**0.5,
        noise_is_estimated=estimate,
        scale=robust_maximum(torch.cat(pixels)),
        acceleration=scan.effective_acceleration,
        center_fraction=scan.center_width / max(shape),
        warnings=tuple(content.warnings()),
    )


def _edge_covariance(samples: Tensor, positions: Tensor) -> Tensor:
    """Covariance of the outermost samples ``(coils, spokes, samples)``, complex128 ``(coils, coils)``."""
    radius = positions.square().sum(-1).sqrt()
    outer = samples[:, radius >= _EDGE * radius.max()].to(torch.complex128)
    outer = outer[:, outer.abs().amax(0) > 0]
    covariance: Tensor = outer @ outer.mH / max(outer.shape[1], 1)
    return covariance


def center_mask(shape: tuple[int, int], width: int) -> Tensor:
    """Mask of a square at the center of k-space, bool ``(height, width)``."""
    rows, columns = ((torch.arange(n) - n // 2 + width // 2) for n in shape)
    inside = [(axis >= 0) & (axis < width) for axis in (rows, columns)]
    return inside[0][:, None] & inside[1]
