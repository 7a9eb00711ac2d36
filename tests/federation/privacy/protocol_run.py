"""A round of the secure sum between sites and a server that are all in this process."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from federation.privacy import Context, Member, PrivateKey, Roster, SiteProtocol, check_reveal, unmask

RUN = "f" * 64


@dataclass
class ProtocolRun:
    """Sites ``s0``, ``s1`` ... with their files below ``folder``."""

    folder: Path
    n_sites: int = 5
    threshold: int | None = None
    size: int = 1000
    dtype: str = "<u4"
    keys: dict[str, PrivateKey] = field(init=False)
    roster: Roster = field(init=False)

    def __post_init__(self) -> None:
        names = [f"s{i:03d}" for i in range(self.n_sites)]
        self.keys = {name: PrivateKey() for name in names}
        members = {name: Member(10, key.public.hex()) for name, key in self.keys.items()}
        self.roster = Roster(members, self.threshold)

    def site(self, name: str) -> SiteProtocol:
        """A new object for every call: all that a site remembers is on its disk."""
        return SiteProtocol(name, RUN, self.roster, self.keys[name], self.folder / name)

    def vector(self, name: str) -> np.ndarray:
        rng = np.random.default_rng([*name.encode()])
        return rng.integers(0, 2 ** (8 * np.dtype(self.dtype).itemsize), self.size, dtype=self.dtype)

    def offers(self, round=0, nonce="a", sites=None):
        return {name: self.site(name).offer(round, nonce) for name in sites or self.roster.names}

    def masked(self, offers, round=0, nonce="a", sites=None):
        """Masked vectors of some sites."""
        return {
            name: self.site(name).mask(
                round, nonce, self.vector(name), {other: offer.to_site(name) for other, offer in offers.items()}
            )
            for name in sites or sorted(offers)
        }

    def codes(self, survivors, round=0, nonce="a", sites=None):
        """Codes by the survivors or some of them, for each site."""
        by_sender = {name: self.site(name).confirm(round, nonce, survivors) for name in sites or sorted(survivors)}
        return {
            site: {sender: codes[site] for sender, codes in by_sender.items() if site in codes} for site in survivors
        }

    def reveals(self, survivors, round=0, nonce="a", sites=None):
        codes = self.codes(survivors, round, nonce)
        return {name: self.site(name).reveal(round, nonce, survivors, codes[name]) for name in sites or survivors}

    def sum(self, offers, masked, reveals, round=0, nonce="a"):
        for site, reveal in reveals.items():
            check_reveal(reveal, offers, masked, site)
        total = np.zeros(self.size, self.dtype)
        for vector in masked.values():
            total += vector
        wrong = unmask(total, self.roster, Context(RUN, round, nonce), offers, masked, reveals)
        return total, wrong

    def expected(self, sites):
        total = np.zeros(self.size, self.dtype)
        for site in sites:
            total += self.vector(site)
        return total
