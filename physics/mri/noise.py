"""Receiver noise: drawing it, estimating its covariance between coils, and whitening it."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Part of the readout samples at each end that counts as free of signal.
NOISE_EDGE = 0.08
#: A covariance whose eigenvalues span more than this is loaded, see :func:`whitening_matrix`.
MAX_CONDITION = 1e6
#: Loading in parts of the largest eigenvalue.
LOADING = 1e-3


def complex_noise(shape: Sequence[int], std: float, generator: torch.Generator) -> Tensor:
    """Circular complex Gaussian noise with ``sqrt(E |n|^2) = std``, complex64, on the generator's device."""
    if not std >= 0:
        raise ValueError(f"complex_noise: std is {std}, expected 0 or more")
    return std * torch.randn(tuple(shape), dtype=torch.complex64, generator=generator, device=generator.device)


def correlated_noise(shape: Sequence[int], covariance: Tensor, generator: torch.Generator) -> Tensor:
    r"""Circular complex Gaussian noise with :math:`E[n n^H] = C` between coils, white along all other axes.

    Parameters
    ----------
    shape
        ``(..., coils, height, width)``.
    covariance
        Hermitian and positive semi-definite, shape ``(coils, coils)``; singular is fine.
    generator
        On the device of the covariance.
    """
    _require_covariance("correlated_noise", covariance)
    shape = tuple(shape)
    if len(shape) < 3 or shape[-3] != len(covariance):
        raise ValueError(
            f"correlated_noise: shape is {shape}, expected (..., {len(covariance)}, height, width) for a "
            f"covariance "
            f"of {len(covariance)} coils"
        )
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt()
    return whiten(complex_noise(shape, 1.0, generator), root)


def estimate_noise_covariance(kspace: Tensor, mask: Tensor) -> Tensor:
    r"""Coil covariance :math:`E[n n^H]` from the outermost readout samples, where signal has decayed.

    The rows are the outer 8 % at each end of the readout, the columns those that the mask keeps and that hold
    anything. Samples that are exactly zero in all coils (zero padding) are left out.

    Parameters
    ----------
    kspace
        complex, shape ``(*batch, coils, readout, phase)``; slices of one scan may share an estimate.
    mask
        ``(width,)``, or ``(1 | height, width)``.

    Returns
    -------
        Hermitian, shape ``(coils, coils)``, complex. All zero where there are no such samples.

    Notes
    -----
    An upper bound: fine structure and sharp edges leave signal there. In noise-free simulations it is signal
    only; give such files their own covariance.
    """
    if not kspace.is_complex() or kspace.ndim < 3:
        raise ValueError(
            f"estimate_noise_covariance: k-space is {kspace.dtype} of shape {tuple(kspace.shape)}, expected "
            f"complex "
            "(*batch, coils, readout, phase)"
        )
    n_coils, height, width = kspace.shape[-3:]
    n_edge = max(1, round(NOISE_EDGE * height))
    edge = torch.zeros(height, 1, dtype=torch.bool, device=kspace.device)
    edge[:n_edge] = edge[-n_edge:] = True
    kept = (edge & (mask.to(kspace.device) != 0)).expand(height, width)
    samples = kspace.movedim(-3, 0)[..., kept].reshape(n_coils, -1)
    samples = samples[:, samples.abs().amax(0) > 0]
    # Double precision: the squares of k-space of scale 1e-5 times noise of 1e-3 are near the end of float32.
    samples = samples.to(torch.complex128)
    return (samples @ samples.mH / max(samples.shape[1], 1)).to(kspace.dtype)


def whitening_matrix(covariance: Tensor) -> Tensor:
    r"""Hermitian :math:`W` with :math:`W C W^H = c I`, where ``c`` is the geometric mean of C's eigenvalues.

    ``c`` instead of 1 keeps the units of the data: a white covariance gives the identity.

    Parameters
    ----------
    covariance
        Hermitian and positive semi-definite, shape ``(coils, coils)``.

    Returns
    -------
        Of the covariance's shape and type.

    Notes
    -----
    A covariance that is singular or has a condition above 1e6 (a dead coil, fewer samples than coils) is
    loaded with 1e-3 of its largest eigenvalue on the diagonal, and ``W C W^H = c I`` holds for the loaded
    one. A zero covariance gives the identity.
    """
    _require_covariance("whitening_matrix", covariance)
    values, vectors = torch.linalg.eigh(covariance.to(torch.complex128))
    largest = values[-1]
    if largest <= 0:
        return torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    if values[0] * MAX_CONDITION < largest:
        values = values.clamp_min(0) + LOADING * largest
    gains = (values.log().mean() - values.log()).div(2).exp()
    matrix: Tensor = (vectors * gains) @ vectors.mH
    return matrix.to(covariance.dtype)


def whiten(kspace: Tensor, matrix: Tensor) -> Tensor:
    """Mix coils, ``(..., coils, height, width)``, by a ``(coils, coils)`` matrix; do the same to the maps."""
    if kspace.ndim < 3 or matrix.shape != (kspace.shape[-3],) * 2:
        raise ValueError(
            f"whiten: matrix has shape {tuple(matrix.shape)}, data {tuple(kspace.shape)}; expected (coils, "
            f"coils) and "
            "(..., coils, height, width)"
        )
    mixed: Tensor = torch.einsum("ij,...jhw->...ihw", matrix.to(kspace.dtype), kspace)
    return mixed


def _require_covariance(who: str, covariance: Tensor) -> None:
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1] or len(covariance) == 0:
        raise ValueError(f"{who}: covariance has shape {tuple(covariance.shape)}, expected (coils, coils)")
    if not covariance.isfinite().all():
        raise ValueError(f"{who}: covariance holds NaN or infinite values")
    scale = covariance.abs().amax()
    if not torch.allclose(covariance, covariance.mH, atol=1e-4 * float(scale), rtol=0):
        raise ValueError(f"{who}: covariance is not Hermitian; expected E[n n^H]")
