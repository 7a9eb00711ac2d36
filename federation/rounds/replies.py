"""Requests and replies of one round: packed when sent, checked and stored on arrival."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from ..methods import Contribution
from ..serialization import (
    Broadcast,
    MessageError,
    SiteReport,
    SiteUpdate,
    State,
    StoredState,
    Wire,
    check_finite,
    pack,
)
from .round_log import Row
from .summed_rounds import SummedRounds
from .transport import SiteFailure


class Requests(Mapping[str, bytes]):
    """Packs each broadcast when the transport reads it, and records its size."""

    def __init__(self, broadcasts: Mapping[str, Broadcast]) -> None:
        self.broadcasts = broadcasts
        self.sizes: dict[str, int] = {}

    def __getitem__(self, site: str) -> bytes:
        data = self.broadcasts[site].to_bytes()
        self.sizes[site] = len(data)
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self.broadcasts)

    def __len__(self) -> int:
        return len(self.broadcasts)


#: Raises a MessageError for a decoded update, or the mean of a secure sum, that is refused; the other arguments are the
#: broadcast parameters and the tensors beside them.
Check = Callable[[SiteUpdate | Contribution, State, State], None]


class Replies:
    """The valid replies of a round. Updates wait on disk, so that memory does not grow with the number of sites.

    Parameters
    ----------
    samples
        Number of training samples of each site in its first update, which later updates must repeat.
    summed
        The rounds of a secure sum, whose updates stay encoded: nobody can decode one alone.
    """

    def __init__(
        self,
        requests: Requests,
        incoming: Path,
        wire: Wire,
        shared: State,
        check: Check | None = None,
        samples: Mapping[str, int] = MappingProxyType({}),
        summed: SummedRounds | None = None,
    ) -> None:
        self.requests = requests
        self.incoming = incoming
        self.summed = summed
        wire = wire if summed is None else summed.secure.wire(wire)
        self.wire, self.shared, self.check, self.samples = wire, shared, check, samples
        self.reports: dict[str, SiteReport] = {}
        self.bytes_up: dict[str, int] = {}
        self.failures: dict[str, str] = {}

    def missing(self) -> list[str]:
        """Sites that were asked and have not answered yet, in the order of the requests."""
        return [site for site in self.requests if site not in self.reports and site not in self.failures]

    def take(self, site: str, reply: bytes | Exception) -> str | None:
        """Check and store a reply; returns the reason if it is refused, else None."""
        try:
            self._take(site, reply)
        except (MessageError, SiteFailure) as error:
            reason = " ".join(str(error).split())
            if site in self.requests.broadcasts and site not in self.reports:
                self.failures[site] = reason
            return reason
        return None

    def _take(self, site: str, reply: bytes | Exception) -> None:
        if isinstance(reply, Exception):
            raise SiteFailure(str(reply))
        if site not in self.requests.broadcasts:
            raise SiteFailure("it was not asked in this round")
        if site in self.reports or site in self.failures:
            raise SiteFailure("it answered twice; the first answer counts")
        broadcast = self.requests.broadcasts[site]
        if broadcast.evaluate_only:
            self.reports[site] = SiteReport.from_bytes(reply, broadcast=broadcast)
        else:
            update = SiteUpdate.from_bytes(reply, broadcast=broadcast, wire=self.wire)
            if self.summed is not None:
                shared = update.shared
                self.summed.check(update)
            else:
                shared = self.wire.decode(self.shared, update.shared) if update.encoded else update.shared
                check_finite(shared, "update")
            if (first := self.samples.get(site, update.n_samples)) != update.n_samples:
                raise MessageError(
                    f"update: n_samples is {update.n_samples}, expected {first} as in the first update of this site; "
                    "its data must stay the same in a run"
                )
            if self.check is not None and self.summed is None:
                self.check(replace(update, shared=shared, encoded=False), self.shared, broadcast.aux)
            stored = StoredState(self.incoming / f"{site}.safetensors", pack("parameters", {}, shared))
            aux = (
                StoredState(self.incoming / f"{site}.aux.safetensors", pack("aux", {}, update.aux))
                if update.aux
                else {}
            )
            self.reports[site] = replace(update, shared=stored, encoded=False, aux=aux)
        self.bytes_up[site] = len(reply)

    def add_bytes(self, beside: Callable[[str], tuple[int, int]]) -> None:
        """Count bytes to and from a site beside its request and reply."""
        for site in self.reports:
            down, up = beside(site)
            self.requests.sizes[site] += down
            self.bytes_up[site] += up

    def rows(self, shared_digest_after: str) -> list[Row]:
        return [self._row(site, shared_digest_after) for site in sorted(self.reports)]

    def _row(self, site: str, shared_digest_after: str) -> Row:
        report = self.reports[site]
        update = report if isinstance(report, SiteUpdate) else None
        return {
            "round": report.round,
            "site": site,
            "loaded_digest": report.loaded_digest,
            "kept_digest": report.kept_digest,
            "shared_digest_after": shared_digest_after,
            "bytes_down": self.requests.sizes[site],
            "bytes_up": self.bytes_up[site],
            "score_before": report.score_before,
            "score_after": update and update.score_after,
            "loss": update and update.loss,
            "n_samples": update and update.n_samples,
            "n_steps": update and update.n_steps,
            "seconds": report.seconds,
            "epsilon": update and update.epsilon,
        }
