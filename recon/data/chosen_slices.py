"""A fixed subset of the slices of some volumes, evenly spread over volumes and slices."""

from collections.abc import Sequence
from itertools import accumulate

from .sample import Sample
from .slices import VolumeSlices


def spread_over(counts: Sequence[int], most: int) -> list[int]:
    """Indices of at most ``most`` of the slices of volumes that follow each other; a function of the numbers alone.

    Every volume gives the same number of slices, up to one, as long as it has so many: in the middles of equal parts.
    With fewer slices than volumes, volumes are chosen in the same way.

    Parameters
    ----------
    counts
        Number of slices of every volume.
    most
        Number of slices; 0: all.
    """
    shares = [0] * len(counts)
    left = min(most or sum(counts), sum(counts))
    while left:
        more = [volume for volume, count in enumerate(counts) if shares[volume] < count]
        for position in _middles(len(more), min(left, len(more))):
            shares[more[position]] += 1
        left = min(most or sum(counts), sum(counts)) - sum(shares)
    firsts = accumulate((0, *counts[:-1]))
    spread = zip(firsts, counts, shares, strict=True)
    return [first + position for first, count, share in spread for position in _middles(count, share)]


def _middles(count: int, parts: int) -> list[int]:
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


class ChosenSlices:
    """Samples of :func:`spread_over`, in the order of their volumes."""

    def __init__(self, slices: VolumeSlices, most: int) -> None:
        self.slices = slices
        self.indices = spread_over([slices.n_slices(number) for number in range(len(slices.volumes))], most)

    def counts(self) -> list[int]:
        """Number of these slices in every volume."""
        volumes = [self.slices.locate(index)[0] for index in self.indices]
        return [volumes.count(volume) for volume in range(len(self.slices.volumes))]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.slices[self.indices[index]]
