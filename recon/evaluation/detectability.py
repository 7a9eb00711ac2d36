"""Detectability of a known signal at a known place by the channelized Hotelling observer."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

#: Sparse difference-of-Gaussian channels [AB]_: ratio of the two widths, ratio of a channel to the one before, width
#: before the first one in cycles per pixel, number of channels.
_Q, _ALPHA, _SIGMA, _CHANNELS = 2.0, 2.0, 0.015, 3


def dog_channels(radius: Array) -> Array:
    r"""Sparse difference-of-Gaussian channels in space, :math:`e^{-f^2/2(Q\sigma_j)^2} - e^{-f^2/2\sigma_j^2}`.

    Three channels, as of human observers; their pass bands start at 0.03, 0.06 and 0.12 cycles per pixel.

    Parameters
    ----------
    radius
        Distance of every pixel from the place of the signal, in pixels, ``(height, width)``.

    Returns
    -------
        ``(channels, height, width)``.

    References
    ----------
    .. [AB] Abbey and Barrett, Human- and model-observer performance in ramp-spectrum noise: effects of regularization
       and object variability, J. Opt. Soc. Am. A 18, 2001.
    """

    def gaussian(sigma: float) -> Array:
        found: Array = 2 * math.pi * sigma**2 * np.exp(-2 * (math.pi * sigma * radius) ** 2)
        return found

    widths = [_SIGMA * _ALPHA**number for number in range(1, _CHANNELS + 1)]
    return np.stack([gaussian(_Q * sigma) - gaussian(sigma) for sigma in widths])


def hotelling_detectability(signal: Array, noise: Array, freedom: float) -> float | None:
    r"""Detectability :math:`d' = \sqrt{s^T S^{-1} s}` in channels [GB]_.

    Parameters
    ----------
    signal
        Mean of the channels with the signal minus without it, ``(channels,)``.
    noise
        Channels of noise images less their mean, ``(samples, channels)``.
    freedom
        Number by which the sum of squares of ``noise`` is divided for the covariance S.

    Returns
    -------
        None where the noise does not fill the channels.

    References
    ----------
    .. [GB] Gallas and Barrett, Validating the use of channels to estimate the ideal linear observer, J. Opt. Soc. Am. A
       20, 2003.
    """
    covariance = noise.T @ noise / freedom
    # In units of every channel's noise: channels of other sizes are no bad condition.
    scale = np.sqrt(np.diag(covariance))
    if not (scale > 0).all() or np.linalg.cond(covariance / np.outer(scale, scale)) > 1e10:
        return None
    square = float(signal / scale @ np.linalg.solve(covariance / np.outer(scale, scale), signal / scale))
    return math.sqrt(square) if square > 0 else 0.0
