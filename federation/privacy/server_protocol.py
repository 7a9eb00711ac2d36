"""The secure sum at the server: remove the masks from the sum of the sites that are in it."""

from collections.abc import Callable, Collection, Mapping

from ..serialization import MessageError
from .fixed_point import Integers
from .masks import SECRET_BYTES, Context, add_mask, commitment, mask_key_pair, pair_key, self_key
from .roster import Roster
from .secret_sharing import coefficients_at_zero, combine, share_from_bytes
from .site_protocol import Offer, Reveal


def check_reveal(reveal: Reveal, offers: Collection[str], survivors: Collection[str], site: str) -> None:
    """Refuse a reply to the question for shares that is not of this sum.

    Raises
    ------
    MessageError
        If a share is missing, or was not asked.
    """
    for found, wanted in ((reveal.self_masks, set(survivors)), (reveal.pair_masks, set(offers) - set(survivors))):
        if missing := sorted(wanted - found.keys()):
            raise MessageError(f"secure sum: site {site} sent no share of site {missing[0]}")
        if extra := sorted(found.keys() - wanted):
            raise MessageError(f"secure sum: site {site} sent a share of site {extra[0]}, which was not asked")


def unmask(
    total: Integers,
    roster: Roster,
    context: Context,
    offers: Mapping[str, Offer],
    survivors: Collection[str],
    reveals: Mapping[str, Reveal],
) -> list[str]:
    """Remove all masks from the sum of the survivors' masked vectors, in place.

    Parameters
    ----------
    total
        Sum of the masked vectors modulo 2^k.
    offers
        Offers of all sites that masked, survivors or not.
    reveals
        Shares by the site that revealed them, at least as many as the threshold of the roster.

    Returns
    -------
        Sites whose shares were wrong and could be left out.

    Raises
    ------
    MessageError
        If the shares are too few, or wrong ones cannot be told from right ones.
    """
    if len(reveals) < roster.least:
        raise MessageError(f"secure sum: {len(reveals)} sites revealed shares, expected at least {roster.least}")
    places, names = roster.places(offers), sorted(survivors)
    finder = _Secrets(roster, {places[site]: site for site in sorted(reveals)})
    for site in names:
        given = {places[v]: reveal.self_masks[site] for v, reveal in reveals.items()}
        committed = bytes.fromhex(offers[site].committed)
        secret = finder.secret(
            site,
            given,
            lambda s, site=site, want=committed: commitment(s, context, site) == want,  # type: ignore[misc]
        )
        add_mask(total, self_key(secret, context, site), subtract=True)
    for gone in sorted(offers.keys() - set(names)):
        given = {places[v]: reveal.pair_masks[gone] for v, reveal in reveals.items()}
        public = bytes.fromhex(offers[gone].public)
        secret = finder.secret(
            gone,
            given,
            lambda s, want=public: mask_key_pair(s, context).public == want,  # type: ignore[misc]
        )
        pair = mask_key_pair(secret, context)
        for site in names:
            key = pair_key(pair, bytes.fromhex(offers[site].public), context, (site, gone))
            # The survivor subtracted the mask where its name comes after the other's.
            add_mask(total, key, subtract=site < gone)
    return sorted(finder.wrong)


class _Secrets:
    """Recovers secrets from the shares of the same sites."""

    def __init__(self, roster: Roster, sites: Mapping[int, str]) -> None:
        self.roster, self.sites = roster, sites
        self.wrong: set[str] = set()
        self._weights: dict[tuple[int, ...], dict[int, int]] = {}

    def secret(self, site: str, shares: Mapping[int, str], is_right: Callable[[bytes], bool]) -> bytes:
        """The secret of a site that passes a check."""
        numbers = {place: share_from_bytes(bytes.fromhex(text)) for place, text in shares.items()}
        usable = [place for place in sorted(numbers) if self.sites[place] not in self.wrong]
        for left_out in (None, *usable):
            used = [place for place in usable if place != left_out][: self.roster.least]
            if len(used) < self.roster.least:
                break
            secret = self._combined({place: numbers[place] for place in used})
            if secret is not None and is_right(secret):
                if left_out is not None:
                    self.wrong.add(self.sites[left_out])
                return secret
        raise MessageError(f"secure sum: the shares of the secret of site {site} do not fit together; repeat the run")

    def _combined(self, shares: Mapping[int, int]) -> bytes | None:
        places = tuple(shares)
        if places not in self._weights:
            self._weights[places] = coefficients_at_zero(places)
        secret = combine(shares, self._weights[places])
        return secret.to_bytes(SECRET_BYTES, "little") if secret < 2 ** (8 * SECRET_BYTES) else None
