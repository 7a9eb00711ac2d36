"""Learned corrections of a site's operator: position of the rotation axis, coil maps."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from physics import LinearOperator, MultiCoilMRI, RadonOperator, reciprocal

from ..method import require_operator
from .data_consistency import SitePart, cnn_from_zero


class OperatorCorrection(SitePart, ABC):
    """A learned correction of measurement or operator; kept at the site, the identity at the start."""

    @abstractmethod
    def forward(self, y: Tensor, A: LinearOperator) -> tuple[Tensor, LinearOperator]:
        """Corrected measurement and operator, of the same shapes.

        Raises
        ------
        TypeError
            If the operator is of another modality.
        """


class AxisCorrection(OperatorCorrection):
    """Shifts the sinogram along the detector by a learned number of elements, to correct the rotation axis.

    The shift interpolates linearly between elements and acts on line integrals, without the ray weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor, A: LinearOperator) -> tuple[Tensor, LinearOperator]:
        scan = require_operator("AxisCorrection", A, RadonOperator)
        lines = scan.line_integrals(y)
        whole = int(self.elements.detach().floor())
        part = self.elements - whole
        moved = (1 - part) * _rolled(lines, whole) + part * _rolled(lines, whole + 1)
        return scan.weighted(moved), A


def _rolled(lines: Tensor, elements: int) -> Tensor:
    """Line integrals shifted by whole elements towards higher indices; the ends repeat their last value."""
    width = lines.shape[-1]
    source = (torch.arange(width, device=lines.device) - elements).clamp(0, width - 1)
    return lines[..., source]


class MapsCorrection(OperatorCorrection):
    r"""Coil maps :math:`S_c + \Gamma(S_c)` with a small CNN for all coils, scaled to the old root sum of squares.

    It corrects systematic errors of maps from a poor calibration (few lines, low resolution). Zeros of the maps remain
    zero.

    Parameters
    ----------
    channels, layers
        Channels and layers of the CNN :math:`\Gamma`, which is zero at the start.

    References
    ----------
    .. [S] Sriram et al., End-to-end variational networks for accelerated MRI reconstruction, MICCAI 2020; there a CNN
       estimates the maps from the calibration lines.
    """

    def __init__(self, channels: int = 8, layers: int = 3) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"MapsCorrection: layers is {layers}, expected at least 2")
        self.cnn = cnn_from_zero(2, channels, layers, 2)

    def forward(self, y: Tensor, A: LinearOperator) -> tuple[Tensor, LinearOperator]:
        scan = require_operator("MapsCorrection", A, MultiCoilMRI)  # type: ignore[type-abstract]
        maps = scan.maps
        seen = torch.view_as_real(maps).movedim(-1, -3)
        change = self.cnn(seen.reshape(-1, *seen.shape[-3:])).reshape(seen.shape).movedim(-3, -1).contiguous()
        refined = (maps + torch.view_as_complex(change)) * (maps != 0)
        # Squares, not roots: the derivative of a root is infinite at zero, outside the object.
        old, new = (m.abs().square().sum(-3, keepdim=True) for m in (maps, refined))
        scale = torch.where(new > 0, old * reciprocal(new), 0).clamp_min(torch.finfo(old.dtype).tiny).sqrt()
        return y, scan.with_maps(refined * scale)
