"""The secure sum of a run, from its recipe."""

from collections.abc import Mapping
from dataclasses import replace

from ..config import ConfigError
from ..privacy import Member, Roster, SecureSum
from .recipe import Recipe
from .shared_noise import require_resolution


def secure_sum_of(recipe: Recipe, slices: Mapping[str, int]) -> SecureSum | None:
    """The secure sum of a run without masks; None if the recipe has none.

    Parameters
    ----------
    slices
        Training slices of each site; a recipe for deployed sites names them itself.

    Raises
    ------
    ConfigError
        If the sites are too few, the range leaves no bits, or rounding would remove noise that the sites share.
    """
    if not recipe.privacy.secure_sum:
        return None
    named = {site: Member(listed.slices, listed.key) for site, listed in recipe.privacy.sites.items()}
    try:
        return _summed(recipe, named or {site: Member(count) for site, count in slices.items()})
    except ValueError as error:
        raise ConfigError(f"recipe: {error}") from None


def masked_sum_of(recipe: Recipe, run: str) -> SecureSum | None:
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


def _summed(recipe: Recipe, members: Mapping[str, Member]) -> SecureSum:
    privacy, weighting = recipe.privacy, recipe.federation.weighting()
    weights = {}
    for site, member in members.items():
        weight = weighting.known_weight(member.slices)
        assert weight is not None  # the recipe is refused otherwise
        weights[site] = weight
    secure = SecureSum(Roster(members, privacy.threshold), weights, privacy.modulus_bits, privacy.largest_change)
    require_resolution(privacy, recipe.training, recipe.federation.rounds, secure)
    return secure
