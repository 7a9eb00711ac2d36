"""Run the searches of a report; a finished one is stored in the run folder and not run again."""

import hashlib
import io
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from recon import Sample, blank_start, data_error, distance_at, doing, invert, psnr, ssim, write_atomically

from ..progress import within
from ..worker_pool import computing_with
from .cases import CASES, POSITIVE, Case, Search, case_of
from .plan import AttackPlan
from .replay import replayed_round

Image = np.ndarray[Any, Any]
#: Folder of finished searches in that of the attacked site: they hold its pictures.
FOLDER = "privacy"
#: Version of their files; it rises where a search or its scores change.
FORMAT = 2
#: Part of the first distance from which on a search counts as converged; see :attr:`Found.matched`.
_MATCHED = 0.02


@dataclass(frozen=True)
class Job:
    """One search: a case, a target and whether it is the control."""

    plan: AttackPlan
    case: str
    number: int
    control: bool

    @property
    def name(self) -> str:
        """Name in files and in the progress."""
        return f"{self.case}-{self.number}-{'control' if self.control else 'attack'}"

    @property
    def path(self) -> Path:
        """File of the finished search."""
        return self.plan.run.site_folder(self.plan.site) / FOLDER / f"{self.name}.npz"

    def digest(self) -> str:
        """Digest of what the search depends on."""
        case = case_of(self.case)
        replayed = replayed_round(self.plan) if case.update else None
        record = [FORMAT, self.plan.record(case.names(self.plan)), replayed]
        return hashlib.sha256(repr(record).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Found:
    """Outcome of a search.

    Attributes
    ----------
    psnr, ssim
        Of the picture after the best scaling to the target, the best over the pictures that were sought.
    losses
        Distance of the gradients at some steps, first and last included: pairs of step and distance.
    truth
        Distance at the true image: what noise, other slices and the attacker's approximation leave.
    pictures
        Magnitudes ``(height, width)``: the reference, the picture, the blank start, the zero-filled image.
    scores
        PSNR and SSIM of the blank start, the best over the pictures that were sought, and of the zero-filled image or
        filtered back-projection of the picture that was found best.
    """

    psnr: float
    ssim: float
    losses: list[tuple[int, float]]
    truth: float
    scores: dict[str, tuple[float, float]]
    seconds: float
    pictures: dict[str, Image]

    @property
    def matched(self) -> bool:
        """Whether the guess explains what was seen as well as the true image does, or to 2 % of the start."""
        return self.losses[-1][1] <= max(_MATCHED * self.losses[0][1], self.truth)


def search(job: Job) -> Found:
    """Run a search, or read it if it was finished before."""
    kept = finished(job)
    if kept is not None:
        return kept
    case = case_of(job.case)
    title = case.title + (", control" if job.control else "")
    with within(site=job.plan.site, part=title), doing("preparing"):
        found = _search(job, case)
    _write(job.path, job.digest(), found)
    return found


def finished(job: Job) -> Found | None:
    """A finished search; None if there is none, or one of other options."""
    return _read(job.path, job.digest())


def _search(job: Job, case: Case) -> Found:
    begin = time.monotonic()
    problem = case.search(job.plan, job.number, job.control)
    with doing("matching gradients,", problem.settings.steps, "steps"):
        result = invert(problem.victims, problem.seen, problem.settings)
    image = result.images[0]
    best = max(problem.sought, key=lambda sought: _scores(sought, image)[0])
    start = blank_start(problem.victims[0], problem.settings)
    kind = job.plan.run.manifest(job.plan.site).kind
    inverted = kind.methods[kind.inversion]()(best.measurement, best.operator)
    others = {"blank": start, kind.inversion: inverted}
    # The blank start has the same choice among the pictures that the attack has.
    blank = max(_scores(sought, start) for sought in problem.sought)
    steps = sorted({round(i * (len(result.losses) - 1) / 40) for i in range(41)})
    score = _scores(best, image)
    return Found(
        *score,
        [(step + 1, result.losses[step]) for step in steps],
        _truth(problem),
        {"blank": blank, kind.inversion: _scores(best, inverted)},
        round(time.monotonic() - begin, 1),
        {"reference": _magnitude(best.target())}
        | {"picture": _magnitude(_scaled(best, image))}
        | {name: _magnitude(_scaled(best, other)) for name, other in others.items()},
    )


def _truth(problem: Search) -> float:
    """Distance at the references of all victims."""
    references = [victim.sample.reference for victim in problem.victims]
    return distance_at(problem.victims, [r for r in references if r is not None], problem.seen, problem.settings)


def _scaled(sample: Sample, image: Tensor) -> Tensor:
    """The displayed image times the factor that brings it nearest to the target; in favor of the attacker."""
    shown, target = sample.magnitude(image.detach()), sample.target()
    return shown * ((shown * target).sum() / shown.square().sum().clamp_min(1e-30))


def _scores(sample: Sample, image: Tensor) -> tuple[float, float]:
    shown, target = _scaled(sample, image), sample.target()
    return psnr(target, shown), ssim(target, shown)


def _magnitude(image: Tensor) -> Image:
    found: Image = image[0].numpy().astype(np.float32)
    return found


def _write(path: Path, record: str, found: Found) -> None:
    facts = {key: value for key, value in asdict(found).items() if key != "pictures"}
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps({"of": record, **facts}).encode(), dtype=np.uint8)
    arrays: dict[str, Any] = {"facts": text, **found.pictures}
    np.savez(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def _read(path: Path, record: str) -> Found | None:
    """A finished search; None if there is none, one of other options, or a damaged one."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            pictures = {name: arrays[name] for name in arrays.files if name != "facts"}
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None  # damaged: it is searched again
    if facts.pop("of", None) != record:
        return None
    facts["losses"] = [(int(step), float(value)) for step, value in facts["losses"]]
    facts["scores"] = {name: (float(p), float(s)) for name, (p, s) in facts["scores"].items()}
    return Found(**facts, pictures=pictures)


def seconds_per_step(plan: AttackPlan) -> float:
    """Measured time of a step of one search with one thread, as in the searches.

    Raises
    ------
    DataError
        If the gradient of the network cannot be differentiated.
    """
    problem = CASES[0].search(plan, plan.targets[0], False)
    settings = replace(problem.settings, steps=1)
    try:
        with computing_with(1):
            invert(problem.victims, problem.seen, settings)  # the first step also loads and compiles
            begin = time.monotonic()
            invert(problem.victims, problem.seen, settings)
            return time.monotonic() - begin
    except RuntimeError as error:
        if "second derivatives" not in str(error):
            raise
        found = "a recipe that shares weights of a data-consistency layer with implicit gradients"
        advice = "keep them at the sites, or set network.consistency to another layer"
        raise data_error(plan.run.path, "recipe.toml", found, "a loss with second derivatives", advice) from None


def jobs_of(plan: AttackPlan, cases: list[Case]) -> list[Job]:
    """All searches; the positive control first."""
    jobs = []
    for case in (POSITIVE, *cases):
        for number in case.targets(plan):
            for control in (False, True)[: 1 + case.own_control]:
                jobs.append(Job(plan, case.key, number, control))
    return jobs


def work_of(plan: AttackPlan, job: Job) -> int:
    """Images that a search seeks together: its cost in units of a search of one."""
    if job.case == POSITIVE.key:
        return 0  # its network is tiny
    return len(plan.names) if case_of(job.case).joint else 1
