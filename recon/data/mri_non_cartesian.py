"""Slices along spokes or spirals: measured ones, or fully sampled k-space that is measured again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from physics import (
    TRAJECTORIES,
    NonCartesianMRI,
    Trajectory,
    crop_readout,
    gridded_kspace,
    ifft2c,
    make_trajectory,
    whiten,
)

from ..errors import data_error
from .augmentation import Augmentation
from .label_files import ScanLabels
from .mri_checks import calibration_lines
from .mri_formats import MRI_READERS
from .mri_reduction import CoilChoice
from .mri_scaling import VolumeFacts
from .mri_slices import KSpaceSlices, MapsMethod, MeasuredSlice, ReferenceChoice
from .mri_volume import KSpaceVolume
from .said_once import count_as_said
from .sample import Sample
from .scan_features import mri_features
from .slices import Seed
from .trajectory_facts import SampleContent, center_mask, outside_warning, probe_trajectory
from .trajectory_volume import TrajectoryVolume


@dataclass(frozen=True)
class TrajectorySimulation:
    """A scan along spokes or spirals, simulated from fully sampled Cartesian k-space.

    Parameters
    ----------
    sampling, acceleration
        Family and acceleration of :func:`physics.make_trajectory`. All files of one size have the same positions, as on
        a scanner.
    noise_std
        As in :class:`Simulation`, of each complex sample.
    seed
        Seed of the noise.

    Raises
    ------
    ValueError
        If the family is unknown or a number out of range.
    """

    sampling: Annotated[str, TRAJECTORIES]
    acceleration: Annotated[float, Ge(1)]
    noise_std: Annotated[float, Ge(0)] = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.sampling not in TRAJECTORIES:
            known = ", ".join(TRAJECTORIES)
            raise ValueError(f"TrajectorySimulation: sampling is {self.sampling!r}, expected one of {known}")
        if not 1 <= self.acceleration < math.inf:
            raise ValueError(f"TrajectorySimulation: acceleration is {self.acceleration}, expected at least 1")
        if not 0 <= self.noise_std < math.inf:
            raise ValueError(f"TrajectorySimulation: noise_std is {self.noise_std}, expected 0 or more")


class NonCartesianSlices(KSpaceSlices):
    """All slices of some files as samples with :class:`physics.NonCartesianMRI`.

    Files of samples along a trajectory (:class:`TrajectoryVolume`) are used as measured. They have no reference:
    networks train on them by self-supervision. All else is about files of Cartesian k-space.

    With `simulate` the coil images of fully sampled k-space are measured at the positions of a trajectory, after the
    oversampling of the readout was removed. Without it the file is the measurement: its columns are the spokes, and
    the operator is that of the Cartesian scan.

    Scale, noise, whitening, size and reference are those of :class:`KSpaceSlices`. Coil maps are estimated from the
    center of the gridded coil images, where the trajectory samples fully, including spokes that are held out later.

    Parameters
    ----------
    simulate
        Trajectory and noise; None: the measurement of the file.
    maps
        ``espirit``, ``low_resolution`` or ``true``.
    files, site, format, maps_folder, reference, remove_oversampling, compress_coils, augment, seed, names, labels
        As for :class:`KSpaceSlices`; all other arguments are those of the reader.

    Raises
    ------
    DataError
        As for :class:`KSpaceSlices`; and if `simulate` is given for an undersampled file, or one along a trajectory.
    """

    simulate: TrajectorySimulation | None
    _takes_trajectories = True
    _denser_center = "lower the acceleration"
    _other_maps = "images will hardly be better than gridded ones; measure more spokes"

    def __init__(
        self,
        files: Sequence[Path | str],
        site: str,
        *,
        simulate: TrajectorySimulation | None = None,
        format: Annotated[str, MRI_READERS] = "fastmri",
        maps: MapsMethod = "espirit",
        maps_folder: Path | None = None,
        reference: ReferenceChoice = "auto",
        remove_oversampling: bool = True,
        compress_coils: CoilChoice = "auto",
        augment: Augmentation | None = None,
        seed: int = 0,
        names: Sequence[str] | None = None,
        labels: ScanLabels | None = None,
        **reader_options: Any,
    ) -> None:
        super().__init__(
            files,
            site,
            simulate=simulate,  # type: ignore[arg-type]
            format=format,
            maps=maps,
            maps_folder=maps_folder,
            reference=reference,
            remove_oversampling=remove_oversampling,
            compress_coils=compress_coils,
            augment=augment,
            seed=seed,
            names=names,
            labels=labels,
            **reader_options,
        )

    def trajectory(self, number: int) -> Trajectory | None:
        """Trajectory of a volume; None: the measurement of the file."""
        if self.simulate is None:
            return None
        shape = (self.volume_facts(number).rows, self.volumes[number].shape[3])
        return _trajectory(self.simulate.sampling, shape, self.simulate.acceleration)

    def _drawn(self, number: int) -> Tensor | None:
        return None

    def acceleration(self, number: int) -> float:
        """Samples of a fully sampled scan along such a trajectory over samples, see :class:`physics.Trajectory`."""
        if isinstance(self.volumes[number], TrajectoryVolume):
            return self.volume_facts(number).acceleration
        trajectory = self.trajectory(number)
        return super().acceleration(number) if trajectory is None else trajectory.effective_acceleration

    def completeness(self, number: int) -> str:
        volume = self.volumes[number]
        if not isinstance(volume, TrajectoryVolume):
            return super().completeness(number)
        return f"{volume.shape[2]} spokes of {volume.shape[3]} samples"

    def check(self, number: int) -> list[str]:
        volume = self.volumes[number]
        if not isinstance(volume, TrajectoryVolume):
            return super().check(number)
        content = SampleContent(volume)
        for index, samples in enumerate(self.measured_slices(number)):
            content.look(index, samples)
            volume.positions(index)
        outside = outside_warning(volume) if any(content.energy.values()) else None
        found = (*volume.notes, *content.warnings(), *self._calibration_warnings(number), outside)
        lines = [line for line in found if line is not None]
        count_as_said(self.site, volume.path, lines)
        return lines

    def calibration(self, number: int) -> int | None:
        if isinstance(self.volumes[number], TrajectoryVolume):
            is_needed = self.maps != "true" and self.volumes[number].shape[1] > 1
            return calibration_lines(self._probe(number).mask) if is_needed else None
        lines, trajectory = super().calibration(number), self.trajectory(number)
        return lines if lines is None or trajectory is None else min(lines, trajectory.center_width)

    def arrays(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Arrays whose ``NonCartesianMRI(maps, trajectory)`` maps ``reference_complex`` to ``kspace``."""
        references = [sample.reference for sample in samples if sample.reference is not None]
        operators: Sequence[Any] = [sample.operator for sample in samples]
        return {
            "kspace": torch.stack([sample.measurement for sample in samples]),
            "trajectory": torch.stack([A.trajectory for A in operators]),
            "maps": torch.stack([A.maps for A in operators]),
            "reference_complex": torch.stack(references),
        }

    def _measure(self, number: int, i: int, kspace: Tensor, facts: VolumeFacts) -> MeasuredSlice:
        volume = self.volumes[number]
        if isinstance(volume, TrajectoryVolume):
            return self._along(number, i, kspace, volume.positions(i), volume.image_shape, facts)
        trajectory = self.trajectory(number)
        if trajectory is None:
            scan = super()._measure(number, i, kspace, facts)
            shape = (facts.rows, kspace.shape[-1])
            operator = NonCartesianMRI(scan.maps, _columns(shape), facts.mask.expand(shape).mT.contiguous())
            return scan._replace(measurement=scan.measurement.mT.contiguous(), operator=operator)
        cut = kspace if facts.rows == kspace.shape[-2] else crop_readout(kspace, facts.rows)
        shape = (cut.shape[-2], cut.shape[-1])
        one_coil = NonCartesianMRI(torch.ones(1, *shape, dtype=cut.dtype), trajectory.positions)
        samples = one_coil(ifft2c(cut)).squeeze(-3)
        if facts.added_noise is not None:
            samples = samples + self._noise(number, i, samples.shape, facts)
        center = replace(facts, mask=center_mask(shape, trajectory.center_width))
        return self._along(number, i, samples, trajectory.positions, shape, center)

    def _along(
        self, number: int, i: int, samples: Tensor, positions: Tensor, shape: tuple[int, int], facts: VolumeFacts
    ) -> MeasuredSlice:
        """A slice of samples along a trajectory; the mask of the facts is the fully sampled center."""
        maps, output_weight = self._coil_maps(number, i, gridded_kspace(samples, positions, shape), facts)
        white_maps = maps if facts.whitening is None else whiten(maps, facts.whitening)
        operator = NonCartesianMRI(white_maps, positions)
        return MeasuredSlice(facts.mixed(samples), operator, white_maps, output_weight)

    def _probe(self, number: int) -> VolumeFacts:
        volume = self.volumes[number]
        return (
            probe_trajectory(volume, self.reduction) if isinstance(volume, TrajectoryVolume) else super()._probe(number)
        )

    def _features(self, number: int, noise_std: float) -> dict[str, float]:
        volume, trajectory = self.volumes[number], self.trajectory(number)
        if isinstance(volume, TrajectoryVolume):
            facts = self.volume_facts(number)
            acceleration, center = facts.acceleration, facts.center_fraction
        elif trajectory is None:
            return super()._features(number, noise_std)
        else:
            acceleration = trajectory.effective_acceleration
            center = trajectory.center_width / max(volume.shape[2:])
        return mri_features(
            acceleration=max(1.0, acceleration),
            center_fraction=min(1.0, center),
            n_coils=volume.shape[1],
            noise_std=noise_std,
            family=None,
        )

    def _reference_kind(self, volume: KSpaceVolume, choice: ReferenceChoice) -> str:
        if self.simulate is not None and isinstance(volume, TrajectoryVolume):
            found, expected = "samples along a trajectory", "Cartesian k-space for [simulate]"
            raise data_error(volume.path, "trajectory", found, expected, "remove [simulate]")
        self._require_full(volume)
        return super()._reference_kind(volume, choice)


@lru_cache(maxsize=16)
def _trajectory(family: str, shape: tuple[int, int], acceleration: float) -> Trajectory:
    return make_trajectory(family, shape, acceleration)


@lru_cache(maxsize=16)
def _columns(shape: tuple[int, int]) -> Tensor:
    """Positions of Cartesian k-space, a spoke for each column, ``(width, height, 2)``."""
    rows, columns = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape)
    return torch.stack((rows.expand(shape[1], -1), columns[:, None].expand(-1, shape[0])), dim=-1)
