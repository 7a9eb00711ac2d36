"""The kept state of a site: parameters and other tensors that it stores between rounds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

from ..serialization import Broadcast, State

#: Prefixes of the names in a file of the kept state: kept parameters, optimizer moments, memory of the method, shared
#: parameters after the last training, residual of the last lossy update, shared parameters of the last broadcast.
KEPT_PREFIXES = ("kept.", "optimizer.", "memory.", "own.", "residual.", "view.")


@dataclass(frozen=True, eq=False)
class KeptState:
    """One version of the kept state; fields in the order of :data:`KEPT_PREFIXES`."""

    parameters: State
    optimizer_state: State = field(default_factory=dict)
    memory: State = field(default_factory=dict)
    previous: State = field(default_factory=dict)
    residual: State = field(default_factory=dict)
    broadcast: State = field(default_factory=dict)

    def by_prefix(self) -> Iterator[tuple[str, State]]:
        return zip(KEPT_PREFIXES, (getattr(self, f.name) for f in fields(self)), strict=True)


def valid_version(broadcast: Broadcast) -> int:
    """Version of the kept state after the last round in which the server used the site's reply."""
    return 0 if broadcast.accepted_round is None else min(broadcast.round, broadcast.accepted_round + 1)


def newest_version(versions: Sequence[int], at_most: int) -> int | None:
    return max((version for version in versions if version <= at_most), default=None)
