"""Which samples of a cone-beam scan measure the rays of a slice: columns, view angles, and the order of the views."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..ct import FanBeam
from .cone_scan import Array, ConeScan

#: Weight of rays in the opposite sense in axial scans, where every ray is measured in its own.
_OPPOSITE_AXIAL = 1e-6


@dataclass(frozen=True, eq=False)
class RayTables:
    """Of every spot, sense and ray of a slice; see :func:`physics.rebinning.kernel.rebin`."""

    column: npt.NDArray[np.intp]
    base: Array
    near: Array
    far: Array
    shares: Array


@dataclass(frozen=True, eq=False)
class ViewOrder:
    """Views by rotation: number, angle, z; ``rotations`` as in :func:`physics.rebinning.kernel.rebin`."""

    view: npt.NDArray[np.intp]
    angle: Array
    z: Array
    rotations: npt.NDArray[np.intp]

    def cut(self, low: float, high: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Rotations in the part of the scan between two heights, and the positions of its views."""
        kept, rows, total = [], [], 0
        for spot, start, end in self.rotations:
            inside = np.flatnonzero((self.z[start:end] >= low) & (self.z[start:end] <= high))
            if len(inside) < 2:
                continue
            positions = np.arange(start + inside[0], start + inside[-1] + 1)
            rows.append((spot, total, total + len(positions)))
            kept.append(positions)
            total += len(positions)
        return np.array(rows, dtype=np.intp).reshape(-1, 3), np.concatenate(kept or [np.array([], dtype=np.intp)])


def ray_tables(scan: ConeScan, geometry: FanBeam, *, merged: bool) -> RayTables:
    """Where the rays of a slice are measured; ``merged``: columns of spots in one plane lie between each other."""
    gamma = geometry.fan_angles
    shape, index = (len(scan.spots), 2, len(gamma)), np.arange(scan.columns)
    column, shares = np.full(shape, -1), np.zeros((*shape, 2))
    base, near, far = np.zeros(shape), np.ones(shape), np.ones(shape)
    rays = [scan.spot_rays(spot) for spot in range(shape[0])]
    for sense in range(2):
        wanted = scan.source_to_axis_mm * np.sin(gamma) * (1 if sense == 0 else -1)
        for spot, (turned, distance, to_axis, to_detector) in enumerate(rays):
            # Rays up to half an element beyond the outermost columns are taken for those of these columns.
            edge = np.abs(np.diff(distance)).max() / 2
            seen = (wanted >= distance[0] - edge) & (wanted <= distance[-1] + edge)
            at = np.interp(wanted, distance, index)
            before = np.minimum(at.astype(int), scan.columns - 2)
            column[spot, sense] = np.where(seen, before, -1)
            base[spot, sense] = -gamma - np.interp(at, index, turned) + sense * math.pi
            near[spot, sense], far[spot, sense] = np.interp(at, index, to_axis), np.interp(at, index, to_detector)
            shares[spot, sense] = np.stack((1 - (at - before), at - before), axis=-1)
        if merged:
            for group in scan.spots_in_plane:
                distances = np.array([rays[spot][1] for spot in group])
                shares[group, sense] = _between(distances, column[group, sense], wanted)
    if scan.feed_mm == 0:
        shares[:, 1] *= _OPPOSITE_AXIAL
    return RayTables(column, base, near, far, shares)


def view_order(scan: ConeScan) -> ViewOrder:
    """The views by rotation and angle."""
    views, angles, rotations, start = [], [], [], 0
    for spot, own in scan.rotations:
        angle = scan.angles_rad[own]
        step = float(np.median(np.diff(angle)))
        if scan.feed_mm == 0 and abs(angle[-1] - angle[0] + step - 2 * math.pi) < 0.5 * step:
            # The first view of an axial rotation follows the last one.
            own, angle = np.append(own, own[0]), np.append(angle, angle[0] + 2 * math.pi)
        views.append(own)
        angles.append(angle)
        rotations.append((spot, start, start + len(own)))
        start += len(own)
    view = np.concatenate(views)
    return ViewOrder(view, np.concatenate(angles), scan.z_mm[view], np.array(rotations))


def _between(distances: Array, column: npt.NDArray[np.intp], wanted: Array) -> Array:
    """Weights of the columns beside a ray, of several spots whose columns lie between each other.

    Parameters
    ----------
    distances
        Distance from the axis of the rays of every spot, ``(spots, columns)``.
    column
        Column before the ray, ``(spots, rays)``.
    wanted
        Distance of the rays.

    Returns
    -------
        ``(spots, rays, 2)``: linear between the nearest column on either side, of any spot.
    """
    lower, upper = (np.take_along_axis(distances, np.maximum(column, 0) + side, axis=1) for side in range(2))
    lower = np.where((column >= 0) & (lower <= wanted), lower, -np.inf)
    upper = np.where((column >= 0) & (upper >= wanted), upper, np.inf)
    best = lower.argmax(0), upper.argmin(0)
    rays = np.arange(len(wanted))
    below, above = lower[best[0], rays], upper[best[1], rays]
    with np.errstate(invalid="ignore"):
        part = np.clip(np.nan_to_num((wanted - below) / (above - below), nan=0.5), 0, 1)
    shares: Array = np.zeros((*column.shape, 2))
    shares[best[0], rays, 0] = np.where(np.isfinite(below), np.where(np.isfinite(above), 1 - part, 1), 0)
    shares[best[1], rays, 1] += np.where(np.isfinite(above), np.where(np.isfinite(below), part, 1), 0)
    return shares
