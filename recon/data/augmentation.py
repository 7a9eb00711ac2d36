"""Random changes of the image before the operator measures it."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from physics import complex_noise

from .sample import Sample, center_crop
from .task_labels import UNLABELLED


@dataclass(frozen=True)
class Augmentation:
    """Flip, rotate and scale the reference, then measure it again with the operator of the sample.

    Maps, mask and noise level stay; only the object changes. Real and imaginary part are transformed alike: the
    phase moves with the magnitude. The label map of a downstream task moves with them; classes of a slice stay.

    Parameters
    ----------
    flip
        Mirror along each axis with probability one half.
    max_rotation_deg
        Rotations are uniform in plus or minus this angle.
    scale
        Smallest and largest magnification, log-uniform.
    probability
        Probability that a sample is augmented.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    flip: bool = True
    max_rotation_deg: float = 10.0
    scale: tuple[float, float] = (0.9, 1.1)
    probability: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.max_rotation_deg <= 180:
            raise ValueError(f"Augmentation: max_rotation_deg is {self.max_rotation_deg}, expected 0 to 180")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"Augmentation: scale is {self.scale}, expected (smallest, largest), positive")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"Augmentation: probability is {self.probability}, expected 0 to 1")

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """The sample with a changed reference and its measurement.

        Parameters
        ----------
        sample
            A single slice with a coil-combined reference.
        generator
            Random generator of the change and the noise.

        Raises
        ------
        ValueError
            If the reference is not coil-combined: an RSS image has no phase to measure.
        """
        kind = sample.meta[0].reference_kind
        if sample.reference is None or kind != "coil_combined" or sample.reference.ndim != 2:
            raise ValueError(f"Augmentation: reference is {kind}, expected coil_combined of a single slice")
        operator = sample.operator
        draws = torch.rand(5, generator=generator).tolist()
        if draws[0] >= self.probability:
            return sample
        # Where the maps are zero nothing is measured: the reference must be zero as well.
        image = self.transform(sample.reference, draws[1:]) * operator.support
        shape = tuple(sample.measurement.shape)
        noise = complex_noise(shape, float(sample.noise_std), generator).to(sample.measurement)
        measurement, label = operator(image) + noise * operator.sampled, sample.label
        if label is not None and label.ndim == 2:
            label = self._moved(label, image, draws[1:])
        return replace(sample, reference=image, measurement=measurement, label=label)

    def _moved(self, label: Tensor, image: Tensor, draws: list[float]) -> Tensor:
        """A label map that moves with the image, of which it may be a crop; what comes from outside has no label."""
        # Counted from the value without a label, so that the zeros beyond an edge have none.
        whole = label.new_zeros(image.shape, dtype=torch.float32)
        center_crop(whole, label.shape).copy_(label - UNLABELLED)
        moved = self.transform(whole, draws).round().to(label.dtype) + UNLABELLED
        return center_crop(moved, label.shape)

    def transform(self, image: Tensor, draws: list[float]) -> Tensor:
        """The changed image.

        Parameters
        ----------
        image
            Complex ``(height, width)``; real: labels, which take the value of the nearest pixel.
        draws
            Four numbers in [0, 1): for the two flips, the angle and the magnification.
        """
        # Late: torchvision is slow to import.
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import affine

        axes = [axis for axis, draw in zip((-1, -2), draws[:2], strict=True) if self.flip and draw < 0.5]
        angle = self.max_rotation_deg * (2 * draws[2] - 1)
        smallest, largest = (math.log(value) for value in self.scale)
        flipped = image.flip(axes)
        channels = torch.view_as_real(flipped).movedim(-1, 0) if image.is_complex() else flipped[None]
        if angle != 0.0 or largest != smallest or smallest != 0.0:
            channels = affine(
                channels,
                angle=angle,
                translate=[0, 0],
                scale=math.exp(smallest + (largest - smallest) * draws[3]),
                shear=[0.0, 0.0],
                interpolation=InterpolationMode.BILINEAR if image.is_complex() else InterpolationMode.NEAREST,
            )
        if not image.is_complex():
            return channels[0]
        return torch.view_as_complex(channels.movedim(0, -1).contiguous())
