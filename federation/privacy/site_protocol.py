"""The secure sum at a site: offer keys and shares, mask a vector, confirm the sites in the sum, reveal shares once."""

import hashlib
import hmac
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..serialization import MessageError
from .fixed_point import Integers
from .masks import (
    SECRET_BYTES,
    Context,
    PrivateKey,
    add_mask,
    agreed,
    commitment,
    mask_key_pair,
    pair_key,
    seal,
    self_key,
    unseal,
)
from .roster import Roster
from .secret_sharing import share_to_bytes, split
from .site_secrets import RoundFiles


@dataclass(frozen=True)
class Offer:
    """What a site sends before a round, in hexadecimal digits.

    ``public`` is its key for the pairwise masks, ``committed`` a digest of the secret of its own mask, ``sealed`` one
    share of both secrets for each other site, which only that site can open.
    """

    public: str
    committed: str
    sealed: Mapping[str, str] = field(default_factory=dict)

    def to_site(self, site: str) -> "Offer":
        """The part for one site."""
        return Offer(self.public, self.committed, {site: self.sealed[site]} if site in self.sealed else {})


@dataclass(frozen=True)
class Reveal:
    """Shares that a site reveals after a round, in hexadecimal digits.

    ``self_masks`` are of the secrets of sites in the sum, ``pair_masks`` of those that dropped out: never both of one.
    """

    self_masks: Mapping[str, str]
    pair_masks: Mapping[str, str]


