"""Settings of a secure sum: weights of the sites, encoding of an update, decoding of the sum."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recon import DataError

from ..serialization import Layout, MessageError, State, Wire, layout
from .fixed_point import FixedPoint, Integers
from .roster import Roster

#: Name of the only tensor in a summed update: numbers of the change, then of the tensors beside it, sorted by name.
SUM = "sum"


@dataclass(frozen=True)
class SecureSum:
    """The secure sum of one run, the same at the server and every site.

    Parameters
    ----------
    roster
        The sites.
    weights
        Weight of each site in the mean, by its name; only ratios matter. Tensors beside the parameters weigh equally.
    bits
        Bits of an integer, 32 or 64.
    largest_change
        Largest magnitude of a number that a site may send.
    masked
        Whether masks hide the updates; without, the sum has the same bits.
    run
        Name of the run, part of the keys of all masks.
    """

    roster: Roster
    weights: Mapping[str, float]
    bits: int = 32
    largest_change: float = 4.0
    masked: bool = False
    run: str = ""

    def __post_init__(self) -> None:
        if self.weights.keys() != self.roster.members.keys() or not all(w > 0 for w in self.weights.values()):
            raise ValueError(f"SecureSum: weights are {dict(self.weights)}, expected a positive one for each site")
        _ = self._point, self._point_beside  # raise if the range leaves no bits

    @cached_property
    def _point(self) -> FixedPoint:
        total = self._total(self.weights)
        return FixedPoint(self.bits, self.largest_change, total, len(self.weights))

    @cached_property
    def _point_beside(self) -> FixedPoint:
        return FixedPoint(self.bits, self.largest_change, len(self.weights), len(self.weights))

    @property
    def resolution(self) -> float:
        """Difference of neighboring numbers that the site with the largest weight can send."""
        return 2.0**-self._point.fraction_bits

    def shares(self) -> dict[str, float]:
        """Share of each site in the mean of all, by its name; their sum is 1."""
        total = self._total(self.weights)
        return {site: self._weight(site) / total for site in sorted(self.weights)}

    def _weight(self, site: str) -> float:
        """Weight relative to the largest one."""
        return self.weights[site] / max(self.weights.values())

    def _total(self, sites: Collection[str]) -> float:
        return math.fsum(self._weight(site) for site in sorted(sites))

    def encode(self, site: str, n_samples: int, change: State, aux: State) -> dict[str, Tensor]:
        """What a site sends: its weighted change and the tensors beside it as one vector of integers.

        Raises
        ------
        DataError
            If a number is beyond the range, or the site has another number of training slices than in the roster.
        """
        if (listed := self.roster.members[site].slices) != n_samples:
            raise DataError(f"site {site}: has {n_samples} training slices, expected {listed} as in the roster")
        # The transform clip bounds changes of parameters alone.
        beside = self._point_beside.encode(aux, 1.0, what="the tensor", advice="raise privacy.largest_change")
        return {SUM: tensor_of(np.concatenate((self._point.encode(change, self._weight(site)), beside)))}

    def mean(
        self, total: Integers, sites: Collection[str], shared: Layout, aux: Layout
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted mean of the changes, and mean of the tensors beside them, in float64.

        Parameters
        ----------
        total
            Sum of the sites' vectors modulo 2^k.
        sites
            The sites in it.
        """
        begin = _count(shared)
        change = self._point.decode(total[:begin], self._total(sites))
        beside = self._point_beside.decode(total[begin:], len(sites))
        return _tensors(change, shared), _tensors(beside, aux)

    def wire(self, wire: Wire) -> Wire:
        """Layout of the updates in a run whose broadcasts have the layout ``wire``."""
        count = _count(wire.shared) + _count(wire.aux)
        return Wire(wire.shared, {}, _Summed(count, self.dtype), most_bytes=count * self.bits // 8)

    @property
    def dtype(self) -> torch.dtype:
        """Signed integers of the same bits: unsigned ones cannot travel."""
        return torch.int32 if self.bits == 32 else torch.int64


@dataclass(frozen=True)
class _Summed:
    """Checks a summed update. Only the sum of all can be decoded, not one."""

    count: int
    dtype: torch.dtype

    def check_payload(self, payload: State, _: Layout) -> None:
        wanted = {SUM: ((self.count,), self.dtype)}
        if (found := layout(payload)) != wanted:
            raise MessageError(f"secure sum: found {dict(found)}, expected {wanted}; use the same recipe everywhere")

    def decode(self, payload: State, _: Layout) -> State:
        raise MessageError("secure sum: one update cannot be decoded, only the sum of all")


def tensor_of(vector: Integers) -> Tensor:
    """A vector of unsigned integers as a tensor of signed ones with the same bits."""
    return torch.from_numpy(vector.view(f"<i{vector.itemsize}"))


def vector_of(tensor: Tensor) -> Integers:
    """The inverse of :func:`tensor_of`."""
    vector: Integers = tensor.numpy()
    return vector.view(f"<u{vector.itemsize}")


def _count(expected: Layout) -> int:
    return sum(math.prod(shape) for shape, _ in expected.values())


def _tensors(values: np.ndarray[tuple[int], np.dtype[np.float64]], expected: Layout) -> dict[str, Tensor]:
    tensors, begin = {}, 0
    for name in sorted(expected):
        shape = expected[name][0]
        end = begin + math.prod(shape)
        tensors[name], begin = torch.from_numpy(values[begin:end].reshape(shape)), end
    return tensors
