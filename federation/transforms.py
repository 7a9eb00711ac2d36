"""What happens to a site's update before it leaves, and how the receiver reads it."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .messages import Layout, MessageError, State, check_finite, layout


@dataclass(frozen=True)
class Transform(ABC):
    """One step between an update and what travels.

    An update is a ``State``: parameters after training minus those of the broadcast. Dense transforms (stage 0) map
    an update to another. Codecs map it to a few flat tensors: stage 1 leaves out numbers, stage 2 shortens each.

    ``invariants`` says what holds for every update d, with D = decode(encode(d)):

    - ``"lossless"``: D(d) = d
    - ``"unbiased"``: E D(d) = d over the generator
    - ``"idempotent"``: D(D(d)) = D(d)
    - ``"zero"``: D(0) = 0
    - ``"scale"``: D(c d) = c D(d) for c > 0
    - ``"name_order"``: the order of the names in the state changes no bit
    - ``"contraction"``: ||D(d) - d||^2 <= q ||d||^2 with a q < 1, which error feedback needs to converge
    """

    invariants: ClassVar[frozenset[str]]
    stage: ClassVar[int] = 0

    @abstractmethod
    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        """Make what travels from an update, or from the payload of a codec before.

        Parameters
        ----------
        delta
            Tensors by name.
        generator
            All randomness.
        context
            The broadcast parameters.
        """

    def carries(self, layout: Layout) -> Layout:
        """The floating-point tensors of the payload of an update of ``layout``."""
        return layout

    def check_payload(self, payload: State, layout: Layout) -> None:
        """Refuse what no update of ``layout`` is encoded as.

        Raises
        ------
        MessageError
            If names, shapes, dtypes or values are wrong.
        """
        _check_tensors(payload, self.carries(layout), type(self).__name__)

    def decode(self, payload: State, layout: Layout) -> State:
        """Read a payload that passed :meth:`check_payload`; :meth:`Chain.decode` sees to that."""
        return payload


@dataclass(frozen=True)
class Clip(Transform):
    r"""Shorten the update to the L2 norm ``max_norm``, taken over all tensors together.

    :math:`d \min(1, C / \lVert d \rVert)` as in [DPSGD]_, here of a whole update.

    References
    ----------
    .. [DPSGD] Abadi et al., Deep Learning with Differential Privacy, 2016, Algorithm 1.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"idempotent", "zero", "name_order"})

    max_norm: float

    def __post_init__(self) -> None:
        if not (_is_number(self.max_norm) and 0 < self.max_norm < math.inf):
            raise ValueError(f"Clip: max_norm is {self.max_norm!r}, expected a positive finite number")

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        # An exactly rounded sum, so that the order of the tensors does not matter.
        norm = math.sqrt(math.fsum(float(tensor.to(torch.float64).square().sum()) for tensor in delta.values()))
        if norm <= self.max_norm:
            return delta
        return {
            name: (tensor.to(torch.float64) * (self.max_norm / norm)).to(tensor.dtype) for name, tensor in delta.items()
        }


