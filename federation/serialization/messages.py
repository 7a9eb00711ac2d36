"""Messages between server and sites: broadcasts and replies with fixed header fields, checked on arrival."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self

from torch import Tensor

from recon import MOST_DB, State

from ..config import SITE_NAME
from .packing import (
    Layout,
    MessageError,
    below,
    join,
    kind_of,
    largest_message,
    layout,
    layout_digest,
    pack,
    split,
    under,
    unpack,
)

#: Prefix of the tensors that a method sends beside the parameters.
_AUX = "aux/"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


#: Far above any loss or time, and means of such numbers stay finite.
MOST_LOSS = 1e12


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST_LOSS


def _is_score(value: Any) -> bool:
    """None, a PSNR in dB, or a negative residual in units of the noise."""
    return value is None or (_is_number(value) and -1e6 <= value <= MOST_DB)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


_SCORE = "null, a PSNR of 0 to 100 dB, or a negative residual above -1e6"
#: Expected value of each header field, in words and as a check. No other field can travel.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "round": ("a count", _is_count),
    "site": ("a site's name", lambda v: isinstance(v, str) and SITE_NAME.fullmatch(v) is not None),
    "digest": ("a SHA-256", _is_digest),
    "best_round": ("a count or null", lambda v: v is None or _is_count(v)),
    "accepted_round": ("a count or null", lambda v: v is None or _is_count(v)),
    "encoded": ("true or false", lambda v: isinstance(v, bool)),
    "evaluate_only": ("true or false", lambda v: isinstance(v, bool)),
    "loaded_digest": ("a SHA-256", _is_digest),
    "kept_digest": ("a SHA-256", _is_digest),
    "score_before": (_SCORE, _is_score),
    "score_after": (_SCORE, _is_score),
    "loss": ("a finite number or null", lambda v: v is None or _is_number(v)),
    "n_samples": ("a positive count", lambda v: _is_count(v) and v > 0),
    "n_steps": ("a count", _is_count),
    "seconds": ("a finite number", lambda v: _is_number(v) and v >= 0),
    "epsilon": ("null or a finite number of 0 or more", lambda v: v is None or (_is_number(v) and v >= 0)),
}


class _Fields:
    """A dataclass whose fields are the header of a message, except those that hold tensors."""

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


class Decoder(Protocol):
    """Decodes updates at the receiver, as :class:`federation.methods.Chain` does."""

    def check_payload(self, payload: State, layout: Layout, /) -> None: ...

    def decode(self, payload: State, layout: Layout, /) -> State: ...


@dataclass(frozen=True)
class Wire:
    """Layout of the messages, the same at server and site.

    ``shared`` is the layout of the shared parameters, ``aux`` the layout of the tensors beside them, in both
    directions. ``chain`` decodes encoded changes of the parameters; None: parameters travel plain. ``most_bytes`` is
    the size of an encoded change that may be larger than the parameters.
    """

    shared: Layout
    aux: Layout = field(default_factory=dict)
    chain: Decoder | None = None
    most_bytes: int = 0

    def read(self, data: bytes, kind: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Header, parameters, and the tensors beside them; encoded parameters are checked but not decoded.

        Raises
        ------
        MessageError
            If names, shapes, dtypes or values are wrong.
        """
        largest = largest_message({**self.shared, **under(_AUX, self.aux)}) + self.most_bytes
        header, tensors = unpack(data, kind=kind, max_bytes=largest)
        shared = {name: tensor for name, tensor in tensors.items() if not name.startswith(_AUX)}
        encoded = bool(header.get("encoded"))
        wanted = _layout_digest(self.shared, self.aux, encoded)
        if (found := header.pop("layout", None)) != wanted:
            raise MessageError(
                f"{kind}: the digest of the tensors' names, dtypes and shapes is {str(found)[:12]}, expected "
                f"{wanted[:12]}; network, scope and method must be the same everywhere"
            )
        aux = split(below(_AUX, tensors), self.aux, f"{kind}, beside the parameters")
        if not encoded:
            return header, split(shared, self.shared, kind), aux
        if self.chain is None:
            raise MessageError(f"{kind}: found encoded parameters, expected plain ones; use the same recipe everywhere")
        try:
            self.chain.check_payload(shared, self.shared)
        except ValueError as error:
            raise MessageError(f"{kind}: {error}") from None
        return header, shared, aux

    def decode(self, base: State, payload: State) -> dict[str, Tensor]:
        """Parameters from the receiver's ``base`` and an encoded change."""
        assert self.chain is not None
        change = self.chain.decode(payload, self.shared)
        return {name: base[name] + change[name] for name in self.shared}


