"""The end-to-end variational network of the toolkit DIRECT, called as ``network(y, A)``."""

import torch
from torch import Tensor

from physics import LinearOperator, per_sample, reciprocal, root_sum_of_squares

from .varnet import SensitivityNetwork, UNet, VarNet

#: Part of the magnitudes of k-space below the number that it is divided by, DIRECT's default.
_PERCENTILE = 0.99


class DirectVarNet(VarNet):
    r"""``EndToEndVarNet`` of DIRECT [D]_ with its ``sensitivity_model``, both of ``UnetModel2d``.

    It differs from :class:`VarNet`, the network of fastMRI, in three points: :math:`+ F S R_t` in place of
    :math:`- F S R_t`; U-Nets that neither normalize nor pad their input; and coil maps that a U-Net refines from the
    coil images of the center over their root sum of squares. In place of the normalizations one number per slice, the
    0.99 quantile of the magnitudes of k-space, zeros included, divides the measurement and multiplies the image. That
    is the default of DIRECT; a file of weights does not state another one.

    Parameters are those of :class:`VarNet`. The center is that of the mask, as there; DIRECT knows how many columns it
    drew. Where the coil images of the center are zero but for rounding, so are the maps: these pixels are not defined.

    References
    ----------
    .. [D] Yiasemis et al., DIRECT: Deep image reconstruction toolkit, J. Open Source Softw. 7, 2022.
    """

    _sign = 1

    def _estimator(self, channels: int, depth: int) -> SensitivityNetwork:
        return _RefinedMaps(UNet(channels, depth))

    def _regularizer(self, channels: int, depth: int) -> UNet:
        return UNet(channels, depth)

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        """Reconstruct; arguments and errors are those of :meth:`VarNet.forward`."""
        scale = _quantile(y)
        image = super().forward(y * reciprocal(per_sample(scale, 3)), A)
        return image * per_sample(scale, 2)


class _RefinedMaps(SensitivityNetwork):
    """Coil maps that a U-Net refines; those of a single coil stay as they are."""

    def estimate(self, images: Tensor) -> Tensor:
        maps = images * reciprocal(root_sum_of_squares(images)).unsqueeze(-3)
        return maps if maps.shape[-3] == 1 else super().estimate(maps)


def _quantile(y: Tensor) -> Tensor:
    """Magnitude per sample below which the part `_PERCENTILE` lies, coils of zeros left out, ``(*batch,)``."""
    found = []
    for coils in y.detach().abs().reshape(-1, *y.shape[-3:]):
        measured = coils[coils.amax((-2, -1)) > 0].flatten()
        rank = int((1 - _PERCENTILE) * len(measured)) + 1  # from the largest, as in DIRECT
        found.append(-(-measured).kthvalue(rank).values if len(measured) else y.new_zeros((), dtype=coils.dtype))
    return torch.stack(found).reshape(y.shape[:-3])
