"""A random phantom of a beating heart: frames of a fictitious chest in short-axis view."""

import math

import torch
from torch import Tensor

from .painting import Canvas, Field, coverage, ellipse, pixel_centers, resolved

#: Signal and texture of each tissue, as in a balanced steady-state scan: bright blood, dark lungs.
_TISSUES = {
    "fat": (0.75, 0.08),
    "muscle": (0.30, 0.12),
    "lung": (0.05, 0.30),
    "liver": (0.38, 0.10),
    "wall": (0.34, 0.08),
    "blood": (0.90, 0.03),
}
#: End of the systole in parts of the beat.
_SYSTOLE = 0.375


def beating_heart(n_frames: int, shape: tuple[int, int], seed: int, z: float = 0.0) -> Tensor:
    """Frames of one heart beat in one slice; the first frame is the end of the diastole.

    The ventricles contract and their walls thicken; chest and phase stand still. The frame after the last is the first.

    Parameters
    ----------
    n_frames
        Frames, evenly spaced over the beat.
    shape
        ``(height, width)``. One seed gives the same heart at every size.
    seed
        Seed of the anatomy.
    z
        Position of the slice between the base, -1, and the apex, 1, of the heart.

    Returns
    -------
        complex64 ``(n_frames, height, width)`` of smooth phase, largest magnitude 1, exactly 0 outside the chest.

    Raises
    ------
    ValueError
        If there is no frame, or the slice is outside the heart.
    """
    if n_frames < 1 or not -1 < z < 1:
        raise ValueError(f"beating_heart: {n_frames} frames, z {z}, expected at least 1 and between -1 and 1")
    generator = torch.Generator().manual_seed(seed)
    anatomy = (2 * torch.rand(8, generator=generator) - 1).tolist()
    texture, shading = Field(generator, 22.0, 6.0), Field(generator, 1.2, 0.5)
    grain, bias, slope = texture.at(z, shape)[0], *shading.at(z, shape)
    frames = []
    for frame in range(n_frames):
        signal, strength, inside = _frame(shape, anatomy, z, _contraction(frame / n_frames))
        frames.append(signal * (1 + strength * grain) * (1 + 0.08 * bias) * inside)
    magnitude = torch.stack(frames).clamp_min(0)
    image: Tensor = torch.polar(magnitude / magnitude.max(), (0.6 * slope).expand_as(magnitude))
    return image


def _contraction(time: float) -> float:
    """From 0 at the end of the diastole to 1 at that of the systole, which lasts a part of the beat."""
    if time < _SYSTOLE:
        return 0.5 - 0.5 * math.cos(math.pi * time / _SYSTOLE)
    return 0.5 + 0.5 * math.cos(math.pi * (time - _SYSTOLE) / (1 - _SYSTOLE))


def _frame(shape: tuple[int, int], anatomy: list[float], z: float, contraction: float) -> tuple[Tensor, Tensor, Tensor]:
    """Signal, texture and coverage of one frame; ``anatomy`` are numbers in (-1, 1)."""
    a = anatomy
    y, x = pixel_centers((2 * shape[0], 2 * shape[1]))
    canvas = Canvas((2 * shape[0], 2 * shape[1]), _TISSUES)
    chest = ellipse(x, y, 0.0, 0.0, 0.88 + 0.06 * a[0], 0.68 + 0.06 * a[1], 0.0)
    canvas.paint("fat", chest)
    canvas.paint("muscle", chest - 0.09)
    for side in (-1, 1):
        canvas.paint("lung", ellipse(x, y, 0.42 * side, 0.02, 0.27, 0.42, 0.1 * side))
    canvas.paint("liver", ellipse(x, y, -0.3 + 0.05 * a[2], 0.42, 0.34, 0.2, -0.3))
    size = (0.24 + 0.03 * a[3]) * math.sqrt(1 - 0.6 * ((z + 1) / 2) ** 2)
    center_x, center_y = 0.10 + 0.05 * a[4], -0.02 + 0.05 * a[5] + 0.02 * contraction
    outer, inner = size * (1.0 - 0.06 * contraction), size * (0.68 - (0.26 + 0.06 * a[6]) * contraction)
    right_x, right = center_x - 1.05 * size, size * (0.95 - 0.22 * contraction)
    canvas.paint("wall", ellipse(x, y, right_x, center_y, right, 1.1 * right, 0.3 * a[7]))
    canvas.paint("blood", ellipse(x, y, right_x, center_y, right - 0.05, 1.1 * right - 0.05, 0.3 * a[7]))
    canvas.paint("wall", ellipse(x, y, center_x, center_y, outer, 1.05 * outer, 0.0))
    canvas.paint("blood", ellipse(x, y, center_x, center_y, inner, 1.05 * inner, 0.0))
    return resolved(canvas.layers, coverage(chest, 0.008))
