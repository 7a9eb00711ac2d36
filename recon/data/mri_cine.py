"""Frames of a moving object as samples: one sample per slice, with a mask for every frame and maps that they share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from physics import FRAME_SAMPLINGS, CineMRI, combine_coils, file_seed, ifft2c, whiten

from ..errors import DataError, data_error
from .mri_checks import calibration_lines
from .mri_formats import MRI_READERS
from .mri_reduction import CoilChoice
from .mri_scaling import VolumeFacts
from .mri_slices import KSpaceSlices, MapsMethod, ReferenceChoice
from .mri_volume import KSpaceVolume
from .sample import Sample, SampleMeta
from .scan_features import condition_vector, mri_features
from .slices import Seed


@dataclass(frozen=True)
class CineSimulation:
    """Retrospective undersampling of fully sampled frames.

    Parameters
    ----------
    sampling
        A name in `physics.FRAME_SAMPLINGS`.
    acceleration, center_fraction
        Arguments of the sampling; the center is measured in every frame. The file name seeds the masks of a volume.
    noise_std, seed
        As in :class:`Simulation`.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.
    """

    sampling: Annotated[str, FRAME_SAMPLINGS]
    acceleration: Annotated[float, Ge(1)]
    center_fraction: Annotated[float, Gt(0), Le(1)]
    noise_std: Annotated[float, Ge(0)] = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.sampling not in FRAME_SAMPLINGS:
            known = ", ".join(FRAME_SAMPLINGS)
            raise ValueError(f"CineSimulation: sampling is {self.sampling!r}, expected one of {known}")
        if not self.acceleration >= 1:
            raise ValueError(f"CineSimulation: acceleration is {self.acceleration}, expected at least 1")
        if not 0 < self.center_fraction <= 1:
            raise ValueError(f"CineSimulation: center_fraction is {self.center_fraction}, expected 0 to 1")
        if not 0 <= self.noise_std < math.inf:
            raise ValueError(f"CineSimulation: noise_std is {self.noise_std}, expected 0 or more")


class CineSlices(KSpaceSlices):
    """All slices of some k-space files with frames as samples with :class:`physics.CineMRI`.

    A sample is one slice in all frames: images ``(frames, height, width)``, measurements ``(frames, coils, height,
    width)``. A file without frames has one. Scale, noise and whitening are those of :class:`KSpaceSlices`, measured on
    the positions that all frames sample. Coil maps are estimated from the mean of each position over the frames that
    sample it, and are the same in all frames.

    Parameters
    ----------
    simulate
        Masks and noise; None: the measurement of the file, with one mask for all frames.
    files, names, site, format, maps, maps_folder, remove_oversampling, compress_coils, reader_options
        As for :class:`KSpaceSlices`.
    reference
        ``coil_combined``, or ``auto``: that of a fully sampled file, none of another one.

    Raises
    ------
    DataError
        As for :class:`KSpaceSlices`; and if `simulate` is given for an undersampled file.
    """

    simulate: CineSimulation | None

    def __init__(
        self,
        files: Sequence[Path | str],
        site: str,
        *,
        simulate: CineSimulation | None = None,
        format: Annotated[str, MRI_READERS] = "fastmri",
        maps: MapsMethod = "espirit",
        maps_folder: Path | None = None,
        reference: ReferenceChoice = "auto",
        remove_oversampling: bool = True,
        compress_coils: CoilChoice = "auto",
        names: Sequence[str] | None = None,
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
            names=names,
            **reader_options,
        )

    def n_slices(self, number: int) -> int:
        volume: KSpaceVolume = self.volumes[number]
        return volume.shape[0] // volume.frames

    def as_stored(self, images: Tensor) -> Tensor:
        """2-D images in the order of the file, in which the slice counts fastest."""
        return images.movedim(1, 0).flatten(0, 1)

    def frame_masks(self, number: int) -> Tensor:
        """Sampled positions of every frame of a volume, bool ``(frames, 1 | height, width)``."""
        volume, simulate = self.volumes[number], self.simulate
        available = volume.available.expand(volume.frames, *volume.available.shape)
        if simulate is None:
            return available
        seed = file_seed(self.names[number]) + ((simulate.seed,) if simulate.seed else ())
        family = FRAME_SAMPLINGS[simulate.sampling]
        try:
            drawn = family(volume.frames, volume.shape[3], simulate.acceleration, simulate.center_fraction, seed)
        except ValueError as error:
            raise DataError(f"{volume.path}: [simulate]: {error}") from None
        return available & drawn.unsqueeze(-2)

    def _drawn(self, number: int) -> Tensor:
        """Positions that all frames sample, from which scale and noise of the volume are measured."""
        return self.frame_masks(number).all(0)

    def calibration(self, number: int) -> int | None:
        """Lines in the center that some frame samples: the maps are estimated from their mean."""
        lines = super().calibration(number)
        return None if lines is None else calibration_lines(self.frame_masks(number).any(0))

    def acceleration(self, number: int) -> float:
        volume, masks = self.volumes[number], self.frame_masks(number)
        return int(volume.acquired.sum()) * masks.shape[0] * masks.shape[1] / int(masks.sum())

    def sample(self, number: int, i: int) -> Sample:
        volume, facts = self.volumes[number], self.volume_facts(number)
        frames = [i + frame * self.n_slices(number) for frame in range(volume.frames)]
        kspace = torch.stack([volume.read_slice(index) for index in frames]) * volume.available
        masks = self.frame_masks(number)
        masks = masks if facts.rows == volume.shape[2] else masks[:, :1]
        measured = kspace
        if facts.added_noise is not None:
            drawn = [self._noise(number, index, kspace.shape[1:], facts) for index in frames]
            measured = measured + torch.stack(drawn)
        measured = measured * masks.unsqueeze(-3)
        maps = self._shared_maps(number, i, measured, masks, facts)
        white_maps = maps if facts.whitening is None else whiten(maps, facts.whitening)
        operator, measurement = CineMRI(white_maps, masks), facts.reduced(measured) / facts.scale
        noise_std = torch.tensor(facts.noise_std / facts.scale)
        if facts.noise_is_estimated:
            noise_std = torch.minimum(noise_std, operator.estimate_noise_std(measurement))
        kind, reference = self.reference_kinds[number], None
        if kind == "coil_combined":
            reference = combine_coils(ifft2c(facts.reduced(kspace)), white_maps) / facts.scale
        return Sample(
            measurement=measurement,
            operator=operator,
            noise_std=noise_std,
            reference=reference,
            scale=torch.tensor(facts.scale),
            condition=condition_vector(self._features(number, float(noise_std))),
            meta=(SampleMeta(self.site, self.names[number], i, self.acceleration(number), kind),),
            crop_shape=volume.crop_shape,
        )

    def _shared_maps(self, number: int, i: int, measured: Tensor, masks: Tensor, facts: VolumeFacts) -> Tensor:
        """Maps from the mean over the frames that sample a position, ``(coils, height, width)``."""
        times = masks.sum(0)
        mean = measured.sum(0) / times.clamp_min(1)
        return self._coil_maps(number, i, mean, replace(facts, mask=times > 0))[0]

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"frames": sorted({volume.frames for volume in self.volumes})}

    def _features(self, number: int, noise_std: float) -> dict[str, float]:
        return mri_features(
            acceleration=self.acceleration(number),
            center_fraction=self.volume_facts(number).center_fraction,
            n_coils=self.volumes[number].shape[1],
            noise_std=noise_std,
            family=None,
        )

    def _reference_kind(self, volume: KSpaceVolume, choice: ReferenceChoice) -> str:
        if choice == "rss":
            raise data_error(volume.path, "reference", "'rss'", "'auto' or 'coil_combined' for frames", "correct it")
        self._require_full(volume)
        kind = super()._reference_kind(volume, choice)
        return "none" if kind == "rss" else kind
