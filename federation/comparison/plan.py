"""What a comparison runs: arms by table and seed, and the trials that tune them."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import ConfigError
from .arm_result import RESULT_FILE, ArmResult
from .arm_runs import TRIAL_SEED, ArmJob, Tuned
from .arms import Arm, every_recipe, with_same_modules
from .presets import Preset, TableSpec


def slug(name: str) -> str:
    """A table's name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def extra_arms(preset: Preset, given: Sequence[Arm], *, every: bool = False) -> list[Arm]:
    """Arms beside those of a preset, and FedAvg with the modules that they add to the network.

    Parameters
    ----------
    given
        Those that the user names.
    every
        All recipes that come with fedrecon, too, and FedAvg with the modules of those that the preset has. Those with
        adapters only where a base can be trained for them.

    Raises
    ------
    ConfigError
        If a recipe cannot be used, or has the name of what comes with another.
    """
    own = [arm for arm in preset.arms if every and arm.kind == "federated" and not arm.overrides]
    known = {arm.path.stem for arm in own} | {arm.name for arm in (*preset.arms, *given)}
    bundled = [arm for arm in every_recipe() if every and arm.name not in known]
    listed = [*given, *(arm for arm in bundled if preset.has_base or not preset.needs_base(arm))]
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
    """FedAvg with the modules of an arm, that of ``arms`` where they have it; None where it adds none."""
    alike = with_same_modules(arm, preset.budgets[modality], modality)
    if alike is None:
        return None
    same = (other for other in arms if (other.recipe, other.overrides) == (alike.recipe, alike.overrides))
    return next((other for other in same if modality in other.modalities), alike)


