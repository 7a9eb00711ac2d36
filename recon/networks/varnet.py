"""The end-to-end variational network of fastMRI, called as ``network(y, A)``."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from physics import CartesianMRI, LinearOperator, ifft2c, reciprocal

from ..method import require_operator
from .data_consistency import SitePart


class VarNet(nn.Module):
    r"""The end-to-end variational network [S]_ with soft data consistency in k-space and its own coil maps.

    With the maps S that the sensitivity network estimates, and regularizers R, its k-space is :math:`k_0 = y` and

    .. math:: k_{t+1} = k_t - w_t M (k_t - y) - F S\, R_t(S^H F^H k_t).

    Because :math:`S^H S = 1`, this k-space is :math:`y + F S z_t + M F S d_t` with two images, the regularizer sees
    :math:`S^H F^H y + z_t + S^H F^H M F S\, d_t`, and :math:`z_{t+1} = z_t - R_t`,
    :math:`d_{t+1} = d_t - w_t (z_t + d_t)`. The network stores these images in place of k-space of all coils.

    The image has the magnitude :math:`\sqrt{\sum_c |F^H k|_c^2}`, divided by the root sum of squares of the maps of
    ``A``, and the phase of the combination by these maps. So ``abs(image) * A.rss`` is the image of fastMRI. The
    network gives :math:`f(a y) = a f(y)` for :math:`a > 0`.

    Parameters
    ----------
    cascades
        Number of iterations.
    channels, depth
        Size of the regularizers, see :class:`NormalizedUNet`.
    sensitivity_channels, sensitivity_depth
        Size of the U-Net that estimates the coil maps.
    raw_coils
        Whether it takes the coils and the readout as the scanner measured them, as published networks do: neither
        whitened nor compressed nor without oversampling. Datasets honor it, see :class:`recon.KSpaceSlices`.

    References
    ----------
    .. [S] Sriram et al., End-to-end variational networks for accelerated MRI reconstruction, MICCAI 2020.
    """

    #: Name of the one modality that it is made for.
    only_for = "mri"
    #: Sign of the regularizers in the equation above.
    _sign = -1

    def __init__(
        self,
        cascades: int = 12,
        channels: int = 18,
        depth: int = 4,
        *,
        sensitivity_channels: int = 8,
        sensitivity_depth: int = 4,
        raw_coils: bool = False,
    ) -> None:
        super().__init__()
        if cascades < 1:
            raise ValueError(f"VarNet: cascades is {cascades}, expected at least 1")
        if not isinstance(raw_coils, bool):
            raise ValueError(f"VarNet: raw_coils is {raw_coils!r}, expected true or false")
        self.raw_coils = raw_coils
        self.sensitivity = self._estimator(sensitivity_channels, sensitivity_depth)
        self.regularizers = nn.ModuleList(self._regularizer(channels, depth) for _ in range(cascades))
        self.consistency = nn.ModuleList(SoftWeight() for _ in range(cascades))

    def _estimator(self, channels: int, depth: int) -> "SensitivityNetwork":
        return SensitivityNetwork(NormalizedUNet(channels, depth))

    def _regularizer(self, channels: int, depth: int) -> "UNet":
        return NormalizedUNet(channels, depth)

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        """Reconstruct, ``(*batch, coils, height, width) -> (*batch, height, width)``, in the units of ``y``.

        Raises
        ------
        TypeError
            If the operator is not :class:`physics.CartesianMRI`.
        ValueError
            If its mask is no column mask or does not sample the center, or the image is too small for the U-Nets.
        """
        scan = require_operator("VarNet", A, CartesianMRI)
        maps = self.sensitivity(y, scan.mask)
        mask = scan.mask if scan.mask.ndim == 2 else scan.mask.expand(*maps.shape[:-3], *scan.mask.shape[-2:])
        S = CartesianMRI(maps, mask)
        backprojection = S.adjoint(y)
        z, d = self._sign * self.regularizers[0](backprojection), torch.zeros_like(backprojection)
        for index, (layer, regularizer) in enumerate(
            zip(self.consistency[1:], self.regularizers[1:], strict=True), start=1
        ):
            # d is zero until the second data consistency: the first one finds k-space as measured.
            seen = backprojection + z if index == 1 else backprojection + z + S.gram(d)
            d = d - layer.weight * (z + d)
            z = z + self._sign * regularizer(seen)
        coils = ifft2c(y + S(d)) + maps * z.unsqueeze(-3)
        return _combined(coils, scan)


class SensitivityNetwork(nn.Module):
    r"""Coil maps from the fully sampled center of k-space, by one U-Net for every coil image.

    The maps are divided by their root sum of squares. The center is that of fastMRI: as many columns to the left as to
    the right of the middle, all of them sampled. Where the mask is full on one side of the middle, fastMRI takes one
    column and this network all that are symmetric.

    Parameters
    ----------
    unet
        The U-Net.
    """

    def __init__(self, unet: "UNet") -> None:
        super().__init__()
        self.unet = unet

    def forward(self, y: Tensor, mask: Tensor) -> Tensor:
        """Maps of the shape of ``y``, ``(*batch, coils, height, width)``, from the mask of :class:`CartesianMRI`.

        Raises
        ------
        ValueError
            If the mask is no column mask, or does not sample the center.
        """
        maps = self.estimate(ifft2c(y * _center(mask).unsqueeze(-3)))
        power = maps.abs().square().sum(-3, keepdim=True)
        normalized: Tensor = maps * _root(reciprocal(power))
        return normalized

    def estimate(self, images: Tensor) -> Tensor:
        """Maps before their division, from the coil images of the center, ``(*batch, coils, height, width)``."""
        flat = images.reshape(-1, *images.shape[-2:])
        # Coil by coil, the features stay small; a GPU would wait for the many small calls.
        parts = flat.split(1) if flat.device.type == "cpu" else (flat,)
        return torch.cat([self.unet(part) for part in parts]).reshape(images.shape)


class UNet(nn.Module):
    """The U-Net of fastMRI on real and imaginary part of an image.

    Parameters
    ----------
    channels
        Channels at full resolution; doubled at every level.
    depth
        Number of times the resolution is halved, at least 1.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        if channels < 1 or depth < 1:
            raise ValueError(
                f"{type(self).__name__}: channels {channels} and depth {depth}, expected at least 1 of each"
            )
        widths = [channels * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_block(a, b) for a, b in itertools.pairwise([2, *widths[:-1]]))
        self.bottom = _block(widths[-2], widths[-1])
        upwards = list(itertools.pairwise(reversed(widths)))
        self.rise = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2, bias=False) for a, b in upwards)
        self.up = nn.ModuleList(_block(2 * b, b) for _, b in upwards)
        self.last = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Complex image, shape of ``x``, ``(*batch, height, width)``.

        Raises
        ------
        ValueError
            If one pixel is left at the lowest level, which has no standard deviation.
        """
        pairs = torch.view_as_real(x.reshape(-1, *x.shape[-2:])).movedim(-1, 1)
        return torch.view_as_complex(self.refine(pairs).movedim(1, -1).contiguous()).reshape(x.shape)

    def refine(self, pairs: Tensor) -> Tensor:
        """The U-Net on real and imaginary part, ``(batch, 2, height, width)``."""
        self._require_size(*pairs.shape[-2:])
        return self._unet(pairs.contiguous())

    def _require_size(self, height: int, width: int, tall: int = 0, wide: int = 0) -> None:
        """Refuse an image that has one pixel at the lowest level, padded by ``tall`` rows and ``wide`` columns."""
        if (height + tall >> len(self.down)) * (width + wide >> len(self.down)) < 2:
            raise ValueError(
                f"{type(self).__name__}: image has shape ({height}, {width}), expected one that can be halved "
                f"{len(self.down)} times; reconstruct a larger image, or take a network of less depth"
            )

    def _unet(self, features: Tensor) -> Tensor:
        skipped: list[Tensor] = []
        for block in self.down:
            features = block(features)
            skipped.append(features)
            features = F.avg_pool2d(features, 2)
        features = self.bottom(features)
        for rise, block in zip(self.rise, self.up, strict=True):
            before = skipped.pop()
            features = F.leaky_relu_(F.instance_norm(rise(features)), 0.2)
            right, below = before.shape[-1] - features.shape[-1], before.shape[-2] - features.shape[-2]
            if right or below:
                features = F.pad(features, (0, right, 0, below), "reflect")
            features = block(torch.cat((features, before), dim=1))
        out: Tensor = self.last(features)
        return out


class NormalizedUNet(UNet):
    """:class:`UNet` on an image whose real and imaginary part have mean 0 and standard deviation 1.

    Mean and standard deviation are put back afterwards. The image is padded with zeros to a multiple of 16.
    """

    def refine(self, pairs: Tensor) -> Tensor:
        mean, std = pairs.mean((-2, -1), keepdim=True), pairs.std((-2, -1), keepdim=True)
        height, width = pairs.shape[-2:]
        tall, wide = -height % 16, -width % 16
        self._require_size(height, width, tall, wide)
        border = (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)
        out = self._unet(F.pad((pairs - mean) * reciprocal(std), border).contiguous())
        return out[..., border[2] : border[2] + height, border[0] : border[0] + width] * std + mean


class SoftWeight(SitePart):
    """Weight :math:`w` of the soft data consistency of one cascade; 1 replaces the k-space by the measured one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))


