"""What is attacked: sites, slices, matrix and search of one report."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from recon import AttackSettings, Sample, Victim, collate, data_error

from ..experiment import ReconstructionTask, RunFolder
from ..methods import load_parameters
from ..serialization import State
from ..sites import Split

#: Least rows and columns: the window of SSIM has 7.
SMALLEST = 8


@dataclass(frozen=True)
class AttackOptions:
    """Options of :func:`attack_run`.

    Parameters
    ----------
    site
        The attacked site; None: the first that takes part.
    steps
        Steps of every search.
    sites
        Sites in a sum; None: all that take part.
    slices
        Training slices of the site that are attacked one by one.
    size
        Rows and columns of the attacked slices at most; 0: as measured.
    """

    site: str | None = None
    steps: int = 100
    sites: int | None = None
    slices: int = 1
    size: int = 48


@dataclass(frozen=True)
class AttackPlan:
    """The options applied to a run; picklable.

    Attributes
    ----------
    names
        Sites in a sum; the first one is attacked.
    targets
        Numbers of the attacked training slices.
    """

    run: RunFolder
    names: tuple[str, ...]
    targets: tuple[int, ...]
    steps: int
    size: int

    @classmethod
    def of(cls, run: RunFolder, options: AttackOptions) -> "AttackPlan":
        """Check the options against the run.

        Raises
        ------
        DataError
            If the site does not take part, lacks training or test data, or the run has fewer sites.
        """
        if 0 < options.size < SMALLEST:
            raise data_error(run.path, "--size", str(options.size), f"at least {SMALLEST}, for SSIM", "raise it")
        trained = [m.name for m in run.participants]
        first = options.site or (trained[0] if trained else "")
        if first not in trained:
            found = f"{first!r}" if first else "no site that takes part"
            raise data_error(run.path, "--site", found, f"one of {', '.join(trained)}", "name a site that trains")
        count = len(trained) if options.sites is None else options.sites
        if count > len(trained):
            raise data_error(run.path, "--sum-of", str(count), f"at most {len(trained)}, which take part", "lower it")
        names = (first, *(name for name in trained if name != first))[:count]
        for name in names:
            if not run.manifest(name).data.test:
                advice = "list files of patients that did not train, or attack other sites (--site, --sum-of)"
                raise data_error(run.manifest(name).path, "data.test", "no files", "test patients as a control", advice)
        plan = cls(run, names, (), options.steps, options.size)
        return replace(plan, targets=_middles(plan.task(first).count(), options.slices))

    @property
    def site(self) -> str:
        """The attacked site."""
        return self.names[0]

    def settings(self, distance: str = "layers") -> AttackSettings:
        """How an attack searches."""
        return AttackSettings(steps=self.steps, distance=distance)

    def record(self) -> dict[str, Any]:
        """What a finished attack depends on."""
        facts = {
            "recipe": self.run.recipe.digest(),
            "parameters": self.run.selected().digest,
            "sites": list(self.names),
        }
        return facts | {"size": self.size, "settings": repr(self.settings())}

    def task(self, name: str, split: Split = "train") -> "SmallTask":
        """The task of a site at the matrix of the attack, which trains on the slices of a split."""
        run = self.run
        return SmallTask(run.manifest(name), run.recipe, run.maps_folder(name), self.size, split)

    def sample(self, name: str, number: int, split: Split = "train") -> Sample:
        """A batch of one slice of a site."""
        return collate([self.task(name, split).slice(number)])

    def control_sample(self, name: str) -> Sample:
        """A batch of one slice of a patient who did not train: the middle of the test slices."""
        task = self.task(name, "test")
        return collate([task.slice(task.count() // 2)])

    def victim(self, name: str, sample: Sample, shared: State | None = None) -> Victim:
        """A slice at a site whose network has the given shared parameters, or those of the selected round.

        The kept parameters are those of the site in that round.
        """
        recipe, state = self.run.recipe, self.run.selected()
        site = self.run.spec(self.run.manifest(name)).build()
        network = site.network_at(state.shared, state.round)
        if shared is not None:
            load_parameters(network, shared)
        for parameter_name, parameter in network.named_parameters():
            parameter.requires_grad_(parameter_name in site.scope.shared)
        objective = recipe.objective.build_task(recipe.training.loss)
        return Victim(network, tuple(sorted(site.scope.shared)), sample, objective, recipe.federation.seed)


@dataclass(frozen=True)
class SmallTask(ReconstructionTask):
    """The task of a site on slices of a smaller matrix, without validation.

    Parameters
    ----------
    size
        Rows and columns at most; 0: as measured.
    trains_on
        Split that takes the place of the training data.
    """

    size: int = 0
    trains_on: Split = "train"

    def count(self) -> int:
        """Number of slices."""
        return len(self.manifest.dataset(self.trains_on, self.maps_folder))

    def slice(self, number: int) -> Sample:
        """One slice.

        Raises
        ------
        DataError
            If it cannot be measured on a smaller matrix.
        """
        sample = self.manifest.dataset(self.trains_on, self.maps_folder)[number]
        if not self.size:
            return sample
        try:
            return self.manifest.kind.smaller(sample, self.size)
        except TypeError as error:
            expected = "an operator of fedrecon that can be made smaller"
            raise data_error(self.manifest.path, "operator", str(error), expected, "attack another site") from None

    def dataset(self, split: Split) -> Any:
        """The slices as a list; without the augmentation of the recipe."""
        return [self.slice(number) for number in range(self.count())]

    def validate(self, network: torch.nn.Module) -> float | None:
        """None: the attack needs no score."""
        return None


def _middles(count: int, wanted: int) -> tuple[int, ...]:
    """The middles of ``wanted`` equal parts of ``count`` numbers."""
    parts = min(count, wanted)
    return tuple((2 * part + 1) * count // (2 * parts) for part in range(parts))
