"""The private trainings of a deployed site, from its audit log, and the budget of its policy."""

from ..experiment import ReconstructionTask
from ..privacy import PrivateSteps, epsilon_of
from ..recipes import Recipe
from .audit_log import PRIVATE_TRAINING, read_log
from .policy import PolicyError
from .site_folder import SiteFolder


def require_budget(folder: SiteFolder, recipe: Recipe, steps: PrivateSteps) -> float:
    """Epsilon of all private runs of the site with some more steps.

    Raises
    ------
    PolicyError
        If it exceeds the budget of the policy, or the delta of the budget is too large for the number of patients.
    DataError
        If the accountant is not installed, or the log cannot be read.
    """
    policy, noise = folder.policy, recipe.privacy.noise()
    patients = 1 if noise is None else round(noise.patients_per_step / steps.probability)
    if policy.epsilon_delta * patients >= 1:
        raise PolicyError(f"epsilon_delta: found {policy.epsilon_delta:g}, expected below one in {patients} patients")
    epsilon = epsilon_of([*_spent(folder), steps], policy.epsilon_delta)
    if epsilon > policy.epsilon_budget:
        raise PolicyError(
            f"epsilon_budget: {epsilon:.2f} with one more round in all private runs (delta {policy.epsilon_delta:g}), "
            f"expected at most {policy.epsilon_budget:g}; the site answers no further round of private runs"
        )
    return epsilon


def charge(folder: SiteFolder, recipe: Recipe, run: str, round: int, steps: PrivateSteps) -> None:
    """Record a private training before it begins; one that is repeated, or fails, counts.

    Raises
    ------
    PolicyError, DataError
        As for :func:`require_budget`; nothing is recorded then.
    """
    epsilon = require_budget(folder, recipe, steps)
    folder.audit.append(
        PRIVATE_TRAINING,
        run=run,
        round=round,
        steps=steps.steps,
        probability=steps.probability,
        noise_multiplier=steps.noise_multiplier,
        epsilon=epsilon,
        delta=folder.policy.epsilon_delta,
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
    policy, delta, patients = folder.policy, recipe.privacy.delta, len(task.patients())
    steps = task.private_steps(recipe.federation.rounds * recipe.training.steps_per_round)
    alone, together = epsilon_of([steps], delta), epsilon_of([*_spent(folder), steps], policy.epsilon_delta)
    text = (
        f"differential privacy of {patients} patient{'s' * (patients != 1)}: epsilon up to {alone:.2f} after all "
        f"rounds (delta {delta:g}); with the private runs before {together:.2f} of the policy's epsilon_budget "
        f"{policy.epsilon_budget:g} (delta {policy.epsilon_delta:g})"
    )
    return text if together <= policy.epsilon_budget else f"{text}: this site will stop before the last round"


def _spent(folder: SiteFolder) -> list[PrivateSteps]:
    facts = [entry.facts for entry in read_log(folder.audit.path) if entry.event == PRIVATE_TRAINING]
    return [PrivateSteps(f["steps"], f["probability"], f["noise_multiplier"]) for f in facts]
