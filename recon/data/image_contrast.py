"""Other contrasts of real anatomy: a changed gray scale, or images drawn from label maps."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv1d, interpolate

#: Gray levels below the first, relative to the bright ones, are air; above the second they are tissue.
AIR, TISSUE = 0.05, 0.2
#: FreeSurfer's label of the right side and of the left: both sides have the same contrast.
_SIDES = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 58: 26, 60: 28, 62: 30,
    63: 31, 137: 136, 164: 163,
}  # fmt: skip


def vary_contrast(images: Tensor, seed: int, *, inversion: float = 0.0) -> Tensor:
    r"""Magnitude images with another gray scale, :math:`x^\gamma`, and possibly inverted.

    :math:`\gamma` is log-uniform between 1/2 and 2. The inversion maps the gray level :math:`v` of tissue to
    :math:`1.1 - v`, so that fluid which was dark becomes bright, and keeps air dark. The scale is one for the volume.

    Parameters
    ----------
    images
        Real, shape ``(..., height, width)``. Magnitudes; negative values count as zero.
    seed
        Seed of the gray scale.
    inversion
        Probability that the volume is inverted.

    Returns
    -------
        float32, same shape, maximum 1 unless the volume is empty.

    Raises
    ------
    ValueError
        If the probability is out of range.
    """
    if not 0 <= inversion <= 1:
        raise ValueError(f"vary_contrast: inversion is {inversion}, expected 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    gamma, draw = torch.rand(2, generator=generator).tolist()
    level = _unit(images.to(torch.float32).clamp_min(0))
    if draw < inversion:
        # A rare bright spot must not make all tissue look dark.
        bright = _quantile(level[level > AIR], 0.99)
        level = (level / bright).clamp(max=1.0)
        tissue = ((level - AIR) / (TISSUE - AIR)).clamp(0, 1)
        level = _unit(tissue**2 * (3 - 2 * tissue) * (1.1 - level))
    exponent: float = 2 ** (2 * gamma - 1)
    return level**exponent


def draw_from_labels(labels: Tensor, seed: int, *, contrast_seed: int | None = None) -> Tensor:
    """Magnitude images drawn from a map of anatomical labels: a mean and a spread per label, blur, a bias field.

    Every label but 0 (air, which stays dark) has a Gaussian gray level. FreeSurfer's labels of the left and the right
    side of a structure have the same one.

    Parameters
    ----------
    labels
        Integers, shape ``(..., height, width)``.
    seed
        Seed of the texture, the blur and the bias field, and of small changes of the means.
    contrast_seed
        Seed of the means: images of one protocol have the same. None: `seed`.

    Returns
    -------
        float32, same shape, from 0, maximum 1 unless there is no label but 0.

    Raises
    ------
    ValueError
        If the labels are no integers.

    References
    ----------
    .. [B] Billot et al., SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without retraining,
       Medical Image Analysis 86, 2023.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"draw_from_labels: labels are {labels.dtype}, expected integers")
    generator = torch.Generator().manual_seed(seed)
    found, position = torch.unique(labels.long(), return_inverse=True)
    kinds = [_SIDES.get(label, label) for label in found.tolist()]
    level, spread = {0: 0.0}, {0: 0.0}
    for kind in sorted(set(kinds) - {0}):
        # A generator per label: the contrast does not depend on which labels a volume has.
        of_protocol = torch.Generator().manual_seed((seed if contrast_seed is None else contrast_seed) * 4096 + kind)
        mean, sigma = torch.rand(2, generator=of_protocol).tolist()
        own = float(torch.randn((), generator=generator))
        level[kind], spread[kind] = min(max(0.1 + 0.9 * mean + 0.03 * own, 0.03), 1.0), 0.02 + 0.06 * sigma
    means, spreads = (torch.tensor([of[kind] for kind in kinds]) for of in (level, spread))
    texture = torch.randn(labels.shape, generator=generator)
    # Half of the texture is as fine as the labels, half four times coarser: it survives at a smaller matrix.
    shape, size = labels.shape[:-2], (labels.shape[-2], labels.shape[-1])
    blotches = torch.randn(1, shape.numel(), *(-(-n // 4) for n in size), generator=generator)
    texture = texture + interpolate(blotches, size=size, mode="bilinear").view_as(texture)
    images = (means[position] + spreads[position] * texture).clamp_min(0)
    images = _blurred(images, 0.4 + 0.6 * float(torch.rand((), generator=generator)))
    coarse = 0.2 * torch.randn(1, 1, 4, 4, generator=generator)
    bias = interpolate(coarse, size=size, mode="bicubic", align_corners=True)[0, 0].clamp(-0.5, 0.5)
    return _unit(images * bias.exp())


def _unit(images: Tensor) -> Tensor:
    largest = images.amax() if images.numel() else images.new_ones(())
    return images / torch.where(largest > 0, largest, 1)


def _quantile(values: Tensor, part: float) -> float:
    values = values.flatten()
    return float(values.kthvalue(max(math.ceil(part * len(values)), 1)).values) if len(values) else 1.0


def _blurred(images: Tensor, width: float) -> Tensor:
    """Gaussian blur of a width in pixels along both axes."""
    offsets = torch.arange(-3, 4, dtype=images.dtype)
    kernel = torch.exp(-((offsets / width) ** 2) / 2)
    kernel = (kernel / kernel.sum())[None, None]
    for axis in (-1, -2):
        lines = images.movedim(axis, -1)
        shape = lines.shape
        images = conv1d(lines.reshape(-1, 1, shape[-1]), kernel, padding=3).view(shape).movedim(-1, axis)
    return images.contiguous()
