"""Sampling of a moving object: a mask along the phase axis for every frame."""

from collections.abc import Callable

import torch
from torch import Tensor

from .sampling import Seed, equispaced_mask, random_mask

#: Draws a mask of every frame, bool ``(frames, width)``, from frames, width, acceleration, center fraction and seed.
FrameSampling = Callable[[int, int, float, float, tuple[int, ...]], Tensor]


def random_frames(
    n_frames: int, width: int, acceleration: float, center_fraction: float, seed: tuple[int, ...]
) -> Tensor:
    """Another :func:`random_mask` for each frame, all with the same center; bool ``(n_frames, width)``."""
    seeds: list[Seed] = [(*seed, frame) for frame in range(n_frames)]
    return torch.stack([random_mask(width, acceleration, center_fraction, one).mask for one in seeds])


def shifted_frames(
    n_frames: int, width: int, acceleration: float, center_fraction: float, seed: tuple[int, ...]
) -> Tensor:
    """An :func:`equispaced_mask` that moves by one column from frame to frame, and the center [T]_.

    As many frames as the acceleration sample every column. The acceleration must be a whole number.

    Returns
    -------
        Bool, ``(n_frames, width)``.

    References
    ----------
    .. [T] Tsao, Boesiger and Pruessmann, k-t BLAST and k-t SENSE: Dynamic MRI with high frame rate exploiting
       spatiotemporal correlations, Magn. Reson. Med. 50, 2003.
    """
    drawn = equispaced_mask(width, acceleration, center_fraction, seed)
    step, column = int(acceleration), torch.arange(width)
    offset = int(drawn.mask.nonzero()[0]) % step
    first = (width - drawn.center_lines + 1) // 2
    center = (column >= first) & (column < first + drawn.center_lines)
    return torch.stack([((column - offset - frame) % step == 0) | center for frame in range(n_frames)])


#: Sampling families of frames by the name used in manifests.
FRAME_SAMPLINGS: dict[str, FrameSampling] = {"frame_random": random_frames, "frame_shifted": shifted_frames}
