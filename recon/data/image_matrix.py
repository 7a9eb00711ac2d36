"""Magnitude images at a smaller matrix, by cropping their k-space."""

import torch
from torch import Tensor

from physics import fft2c, ifft2c

#: Air of at most this part of a side may be added so that the source has twice the wanted matrix.
MARGIN = 0.1
#: The outer part of the kept k-space that is attenuated, and the factor at its edge.
TAPER, AT_EDGE = 0.5, 0.4


def largest_matrix(shape: tuple[int, int]) -> int:
    """Largest square matrix of :func:`reduce_matrix` for images of a shape: half the source, with `MARGIN`."""
    return int((1 + MARGIN) * max(shape) / 2)


def reduce_matrix(images: Tensor, shape: tuple[int, int]) -> Tensor:
    r"""Magnitude images at half their matrix or less: the center of their k-space, at the same field of view.

    Magnitude images come from a scanner which filtered or zero-filled the outer k-space. Simulated at their own
    matrix, the outer lines would be empty, and every method would look better than on a measurement.

    Air is added around the image until its sides have the ratio of `shape` and at least twice its size. The outer
    half of the kept k-space is attenuated, by a cosine that ends at 0.4, against ringing at edges.

    Parameters
    ----------
    images
        Real, from 0, shape ``(..., height, width)``.
    shape
        ``(height, width)`` wanted.

    Returns
    -------
        float32, shape ``(..., *shape)``, from 0: negative lobes are clamped. A flat image keeps its value.

    Raises
    ------
    ValueError
        If the source has less than twice the matrix by more than `MARGIN`.
    """
    padded = _on_canvas(images.to(torch.float32), shape)
    canvas = padded.shape[-2:]
    rows, columns = (slice(big // 2 - n // 2, big // 2 - n // 2 + n) for big, n in zip(canvas, shape, strict=True))
    kspace = fft2c(padded.to(torch.complex64))[..., rows, columns]
    kspace = kspace * _taper(shape[0])[:, None] * _taper(shape[1])
    scale = (shape[0] * shape[1] / (canvas[0] * canvas[1])) ** 0.5
    reduced: Tensor = scale * ifft2c(kspace).real
    return reduced.clamp_min(0)


def reduce_labels(labels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Label maps that lie on the images of :func:`reduce_matrix`: the label of most of a pixel, of equals the lowest.

    Parameters
    ----------
    labels
        Integers from 0, shape ``(..., height, width)``; 0 is the background.
    shape
        ``(height, width)`` wanted.

    Returns
    -------
        The same type, shape ``(..., *shape)``.

    Raises
    ------
    ValueError
        As :func:`reduce_matrix`.
    """
    padded = _on_canvas(labels, shape)
    # The center of k-space keeps the middle pixel n // 2 in place, so pixels are counted from their middles.
    rows, columns = (_overlap(big, n, n // 2, big // 2) for big, n in zip(padded.shape[-2:], shape, strict=True))
    return _majority(padded, rows, columns)


def resize_labels(labels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Label maps at another size of the same field of view: the label of most of a pixel, of equals the lowest.

    Parameters and result are those of :func:`reduce_labels`, for any size.
    """
    rows, columns = (_overlap(big, n, -0.5, -0.5) for big, n in zip(labels.shape[-2:], shape, strict=True))
    return _majority(labels, rows, columns)


def _on_canvas(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Images with zeros around, at the ratio of sides of a matrix and at least twice its size."""
    height, width = images.shape[-2:]
    if min(shape) < 1:
        raise ValueError(f"reduce_matrix: shape is {shape}, expected positive")
    factor = max(height / shape[0], width / shape[1])
    if (1 + MARGIN) * factor < 2:
        raise ValueError(
            f"reduce_matrix: matrix {shape} of images of {height}x{width}, expected half the source or less, "
            f"at most {largest_matrix((height, width))}"
        )
    factor = max(factor, 2.0)
    canvas = tuple(max(round(factor * wanted), side) for wanted, side in zip(shape, (height, width), strict=True))
    padded = images.new_zeros((*images.shape[:-2], *canvas))
    top, left = canvas[0] // 2 - height // 2, canvas[1] // 2 - width // 2
    padded[..., top : top + height, left : left + width] = images
    return padded


def _overlap(source: int, wanted: int, of_wanted: float, of_source: float) -> Tensor:
    """Length of each source pixel in each wanted one, ``(wanted, source)``; two positions that fall on each other."""
    factor = source / wanted
    middle = of_source + (torch.arange(wanted, dtype=torch.float64) - of_wanted) * factor
    low, high = (middle - factor / 2)[:, None], (middle + factor / 2)[:, None]
    pixel = torch.arange(source, dtype=torch.float64)
    return (torch.minimum(high, pixel + 0.5) - torch.maximum(low, pixel - 0.5)).clamp_min(0)


def _majority(labels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    most, found = torch.zeros(1), torch.zeros(1)
    for label in range(int(labels.max()) + 1 if labels.numel() else 0):
        area = rows @ (labels == label).double() @ columns.mT
        # Rounding must not decide between equal parts.
        found = torch.where(area > most + 1e-6, label, found)
        most = torch.maximum(most, area)
    return found.expand(*labels.shape[:-2], len(rows), len(columns)).to(labels.dtype)


def _taper(n: int) -> Tensor:
    distance = (torch.arange(n) - n // 2).abs() / (n / 2)
    outer = ((distance - (1 - TAPER)) / TAPER).clamp(0, 1)
    taper: Tensor = AT_EDGE + (1 - AT_EDGE) * (1 + torch.cos(torch.pi * outer)) / 2
    return taper
