"""Fewer coils with nearly the same data: the strongest combinations of them."""

import torch
from torch import Tensor

from .noise import whitening_matrix


def coil_compression(gram: Tensor, covariance: Tensor, *, energy: float = 1.0, coils: int | None = None) -> Tensor:
    r"""Matrix with orthonormal rows that combines coils to fewer virtual ones.

    The rows span the strongest left singular vectors of whitened data :math:`W k`, those of
    :math:`W k k^H W^H` [H]_. The matrix is applied to the data as they are: whitened afterwards, the virtual coils
    differ from the strongest singular vectors by a rotation alone, and the sum of squares over coils is kept, up to
    the part that is left out.

    Plain singular vectors, one matrix for a volume: matrices that differ along the readout (geometric compression [Z]_)
    need fewer coils only where many are compressed to a few, and have to be aligned so that maps stay smooth. Here so
    much energy is kept that hardly anything is lost.

    Parameters
    ----------
    gram
        :math:`\sum k k^H` over samples, Hermitian, shape ``(coils, coils)``.
    covariance
        Covariance of the noise, shape ``(coils, coils)``; zero: no noise, nothing is whitened.
    energy
        Keep the fewest virtual coils with this part of the energy of the whitened data, in (0, 1].
    coils
        Keep at most this many virtual coils, whatever their energy.

    Returns
    -------
        complex128, shape ``(virtual coils, coils)``. All coils if the data are zero.

    References
    ----------
    .. [H] Huang et al., A software channel compression technique for faster reconstruction with many channels, Magn.
       Reson. Imaging 26, 2008.
    .. [Z] Zhang et al., Coil compression for accelerated imaging with Cartesian sampling, Magn. Reson. Med. 69, 2013.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or covariance.shape != gram.shape:
        raise ValueError(
            f"coil_compression: gram has shape {tuple(gram.shape)}, covariance {tuple(covariance.shape)}, expected "
            "(coils, coils) for both"
        )
    if not 0 < energy <= 1 or (coils is not None and coils < 1):
        raise ValueError(
            f"coil_compression: energy is {energy}, coils {coils}, expected energy in (0, 1], coils from 1"
        )
    whitening = whitening_matrix(covariance.to(torch.complex128))
    values, vectors = torch.linalg.eigh(whitening @ gram.to(torch.complex128) @ whitening.mH)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    kept = len(values) if coils is None else min(coils, len(values))
    if energy < 1 and values[0] > 0:
        below = int((values.cumsum(0) < energy * values.sum()).sum())
        kept = min(kept, below + 1)
    rows = vectors[:, :kept].mH @ whitening
    matrix: Tensor = torch.linalg.qr(rows.mH)[0].mH
    return matrix
