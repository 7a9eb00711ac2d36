"""What travels between server and sites: safetensors bytes with fixed header fields, checked on arrival."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

if TYPE_CHECKING:
    from .transforms import Chain

#: Named tensors: parameters, optimizer moments.
State = Mapping[str, Tensor]
#: Shape and dtype of every tensor of a state.
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]

SITE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
FORMAT = 1
# A broadcast's or update's fields, padded: the size of a message then does not depend on the digits of a
# number.
_PADDED_FIELDS = 1024
_MAX_HEADER = 16 * 2**20
_MAX_BYTES = 2**32
_METADATA = "fedrecon"
#: Before the names of tensors that a method sends beside the parameters.
_AUX = "aux/"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class MessageError(ValueError):
    """A message that is refused, with the reason in one line."""


class Message(NamedTuple):
    """An unpacked message."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]


def digest(state: State) -> str:
    """SHA-256 over names, dtypes, shapes and bytes; the order of the names in ``state`` does not matter."""
    tensors = dict(sorted(state.items()))
    entries = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()]
    sha = hashlib.sha256(json.dumps(entries).encode() + b"\n")
    for tensor in tensors.values():
        sha.update(_bytes(tensor))
    return sha.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def layout(state: State) -> Layout:
    """Shape and dtype by name."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}


def check_finite(state: State, what: str) -> None:
    """Refuse NaN and infinity.

    Raises
    ------
    MessageError
        Naming ``what`` and the tensor.
    """
    # NaN and infinity survive a sum; one that overflows is looked at tensor by tensor, like a wrong one.
    flat = [tensor.detach().reshape(-1) for tensor in state.values()]
    if not flat or bool(torch.cat(flat).sum().isfinite()):
        return
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise MessageError(f"{what}: tensor {name!r} holds NaN or infinity, expected finite numbers")


def pack(kind: str, header: Mapping[str, Any], tensors: State) -> bytes:
    """Write a message as safetensors bytes; ``header`` holds what JSON can say, no NaN.

    Written here and not by the library, whose time per tensor is most of a round's overhead.
    """
    content = json.dumps({"format": FORMAT, "kind": kind, "header": dict(header)}, allow_nan=False, sort_keys=True)
    table: dict[str, Any] = {"__metadata__": {_METADATA: content.ljust(_PADDED_FIELDS)}}
    chunks: list[memoryview] = []
    end = 0
    for name in sorted(tensors):
        begin, end = end, end + tensors[name].nbytes
        shape, dtype = list(tensors[name].shape), _DTYPE_NAMES[tensors[name].dtype]
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        chunks.append(_bytes(tensors[name]))
    head = json.dumps(table, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *chunks])


def unpack(
    data: bytes,
    *,
    kind: str,
    expected: Layout | None = None,
    beside: str | None = None,
    max_bytes: int = _MAX_BYTES,
) -> Message:
    """Read a message; nothing in it is ever executed or unpickled.

    Parameters
    ----------
    data
        What arrived.
    kind
        The kind of message that is due.
    expected
        Exactly the tensors that it must hold; None accepts any.
    beside
        Tensors whose names begin so may be there too.
    max_bytes
        Largest message where any tensors are accepted.

    Raises
    ------
    MessageError
        If it is too large, not safetensors, of another kind, or if names, shapes, dtypes or values are wrong.
    """
    limit = max_bytes if expected is None or beside is not None else _largest(expected)
    if len(data) > limit:
        raise MessageError(f"{kind}: {len(data)} bytes, expected at most {limit}")
    header, entries = _parse(data, kind)
    if expected is not None:
        wanted = {name: e for name, e in entries.items() if beside is None or not name.startswith(beside)}
        _check_layout(wanted, expected, kind)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise MessageError(f"{kind}: damaged safetensors ({error})") from None
    # Two JSON parsers read the header; a message on which they differ is refused.
    _check_layout(layout(tensors), entries, kind)
    check_finite(tensors, kind)
    return Message(header, tensors)


def _parse(data: bytes, kind: str) -> tuple[dict[str, Any], Layout]:
    """Header fields and layout, before a single tensor is read."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_MAX_HEADER, len(data) - 8):
        raise MessageError(f"{kind}: {len(data)} bytes that are not safetensors")
    try:
        table = json.loads(data[8 : 8 + length])
        content = json.loads(table.pop("__metadata__")[_METADATA], parse_constant=_refuse_constant)
        header = dict(content["header"])
        entries = {name: (tuple(entry["shape"]), _DTYPES[entry["dtype"]]) for name, entry in table.items()}
        found = (content["format"], content["kind"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MessageError(f"{kind}: safetensors without the header of a fedrecon message") from None
    if found != (FORMAT, kind):
        raise MessageError(f"{kind}: found format {found[0]!r}, kind {found[1]!r}, expected {FORMAT}, {kind!r}")
    return header, entries


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _check_layout(found: Layout, expected: Layout, kind: str) -> None:
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise MessageError(
            f"{kind}: {len(missing)} tensors missing {missing[:3]}, {len(extra)} unexpected {extra[:3]}; "
            "network and scope must be the same everywhere"
        )
    for name, entry in expected.items():
        if found[name] != entry:
            raise MessageError(f"{kind}: tensor {name!r} is {_text(found[name])}, expected {_text(entry)}")


def _text(entry: tuple[tuple[int, ...], torch.dtype]) -> str:
    return f"{str(entry[1]).removeprefix('torch.')} {entry[0]}"


def _n_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _largest(expected: Layout) -> int:
    return _MAX_HEADER + sum(_n_bytes(*entry) for entry in expected.values())


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


#: What each header field of a message must be. A field that is not here cannot travel.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "round": ("a count", _is_count),
    "site": ("a site's name", lambda v: isinstance(v, str) and SITE_NAME.fullmatch(v) is not None),
    "digest": ("a SHA-256", _is_digest),
    "best_round": ("a count or null", lambda v: v is None or _is_count(v)),
    "encoded": ("true or false", lambda v: isinstance(v, bool)),
    "evaluate_only": ("true or false", lambda v: isinstance(v, bool)),
    "loaded_digest": ("a SHA-256", _is_digest),
    "kept_digest": ("a SHA-256", _is_digest),
    "score_before": ("a finite number or null", lambda v: v is None or _is_number(v)),
    "score_after": ("a finite number or null", lambda v: v is None or _is_number(v)),
    "loss": ("a finite number or null", lambda v: v is None or _is_number(v)),
    "n_samples": ("a positive count", lambda v: _is_count(v) and v > 0),
    "n_steps": ("a count", _is_count),
    "seconds": ("a finite number", lambda v: _is_number(v) and v >= 0),
}


class _Fields:
    """A dataclass whose fields, but for the tensors, are the header of a message."""

    def __post_init__(self) -> None:
        for name, value in self.header().items():
            wanted, is_right = _FIELDS[name]
            if not is_right(value):
                raise MessageError(f"{self.kind()}: {name} is {str(value)[:80]!r}, expected {wanted}")

    @staticmethod
    def kind() -> str:
        raise NotImplementedError

    @classmethod
    def names(cls) -> list[str]:
        return [f.name for f in fields(cls) if f.name not in _TENSORS]  # type: ignore[arg-type]

    def header(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.names()}

    @classmethod
    def check_names(cls, header: Mapping[str, Any]) -> None:
        if header.keys() != set(cls.names()):
            raise MessageError(f"{cls.kind()}: header has {sorted(header)}, expected exactly {cls.names()}")


#: Fields of a message that hold tensors.
_TENSORS = ("shared", "aux")


def _join(shared: State, aux: State) -> dict[str, Tensor]:
    return {**shared, **{_AUX + name: tensor for name, tensor in aux.items()}}


def _split(tensors: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    shared = {name: tensor for name, tensor in tensors.items() if not name.startswith(_AUX)}
    aux = {name.removeprefix(_AUX): tensor for name, tensor in tensors.items() if name.startswith(_AUX)}
    return shared, aux


@dataclass(frozen=True)
class Wire:
    """What a message must hold, the same at server and site.

    ``shared`` is the layout of the shared parameters, ``aux`` that of what a method sends beside them in either
    direction. ``chain`` encodes changes of the parameters; None sends them as they are.
    """

    shared: Layout
    aux: Layout = field(default_factory=dict)
    chain: "Chain | None" = None

    def read(self, data: bytes, kind: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Header, parameters and the rest. Encoded parameters are checked, and left as they came.

        Raises
        ------
        MessageError
            If names, shapes, dtypes or values are wrong.
        """
        dense = {**self.shared, **{_AUX + name: entry for name, entry in self.aux.items()}}
        header, tensors = unpack(data, kind=kind, max_bytes=_largest(dense))
        shared, aux = _split(tensors)
        _check_layout(layout(aux), self.aux, f"{kind}, beside the parameters")
        if not header.get("encoded"):
            _check_layout(layout(shared), self.shared, kind)
        elif self.chain is None:
            raise MessageError(f"{kind}: its parameters are encoded, expected them as they are")
        else:
            try:
                self.chain.check_payload(shared, self.shared)
            except ValueError as error:
                raise MessageError(f"{kind}: {error}") from None
        return header, shared, aux

    def decode(self, base: State, payload: State) -> dict[str, Tensor]:
        """Parameters from those that the receiver has and an encoded change."""
        assert self.chain is not None
        change = self.chain.decode(payload, self.shared)
        return {name: base[name] + change[name] for name in self.shared}


@dataclass(frozen=True, eq=False)
class Broadcast(_Fields):
    """What the server sends to a site: the shared tensors of a round, their digest, the best round so far.

    If ``encoded``, ``shared`` is the encoded change of the parameters since the round before, which the site has.
    """

    round: int
    site: str
    shared: State
    digest: str
    best_round: int | None = None
    evaluate_only: bool = False
    encoded: bool = False
    aux: State = field(default_factory=dict)

    @staticmethod
    def kind() -> str:
        return "broadcast"

    def to_bytes(self) -> bytes:
        return pack(self.kind(), self.header(), _join(self.shared, self.aux))

    @classmethod
    def from_bytes(cls, data: bytes, *, site: str, wire: Wire) -> Self:
        """Read at ``site``, which expects exactly the tensors that its scope shares.

        Raises
        ------
        MessageError
            If anything differs from that.
        """
        header, shared, aux = wire.read(data, cls.kind())
        cls.check_names(header)
        if header["site"] != site:
            raise MessageError(f"broadcast: it is for site {header['site']!r}, expected {site!r}")
        return cls(shared=shared, aux=aux, **header)


@dataclass(frozen=True, eq=False)
class SiteReport(_Fields):
    """A site's reply to an evaluate-only broadcast.

    ``loaded_digest`` is that of the shared parameters after loading, ``kept_digest`` that of the kept ones at
    the end of the round, ``score_before`` the validation score of the broadcast parameters (higher is better,
    None where none is possible), ``seconds`` the time in training and validation.
    """

    round: int
    site: str
    loaded_digest: str
    kept_digest: str
    score_before: float | None
    seconds: float

    @staticmethod
    def kind() -> str:
        return "report"

    def to_bytes(self) -> bytes:
        return pack(self.kind(), self.header(), {})

    @classmethod
    def from_bytes(cls, data: bytes, *, broadcast: Broadcast) -> Self:
        """Read the reply to ``broadcast``.

        Raises
        ------
        MessageError
            If it answers another round or site, or if the site did not load what was broadcast.
        """
        header, _ = unpack(data, kind=cls.kind(), expected={})
        _check_reply(header, cls, broadcast)
        return cls(**header)


@dataclass(frozen=True, eq=False)
class SiteUpdate(SiteReport):
    """A site's reply after training: shared tensors, their weight, the score after it and the mean loss.

    If ``encoded``, ``shared`` is the encoded change of the parameters that were broadcast.
    """

    shared: State
    n_samples: int
    score_after: float | None
    loss: float | None
    n_steps: int = 0
    encoded: bool = False
    aux: State = field(default_factory=dict)

    @staticmethod
    def kind() -> str:
        return "update"

    def to_bytes(self) -> bytes:
        return pack(self.kind(), self.header(), _join(self.shared, self.aux))

    @classmethod
    def from_bytes(cls, data: bytes, *, broadcast: Broadcast, wire: Wire | None = None) -> Self:
        """Read the reply to ``broadcast``; without ``wire`` it must hold exactly the tensors that were broadcast.

        Raises
        ------
        MessageError
            As for :class:`SiteReport`, and if names, shapes, dtypes, values or the weight are wrong.
        """
        wire = Wire(layout(broadcast.shared), layout(broadcast.aux)) if wire is None else wire
        header, shared, aux = wire.read(data, cls.kind())
        _check_reply(header, cls, broadcast)
        return cls(shared=shared, aux=aux, **header)


def _check_reply(header: Mapping[str, Any], cls: type[SiteReport], broadcast: Broadcast) -> None:
    cls.check_names(header)
    for name, wanted in (
        ("site", broadcast.site),
        ("round", broadcast.round),
        ("loaded_digest", broadcast.digest),
    ):
        if header[name] != wanted:
            raise MessageError(f"{cls.kind()}: {name} is {header[name]!r}, expected {wanted!r}, that of the broadcast")
