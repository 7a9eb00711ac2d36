"""The server in rounds of a secure sum: it adds the updates and passes their mean on as one contribution."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ..config import ConfigError
from ..methods import Contribution
from ..privacy import SUM, Integers, SecureSum, vector_of
from ..serialization import Broadcast, MessageError, SiteUpdate, layout
from .transport import ReplyStream, Transport


class RepeatRound(Exception):
    """A round begins anew with fewer sites; the text says which are left out."""


@dataclass(eq=False)
class SummedRounds:
    """Rounds whose updates arrive as integers; without masks, one trip each.

    Raises
    ------
    ConfigError
        If the sites of the transport are not those of the roster.
    """

    secure: SecureSum
    transport: Transport

    def __post_init__(self) -> None:
        if (sites := self.transport.sites()) != (roster := self.secure.roster.names):
            different = sorted(set(sites) ^ set(roster))
            raise ConfigError(f"secure sum: site {different[0]} is not both in the run and in the roster")

    @property
    def least(self) -> int:
        """Least number of sites in a sum."""
        return self.secure.roster.least

    def exchange(self, requests: Mapping[str, bytes], round: int, needed: int) -> ReplyStream:
        """Replies to the broadcasts of a training round, of which the loop needs ``needed``."""
        return self.transport.exchange(requests)

    def check(self, update: SiteUpdate) -> None:
        """Check what a site states of its update.

        Raises
        ------
        MessageError
            If it is not the number of training slices in the roster.
        """
        if update.n_samples != (listed := self.secure.roster.members[update.site].slices):
            raise MessageError(f"update: n_samples is {update.n_samples}, expected {listed} as in the roster")

    def mean(self, broadcast: Broadcast, updates: Collection[SiteUpdate]) -> Contribution:
        """Weighted mean of the updates as one contribution; parameters are float64.

        Raises
        ------
        MessageError
            If the sites are too few, or the masks cannot be removed.
        """
        ordered = sorted(updates, key=lambda update: update.site)
        if len(ordered) < self.least:
            raise MessageError(f"secure sum: {len(ordered)} sites, expected at least {self.least}")
        total = np.zeros_like(vector_of(ordered[0].shared[SUM]))
        for update in ordered:
            total += vector_of(update.shared[SUM])
        sites = [update.site for update in ordered]
        self._unmask(total, sites)
        change, aux = self.secure.mean(total, sites, layout(broadcast.shared), layout(broadcast.aux))
        return Contribution(
            site="sum",
            shared={name: tensor.double() + change[name] for name, tensor in broadcast.shared.items()},
            n_samples=sum(update.n_samples for update in ordered),
            n_steps=max(update.n_steps for update in ordered),
            score_before=None,
            score_after=None,
            aux={name: tensor.to(broadcast.aux[name].dtype) for name, tensor in aux.items()},
            n_sites=len(ordered),
        )

    def _unmask(self, total: Integers, sites: list[str]) -> None:
        """Remove the masks of the sites from their sum; here there are none."""

    def bytes_beside(self, site: str) -> tuple[int, int]:
        """Bytes to and from a site in this round, beside broadcast and update."""
        return 0, 0
