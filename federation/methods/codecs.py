"""Codecs, transforms that shorten an update: largest entries, factors of low rank, 8 bits per number."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..serialization import Layout, MessageError, State, layout
from .transform import Transform, check_tensors, is_number, n_entries, some_of, tensor_text


@dataclass(frozen=True)
class TopK(Transform):
    r"""Send the entries of largest magnitude among all tensors, as float32 [Mem]_.

    ``values`` holds them in the order of their places in the concatenation of the tensors, sorted by name. ``gaps``
    holds the number of skipped entries before each, usually as one byte; the highest number of the dtype means that
    many skipped entries and a gap that continues. 1 % of places, drawn at random, cost 1.1 bytes each; their entropy
    is 1.0.

    Parameters
    ----------
    fraction
        Part of all entries, in (0, 1]; at least one entry. Of equal magnitudes the first is sent.

    References
    ----------
    .. [Mem] Stich et al., Sparsified SGD with Memory, NeurIPS 2018; its contraction is q = 1 - k/n for k of n entries.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"idempotent", "zero", "scale", "name_order", "contraction"})
    stage: ClassVar[int] = 1

    fraction: float = 0.01

    def __post_init__(self) -> None:
        if not (is_number(self.fraction) and 0 < self.fraction <= 1):
            raise ValueError(f"TopK: fraction is {self.fraction!r}, expected 0 < fraction <= 1")

    def count(self, layout: Layout) -> int:
        """Number of entries that travel."""
        return max(1, round(self.fraction * n_entries(layout)))

    def payload_layout(self, layout: Layout) -> Layout:
        return {"values": ((self.count(layout),), torch.float32)}

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        flat, count = _flatten(delta), self.count(layout(delta))
        sizes = flat.abs()
        smallest = torch.topk(sizes, count, sorted=True).values[-1]
        larger = (sizes > smallest).nonzero()[:, 0]
        equal = (sizes == smallest).nonzero()[: count - len(larger), 0]
        places = torch.cat((larger, equal)).sort().values
        candidates = [_gaps_of(places, dtype) for dtype in _GAP_DTYPES]
        return {"gaps": min(candidates, key=lambda gaps: gaps.nbytes), "values": flat[places]}

    def check_payload(self, payload: State, layout: Layout) -> None:
        expected = self.payload_layout(layout)
        if payload.keys() != {"gaps", "values"}:
            raise MessageError(f"TopK: payload holds {some_of(payload)}, expected gaps, values")
        check_tensors({"values": payload["values"]}, expected, "TopK")
        gaps, total = payload["gaps"], n_entries(layout)
        if gaps.dtype not in _GAP_DTYPES or gaps.ndim != 1 or bool((gaps < 0).any()):
            raise MessageError(f"TopK: gaps are {tensor_text(gaps)}, expected one axis of uint8 or int16, not negative")
        places, end = _places_of(gaps)
        if len(places) != self.count(layout) or end > total:
            raise MessageError(
                f"TopK: {len(places)} places within {end} entries, expected {self.count(layout)} within {total}"
            )

    def decode(self, payload: State, layout: Layout) -> State:
        flat = torch.zeros(n_entries(layout))
        flat[_places_of(payload["gaps"])[0]] = payload["values"]
        return _unflatten(flat, layout)


_GAP_DTYPES = (torch.uint8, torch.int16)