@dataclass(frozen=True)
class NullSpace(Transform):
    r"""Keep the step of a prompt out of the directions that the global prompt uses most [FedPR]_.

    With the global prompt :math:`P` (tokens x features) and the eigenvectors of its uncentered covariance
    :math:`P^T P` in falling order, the step becomes :math:`\Delta U_0 U_0^T`, where :math:`U_0` are all but the
    leading ones. As in the authors' program the leading ones are counted: ``drop`` times the number of features,
    rounded down, at least one. Directions that the prompt does not have are never dropped, so that the result does
    not depend on the basis of an exact null space, and the step of a prompt of zeros passes unchanged. Their program
    divides :math:`U_0 U_0^T` by its norm, which only rescales the step; here it stays a projection.

    Parameters
    ----------
    drop
        Fraction of the directions, in (0, 1).
    pattern
        Shell pattern of the names of the prompts, tensors of shape ``(tokens, ...)``; all others pass unchanged.

    References
    ----------
    .. [FedPR] Feng et al., Learning Federated Visual Prompt in Null Space for MRI Reconstruction, CVPR 2023.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"idempotent", "zero", "scale", "name_order"})

    drop: float = 0.2
    pattern: str = "*prompt*"

    def __post_init__(self) -> None:
        if not (_is_number(self.drop) and 0 < self.drop < 1):
            raise ValueError(f"NullSpace: drop is {self.drop!r}, expected 0 < fraction < 1")
        if not isinstance(self.pattern, str):
            raise ValueError(f"NullSpace: pattern is {self.pattern!r}, expected a shell pattern of names")

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        names = {name for name in delta if fnmatchcase(name, self.pattern)}
        if not names:
            raise ValueError(
                f"NullSpace: pattern {self.pattern!r} matches no tensor, expected at least one of {_some(delta)}"
            )
        return {name: self._project(name, delta, context) if name in names else delta[name] for name in delta}

    def _project(self, name: str, delta: State, context: State) -> Tensor:
        step = delta[name]
        if name not in context or context[name].shape != step.shape:
            found = f"of shape {tuple(context[name].shape)}" if name in context else "missing"
            raise ValueError(f"NullSpace: the global {name} is {found}, expected shape {tuple(step.shape)}")
        directions = self.directions(context[name], name).T
        flat = step.to(torch.float64).reshape(len(step), -1)
        return (flat - flat @ directions @ directions.T).reshape(step.shape).to(step.dtype)

    def directions(self, prompt: Tensor, name: str = "prompt") -> Tensor:
        """The orthonormal directions that are dropped, float64, ``(directions, features)``, the leading one first.

        Raises
        ------
        ValueError
            If ``prompt`` is not tokens by at least two features; with one, nothing of a step would be left.
        """
        features = math.prod(prompt.shape[1:])
        if prompt.ndim < 2 or len(prompt) < 1 or features < 2:
            raise ValueError(
                f"NullSpace: {name} has shape {tuple(prompt.shape)}, expected (tokens, features), 2 features or more"
            )
        # The right singular vectors are the eigenvectors of the covariance, without squaring the rounding errors.
        _, sizes, vectors = torch.linalg.svd(prompt.to(torch.float64).reshape(len(prompt), -1), full_matrices=False)
        rank = int((sizes > sizes[0] * max(len(prompt), features) * torch.finfo(prompt.dtype).eps).sum())
        # 0.29 * 100 is a little less than 29.
        count = max(1, math.floor(self.drop * features + 1e-9))
        leading: Tensor = vectors[: min(count, rank)]
        return leading


@dataclass(frozen=True)
class TopK(Transform):
    r"""Send the entries of the largest magnitude over all tensors together, as float32 [Mem]_.

    ``values`` holds them in the order of their places in the concatenation of the tensors, sorted by name; ``gaps``
    the number of entries skipped before each, one byte as a rule. The highest number of the dtype says that so many
    are skipped and the gap goes on. That is 1.1 bytes per place at 1 % of places at random; the entropy is 1.0.

    Parameters
    ----------
    fraction
        Of all entries, in (0, 1]; rounded, at least one entry. Of equal magnitudes the first is sent.

    References
    ----------
    .. [Mem] Stich et al., Sparsified SGD with Memory, NeurIPS 2018; its contraction is q = 1 - k/n for k of n entries.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"idempotent", "zero", "scale", "name_order", "contraction"})
    stage: ClassVar[int] = 1

    fraction: float = 0.01

    def __post_init__(self) -> None:
        if not (_is_number(self.fraction) and 0 < self.fraction <= 1):
            raise ValueError(f"TopK: fraction is {self.fraction!r}, expected 0 < fraction <= 1")

    def count(self, layout: Layout) -> int:
        """How many entries of an update travel."""
        return max(1, round(self.fraction * _n_entries(layout)))

    def carries(self, layout: Layout) -> Layout:
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
        expected = self.carries(layout)
        if payload.keys() != {"gaps", "values"}:
            raise MessageError(f"TopK: payload holds {_some(payload)}, expected gaps, values")
        _check_tensors({"values": payload["values"]}, expected, "TopK")
        gaps, total = payload["gaps"], _n_entries(layout)
        if gaps.dtype not in _GAP_DTYPES or gaps.ndim != 1 or bool((gaps < 0).any()):
            raise MessageError(f"TopK: gaps are {_text(gaps)}, expected one axis of uint8 or int16, not negative")
        places, end = _places_of(gaps)
        if len(places) != self.count(layout) or end > total:
            raise MessageError(
                f"TopK: {len(places)} places within {end} entries, expected {self.count(layout)} within {total}"
            )

    def decode(self, payload: State, layout: Layout) -> State:
        flat = torch.zeros(_n_entries(layout))
        flat[_places_of(payload["gaps"])[0]] = payload["values"]
        return _unflatten(flat, layout)


