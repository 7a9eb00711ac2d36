"""What a run will cost: time, memory, disk and cores, from what was measured at its sites; pure arithmetic and text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..config import ConfigError
from ..progress import duration
from ..recipes import CENTRALIZED, LOCAL, Recipe
from ..worker_pool import Queue
from .gpu_share import GpuShare
from .site_cost import SiteCost

#: Runs that are shorter are not announced.
SECONDS_WORTH_A_WORD = 60.0


@dataclass(frozen=True)
class Plan:
    """Cost of a training.

    Parameters
    ----------
    costs
        Measured at the sites with training data.
    participants
        Names of the sites in the rounds; the others train their local arm alone.
    jobs
        Processes at a time.
    rounds_done
        Rounds that an interrupted run has made, in the federation under ``""`` and in local arms under their sites.
    available, total, disk, maps_disk
        Bytes of memory that are free and that the machine has, and bytes that are free on the disk of the run and of
        the coil maps; None: unknown.
    threads
        Threads of each process.
    gpus
        What the sites need of GPUs; None: all compute on the CPU.
    """

    recipe: Recipe
    costs: tuple[SiteCost, ...]
    participants: frozenset[str]
    jobs: int
    rounds_done: Mapping[str, int]
    available: int | None = None
    total: int | None = None
    disk: int | None = None
    maps_disk: int | None = None
    threads: int = 1
    gpus: GpuShare | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part of the training: ``rounds``, ``local arm``, ``centralized arm``, ``personal stage``."""
        recipe, together = self.recipe, [cost for cost in self.costs if cost.site in self.participants]
        left = {name: recipe.federation.rounds - self.rounds_done.get(name, 0) for name in ("", *self._names)}
        found = {"rounds": self._in_rounds(together, left[""]) + self._at_once(map(self._maps, together), together)}
        if LOCAL in recipe.evaluation.arms:
            alone = []
            for cost in self.costs:
                maps = 0.0 if cost in together else self._maps(cost)
                alone.append(left[cost.site] * self._round(cost, 1) + self._scores(cost) + maps)
            found["local arm"] = self._at_once(alone, self.costs)
        if CENTRALIZED in recipe.evaluation.arms:
            steps = recipe.training.steps_per_round
            each_round = sum(steps * cost.step + self._scores(cost) for cost in together)
            found["centralized arm"] = recipe.federation.rounds * each_round + sum(map(self._scores, together))
        if steps := recipe.personal.steps:
            each = [2 * cost.build + 2 * self._scores(cost) + steps * cost.step for cost in self.costs]
            times = 2 if LOCAL in recipe.evaluation.arms else 1
            found["personal stage"] = self._at_once(each * times, self.costs * times)
        return found

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def memory(self) -> int:
        """Bytes of the largest process."""
        return max(cost.memory for cost in self.costs)

    @property
    def map_bytes(self) -> int:
        """Bytes of the coil maps of all slices that training and validation read."""
        return round(sum(cost.map_bytes * self._slices_read(cost) for cost in self.costs))

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the checkpoints of server and sites, about: three versions, optimizer moments included."""
        shared = max(cost.parameters[0] for cost in self.costs)
        kept = sum(3 * cost.parameters[1] for cost in self.costs)
        arms = 2 if LOCAL in self.recipe.evaluation.arms else 1
        return 4 * 3 * (shared + kept) * arms

    @property
    def _names(self) -> list[str]:
        return [cost.site for cost in self.costs]

    def _in_rounds(self, costs: Sequence[SiteCost], rounds: int) -> float:
        """Seconds of the rounds and of the evaluate-only round."""
        federation = self.recipe.federation
        passes = 2 if federation.uses_score_after else 1
        each = [self._round(cost, passes, None if cost.private is None else cost.private.step) for cost in costs]
        one = self._at_once(each, costs)
        if federation.schedule == "cyclic":
            one = sum(each) / len(each)
        elif federation.participation < 1:
            taking_part = max(1, round(federation.participation * len(each)))
            one = self._at_once([sum(each) / len(each)] * taking_part, costs)
        return rounds * one + self._at_once(map(self._scores, costs), costs)

    def _round(self, cost: SiteCost, passes: int, step: float | None = None) -> float:
        """Seconds of one training round at a site that validates ``passes`` times; ``step``: of a step with noise."""
        steps = self.recipe.training.steps_per_round * (1 + self.recipe.federation.least_work) / 2
        return cost.build + steps * (cost.step if step is None else step) + passes * self._scores(cost)

    @staticmethod
    def _scores(cost: SiteCost) -> float:
        return cost.slices.get("validation", 0) * cost.validation

    def _maps(self, cost: SiteCost) -> float:
        """Seconds of the coil maps that are still to be estimated; measuring needed three."""
        return max(self._slices_read(cost) - 3, 0.0) * cost.maps

    def _slices_read(self, cost: SiteCost) -> float:
        """Expected number of training and validation slices that are read at least once."""
        training, slices = self.recipe.training, cost.slices["train"]
        of_a_step = training.batch_size if cost.private is None else cost.private.slices
        drawn = min(training.steps_per_round * of_a_step / slices, 1.0)
        return slices * (1 - (1 - drawn) ** self.recipe.federation.rounds) + cost.slices.get("validation", 0)

    def _at_once(self, seconds: Iterable[float], costs: Iterable[SiteCost]) -> float:
        """Seconds of jobs of sites in this order, ``jobs`` at a time, on a GPU as many as it has room for."""
        queue = Queue() if self.gpus is None else self.gpus.queue
        waiting = list(zip(seconds, (cost.site for cost in costs), strict=False))
        running: list[tuple[float, str]] = []
        now = 0.0
        while waiting or running:
            sites = [site for _, site in running]
            begin = next((job for job in waiting if queue.has_room(job[1], sites)), None)
            if begin is not None and len(running) < self.jobs:
                waiting.remove(begin)
                running.append((now + begin[0], begin[1]))
            else:
                now, _ = first = min(running)
                running.remove(first)
        return now

    def lines(self, cores: int) -> list[str]:
        """What the run will cost, and what changes it."""
        recipe, parts = self.recipe, self.seconds
        at_most = "at most " if recipe.training.patience is not None else "about "
        of = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
        maps = sum(self._maps(cost) for cost in self.costs)
        if maps >= 0.05 * self.total_seconds:
            of += f"; {duration(maps)} of computing are coil maps, once"
        lines = [f"this training takes {at_most}{duration(self.total_seconds)}, without the scores of the end: {of}"]
        width = max(map(len, self._names))
        for cost in self.costs:
            lines.append(f"  {cost.site:{width}s}  {_site_text(cost)}")
        memory = f"  memory: {_gigabytes(self.memory)} a process, {self.jobs} at a time"
        if self.available is not None:
            memory += f", {_gigabytes(self.available)} free"
        disk = f"  disk: {_gigabytes(self.checkpoint_bytes)}" + _free(self.disk)
        disk += f"; {_gigabytes(self.map_bytes)} of coil maps{_free(self.maps_disk)}" if self.map_bytes else ""
        lines += [memory + "; --jobs changes it", *([] if self.gpus is None else self.gpus.lines()), disk]
        used, each = min(self.jobs * self.threads, cores), f"{self.threads} thread{'s' * (self.threads > 1)}"
        lines.append(f"  cores: {used} of {cores}, {each} for each process; --threads changes it in a new run")
        keys = {
            "federation.rounds": recipe.federation.rounds,
            "training.steps_per_round": recipe.training.steps_per_round,
            "evaluation.validation_slices": recipe.evaluation.validation_slices,
        }
        values = ", ".join(f"{key} = {value}" for key, value in keys.items())
        without = "; evaluation.arms without 'local' saves the local arm" if LOCAL in recipe.evaluation.arms else ""
        lines.append(f"  shorter or longer with --set KEY=VALUE: {values}{without}")
        return lines


def _site_text(cost: SiteCost) -> str:
    text = f"step {_seconds(cost.step)}, {cost.slices['train']} training slices"
    if cost.private is not None:
        text = f"private step {_seconds(cost.private.step)} for about {cost.private.slices:.0f} slices; {text}"
    if cost.validation:
        text += f"; validation {_seconds(cost.validation)} a slice, {cost.slices['validation']} slices"
    return text + (f"; coil maps {_seconds(cost.maps)} a slice" if cost.maps >= 0.05 * cost.step else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{1000 * seconds:.0f} ms"


def _free(count: int | None) -> str:
    return "" if count is None else f", {_gigabytes(count)} free"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 95e6 else f"{max(count / 1e6, 1):.0f} MB"


def fitting(wanted: int, memory: int, available: int | None) -> int:
    """Largest number of processes, at most ``wanted`` and at least 1, whose memory is available."""
    return wanted if available is None else max(1, min(wanted, available // max(memory, 1)))


def require_room(plan: Plan) -> list[str]:
    """Refuse a run that cannot fit; returns warnings if it may not fit.

    Raises
    ------
    ConfigError
        If its processes need more memory than the machine has, or its checkpoints more than is free on the disk.
    """
    wanted = plan.jobs * plan.memory
    processes = f"{plan.jobs} process{'es' * (plan.jobs > 1)} of {_gigabytes(plan.memory)}"
    warnings: list[str] = []
    if plan.total is not None and wanted > plan.total:
        least = fitting(plan.jobs, plan.memory, plan.total)
        advice = f"use --jobs {least}" if plan.memory <= plan.total else "use smaller scans or a machine with more"
        raise ConfigError(f"--jobs: found {processes}, expected at most {_gigabytes(plan.total)}, the memory; {advice}")
    needed = plan.checkpoint_bytes
    if plan.disk is not None and needed > plan.disk:
        advice = "free space, or choose another --out"
        raise ConfigError(f"--out: found {_gigabytes(plan.disk)} free, expected {_gigabytes(needed)}; {advice}")
    if plan.maps_disk is not None and plan.map_bytes > plan.maps_disk:  # some may be stored already
        found = (
            f"up to {_gigabytes(plan.map_bytes)} of coil maps may not fit where {_gigabytes(plan.maps_disk)} are free"
        )
        warnings.append(f"warning: {found}; free space, or set FEDRECON_CACHE to another folder")
    if plan.available is not None and wanted > plan.available:
        least = fitting(plan.jobs, plan.memory, plan.available)
        advice = f"use --jobs {least}" if least < plan.jobs else "close other programs"
        free = _gigabytes(plan.available)
        warnings.append(f"warning: {processes} may not fit into the {free} of memory that are free; {advice}")
    return warnings
