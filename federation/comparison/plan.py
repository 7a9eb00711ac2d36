"""Plan of a comparison: arms by table and seed, and the trials that tune them."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import ConfigError
from .arm_result import RESULT_FILE, ArmResult
from .arm_runs import TRIAL_SEED, ArmJob, Tuned
from .arms import Arm, every_recipe, with_same_modules
from .preset import Preset, TableSpec


def table_folder(name: str) -> str:
    """Name of the folder of a table."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def extra_arms(preset: Preset, given: Sequence[Arm], *, every: bool = False) -> list[Arm]:
    """Arms beside those of a preset, each method with FedAvg on its network.

    Parameters
    ----------
    given
        Arms that the user names.
    every
        Also all recipes of the library, and FedAvg on the networks of the preset's methods. Recipes with adapters are
        left out where no base can be trained for them, and recipes with differential privacy at sites with patients.

    Raises
    ------
    ConfigError
        If a recipe cannot be used, or its name is also the name of a FedAvg arm made here.
    """
    own = [arm for arm in preset.arms if every and arm.kind == "federated" and not arm.overrides]
    known = {arm.path.stem for arm in own} | {arm.name for arm in (*preset.arms, *given)}
    bundled = [arm for arm in every_recipe() if every and arm.name not in known]
    if not preset.has_base:
        bundled = [arm for arm in bundled if not preset.needs_base(arm)]
    if preset.sites_with_patients():
        bundled = [arm for arm in bundled if not preset.has_noise(arm)]
    listed = [*given, *bundled]
    alike: dict[str, Arm] = {}
    for arm in (*listed, *own):
        for modality in preset.budgets.keys() & set(arm.modalities):
            found = companion(preset, preset.arms, arm, modality)
            if found is not None and found not in preset.arms:
                both = {*found.modalities, *alike.get(found.name, found).modalities}
                alike[found.name] = replace(found, modalities=tuple(sorted(both, reverse=True)))
    for arm in given:
        if arm.name in alike:
            raise ConfigError(
                f"{arm.path}: its name {arm.name!r} is that of FedAvg with the modules of another arm; choose another"
            )
    return [*listed, *(alike[name] for name in sorted(alike))]


def companion(preset: Preset, arms: Sequence[Arm], arm: Arm, modality: str) -> Arm | None:
    """FedAvg on the network of an arm, taken from ``arms`` if it is there; None if the arm adds no modules."""
    alike = with_same_modules(arm, preset.budgets[modality], modality)
    if alike is None:
        return None
    same = (other for other in arms if (other.recipe, other.overrides) == (alike.recipe, alike.overrides))
    return next((other for other in same if modality in other.modalities), alike)


