"""The searches of a report: what the attacker sees in each, and what the picture is compared with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from recon import (
    AttackSettings,
    Gradient,
    Sample,
    Victim,
    clipped,
    collate,
    crafted_parameters,
    gradient_norm,
    linear_victim,
    mean_gradient,
)

from ..deploy.change_bounds import largest_change
from ..deploy.policy import Policy
from ..serialization import State
from ..sites import Split
from .plan import AttackPlan
from .replay import replayed_state, replayed_update, why_not_replayed

#: Rows and columns of the positive control, whose layer has as many weights as the square of its pixels.
CONTROL_SIZE = 24


@dataclass(frozen=True, eq=False)
class Search:
    """What an attack starts from: the victims as it simulates them, what it sees, and the pictures that it seeks."""

    victims: list[Victim]
    seen: Gradient
    sought: list[Sample]
    settings: AttackSettings


@dataclass(frozen=True)
class Case:
    """One way to attack.

    Parameters
    ----------
    key
        Name in files.
    title
        Name in tables and pictures.
    search
        Builds the search for a target; True as the last argument: for the control, an update of other patients.
    per_slice
        Whether it has a search for every target; an update of a round holds all slices.
    update
        Whether it replays the updates of a round.
    sums
        Whether it needs the data of all sites in the sum.
    joint
        Whether the images of all sites in the sum are sought together.
    own_control
        Whether it has a control; without one it is compared with the control of the exact gradient.
    """

    key: str
    title: str
    search: Callable[[AttackPlan, int, bool], Search]
    per_slice: bool = True
    update: bool = False
    sums: bool = False
    joint: bool = False
    own_control: bool = True

    def names(self, plan: AttackPlan) -> tuple[str, ...]:
        """The sites whose data it needs."""
        return plan.names if self.sums else plan.names[:1]

    def targets(self, plan: AttackPlan) -> tuple[int, ...]:
        """The training slices that it attacks one by one."""
        return plan.targets if self.per_slice else plan.targets[:1]


def case_of(key: str) -> Case:
    """The case of this key."""
    return next(case for case in (POSITIVE, *CASES) if case.key == key)


def cases_of(plan: AttackPlan) -> tuple[list[Case], dict[str, str]]:
    """The cases of a run, and the reason for every one that is left out."""
    cases, left_out = [], {}
    for case in CASES:
        if case.sums and len(plan.names) == 1:
            left_out[case.title] = "there is one site, so that no sum hides it"
        elif case.update and (why := why_not_replayed(plan, case.names(plan))):
            left_out[case.title] = why
        else:
            cases.append(case)
    return cases, left_out


def _positive(plan: AttackPlan, number: int, control: bool) -> Search:
    name = plan.site
    tiny = replace(plan, size=CONTROL_SIZE)
    target = linear_victim(tiny.sample(name, number))
    seen = (linear_victim(tiny.control_sample(name)) if control else target).gradient()
    return Search([target], seen, [target.sample], plan.settings())


def _exact(plan: AttackPlan, number: int, control: bool, shared: State | None = None) -> Search:
    name = plan.site
    target = plan.victim(name, plan.sample(name, number), shared)
    seen = plan.victim(name, plan.control_sample(name), shared).gradient() if control else target.gradient()
    return Search([target], seen, [target.sample], plan.settings())


def _noised(multiplier: float, plan: AttackPlan, number: int, control: bool) -> Search:
    """Clipped to its own norm: the least that clipping can do."""
    search = _exact(plan, number, control)
    generator = torch.Generator().manual_seed(number)
    return replace(search, seen=clipped(search.seen, gradient_norm(search.seen), multiplier, generator))


def _crafted(bounded: bool, plan: AttackPlan, number: int, control: bool) -> Search:
    before = plan.run.selected().shared
    sent = crafted_parameters(before, plan.parameter_names())
    return _exact(plan, number, control, _within_bound(sent, before) if bounded else sent)


def _within_bound(sent: State, before: State) -> State:
    """The sent parameters, moved towards those before until every tensor changes as little as a site requires."""
    most, allowed = Policy().maximum_change, {}
    for name, old in before.items():
        _, change = largest_change({name: sent[name]}, {name: old})
        allowed[name] = old + min(1.0, most / max(change, 1e-12)) * (sent[name] - old)
    return allowed


def _sum_of_gradients(plan: AttackPlan, number: int, control: bool) -> Search:
    # Middle slices of the other sites: the first one is at the edge of the body, and would hide little.
    samples = [plan.sample(name, number) if name == plan.site else plan.middle(name) for name in plan.names]
    victims = [plan.victim(name, sample) for name, sample in zip(plan.names, samples, strict=True)]
    senders = [plan.victim(plan.site, plan.control_sample(plan.site)) if control else victims[0], *victims[1:]]
    seen = mean_gradient(victim.gradient() for victim in senders)
    return Search(victims, seen, [victims[0].sample], plan.settings())


def _update(plan: AttackPlan, number: int, control: bool) -> Search:
    return _from_changes(plan, number, control, plan.names[:1])


def _sum_of_updates(plan: AttackPlan, number: int, control: bool) -> Search:
    return _from_changes(plan, number, control, plan.names)


def _from_changes(plan: AttackPlan, number: int, control: bool, names: tuple[str, ...]) -> Search:
    """The mean change of some sites, read as minus a gradient; any training slice of the attacked site is a success."""
    state = replayed_state(plan)
    before = state.shared
    split: Split = "test" if control else "train"
    updates = [replayed_update(plan, name, split if name == plan.site else "train") for name in names]
    weighting = plan.run.recipe.federation.weighting()
    # Weights that depend on scores are not known: by slices in their place.
    weights = [weighting.known_weight(update.n_samples) or update.n_samples for update in updates]
    seen = tuple(
        torch.stack(
            [(before[key] - u.shared[key]) * (w / sum(weights)) for u, w in zip(updates, weights, strict=True)]
        ).sum(0)
        for key in sorted(before)
    )
    sought = [collate([sample]) for sample in plan.task(plan.site).slices()]
    victim = plan.victim(plan.site, sought[number], state=state)
    others = [*sought[:number], *sought[number + 1 :]]
    # The scale and the proportions of the tensors are those of the optimizer's steps.
    return Search([victim], seen, [sought[number], *others], plan.settings("cosine"))


#: The positive control; its success is what the report begins with.
POSITIVE = Case("positive_control", "linear network, batch 1 (positive control)", _positive)
#: All other cases, in the order of the report.
CASES = (
    Case("exact_gradient", "one exact gradient, batch 1", _exact),
    Case("update", "update of a round, several steps", _update, per_slice=False, update=True),
    Case("sum_of_gradients", "sum of exact gradients (secure sum)", _sum_of_gradients, sums=True, joint=True),
    Case(
        "sum_of_updates", "sum of updates (secure sum)", _sum_of_updates, per_slice=False, update=True, sums=True,
        own_control=False,
    ),
    Case("crafted", "crafted broadcast, no bound", partial(_crafted, False)),
    Case("crafted_bounded", "crafted broadcast within a site's bound, in one round", partial(_crafted, True)),
    Case("noise_0.01", "clipped, noise multiplier 0.01", partial(_noised, 0.01), own_control=False),
    Case("noise_1", "clipped, noise multiplier 1", partial(_noised, 1.0), own_control=False),
)  # fmt: skip
