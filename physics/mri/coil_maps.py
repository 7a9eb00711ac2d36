"""Coil sensitivity maps: simulated, or estimated from the fully sampled center of k-space."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from .cartesian import combine_coils, root_sum_of_squares
from .fourier import ifft2c
from .sampling import calibration_block, samples_center

#: Part of the name of every stored file of maps: raise it when an estimate changes.
_VERSION = "2"


def birdcage_maps(n_coils: int, shape: tuple[int, int], seed: int | None = None, radius: float = 1.5) -> Tensor:
    """Smooth maps of coils on a ring around the field of view, scaled to unit root sum of squares.

    Parameters
    ----------
    n_coils
        Number of coils.
    shape
        ``(height, width)``.
    seed
        Random changes of the coils' positions and phases, so that each seed is another head array. None:
        equally spaced coils of equal phase.
    radius
        Radius of the ring in halves of the field of view. Below 1.3 a coil may lie within the image.

    Returns
    -------
        complex64, shape ``(n_coils, height, width)``.
    """
    if n_coils < 1 or min(shape) < 1:
        raise ValueError(f"birdcage_maps: {n_coils} coils on {shape}, expected at least one coil and one pixel")
    index = torch.arange(n_coils, dtype=torch.float64)
    angle, distance, phase = 2 * torch.pi * index / n_coils, torch.full_like(index, radius), torch.zeros_like(index)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        jitter = torch.rand(3, n_coils, generator=generator, dtype=torch.float64) - 0.5
        angle = angle + torch.pi / n_coils * jitter[0] + 2 * torch.pi * torch.rand((), generator=generator)
        distance = distance * (1.05 + 0.15 * jitter[1])  # outwards: no coil within the image
        phase = 2 * torch.pi * jitter[2]
    y, x = (((torch.arange(n) - n // 2) / (n / 2)).double() for n in shape)
    dx = x - (distance * angle.cos())[:, None, None]
    dy = y[:, None] - (distance * angle.sin())[:, None, None]
    turned = torch.atan2(dx, -dy) + (phase - angle)[:, None, None]
    maps = torch.polar(1 / torch.hypot(dx, dy), turned)
    return (maps / root_sum_of_squares(maps)).to(torch.complex64)


def espirit_maps(
    kspace: Tensor,
    calibration_width: int | tuple[int, int] = 24,
    *,
    kernel_width: int = 6,
    threshold: float = 0.02,
) -> Tensor:
    r"""Coil maps as the dominant eigenvectors of the calibration matrix's image-space operator (ESPIRiT).

    Algorithm and settings are those of sigpy's ``EspiritCalib``; the maps agree within rounding and a phase
    per pixel. Several times faster: the sum over kernels of image-sized outer products is computed as the
    Fourier series of the kernels' autocorrelation, and an eigendecomposition replaces the power iteration.

    Parameters
    ----------
    kspace
        complex, shape ``(coils, height, width)``, fully sampled in the calibration region. Any scale.
    calibration_width
        Edge of the centered calibration region in samples, or its ``(height, width)``; at most the size of
        k-space.
    kernel_width
        Edge of the kernels. Where the region is shorter than 3 kernels, a third of the region's edge but at
        least 3: with fewer kernel positions the noise space would be too large (measured: error halved at
        width 8).
    threshold
        Singular values of the calibration matrix below this part of the largest count as noise.

    Returns
    -------
        complex64, shape ``(coils, height, width)``, unit root sum of squares at every pixel. Nothing is
        cropped, so the object has no holes; the maps are meaningless where there is no signal, which does no
        harm. The phase is relative to the principal component of the coils, as in BART: smoother than
        relative to the first coil, which may be blind somewhere. Coils without any data give constant maps.

    References
    ----------
    .. [U] Uecker et al., ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI, Magn. Reson. Med.
       71, 2014.
    """
    _require_kspace("espirit_maps", kspace)
    widths = (calibration_width, calibration_width) if isinstance(calibration_width, int) else calibration_width
    if len(widths) != 2 or min(widths) < 1 or kernel_width < 1:
        raise ValueError(
            f"espirit_maps: calibration_width is {calibration_width}, kernel_width {kernel_width}, "
            "expected positive widths, or a pair for the calibration"
        )
    shape = (kspace.shape[-2], kspace.shape[-1])
    rows, columns = (_middle(slice(0, n), width) for n, width in zip(shape, widths, strict=True))
    return _espirit(_in_double("espirit_maps", kspace[:, rows, columns]), shape, kernel_width, threshold)


def low_resolution_maps(kspace: Tensor, mask: Tensor) -> Tensor:
    """Coil maps as low-resolution coil images divided by their root sum of squares: fast, biased at edges.

    Parameters
    ----------
    kspace
        complex, shape ``(coils, height, width)``.
    mask
        ``(width,)``, ``(1, width)`` or ``(height, width)``. Its fully sampled center, at most 24 wide, is
        used, tapered by a Hann window.

    Returns
    -------
        complex64, shape ``(coils, height, width)``, unit root sum of squares. Coils without any data give
        constant maps.
    """
    _require_kspace("low_resolution_maps", kspace)
    images = _low_resolution_images("low_resolution_maps", kspace, mask)
    rss = root_sum_of_squares(images)
    constant = _constant_maps(len(images), (images.shape[-2], images.shape[-1]), images.device)
    return torch.where(rss > 0, (images / torch.where(rss > 0, rss, 1)).to(torch.complex64), constant)


def with_image_phase(maps: Tensor, kspace: Tensor, mask: Tensor) -> Tensor:
    r"""Maps times the phase of the low-resolution image, :math:`S_c e^{i \varphi}`; images become nearly real.

    :math:`\varphi` is the phase of the coil-combined image of the calibration region. The maps describe the same scan:
    :math:`S_c x = (S_c e^{i \varphi}) (e^{-i \varphi} x)`. A magnitude image is the same. Receiver phase, an echo off
    center and slow field changes differ from scan to scan; they leave the image, so that a network trained at one
    site meets images of the same kind at another.

    Parameters
    ----------
    maps
        Coil maps, complex, shape ``(coils, height, width)``.
    kspace, mask
        As for :func:`low_resolution_maps`.

    Returns
    -------
        Shape, magnitude and dtype of the maps. Pixels without signal keep the phase of their maps.
    """
    _require_kspace("with_image_phase", kspace)
    image = combine_coils(_low_resolution_images("with_image_phase", kspace, mask), maps.to(torch.complex128))
    return torch.where(image.abs() > 0, maps * image.sgn().to(maps.dtype), maps)


def _low_resolution_images(who: str, kspace: Tensor, mask: Tensor) -> Tensor:
    """Coil images of the calibration region, tapered by a Hann window, complex128."""
    rows, columns = _calibration_region(kspace, mask)
    block = _in_double(who, kspace[:, rows, columns])
    center = torch.zeros(kspace.shape, dtype=block.dtype, device=kspace.device)
    center[:, rows, columns] = block * _hann(block.shape[-2], block)[:, None] * _hann(block.shape[-1], block)
    return ifft2c(center)


def _espirit_from_mask(kspace: Tensor, mask: Tensor) -> Tensor:
    rows, columns = _calibration_region(kspace, mask)
    return _espirit(_in_double("estimate_maps", kspace[:, rows, columns]), (kspace.shape[-2], kspace.shape[-1]))


#: Methods of :func:`estimate_maps` by name.
MAP_ESTIMATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "espirit": _espirit_from_mask,
    "low_resolution": low_resolution_maps,
}


@dataclass(frozen=True, eq=False)
class CalibrationScan:
    """k-space of the same coils from another scan, for the coil maps of one with too few lines at the center.

    ``kspace`` is complex ``(coils, height, width)``, of which the middle, at most 24 wide, is used. ``zoom`` is the
    field of view of the scan over that of the calibration scan, along height and width; both have one center.
    """

    kspace: Tensor
    zoom: tuple[float, float] = (1.0, 1.0)

    def maps(self, shape: tuple[int, int]) -> Tensor:
        """ESPIRiT maps of the scan, evaluated at its pixels: nothing is interpolated."""
        rows, columns = (_middle(slice(0, n), 24) for n in self.kspace.shape[1:])
        return _espirit(_in_double("CalibrationScan", self.kspace[:, rows, columns]), shape, zoom=self.zoom)


def estimate_maps(
    kspace: Tensor,
    mask: Tensor,
    method: str = "espirit",
    maps_folder: Path | None = None,
    calibration: CalibrationScan | None = None,
) -> Tensor:
    """Coil maps with the phase of the image, from the measured samples alone, optionally stored on disk.

    Parameters
    ----------
    kspace
        complex, shape ``(coils, height, width)``.
    mask
        Measured samples, ``(width,)``, ``(1, width)`` or ``(height, width)``. The maps are estimated from
        its fully sampled center, at most 24 wide.
    method
        ``"espirit"`` or ``"low_resolution"``.
    maps_folder
        Folder of stored maps, one safetensors file for each SHA-256 of samples, mask and method. Maps whose
        file is missing or damaged are estimated and stored.
    calibration
        Scan to estimate the maps from, by ESPIRiT; None: the measured samples. With it the mask may leave out the
        center, then the phase stays that of the calibration scan.

    Returns
    -------
        complex64, shape ``(coils, height, width)``, unit root sum of squares, see :func:`with_image_phase`.

    Raises
    ------
    ValueError
        If the method is unknown or the mask does not sample the center of k-space.
    """
    _require_kspace("estimate_maps", kspace)
    if method not in MAP_ESTIMATES:
        raise ValueError(f"estimate_maps: no method {method!r}, expected one of {', '.join(MAP_ESTIMATES)}")
    mask = mask.to(kspace.device) != 0
    # where, not a product: samples that were not measured may be NaN.
    measured = torch.where(mask, kspace, 0)
    if maps_folder is None:
        return _estimate(measured, mask, method, calibration)
    path = maps_folder / f"{_digest(measured, mask, method, calibration)}.safetensors"
    maps = _read(path, measured)
    if maps is None:
        maps = _estimate(measured, mask, method, calibration)
        _write(path, maps)
    return maps


def _estimate(measured: Tensor, mask: Tensor, method: str, calibration: CalibrationScan | None) -> Tensor:
    if calibration is None:
        return with_image_phase(MAP_ESTIMATES[method](measured, mask), measured, mask)
    maps = calibration.maps((measured.shape[-2], measured.shape[-1])).to(measured.device)
    return with_image_phase(maps, measured, mask) if samples_center(torch.atleast_2d(mask)) else maps


def _calibration_region(kspace: Tensor, mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the fully sampled center, at most 24 each."""
    if mask.shape[-1] != kspace.shape[-1] or (mask.ndim > 1 and mask.shape[-2] not in (1, kspace.shape[-2])):
        raise ValueError(
            f"calibration: mask has shape {tuple(mask.shape)}, k-space {tuple(kspace.shape)}; expected a mask "
            f"({kspace.shape[-1]},) or ({kspace.shape[-2]} | 1, {kspace.shape[-1]})"
        )
    block = calibration_block(mask)
    rows = block[0] if len(block) == 2 else slice(0, kspace.shape[-2])
    return _middle(rows, 24), _middle(block[-1], 24)


