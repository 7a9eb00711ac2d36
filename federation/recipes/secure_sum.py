"""What cannot be used with a secure sum, and why; the secure sum of a run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import ConfigError
from ..methods import SERVER_RULES, WEIGHTINGS
from ..privacy import Member, Roster, SecureSum
from .recipe_schema import FederationSection, TransformSection

if TYPE_CHECKING:
    from .recipe import Recipe


def require_summable(federation: FederationSection, transform: TransformSection) -> None:
    """Check that a method needs no more than a weighted sum of the changes.

    Raises
    ------
    ValueError
        With the key, and the reason in the words of the method.
    """
    wanted = "with privacy.secure_sum, expected"
    rule, weighting = federation.rule(), federation.weighting()
    if not rule.needs_mean_only:
        fit = ", ".join(
            sorted(name for name, known in SERVER_RULES.items() if getattr(known, "needs_mean_only", False))
        )
        why = "it looks at the update of each site, and the server sees their sum only"
        raise ValueError(f"federation.server_rule: found {federation.server_rule!r} {wanted} one of {fit}: {why}")
    if weighting.known_weight(1) is None:
        fit = ", ".join(sorted(name for name in WEIGHTINGS if _is_known(name)))
        why = "a site multiplies by its weight before it sends, when it does not know the scores of the others"
        raise ValueError(f"federation.weights: found {federation.weights!r} {wanted} one of {fit}: {why}")
    chain = transform.build()
    if chain is not None and chain.codecs.transforms:
        lossy = transform.chain[-1]
        why = "a sum cannot be decoded from encoded updates; privacy.modulus_bits sets the bytes of a number"
        raise ValueError(f"transform.chain: found {lossy!r} {wanted} dense transforms such as clip: {why}")
    if transform.both_ways:
        raise ValueError(f"transform.both_ways: found true {wanted} false: there is no codec")
    if federation.participation < 1:
        why = "a site sends the shares of its next secrets with each update, so it takes part in each round"
        raise ValueError(f"federation.participation: found {federation.participation:g} {wanted} 1: {why}")


def _is_known(weighting: str) -> bool:
    try:
        return WEIGHTINGS.make(weighting, {}, "weights").known_weight(1) is not None
    except (ValueError, TypeError):  # a plugin's, with options that have no default
        return False


def secure_sum_of(recipe: "Recipe", slices: Mapping[str, int]) -> SecureSum | None:
    """The secure sum of a run without masks; None if the recipe has none.

    Parameters
    ----------
    slices
        Training slices of each site; a recipe for deployed sites names them itself.

    Raises
    ------
    ConfigError
        If the sites are too few, or the range leaves no bits.
    """
    if not recipe.privacy.secure_sum:
        return None
    named = {site: Member(listed.slices, listed.key) for site, listed in recipe.privacy.sites.items()}
    try:
        return _summed(recipe, named or {site: Member(count) for site, count in slices.items()})
    except ValueError as error:
        raise ConfigError(f"recipe: {error}") from None


def masked_sum_of(recipe: "Recipe", run: str) -> SecureSum | None:
    """The secure sum of deployed sites, with masks; None if the recipe has none.

    Parameters
    ----------
    run
        Digest of the approved run, part of the keys of all masks.

    Raises
    ------
    ConfigError
        If the recipe does not name the sites, or as for :func:`secure_sum_of`.
    """
    if recipe.privacy.secure_sum and not recipe.privacy.sites:
        expected = "keys and slices of all sites: what each site's engineer gets from `fedrecon deploy site roster`"
        raise ConfigError(f"recipe {recipe.name}: privacy.sites: found none, expected {expected}")
    secure = secure_sum_of(recipe, {})
    return None if secure is None else replace(secure, masked=True, run=run)


def _summed(recipe: "Recipe", members: Mapping[str, Member]) -> SecureSum:
    privacy, weighting = recipe.privacy, recipe.federation.weighting()
    weights = {site: weighting.known_weight(member.slices) or 1.0 for site, member in members.items()}
    return SecureSum(Roster(members, privacy.threshold), weights, privacy.modulus_bits, privacy.largest_change)