def _block(n_in: int, n_out: int) -> nn.Sequential:
    """Two convolutions, each with instance normalization and activation; parameters ``0.weight`` and ``3.weight``."""
    parts: list[nn.Module] = []
    for width in (n_in, n_out):
        convolution = nn.Conv2d(width, n_out, 3, padding=1, bias=False)
        parts += [convolution, nn.InstanceNorm2d(n_out), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*parts)


def _center(mask: Tensor) -> Tensor:
    """The columns of the mask that calibrate the maps, bool, its shape."""
    if mask.shape[-2] != 1:
        found = f"a mask of shape {tuple(mask.shape[-2:])}"
        raise ValueError(f"VarNet: found {found}, expected one along the phase axis alone, (1, {mask.shape[-1]})")
    width = mask.shape[-1]
    middle = width // 2
    runs = [side.int().cumprod(-1).sum(-1, keepdim=True) for side in (mask[..., :middle].flip(-1), mask[..., middle:])]
    if not bool((runs[1] > 0).all()):
        raise ValueError(f"VarNet: the mask leaves out column {middle}, the center, expected it for the coil maps")
    columns = (2 * torch.minimum(*runs)).clamp_min(1)
    first = (width - columns + 1) // 2
    index = torch.arange(width, device=mask.device)
    return (index >= first) & (index < first + columns)


def _combined(coils: Tensor, scan: CartesianMRI) -> Tensor:
    """Root sum of squares of coil images in units of the maps, with the phase of the combination by the maps."""
    magnitude = _root(coils.abs().square().sum(-3))
    phase = (scan.maps.conj() * coils).sum(-3).sgn()
    return magnitude * reciprocal(scan.rss) * phase


def _root(squares: Tensor) -> Tensor:
    """Square root with derivative 0 where it is 0."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
