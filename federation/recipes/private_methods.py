"""What cannot be used with differential privacy of patients, and why."""

import torch

from ..methods import SERVER_RULES
from .recipe_schema import FederationSection, ObjectiveSection, PersonalSection


def require_private(federation: FederationSection, objective: ObjectiveSection, personal: PersonalSection) -> None:
    """Check that all that a site sends follows from its noisy parameters, except scores and counts.

    Raises
    ------
    ValueError
        With the key, and the reason in the words of the method.
    """
    wanted = "with privacy.noise_multiplier, expected"
    if federation.rule().aux_layout({"x": torch.zeros(1)}):
        fit = ", ".join(sorted(name for name in SERVER_RULES if _sends_parameters_alone(name)))
        why = "its control variates are gradients without noise"
        raise ValueError(f"federation.server_rule: found {federation.server_rule!r} {wanted} one of {fit}: {why}")
    if sending := objective.sending():
        why = "it sends means over the images of a site without noise"
        raise ValueError(f"objective.{sending[0]}: found a weight {wanted} none: {why}")
    if personal.nearest_code:
        why = "a site would reveal the mean scan features of its patients without noise"
        raise ValueError(f"personal.nearest_code: found true {wanted} false: {why}")


def _sends_parameters_alone(name: str) -> bool:
    try:
        return not SERVER_RULES.make(name, {}, "server_options").aux_layout({"x": torch.zeros(1)})
    except (ValueError, TypeError):  # a plugin's, with options that have no default
        return False
