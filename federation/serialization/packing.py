"""Named tensors: their digests, and their safetensors bytes with a JSON header, checked on arrival."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from recon import State as State

#: Shape and dtype of every tensor of a state.
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
Entry = TypeVar("Entry")

FORMAT = 1
# Length of the padded header fields: the size of a message then does not depend on the digits of its numbers.
_PADDED_FIELDS = 640
_MAX_HEADER = 16 * 2**20
_MAX_BYTES = 2**32
_METADATA = "fedrecon"
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
    """A refused message; the text is the reason, in one line."""


class Message(NamedTuple):
    """An unpacked message."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]


def digest(state: State) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the sorted names."""
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


def under(prefix: str, state: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same state or layout, with ``prefix`` before each name."""
    return {prefix + name: tensor for name, tensor in state.items()}


def below(prefix: str, state: State) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without the prefix; the inverse of :func:`under`."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def join(state: State) -> dict[str, Tensor]:
    """Concatenate all tensors of one dtype, in the order of their names, to one flat tensor named by the dtype.

    The names would take most of the bytes of a small update; their :func:`layout_digest` travels instead.
    """
    by_dtype: dict[str, list[Tensor]] = {}
    for name in sorted(state):
        by_dtype.setdefault(_DTYPE_NAMES[state[name].dtype], []).append(state[name].detach().reshape(-1))
    return {dtype: torch.cat(parts) for dtype, parts in by_dtype.items()}


def split(joined: State, expected: Layout, kind: str) -> dict[str, Tensor]:
    """The named tensors of ``expected`` from flat ones; the inverse of :func:`join`.

    Raises
    ------
    MessageError
        If the flat tensors have more or fewer numbers.
    """
    counts: dict[str, int] = {}
    for shape, dtype in expected.values():
        counts[_DTYPE_NAMES[dtype]] = counts.get(_DTYPE_NAMES[dtype], 0) + math.prod(shape)
    check_layout(layout(joined), {name: ((count,), _DTYPES[name]) for name, count in counts.items()}, kind)
    rest = dict(joined)
    state = {}
    for name in sorted(expected):
        shape, dtype = expected[name]
        flat = rest[_DTYPE_NAMES[dtype]]
        state[name], rest[_DTYPE_NAMES[dtype]] = flat[: math.prod(shape)].reshape(shape), flat[math.prod(shape) :]
    return state


def layout_digest(expected: Layout) -> str:
    """SHA-256 over names, dtypes and shapes."""
    entries = [[name, str(dtype), list(shape)] for name, (shape, dtype) in sorted(expected.items())]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def check_finite(state: State, what: str) -> None:
    """Refuse NaN and infinity.

    Raises
    ------
    MessageError
        The text names ``what`` and the tensor.
    """
    # NaN and infinity survive one fast sum. Finite numbers may overflow in it: then each tensor is checked.
    flat = [tensor.detach().reshape(-1) for tensor in state.values()]
    if not flat or bool(torch.cat(flat).sum().isfinite()):
        return
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise MessageError(f"{what}: tensor {name!r} holds NaN or infinity, expected finite numbers")


def pack(kind: str, header: Mapping[str, Any], tensors: State) -> bytes:
    """Write a message as safetensors bytes; ``header`` holds JSON values without NaN.

    The safetensors library would need most of a round's overhead for this.
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
    """Read a message; nothing of it is executed or unpickled.

    Parameters
    ----------
    kind
        Expected kind of the message.
    expected
        Layout of its tensors; None accepts any.
    beside
        Prefix of further tensors that are accepted.
    max_bytes
        Largest size, where any or further tensors are accepted.

    Raises
    ------
    MessageError
        If the bytes are too many, not safetensors or of another kind, or if names, shapes, dtypes or values are wrong.
    """
    limit = max_bytes if expected is None or beside is not None else largest_message(expected)
    if len(data) > limit:
        raise MessageError(f"{kind}: {len(data)} bytes, expected at most {limit}")
    header, entries = _parse(data, kind)
    if expected is not None:
        wanted = {name: e for name, e in entries.items() if beside is None or not name.startswith(beside)}
        check_layout(wanted, expected, kind)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise MessageError(f"{kind}: damaged safetensors ({error})") from None
    # Two JSON parsers have read the header, ours and the library's; a message on which they differ is refused.
    check_layout(layout(tensors), entries, kind)
    check_finite(tensors, kind)
    return Message(header, tensors)


def kind_of(data: bytes) -> str:
    """Kind of a message that :func:`unpack` would read; empty if there is none."""
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER, len(data) - 8):
        return ""
    try:
        kind = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_METADATA])["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return kind if isinstance(kind, str) else ""


def _parse(data: bytes, kind: str) -> tuple[dict[str, Any], Layout]:
    """Header fields and layout, read before any tensor."""
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


def check_layout(found: Layout, expected: Layout, kind: str) -> None:
    """Refuse names, shapes or dtypes other than the expected ones.

    Raises
    ------
    MessageError
        The text names ``kind`` and the missing and unexpected tensors.
    """
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


def largest_message(expected: Layout) -> int:
    """Upper bound of the size of a message with these tensors, in bytes."""
    return _MAX_HEADER + sum(math.prod(shape) * dtype.itemsize for shape, dtype in expected.values())
