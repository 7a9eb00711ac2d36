"""Compiled rebinning of cone-beam views to one slice; used only by :mod:`.single_slice`.

A ray of the slice is made of samples: elements (view, column) whose ray has the same projection on the plane of
rotation, or a neighboring one, each with a source at another height.
"""

import math
from typing import Any

import numpy as np

from ..ct.kernels.compiled import kernel

#: Most samples that one ray is made of, and most planes of a slab.
MOST_SAMPLES, MOST_PLANES = 160, 64
#: Value in ``faults`` of a ray without a sample.
NO_SAMPLE = 255


@kernel
def _collect(
    target: float, k: int, angle: Any, z: Any, rotations: Any, column: Any, base: Any, shares: Any, low: float,
    high: float, samples: Any, part: Any,
) -> int:  # fmt: skip
    """Samples of a ray with sources between two heights; returns their number."""
    n = 0
    for g in range(len(rotations)):
        spot, start, end = rotations[g, 0], rotations[g, 1], rotations[g, 2]
        for sense in range(2):
            if column[spot, sense, k] < 0:
                continue
            wanted = target + base[spot, sense, k]
            wanted += 2 * math.pi * math.ceil((angle[start] - wanted) / (2 * math.pi) - 1e-9)
            while wanted <= angle[end - 1] + 1e-7:
                after = min(max(start + np.searchsorted(angle[start:end], wanted), start + 1), end - 1)
                late = min(max((wanted - angle[after - 1]) / (angle[after] - angle[after - 1]), 0.0), 1.0)
                for i in range(2):
                    of_view = late if i == 1 else 1 - late
                    view = after - 1 + i
                    if of_view < 1e-6 or z[view] < low or z[view] > high:
                        continue
                    for side in range(2):
                        if shares[spot, sense, k, side] > 0 and n < MOST_SAMPLES:
                            samples[n, 0], samples[n, 1] = view, column[spot, sense, k] + side
                            samples[n, 2], samples[n, 3] = spot, sense
                            part[n] = of_view * shares[spot, sense, k, side]
                            n += 1
                wanted += 2 * math.pi
    return n


@kernel
def _weigh(
    n: int, k: int, samples: Any, part: Any, z: Any, spot_z: Any, near: Any, far: Any, row_mm: float, row_zero: float,
    rows: int, planes: Any, lift: float, along: float, reach: float, row_at: Any, weights: Any,
) -> int:  # fmt: skip
    """Rows and weights of samples in every plane; returns the number of planes that no row meets.

    Sources nearer to the plane count more, so that rays are in it as well as they can be. The plane is ``lift`` higher
    than at the axis where the ray is nearest to it, and rises by ``along`` per mm of the ray.
    """
    faults = 0
    for q in range(len(planes)):
        total, nearest = 0.0, math.inf
        for s in range(n):
            view, spot, sense = samples[s, 0], samples[s, 2], samples[s, 3]
            height = planes[q] + lift - z[view] - spot_z[spot]
            rise = height * far[spot, sense, k] / near[spot, sense, k]
            row = (spot_z[spot] + rise) / row_mm + row_zero
            distance = abs(height + (along if sense == 1 else -along) * near[spot, sense, k])
            edge = min(max(min(row + 0.5, rows - 0.5 - row), 0.0), 1.0)
            row_at[s, q] = min(max(row, 0.0), rows - 1.0)
            weights[s, q] = part[s] * max(1 - distance / reach, 0.0) * edge
            total += weights[s, q]
            nearest = min(nearest, distance)
        if total < 1e-8:  # the outermost row of the nearest source stands for the one that is not there
            faults += 1
            total = 0.0
            for s in range(n):
                spot, sense = samples[s, 2], samples[s, 3]
                height = planes[q] + lift - z[samples[s, 0]] - spot_z[spot]
                distance = abs(height + (along if sense == 1 else -along) * near[spot, sense, k])
                weights[s, q] = part[s] if distance <= nearest + 0.05 * reach else 0.0
                total += weights[s, q]
        for s in range(n):
            weights[s, q] /= total * len(planes)
    return faults


