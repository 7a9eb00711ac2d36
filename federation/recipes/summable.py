"""What cannot be used with a secure sum, and why."""

from ..methods import SERVER_RULES, WEIGHTINGS
from .recipe_schema import FederationSection, TransformSection


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