@dataclass(frozen=True)
class ModalityPlan:
    """Arms of a comparison in one modality, by table and seed, and the trials that tune them.

    Parameters
    ----------
    out
        Folder of the comparison.
    extra
        Arms beside those of the preset, in its first table.
    seeds
        Number of training seeds of every arm; None: as the preset says.
    only
        Names of the tables to run; empty: all.
    """

    preset: Preset
    out: Path
    extra: tuple[Arm, ...]
    seeds: int | None
    modality: str
    only: tuple[str, ...] = ()

    @cached_property
    def base(self) -> Path | None:
        """Run that trains the frozen base of the adapters; None if no arm has adapters."""
        needed = any(self.preset.needs_base(arm) for arm in self._arms)
        return self.out / self.modality / "base" / "run" if needed else None

    @property
    def tables(self) -> list[TableSpec]:
        """Tables of the preset in this modality that are run."""
        tables = [table for table in self.preset.tables if self.modality in table.modalities]
        return [table for table in tables if not self.only or table.name in self.only]

    def jobs(self, table: TableSpec, more: Collection[str] = ()) -> list[ArmJob]:
        """Jobs of a table, with the values that trials chose.

        Parameters
        ----------
        more
            Names of arms that get the preset's seeds for small effects.
        """
        jobs = []
        for arm in self._arms_in(table):
            if arm in self.extra:
                seeds = self.seeds or 1
            elif arm.kind == "classical":
                seeds = 1  # deterministic: one run holds for all seeds
            elif arm.name in more:
                seeds = self.preset.small_effect_seeds
            else:
                seeds = self.seeds or table.seeds
            jobs += self._with_seeds(table, arm, range(seeds))
        return jobs

    def jobs_with_results(self, table: TableSpec) -> list[ArmJob]:
        """Jobs of a table that have a result, with any seed."""
        jobs = []
        for arm in self._arms_in(table):
            found = self._folder(table).glob(f"seed*/{arm.name}/{RESULT_FILE}")
            seeds = sorted(int(path.parents[1].name.removeprefix("seed")) for path in found)
            jobs += self._with_seeds(table, arm, seeds) if seeds else []
        return jobs

    def trials(self) -> list[ArmJob]:
        """Trials that are missing.

        First every arm is tried with every learning rate of the preset; then with half or twice the rate if its best
        one is the smallest or largest tried; then, at the best rate, with the values that its recipe tunes.
        """
        missing = []
        wanted_arms = [arm for table in self.tables for arm in self._arms_in(table)] if self.only else self._arms
        for arm in dict.fromkeys(wanted_arms):
            if not self._is_tuned(arm) or self._chosen_before(arm) is not None:
                continue
            tried = self._tried_rates(arm)
            wanted = [rate for rate in self.preset.rates if rate not in tried]
            if not wanted and len(tried) < len(self.preset.rates) + self.preset.more_rates:
                best = _best_rate(tried)
                wanted = [best / 2] if best == min(tried) else [2 * best] if best == max(tried) else []
            if wanted:
                missing += [self._trial(arm, Tuned(rate)) for rate in wanted]
            else:
                missing += [job for job in self._value_trials(arm, _best_rate(tried)) if job.result is None]
        return missing

    def arms_of_another_recipe(self) -> list[str]:
        """Names of arms in the first table whose result belongs to another recipe than their present one."""
        folder = self._folder(self._first) / "seed0"
        return sorted(
            arm.name
            for arm in self._arms_in(self._first)
            if arm.kind != "classical"
            and (folder / arm.name / RESULT_FILE).exists()
            and self._chosen_before(arm) is None
        )

    @property
    def _first(self) -> TableSpec:
        return self.preset.tables[0]

    @property
    def _arms(self) -> list[Arm]:
        return [arm for arm in (*self.preset.arms, *self.extra) if self.modality in arm.modalities]

    def _arms_in(self, table: TableSpec) -> list[Arm]:
        return [arm for arm in self._arms if (table is self._first if arm in self.extra else arm.name in table.arms)]

    def _folder(self, table: TableSpec) -> Path:
        return self.out / self.modality / table_folder(table.name)

    def _with_seeds(self, table: TableSpec, arm: Arm, seeds: Iterable[int]) -> list[ArmJob]:
        tuned = self._tuned(arm)
        jobs = [self._job(f"seed{seed}", table, arm, seed, tuned) for seed in seeds]
        return [replace(job, label=self._label(job)) for job in jobs]

    def _is_tuned(self, arm: Arm) -> bool:
        return arm.kind != "classical" and len(self.preset.rates) > 1

    def _tuned(self, arm: Arm) -> Tuned:
        if not self._is_tuned(arm):
            return Tuned(self.preset.rates[len(self.preset.rates) // 2])
        if (known := self._chosen_before(arm)) is not None:
            return known
        tried = self._tried_rates(arm)
        best = _best_rate(tried)
        own, *others = self._value_trials(arm, best)
        chosen = max((own, *others), key=_score)  # of equal scores the first: the recipe's own value
        ends = _ends([job.recipe.tuned_value for job in (own, *others)])
        return Tuned(
            best,
            chosen.tuned.value,
            trials=len(tried) + len(others),
            rate_at_end=len(tried) > 1 and best in (min(tried), max(tried)),
            value_at_end=bool(others) and chosen.recipe.tuned_value in ends,
        )

    def _chosen_before(self, arm: Arm) -> Tuned | None:
        """Values of an arm that is done in the first table with its present recipe, also without trials in ``out``."""
        job = self._job("seed0", self._first, arm, 0, Tuned())
        found = ArmResult.read(job.folder)
        chosen = None if found is None or found.failed is not None else Tuned.of_result(found, job.recipe.tuning)
        if chosen is None or not self._job("seed0", self._first, arm, 0, chosen).is_done:
            return None
        return chosen

    def _tried_rates(self, arm: Arm) -> dict[float, float]:
        """Validation scores by factor on the learning rate, with the recipe's own value."""
        found = {}
        for path in self._folder(self._first).glob(f"trial_*/{arm.name}/{RESULT_FILE}"):
            rate = float(path.parents[1].name.removeprefix("trial_"))
            job = self._trial(arm, Tuned(rate))
            if job.result is not None:
                found[rate] = _score(job)
        return found

    def _value_trials(self, arm: Arm, rate: float) -> list[ArmJob]:
        """Trials of the recipe's own value and of the values that it tunes, without repetition."""
        own = self._trial(arm, Tuned(rate))
        known = {own.recipe.digest(): own}
        for value in range(len(own.recipe.tuning.values)):
            job = self._trial(arm, Tuned(rate, value))
            known.setdefault(job.recipe.digest(), job)
        return list(known.values())

    def _trial(self, arm: Arm, tuned: Tuned) -> ArmJob:
        """A trial in the first table, with a seed that no table has."""
        part = f"trial_{tuned.rate:g}" if tuned.value is None else f"value{tuned.value}_{tuned.rate:g}"
        return self._job(part, self._first, arm, TRIAL_SEED, tuned)

    def _label(self, job: ArmJob) -> str:
        """Purpose of a federated arm."""
        if job.arm.kind != "federated":
            return ""
        if job.arm in self.extra and job.arm.overrides:
            base = ", from their base" if job.recipe.network.base is not None else ""
            return f"FedAvg with the modules of other arms{base}"
        if job.arm.overrides:
            return ""
        arms = (*self.preset.arms, *self.extra)
        alike = companion(self.preset, arms, job.arm, job.modality)
        beside = f"FedAvg with its modules: {alike.name}" if alike is not None and alike in arms else ""
        return "; ".join(filter(None, (job.recipe.evidence, beside)))

    def _job(self, part: str, table: TableSpec, arm: Arm, seed: int, tuned: Tuned) -> ArmJob:
        folder = self._folder(table)
        budget = self.preset.budgets[self.modality].times(table.steps)
        return ArmJob(
            folder / part / arm.name,
            folder / "sites",
            folder / "maps",
            self.modality,
            table.name,
            arm,
            budget.recipe(arm, self.modality, seed, base=self.base, rate=tuned.rate, value=tuned.value),
            seed,
            tuned,
        )


def _score(trial: ArmJob) -> float:
    """The validation score of a trial, minus infinity where training failed."""
    score = None if trial.result is None else trial.result.validation
    return -math.inf if score is None or not math.isfinite(score) else score


def _best_rate(tried: Mapping[float, float]) -> float:
    """The factor with the best score; of equal scores the smallest factor."""
    return max(tried, key=lambda rate: (tried[rate], -rate))


def _ends(values: Sequence[Any]) -> list[Any]:
    """The smallest and largest of numbers; nothing for other values."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return [min(values), max(values)] if len(numbers) == len(values) else []
