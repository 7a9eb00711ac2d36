"""Receiver noise: draw it, estimate its covariance between coils, whiten it."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Fraction of the readout at each end that is assumed free of signal.
_NOISE_EDGE = 0.08
#: Largest condition number of a covariance that is inverted without diagonal loading.
_MAX_CONDITION = 1e6
#: Diagonal loading as a fraction of the largest eigenvalue, see :func:`whitening_matrix`.
_LOADING = 1e-3


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
        Hermitian and positive semi-definite, possibly singular, shape ``(coils, coils)``.
    generator
        Random generator on the device of the covariance.
    """
    _require_covariance("correlated_noise", covariance)
    shape = tuple(shape)
    if len(shape) < 3 or shape[-3] != len(covariance):
        raise ValueError(
            f"correlated_noise: shape is {shape}, expected (..., {len(covariance)}, height, width) for a "
            f"covariance of {len(covariance)} coils"
        )
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt()
    return whiten(complex_noise(shape, 1.0, generator), root)


def estimate_noise_covariance(kspace: Tensor, mask: Tensor) -> Tensor:
    r"""Coil covariance :math:`E[n n^H]` from the outermost readout samples, where the signal has decayed.

    Uses the measured samples in the outer 8 % at each end of the readout. Samples that are exactly zero in
    all coils (zero padding) are left out.

    Parameters
    ----------
    kspace
        complex, shape ``(*batch, coils, readout, phase)``; the batch may hold the slices of one scan.
    mask
        ``(width,)``, or ``(1 | height, width)``.

    Returns
    -------
        Hermitian, shape ``(coils, coils)``, complex. Zero if no sample is left.

    Notes
    -----
    An upper bound: fine structure and sharp edges still have signal there. Noise-free simulations have
    nothing but signal there; give their files a covariance.
    """
    if not kspace.is_complex() or kspace.ndim < 3:
        raise ValueError(
            f"estimate_noise_covariance: k-space is {kspace.dtype} of shape {tuple(kspace.shape)}, expected "
            "complex (*batch, coils, readout, phase)"
        )
    n_coils, height, width = kspace.shape[-3:]
    n_edge = max(1, round(_NOISE_EDGE * height))
    edge = torch.zeros(height, 1, dtype=torch.bool, device=kspace.device)
    edge[:n_edge] = edge[-n_edge:] = True
    kept = (edge & (mask.to(kspace.device) != 0)).expand(height, width)
    samples = kspace.movedim(-3, 0)[..., kept].reshape(n_coils, -1)
    samples = samples[:, samples.abs().amax(0) > 0]
    # Double precision: k-space of scale 1e-5 with noise of 1e-3 has squares near the smallest float32.
    samples = samples.to(torch.complex128)
    return (samples @ samples.mH / max(samples.shape[1], 1)).to(kspace.dtype)


def whitening_matrix(covariance: Tensor) -> Tensor:
    r"""Hermitian :math:`W` with :math:`W C W^H = c I`, where ``c`` is the geometric mean of the eigenvalues of C.

    ``c`` instead of 1 keeps the units of the data: a white covariance gives the identity.

    Parameters
    ----------
    covariance
        Hermitian and positive semi-definite, shape ``(coils, coils)``.

    Returns
    -------
        Shape and dtype of the covariance.

    Notes
    -----
    A singular covariance, or one with a condition number above 1e6 (a dead coil, fewer samples than coils),
    is loaded with 1e-3 of its largest eigenvalue on the diagonal; ``W C W^H = c I`` then holds for the loaded
    covariance. A zero covariance gives the identity.
    """
    _require_covariance("whitening_matrix", covariance)
    values, vectors = torch.linalg.eigh(covariance.to(torch.complex128))
    largest = values[-1]
    if largest <= 0:
        return torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    if values[0] * _MAX_CONDITION < largest:
        values = values.clamp_min(0) + _LOADING * largest
    gains = (values.log().mean() - values.log()).div(2).exp()
    matrix: Tensor = (vectors * gains) @ vectors.mH
    return matrix.to(covariance.dtype)


def whiten(kspace: Tensor, matrix: Tensor) -> Tensor:
    """Multiply coil data ``(..., coils, height, width)`` by a matrix ``(coils, coils)``; the maps need the same."""
    if kspace.ndim < 3 or matrix.shape != (kspace.shape[-3],) * 2:
        raise ValueError(
            f"whiten: matrix has shape {tuple(matrix.shape)}, data {tuple(kspace.shape)}; expected "
            "(coils, coils) and (..., coils, height, width)"
        )
    return mix_coils(kspace, matrix)


def mix_coils(data: Tensor, matrix: Tensor) -> Tensor:
    """Combinations of coils: multiply ``(..., coils, height, width)`` by a matrix ``(n, coils)``.

    Noise of covariance C has the covariance ``matrix @ C @ matrix.mH`` afterwards; the maps need the same.
    """
    if data.ndim < 3 or matrix.ndim != 2 or matrix.shape[1] != data.shape[-3]:
        raise ValueError(
            f"mix_coils: matrix has shape {tuple(matrix.shape)}, data {tuple(data.shape)}; expected (n, coils) and "
            "(..., coils, height, width)"
        )
    mixed: Tensor = torch.einsum("ij,...jhw->...ihw", matrix.to(data.dtype), data)
    return mixed


def _require_covariance(who: str, covariance: Tensor) -> None:
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1] or len(covariance) == 0:
        raise ValueError(f"{who}: covariance has shape {tuple(covariance.shape)}, expected (coils, coils)")
    if not covariance.isfinite().all():
        raise ValueError(f"{who}: covariance holds NaN or infinite values")
    scale = covariance.abs().amax()
    if not torch.allclose(covariance, covariance.mH, atol=1e-4 * float(scale), rtol=0):
        raise ValueError(f"{who}: covariance is not Hermitian; expected E[n n^H]")