def _packed(kind: str, header: Mapping[str, Any], shared: State, aux: State) -> bytes:
    """A message with joined tensors and the digest of their names in the header; encoded parameters are not joined."""
    described = _layout_digest(layout(shared), layout(aux), header["encoded"])
    tensors = {**(shared if header["encoded"] else join(shared)), **under(_AUX, join(aux))}
    return pack(kind, {**header, "layout": described}, tensors)


def _layout_digest(shared: Layout, aux: Layout, encoded: bool) -> str:
    return layout_digest({**({} if encoded else shared), **under(_AUX, aux)})


@dataclass(frozen=True, eq=False)
class Broadcast(_Fields):
    """Message of the server to a site: the shared parameters of a round, their digest, the best round so far.

    ``accepted_round`` is the last round in which the server used the site's reply; the site drops kept state of later
    rounds. If ``encoded``, ``shared`` is the encoded change since the parameters of the round before, which the site
    has stored.
    """

    round: int
    site: str
    shared: State
    digest: str
    best_round: int | None = None
    accepted_round: int | None = None
    evaluate_only: bool = False
    encoded: bool = False
    aux: State = field(default_factory=dict)

    @staticmethod
    def kind() -> str:
        return "broadcast"

    def to_bytes(self) -> bytes:
        return _packed(self.kind(), self.header(), self.shared, self.aux)

    @classmethod
    def from_bytes(cls, data: bytes, *, site: str, wire: Wire) -> Self:
        """Read a broadcast at ``site``.

        Raises
        ------
        MessageError
            If it is of another site, or if its header, names, shapes, dtypes or values are wrong.
        """
        header, shared, aux = wire.read(data, cls.kind())
        cls.check_names(header)
        if header["site"] != site:
            raise MessageError(f"broadcast: it is for site {header['site']!r}, expected {site!r}")
        return cls(shared=shared, aux=aux, **header)


@dataclass(frozen=True, eq=False)
class SiteReport(_Fields):
    """A site's reply to an evaluate-only broadcast.

    ``loaded_digest`` is the digest of the shared parameters after loading, ``kept_digest`` the digest of the kept
    parameters at the end of the round. ``score_before`` is the validation score of the broadcast parameters, higher is
    better, None if there is none. ``seconds`` is the time of training and validation.
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
            If it is of another round or site, or if the site loaded other parameters than were broadcast.
        """
        header, _ = unpack(data, kind=cls.kind(), expected={})
        _check_reply(header, cls, broadcast)
        return cls(**header)


@dataclass(frozen=True, eq=False)
class SiteUpdate(SiteReport):
    """A site's reply after training: shared parameters, number of training samples, new score, mean loss.

    If ``encoded``, ``shared`` is the encoded change of the broadcast parameters. ``epsilon`` is that of the run at this
    site, the round included; None: it trains without differential privacy.
    """

    shared: State
    n_samples: int
    score_after: float | None
    loss: float | None
    n_steps: int = 0
    encoded: bool = False
    epsilon: float | None = None
    aux: State = field(default_factory=dict)

    @staticmethod
    def kind() -> str:
        return "update"

    def to_bytes(self) -> bytes:
        return _packed(self.kind(), self.header(), self.shared, self.aux)

    @classmethod
    def from_bytes(cls, data: bytes, *, broadcast: Broadcast, wire: Wire | None = None) -> Self:
        """Read the reply to ``broadcast``; without ``wire``, its tensors have the layout of the broadcast.

        Raises
        ------
        MessageError
            As for :class:`SiteReport`, and if names, shapes, dtypes or values are wrong.
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


def round_of(request: bytes) -> int:
    """The round of a request that this server has packed."""
    header, _ = unpack(request, kind=kind_of(request))
    return int(header["round"])
