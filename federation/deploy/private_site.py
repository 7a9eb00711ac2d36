"""The private trainings of a deployed site, from its audit log, and the budget of its policy."""

from ..experiment import ReconstructionTask
from ..privacy import PrivateSteps, epsilon_of
from ..recipes import Recipe
from ..rounds import SiteSpec
from .audit_log import PRIVATE_TRAINING, read_log
from .policy import Policy, PolicyError
from .site_folder import SiteFolder


def charge(folder: SiteFolder, policy: Policy, run: str, round: int, steps: PrivateSteps) -> None:
    """Record a private training before it begins; all private runs of the site are added up.

    A round that is trained again, or whose training fails, counts.

    Raises
    ------
    PolicyError
        If the site would have spent more than the budget of its policy.
    DataError
        If the accountant is not installed, or the log cannot be read or written.
    """
    epsilon = epsilon_of([*_spent(folder), steps], policy.epsilon_delta)
    if epsilon > policy.epsilon_budget:
        raise PolicyError(
            f"epsilon_budget: {epsilon:.2f} with this round in all private runs (delta {policy.epsilon_delta:g}), "
            f"expected at most {policy.epsilon_budget:g}; the patients of this site have given what they may"
        )
    folder.audit.append(
        PRIVATE_TRAINING,
        run=run,
        round=round,
        steps=steps.steps,
        probability=steps.probability,
        noise_multiplier=steps.noise_multiplier,
        epsilon=epsilon,
        delta=policy.epsilon_delta,
    )


def forecast(task: ReconstructionTask, folder: SiteFolder, recipe: Recipe) -> str:
    """What a run will cost the patients of the site, on one line; an empty text without differential privacy.

    Raises
    ------
    ConfigError
        If the site has too few patients for the recipe.
    """
    if recipe.privacy.noise() is None:
        return ""
    policy, delta = folder.policy, recipe.privacy.delta
    steps = task.private_steps(recipe.federation.rounds * recipe.training.steps_per_round)
    alone, together = epsilon_of([steps], delta), epsilon_of([*_spent(folder), steps], policy.epsilon_delta)
    text = (
        f"differential privacy of {len(task.patients())} patients: epsilon up to {alone:.2f} after all rounds (delta "
        f"{delta:g}); with the private runs before {together:.2f} of the policy's epsilon_budget "
        f"{policy.epsilon_budget:g} (delta {policy.epsilon_delta:g})"
    )
    return text if together <= policy.epsilon_budget else f"{text}: this site will stop before the last round"


def require_budget(spec: SiteSpec, task: ReconstructionTask, folder: SiteFolder, policy: Policy) -> None:
    """Check that the budget allows a first round.

    Raises
    ------
    PolicyError
        If it does not.
    """
    epsilon = epsilon_of([*_spent(folder), task.private_steps(spec.steps_in(0))], policy.epsilon_delta)
    if epsilon > policy.epsilon_budget:
        raise PolicyError(f"epsilon_budget: {epsilon:.2f} after one round, expected at most {policy.epsilon_budget:g}")


def _spent(folder: SiteFolder) -> list[PrivateSteps]:
    facts = [entry.facts for entry in read_log(folder.audit.path) if entry.event == PRIVATE_TRAINING]
    return [PrivateSteps(f["steps"], f["probability"], f["noise_multiplier"]) for f in facts]
