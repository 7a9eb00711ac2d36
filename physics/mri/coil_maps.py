"""Coil sensitivity maps: simulated, or estimated from the fully sampled center of k-space."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .cartesian import combine_coils
from .multi_coil import root_sum_of_squares
from .noise import mix_coils
from .sampling import calibration_block, samples_center
from .stored_maps import read_maps, rounded, stored_name, write_maps

#: Largest number of entries of the matrices of pixels that ESPIRiT holds at a time: 64 MB in single precision.
_ENTRIES = 2**23


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
    rows, columns = (_middle(slice(0, n), width) for n, width in zip(kspace.shape[-2:], widths, strict=True))
    return _espirit(_Calibration.cut("espirit_maps", kspace, rows, columns), kernel_width, threshold)


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
    return _low_resolution(_Calibration.of("low_resolution_maps", kspace, mask))


def with_image_phase(maps: Tensor, kspace: Tensor, mask: Tensor) -> Tensor:
    r"""Maps times the phase of the low-resolution image, :math:`S_c e^{i \varphi}`; images become nearly real.

    :math:`\varphi` is the phase of the coil-combined image of the calibration region. The maps describe the same scan:
    :math:`S_c x = (S_c e^{i \varphi}) (e^{-i \varphi} x)`. A magnitude image is the same. Receiver phase, an echo off
    center and slow field changes differ from scan to scan; they leave the image, so that a network trained at one
    site meets images of the same kind at another.

    Parameters
    ----------
    maps
        Coil maps, complex, shape ``(coils, height, width)``, or of the center rows of the image alone.
    kspace, mask
        As for :func:`low_resolution_maps`.

    Returns
    -------
        Shape, magnitude and dtype of the maps. Pixels without signal keep the phase of their maps.
    """
    return _with_phase(maps, _Calibration.of("with_image_phase", kspace, mask, maps.shape[-2]))


@dataclass(frozen=True)
class _Calibration:
    """The fully sampled center of k-space, on which all estimates depend, and the pixels of the maps.

    ``block`` is complex ``(coils, rows, columns)``; ``rows`` and ``columns`` its place in k-space of the ``size``
    ``(height, width)``. Maps have the ``height`` center rows of an image of the given ``shape`` and all of its columns;
    ``zoom`` is the field of view of this image over that of k-space.
    """

    block: Tensor
    rows: slice
    columns: slice
    size: tuple[int, int]
    shape: tuple[int, int]
    height: int
    zoom: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def cut(cls, who: str, kspace: Tensor, rows: slice, columns: slice, height: int | None = None) -> "_Calibration":
        block, shape = kspace[:, rows, columns], (kspace.shape[-2], kspace.shape[-1])
        if not block.isfinite().all():
            raise ValueError(f"{who}: the calibration region holds NaN or infinite samples; leave this k-space out")
        if height is not None and not 1 <= height <= shape[0]:
            raise ValueError(f"{who}: {height} rows of maps, expected 1 to {shape[0]}, the rows of k-space")
        return cls(block, rows, columns, shape, shape, height or shape[0])

    @classmethod
    def of(cls, who: str, kspace: Tensor, mask: Tensor, height: int | None = None) -> "_Calibration":
        """The center that a mask samples fully, at most 24 wide."""
        _require_kspace(who, kspace)
        return cls.cut(who, kspace, *_calibration_region(kspace, mask), height)

    @property
    def double(self) -> Tensor:
        """The block in double precision, in which squares of k-space neither underflow nor overflow."""
        return self.block.to(torch.complex128)

    @property
    def place(self) -> str:
        """All but the samples."""
        return f"{self.rows.start} {self.columns.start} {self.size} {self.shape} {self.height} {self.zoom}"

    @property
    def pixels(self) -> tuple[Tensor, Tensor]:
        """Positions of rows and columns of the maps from the middle, over the field of view of k-space, float64."""
        first = (self.shape[0] - self.height) // 2 - self.shape[0] // 2
        rows = torch.arange(first, first + self.height, device=self.block.device, dtype=torch.float64)
        columns = torch.arange(self.shape[1], device=self.block.device, dtype=torch.float64) - self.shape[1] // 2
        return rows * (self.zoom[0] / self.shape[0]), columns * (self.zoom[1] / self.shape[1])

    def image(self) -> Tensor:
        """Coil images of the block, tapered by a Hann window, complex128."""
        block = self.double * _hann(self.block.shape[-2], self.block)[:, None] * _hann(self.block.shape[-1], self.block)
        turns = [
            _fourier(positions, torch.arange(part.start, part.stop, device=block.device) - n // 2)
            for positions, part, n in zip(self.pixels, (self.rows, self.columns), self.size, strict=True)
        ]
        image: Tensor = turns[0] @ block @ turns[1].mT / (self.size[0] * self.size[1]) ** 0.5
        return image


def _low_resolution(calibration: _Calibration) -> Tensor:
    images = calibration.image()
    rss = root_sum_of_squares(images)
    constant = _constant_maps(calibration)
    return torch.where(rss > 0, (images / torch.where(rss > 0, rss, 1)).to(torch.complex64), constant)


def _with_phase(maps: Tensor, calibration: _Calibration) -> Tensor:
    image = combine_coils(calibration.image(), maps.to(torch.complex128))
    return torch.where(image.abs() > 0, maps * image.sgn().to(maps.dtype), maps)


@dataclass(frozen=True, eq=False)
class CalibrationScan:
    """k-space of the same coils from another scan, for the coil maps of one with too few lines at the center.

    ``kspace`` is complex ``(coils, height, width)``, of which the middle, at most 24 wide, is used. ``zoom`` is the
    field of view of the scan over that of the calibration scan, along height and width; both have one center.
    """

    kspace: Tensor
    zoom: tuple[float, float] = (1.0, 1.0)

    def _for(self, shape: tuple[int, int], height: int) -> _Calibration:
        rows, columns = (_middle(slice(0, n), 24) for n in self.kspace.shape[1:])
        found = _Calibration.cut("CalibrationScan", self.kspace, rows, columns)
        return replace(found, shape=shape, height=height, zoom=self.zoom)


def estimate_maps(
    kspace: Tensor,
    mask: Tensor,
    method: str = "espirit",
    maps_folder: Path | None = None,
    calibration: CalibrationScan | None = None,
    *,
    height: int | None = None,
    compression: Tensor | None = None,
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
        Folder of stored maps, one safetensors file for each SHA-256 of calibration samples, their place and the
        method. Maps whose file is missing or damaged are estimated and stored.
    calibration
        Scan to estimate the maps from, by ESPIRiT; None: the measured samples. With it the mask may leave out the
        center, then the phase stays that of the calibration scan.
    height
        Number of rows of the maps, the center of the image; None: all. With an oversampled readout the rows that
        are not shown need no maps. They still calibrate: an object that reaches beyond the rows that are shown
        spoils maps that are estimated after its ends were cut off (measured: errors of 20 % at the edge).
    compression
        Matrix of :func:`coil_compression`, ``(virtual coils, coils)``: the maps are those of virtual coils, and their
        root sum of squares is the part of the coil images that they keep, at least a half. So the image is as bright
        as that of all coils (measured without it: up to 10 dB lost where the coils left out are near).

    Returns
    -------
        complex64, shape ``(coils, height, width)``, unit root sum of squares, see :func:`with_image_phase`. Values
        are those of half precision, as stored: stored and new maps are equal, and the error, 0.03 %, is far below
        that of the estimate.

    Raises
    ------
    ValueError
        If the method is unknown or the mask does not sample the center of k-space.
    OSError
        If the maps cannot be stored.
    """
    if method not in MAP_ESTIMATES:
        raise ValueError(f"estimate_maps: no method {method!r}, expected one of {', '.join(MAP_ESTIMATES)}")
    _require_kspace("estimate_maps", kspace)
    mask = mask.to(kspace.device) != 0
    own = None
    if calibration is None or samples_center(torch.atleast_2d(mask)):
        own = _Calibration.of("estimate_maps", kspace, mask, height)
    source = own
    if calibration is not None:
        method = "espirit"
        source = calibration._for((kspace.shape[-2], kspace.shape[-1]), height or kspace.shape[-2])
    assert source is not None
    if maps_folder is None:
        return _estimate(source, own, method, compression).to(kspace.device)
    used = [part for part in (source, own) if part is not None]
    samples = [part.block for part in used] + ([] if compression is None else [compression])
    path = maps_folder / stored_name(f"{method} {[part.place for part in used]}", *samples)
    n_coils = len(kspace) if compression is None else len(compression)
    maps = read_maps(path, (n_coils, source.height, source.shape[1]))
    if maps is None:
        maps = _estimate(source, own, method, compression)
        write_maps(path, maps)
    return maps.to(kspace.device)


