"""Random changes of the anatomy, applied to the image before the operator measures it."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from physics import complex_noise

from .sample import Sample


@dataclass(frozen=True)
class Augmentation:
    """Flip, rotate and scale the reference, then measure it anew with the sample's own operator.

    Maps, mask and noise level stay those of the site; only the object changes. Real and imaginary part are
    transformed alike, so that the phase moves with the magnitude.

    Parameters
    ----------
    flip
        Mirror along each axis in half of the samples.
    max_rotation_deg
        Rotations are uniform in plus or minus this angle.
    scale
        Smallest and largest magnification, log-uniform.
    probability
        Part of the samples that is augmented; the others pass unchanged.

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
        """Draw a change and return the sample with a new reference and a new measurement of it.

        Parameters
        ----------
        sample
            A single slice with a coil-combined reference.
        generator
            Draws the change and the noise.

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
        # Where the maps are zero the operator sees nothing, so the reference must be zero as well.
        image = self.transform(sample.reference, draws[1:]) * operator.support
        shape = tuple(sample.measurement.shape)
        noise = complex_noise(shape, float(sample.noise_std), generator).to(sample.measurement)
        return replace(sample, reference=image, measurement=operator(image) + noise * operator.sampled)

    def transform(self, image: Tensor, draws: list[float]) -> Tensor:
        """Apply the change that four numbers in [0, 1) stand for: two flips, angle, magnification.

        Parameters
        ----------
        image
            Complex ``(height, width)``.
        draws
            Four uniform numbers.
        """
        # Only training with augmentation pays for torchvision's import.
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import affine

        axes = [axis for axis, draw in zip((-1, -2), draws[:2], strict=True) if self.flip and draw < 0.5]
        angle = self.max_rotation_deg * (2 * draws[2] - 1)
        smallest, largest = (math.log(value) for value in self.scale)
        channels = torch.view_as_real(image.flip(axes)).movedim(-1, 0)
        if angle != 0.0 or largest != smallest or smallest != 0.0:
            channels = affine(
                channels,
                angle=angle,
                translate=[0, 0],
                scale=math.exp(smallest + (largest - smallest) * draws[3]),
                shear=[0.0, 0.0],
                interpolation=InterpolationMode.BILINEAR,
            )
        return torch.view_as_complex(channels.movedim(0, -1).contiguous())
