"""The slices of a site that its report shows: those where the method is best, worst and in between."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recon import psnr

_Images = np.ndarray[Any, Any]


def pictured_slices(
    volumes: Sequence[str],
    images: Mapping[str, Sequence[_Images]],
    references: Sequence[_Images | None],
    method: str,
    frames: Sequence[int] = (),
    first: Mapping[str, tuple[int, int]] | None = None,
) -> list[dict[str, Any]]:
    """Slices for the report, as :func:`recon.write_report` takes them.

    They are the slices with the median, lowest and highest PSNR of the method, each slice with its own maximum; without
    any reference the middle slices of the first, middle and last volume.

    Parameters
    ----------
    volumes
        Names of the volumes.
    images
        Magnitudes of every arm, one array ``(slices, height, width)`` per volume.
    references
        The same of the references; None for a volume without.
    method
        The arm whose PSNR counts.
    frames
        Frames of each volume, which follow each other within its slices; empty: none has any.
    first
        Slices to show before them, by name: numbers of volume and slice.
    """
    chosen = _by_score(images[method], references)
    if not chosen:
        middle, last = len(volumes) // 2, len(volumes) - 1
        found = {"first volume": 0, "middle volume": middle, "last volume": last}
        chosen = {name: (volume, len(images[method][volume]) // 2) for name, volume in found.items()}
    chosen = {**(first or {}), **chosen}
    slices, seen = [], set()
    for name, (volume, number) in chosen.items():
        if (volume, number) in seen:
            continue
        seen.add((volume, number))
        reference = references[volume]
        shown = {} if reference is None else {"reference": reference[number]}
        shown |= {arm: arrays[volume][number] for arm, arrays in images.items()}
        per_slice = frames[volume] if frames else 1
        where = f"{volumes[volume]}, {_place(number, len(images[method][volume]), per_slice)}"
        earlier = sum(len(images[method][k]) // (frames[k] if frames else 1) for k in range(volume))
        place = {"index": earlier + number // per_slice, "frame": number % per_slice}
        slices.append({"name": name, "where": where, "images": shown, **place})
    return slices


def _place(number: int, count: int, frames: int) -> str:
    place = f"slice {number // frames + 1} of {count // frames}"
    return place if frames == 1 else f"{place}, frame {number % frames + 1} of {frames}"


def _by_score(images: Sequence[_Images], references: Sequence[_Images | None]) -> dict[str, tuple[int, int]]:
    """Volume and slice with the median, worst and best PSNR; empty if no reference has contrast."""
    scored = [
        (psnr(reference[None], image[None]), (volume, number))
        for volume, (whole, reconstructed) in enumerate(zip(references, images, strict=True))
        for number, (reference, image) in enumerate(zip(whole, reconstructed, strict=True) if whole is not None else ())
        if reference.min() < reference.max()
    ]
    if not scored:
        return {}
    ranked = [place for _, place in sorted(scored)]
    return {"median PSNR": ranked[(len(ranked) - 1) // 2], "worst PSNR": ranked[0], "best PSNR": ranked[-1]}
