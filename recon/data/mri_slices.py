"""Slices of k-space files as samples: sampled, whitened, scaled, with operator and reference."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from physics import (
    OPERATORS,
    LinearOperator,
    combine_coils,
    complex_noise,
    correlated_noise,
    estimate_maps,
    ifft2c,
    mix_coils,
    root_sum_of_squares,
    samples_center,
    whiten,
    with_image_phase,
)

from ..errors import DataError, data_error
from .augmentation import Augmentation
from .label_files import ScanLabels
from .maps_cache import storing_maps
from .mri_calibration import calibration_path, calibration_scan, require_calibration
from .mri_checks import CALIBRATION_LINES, KSpaceContent, calibration_lines
from .mri_formats import MRI_READERS
from .mri_reduction import CoilChoice, Reduction, coil_choice
from .mri_references import check_reference
from .mri_scaling import VolumeFacts, effective_acceleration, probe_volume
from .mri_undersampling import Simulation, drawn_mask
from .mri_volume import KSpaceVolume, fitting_crop
from .progress import doing
from .said_once import count_as_said, warn_once
from .sample import Sample, SampleMeta, center_crop
from .scan_features import SAMPLING_FAMILIES, condition_vector, mask_family, mri_features
from .slices import VolumeSlices, generator_for, make_operator, seed_from
from .trajectory_volume import TrajectoryVolume

MapsMethod = Literal["espirit", "low_resolution", "true"]
ReferenceChoice = Literal["auto", "coil_combined", "rss"]


class MeasuredSlice(NamedTuple):
    """Whitened measurement of a slice before it is scaled, its operator, the whitened maps, and the RSS of the maps."""

    measurement: Tensor
    operator: LinearOperator
    maps: Tensor
    output_weight: Tensor


class KSpaceSlices(VolumeSlices):
    r"""All slices of some k-space files as samples.

    **Scale.** One number per volume divides measurement and reference: the 0.999 quantile of the
    root-sum-of-squares image of the sampled positions (before simulated noise), cropped as displayed.

    **Noise.** The covariance :math:`C` of a measurement is the sum of the covariance of simulated noise and
    ``noise_covariance`` of the file; only where neither exists is it estimated, from the outermost readout samples, and
    its level by :meth:`physics.CartesianMRI.estimate_noise_std`.
    Data and maps are multiplied by :math:`W` with :math:`W C W^H = c I`; ``noise_std`` is :math:`\sqrt{c}` in scaled
    units. A file without ``noise_covariance`` counts as noise-free where noise is simulated: its own noise cannot be
    told from signal.

    **Size.** Samples are smaller than the file where this does not change the image, see `remove_oversampling` and
    `compress_coils`. Scale, noise level, reference and displayed crop stay. `raw_coils` asks for the scan as it is.

    **Reference.** ``coil_combined``: least-squares combination, with the maps of the sample, of all encoded
    k-space before simulated noise; the operator maps it to the measurement. ``rss``: the reconstruction in the
    file. ``auto``: coil-combined where the file is fully sampled, else the reconstruction in the file, else none.

    Parameters
    ----------
    files, names, site, format, reader_options, labels
        As for :class:`VolumeSlices`; ``format`` is a name in :data:`MRI_READERS`.
    simulate
        Degradation; None: the measurement of the file.
    operator
        Name of the operator in :data:`physics.OPERATORS`, called as ``operator(maps, mask)``; None:
        :class:`physics.CartesianMRI`.
    maps
        ``espirit``, ``low_resolution`` (both from the sampled positions alone) or ``true`` (true maps of a
        simulation, for controls).
    calibration_scan
        File of another scan of the same person with the same coils, to estimate the maps from by ESPIRiT, relative to
        the folder of each file; ``{stem}`` in it is the name of the file without its end. None: the measurement itself.
    remove_oversampling
        Whether samples hold the displayed rows of the image alone, where the readout is oversampled and complete, all
        rows of the mask are equal and the operator is :class:`physics.CartesianMRI`.
    compress_coils
        Virtual coils in place of the coils, see :func:`physics.coil_compression`: ``"auto"``, False, a number of coils
        or a part of the energy, see :data:`recon.data.mri_reduction.CoilChoice`.
    maps_folder
        Folder that stores estimated maps; None: estimate them in every call.
    reference
        See above.
    raw_coils
        Whether samples hold coils and readout as the file does, for a network that was trained on such scans: neither
        whitened nor compressed nor cut, whatever `remove_oversampling` and `compress_coils` say. Where the noise of
        the coils is correlated, ``noise_std`` is its root mean square over the coils.
    augment
        Augmentation of the image before it is measured; seeded by `seed`, the attribute `epoch`, file name and slice.
    redraw
        Whether `simulate` draws mask and noise anew for every slice in every `epoch`, as if it were scanned again:
        fewer scans teach as many masks as there are passes. The maps stay those of the first draw, which samples the
        same calibration lines, as does the condition. Without `simulate` it changes nothing.
    seed
        Seed of the augmentation and of new draws.

    Raises
    ------
    DataError
        If a file cannot be used, or the arguments ask for data that a file does not hold.
    """

    volumes: tuple[KSpaceVolume, ...]
    simulate: Any
    #: Whether volumes may be :class:`TrajectoryVolume`.
    _takes_trajectories = False
    #: How ``[simulate]`` gets more calibration lines.
    _denser_center = "raise center_fraction"
    #: What to do with measured scans of few calibration lines.
    _other_maps = "images will hardly be better than zero-filled ones; name a calibration scan (data.calibration_scan)"

    def __init__(
        self,
        files: Sequence[Path | str],
        site: str,
        *,
        simulate: Simulation | None = None,
        format: Annotated[str, MRI_READERS] = "fastmri",
        operator: Annotated[str, OPERATORS] | None = None,
        maps: MapsMethod = "espirit",
        calibration_scan: str | None = None,
        maps_folder: Path | None = None,
        reference: ReferenceChoice = "auto",
        remove_oversampling: bool = True,
        compress_coils: CoilChoice = "auto",
        raw_coils: bool = False,
        augment: Augmentation | None = None,
        redraw: bool = False,
        seed: int = 0,
        names: Sequence[str] | None = None,
        labels: ScanLabels | None = None,
        **reader_options: Any,
    ) -> None:
        super().__init__(files, site, MRI_READERS, format, reader_options, names, labels)
        for volume in self.volumes:
            if isinstance(volume, TrajectoryVolume) and not self._takes_trajectories:
                found, expected = "samples along a trajectory", "Cartesian k-space"
                advice = 'set modality = "non_cartesian" in the manifest, and use weights of that modality'
                raise data_error(volume.path, "trajectory", found, expected, advice)
        self.simulate, self.maps, self.maps_folder = simulate, maps, maps_folder
        self.augment, self.redraw, self.seed = augment, redraw, seed
        self.operator = operator or "CartesianMRI"
        self.calibrations = tuple(
            self._open_calibration(volume, calibration_scan, reader_options) for volume in self.volumes
        )
        # Another operator may depend on the readout as it was sampled.
        self.reduction = Reduction(remove_oversampling and self.operator == "CartesianMRI", coil_choice(compress_coils))
        if raw_coils:
            self.reduction = Reduction.none()
        self.reference_kinds = tuple(self._reference_kind(volume, reference) for volume in self.volumes)
        self._facts: dict[int, VolumeFacts] = {}

    def mask(self, number: int) -> Tensor:
        """Sampled positions of a volume, bool ``(1 | height, width)``; padding counts as not sampled."""
        volume = self.volumes[number]
        mask, key, advice = volume.available, "mask", "correct the mask of the file"
        drawn = self._drawn(number)
        if drawn is not None:
            key, advice = "[simulate]", "lower acceleration or raise center_fraction"
            mask = mask & drawn
        if not mask.any():
            raise data_error(volume.path, key, "no sampled position", "at least one", advice)
        if self.maps != "true" and self.calibrations[number] is None and not samples_center(mask):
            raise data_error(volume.path, key, "no sample at the center of k-space", "one, for coil maps", advice)
        return mask

    def _drawn(self, number: int) -> Tensor | None:
        """Mask of the simulation; None: all that the file holds."""
        return None if self.simulate is None else drawn_mask(self.volumes[number], self.names[number], self.simulate)

    def acceleration(self, number: int) -> float:
        """Encoded positions of a volume over sampled ones; padding counts as neither."""
        return effective_acceleration(self.volumes[number], self.mask(number))

    def calibration(self, number: int) -> int | None:
        if self.maps == "true" or self.calibrations[number] or self.volumes[number].shape[1] == 1:
            return None
        return calibration_lines(self.mask(number))

    def map_bytes(self, sample: Sample) -> int:
        maps: Tensor | None = getattr(sample.operator, "maps", None)
        # Real and imaginary part, two bytes each.
        return 0 if maps is None or self.maps == "true" or self.maps_folder is None else 4 * maps.numel()

    def completeness(self, number: int) -> str:
        share = self.volumes[number].partial_fourier
        return super().completeness(number) if share is None else f"partial Fourier, {share:.0%} of the lines"

    def check(self, number: int) -> list[str]:
        volume, content = self.volumes[number], KSpaceContent(self.volumes[number])
        for index, kspace in enumerate(self.measured_slices(number)):
            content.look(index, kspace)
        lines = [*volume.notes, *content.warnings(), *self._calibration_warnings(number)]
        if volume.rss_shape is not None:  # used or not: it also tells whether k-space is in order
            is_used = self.reference_kinds[number] == "rss"
            try:
                lines += check_reference(volume, [content.energy[i] for i in range(volume.shape[0])], is_used)
            except DataError as error:
                if is_used:
                    raise
                lines.append(str(error))
        if self.maps == "true":
            for index in range(volume.shape[0]):
                volume.read_maps(index)
        if (calibration := self.calibrations[number]) is not None:
            for index in range(calibration.shape[0]):
                calibration.read_slice(index)
        count_as_said(self.site, volume.path, lines)
        return lines

    def displayed_shape(self, number: int) -> tuple[int, int]:
        volume = self.volumes[number]
        if self.reference_kinds[number] != "rss":
            return volume.crop_shape
        return fitting_crop((volume.shape[2], volume.shape[3]), volume.rss_shape or volume.header.recon_shape)

    def sample(self, number: int, i: int) -> Sample:
        volume, facts = self.volumes[number], self.volume_facts(number)
        kspace = volume.read_slice(i) * volume.available
        scan = self._measure(number, i, kspace, facts)
        kind, reference = self.reference_kinds[number], None
        if kind == "coil_combined":
            reference = combine_coils(ifft2c(facts.reduced(kspace)), scan.maps) / facts.scale
        elif kind == "rss":
            reference = center_crop(volume.read_rss(i), self.displayed_shape(number)) / facts.scale
        measurement, noise_std = scan.measurement / facts.scale, torch.tensor(facts.noise_std / facts.scale)
        if facts.noise_is_estimated:
            noise_std = torch.minimum(noise_std, scan.operator.estimate_noise_std(measurement))
        acceleration = self.acceleration(number)
        # Networks for raw coils give the root sum of squares of the coil images; without a reference it is displayed.
        shows_rss = kind == "none" and not self.reduction.whitens
        sample = Sample(
            measurement=measurement,
            operator=scan.operator,
            noise_std=noise_std,
            reference=reference,
            scale=torch.tensor(facts.scale),
            condition=condition_vector(self._features(number, float(noise_std))),
            meta=(SampleMeta(self.site, self.names[number], i, acceleration, kind),),
            output_weight=scan.output_weight if kind == "rss" or shows_rss else None,
            crop_shape=self.displayed_shape(number),
            label=self.label(number, i),
        )
        if self.augment is None:
            return sample
        return self.augment(sample, generator_for("augment", self.seed, self.epoch, self.names[number], i))

    def _measure(self, number: int, i: int, kspace: Tensor, facts: VolumeFacts) -> "MeasuredSlice":
        """Measure a slice of k-space as the file holds it."""
        measured = kspace
        if facts.added_noise is not None:
            measured = measured + self._noise(number, i, kspace.shape, facts)
        measured = measured * facts.mask
        maps, output_weight = self._coil_maps(number, i, measured, facts)
        white_maps = maps if facts.whitening is None else whiten(maps, facts.whitening)
        mask = facts.mask
        if self.redraw and isinstance(self.simulate, Simulation):
            mask, measured = self._redrawn(number, i, kspace, facts, self.simulate)
        operator = make_operator(self.volumes[number].path, self.operator, white_maps, mask)
        return MeasuredSlice(facts.reduced(measured), operator, white_maps, output_weight)

    def _redrawn(
        self, number: int, i: int, kspace: Tensor, facts: VolumeFacts, simulate: Simulation
    ) -> tuple[Tensor, Tensor]:
        """Mask and measurement of a slice in another draw of the simulation."""
        volume, draw = self.volumes[number], seed_from(repr(("redraw", self.seed, self.epoch, i)), bits=32)
        mask = volume.available & drawn_mask(volume, self.names[number], simulate, draw)
        if facts.added_noise is not None:
            kspace = kspace + self._noise(number, i, kspace.shape, facts, draw)
        return mask if facts.rows == volume.shape[2] else mask[:1], kspace * mask

    def facts(self) -> dict[str, Any]:
        simulation = self.simulate
        return {
            "coils": sorted({volume.shape[1] for volume in self.volumes}),
            "virtual_coils": sorted({self._virtual_coils(number) for number in range(len(self.volumes))}),
            "sampling": "as measured" if simulation is None else simulation.sampling,
            "nominal_acceleration": None if simulation is None else simulation.acceleration,
            "noise_std": None if simulation is None else simulation.noise_std,
            "maps": self.maps,
        }

    def arrays(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Arrays whose ``CartesianMRI(maps, mask)`` maps ``reference_complex`` to ``kspace``."""
        references = [sample.reference for sample in samples if sample.reference is not None]
        operators: Sequence[Any] = [sample.operator for sample in samples]
        return {
            "kspace": torch.stack([sample.measurement for sample in samples]),
            "mask": torch.stack([A.sampled[..., 0, :, :].expand(A.domain_shape) for A in operators]),
            "maps": torch.stack([A.maps for A in operators]),
            "reference_complex": torch.stack(references),
        }

    def _features(self, number: int, noise_std: float) -> dict[str, float]:
        """Features of the scan of a volume."""
        facts, sampling = self.volume_facts(number), None if self.simulate is None else self.simulate.sampling
        return mri_features(
            acceleration=facts.acceleration,
            center_fraction=facts.center_fraction,
            n_coils=self.volumes[number].shape[1],
            noise_std=noise_std,
            family=mask_family(facts.mask) if sampling is None else SAMPLING_FAMILIES[sampling],
        )

    def _require_full(self, volume: KSpaceVolume, advice: str = "remove [simulate]") -> None:
        """Refuse to undersample a file that is undersampled already."""
        if self.simulate is not None and volume.undersampled:
            expected = "a fully sampled one for [simulate]"
            raise data_error(volume.path, "mask", "an undersampled file", expected, advice)

    def _reference_kind(self, volume: KSpaceVolume, choice: ReferenceChoice) -> str:
        """Kind of the reference of a file; refuses a file that lacks data for the arguments."""
        path, undersampled, kind = volume.path, volume.undersampled, str(choice)
        if choice == "auto":
            kind = "coil_combined" if not undersampled else "none" if volume.rss_shape is None else "rss"
        elif choice == "coil_combined" and undersampled:
            raise data_error(path, "mask", "undersampled k-space", "fully sampled k-space", 'use reference = "auto"')
        elif choice == "rss" and volume.rss_shape is None:
            raise data_error(path, "reconstruction_rss", "nothing", "an RSS image", 'use reference = "auto"')
        if isinstance(self.simulate, Simulation) and not self.simulate.nested:
            self._require_full(volume, "remove [simulate] or set nested = true")
        if self.maps == "true" and not volume.has_maps:
            raise data_error(path, "maps", "nothing", "true maps of a simulation", 'use maps = "espirit"')
        if self.augment is not None and kind != "coil_combined":
            expected = "coil_combined, to be measured again"
            raise data_error(path, "reference", kind, expected, "train without augmentation")
        return kind

    def _calibration_warnings(self, number: int) -> list[str]:
        lines = self.calibration(number)
        if lines is None or lines >= CALIBRATION_LINES:
            return []
        found, expected = f"{lines} calibration line{'s' * (lines != 1)}", f"at least {CALIBRATION_LINES} for coil maps"
        key, advice = "mask", self._other_maps
        if self.simulate is not None:
            key, advice = "[simulate]", self._denser_center
        return [str(data_error(self.volumes[number].path, key, found, expected, advice))]

    def volume_facts(self, number: int) -> VolumeFacts:
        """Facts of a volume: mask, scale, noise, and how samples are made smaller."""
        if number not in self._facts:
            volume, facts = self.volumes[number], self._probe(number)
            self._facts[number] = facts
            for line in (*volume.notes, *facts.warnings, *self._calibration_warnings(number)):
                warn_once(self.site, volume.path, line)
        return self._facts[number]

    def _probe(self, number: int) -> VolumeFacts:
        noise_std = 0.0 if self.simulate is None else self.simulate.noise_std
        return probe_volume(self.volumes[number], self.mask(number), noise_std, self.reduction)

    def _virtual_coils(self, number: int) -> int:
        matrix = self.volume_facts(number).compression
        return self.volumes[number].shape[1] if matrix is None else len(matrix)

    def _noise(self, number: int, i: int, shape: Sequence[int], facts: VolumeFacts, draw: int | None = None) -> Tensor:
        """Simulated noise of a slice, ``(coils, ...)``; ``draw`` is the seed of another draw."""
        assert facts.added_noise is not None
        seed = self.simulate.seed if self.simulate is not None else 0
        generator = generator_for("noise", seed, self.names[number], i, *([] if draw is None else [draw]))
        if facts.noise_is_white:
            return complex_noise(shape, math.sqrt(float(facts.added_noise[0, 0].real)), generator)
        return correlated_noise(shape, facts.added_noise, generator).to(torch.complex64)

    def _open_calibration(
        self, volume: KSpaceVolume, pattern: str | None, reader_options: Mapping[str, Any]
    ) -> KSpaceVolume | None:
        if pattern is None:
            return None
        if self.maps != "espirit":
            found = f"maps {self.maps!r} and a calibration scan"
            raise data_error(volume.path, "calibration_scan", found, 'maps = "espirit"', "leave out one of them")
        path = calibration_path(volume.path, pattern)
        calibration = MRI_READERS.open(path, self.format, **reader_options)
        require_calibration(volume, calibration)
        return calibration

    def _coil_maps(self, number: int, i: int, measured: Tensor, facts: VolumeFacts) -> tuple[Tensor, Tensor]:
        """Maps of (virtual) coils, of the rows that samples hold, and the root sum of squares of those of all coils."""
        volume, calibration = self.volumes[number], self.calibrations[number]
        if self.maps != "true":
            scan = None if calibration is None else calibration_scan(volume, calibration, i)
            with doing("coil maps of a slice"), storing_maps(self.maps_folder):
                maps = estimate_maps(
                    measured,
                    facts.mask,
                    self.maps,
                    self.maps_folder,
                    scan,
                    height=facts.rows,
                    compression=facts.compression,
                )
            return maps, root_sum_of_squares(maps) if facts.compression is None else torch.ones(maps.shape[1:])
        maps = center_crop(volume.read_maps(i), (facts.rows, measured.shape[-1]))
        if samples_center(facts.mask):
            maps = with_image_phase(maps, measured, facts.mask)
        mixed = maps if facts.compression is None else mix_coils(maps, facts.compression)
        return mixed, root_sum_of_squares(maps)
