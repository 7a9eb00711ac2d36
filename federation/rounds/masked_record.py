"""The record of a masked round at the server, by which a restarted server goes on with the same sum."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recon import DataError, write_atomically

from ..privacy import Offer, Reveal

logger = logging.getLogger(__name__)

#: Files of a round: its record, the shares that came.
RECORD, REVEALS = "record.json", "reveals.json"


@dataclass(frozen=True)
class Record:
    """A round whose second trip has begun: offers of all sites in it, SHA-256 of the update of each survivor."""

    nonce: str
    offers: Mapping[str, Offer]
    updates: Mapping[str, str]

    @property
    def survivors(self) -> list[str]:
        """The sites in the sum, sorted."""
        return sorted(self.updates)

    def write(self, place: Path) -> None:
        """Store the record; the offers without the shares that the sites have received."""
        offers = {site: [offer.public, offer.committed] for site, offer in sorted(self.offers.items())}
        content = {"nonce": self.nonce, "updates": self.updates, "offers": offers}
        write_atomically(place / RECORD, json.dumps(content).encode())

    @classmethod
    def read(cls, place: Path) -> "Record":
        """Read the record of a round.

        Raises
        ------
        DataError
            If it is damaged.
        """
        try:
            found = json.loads((place / RECORD).read_bytes())
            offers = {site: Offer(public, committed) for site, (public, committed) in found["offers"].items()}
            return cls(found["nonce"], offers, dict(found["updates"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise _damaged(place / RECORD) from None

    def update(self, place: Path, site: str) -> bytes:
        """The masked update of a survivor.

        Raises
        ------
        DataError
            If it is missing or damaged: a sum without it would be a second one of this round.
        """
        path = place / f"{site}.update"
        try:
            data = path.read_bytes()
        except OSError:
            raise _damaged(path) from None
        if hashlib.sha256(data).hexdigest() != self.updates[site]:
            raise _damaged(path)
        return data


def read_reveals(path: Path, sites: list[str]) -> dict[str, Reveal]:
    """Stored shares; none if there are none, or they are damaged: the sites answer the same question again."""
    try:
        found = json.loads(path.read_bytes())
        return {site: Reveal(*found[site]) for site in sites if site in found}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s: cannot be used (%s); the sites are asked again", path, error)
        return {}


def _damaged(path: Path) -> DataError:
    return DataError(f"{path}: is missing or damaged; restore it from a backup, or start a new run with another seed")
