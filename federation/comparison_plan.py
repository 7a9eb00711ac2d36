"""What a comparison runs: arms by table and seed, and the trials that tune them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .arm_jobs import FACTS, TRIAL_SEED, ArmJob
from .arms import Arm, with_same_modules
from .presets import Preset, TableSpec


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def companion(preset: Preset, arm: Arm) -> Arm | None:
    """FedAvg with the modules of an arm, under the name that it has in the preset; None where it adds none."""
    alike = with_same_modules(arm)
    if alike is None:
        return None
    listed = (each for each in preset.arms if (each.recipe, each.overrides) == (alike.recipe, alike.overrides))
    return next(listed, alike)


def with_companions(preset: Preset, extra: Sequence[Arm]) -> list[Arm]:
    """These arms, and FedAvg with the modules that they add to the network, unless the preset has it."""
    named = {arm.name: arm for arm in extra}
    for arm in extra:
        alike = companion(preset, arm)
        if alike is not None and alike not in preset.arms:
            both = alike.modalities + named.get(alike.name, alike).modalities
            named[alike.name] = replace(alike, modalities=tuple(dict.fromkeys(both)))
    return [*extra, *(arm for name, arm in named.items() if arm not in extra)]


@dataclass(frozen=True)
class _Choice:
    """What trials chose for an arm: a factor on its learning rate, and a value of its ``[tuning]`` by number."""

    rate: float
    value: int | None
    trials: int
    rate_at_end: bool
    value_at_end: bool


@dataclass(frozen=True)
class Plan:
    """What is to be run: arms by table and seed, and the trials that tune them."""

    preset: Preset
    out: Path
    extra: tuple[Arm, ...]
    seeds: int | None

    def jobs(self, modality: str, table: TableSpec, base: Path | None) -> list[ArmJob]:
        """The arms of a table, with what their trials chose."""
        count = table.seeds if self.seeds is None else self.seeds
        # Nothing is drawn in classical methods: one run stands for all seeds.
        arms = [
            (arm, 1 if arm.kind == "classical" else count)
            for arm in self.preset.arms
            if arm.name in table.arms and modality in arm.modalities
        ]
        if table is self.preset.tables[0]:
            arms += [(arm, 1) for arm in self.extra if modality in arm.modalities]
        jobs = []
        for arm, seeds in arms:
            choice = self._choice(modality, arm, base)
            for seed in range(seeds):
                job = self._job(f"seed{seed}", modality, table, arm, seed, base, choice.rate, choice.value)
                job = replace(
                    job, trials=choice.trials, at_end=choice.rate_at_end, value_at_end=choice.value_at_end,
                    label=self._label(job),
                )  # fmt: skip
                jobs.append(job)
        return jobs

    def trials(self, modality: str, base: Path | None) -> list[ArmJob]:
        """Trials that are missing.

        Every arm with every learning rate, then beyond an end where an arm is best there, then at the best rate with
        the values that its recipe says are tuned.
        """
        missing = []
        for arm in (*self.preset.arms, *self.extra):
            if modality not in arm.modalities or not self._is_tuned(arm):
                continue
            tried = self._tried_rates(modality, arm, base)
            wanted = [rate for rate in self.preset.rates if rate not in tried]
            if not wanted and len(tried) < len(self.preset.rates) + self.preset.more_rates:
                best = _best_rate(tried)
                wanted = [best / 2] if best == min(tried) else [2 * best] if best == max(tried) else []
            if wanted:
                missing += [self._trial(modality, arm, base, rate) for rate in wanted]
                continue
            best = _best_rate(tried)
            missing += [job for job in self._value_trials(modality, arm, base, best) if not job.facts]
        return missing

    def _choice(self, modality: str, arm: Arm, base: Path | None) -> _Choice:
        if not self._is_tuned(arm):
            return _Choice(self.preset.rates[len(self.preset.rates) // 2], None, 1, False, False)
        tried = self._tried_rates(modality, arm, base)
        best = _best_rate(tried)
        own = self._trial(modality, arm, base, best)
        others = self._value_trials(modality, arm, base, best)
        # The first of two alike: the recipe's own value.
        chosen = max((own, *others), key=_score)
        ends = _ends([job.recipe.tuned_value for job in (own, *others)]) if others else []
        value = others.index(chosen) if chosen is not own else None
        return _Choice(
            best,
            value,
            len(tried) + len(others),
            len(tried) > 1 and best in (min(tried), max(tried)),
            bool(others) and chosen.recipe.tuned_value in ends,
        )

    def _is_tuned(self, arm: Arm) -> bool:
        return arm.kind != "classical" and len(self.preset.rates) > 1

    def _tried_rates(self, modality: str, arm: Arm, base: Path | None) -> dict[float, float]:
        """Validation scores by factor on the learning rate, with the recipe's own value."""
        folder = self.out / modality / slug(self.preset.tables[0].name)
        found = {}
        for path in folder.glob(f"trial_*/{arm.name}/{FACTS}"):
            rate = float(path.parents[1].name.removeprefix("trial_"))
            job = self._trial(modality, arm, base, rate)
            if job.facts:
                found[rate] = _score(job)
        return found

    def _value_trials(self, modality: str, arm: Arm, base: Path | None, rate: float) -> list[ArmJob]:
        """Trials of the values that the recipe says are tuned, all of which are other than its own."""
        count = len(self._trial(modality, arm, base, rate).recipe.tuning.values)
        return [self._trial(modality, arm, base, rate, value) for value in range(count)]

    def _trial(self, modality: str, arm: Arm, base: Path | None, rate: float, value: int | None = None) -> ArmJob:
        """In the first table, with a seed that no table has."""
        part = f"trial_{rate:g}" if value is None else f"value{value}_{rate:g}"
        return self._job(part, modality, self.preset.tables[0], arm, TRIAL_SEED, base, rate, value)

    def _label(self, job: ArmJob) -> str:
        """What an arm is there to test."""
        if job.arm.kind != "federated" or job.arm.overrides:
            return ""
        alike = companion(self.preset, job.arm)
        there = {arm.name for arm in (*self.preset.arms, *self.extra)}
        beside = f"; FedAvg with its modules: {alike.name}" if alike is not None and alike.name in there else ""
        return job.recipe.evidence + beside

    def _job(
        self,
        part: str,
        modality: str,
        table: TableSpec,
        arm: Arm,
        seed: int,
        base: Path | None,
        rate: float,
        value: int | None,
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
            budget.recipe(arm, modality, seed, base=base, rate=rate, value=value),
            seed,
            rate,
        )


def _score(trial: ArmJob) -> float:
    """The validation score of a trial, minus infinity where training failed."""
    score = trial.facts.get("validation")
    return -math.inf if score is None else float(score)


def _best_rate(tried: Mapping[float, float]) -> float:
    """The factor with the best score, the smaller of two alike."""
    return max(tried, key=lambda rate: (tried[rate], -rate))


def _ends(values: Sequence[Any]) -> list[Any]:
    """The smallest and largest of numbers; other values have no end."""
    return [min(values), max(values)] if all(isinstance(value, int | float) for value in values) else []
