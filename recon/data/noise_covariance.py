"""The covariance of the noise between coils, as files state it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import data_error


def checked_covariance(path: Path | str, matrix: Any, n_coils: int) -> Tensor:
    """Covariance of the noise, complex128 ``(coils, coils)``.

    Parameters
    ----------
    path
        The file, for errors.
    matrix
        An array or an HDF5 dataset.

    Raises
    ------
    DataError
        If it is not a finite Hermitian positive semidefinite matrix of the coils.
    """
    key, expected = "noise_covariance", f"a Hermitian positive semidefinite matrix ({n_coils}, {n_coils})"
    advice = "measure it again or remove it"
    if tuple(matrix.shape) != (n_coils, n_coils) or matrix.dtype.kind not in "fc":
        raise data_error(path, key, f"{matrix.dtype} of shape {tuple(matrix.shape)}", expected, advice)
    values = np.asarray(matrix[()]).astype(np.complex128)
    if not np.isfinite(values).all():
        raise data_error(path, key, "NaN or infinite values", expected, advice)
    size = np.abs(values).max()
    if np.abs(values - values.conj().T).max() > 1e-5 * size or np.linalg.eigvalsh(values).min() < -1e-5 * size:
        raise data_error(path, key, "a matrix that is not Hermitian or has negative eigenvalues", expected, advice)
    return torch.from_numpy(values)


def covariance_of_noise(readings: Any) -> Tensor:
    """Covariance of noise readings ``(coils, samples)`` without signal, complex128 ``(coils, coils)``."""
    noise = np.asarray(readings, np.complex128)
    noise = noise - noise.mean(1, keepdims=True)
    return torch.from_numpy(noise @ noise.conj().T / noise.shape[1])
