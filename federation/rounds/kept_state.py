"""The parameters and other tensors that a site keeps between rounds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

from ..serialization import Broadcast, State

#: Prefixes in the kept state: parameters, the optimizer's moments, what a method remembers, shared parameters as the
#: site made them, what a lossy update left out, the last broadcast.
KEPT_PREFIXES = ("kept.", "optimizer.", "memory.", "own.", "residual.", "view.")


@dataclass(frozen=True, eq=False)
class KeptState:
    """A version of the kept state, its parts in the order of :data:`KEPT_PREFIXES`."""

    parameters: State
    optimizer_state: State = field(default_factory=dict)
    memory: State = field(default_factory=dict)
    own: State = field(default_factory=dict)
    residual: State = field(default_factory=dict)
    view: State = field(default_factory=dict)

    def by_prefix(self) -> Iterator[tuple[str, State]]:
        return zip(KEPT_PREFIXES, (getattr(self, f.name) for f in fields(self)), strict=True)


def valid_version(broadcast: Broadcast) -> int:
    """The newest version of the kept state that the server can know of: that after the last reply that counted."""
    return 0 if broadcast.accepted_round is None else min(broadcast.round, broadcast.accepted_round + 1)


def newest_version(versions: Sequence[int], at_most: int) -> int | None:
    return max((version for version in versions if version <= at_most), default=None)
