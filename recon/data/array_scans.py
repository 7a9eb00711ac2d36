"""Write the arrays of one scan as a file of the usual format, so that they are read as any other file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physics import Geometry, ImageGrid

from ..errors import data_error
from ..files import write_hdf5
from .ct_file import write_sinograms
from .mri_center import zero_frequency
from .mri_header import Header, header_xml, read_header
from .noise_covariance import checked_covariance, covariance_of_noise


def write_kspace(
    path: Path | str,
    kspace: Any,
    mask: Any = None,
    *,
    header: Header | bytes | str | None = None,
    noise: Any = None,
    patient_id: str | None = None,
    acquisition: str | None = None,
) -> bool:
    """Write Cartesian k-space in the fastMRI layout, which every command reads.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    kspace
        Complex ``(coils, readout, phase)``, ``(slices, coils, readout, phase)``, or ``(readout, phase)`` of one coil.
        The zero frequency is in the middle, and the image is its centered inverse FFT; the scale is free.
    mask
        Sampled positions, ``(phase,)`` or ``(readout, phase)``; None: all, less columns of zeros.
    header
        The ``ismrmrd_header`` of the file, which states padding and the size of the displayed image; None: every column
        was encoded, and the whole image is displayed.
    noise
        Covariance of the noise, ``(coils, coils)``, or readings without signal, ``(coils, samples)`` of at least ten
        times as many samples as coils, in the units of `kspace`; None: unknown.
    patient_id
        Person, by whom files are split; None: unknown.
    acquisition
        Contrast, such as ``"AXT2"``; None: unknown.

    Returns
    -------
        Whether the array is a single slice.

    Raises
    ------
    DataError
        If k-space is real, empty, of another shape, not finite or zero everywhere; if its zero frequency lies in the
        corner; if mask, header or noise do not fit it; or if the file cannot be written.
    """
    path, data = Path(path), as_array(kspace)
    if data.ndim not in (2, 3, 4) or 0 in data.shape:
        found, expected = f"shape {data.shape}", "(coils, readout, phase), with slices in front or not"
        raise data_error(path, "kspace", found, expected, "order the axes, and write scans one by one")
    stack = data if data.ndim == 4 else data.reshape((1,) * (4 - data.ndim) + data.shape)
    _require_kspace(path, stack)
    size = (stack.shape[2], stack.shape[3])
    if header is None:
        header = Header(encoded_shape=size, recon_shape=size, padding=(0, size[1]))
    stated = header if isinstance(header, Header) else read_header(header, path)
    if stated.encoded_shape[1] != size[1]:
        found, expected = f"encoded matrix {stated.encoded_shape}", f"the width of kspace, {size[1]}"
        raise data_error(path, "header", found, expected, "pass the header of this scan")
    arrays = {"kspace": stack, "ismrmrd_header": header_xml(header) if isinstance(header, Header) else header}
    if mask is not None:
        arrays["mask"] = _checked_mask(path, as_array(mask), size)
    if noise is not None:
        arrays["noise_covariance"] = checked_noise(path, as_array(noise), stack.shape[1])
    attributes = {"patient_id": patient_id, "acquisition": acquisition}
    write_hdf5(path, arrays, {key: text for key, text in attributes.items() if text is not None})
    return data.ndim < 4


def _require_kspace(path: Path, stack: np.ndarray[Any, Any]) -> None:
    if stack.dtype.kind != "c":
        advice = "join real and imaginary part, as in data[..., 0] + 1j * data[..., 1]"
        raise data_error(path, "kspace", f"dtype {stack.dtype}", "complex numbers", advice)
    energy = [float(np.square(np.abs(one), dtype=np.float64).sum()) for one in stack]
    if not np.isfinite(energy).all():
        index = int(np.flatnonzero(~np.isfinite(energy))[0])
        found = "NaN, infinite or too large values"
        raise data_error(path, f"kspace[{index}]", found, "finite values", "repair or leave out the scan")
    if not any(energy):
        raise data_error(path, "kspace", "only zeros", "a measurement", "leave out the scan")
    brightest = torch.from_numpy(np.asarray(stack[int(np.argmax(energy))], np.complex64))
    if axes := [axis - 2 for axis, place in enumerate(zero_frequency(brightest)) if place == "corner"]:
        found, advice = "the zero frequency in the corner", f"apply np.fft.fftshift along axes {axes}"
        raise data_error(path, "kspace", found, "it in the middle", advice)


def _checked_mask(path: Path, mask: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    flat = np.atleast_1d(mask.squeeze())
    if flat.shape not in ((size[1],), size):
        expected = f"({size[1]},) or {size}"
        raise data_error(path, "mask", f"shape {mask.shape}", expected, "pass one mask for all coils and slices")
    return flat


def checked_noise(path: Path, noise: np.ndarray[Any, Any], n_coils: int) -> np.ndarray[Any, Any]:
    """Covariance of the noise from a covariance or readings, see :func:`write_kspace`."""
    if noise.ndim == 2 and noise.shape[0] == n_coils and noise.shape[1] >= max(10 * n_coils, 2):
        noise = covariance_of_noise(noise).numpy()
    return checked_covariance(path, noise, n_coils).numpy()


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
    data = as_array(sinogram)
    stack = data[None] if data.ndim == 2 else data
    kinds = (stack, None) if counts else (None, stack)
    write_sinograms(path, grid, geometry, counts=kinds[0], line_integrals=kinds[1], photons=photons)
    return data.ndim == 2


def as_array(values: Any) -> np.ndarray[Any, Any]:
    """A tensor or anything like an array as an array."""
    tensor = values.detach().cpu().resolve_conj() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    array: np.ndarray[Any, Any] = tensor.numpy()
    return array