def _middle(part: slice, width: int) -> slice:
    """The middle of a slice, at most ``width`` long."""
    first = max((part.start + part.stop) // 2 - width // 2, part.start)
    return slice(first, min(first + width, part.stop))


def _in_double(who: str, block: Tensor) -> Tensor:
    """The block in double precision, in which squares of k-space neither underflow nor overflow."""
    if not block.isfinite().all():
        raise ValueError(f"{who}: the calibration region holds NaN or infinite samples; leave this k-space out")
    return block.to(torch.complex128)


def _espirit(
    block: Tensor,
    shape: tuple[int, int],
    kernel_width: int = 6,
    threshold: float = 0.02,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Maps of the given shape from a fully sampled block ``(coils, rows, columns)`` anywhere in k-space.

    ``zoom`` is the field of view of the maps over that of the block.
    """
    n_coils = len(block)
    kernel = tuple(min(kernel_width, n, max(3, -(-n // 3))) for n in block.shape[1:])
    windows = block.unfold(1, kernel[0], 1).unfold(2, kernel[1], 1)
    matrix = windows.permute(1, 2, 0, 3, 4).reshape(-1, n_coils * kernel[0] * kernel[1])
    # The eigenvalues are squared singular values: double precision keeps those near the threshold.
    squared, vectors = torch.linalg.eigh(matrix.mH @ matrix)
    kernels = vectors[:, squared > threshold**2 * squared[-1]].mH
    if squared[-1] <= 0 or len(kernels) == 0:
        return _constant_maps(n_coils, shape, block.device)
    maps = torch.linalg.eigh(_image_operator(kernels.reshape(-1, n_coils, *kernel), shape, zoom))[1][..., -1]
    coils = block.reshape(n_coils, -1)
    principal = torch.linalg.eigh(coils @ coils.mH)[1][:, -1]
    principal = principal * principal[principal.abs().argmax()].conj().sgn()
    angle = (maps @ principal.conj().to(maps.dtype)).angle()
    turned: Tensor = maps * torch.polar(torch.ones_like(angle), -angle)[..., None]
    return turned.permute(2, 0, 1).contiguous()


def _image_operator(kernels: Tensor, shape: tuple[int, int], zoom: tuple[float, float]) -> Tensor:
    r"""Matrix :math:`\sum_k a_k a_k^H` of every pixel, with :math:`a_k` the image of kernel k.

    A product of images is a convolution of their spectra, so the sum is the Fourier series of the kernels'
    autocorrelation, with (2 * width - 1) terms per axis for any image size. Shape ``(height, width, coils, coils)``.
    """
    height, width = kernels.shape[-2:]
    padded = torch.fft.fft2(kernels, s=(2 * height - 1, 2 * width - 1))
    product = torch.einsum("kiyx,kjyx->ijyx", padded, padded.conj())
    correlation = torch.fft.fftshift(torch.fft.ifft2(product), dim=(-2, -1)) / (height * width)
    series = torch.einsum("py,ijyx->ijpx", _fourier_series(shape[0], height, kernels, zoom[0]), correlation)
    operator: Tensor = torch.einsum("qx,ijpx->pqij", _fourier_series(shape[1], width, kernels, zoom[1]), series)
    return operator.to(torch.complex64)


def _fourier_series(n: int, reach: int, like: Tensor, zoom: float) -> Tensor:
    """``exp(2 pi i d r zoom / n)`` for pixels r counted from the center and shifts d in ``(-reach, reach)``."""
    pixels = torch.arange(n, device=like.device, dtype=torch.float64) - n // 2
    shifts = torch.arange(1 - reach, reach, device=like.device, dtype=torch.float64)
    angle = 2 * torch.pi * zoom / n * pixels[:, None] * shifts
    return torch.polar(torch.ones_like(angle), angle)


def _hann(n: int, like: Tensor) -> Tensor:
    # n + 2 samples without the two zero ends: every sample of a narrow block has a weight.
    return torch.hann_window(n + 2, periodic=False, device=like.device)[1:-1]


def _constant_maps(n_coils: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    return torch.full((n_coils, *shape), n_coils**-0.5, dtype=torch.complex64, device=device)


def _require_kspace(who: str, kspace: Tensor) -> None:
    if not kspace.is_complex():
        raise TypeError(f"{who}: k-space has dtype {kspace.dtype}, expected complex64 or complex128")
    if kspace.ndim != 3 or 0 in kspace.shape:
        raise ValueError(f"{who}: k-space has shape {tuple(kspace.shape)}, expected (coils, height, width)")


def _digest(kspace: Tensor, mask: Tensor, method: str, calibration: CalibrationScan | None) -> str:
    digest = hashlib.sha256(f"{_VERSION} {method} {tuple(kspace.shape)} {tuple(mask.shape)}".encode())
    digest.update(kspace.cpu().contiguous().to(torch.complex64).numpy().tobytes())
    digest.update(mask.cpu().contiguous().numpy().tobytes())
    if calibration is not None:
        digest.update(f"{tuple(calibration.kspace.shape)} {calibration.zoom}".encode())
        digest.update(calibration.kspace.cpu().contiguous().to(torch.complex64).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, kspace: Tensor) -> Tensor | None:
    try:
        maps = load_file(path).get("maps")
    except (FileNotFoundError, safetensors.SafetensorError):
        return None
    if maps is None or maps.shape != kspace.shape or maps.dtype != torch.complex64 or not maps.isfinite().all():
        return None
    return maps.to(kspace.device)


def _write(path: Path, maps: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Write a temporary file, then rename: two processes may store the same maps, none may read half a file.
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save({"maps": maps.cpu().contiguous()}))
        os.replace(name, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        # After a failure only: os.replace has moved the file.
        Path(name).unlink(missing_ok=True)