@kernel
def rebin(
    first: int, last: int, data: Any, slots: Any, scale: Any, photons: Any, angle: Any, z: Any, rotations: Any,
    targets: Any, column: Any, base: Any, near: Any, far: Any, shares: Any, spot_z: Any, row_mm: float, row_zero: float,
    planes: Any, fan: Any, radius: float, slope_x: float, slope_y: float, within: float, reach: float, dead: Any,
    lines: Any, variance: Any, faults: Any, live: Any,
) -> None:  # fmt: skip
    """Fill the views ``first`` to ``last`` of a slice, the mean of some planes.

    Parameters
    ----------
    data, photons, slots, scale
        Stored values ``(slots, columns, rows)`` and photons ``(slots, columns)``; slot of every view; slope and
        intercept of its line integrals ``(views, 2)``.
    angle, z
        Of every view; views of one rotation are neighbors.
    rotations
        Rows ``(spot, first view, view after the last)``.
    column, base, near, far, shares
        ``(spots, 2, columns of the slice)``, first for rays in the same sense, then for those in the opposite one:
        column of the detector before the ray, -1 if none measures it; angle from the view of the slice to that of the
        sample; distances from the source to the point nearest to the axis and to the detector; weights of this column
        and the next one, with a last axis of two.
    fan, radius
        Fan angles of the columns of the slice ``(columns,)``, and distance of its source from the axis.
    slope_x, slope_y
        Rise of the planes per mm along x and y.
    within, reach
        Distances in z: of sources that are looked at, from the planes at the axis in parts of 1.25; and from the plane
        at the source, at which the weight of a source is zero.
    dead
        Which elements are dead, ``(columns, rows)``; ``(0, 0)``: none.
    lines, variance, faults, live
        ``(views, columns)``: line integrals, sums of squared weights over photons, planes that no row meets, and the
        part of the weights that live elements have.
    """
    rows, count = data.shape[2], len(planes)
    samples, part = np.empty((MOST_SAMPLES, 4), np.int64), np.empty(MOST_SAMPLES)
    row_at, weights = np.empty((MOST_SAMPLES, MOST_PLANES)), np.empty((MOST_SAMPLES, MOST_PLANES))
    by_row = np.empty(rows + 1)
    low, high = planes[0] - 1.25 * within, planes[count - 1] + 1.25 * within
    for j in range(first, last):
        for k in range(column.shape[2]):
            n = _collect(targets[j], k, angle, z, rotations, column, base, shares, low, high, samples, part)
            if n == 0:
                lines[j, k], variance[j, k], faults[j, k] = 0.0, 0.0, NO_SAMPLE
                continue
            across, cos, sin = radius * math.sin(fan[k]), math.cos(targets[j] - fan[k]), math.sin(targets[j] - fan[k])
            lift, along = across * (slope_x * cos + slope_y * sin), slope_y * cos - slope_x * sin
            fault = _weigh(
                n, k, samples, part, z, spot_z, near, far, row_mm, row_zero, rows, planes, lift, along, reach, row_at,
                weights,
            )  # fmt: skip
            value, noise, total, lost = 0.0, 0.0, 0.0, 0.0
            for s in range(n):
                view, c, spot, sense = samples[s, 0], samples[s, 1], samples[s, 2], samples[s, 3]
                by_row[:] = 0.0
                length = far[spot, sense, k]
                bottom, top = rows, -1
                for q in range(count):
                    if weights[s, q] == 0:
                        continue
                    row = int(row_at[s, q])
                    # In the plane of the slice the path is shorter, by the cosine of the angle of the ray.
                    rise = (row_at[s, q] - row_zero) * row_mm - spot_z[spot]
                    weight = weights[s, q] * length / math.sqrt(length * length + rise * rise)
                    by_row[row] += weight * (row + 1 - row_at[s, q])
                    by_row[row + 1] += weight * (row_at[s, q] - row)
                    bottom, top = min(bottom, row), max(top, row + 1)
                slot, squares = slots[view], 0.0
                for r in range(bottom, min(top, rows - 1) + 1):
                    value += by_row[r] * (scale[view, 0] * data[slot, c, r] + scale[view, 1])
                    squares += by_row[r] * by_row[r]
                    if len(dead) > 0:
                        total += by_row[r]
                        lost += by_row[r] * dead[c, r]
                noise += squares / photons[slot, c]
            lines[j, k], variance[j, k], faults[j, k] = value, noise, fault
            # Weights that sum to one differ from it by rounding.
            live[j, k] = 0.0 if lost > (1 - 1e-6) * total > 0 else 1 - lost / max(total, 1e-12)
