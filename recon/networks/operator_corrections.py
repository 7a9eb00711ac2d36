"""What a site learns of its own operator: where the rotation axis really is, how its coil maps really look."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from physics import CartesianMRI, LinearOperator, RadonOperator, reciprocal

from ..method import require_operator
from .data_consistency import SitePart, cnn_from_zero


class OperatorCorrection(SitePart, ABC):
    """Makes measurement and operator agree; kept at the site, and the identity at first."""

    @abstractmethod
    def forward(self, y: Tensor, A: LinearOperator) -> tuple[Tensor, LinearOperator]:
        """Measurement and operator to reconstruct with, of the same shapes.

        Raises
        ------
        TypeError
            If the operator is of another modality.
        """


class AxisCorrection(OperatorCorrection):
    """Moves a sinogram along the detector by a learned part of an element, for a rotation axis that is elsewhere.

    The shift is linear interpolation, whose derivative is the difference of neighbors; ray weights are taken out before
    and put back after.
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
    """Moved by whole elements towards higher numbers; the ends repeat their last value."""
    width = lines.shape[-1]
    source = (torch.arange(width, device=lines.device) - elements).clamp(0, width - 1)
    return lines[..., source]


class MapsCorrection(OperatorCorrection):
    r"""Refines coil maps by a small CNN, one for all coils: :math:`S_c + \Gamma(S_c)` at the old root sum of squares.

    A site whose calibration is poor (few lines, a low-resolution estimate) is wrong in the same way in every scan.
    Where the maps were zero they stay so.

    Parameters
    ----------
    channels, layers
        Of the CNN, whose last layer starts at zero.

    References
    ----------
    .. [S] Sriram et al., End-to-end variational networks for accelerated MRI reconstruction, MICCAI 2020, of which the
       estimation of maps is a kin: there the CNN sees the calibration lines.
    """

    def __init__(self, channels: int = 8, layers: int = 3) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"MapsCorrection: layers is {layers}, expected at least 2")
        self.cnn = cnn_from_zero(2, channels, layers, 2)

    def forward(self, y: Tensor, A: LinearOperator) -> tuple[Tensor, LinearOperator]:
        scan = require_operator("MapsCorrection", A, CartesianMRI)
        maps = scan.maps
        seen = torch.view_as_real(maps).movedim(-1, -3)
        change = self.cnn(seen.reshape(-1, *seen.shape[-3:])).reshape(seen.shape).movedim(-3, -1).contiguous()
        refined = (maps + torch.view_as_complex(change)) * (maps != 0)
        # Squares, not roots, whose slope at zero is infinite outside the object.
        old, new = (m.abs().square().sum(-3, keepdim=True) for m in (maps, refined))
        scale = torch.where(new > 0, old * reciprocal(new), 0).clamp_min(torch.finfo(old.dtype).tiny).sqrt()
        return y, scan.with_maps(refined * scale)
