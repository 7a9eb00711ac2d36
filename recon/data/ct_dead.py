"""Dead detector elements: without counts, not finite or constant in all views. Their rays have weight zero.

Operator and measurement are zero at these rays, so no data term looks at them. Counts and line integrals of a dead
element are replaced by those interpolated from its neighbors, for what needs a value: averages along the detector and
the checks of ``fedrecon sites check``. Start images and filtered back-projection interpolate by themselves,
:meth:`physics.RadonOperator.backprojected`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from physics import across_gaps

from ..errors import data_error
from .ct_file import SinogramVolume

#: Counts of all views together of the neighbors, from which an element without any is dead.
_EXPECTED_COUNTS = 30.0
#: Fewest views that are equal by no chance, and the least change between views in parts of the largest value.
_FEWEST_VIEWS, _CHANGES = 16, 1e-4
#: Largest part of the elements that may be dead, and elements that are named.
_MOST, _NAMED = 0.25, 5


def dead_rays(stored: Tensor, holds: str, flat: Tensor | None = None) -> Tensor:
    """Which rays of a slice as stored are those of dead elements.

    An element is dead if its values are not finite, or if it receives no open beam, or if its values are equal in all
    views while elements on both sides change: 0 counts, where the neighbors count enough, at the ends of the detector
    too; or any other value. Elements at the ends of the detector that all see the same air are not.

    Parameters
    ----------
    stored
        ``(views, detectors)``. Single rays that are not finite are dead in these views alone.
    holds
        As :attr:`recon.SinogramVolume.holds`.
    flat
        Open beam of raw counts, ``(detectors,)``.

    Returns
    -------
        ``(views, detectors)``.
    """
    lost = ~stored.isfinite()
    if flat is not None:
        lost = lost | ~((flat > 0) & flat.isfinite())
    known = stored.masked_fill(lost, 0)
    spread = known.amax(0) - known.amin(0)
    constant = (spread == 0) & ~lost.any(0)
    # A round object on the axis, simulated without noise, changes by rounding alone.
    changes = (spread > _CHANGES * known.abs().max()) & ~lost.all(0)
    inside = _before(changes) & _before(changes.flip(0)).flip(0)
    stuck = constant & inside & (len(stored) >= _FEWEST_VIEWS)
    if holds == "line_integrals":
        return lost | stuck
    empty = constant & (known[0] <= 0)
    total = across_gaps(known.sum(0)[None], changes[None])[0]
    return lost | (stuck & ~empty) | (empty & (total >= _EXPECTED_COUNTS))


def _before(some: Tensor) -> Tensor:
    """Whether one of `some` stands before each."""
    return some.cumsum(0) > 0


def require_elements(path: Path, told: Sequence[int], elements: int) -> None:
    """Refuse numbers of dead elements that the detector does not have.

    Raises
    ------
    DataError
        With the range.
    """
    wrong = [number for number in told if not 0 <= number < elements]
    if wrong:
        expected = f"elements from 0 to {elements - 1}"
        raise data_error(path, "[data] dead_elements", f"{wrong[0]}", expected, "correct it")


def require_alive(path: Path, index: int, dead: Tensor) -> None:
    """Refuse a slice of which too much is missing.

    Raises
    ------
    DataError
        If more than a quarter of the rays are dead.
    """
    if (part := float(dead.double().mean())) > _MOST:
        found = f"{part:.0%} of the rays of slice {index} without a value (dead elements)"
        raise data_error(path, "detector", found, f"at most {_MOST:.0%}", "repair the file, or leave it out")


def dead_warnings(volume: SinogramVolume, slices: Mapping[int, Tensor], told: Sequence[int]) -> list[str]:
    """A line if elements are dead that nobody named, over all slices of a file.

    Parameters
    ----------
    slices
        Dead elements by the number of the slice, ``(detectors,)``; slices without any may be absent.
    told
        Elements that the manifest names.
    """
    if not slices:
        return []
    found = torch.stack(list(slices.values())).any(0)
    found[list(told)] = False
    numbers = found.nonzero().flatten().tolist()
    if not numbers:
        return []
    some = sum(bool(dead[numbers].any()) for dead in slices.values())
    names = ", ".join(map(str, numbers[:_NAMED])) + (", ..." if len(numbers) > _NAMED else "")
    text = f"dead elements {names}, {len(numbers)} in all, in {some} of {volume.shape[0]} slices"
    advice = "their rays have weight zero, start images are interpolated across them"
    return [str(data_error(volume.path, "detector", text, "values that change between the views", advice))]
