"""Stored values of the views of a cone-beam scan."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .cone_scan import Array, ConeScan
from .dead_elements import AcrossDead


class ConeViews:
    """Stored values of the views of a scan, read when they are first needed; those of earlier slices are forgotten.

    Parameters
    ----------
    scan
        The scan.
    read
        Returns the stored values of a view ``(columns, rows)``, uint16 or float32, and its photons per ray
        ``(columns,)``; None: 1, as they are not known.
    scale
        Slope and intercept that make line integrals of stored values, ``(views, 2)``; None: 1 and 0.
    dead
        Which elements of the detector are dead, ``(columns, rows)``: their values are interpolated, see
        :class:`AcrossDead`. None: none is.

    Raises
    ------
    ValueError
        If `dead` has another shape, or all elements are dead.
    """

    def __init__(
        self,
        scan: ConeScan,
        read: Callable[[int], tuple[npt.NDArray[Any], npt.NDArray[Any] | None]],
        scale: Array | None = None,
        dead: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.scan, self._read = scan, read
        views = scan.shape[0]
        self._scale = np.tile([1.0, 0.0], (views, 1)) if scale is None else np.asarray(scale, dtype=np.float64)
        self.dead = dead if dead is not None and dead.any() else None
        if dead is not None and dead.shape != scan.shape[1:]:
            raise ValueError(f"ConeViews: dead has shape {dead.shape}, expected {scan.shape[1:]}, (columns, rows)")
        self._patch = None if self.dead is None else AcrossDead(self.dead, scan.pitch_mm, scan.row_mm)
        self._slots = np.zeros(views, dtype=np.intp)
        self._held: dict[int, int] = {}
        self._data: npt.NDArray[Any] = np.zeros((0, scan.columns, scan.rows), dtype=np.uint16)
        self._photons = np.ones((0, scan.columns), dtype=np.float32)

    def window(
        self, needed: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.intp], Array]:
        """Stored values by slot ``(slots, columns, rows)``, photons by slot, slot and scale of every view."""
        wanted = {int(view) for view in needed}
        self._held = {view: slot for view, slot in self._held.items() if view in wanted}
        used = set(self._held.values())
        free = [slot for slot in range(max(len(self._data), len(wanted))) if slot not in used]
        for view, slot in zip(sorted(wanted - self._held.keys()), free, strict=False):
            values, photons = self._read(view)
            if slot >= len(self._data):
                self._grow(len(wanted), values.dtype)
            self._slots[view] = self._held[view] = slot
            self._data[slot] = values if self._patch is None else self._patch(values)
            if photons is not None:
                self._photons[slot] = photons
        return self._data, self._photons, self._slots, self._scale

    def _grow(self, count: int, dtype: Any) -> None:
        more = count + count // 8 - len(self._data)
        data = np.zeros((more, *self._data.shape[1:]), dtype=dtype)
        self._data = np.concatenate((self._data.astype(dtype), data))
        self._photons = np.concatenate((self._photons, np.ones((more, self.scan.columns), dtype=np.float32)))