_GAP_DTYPES = (torch.uint8, torch.int16)


def _gaps_of(places: Tensor, dtype: torch.dtype) -> Tensor:
    """Code ascending places as gaps; the inverse of :func:`_places_of`."""
    limit = torch.iinfo(dtype).max
    skipped = places.diff(prepend=places.new_tensor([-1])) - 1
    ends = (skipped // limit + 1).cumsum(0)
    gaps = torch.full((int(ends[-1]),), limit, dtype=dtype)
    gaps[ends - 1] = (skipped % limit).to(dtype)
    return gaps


def _places_of(gaps: Tensor) -> tuple[Tensor, int]:
    """Ascending places, and how many entries the gaps span."""
    is_place = gaps < torch.iinfo(gaps.dtype).max
    spans = (gaps.to(torch.int64) + is_place).cumsum(0)
    return spans[is_place] - 1, int(spans[-1]) if len(spans) else 0


@dataclass(frozen=True)
class LowRank(Transform):
    r"""Send tensors of two and more axes as two factors of ``rank`` columns, where these are fewer numbers.

    A tensor is read as a matrix ``(out, rest)``; its truncated singular value decomposition :math:`U S V^T` is the
    closest of that rank (Eckart and Young) and travels as :math:`U S^{1/2}` and :math:`S^{1/2} V^T`, whose numbers
    are of one order for a quantizer. All other tensors travel whole. ``factors`` holds all of it as float32, the
    tensors sorted by name.

    Parameters
    ----------
    rank
        At least 1.

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

    def carries(self, layout: Layout) -> Layout:
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
        """Numbers in each of the two factors; in the tensor where it travels whole."""
        total = math.prod(shape)
        if len(shape) < 2 or self.rank * (shape[0] + total // max(1, shape[0])) >= total:
            return (total,)
        return self.rank * shape[0], self.rank * total // shape[0]


@dataclass(frozen=True)
class Int8(Transform):
    r"""Send every number as 8 bits, rounded at random so that its mean is exact [QSGD]_.

    Blocks of ``block`` numbers of the concatenation of the tensors, sorted by name, share the scale s, their largest
    magnitude. A number x becomes one of the two neighbors of :math:`127 x / s`, the nearer the likelier. Its error
    is below s/127, hence the contraction q = block/127^2. After another codec its floating-point tensors are coded
    and its integer ones pass. ``codes`` is int8, ``scales`` float32.

    Parameters
    ----------
    block
        1 to 16128. Smaller blocks cost 4/block bytes per number and lose less.

    References
    ----------
    .. [QSGD] Alistarh et al., QSGD, NeurIPS 2017; blocks are its buckets, scaled by the maximum instead of the norm.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"unbiased", "zero", "scale", "name_order", "contraction"})
    stage: ClassVar[int] = 2

    block: int = 256

    def __post_init__(self) -> None:
        if type(self.block) is not int or not 1 <= self.block < 127**2:
            raise ValueError(f"Int8: block is {self.block!r}, expected a whole number from 1 to {127**2 - 1}")

    def carries(self, layout: Layout) -> Layout:
        return {"scales": ((-(-_n_entries(layout) // self.block),), torch.float32)}

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        passed = {name: tensor for name, tensor in delta.items() if not tensor.is_floating_point()}
        flat = _flatten({name: tensor for name, tensor in delta.items() if name not in passed})
        blocks = self._blocks(flat)
        scales = blocks.abs().amax(dim=1)
        # Divided first: the quotient is at most 1, so no code exceeds 127. A block of zeros has any divisor.
        levels = blocks / torch.where(scales > 0, scales, 1.0)[:, None] * 127
        lower = levels.floor()
        codes = lower + (torch.rand(levels.shape, generator=generator) < levels - lower)
        return passed | {"codes": codes.to(torch.int8).reshape(-1)[: len(flat)], "scales": scales}

    def check_payload(self, payload: State, layout: Layout) -> None:
        expected = {"codes": ((_n_entries(layout),), torch.int8), **self.carries(layout)}
        passed = {name: tensor for name, tensor in payload.items() if name not in expected}
        _check_tensors({name: payload[name] for name in payload if name in expected}, expected, "Int8")
        wrong = sorted(name for name in passed if passed[name].is_floating_point() or name in layout)
        if wrong:
            raise MessageError(f"Int8: payload holds {_some(wrong)}, expected codes, scales and integer tensors")
        if bool((payload["codes"] == -128).any()) or bool((payload["scales"] < 0).any()):
            raise MessageError("Int8: codes or scales out of range, expected codes from -127 to 127, scales from 0")

    def decode(self, payload: State, layout: Layout) -> State:
        passed = {name: tensor for name, tensor in payload.items() if name not in ("codes", "scales")}
        blocks = self._blocks(payload["codes"].to(torch.float32)) / 127 * payload["scales"][:, None]
        return passed | _unflatten(blocks.reshape(-1)[: len(payload["codes"])], layout)

    def _blocks(self, flat: Tensor) -> Tensor:
        return torch.nn.functional.pad(flat, (0, -len(flat) % self.block)).reshape(-1, self.block)


#: Transforms by the name used in recipes.
TRANSFORMS: dict[str, type[Transform]] = {
    "clip": Clip,
    "null_space": NullSpace,
    "topk": TopK,
    "low_rank": LowRank,
    "int8": Int8,
}


@dataclass(frozen=True)
class Chain:
    """Transforms one after the other; without any, the update travels as it is.

    Dense transforms come first, then at most one of ``topk`` and ``low_rank``, then at most ``int8``.
    """

    transforms: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        for first, second in itertools.pairwise(self.transforms):
            if second.stage < first.stage or 0 < second.stage == first.stage:
                raise ValueError(
                    f"Chain: {type(second).__name__} cannot follow {type(first).__name__}; expected clip and "
                    "null_space first, then one of topk and low_rank, then int8"
                )

    @property
    def dense(self) -> "Chain":
        """The transforms that map an update to another."""
        return Chain(tuple(transform for transform in self.transforms if transform.stage == 0))

    @property
    def codecs(self) -> "Chain":
        """The transforms that shorten what travels."""
        return Chain(tuple(transform for transform in self.transforms if transform.stage > 0))

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        """Make what travels.

        Raises
        ------
        ValueError
            If the update has no entry, is not finite, or does not fit a transform.
        """
        if not _n_entries(layout(delta)):
            raise ValueError("Chain: the update holds no entry, expected at least one")
        check_finite(delta, "update")
        payload = delta
        for transform in self.transforms:
            payload = transform.encode(payload, generator, context)
        return payload

    def decode(self, payload: State, layout: Layout) -> State:
        """Check what arrived and make the update of ``layout`` from it.

        Raises
        ------
        MessageError
            If it is not the payload of such an update, or does not decode to finite numbers.
        """
        layouts = [layout]
        for transform in self.transforms:
            layouts.append(transform.carries(layouts[-1]))
        for transform, before in zip(reversed(self.transforms), reversed(layouts[:-1]), strict=True):
            transform.check_payload(payload, before)
            payload = transform.decode(payload, before)
        # Finite factors can have a product that is not, and integer tensors pass a quantizer unread.
        _check_tensors(payload, layout, "update")
        return payload

    def check_payload(self, payload: State, layout: Layout) -> None:
        """Refuse what :meth:`decode` would refuse, by decoding it."""
        self.decode(payload, layout)


class Encoded(NamedTuple):
    """What travels, what the receiver makes of it, and what is still owed."""

    payload: State
    decoded: State
    residual: State


def encode_with_feedback(
    chain: Chain, delta: State, residual: State, generator: torch.Generator, context: State
) -> Encoded:
    r"""Encode an update together with what the codecs lost of earlier ones.

    With the dense transforms :math:`T`, the codecs :math:`D` and the residual :math:`e_0 = 0`,

    .. math:: u_t = T(d_t + e_t), \quad e_{t+1} = u_t - D(u_t).

    Without dense transforms the receiver's sum is that of the updates less the last residual. What a dense transform
    removes is meant to be gone and is not made up for; that it acts on the sum keeps its promise (the norm, the null
    space of the present prompt) for what is encoded.

    Parameters
    ----------
    residual
        That of the last call at this site, float64; empty at first.

    Raises
    ------
    ValueError
        If the residual is of other tensors than the update, and as for :meth:`Chain.encode`.

    References
    ----------
    .. [S] Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014.
    .. [EF] Karimireddy et al., Error Feedback Fixes SignSGD and other Gradient Compression Schemes, ICML 2019,
       Algorithm 2.
    """
    if residual:
        expected = {name: (tuple(tensor.shape), torch.float64) for name, tensor in delta.items()}
        _check_tensors(residual, expected, "residual")
    total = {name: tensor.to(torch.float64) + residual.get(name, 0) for name, tensor in delta.items()}
    meant = chain.dense.encode(total, generator, context)
    payload = chain.codecs.encode({name: meant[name].to(delta[name].dtype) for name in delta}, generator, context)
    decoded = chain.decode(payload, layout(delta))
    return Encoded(payload, decoded, {name: meant[name] - decoded[name].to(torch.float64) for name in delta})


def n_bytes(payload: State) -> int:
    """What the tensors weigh, without the header of a message."""
    return sum(tensor.nbytes for tensor in payload.values())


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _n_entries(layout: Layout) -> int:
    return sum(math.prod(shape) for shape, _ in layout.values())


def _flatten(state: State) -> Tensor:
    return torch.cat([state[name].reshape(-1).to(torch.float32) for name in sorted(state)])


def _unflatten(flat: Tensor, layout: Layout) -> dict[str, Tensor]:
    names = sorted(layout)
    parts = flat.split([math.prod(layout[name][0]) for name in names])
    return {name: part.reshape(layout[name][0]).to(layout[name][1]) for name, part in zip(names, parts, strict=True)}


def _check_tensors(found: State, expected: Layout, what: str) -> None:
    if found.keys() != expected.keys():
        raise MessageError(f"{what}: found tensors {_some(found)}, expected {_some(expected)}")
    for name, (shape, dtype) in expected.items():
        if tuple(found[name].shape) != shape or found[name].dtype != dtype:
            raise MessageError(f"{what}: {name} is {_text(found[name])}, expected {dtype} {shape}")
    check_finite({name: tensor for name, tensor in found.items() if tensor.is_floating_point()}, what)


def _text(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
    return (", ".join(ordered[:5]) or "none") + more
