"""Slices on a smaller matrix, measured anew by a smaller operator: for computations that are long on a full slice."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from physics import CartesianMRI, RadonOperator, complex_noise, fft2c, ifft2c

from ..data import Sample, center_crop, generator_for
from ..errors import data_error
from ..method import require_operator


def smaller_mri(sample: Sample, size: int) -> Sample:
    """One slice of Cartesian MRI with at most ``size`` rows and columns, at the same field of view.

    Image and mask keep the center of k-space, maps are interpolated, and the image is measured anew with noise of the
    same level. The mask samples a larger part than before: its center is dense. Labels are left out.

    Raises
    ------
    DataError
        If the reference is not an image of all pixels of the operator.
    TypeError
        If the operator is of another class.
    """
    A = require_operator("smaller_mri", sample.operator, CartesianMRI)
    reference = _whole_reference(sample)
    shape = (min(size, A.domain_shape[0]), min(size, A.domain_shape[1]))
    scale = (shape[0] * shape[1] / (A.domain_shape[0] * A.domain_shape[1])) ** 0.5
    image = ifft2c(center_crop(fft2c(reference.to(A.maps.dtype)), shape)) * scale
    parts = torch.cat([A.maps.real, A.maps.imag])[None]
    real, imaginary = F.interpolate(parts, shape, mode="bilinear", antialias=True)[0].chunk(2)
    mask = center_crop(A.mask, (min(A.mask.shape[-2], shape[0]), shape[1]))
    smaller = CartesianMRI(torch.complex(real, imaginary), mask)
    generator = generator_for(f"smaller {sample.meta[0].volume} {sample.meta[0].slice}", size)
    noise = complex_noise(smaller.range_shape, float(sample.noise_std), generator) * smaller.sampled
    measured = smaller(image) + noise
    return replace(
        sample, measurement=measured, operator=smaller, reference=image, crop_shape=None, output_weight=None, label=None
    )


def smaller_ct(sample: Sample, size: int) -> Sample:
    """One slice of CT with at most ``size`` rows and columns, by the same scanner with wider pixels, without label.

    Raises
    ------
    DataError
        If the slice has no reference.
    TypeError
        If the operator is of another class.
    """
    A = require_operator("smaller_ct", sample.operator, RadonOperator)
    reference = _whole_reference(sample)
    factor = max(1.0, max(A.grid.shape) / size)
    shape = (round(A.grid.shape[0] / factor), round(A.grid.shape[1] / factor))
    image = F.interpolate(reference[None, None], shape, mode="area")[0, 0]
    smaller = RadonOperator(A.grid.resized(shape, factor), A.geometry, A.ray_weights)
    generator = generator_for(f"smaller {sample.meta[0].volume} {sample.meta[0].slice}", size)
    noise = float(sample.noise_std) * torch.randn(smaller.range_shape, generator=generator)
    return replace(sample, measurement=smaller(image) + noise, operator=smaller, reference=image, label=None)


def _whole_reference(sample: Sample) -> Tensor:
    """The reference, if it is an image in the domain of the operator."""
    reference, wanted = sample.reference, tuple(sample.operator.domain_shape)
    if reference is None or sample.meta[0].reference_kind == "rss" or tuple(reference.shape) != wanted:
        kind = sample.meta[0].reference_kind
        found = "none" if reference is None else f"one of kind {kind} and shape {tuple(reference.shape)}"
        advice = 'take files of fully sampled k-space, without data.reference = "rss"'
        meta, expected = sample.meta[0], f"a coil-combined or CT image of shape {wanted}"
        raise data_error(meta.volume, f"slice {meta.slice}, reference", found, expected, advice)
    return reference