class SiteProtocol:
    """One site in the rounds of one run.

    Secrets of a round lie in ``folder`` (mode 600) until the site has revealed its shares. All methods may be called
    again with the same arguments and then give the same result.

    Parameters
    ----------
    run
        Name of the run, part of every key.
    key
        The site's own long-term key, whose public key is in the roster.
    """

    def __init__(self, name: str, run: str, roster: Roster, key: PrivateKey, folder: Path) -> None:
        self.name, self.run, self.roster, self.key = name, run, roster, key
        self.files = RoundFiles(folder)
        if roster.public_key(name) != key.public:
            raise MessageError(f"secure sum: the roster has another key of site {name}; approve a run with its key")

    def offer(self, round: int, nonce: str) -> Offer:
        """New secrets for an attempt at a round, and their shares for the other sites.

        Raises
        ------
        MessageError
            If this or a later round was unmasked already.
        """
        found = self._record(round)
        if found is not None and found["nonce"] == nonce:
            return Offer(**found["offer"])
        context, names = Context(self.run, round, nonce), self.roster.names
        pair_secret, self_secret = os.urandom(SECRET_BYTES), os.urandom(SECRET_BYTES)
        public = mask_key_pair(pair_secret, context).public.hex()
        committed = commitment(self_secret, context, self.name).hex()
        shares = [
            b"".join(share_to_bytes(share) for share in pair)
            for pair in zip(*(self._split(secret) for secret in (self_secret, pair_secret)), strict=True)
        ]
        by_site = dict(zip(names, shares, strict=True))
        own = by_site.pop(self.name)
        sealed = {
            site: seal(self._key(context, "share", self.name, site), share, _said(public, committed)).hex()
            for site, share in by_site.items()
        }
        offer = Offer(public, committed, sealed)
        self.files.write(
            round,
            {
                "nonce": nonce,
                "pair_secret": pair_secret.hex(),
                "self_secret": self_secret.hex(),
                "offer": {"public": public, "committed": committed, "sealed": sealed},
                "shares": {self.name: own.hex()},
                "masked": None,
                "confirmed": None,
                "revealed": None,
            },
        )
        return offer

    def wrong_offers(self, round: int, nonce: str, offers: Mapping[str, Offer]) -> list[str]:
        """Other sites whose shares for this one are missing or wrong; to be asked before training.

        Raises
        ------
        MessageError
            If the sites are too few, one is not in the roster, or this site made another offer.
        """
        self._offered(round, nonce, offers)
        context, wrong = Context(self.run, round, nonce), []
        for site, offer in sorted(offers.items()):
            try:
                self._opened(context, site, offer)
            except MessageError:
                wrong.append(site)
        return wrong

    def mask(self, round: int, nonce: str, vector: Integers, offers: Mapping[str, Offer]) -> Integers:
        """The vector plus the site's own mask and one mask for each other site.

        Parameters
        ----------
        offers
            Offers of all sites of this round, this site included, each with the share for this site.

        Raises
        ------
        MessageError
            If the sites are too few, one is not in the roster, a share is missing or wrong, or the same masks were
            used for another vector.
        """
        found = self._offered(round, nonce, offers)
        in_round = _offers_digest(offers)
        what = hashlib.sha256(vector.tobytes() + in_round.encode())
        if found["masked"] not in (None, what.hexdigest()):
            raise MessageError(f"secure sum: round {round} was masked for another change; one mask never serves twice")
        context = Context(self.run, round, nonce)
        shares = {site: self._opened(context, site, offer) for site, offer in sorted(offers.items())}
        shares[self.name] = found["shares"][self.name]
        masked = vector.copy()
        add_mask(masked, self_key(bytes.fromhex(found["self_secret"]), context, self.name))
        pair = mask_key_pair(bytes.fromhex(found["pair_secret"]), context)
        for site, offer in sorted(offers.items()):
            if site != self.name:
                key = pair_key(pair, bytes.fromhex(offer.public), context, (self.name, site))
                add_mask(masked, key, subtract=self.name > site)
        self.files.write(round, found | {"shares": shares, "masked": what.hexdigest(), "offers": in_round})
        return masked

    def confirm(self, round: int, nonce: str, survivors: Collection[str]) -> dict[str, str]:
        """What this site knows of the sum, as a code for each other survivor, in hexadecimal digits.

        The codes authenticate the offers of all sites in the round, as this site has seen them, and the survivors. No
        site confirms two sets of survivors in one attempt. So a server that shows different offers or survivors to
        different sites finds too few of them that confirm the same.

        Raises
        ------
        MessageError
            If another set of survivors was confirmed, or the set is too small or no part of the round.
        """
        found, chosen = self.files.read(round), sorted(survivors)
        if found is None or found.get("revealed") is None or self._answered(found, round, nonce, chosen) is None:
            found = self._confirmed(round, nonce, chosen)
            self.files.write(round, found)
        context, statement = Context(self.run, round, nonce), _statement(found["offers"], chosen)
        return {site: self._code(context, self.name, site, statement) for site in chosen if site != self.name}

    def reveal(self, round: int, nonce: str, survivors: Collection[str], confirmed: Mapping[str, str]) -> Reveal:
        """The shares by which the server removes the masks from the sum of the survivors. The secrets are deleted.

        Parameters
        ----------
        confirmed
            Codes for this site by other survivors, from :meth:`confirm`. With this site, at least as many as the
            threshold must have confirmed the same offers and survivors. The threshold is more than half of all sites,
            so two different sums of a round cannot both be confirmed.

        Raises
        ------
        MessageError
            If another set of survivors was answered in this round, the set is too small or no part of the round, or
            too few sites have confirmed it.
        """
        found, chosen = self.files.read(round), sorted(survivors)
        if found is not None and (answered := self._answered(found, round, nonce, chosen)) is not None:
            self.files.remove_before(round)  # a kill may have come before
            return answered
        found = self._confirmed(round, nonce, chosen)
        context, statement = Context(self.run, round, nonce), _statement(found["offers"], chosen)
        agreeing = [
            site
            for site in chosen
            if site != self.name
            and hmac.compare_digest(confirmed.get(site, ""), self._code(context, site, self.name, statement))
        ]
        if len(agreeing) + 1 < self.roster.least:
            raise MessageError(
                f"secure sum: {len(agreeing) + 1} sites have confirmed the offers and the sites of this sum, expected "
                f"at least {self.roster.least}"
            )
        half = 2 * len(share_to_bytes(0))
        shares: dict[str, str] = found["shares"]
        reveal = Reveal(
            {site: shares[site][:half] for site in chosen},
            {site: share[half:] for site, share in shares.items() if site not in chosen},
        )
        answer = {"survivors": chosen, "reveal": asdict(reveal)}
        self.files.write(round, {"nonce": nonce, "offers": found["offers"], "revealed": answer})
        self.files.remove_before(round)
        return reveal

    def _answered(self, found: Mapping[str, Any], round: int, nonce: str, chosen: list[str]) -> Reveal | None:
        """The shares that were revealed in a round; None before."""
        answered = found.get("revealed")
        if answered is None:
            return None
        if (found["nonce"], answered["survivors"]) != (nonce, chosen):
            raise MessageError(f"secure sum: round {round} was unmasked for other sites; one sum per round")
        return Reveal(**answered["reveal"])

    def _confirmed(self, round: int, nonce: str, chosen: list[str]) -> dict[str, Any]:
        """The record of a masked attempt with these survivors, and no others from now on."""
        found = self._record(round)
        if found is None or found["nonce"] != nonce or found["masked"] is None:
            raise MessageError(f"secure sum: site {self.name} masked nothing in this attempt at round {round}")
        self._check_count(chosen, "in the sum")
        if len(set(chosen)) < len(chosen):
            raise MessageError("secure sum: a site stands twice in the sum, expected once")
        if unknown := sorted(set(chosen) - found["shares"].keys()):
            raise MessageError(f"secure sum: site {unknown[0]} was not in this attempt at round {round}")
        if self.name not in chosen:
            raise MessageError(f"secure sum: site {self.name} is asked to unmask a sum without it")
        if found["confirmed"] not in (None, chosen):
            raise MessageError(f"secure sum: round {round} was confirmed for other sites; one sum per round")
        return found | {"confirmed": chosen}

    def _record(self, round: int) -> dict[str, Any] | None:
        """The record of a round that was not unmasked, and is not before one that was."""
        for later in (r for r in self.files.rounds() if r >= round):
            found = self.files.read(later)
            if found is not None and found.get("revealed") is not None:
                raise MessageError(f"secure sum: round {later} was unmasked already; start a new run with another seed")
        return self.files.read(round)

    def _offered(self, round: int, nonce: str, offers: Mapping[str, Offer]) -> dict[str, Any]:
        """The record of this attempt, in which the site made the offer that stands in ``offers``."""
        found = self._record(round)
        if found is None or found["nonce"] != nonce:
            raise MessageError(f"secure sum: site {self.name} made no offer for this attempt at round {round}")
        self._check_count(offers, "in a round")
        own = offers.get(self.name)
        if own is None or (own.public, own.committed) != (found["offer"]["public"], found["offer"]["committed"]):
            raise MessageError(f"secure sum: the offer of site {self.name} is missing or not its own")
        return found

    def _check_count(self, sites: Collection[str], where: str) -> None:
        self.roster.places(sites)
        if len(sites) < self.roster.least:
            raise MessageError(f"secure sum: {len(sites)} sites {where}, expected at least {self.roster.least}")

    def _split(self, secret: bytes) -> list[int]:
        return split(int.from_bytes(secret, "little"), self.roster.least, len(self.roster.members))

    def _opened(self, context: Context, site: str, offer: Offer) -> str:
        """The share of a site's secrets for this site, as hexadecimal digits."""
        if site == self.name:
            return ""
        if self.name not in offer.sealed:
            raise MessageError(f"secure sum: the offer of site {site} holds no share for site {self.name}")
        key = self._key(context, "share", site, self.name)
        share = unseal(key, bytes.fromhex(offer.sealed[self.name]), _said(offer.public, offer.committed))
        if share is None:
            raise MessageError(f"secure sum: the share of site {site} for site {self.name} is not by that site")
        return share.hex()

    def _code(self, context: Context, sender: str, receiver: str, statement: bytes) -> str:
        """Code of a statement that only sender and receiver can make."""
        key = self._key(context, "confirm", sender, receiver)
        return hmac.digest(key, statement, hashlib.sha256)[:SECRET_BYTES].hex()

    def _key(self, context: Context, purpose: str, sender: str, receiver: str) -> bytes:
        """Key of messages from one site to another, one of which is this one."""
        other = receiver if sender == self.name else sender
        return context.key(agreed(self.key, self.roster.public_key(other)), purpose, sender, receiver)


def _said(public: str, committed: str) -> bytes:
    return f"{public}\n{committed}".encode()


def _offers_digest(offers: Mapping[str, Offer]) -> str:
    """SHA-256 of the public part of the offers in a round."""
    return hashlib.sha256(
        json.dumps(sorted((s, o.public, o.committed) for s, o in offers.items())).encode()
    ).hexdigest()


def _statement(offers_digest: str, survivors: list[str]) -> bytes:
    """What sites confirm of a sum: the offers of all sites in the round, and the sites in the sum."""
    return json.dumps([offers_digest, survivors]).encode()
