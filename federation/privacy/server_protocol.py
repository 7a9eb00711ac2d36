"""The secure sum at the server: remove the masks from the sum of the sites that are in it."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from ..serialization import MessageError
from .fixed_point import Integers
from .masks import SECRET_BYTES, Context, PrivateKey, add_mask, commitment, mask_key_pair, pair_key, self_key
from .roster import Roster
from .secret_sharing import coefficients_at_zero, combine, share_from_bytes
from .site_protocol import Offer, Reveal

#: Choices of shares that are tried for one secret.
_MOST_CHOICES = 1000


def check_offer(offer: Offer, roster: Roster, site: str) -> None:
    """Refuse an offer that no other site can use. Only the other sites can open the shares in it.

    Raises
    ------
    MessageError
        If the key is none, or there is not one share for each other site.
    """
    PrivateKey().agree(bytes.fromhex(offer.public))  # raises if it is no key
    if len(offer.committed) != 2 * hashlib.sha256().digest_size:
        raise MessageError(f"secure sum: the offer of site {site} commits to no secret")
    if different := sorted(offer.sealed.keys() ^ (set(roster.names) - {site})):
        raise MessageError(
            f"secure sum: the offer of site {site} has not one share for each other site: {different[0]}"
        )


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
) -> list[tuple[str, str]]:
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
        Pairs of sites: a share of the first one's secret, held by the second, was wrong and was left out. Either of
        both may be the cause.

    Raises
    ------
    MessageError
        If the shares are too few, or wrong ones cannot be told from right ones. ``total`` is unchanged then.
    """
    if len(reveals) < roster.least:
        raise MessageError(f"secure sum: {len(reveals)} sites revealed shares, expected at least {roster.least}")
    places, names = roster.places(offers), sorted(survivors)
    finder = _Secrets(roster, {places[site]: site for site in sorted(reveals)})
    own, pairs = {}, {}
    for site in names:
        given = {places[v]: reveal.self_masks[site] for v, reveal in reveals.items()}
        committed = bytes.fromhex(offers[site].committed)
        own[site] = finder.secret(
            site,
            given,
            lambda s, site=site, want=committed: commitment(s, context, site) == want,  # type: ignore[misc]
        )
    for gone in sorted(offers.keys() - set(names)):
        given = {places[v]: reveal.pair_masks[gone] for v, reveal in reveals.items()}
        public = bytes.fromhex(offers[gone].public)
        pairs[gone] = finder.secret(
            gone,
            given,
            lambda s, want=public: mask_key_pair(s, context).public == want,  # type: ignore[misc]
        )
    for site, secret in own.items():
        add_mask(total, self_key(secret, context, site), subtract=True)
    for gone, secret in pairs.items():
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
        self.wrong: set[tuple[str, str]] = set()
        self._weights: dict[tuple[int, ...], dict[int, int]] = {}

    def secret(self, site: str, shares: Mapping[int, str], is_right: Callable[[bytes], bool]) -> bytes:
        """The secret of a site that passes a check."""
        numbers = {place: share_from_bytes(bytes.fromhex(text)) for place, text in shares.items()}
        # A holder of wrong shares comes last, but counts: the site that made the shares may be the wrong one.
        misfits = Counter(holder for _, holder in self.wrong)
        places = sorted(numbers, key=lambda place: (misfits[self.sites[place]], place))
        for used in itertools.islice(_choices(places, self.roster.least), _MOST_CHOICES):
            secret = self._combined(numbers, used)
            if secret is not None and is_right(secret):
                if used != tuple(places[: len(used)]):
                    self._blame(site, numbers, used, secret)
                return secret
        raise MessageError(f"secure sum: the shares of the secret of site {site} do not fit together")

    def _blame(self, site: str, numbers: Mapping[int, int], used: tuple[int, ...], secret: bytes) -> None:
        """Record the shares that do not lie on the polynomial of the used ones."""
        for place in numbers.keys() - set(used):
            if self._combined(numbers, (*used[1:], place)) != secret:
                self.wrong.add((site, self.sites[place]))

    def _combined(self, numbers: Mapping[int, int], used: tuple[int, ...]) -> bytes | None:
        if used not in self._weights:
            self._weights[used] = coefficients_at_zero(used)
        secret = combine({place: numbers[place] for place in used}, self._weights[used])
        return secret.to_bytes(SECRET_BYTES, "little") if secret < 2 ** (8 * SECRET_BYTES) else None


def _choices(places: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """Each choice of ``count`` places; first those that leave out few of the places at the beginning."""
    for n_left_out in range(len(places) - count + 1):
        end = count + n_left_out
        # The last place is used: choices without it came before.
        for left_out in itertools.combinations(places[: end - 1], n_left_out):
            yield tuple(place for place in places[:end] if place not in left_out)
