"""Samples: one slice or a batch of slices, with the operator, for networks, losses and metrics."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from physics import LinearOperator


@dataclass(frozen=True)
class SampleMeta:
    """Origin of a slice. ``reference_kind`` is ``coil_combined``, ``rss``, ``attenuation`` or ``none``."""

    site: str
    volume: str
    slice: int
    acceleration: float
    reference_kind: str


@dataclass(frozen=True, eq=False)
class Sample:
    """Whitened, scaled measurement of one slice with its operator; a batch after :func:`collate`.

    Attributes
    ----------
    measurement
        Whitened, scaled, zero where not sampled; complex64 ``(*batch, coils, height, width)``, ``(*batch, coils,
        spokes, samples)`` or ``(*batch, frames, coils, height, width)`` in MRI, float32 ``(*batch, views, detectors)``
        in CT.
    operator
        Maps an image to the whitened measurement.
    noise_std
        ``sqrt(E |n|^2)`` per number of `measurement`, ``(*batch,)``; 0 where the noise is unknown.
    reference
        Complex ``(*batch, height, width)``, with frames before the height, for ``coil_combined``, real and cropped for
        ``rss``, real for ``attenuation``, else None.
    scale
        Factor from scaled values to units of the file, ``(*batch,)``.
    condition
        ``(*batch, CONDITION_DIM)`` in the order of `CONDITION_LAYOUT`, or None.
    meta
        One entry per slice.
    output_weight
        For ``rss``: root sum of squares of the maps before whitening, ``(*batch, height, width)``.
    crop_shape
        ``(height, width)`` of the displayed and scored image; None: the whole image.
    label
        Label of a downstream task, see :class:`TaskLabels`; None: the site has none. Segmentation: int64 ``(*batch,
        height, width)`` on the grid of :meth:`magnitude`. Classification: float32 ``(*batch, classes)``.
    """

    measurement: Tensor
    operator: LinearOperator
    noise_std: Tensor
    reference: Tensor | None
    scale: Tensor
    condition: Tensor | None
    meta: tuple[SampleMeta, ...]
    output_weight: Tensor | None = None
    crop_shape: tuple[int, ...] | None = None
    label: Tensor | None = None

    def magnitude(self, image: Tensor) -> Tensor:
        """The displayed and scored image, to be compared with :meth:`target`.

        :math:`|x|` of a complex image, :math:`x` of a real one (attenuation), times `output_weight` where there is one,
        cropped to `crop_shape` around the center.

        Parameters
        ----------
        image
            Complex or real, shape ``(..., height, width)`` of the operator's domain.
        """
        magnitude = image.abs() if image.is_complex() else image
        if self.output_weight is not None:
            magnitude = magnitude * self.output_weight
        return magnitude if self.crop_shape is None else center_crop(magnitude, self.crop_shape)

    def target(self) -> Tensor:
        """Magnitude of the reference, cropped; equals :meth:`magnitude` of a perfect image.

        Raises
        ------
        ValueError
            If there is no reference.
        """
        if self.reference is None:
            names = ", ".join(f"{meta.volume} slice {meta.slice}" for meta in self.meta)
            raise ValueError(f"Sample: {names} has no reference; evaluate it on held-out measurements")
        if self.meta[0].reference_kind == "rss":
            return self.reference
        return self.magnitude(self.reference)

    def to(self, device: torch.device | str) -> "Sample":
        """The sample on another device; the original and its operator stay where they are."""
        if self.measurement.device == torch.device(device):
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            measurement=self.measurement.to(device),
            operator=deepcopy(self.operator).to(device),  # Module.to works in place
            noise_std=self.noise_std.to(device),
            reference=move(self.reference),
            scale=self.scale.to(device),
            condition=move(self.condition),
            output_weight=move(self.output_weight),
            label=move(self.label),
        )


class Samples(Protocol):
    """Samples by index: a dataset or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def center_crop(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Cut ``(height, width)`` out of the center of the last two axes, at fastMRI's offsets.

    Raises
    ------
    ValueError
        If the image is smaller than the crop.
    """
    height, width = shape
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    if top < 0 or left < 0:
        raise ValueError(f"center_crop: image has shape {tuple(image.shape)}, expected at least {tuple(shape)}")
    return image[..., top : top + height, left : left + width]


def collate(samples: Sequence[Sample]) -> Sample:
    """Join single slices of one site into a batch: tensors gain a leading axis.

    Raises
    ------
    ValueError
        If the list is empty, the samples differ in shape or kind, see :func:`batches`, or their operator has no
        ``collate``.
    """
    if not samples:
        raise ValueError("collate: got no sample, expected at least one")
    kinds = {_kind(sample) for sample in samples}
    if len(kinds) != 1:
        raise ValueError(f"collate: samples are of {len(kinds)} kinds {sorted(kinds, key=str)}; group by `batches`")
    first = samples[0]
    return Sample(
        measurement=torch.stack([sample.measurement for sample in samples]),
        operator=type(first.operator).collate([sample.operator for sample in samples]),
        noise_std=torch.stack([sample.noise_std for sample in samples]),
        reference=_stack([sample.reference for sample in samples]),
        scale=torch.stack([sample.scale for sample in samples]),
        condition=_stack([sample.condition for sample in samples]),
        meta=tuple(meta for sample in samples for meta in sample.meta),
        output_weight=_stack([sample.output_weight for sample in samples]),
        crop_shape=first.crop_shape,
        label=_stack([sample.label for sample in samples]),
    )


def batches(samples: Samples, batch_size: int, generator: torch.Generator | None = None) -> Iterator[Sample]:
    """Yield all samples once, in batches of equal shape and kind.

    Parameters
    ----------
    samples
        Single slices.
    batch_size
        Slices per batch; the last batch of each shape may be smaller.
    generator
        Random generator for the order; None: keep the order.

    Raises
    ------
    ValueError
        If `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batches: batch_size is {batch_size}, expected at least 1")
    order: Sequence[int] = range(len(samples))
    if generator is not None:
        order = torch.randperm(len(samples), generator=generator).tolist()
    groups: dict[tuple[object, ...], list[Sample]] = {}
    for index in order:
        sample = samples[index]
        group = groups.setdefault(_kind(sample), [])
        group.append(sample)
        if len(group) == batch_size:
            yield collate(group)
            group.clear()
    for group in groups.values():
        if group:
            yield collate(group)


def _kind(sample: Sample) -> tuple[object, ...]:
    """Samples of equal kind can be joined."""
    return (
        sample.operator.batch_key,
        tuple(sample.measurement.shape),
        sample.meta[0].reference_kind,
        sample.crop_shape,
        sample.output_weight is not None,
        sample.condition is not None,
        None if sample.label is None else tuple(sample.label.shape),
    )


def _stack(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None
