"""Whether a CT scan sees the whole object, and the image holds it: by its geometry, and by rays that should be air."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from physics import (
    LARGEST_DEPARTURE,
    Geometry,
    ImageGrid,
    ParallelBeam,
    coverage_is_said,
    departure_of,
    field_of_view_radius_mm,
    goes_all_round,
    has_filtered_backprojection,
    ray_distances_mm,
    rays_beside,
    scan_coverage,
)

#: Line integrals above this value, and above this part of the largest ones, are not air.
_LEAST_SIGNAL = 0.05
_PART_OF_LARGEST = 0.05
#: Line integrals above this number of standard deviations are not noise; neighbors along the detector agree.
_NOISE_STD = 4.0
#: Least part of the views whose outermost elements see the object, and of the rays beside the image that do.
_VIEWS, _RAYS = 0.03, 0.0005
#: Views whose rays are looked at, evenly chosen.
_VIEWS_LOOKED_AT = 90
#: Fewest detector elements whose ends are looked at.
_FEWEST = 8
#: Least offset of all line integrals that is said: photons or open beam are wrong by a twentieth.
_LEAST_OFFSET = 0.05
#: Differences of air between views and ends, across an end, and their relative parts: an object has larger ones.
_UNEQUAL, _SLOPED, _RELATIVE = 0.015, 0.005, 0.005
#: Least ratio of the largest line integrals to an offset: the object stands out.
_STANDS_OUT = 1.3

Array = npt.NDArray[np.floating[Any]]


def geometry_warnings(path: Path, geometry: Geometry, grid: ImageGrid) -> list[str]:
    """What the geometry of a file makes doubtful, one line each.

    The views miss lines through the image, with the degrees, which FBP does not log again; or source and detector
    move too far for filtered back-projection.
    """
    return [*_coverage_warnings(path, geometry, grid), *_departure_warnings(path, geometry)]


def _departure_warnings(path: Path, geometry: Geometry) -> list[str]:
    if has_filtered_backprojection(geometry):
        return []
    found = f"views that differ from those of a beam by {100 * departure_of(geometry):.2g} % of its lengths"
    advice = 'the method "fbp" and the start images of networks are twenty iterations of SIRT here'
    return [f"{path}: geometry: found {found}, expected at most {100 * LARGEST_DEPARTURE:g} %; {advice}"]


def _coverage_warnings(path: Path, geometry: Geometry, grid: ImageGrid) -> list[str]:
    covered, needed, missing = coverage = scan_coverage(geometry, grid)
    if coverage.is_complete:
        return []
    coverage_is_said(geometry, grid)
    beam = "a parallel beam" if isinstance(geometry, ParallelBeam) else "this fan beam"
    beam = "a displaced detector" if needed == 360 else beam
    found, advice = f"views over {covered:.0f} degrees", f"expect artefacts along the missing {missing:.0f} degrees"
    return [f"{path}: angles: found {found}, expected {needed:.0f} degrees for {beam}; {advice}"]


def object_warnings(path: Path, geometry: Geometry, grid: ImageGrid, slices: Iterable[tuple[int, Tensor]]) -> list[str]:
    """Lines that say that all line integrals have an offset, or that the object is larger than detector or image.

    Line integrals at the ends of the detector that are not zero, but equal in all views, at both ends and across each
    end, are air with an offset: the photons or the open beam are wrong by a factor. The offset is subtracted before the
    object is looked for. The object is larger than the field of view if the outermost detector elements see it
    (truncated projections), and larger than the image if rays that pass beside the image see it. No image explains
    either.

    Parameters
    ----------
    slices
        Numbers and line integrals ``(views, detectors)`` of some slices of a file.

    Returns
    -------
        At most one line for each, of the slice where most rays are concerned.
    """
    some, ends, beside = _air(geometry, grid)
    found = [_Outside.of(number, lines[some].numpy(), ends, beside) for number, lines in slices]
    if not found:
        return []
    lines = _offset_warnings(path, max(found, key=lambda each: abs(each.offset)))
    cut, off = max(found, key=lambda each: each.views), max(found, key=lambda each: each.rays)
    if cut.views > _VIEWS:
        radius = field_of_view_radius_mm(geometry) if len(ends) > 1 else np.abs(ray_distances_mm(geometry)).max()
        lines.append(
            f"{path}: detector: found the object at its ends in {cut.views:.0%} of the views of slice {cut.number}, "
            f"expected air; the object is larger than the field of view of {2 * radius:.0f} mm (truncated "
            "projections): values near the rim will be wrong, use a wider detector"
        )
    if off.rays > _RAYS:
        reach = np.abs(ray_distances_mm(geometry)[off.signal.any(0)]).max()
        height, width = (
            max(2 * int(np.ceil((reach + abs(middle)) / edge)), n)
            for n, edge, middle in zip(grid.shape, grid.spacing_mm, grid.center_mm, strict=True)
        )
        lines.append(
            f"{path}: grid: found the object in rays that pass beside the image ({off.rays:.1%} of all rays of slice "
            f"{off.number}), expected air; the object is larger than the grid of {grid.shape[0]}x{grid.shape[1]} "
            f"pixels of {grid.text}, which no image explains: use a grid of "
            f"{'at least ' * (cut.views > _VIEWS)}{height}x{width} pixels"
        )
    return lines


def _offset_warnings(path: Path, worst: "_Outside") -> list[str]:
    """A line if the line integrals of a slice have an offset, with the factor of the photons."""
    if not (offset := worst.offset):
        return []
    factor = f"{math.exp(abs(offset)):.3g} times too {'large' if offset > 0 else 'small'}"
    return [
        f"{path}: photons: found line integrals of {offset:+.2g} in the air at the ends of the detector in all views "
        f"of slice {worst.number}, expected 0; correct the photons or the open beam (flat field), which seem {factor}, "
        "or subtract the offset"
    ]


@dataclass(frozen=True, eq=False)
class _Outside:
    """Signal of a slice where air is expected: part of the views at the detector's ends, rays off the image.

    ``offset`` is that of all line integrals, zero if they have none.
    """

    number: int
    offset: float
    views: float
    signal: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, number: int, lines: Array, ends: list[int], beside: npt.NDArray[np.bool_]) -> "_Outside":
        offset = _air_offset(lines, ends)
        lines = lines - offset
        level = max(_LEAST_SIGNAL, _PART_OF_LARGEST * float(np.percentile(lines, 99)))
        # A neighbor agrees: a dead element is no object.
        around = np.pad(lines, ((0, 0), (1, 1)), constant_values=-np.inf)
        agreed = np.minimum(lines, np.maximum(around[:, :-2], around[:, 2:]))
        roughness = np.abs(np.diff(lines, 2))
        noise = {end: _noise(roughness[:, :4] if end == 0 else roughness[:, -4:]) for end in ends}
        views = max((float((agreed[:, end] > level + noise[end]).mean()) for end in ends), default=0.0)
        off = beside & (agreed > level)
        off &= agreed > level + _noise(roughness[off[:, 1:-1]])
        return cls(number, offset, views, off)

    @property
    def rays(self) -> float:
        """Part of all rays that pass beside the image and see the object."""
        return float(self.signal.mean())


def _air_offset(lines: Array, ends: list[int]) -> float:
    """Offset of all line integrals ``(views, detectors)``, from the ends of the detector; 0 if there is none to see."""
    width = max(4, lines.shape[1] // 32)
    airs = [lines[:, :width] if end == 0 else lines[:, -width:] for end in ends]
    if not airs or abs(offset := float(np.median(airs))) < _LEAST_OFFSET:
        return 0.0
    if offset > 0 and np.percentile(lines, 99) < _STANDS_OUT * offset:
        return 0.0
    noise = max(_noise(np.abs(np.diff(air, 2))) for air in airs)
    unequal = _UNEQUAL + _RELATIVE * abs(offset) + noise / math.sqrt(width)
    sloped = _SLOPED + _RELATIVE * abs(offset) + noise / math.sqrt(airs[0].size / 2)
    for air in airs:
        across, views = np.median(air, axis=0), np.median(air, axis=1)
        slope = float(across[: width // 2].mean() - across[width // 2 :].mean())
        if np.abs(np.percentile(views, (5, 95)) - offset).max() > unequal or abs(slope) > sloped:
            return 0.0
    return offset


def _noise(roughness: Array) -> float:
    """What noise does not exceed, from second differences along the detector."""
    return _NOISE_STD * float(np.median(roughness)) / (0.6745 * math.sqrt(6)) if roughness.size else 0.0


@lru_cache(maxsize=16)
def _air(geometry: Geometry, grid: ImageGrid) -> tuple[slice, list[int], npt.NDArray[np.bool_]]:
    """The views that are looked at, ends of the detector that should see air, and the rays beside the image.

    The ends are 0 and -1. Over a full turn, the lines beyond the short side are measured on the other.
    """
    some = slice(None, None, max(1, geometry.shape[0] // _VIEWS_LOOKED_AT))
    first, last = np.abs(ray_distances_mm(geometry)[[0, -1]])
    ends = [0, -1]
    if goes_all_round(geometry) and min(first, last) < 0.98 * max(first, last):
        ends = [0] if first > last else [-1]
    return some, ends if geometry.detectors >= _FEWEST else [], rays_beside(geometry.subset(some), grid)