def _gaps_of(places: Tensor, dtype: torch.dtype) -> Tensor:
    """Ascending places as gaps; the inverse of :func:`_places_of`."""
    limit = torch.iinfo(dtype).max
    skipped = places.diff(prepend=places.new_tensor([-1])) - 1
    ends = (skipped // limit + 1).cumsum(0)
    gaps = torch.full((int(ends[-1]),), limit, dtype=dtype)
    gaps[ends - 1] = (skipped % limit).to(dtype)
    return gaps


def _places_of(gaps: Tensor) -> tuple[Tensor, int]:
    """Ascending places, and the number of entries that the gaps span."""
    is_place = gaps < torch.iinfo(gaps.dtype).max
    spans = (gaps.to(torch.int64) + is_place).cumsum(0)
    return spans[is_place] - 1, int(spans[-1]) if len(spans) else 0


@dataclass(frozen=True)
class LowRank(Transform):
    r"""Send each tensor of two or more axes as two factors of rank ``rank``, where these are fewer numbers.

    A tensor is a matrix ``(out, rest)``. Its truncated singular value decomposition :math:`U S V^T` is the closest
    matrix of that rank (Eckart and Young). It travels as :math:`U S^{1/2}` and :math:`S^{1/2} V^T`, which have numbers
    of one order of magnitude, for a quantizer that follows. All other tensors travel whole. ``factors`` holds the
    numbers as float32, with the tensors sorted by name.

    Parameters
    ----------
    rank
        Rank, at least 1.

    References
    ----------
    .. [K] Konecny et al., Federated Learning: Strategies for Improving Communication Efficiency, 2016, section 2;
       there one factor is random.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"idempotent", "zero", "scale", "name_order", "contraction"})
    stage: ClassVar[int] = 1

    rank: int

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"LowRank: rank is {self.rank!r}, expected a whole number of at least 1")

    def payload_layout(self, layout: Layout) -> Layout:
        sizes = (sum(self._sizes(shape)) for shape, _ in layout.values())
        return {"factors": ((sum(sizes),), torch.float32)}

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        parts: list[Tensor] = []
        for _, tensor in sorted(delta.items()):
            if len(self._sizes(tensor.shape)) == 1:
                parts.append(tensor)
                continue
            left, sizes, right = torch.linalg.svd(
                tensor.to(torch.float64).reshape(len(tensor), -1), full_matrices=False
            )
            roots = sizes[: self.rank].sqrt()
            parts += [left[:, : self.rank] * roots, roots[:, None] * right[: self.rank]]
        return {"factors": torch.cat([part.reshape(-1).to(torch.float32) for part in parts])}

    def decode(self, payload: State, layout: Layout) -> State:
        rest = payload["factors"].to(torch.float64)
        decoded: dict[str, Tensor] = {}
        for name, (shape, dtype) in sorted(layout.items()):
            *factors, rest = rest.split([*(sizes := self._sizes(shape)), len(rest) - sum(sizes)])
            tensor = factors[0]
            if len(factors) == 2:
                tensor = tensor.reshape(-1, self.rank) @ factors[1].reshape(self.rank, -1)
            decoded[name] = tensor.reshape(shape).to(dtype)
        return decoded

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Number of entries of each of the two factors; of the tensor, if it travels whole."""
        total = math.prod(shape)
        if len(shape) < 2 or self.rank * (shape[0] + total // max(1, shape[0])) >= total:
            return (total,)
        return self.rank * shape[0], self.rank * total // shape[0]


@dataclass(frozen=True)
class Int8(Transform):
    r"""Send every number as 8 bits, with unbiased random rounding [QSGD]_.

    The tensors, sorted by name, are concatenated and cut into blocks of ``block`` numbers. The scale s of a block is
    its largest magnitude. A number x becomes one of the two integers next to :math:`127 x / s`, with probabilities that
    make the mean exact. The error is below s/127, hence the contraction q = block/127^2. After another codec, its
    floating-point tensors are quantized and its integer tensors pass. ``codes`` is int8, ``scales`` float32.

    Parameters
    ----------
    block
        Numbers per block, 1 to 16128. Smaller blocks lose less; scales cost 4/block bytes per number.

    References
    ----------
    .. [QSGD] Alistarh et al., QSGD, NeurIPS 2017; its buckets are the blocks, but scaled by the norm.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"unbiased", "zero", "scale", "name_order", "contraction"})
    stage: ClassVar[int] = 2

    block: int = 256

    def __post_init__(self) -> None:
        if type(self.block) is not int or not 1 <= self.block < 127**2:
            raise ValueError(f"Int8: block is {self.block!r}, expected a whole number from 1 to {127**2 - 1}")

    def payload_layout(self, layout: Layout) -> Layout:
        return {"scales": ((-(-n_entries(layout) // self.block),), torch.float32)}

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        passed = {name: tensor for name, tensor in delta.items() if not tensor.is_floating_point()}
        flat = _flatten({name: tensor for name, tensor in delta.items() if name not in passed})
        blocks = self._blocks(flat)
        scales = blocks.abs().amax(dim=1)
        # Divide first: the quotient is at most 1, so no code exceeds 127. Any divisor serves a block of zeros.
        levels = blocks / torch.where(scales > 0, scales, 1.0)[:, None] * 127
        lower = levels.floor()
        codes = lower + (torch.rand(levels.shape, generator=generator) < levels - lower)
        return passed | {"codes": codes.to(torch.int8).reshape(-1)[: len(flat)], "scales": scales}

    def check_payload(self, payload: State, layout: Layout) -> None:
        expected = {"codes": ((n_entries(layout),), torch.int8), **self.payload_layout(layout)}
        passed = {name: tensor for name, tensor in payload.items() if name not in expected}
        check_tensors({name: payload[name] for name in payload if name in expected}, expected, "Int8")
        wrong = sorted(name for name in passed if passed[name].is_floating_point() or name in layout)
        if wrong:
            raise MessageError(f"Int8: payload holds {some_of(wrong)}, expected codes, scales and integer tensors")
        if bool((payload["codes"] == -128).any()) or bool((payload["scales"] < 0).any()):
            raise MessageError("Int8: codes or scales out of range, expected codes from -127 to 127, scales from 0")

    def decode(self, payload: State, layout: Layout) -> State:
        passed = {name: tensor for name, tensor in payload.items() if name not in ("codes", "scales")}
        blocks = self._blocks(payload["codes"].to(torch.float32)) / 127 * payload["scales"][:, None]
        return passed | _unflatten(blocks.reshape(-1)[: len(payload["codes"])], layout)

    def _blocks(self, flat: Tensor) -> Tensor:
        return torch.nn.functional.pad(flat, (0, -len(flat) % self.block)).reshape(-1, self.block)


def _flatten(state: State) -> Tensor:
    return torch.cat([state[name].reshape(-1).to(torch.float32) for name in sorted(state)])


def _unflatten(flat: Tensor, layout: Layout) -> dict[str, Tensor]:
    names = sorted(layout)
    parts = flat.split([math.prod(layout[name][0]) for name in names])
    return {name: part.reshape(layout[name][0]).to(layout[name][1]) for name, part in zip(names, parts, strict=True)}
