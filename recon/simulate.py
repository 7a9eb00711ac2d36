"""k-space simulated from images, written in the fastMRI layout; readers for NIfTI and DICOM images."""

import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from pydicom.errors import InvalidDicomError
from torch import Tensor

from physics import correlated_noise, fft2c, ifft2c, root_sum_of_squares

from .errors import data_error
from .files import write_hdf5
from .mri_header import Header, header_xml
from .sample import center_crop

_NIFTI = (".nii", ".nii.gz")


def simulated_header(shape: tuple[int, int], recon_shape: tuple[int, int] | None = None) -> Header:
    """Header of k-space that was computed from images, labeled as such; every column counts as encoded."""
    return Header(
        encoded_shape=shape,
        recon_shape=recon_shape or shape,
        padding=(0, shape[1]),
        vendor="simulated",
        model="from images",
    )


def with_smooth_phase(images: Tensor, seed: int) -> Tensor:
    """Give magnitude images the smooth phase of a real scan: a few cosines of less than two cycles per image.

    Parameters
    ----------
    images
        Real, shape ``(..., height, width)``.
    seed
        Draws the phase, the same for all slices.

    Returns
    -------
        complex64, same shape, same magnitude; the phase varies by about one radian.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.linspace(-0.5, 0.5, n) for n in images.shape[-2:])
    phase = torch.zeros(images.shape[-2:])
    for _ in range(4):
        fy, fx, offset = ((torch.rand(3, generator=generator) - 0.5) * torch.tensor([4.0, 4.0, 2.0])).tolist()
        phase += 0.7 * torch.cos(2 * math.pi * (fy * rows[:, None] + fx * columns + offset))
    return torch.polar(images.to(torch.float32).abs(), phase.expand_as(images))


def simulate_volume(images: Tensor, maps: Tensor, *, noise_covariance: Tensor | None = None, seed: int = 0) -> Tensor:
    """Fully sampled multi-coil k-space of a volume, :math:`F(S_c x) + n`.

    Parameters
    ----------
    images
        Real or complex, shape ``(slices, height, width)``.
    maps
        Coil maps ``(coils, height, width)`` for all slices, or ``(slices, coils, height, width)``.
    noise_covariance
        Covariance of the noise over the coils, ``(coils, coils)``; None adds none.
    seed
        Draws the noise.

    Returns
    -------
        complex64 ``(slices, coils, height, width)``.
    """
    if images.ndim != 3 or maps.shape[-2:] != images.shape[-2:] or maps.ndim not in (3, 4):
        raise ValueError(
            f"simulate_volume: images have shape {tuple(images.shape)}, maps {tuple(maps.shape)}, expected "
            "(slices, height, width) and (coils, height, width)"
        )
    kspace = fft2c(maps * images.unsqueeze(-3)).to(torch.complex64)
    if noise_covariance is not None:
        generator = torch.Generator().manual_seed(seed)
        kspace = kspace + correlated_noise(kspace.shape, noise_covariance, generator).to(kspace.dtype)
    return kspace


def write_volume(
    path: Path | str,
    kspace: Tensor,
    header: Header,
    *,
    patient_id: str,
    acquisition: str,
    mask: Tensor | None = None,
    maps: Tensor | None = None,
    noise_covariance: Tensor | None = None,
) -> None:
    """Write one volume in the fastMRI layout; the file appears complete or not at all.

    Fully sampled volumes get ``reconstruction_rss`` and the attributes ``max`` and ``norm`` of fastMRI.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    kspace
        complex64 ``(slices, coils, height, width)``.
    header
        Sizes and facts; see :func:`simulated_header`.
    patient_id, acquisition
        Attributes of the file; splits are by `patient_id`.
    mask
        Bool ``(width,)`` or ``(height, width)``; what it drops is set to zero. None: fully sampled.
    maps
        True maps of a simulation, used only where a manifest asks for ``maps = "true"``.
    noise_covariance
        Covariance of the noise that `kspace` holds, ``(coils, coils)``. Zeros state that it is noise-free;
        without it, readers may have to estimate it from the outermost readout samples, which hold signal too.

    Raises
    ------
    ValueError
        If `kspace` has another shape than the header says.
    DataError
        If the file cannot be written.
    """
    if kspace.ndim != 4 or tuple(kspace.shape[-2:]) != header.encoded_shape:
        raise ValueError(
            f"write_volume: kspace has shape {tuple(kspace.shape)}, expected (slices, coils, ...) with "
            f"{header.encoded_shape}"
        )
    arrays: dict[str, Any] = {"ismrmrd_header": header_xml(header)}
    attributes: dict[str, Any] = {"patient_id": patient_id, "acquisition": acquisition}
    if mask is None:
        rss = center_crop(root_sum_of_squares(ifft2c(kspace)), header.recon_shape).to(torch.float32)
        arrays["reconstruction_rss"] = rss.numpy()
        attributes |= {"max": float(rss.max()), "norm": float(rss.norm())}
    else:
        kspace = kspace * mask
        arrays["mask"] = mask.numpy()
    arrays["kspace"] = kspace.to(torch.complex64).numpy()
    if maps is not None:
        arrays["maps"] = maps.to(torch.complex64).numpy()
    if noise_covariance is not None:
        arrays["noise_covariance"] = noise_covariance.to(torch.complex64).numpy()
    write_hdf5(Path(path), arrays, attributes)


def read_images(path: Path | str) -> Tensor:
    """Read images to simulate measurements from: NIfTI, DICOM, or a folder of one DICOM series.

    NIfTI volumes come as axial slices from feet to head, anterior at the top, the patient's left at the right
    of the image. DICOM slices keep their orientation and are sorted along their normal. Values are rescaled
    as the file says. What is simulated from them has no measured phase: see :func:`with_smooth_phase`.

    Returns
    -------
        float32 ``(slices, height, width)``.

    Raises
    ------
    DataError
        If the file is missing, broken, not a volume, or a folder holds no or several series.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.dcm"))
        if not files:
            raise data_error(path, "folder", "no .dcm file", "one DICOM series", "correct the path")
        return _finite(_read_dicom(files, path), path)
    if not path.is_file():
        raise data_error(path, "file", "nothing", "a NIfTI or DICOM file", "correct the path")
    if path.name.endswith(_NIFTI):
        return _finite(_read_nifti(path), path)
    return _finite(_read_dicom([path], path), path)


