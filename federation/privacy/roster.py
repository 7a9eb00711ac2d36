"""The sites of a secure sum: names, public keys, numbers of training slices, and how many must take part."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..serialization import MessageError


@dataclass(frozen=True)
class Member:
    """Training slices of a site, and its public key in hexadecimal digits; no key where nothing is masked."""

    slices: int
    key: str = ""


@dataclass(frozen=True)
class Roster:
    """All sites that may be in a sum; the same at every site and at the server.

    Without it, a server could enroll sites of its own and subtract them.

    Parameters
    ----------
    members
        The sites by name.
    threshold
        Least number of sites in a sum, more than half: two sums of one round would need answers of some site twice.
        None: just above half.
    """

    members: Mapping[str, Member]
    threshold: int | None = None

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError(f"secure sum: {len(self.members)} sites, expected at least 2; a sum of one hides nothing")
        if self.threshold is not None and not self.lowest <= self.threshold <= len(self.members):
            raise ValueError(
                f"privacy.threshold: found {self.threshold}, expected {self.lowest} to {len(self.members)} of the "
                f"{len(self.members)} sites"
            )

    @property
    def lowest(self) -> int:
        """The lowest threshold, just above half."""
        return len(self.members) // 2 + 1

    @property
    def least(self) -> int:
        """Least number of sites in a sum."""
        return self.lowest if self.threshold is None else self.threshold

    @property
    def names(self) -> list[str]:
        """Names of the sites, sorted; a site's share has its place in this list, from 1."""
        return sorted(self.members)

    def places(self, sites: Collection[str]) -> dict[str, int]:
        """Places of some sites.

        Raises
        ------
        MessageError
            If one is not in the roster.
        """
        places = {name: place for place, name in enumerate(self.names, start=1)}
        if unknown := sorted(set(sites) - places.keys()):
            raise MessageError(f"secure sum: site {unknown[0]!r} is not in the roster of {', '.join(places)}")
        return {site: places[site] for site in sorted(sites)}

    def public_key(self, site: str) -> bytes:
        """Public key of a site, 32 bytes."""
        if site not in self.members:
            self.places([site])  # raises
        return bytes.fromhex(self.members[site].key)
