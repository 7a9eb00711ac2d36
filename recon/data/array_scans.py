"""Write the arrays of one scan as a file of the usual format, so that they are read as any other file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physics import Geometry, ImageGrid

from ..files import write_hdf5
from .ct_file import write_sinograms
from .mri_header import Header, header_xml


def write_kspace(
    path: Path,
    kspace: Any,
    mask: Any = None,
    *,
    header: Header | bytes | str | None = None,
    noise_covariance: Any = None,
) -> bool:
    """Write k-space in the fastMRI layout.

    Parameters
    ----------
    kspace
        Complex ``(coils, readout, phase)``, ``(slices, coils, readout, phase)``, or ``(readout, phase)`` of one coil.
    mask
        Sampled positions, ``(phase,)`` or ``(readout, phase)``; None: all.
    header
        The ``ismrmrd_header`` of the file, which states padding and the size of the displayed image; None: every column
        was encoded, and the whole image is displayed.
    noise_covariance
        Covariance of the noise, ``(coils, coils)``; None: unknown.

    Returns
    -------
        Whether the array is a single slice.
    """
    data = _array(kspace)
    if data.ndim not in (2, 3, 4):
        raise ValueError(
            f"kspace: found shape {data.shape}, expected (coils, readout, phase), with slices in front or not"
        )
    stack = data if data.ndim == 4 else data.reshape((1,) * (4 - data.ndim) + data.shape)
    if header is None:
        size = (stack.shape[2], stack.shape[3])
        header = Header(encoded_shape=size, recon_shape=size, padding=(0, size[1]))
    arrays = {"kspace": stack, "ismrmrd_header": header_xml(header) if isinstance(header, Header) else header}
    if mask is not None:
        arrays["mask"] = np.atleast_1d(_array(mask).squeeze())
    if noise_covariance is not None:
        arrays["noise_covariance"] = _array(noise_covariance)
    write_hdf5(path, arrays, {})
    return data.ndim < 4


def write_sinogram(
    path: Path, sinogram: Any, geometry: Geometry, grid: ImageGrid, *, photons: Any = None, counts: bool = False
) -> bool:
    """Write projections in fedrecon's CT layout.

    Parameters
    ----------
    sinogram
        Line integrals, or counts with ``counts``: ``(views, detectors)`` or ``(slices, views, detectors)``.
    photons
        Photons per ray before the object; None: unknown, for line integrals.

    Returns
    -------
        Whether the array is a single slice.
    """
    data = _array(sinogram)
    stack = data[None] if data.ndim == 2 else data
    kinds = (stack, None) if counts else (None, stack)
    write_sinograms(path, grid, geometry, counts=kinds[0], line_integrals=kinds[1], photons=photons)
    return data.ndim == 2


def _array(values: Any) -> np.ndarray[Any, Any]:
    tensor = values.detach().cpu().resolve_conj() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    array: np.ndarray[Any, Any] = tensor.numpy()
    return array
