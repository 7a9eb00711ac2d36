"""The kept state of a site: parameters and other tensors that it stores between rounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from torch import Tensor

from recon import DataError

from ..serialization import (
    Broadcast,
    State,
    below,
    layout,
    load_checkpoint,
    prune,
    save_checkpoint,
    saved_rounds,
    under,
)

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


@dataclass(frozen=True, eq=False)
class KeptVersions:
    """The versions of the kept state in a folder.

    It holds the versions that the server may still ask for: this one, the one before it (a server with a damaged
    checkpoint goes back one round), the one of the best round, and the next.

    Parameters
    ----------
    initial
        The kept state before the first round.
    identity
        Identity of the run, stored with each version: ``seed``, ``site`` and the digest of the ``initial`` parameters.
    """

    folder: Path
    initial: KeptState
    identity: Mapping[str, str | int]

    def prepare(self, broadcast: Broadcast) -> None:
        """At a new site, save the first version; else remove the versions that no broadcast needs any more."""
        versions, valid = saved_rounds(self.folder), valid_version(broadcast)
        if not versions or (valid == 0 and versions[0] > 0):
            # The server has used no reply of this site: the versions are of an earlier start of the run.
            self.save(0, self.initial)
            prune(self.folder, [0])
            return
        # Newer versions are of rounds that the server will repeat, or of replies that it has not used.
        wanted = (min(broadcast.round - 1, valid), valid, broadcast.best_round)
        newest = (newest_version(versions, min(version, valid)) for version in wanted if version is not None)
        prune(self.folder, [version for version in newest if version is not None])

    def load(self, round: int) -> KeptState:
        """The newest version up to ``round``; at a new site, the initial one.

        Raises
        ------
        DataError
            If all versions are newer, or they are of another run.
        """
        folder, name = self.folder, self.identity["site"]
        versions = saved_rounds(folder)
        if not versions:
            return self.initial
        newest = newest_version(versions, round)
        if newest is None:
            raise DataError(
                f"{folder}: kept state of site {name} starts at round {versions[0]}, expected one for round "
                f"{round}; resume the run that it belongs to, or give the site an empty folder"
            )
        checkpoint = load_checkpoint(folder, newest)
        found = KeptState(*(below(prefix, checkpoint.tensors) for prefix in KEPT_PREFIXES))
        if checkpoint.numbers != self.identity or layout(found.parameters) != layout(self.initial.parameters):
            raise DataError(
                f"{folder}: kept state of site {name} is of another run (seed, site, network or scope "
                "differ); give the site an empty folder"
            )
        return found

    def save(self, version: int, kept: KeptState) -> None:
        """Store a version."""
        tensors: dict[str, Tensor] = {}
        for prefix, state in kept.by_prefix():
            tensors |= under(prefix, state)
        save_checkpoint(self.folder, version, tensors, self.identity)
