"""Scores of a method per volume; without a reference, the residual on held-out measurements."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import (
    Sample,
    SampleMeta,
    Samples,
    can_hold_out,
    collate,
    doing,
    doing_unless_named,
    held_out_split,
    made,
)
from ..errors import DataError
from ..method import apply, to_device_of
from .metrics import METRICS, MOST_DB, SSIM_WINDOW, foreground_ssim, has_foreground, nmse, psnr, ssim

#: Fraction of the sampled positions outside the calibration block that is held out if there is no reference.
HELD_OUT_FRACTION = 0.1
#: Training has diverged if the image is this many times brighter than its reference (than 1, without reference).
DIVERGED = 1e6


@dataclass(frozen=True)
class VolumeScore:
    """Scores of one volume; None for scores that it cannot have.

    PSNR and NMSE need a reference, SSIM also images of 7x7 pixels. ``residual`` is the root mean square of ``A x - y``
    on held-out samples in units of the noise; 1 is ideal. It needs a noise level and measurements that can be held out.
    ``psnr_by_frame`` is the PSNR of every frame over the slices, with the maximum of the volume; empty without frames.
    """

    volume: str
    slices: int
    psnr: float | None = None
    ssim: float | None = None
    nmse: float | None = None
    foreground_ssim: float | None = None
    residual: float | None = None
    psnr_by_frame: tuple[float, ...] = ()


@dataclass(frozen=True)
class SiteScores:
    """Scores per volume and their means over volumes."""

    volumes: tuple[VolumeScore, ...]

    def mean(self, name: str) -> float | None:
        """Mean of one score over the volumes that have it, None if none has."""
        values = [value for volume in self.volumes if (value := getattr(volume, name)) is not None]
        return math.fsum(values) / len(values) if values else None

    def selection_score(self) -> float | None:
        """Mean PSNR, or the negative held-out residual without references; higher is better.

        The sign tells them apart: a negative PSNR, which only a diverged network has, counts as zero. A volume counts
        with at most :data:`MOST_DB`: a fully sampled scan reaches 150 dB or infinity, whose changes are rounding, and
        would outweigh or hide the other volumes.
        """
        values = [min(volume.psnr, MOST_DB) for volume in self.volumes if volume.psnr is not None]
        if values:
            return max(math.fsum(values) / len(values), 0.0)
        residual = self.mean("residual")
        return None if residual is None else -residual

    def to_json(self) -> dict[str, Any]:
        """Means and per-volume rows as plain numbers; without any score ``residual`` is None."""
        means = _known({name: self.mean(name) for name in METRICS})
        names = [{"volume": v.volume, "slices": v.slices} for v in self.volumes]
        scores = [_known({name: getattr(v, name) for name in METRICS}) for v in self.volumes]
        for score, volume in zip(scores, self.volumes, strict=True):
            score |= {"psnr_by_frame": list(volume.psnr_by_frame)} if volume.psnr_by_frame else {}
        return means | {"volumes": [name | score for name, score in zip(names, scores, strict=True)]}


def _known(scores: Mapping[str, float | None]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if value is not None} or {"residual": None}


@dataclass(frozen=True)
class VolumeImages:
    """Reconstruction of one volume: magnitudes ``(slices, height, width)`` in scaled units, with the slices' origin.

    With ``frames`` above 1 the frames of a slice follow each other: the slices are as many as ``meta`` times frames.
    """

    volume: str
    meta: tuple[SampleMeta, ...]
    images: Tensor
    reference: Tensor | None
    frames: int = 1


def evaluate(
    method: nn.Module, samples: Samples, *, on_volume: Callable[[VolumeImages], None] | None = None
) -> SiteScores:
    """Score a method volume by volume; in memory are the images of one volume and the samples of one call.

    Parameters
    ----------
    method
        A network or a classical method, called as ``method(y, A)``.
    samples
        Slices in the order of their volumes, on any device.
    on_volume
        Called with the images of every volume, for pictures and files.
    """
    method.eval()
    scores: list[VolumeScore] = []
    volume, done = _Volume(), 0
    with torch.no_grad(), doing_unless_named("scoring", len(samples)):
        for group in _groups(samples):
            if volume.meta and volume.name != group[0].meta[0].volume:
                scores.append(volume.score(on_volume))
                volume = _Volume()
            volume.add(method, group)
            done += len(group)
            made(done)
        if volume.meta:
            scores.append(volume.score(on_volume))
    return SiteScores(tuple(scores))


def _groups(samples: Samples) -> Iterator[list[Sample]]:
    """Slices of one volume that a method reconstructs in one call."""
    group: list[Sample] = []
    for index in range(len(samples)):
        with doing("reading", len(samples)):
            made(index)
            sample = samples[index]
        if group and group[0].meta[0].volume != sample.meta[0].volume:
            yield group
            group = []
        group.append(sample)
        if len(group) >= group[0].operator.slices_at_once:
            yield group
            group = []
    if group:
        yield group


class _Volume:
    """Images and references of one volume, and its errors on held-out measurements, as far as it was reconstructed."""

    def __init__(self) -> None:
        self.meta: list[SampleMeta] = []
        self._images: list[Tensor] = []
        self._references: list[Tensor] = []
        self._errors: list[tuple[float, int]] = []

    @property
    def name(self) -> str:
        return self.meta[0].volume

    def add(self, method: nn.Module, group: list[Sample]) -> None:
        """Reconstruct slices."""
        self.meta += [meta for sample in group for meta in sample.meta]
        self._images.append(_magnitudes(method, group))
        if group[0].reference is None:
            self._errors += _held_out_errors(method, _held_out_parts(group))
        else:
            self._references += [sample.target() for sample in group]

    def score(self, on_volume: Callable[[VolumeImages], None] | None) -> VolumeScore:
        """Score the whole volume.

        Raises
        ------
        DataError
            If the images are far too bright.
        """
        name, slices = self.name, len(self.meta)
        images = torch.cat(self._images)
        reference = torch.stack(self._references) if self._references else None
        frames = math.prod(images.shape[1:-2])
        # Scores and pictures are of 2-D images.
        images = images.flatten(0, -3)
        reference = None if reference is None else reference.flatten(0, -3)
        if on_volume is not None:
            on_volume(VolumeImages(name, tuple(self.meta), images, reference, frames))
        brightest = 0.0 if reference is None else float(reference.amax())
        peak = float(images.amax()) / (brightest or 1.0)
        if not peak < DIVERGED:
            raise DataError(
                f"{name}: the reconstruction reaches {peak:.1e} times its expected maximum: training has diverged; "
                "lower the learning rate, or check the values of the file"
            )
        if reference is None:
            return VolumeScore(name, slices, residual=_root_mean_square(self._errors))
        if float(reference.min()) == float(reference.max()):
            return VolumeScore(name, slices)  # an empty volume has no PSNR
        fits = min(images.shape[-2:]) >= SSIM_WINDOW
        return VolumeScore(
            name,
            slices,
            psnr=psnr(reference, images),
            ssim=ssim(reference, images) if fits else None,
            nmse=nmse(reference, images),
            foreground_ssim=foreground_ssim(reference, images) if fits and has_foreground(reference) else None,
            psnr_by_frame=_psnr_by_frame(reference, images, frames) if frames > 1 else (),
        )


def _psnr_by_frame(reference: Tensor, images: Tensor, frames: int) -> tuple[float, ...]:
    """PSNR of every frame in dB; infinity for an equal one."""
    squares = (reference - images).square().reshape(-1, frames, *images.shape[-2:]).double().mean((0, 2, 3))
    peak = reference.amax().double() ** 2
    return tuple((10 * (peak / squares).log10()).tolist())


def _magnitudes(method: nn.Module, group: list[Sample]) -> Tensor:
    batch = to_device_of(method, collate(group))
    return batch.magnitude(apply(method, batch)).to(group[0].measurement.device)


def reconstruct(method: nn.Module, sample: Sample) -> Tensor:
    """Complex image of a single slice, ``A.domain_shape``, in scaled units, on the device of the sample."""
    return apply(method, to_device_of(method, collate([sample])))[0].to(sample.measurement.device)


def held_out_residual(method: nn.Module, parts: Iterable[tuple[Sample, Sample, Tensor]]) -> float | None:
    """Root mean square error of predicted held-out measurements, in units of the noise; 1 is ideal.

    Parameters
    ----------
    method
        In evaluation mode; called on the measurements that are kept.
    parts
        Single slices, each with the two results of :func:`recon.held_out_split`. Slices without measurements or of
        unknown noise (``noise_std`` 0) are left out.

    Returns
    -------
        None if no slice is left.
    """
    return _root_mean_square(_held_out_errors(method, parts))


def _held_out_errors(method: nn.Module, parts: Iterable[tuple[Sample, Sample, Tensor]]) -> list[tuple[float, int]]:
    """Squared error in units of the noise and number of held-out measurements of every slice that has any."""
    found = []
    with torch.no_grad():
        for sample, kept, held_out in parts:
            if not _can_be_scored(sample):
                continue
            error = (sample.operator(reconstruct(method, kept)) - sample.measurement) * held_out
            square = float(error.abs().square().sum()) / float(sample.noise_std) ** 2
            found.append((square, int(held_out.expand(error.shape).sum())))
    return found


def _root_mean_square(errors: Sequence[tuple[float, int]]) -> float | None:
    count = sum(number for _, number in errors)
    return math.sqrt(math.fsum(square for square, _ in errors) / count) if count else None


def _held_out_parts(group: list[Sample]) -> Iterator[tuple[Sample, Sample, Tensor]]:
    """Slices of a volume, split one after another, at random by the number of the slice."""
    for sample in group:
        if _can_be_scored(sample) and can_hold_out(sample):
            generator = torch.Generator().manual_seed(sample.meta[0].slice)
            yield sample, *held_out_split(sample, HELD_OUT_FRACTION, generator)


def _can_be_scored(sample: Sample) -> bool:
    return float(sample.noise_std) > 0 and bool(sample.measurement.any())