def _estimate(source: _Calibration, own: _Calibration | None, method: str, compression: Tensor | None) -> Tensor:
    """Maps from the samples of ``source`` with the phase of the image of ``own``."""
    if compression is None:
        maps = MAP_ESTIMATES[method](source)
        return rounded(maps if own is None else _with_phase(maps, own))
    maps = MAP_ESTIMATES[method](_mixed(source, compression))
    if own is not None:
        maps = _with_phase(maps, _mixed(own, compression))
    images = source.image()
    every = root_sum_of_squares(images)
    kept = root_sum_of_squares(mix_coils(images, compression.to(images.device)))
    part = torch.where(every > 0, kept / torch.where(every > 0, every, 1), 1).clamp_min(0.5)
    return rounded(maps * part.to(torch.float32))


def _mixed(calibration: _Calibration, compression: Tensor) -> _Calibration:
    return replace(calibration, block=mix_coils(calibration.double, compression.to(calibration.block.device)))


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


def _espirit(calibration: _Calibration, kernel_width: int = 6, threshold: float = 0.02) -> Tensor:
    block = calibration.double
    n_coils = len(block)
    kernel = tuple(min(kernel_width, n, max(3, -(-n // 3))) for n in block.shape[1:])
    windows = block.unfold(1, kernel[0], 1).unfold(2, kernel[1], 1)
    matrix = windows.permute(1, 2, 0, 3, 4).reshape(-1, n_coils * kernel[0] * kernel[1])
    # The eigenvalues are squared singular values: double precision keeps those near the threshold.
    squared, vectors = torch.linalg.eigh(matrix.mH @ matrix)
    kernels = vectors[:, squared > threshold**2 * squared[-1]].mH
    if squared[-1] <= 0 or len(kernels) == 0:
        return _constant_maps(calibration)
    coils = block.reshape(n_coils, -1)
    principal = torch.linalg.eigh(coils @ coils.mH)[1][:, -1]
    principal = principal * principal[principal.abs().argmax()].conj().sgn()
    maps = torch.cat([_dominant(part) for part in _image_operator(kernels.reshape(-1, n_coils, *kernel), calibration)])
    angle = (maps @ principal.conj().to(maps.dtype)).angle()
    turned: Tensor = maps * torch.polar(torch.ones_like(angle), -angle)[..., None]
    return turned.permute(2, 0, 1).contiguous()


def _dominant(matrices: Tensor) -> Tensor:
    """Eigenvector of the largest eigenvalue of Hermitian matrices, ``(..., n, n) -> (..., n)``."""
    vector: Tensor = torch.linalg.eigh(matrices)[1][..., -1]
    return vector


def _image_operator(kernels: Tensor, calibration: _Calibration) -> Iterator[Tensor]:
    r"""Matrix :math:`\sum_k a_k a_k^H` of every pixel, with :math:`a_k` the image of kernel k.

    A product of images is a convolution of their spectra, so the sum is the Fourier series of the kernels'
    autocorrelation, with (2 * width - 1) terms per axis for any image size. Yields some rows of the image at a time,
    complex64 ``(rows, width, coils, coils)``.
    """
    height, width = kernels.shape[-2:]
    padded = torch.fft.fft2(kernels, s=(2 * height - 1, 2 * width - 1))
    product = torch.einsum("kiyx,kjyx->ijyx", padded, padded.conj())
    correlation = torch.fft.fftshift(torch.fft.ifft2(product), dim=(-2, -1)) / (height * width)
    rows, columns = (
        _fourier(positions, torch.arange(1 - reach, reach, device=kernels.device))
        for positions, reach in zip(calibration.pixels, (height, width), strict=True)
    )
    series = torch.einsum("ijyx,qx->ijyq", correlation, columns)
    for part in rows.split(max(1, _ENTRIES // (len(columns) * kernels.shape[1] ** 2))):
        yield torch.einsum("py,ijyq->pqij", part, series).to(torch.complex64)


def _fourier(positions: Tensor, frequencies: Tensor) -> Tensor:
    """``exp(2 pi i r k)`` for positions r in fields of view and integer frequencies k, complex128."""
    angle = 2 * torch.pi * positions[:, None] * frequencies
    return torch.polar(torch.ones_like(angle), angle)


def _hann(n: int, like: Tensor) -> Tensor:
    # n + 2 samples without the two zero ends: every sample of a narrow block has a weight.
    return torch.hann_window(n + 2, periodic=False, device=like.device)[1:-1]


def _constant_maps(calibration: _Calibration) -> Tensor:
    shape = (len(calibration.block), calibration.height, calibration.shape[1])
    return torch.full(shape, shape[0] ** -0.5, dtype=torch.complex64, device=calibration.block.device)


def _require_kspace(who: str, kspace: Tensor) -> None:
    if not kspace.is_complex():
        raise TypeError(f"{who}: k-space has dtype {kspace.dtype}, expected complex64 or complex128")
    if kspace.ndim != 3 or 0 in kspace.shape:
        raise ValueError(f"{who}: k-space has shape {tuple(kspace.shape)}, expected (coils, height, width)")


#: Methods of :func:`estimate_maps` by name.
MAP_ESTIMATES: dict[str, Callable[[_Calibration], Tensor]] = {"espirit": _espirit, "low_resolution": _low_resolution}
