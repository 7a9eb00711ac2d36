"""k-space simulated from images, and written in the fastMRI layout."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physics import correlated_noise, fft2c, ifft2c, root_sum_of_squares

from ..files import write_hdf5
from .mri_header import Header, header_xml
from .sample import center_crop


def simulated_header(shape: tuple[int, int], recon_shape: tuple[int, int] | None = None) -> Header:
    """Header of simulated k-space: vendor ``simulated``, every column encoded."""
    return Header(
        encoded_shape=shape,
        recon_shape=recon_shape or shape,
        padding=(0, shape[1]),
        vendor="simulated",
        model="from images",
    )


def coil_covariance(n_coils: int, seed: int) -> Tensor:
    """Covariance of the noise of a ring of coils: neighbors are correlated, and coils differ in noise.

    The correlation decays as ``r^d`` with the number ``d`` of coils between two coils along the ring, ``r`` from 0.1 to
    0.4, with a random phase per coil; standard deviations differ by a factor of up to 1.5.

    Parameters
    ----------
    n_coils
        Number of coils.
    seed
        Seed of correlation, phases and standard deviations.

    Returns
    -------
        complex128 ``(n_coils, n_coils)``, Hermitian, positive definite, mean variance 1.
    """
    generator = torch.Generator().manual_seed(seed)
    gains, phases = torch.rand(2, n_coils, generator=generator, dtype=torch.float64)
    neighbor = float(0.1 + 0.3 * torch.rand((), generator=generator))
    index = torch.arange(n_coils)
    distance = (index[:, None] - index).abs()
    distance = torch.minimum(distance, n_coils - distance)
    root = torch.polar(1.5**gains, 2 * torch.pi * phases)
    covariance = root[:, None] * neighbor**distance * root.conj()
    scaled: Tensor = covariance / covariance.diagonal().real.mean()
    return scaled


def simulate_volume(images: Tensor, maps: Tensor, *, noise_covariance: Tensor | None = None, seed: int = 0) -> Tensor:
    """Fully sampled multi-coil k-space of a volume, :math:`F(S_c x) + n`.

    Parameters
    ----------
    images
        Real or complex, shape ``(slices, height, width)``.
    maps
        Coil maps ``(coils, height, width)`` for all slices, or ``(slices, coils, height, width)``.
    noise_covariance
        Covariance of the noise over the coils, ``(coils, coils)``; None: no noise.
    seed
        Seed of the noise.

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
    frames: int = 1,
) -> None:
    """Write one volume in the fastMRI layout; the file appears complete or not at all.

    The file of a fully sampled volume holds ``reconstruction_rss`` and fastMRI's attributes ``max`` and ``norm``.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced.
    kspace
        complex64 ``(slices, coils, height, width)``.
    header
        See :func:`simulated_header`.
    patient_id, acquisition
        Attributes of the file; splits are by `patient_id`.
    mask
        Bool ``(width,)`` or ``(height, width)``; `kspace` is set to zero where it is False. None: fully sampled.
    maps
        True maps of a simulation, used only where a manifest states ``maps = "true"``.
    noise_covariance
        Covariance of the noise in `kspace`, ``(coils, coils)``. Zeros: no noise. None: readers estimate it from the
        outermost readout samples, which also hold signal.
    frames
        Frames of a moving object, whose slices and frames are the slices of the file; the slice counts fastest.

    Raises
    ------
    ValueError
        If the shape of `kspace` differs from the header, or its slices are no multiple of the frames.
    DataError
        If the file cannot be written.
    """
    if kspace.ndim != 4 or tuple(kspace.shape[-2:]) != header.encoded_shape:
        raise ValueError(
            f"write_volume: kspace has shape {tuple(kspace.shape)}, expected (slices, coils, ...) with "
            f"{header.encoded_shape}"
        )
    if frames < 1 or len(kspace) % frames:
        raise ValueError(f"write_volume: kspace has {len(kspace)} slices, expected a multiple of {frames} frames")
    arrays: dict[str, Any] = {"ismrmrd_header": header_xml(header)}
    attributes: dict[str, Any] = {"patient_id": patient_id, "acquisition": acquisition}
    if frames > 1:
        attributes["frames"] = frames
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
