"""The private trainings of a deployed site, from its audit log, and the budget of its policy."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from recon import epsilon_text

from ..experiment import ReconstructionTask, privacy_notes
from ..privacy import PrivateSteps, epsilon_of, private_steps_of
from ..recipes import Recipe
from .audit_log import PRIVATE_TRAINING, read_log
from .policy import PolicyError
from .site_folder import SiteFolder


def require_budget(folder: SiteFolder, steps: PrivateSteps) -> float:
    """Epsilon of all private runs of the site with some more steps, of a known number of patients.

    Raises
    ------
    PolicyError
        If it exceeds the budget of the policy, or the delta of the budget is too large for the number of patients.
    DataError
        If the accountant is not installed, or the log cannot be read.
    """
    policy, delta = folder.policy, folder.policy.epsilon_delta
    if steps.patients is None:
        raise ValueError(f"require_budget: found {steps}, expected steps with the number of patients")
    if delta * steps.patients >= 1:
        raise PolicyError(
            f"epsilon_delta: found {delta:g} with {steps.patients} patients, expected below one in their number; "
            "lower it in policy.toml"
        )
    epsilon = epsilon_of([*_made(_trainings(folder)), steps], delta)
    if epsilon > policy.epsilon_budget:
        raise PolicyError(
            f"epsilon_budget: found {epsilon_text(epsilon)} with one more round in all private runs (delta {delta:g}), "
            f"expected at most {policy.epsilon_budget:g}; raise it in policy.toml, or leave the run"
        )
    return epsilon


def charge(folder: SiteFolder, run: str, round: int, steps: PrivateSteps) -> None:
    """Record a private training before it begins; one that is repeated, or fails, counts.

    Raises
    ------
    PolicyError, DataError
        As for :func:`require_budget`; nothing is recorded then.
    """
    epsilon = require_budget(folder, steps)
    folder.audit.append(
        PRIVATE_TRAINING,
        run=run,
        round=round,
        **asdict(steps),
        epsilon=epsilon,
        delta=folder.policy.epsilon_delta,
    )


def forecast(task: ReconstructionTask, folder: SiteFolder, recipe: Recipe, run: str) -> list[str]:
    """What a run will cost the patients of the site, and the limits of that; no line without differential privacy.

    Rounds of the run ``run`` in which the site has trained count by its log, the others as the recipe says.

    Raises
    ------
    ConfigError
        If the site has too few patients for the recipe.
    """
    if recipe.privacy.noise() is None:
        return []
    policy, delta, found = folder.policy, recipe.privacy.delta, task.patients()
    trainings = _trainings(folder)
    own = [facts for facts in trainings if facts["run"] == run]
    left = recipe.federation.rounds - len({facts["round"] for facts in own})
    steps = task.private_steps(left * recipe.training.steps_per_round)
    alone = epsilon_of([*_made(own), steps], delta)
    together = epsilon_of([*_made(trainings), steps], policy.epsilon_delta)
    text = (
        f"differential privacy of {len(found)} patient{'s' * (len(found) != 1)}: epsilon up to {epsilon_text(alone)} "
        f"after all rounds (delta {delta:g}); in all private runs {epsilon_text(together)} of the policy's "
        f"epsilon_budget {policy.epsilon_budget:g} (delta {policy.epsilon_delta:g})"
    )
    if together > policy.epsilon_budget:
        text += ": this site will stop before the last round"
    return [text, *privacy_notes(recipe, {folder.name: found}, deployed=True)]


def _trainings(folder: SiteFolder) -> list[Mapping[str, Any]]:
    """Facts of every private training in the log of the site."""
    return [entry.facts for entry in read_log(folder.audit.path) if entry.event == PRIVATE_TRAINING]


def _made(trainings: list[Mapping[str, Any]]) -> list[PrivateSteps]:
    return [private_steps_of(facts) for facts in trainings]