@dataclass(frozen=True)
class Plan:
    """What is to be run: arms by table and seed, and the trials that tune them."""

    preset: Preset
    out: Path
    extra: tuple[Arm, ...]
    seeds: int | None

    def base(self, modality: str) -> Path | None:
        """Where the base of the adapters is, or will be trained; None where no arm has any."""
        arms = [arm for arm in (*self.preset.arms, *self.extra) if modality in arm.modalities]
        return self.out / modality / "base" / "run" if any(self.preset.needs_base(arm) for arm in arms) else None

    def jobs(self, modality: str, table: TableSpec, base: Path | None, more: Collection[str] = ()) -> list[ArmJob]:
        """The arms of a table, as their trials chose; those named in ``more`` with the seeds of small effects."""
        count = table.seeds if self.seeds is None else self.seeds
        jobs = []
        for arm in self._arms(modality, table):
            seeds = self.preset.small_effect_seeds if arm.name in more else count
            if arm in self.extra:
                seeds = self.seeds or 1
            elif arm.kind == "classical":
                seeds = 1  # nothing is drawn in them: one run stands for all
            jobs += self._of_seeds(modality, table, arm, range(seeds), base)
        return jobs

    def run_before(self, modality: str, table: TableSpec, base: Path | None) -> list[ArmJob]:
        """What is known of, of the arms of a table, with any seed."""
        jobs = []
        for arm in self._arms(modality, table):
            known = (self.out / modality / slug(table.name)).glob(f"seed*/{arm.name}/{RESULT_FILE}")
            seeds = sorted(int(path.parents[1].name.removeprefix("seed")) for path in known)
            jobs += self._of_seeds(modality, table, arm, seeds, base) if seeds else []
        return jobs

    def of_another_recipe(self, modalities: Sequence[str]) -> list[str]:
        """Names of arms that the first table has, but of another recipe than now."""
        first = self.preset.tables[0]
        return sorted(
            {
                arm.name
                for modality in modalities
                for arm in self._arms(modality, first)
                if arm.kind != "classical"
                and (self.out / modality / slug(first.name) / "seed0" / arm.name / RESULT_FILE).exists()
                and self._as_run(modality, arm, self.base(modality)) is None
            }
        )

    def _arms(self, modality: str, table: TableSpec) -> list[Arm]:
        own = [arm for arm in self.preset.arms if arm.name in table.arms]
        return [
            arm for arm in (*own, *(self.extra if table is self.preset.tables[0] else ())) if modality in arm.modalities
        ]

    def _of_seeds(
        self, modality: str, table: TableSpec, arm: Arm, seeds: Iterable[int], base: Path | None
    ) -> list[ArmJob]:
        tuned = self._tuned(modality, arm, base)
        jobs = [self._job(f"seed{seed}", modality, table, arm, seed, base, tuned) for seed in seeds]
        return [replace(job, label=self._label(job)) for job in jobs]

    def trials(self, modality: str, base: Path | None) -> list[ArmJob]:
        """Trials that are missing.

        Every arm with every learning rate, then beyond an end where an arm is best there, then at the best rate with
        the values that its recipe says are tuned.
        """
        missing = []
        for arm in (*self.preset.arms, *self.extra):
            if modality not in arm.modalities or not self._is_tuned(arm):
                continue
            if self._as_run(modality, arm, base) is not None:
                continue
            tried = self._tried_rates(modality, arm, base)
            wanted = [rate for rate in self.preset.rates if rate not in tried]
            if not wanted and len(tried) < len(self.preset.rates) + self.preset.more_rates:
                best = _best_rate(tried)
                wanted = [best / 2] if best == min(tried) else [2 * best] if best == max(tried) else []
            if wanted:
                missing += [self._trial(modality, arm, base, Tuned(rate)) for rate in wanted]
            else:
                values = self._value_trials(modality, arm, base, _best_rate(tried))
                missing += [job for job in values if job.result is None]
        return missing

    def _tuned(self, modality: str, arm: Arm, base: Path | None) -> Tuned:
        if not self._is_tuned(arm):
            return Tuned(self.preset.rates[len(self.preset.rates) // 2])
        if (known := self._as_run(modality, arm, base)) is not None:
            return known
        tried = self._tried_rates(modality, arm, base)
        best = _best_rate(tried)
        own, *others = self._value_trials(modality, arm, base, best)
        chosen = max((own, *others), key=_score)  # the first of two alike: the recipe's own value
        ends = _ends([job.recipe.tuned_value for job in (own, *others)])
        return Tuned(
            best,
            chosen.tuned.value,
            trials=len(tried) + len(others),
            rate_at_end=len(tried) > 1 and best in (min(tried), max(tried)),
            value_at_end=bool(others) and chosen.recipe.tuned_value in ends,
        )

    def _is_tuned(self, arm: Arm) -> bool:
        return arm.kind != "classical" and len(self.preset.rates) > 1

    def _as_run(self, modality: str, arm: Arm, base: Path | None) -> Tuned | None:
        """What was chosen for an arm that is done in the first table, with this recipe; its trials may be elsewhere."""
        job = self._job("seed0", modality, self.preset.tables[0], arm, 0, base, Tuned())
        found = ArmResult.read(job.folder)
        chosen = None if found is None or found.failed is not None else Tuned.of_result(found, job.recipe.tuning)
        if chosen is None or not self._job("seed0", modality, self.preset.tables[0], arm, 0, base, chosen).is_done:
            return None
        return chosen

    def _tried_rates(self, modality: str, arm: Arm, base: Path | None) -> dict[float, float]:
        """Validation scores by factor on the learning rate, with the recipe's own value."""
        folder = self.out / modality / slug(self.preset.tables[0].name)
        found = {}
        for path in folder.glob(f"trial_*/{arm.name}/{RESULT_FILE}"):
            rate = float(path.parents[1].name.removeprefix("trial_"))
            job = self._trial(modality, arm, base, Tuned(rate))
            if job.result is not None:
                found[rate] = _score(job)
        return found

    def _value_trials(self, modality: str, arm: Arm, base: Path | None, rate: float) -> list[ArmJob]:
        """Trials of the recipe's own value and of those that it says are tuned, each other one once."""
        own = self._trial(modality, arm, base, Tuned(rate))
        known = {own.recipe.digest(): own}
        for value in range(len(own.recipe.tuning.values)):
            job = self._trial(modality, arm, base, Tuned(rate, value))
            known.setdefault(job.recipe.digest(), job)
        return list(known.values())

    def _trial(self, modality: str, arm: Arm, base: Path | None, tuned: Tuned) -> ArmJob:
        """In the first table, with a seed that no table has."""
        part = f"trial_{tuned.rate:g}" if tuned.value is None else f"value{tuned.value}_{tuned.rate:g}"
        return self._job(part, modality, self.preset.tables[0], arm, TRIAL_SEED, base, tuned)

    def _label(self, job: ArmJob) -> str:
        """What an arm is there to test."""
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

    def _job(
        self, part: str, modality: str, table: TableSpec, arm: Arm, seed: int, base: Path | None, tuned: Tuned
    ) -> ArmJob:
        folder = self.out / modality / slug(table.name)
        budget = self.preset.budgets[modality].times(table.steps)
        return ArmJob(
            folder / part / arm.name,
            folder / "sites",
            folder / "maps",
            modality,
            table.name,
            arm,
            budget.recipe(arm, modality, seed, base=base, rate=tuned.rate, value=tuned.value),
            seed,
            tuned,
        )


def _score(trial: ArmJob) -> float:
    """The validation score of a trial, minus infinity where training failed."""
    score = None if trial.result is None else trial.result.validation
    return -math.inf if score is None or not math.isfinite(score) else score


def _best_rate(tried: Mapping[float, float]) -> float:
    """The factor with the best score, the smaller of two alike."""
    return max(tried, key=lambda rate: (tried[rate], -rate))


def _ends(values: Sequence[Any]) -> list[Any]:
    """The smallest and largest of numbers; other values have no end."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return [min(values), max(values)] if len(numbers) == len(values) else []
