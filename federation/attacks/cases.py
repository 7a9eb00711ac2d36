"""The searches of a report: what the attacker sees in each, and what the picture is compared with."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

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
from ..experiment import algorithm_of
from ..serialization import SiteUpdate, State
from ..sites import Split
from .plan import AttackPlan, SmallTask

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
    joint
        Whether the images of all sites in the sum are sought together.
    own_control
        Whether it has a control; without one it is compared with the control of the exact gradient.
    """

    key: str
    title: str
    search: Callable[[AttackPlan, int, bool], Search]
    per_slice: bool = True
    joint: bool = False
    own_control: bool = True


def cases_of(plan: AttackPlan) -> tuple[list[Case], dict[str, str]]:
    """The cases of a run, and the reason for every one that is left out."""
    cases, left_out = [], {}
    objective = plan.run.recipe.objective.build_task(plan.run.recipe.training.loss)
    held_out = getattr(objective, "holds_out", False)
    for case in CASES:
        if held_out and case.key in ("update", "sum_of_updates"):
            left_out[case.title] = "the loss holds out random measurements in every step, which is not replayed"
        elif len(plan.names) == 1 and case.key in ("sum_of_gradients", "sum_of_updates"):
            left_out[case.title] = "there is one site, so that no sum hides it"
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
    sent = crafted_parameters(before)
    return _exact(plan, number, control, _within_bound(sent, before) if bounded else sent)


def _within_bound(sent: State, before: State) -> State:
    """The sent parameters, moved towards those before until every tensor changes as little as a site requires."""
    most, allowed = Policy().maximum_change, {}
    for name, old in before.items():
        _, change = largest_change({name: sent[name]}, {name: old})
        allowed[name] = old + min(1.0, most / max(change, 1e-12)) * (sent[name] - old)
    return allowed


def _sum_of_gradients(plan: AttackPlan, number: int, control: bool) -> Search:
    victims = [plan.victim(name, plan.sample(name, number if name == plan.site else 0)) for name in plan.names]
    senders = [plan.victim(plan.site, plan.control_sample(plan.site)) if control else victims[0], *victims[1:]]
    seen = mean_gradient(victim.gradient() for victim in senders)
    return Search(victims, seen, [victims[0].sample], plan.settings())


def _update(plan: AttackPlan, number: int, control: bool) -> Search:
    return _from_changes(plan, number, control, plan.names[:1])


def _sum_of_updates(plan: AttackPlan, number: int, control: bool) -> Search:
    return _from_changes(plan, number, control, plan.names)


def _from_changes(plan: AttackPlan, number: int, control: bool, names: tuple[str, ...]) -> Search:
    """The mean change of some sites, read as minus a gradient; any training slice of the attacked site is a success."""
    before = plan.run.selected().shared
    split: Split = "test" if control else "train"
    updates = [replayed_update(plan, name, split if name == plan.site else "train") for name in names]
    total = sum(update.n_samples for update in updates)
    seen = tuple(
        torch.stack([(before[key] - update.shared[key]) * (update.n_samples / total) for update in updates]).sum(0)
        for key in sorted(before)
    )
    task = plan.task(plan.site)
    sought = [collate([sample]) for sample in task.dataset("train")]
    victim = plan.victim(plan.site, sought[number])
    others = [*sought[:number], *sought[number + 1 :]]
    # The scale and the proportions of the tensors are those of the optimizer's steps.
    return Search([victim], seen, [sought[number], *others], plan.settings("cosine"))


def replayed_update(plan: AttackPlan, name: str, split: Split = "train") -> SiteUpdate:
    """The update of a site in the selected round, with decoded parameters: its optimizer, steps, order and transforms.

    The site begins with the kept state that it had in this round.

    Parameters
    ----------
    split
        Slices on which it trains; those of the control come from patients who do not train.
    """
    run, manifest = plan.run, plan.run.manifest(name)
    state, spec = run.selected(), run.spec(manifest)
    sent = algorithm_of(run.recipe).broadcast(state, name)
    earlier = state.round - 1 if state.round else None
    broadcast = replace(sent, shared=state.shared, encoded=False, accepted_round=earlier, best_round=None)
    task = partial(SmallTask, manifest, run.recipe, run.maps_folder(name), plan.size, split)
    with TemporaryDirectory() as folder:
        if spec.folder.is_dir():
            copytree(spec.folder, folder, dirs_exist_ok=True)
        site = replace(spec, task=task, folder=Path(folder)).build()
        update = site.train_round(broadcast)
        if not update.encoded:
            return update
        return replace(update, shared=site.wire.decode(broadcast.shared, update.shared), encoded=False)


#: The positive control; its success is what the report begins with.
POSITIVE = Case("positive_control", "linear network, batch 1 (positive control)", _positive)
#: All other cases, in the order of the report.
CASES = (
    Case("exact_gradient", "one exact gradient, batch 1", _exact),
    Case("update", "update of a round, several steps", _update, per_slice=False),
    Case("sum_of_gradients", "sum of exact gradients (secure sum)", _sum_of_gradients, joint=True),
    Case("sum_of_updates", "sum of updates (secure sum)", _sum_of_updates, per_slice=False, own_control=False),
    Case("crafted", "crafted broadcast, no bound", partial(_crafted, False)),
    Case("crafted_bounded", "crafted broadcast within a site's bound", partial(_crafted, True)),
    Case("noise_0.01", "clipped, noise multiplier 0.01", partial(_noised, 0.01), own_control=False),
    Case("noise_1", "clipped, noise multiplier 1", partial(_noised, 1.0), own_control=False),
)  # fmt: skip


def digest_of(record: object) -> str:
    """Short digest of what a finished search depends on."""
    return hashlib.sha256(repr(record).encode()).hexdigest()[:16]