def _read_nifti(path: Path) -> np.ndarray[Any, Any]:
    import nibabel  # only for those who read such files

    canonical: Callable[[Any], Any] = nibabel.as_closest_canonical
    try:
        image: Any = canonical(nibabel.load(path))
        volume = np.squeeze(np.asarray(image.dataobj, dtype=np.float32))
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise data_error(path, "file", f"no readable NIfTI ({error})", "a NIfTI volume", "copy it again") from None
    if volume.ndim != 3:
        raise data_error(path, "data", f"shape {volume.shape}", "a 3-D volume", "write one volume per file")
    # Canonical axes are (right, anterior, superior), each growing.
    return np.ascontiguousarray(volume[::-1, ::-1, :].transpose(2, 1, 0))


def _read_dicom(files: Sequence[Path], path: Path) -> np.ndarray[Any, Any]:
    slices: list[tuple[float, np.ndarray[Any, Any]]] = []
    series = set()
    for number, file in enumerate(files):
        try:
            dataset = pydicom.dcmread(file)
            pixels = dataset.pixel_array.astype(np.float32)
        except (
            InvalidDicomError,
            AttributeError,
            NotImplementedError,
            RuntimeError,
            ValueError,
            OSError,
        ) as error:
            raise data_error(
                file, "file", f"no readable DICOM ({error})", "a DICOM image", "copy it again, uncompressed"
            ) from None
        pixels = pixels * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
        series.add(dataset.get("SeriesInstanceUID"))
        slices.append((_slice_position(dataset, number), pixels))
    if len(series) > 1:
        raise data_error(path, "SeriesInstanceUID", f"{len(series)} series", "one series", "use one folder per series")
    shapes = {pixels.shape for _, pixels in slices}
    if len(shapes) > 1 or len(next(iter(shapes))) not in ((2, 3) if len(files) == 1 else (2,)):
        raise data_error(path, "PixelData", f"shapes {sorted(shapes)}", "gray images of one shape", "sort the series")
    slices.sort(key=lambda entry: entry[0])
    volume = np.stack([pixels for _, pixels in slices])
    return volume[0] if volume.ndim == 4 else volume


def _slice_position(dataset: pydicom.Dataset, number: int) -> float:
    position, orientation = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
    if position is not None and orientation is not None:
        axes = np.asarray(orientation, dtype=float)
        return float(np.dot(np.cross(axes[:3], axes[3:]), np.asarray(position, dtype=float)))
    return float(dataset.get("InstanceNumber") or number)


def _finite(volume: np.ndarray[Any, Any], path: Path) -> Tensor:
    if not np.isfinite(volume).all():
        raise data_error(path, "data", "NaN or infinite values", "finite values", "repair the image")
    return torch.from_numpy(volume)
