"""Metrics of magnitude volumes as fastMRI defines them, and the metric card with their definitions."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Magnitudes = npt.NDArray[np.floating[Any]]

#: Scores of a volume: +1 if more is better, -1 if less is. ``residual`` is the only one without a reference.
METRICS: Mapping[str, int] = {"psnr": 1, "ssim": 1, "nmse": -1, "foreground_ssim": 1, "residual": -1}

#: Largest PSNR that selects a round or a parameter, in dB. Above it the image is its reference but for rounding.
MOST_DB = 100.0
#: Side of the uniform SSIM window in pixels.
SSIM_WINDOW = 7
#: Pixels brighter than this fraction of the volume's maximum belong to the foreground.
FOREGROUND_LEVEL = 0.05


def psnr(reference: Magnitudes | Tensor, image: Magnitudes | Tensor) -> float:
    r"""Peak signal-to-noise ratio in dB, :math:`10 \log_{10}(\max(r)^2 / \mathrm{mean}((r - x)^2))`.

    Maximum and mean are over the whole volume: bit-equal to ``fastmri.evaluate.psnr``. Equal volumes give infinity.

    Parameters
    ----------
    reference, image
        Magnitudes, shape ``(slices, height, width)``, float32 or float64.

    Raises
    ------
    TypeError
        If an input is not real floating point.
    ValueError
        If shapes differ, values are not finite, or the reference is constant.
    """
    truth, estimate = _volumes("psnr", reference, image)
    with np.errstate(divide="ignore"):
        return float(_skimage().peak_signal_noise_ratio(truth, estimate, data_range=truth.max()))


def ssim(reference: Magnitudes | Tensor, image: Magnitudes | Tensor) -> float:
    """Structural similarity: 7x7 uniform window, data range of the whole volume, mean over slices.

    Bit-equal to ``fastmri.evaluate.ssim``. Parameters and errors as in :func:`psnr`; slices of at least 7x7 pixels.
    """
    truth, estimate = _volumes("ssim", reference, image)
    data_range = truth.max()
    total = np.array([0])
    for i in range(truth.shape[0]):
        total = total + _skimage().structural_similarity(truth[i], estimate[i], data_range=data_range)
    return float((total / truth.shape[0])[0])


def nmse(reference: Magnitudes | Tensor, image: Magnitudes | Tensor) -> float:
    r"""Normalized mean squared error :math:`\|r - x\|^2 / \|r\|^2`, bit-equal to ``fastmri.evaluate.nmse``.

    Parameters and errors as in :func:`psnr`.
    """
    truth, estimate = _volumes("nmse", reference, image)
    return float(np.linalg.norm(truth - estimate) ** 2 / np.linalg.norm(truth) ** 2)


def foreground_ssim(reference: Magnitudes | Tensor, image: Magnitudes | Tensor) -> float:
    """SSIM averaged over the foreground, so that empty background neither raises nor lowers it.

    The SSIM map is that of :func:`ssim`. A pixel is foreground if the reference exceeds 5 % of the maximum of the
    volume and its window lies inside the image. Parameters and errors as in :func:`psnr`.

    Raises
    ------
    ValueError
        Also if there is no foreground.
    """
    truth, estimate = _volumes("foreground_ssim", reference, image)
    data_range = truth.max()
    border = SSIM_WINDOW // 2
    inside = (slice(border, -border), slice(border, -border))
    values = []
    for i in range(truth.shape[0]):
        _, local = _skimage().structural_similarity(truth[i], estimate[i], data_range=data_range, full=True)
        values.append(local[inside][truth[i][inside] > FOREGROUND_LEVEL * data_range])
    foreground = np.concatenate(values)
    if foreground.size == 0:
        raise ValueError(
            f"foreground_ssim: no pixel of the reference exceeds {FOREGROUND_LEVEL:.0%} of its maximum "
            f"inside the border of {border} pixels; expected an image with signal"
        )
    return float(foreground.mean(dtype=np.float64))


def has_foreground(reference: Tensor) -> bool:
    """Whether :func:`foreground_ssim` of this reference ``(slices, height, width)`` has a pixel to average over."""
    border = SSIM_WINDOW // 2
    inside = reference[:, border:-border, border:-border]
    return bool((inside > FOREGROUND_LEVEL * reference.amax()).any())


def metric_card(
    reference_kinds: Iterable[str], crops: Iterable[tuple[int, ...]], coil_maps: Iterable[str] = ()
) -> dict[str, str]:
    """Definitions of the metrics of a table, printed with every table.

    Parameters
    ----------
    reference_kinds
        All kinds of reference in the table, ``SampleMeta.reference_kind``.
    crops
        All image sizes after cropping, ``(height, width)``.
    coil_maps
        Methods that estimated the coil maps, if the card shall name them.
    """
    names = {
        "coil_combined": "coil-combined complex image of the full k-space before simulated noise",
        "attenuation": "attenuation in 1/mm over that of water (0.02), signed, before noise",
        "rss": "root sum of squares of the file, against |x| times the root sum of squares of the maps",
        "none": "none: residual on held-out k-space in units of the noise",
    }
    card = {
        "images": "magnitude; attenuation in CT",
        "data_range": "maximum of the reference volume",
        "psnr": "over the whole volume, in dB",
        "ssim": f"{SSIM_WINDOW}x{SSIM_WINDOW} uniform window, mean over slices",
        "nmse": "squared norm of the error over the squared norm of the reference, whole volume",
        "foreground_ssim": f"mean SSIM where the reference exceeds {FOREGROUND_LEVEL:.0%} of its maximum",
        "reference": "; ".join(names.get(kind, kind) for kind in sorted(set(reference_kinds))),
        "crop": "center, after magnitude, to " + ", ".join("x".join(map(str, c)) for c in sorted(set(crops))),
        "implementation": f"scikit-image {version('scikit-image')}, same calls as fastmri.evaluate",
    }
    if maps := sorted(set(coil_maps)):
        card["coil_maps"] = ", ".join(maps)
    return card


def _volumes(who: str, reference: Magnitudes | Tensor, image: Magnitudes | Tensor) -> tuple[Magnitudes, Magnitudes]:
    truth, estimate = _array(who, "reference", reference), _array(who, "image", image)
    if truth.shape != estimate.shape:
        raise ValueError(f"{who}: image has shape {estimate.shape}, expected the reference's {truth.shape}")
    if truth.min() == truth.max():
        raise ValueError(f"{who}: the reference is constant ({truth.flat[0]}), expected an image; leave it out")
    return truth, estimate


def _array(who: str, name: str, volume: Magnitudes | Tensor) -> Magnitudes:
    array = volume.detach().cpu().numpy() if isinstance(volume, Tensor) else np.asarray(volume)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{who}: {name} has dtype {array.dtype}, expected float32 or 64; pass magnitudes")
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"{who}: {name} has shape {array.shape}, expected (slices, height, width)")
    if not np.isfinite(array).all():
        raise ValueError(f"{who}: {name} holds NaN or infinite values, expected finite magnitudes")
    return array


def _skimage() -> Any:
    import skimage.metrics  # late: it imports scipy.stats, one second

    return skimage.metrics
