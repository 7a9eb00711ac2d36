"""Whether the reconstruction in a k-space file is an image of its k-space."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from physics import calibration_block, fft2c, ifft2c, low_resolution_maps, root_sum_of_squares, samples_center

from ..errors import data_error
from .mri_volume import KSpaceVolume, fitting_crop
from .sample import center_crop

#: Least correlation of a reconstruction with k-space, over that of undersampling alone, and the gain by which another
#: orientation is told from this one: full sampling, at least a fifth, less. Measured on eleven scans: 0.985 and more
#: with a Hann filter; 0.93 to 4x, without a gain; 0.79 at 8x, with 0.02. Other people reach 0.72.
_FULL, _UNDERSAMPLED, _FEW = (0.97, 0.015), (0.9, 0.02), (0.6, 0.05)
#: Largest loss of correlation of a zero-filled image, over that of undersampling alone. Full references: 0.75 to 5.
_ZERO_FILLED = 0.1
#: Least loss of correlation by undersampling at which a zero-filled reference matters.
_LOSS = 1e-5
#: Least energy of a slice to be compared, over that of the brightest one: dim slices are noise.
_BRIGHT = 0.25
#: Correlation of predicted and measured k-space beside the calibration lines, and their scale: an image of which both
#: are less is of another scan. Measured to 8x: 0.43 and 0.7 or more, 0.11 and 0.42 for a sphere with 16 coils, whose
#: maps are poor at 5 lines; other scans 0.29 and 0.18 at most.
_FOREIGN = 0.25
#: Least part of the energy of the whole image in the displayed one at which k-space can be predicted from it.
_SHOWN = 0.7


def check_reference(volume: KSpaceVolume, energy: Sequence[float], is_used: bool = True) -> list[str]:
    """Compare the reconstruction in a file with its k-space: values, scale, orientation, position, origin.

    Three slices are reconstructed by root sum of squares: a bright one, but not the middle one, which stays where it
    is if the slices are stored in reverse, and the first and last ones with signal.

    Parameters
    ----------
    volume
        A file with a reconstruction.
    energy
        Energy of the k-space of every slice.
    is_used
        Whether it is the reference; if not, its scale does not matter.

    Returns
    -------
        What does not fit, one line each, with the file's path.

    Raises
    ------
    DataError
        If the reconstruction is not finite, all zero, or a reference on another grid than k-space.
    """
    key, path = volume.rss_key, volume.path
    empty = [index for index in range(len(energy)) if not volume.read_rss(index).any()]
    if len(empty) == len(energy):
        raise data_error(path, key, "only zeros", "images", "reconstruct them again, or use another reference")
    lines = []
    if dark := [index for index in empty if energy[index] > 0]:
        found = f"only zeros ({len(dark)} of {len(energy)} slices)"
        lines.append(str(data_error(path, f"{key}[{dark[0]}]", found, "images", "reconstruct them again")))
    shown = [index for index in range(len(energy)) if index not in empty and energy[index] > 0]
    if shown:
        lines += _first_finding(volume, _compared(shown, energy), is_used)
    return lines


def _compared(shown: Sequence[int], energy: Sequence[float]) -> list[int]:
    brightest = max(shown, key=lambda index: (2 * index + 1 != len(energy), energy[index]))
    bright = [index for index in shown if energy[index] >= _BRIGHT * energy[brightest]]
    return list(dict.fromkeys((brightest, bright[0], bright[-1])))


def _first_finding(volume: KSpaceVolume, slices: Sequence[int], is_used: bool) -> list[str]:
    for index in slices:
        if lines := _compare(volume, index, is_used):
            return lines
    return []


def _compare(volume: KSpaceVolume, index: int, is_used: bool) -> list[str]:
    size, available = (volume.shape[2], volume.shape[3]), volume.available
    crop = fitting_crop(size, volume.rss_shape or volume.crop_shape)
    kspace, stored = volume.read_slice(index) * available, volume.read_rss(index).double()
    whole = root_sum_of_squares(ifft2c(kspace)).double()
    reference, image = center_crop(stored, crop), center_crop(whole, crop)
    shown = float(image.square().sum() / whole.square().sum())
    own, perfect, (least, margin) = _correlation(reference, image), 1.0, _FULL
    if volume.undersampled:
        # Undersampling blurs and aliases: no more than it takes from the reference itself.
        mask = center_crop(available.expand(size), crop)
        perfect = _correlation(reference, ifft2c(fft2c(reference + 0j) * mask).abs())
        least, margin = _FEW if float(available.float().mean()) < 0.2 else _UNDERSAMPLED
    key = f"{volume.rss_key}[{index}]"
    # No turn gains so much on a perfect fit: sound files are checked fast.
    name, best = ("", own) if own > 1 - margin else _best_fit(reference, image)
    factor = float((reference * image).sum() / image.square().sum())
    low, high = (0.5, 2.0) if volume.undersampled else (0.8, 1.25)
    if perfect < 1 - _LOSS and 1 - own < _ZERO_FILLED * (1 - perfect):
        found, expected = "the zero-filled image of the undersampled kspace", "one of all lines"
        advice = "networks would learn its aliasing or blur: remove it, or write that of the full scan"
    elif best > own + margin and best > least * perfect:
        found, expected, advice = f"an image that is {name}", "it as kspace shows it", "turn or shift it back"
    elif own < least * perfect and _fits_on_another_grid(stored, whole, volume.crop_shape, least * perfect):
        found = f"{stored.shape[0]}x{stored.shape[1]} interpolated pixels"
        expected = f"{volume.crop_shape[0]}x{volume.crop_shape[1]}, those of kspace"
        raise data_error(volume.path, key, found, expected, "reconstruct it again without interpolation")
    elif own < least * perfect:
        found, expected = f"an image that correlates {own:.2f} with kspace", f"at least {least * perfect:.2f}"
        advice = "is it of another scan? reconstruct it again"
    elif volume.undersampled and shown > _SHOWN and _is_foreign(stored, kspace, available.expand(size)):
        found = "an image without the fine structures of kspace"
        expected, advice = "one that predicts the lines beside its center", "is it of another scan?"
    elif is_used and not low < factor < high:
        found, expected = f"values {factor:.3g} times those of kspace", "the scale of its root sum of squares"
        advice = f"divide it by {factor:.3g}"
    else:
        return []
    return [str(data_error(volume.path, key, found, expected, advice))]


def _fits_on_another_grid(stored: Tensor, whole: Tensor, crop: tuple[int, int], least: float) -> bool:
    """Whether a reconstruction shows the displayed field of view with another number of pixels."""
    if tuple(stored.shape) == crop:
        return False
    resampled = interpolate(stored[None, None], crop, mode="bilinear", antialias=True)[0, 0]
    # Interpolation of complex images and of magnitudes differ a little.
    return _correlation(resampled, center_crop(whole, crop)) > 0.97 * least


def _is_foreign(stored: Tensor, kspace: Tensor, mask: Tensor) -> bool:
    """Whether an image, seen by the coils, has other k-space than was measured beside the calibration lines.

    Aliasing does not matter: the prediction has the same.
    """
    if not samples_center(mask):
        return False
    block, center = calibration_block(mask), torch.zeros_like(mask)
    center[block[0] if len(block) == 2 else slice(None), block[-1]] = True
    predicted = fft2c(low_resolution_maps(kspace, mask) * _padded(stored, (mask.shape[0], mask.shape[1])))
    if not (scale := float((predicted * center).norm())):
        return False
    predicted *= (mask & ~center) * float((kspace * center).norm()) / scale
    measured = kspace * (mask & ~center)
    product, size = float((predicted.conj() * measured).sum().real), float(predicted.norm())
    other = float(measured.norm())
    return size * other > 0 and product < _FOREIGN * size * other and product < _FOREIGN * size**2


def _padded(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """An image in the middle of zeros; cut where it is larger."""
    padded = image.new_zeros(shape)
    inner = tuple(min(a, b) for a, b in zip(image.shape, shape, strict=True))
    center_crop(padded, inner).copy_(center_crop(image, inner))
    return padded


def _best_fit(reference: Tensor, image: Tensor) -> tuple[str, float]:
    """Orientation and shift at which the reference fits best, in words, and the correlation there."""
    turns = {"": (), "upside down": (0,), "left-right mirrored": (1,), "rotated by 180 degrees": (0, 1)}
    best, name = -1.0, ""
    for transposed in (False, True) if image.shape[0] == image.shape[1] else (False,):
        for turn, axes in turns.items():
            values = _correlations(torch.flip(reference.mT if transposed else reference, axes), image)
            if float(values.max()) > best + 1e-3:
                best = float(values.max())
                at = divmod(int(values.argmax()), values.shape[1])
                rows, columns = (size - n if n > size // 2 else -n for n, size in zip(at, values.shape, strict=True))
                # A flip moves an image of even size by one pixel.
                moved = max(abs(rows), abs(columns)) > (1 if turn or transposed else 0)
                shift = f"shifted by {rows} rows and {columns} columns" if moved else ""
                name = ", ".join(filter(None, ("transposed" if transposed else "", turn, shift)))
    return name, best


def _correlation(reference: Tensor, image: Tensor) -> float:
    """Correlation coefficient of two images."""
    a, b = reference - reference.mean(), image - image.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-300))


def _correlations(reference: Tensor, image: Tensor) -> Tensor:
    """Correlation coefficient of two images for every circular shift of the reference."""
    a, b = reference - reference.mean(), image - image.mean()
    product: Tensor = torch.fft.irfft2(torch.fft.rfft2(a).conj() * torch.fft.rfft2(b), s=a.shape)
    product /= (a.norm() * b.norm()).clamp_min(1e-300)
    return product
