"""All that the server of a masked run has: messages, files, and every mask that it can compute and subtract."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from federation.privacy import (
    CONFIRM,
    MASKED,
    OFFER,
    REVEAL,
    SUM,
    Context,
    Envelope,
    Offer,
    Reveal,
    Roster,
    add_mask,
    vector_of,
)
from federation.privacy.masks import SECRET_BYTES, mask_key_pair, pair_key, self_key
from federation.privacy.secret_sharing import coefficients_at_zero, combine, share_from_bytes
from federation.rounds import InProcessRuntime, SiteFailure
from federation.serialization import kind_of, unpack


class Recording(InProcessRuntime):
    """Sites in this process; keeps all messages, and all versions of the server's files.

    Parameters
    ----------
    folder
        Folder of the run; ``sites`` and ``keys`` in it are not the server's.
    late
        Sites and rounds whose masked update arrives after the server has gone on without it.
    """

    def __init__(self, specs, folder: Path, late: set[tuple[str, int]] = frozenset()) -> None:
        super().__init__(specs)
        self.folder, self.late = folder, late
        self.sent: list[bytes] = []
        self.received: list[tuple[str, bytes]] = []
        self.files: dict[str, set[bytes]] = defaultdict(set)

    def exchange(self, requests):
        for site in sorted(requests):
            request = requests[site]
            self.sent.append(request)
            for name, reply in super().exchange({site: request}):
                assert isinstance(reply, bytes), reply
                self.received.append((name, reply))
                self.keep_files()
                is_late = kind_of(reply) == MASKED and (name, Envelope.from_bytes(reply, MASKED).round) in self.late
                yield name, SiteFailure("late") if is_late else reply
        self.keep_files()

    def keep_files(self) -> None:
        """Keep what the server has stored by now."""
        for path in self.folder.rglob("*"):
            place = path.relative_to(self.folder)
            if path.is_file() and not {"sites", "keys"} & set(place.parts):
                self.files[str(place)].add(path.read_bytes())

    def everything(self) -> list[bytes]:
        """Bytes of all messages and files."""
        return [*self.sent, *(reply for _, reply in self.received), *set().union(*self.files.values())]


@dataclass
class SeenRound:
    """What the messages of one round say: its attempt, offers, vectors and shares."""

    round: int
    nonce: str = ""
    offers: dict[str, Offer] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    reveals: dict[str, Reveal] = field(default_factory=dict)

    @property
    def survivors(self) -> list[str]:
        return sorted(next(iter(self.reveals.values())).self_masks)


def seen_rounds(view: Recording) -> dict[int, SeenRound]:
    """The rounds of a run, each with one attempt."""
    rounds = defaultdict(dict)
    for site, reply in view.received:
        kind = kind_of(reply)
        if kind not in (OFFER, MASKED, CONFIRM, REVEAL):
            continue
        found = Envelope.from_bytes(reply, kind)
        seen = rounds.setdefault(found.round, SeenRound(found.round, found.nonce))
        assert seen.nonce == found.nonce
        if kind == OFFER:
            seen.offers |= found.offers
        if kind == MASKED:
            _, tensors = unpack(found.body, kind="update")
            seen.vectors[site] = vector_of(tensors[SUM])
        if kind == REVEAL:
            seen.reveals[site] = found.reveal
    for request in view.sent:
        if kind_of(request) == MASKED:
            found = Envelope.from_bytes(request, MASKED)
            rounds[found.round].offers |= {site: Offer(o.public, o.committed) for site, o in found.offers.items()}
    return dict(rounds)


def peeled(seen: SeenRound, roster: Roster, run: str) -> dict[str, np.ndarray]:
    """The vectors of a round without all masks whose secrets can be put together from shares.

    These are the own masks of sites in the sum, and the masks between them and sites that dropped out.
    """
    context, sites = Context(run, seen.round, seen.nonce), seen.survivors
    places = roster.places(sorted(seen.reveals)[: roster.least])
    weights = coefficients_at_zero(list(places.values()))

    def secret(shares: dict[str, str]) -> bytes:
        numbers = {places[holder]: share_from_bytes(bytes.fromhex(text)) for holder, text in shares.items()}
        return combine(numbers, weights).to_bytes(SECRET_BYTES, "little")

    found = {site: vector.copy() for site, vector in seen.vectors.items()}
    for site in sites:
        own = secret({holder: seen.reveals[holder].self_masks[site] for holder in places})
        add_mask(found[site], self_key(own, context, site), subtract=True)
    for gone in sorted(seen.offers.keys() - set(sites)):
        key = mask_key_pair(secret({holder: seen.reveals[holder].pair_masks[gone] for holder in places}), context)
        for other in sorted(seen.offers.keys() - {gone}):
            between = pair_key(key, bytes.fromhex(seen.offers[other].public), context, (gone, other))
            for site, vector in ((other, found.get(other)), (gone, found.get(gone))):
                if vector is not None:
                    # A site subtracted the mask where its name comes after the other's.
                    add_mask(vector, between, subtract=site == min(gone, other))
    return found
