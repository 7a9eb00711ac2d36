"""What is attacked: sites, slices, matrix and search of one report."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from recon import AttackSettings, Sample, Victim, collate, data_error, spread_over

from ..experiment import RunFolder
from ..methods import ServerState, load_parameters
from ..serialization import State
from ..sites import Split, lock_path
from .small_task import SmallTask

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
        Training slices of the site that are attacked one by one, evenly spread; 0: all.
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
            If the site does not take part, lacks training or test data, the run has fewer sites, or a site lacks
            references that can be attacked.
        """
        if run.recipe.task is not None:
            advice = "attack the run that trained the network; these attacks search for images, not for labels"
            raise data_error(run.path, "recipe.task", "a head", "a run of a reconstruction network alone", advice)
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
        # The positive control makes slices smaller also where `size` is 0.
        small = replace(plan, size=plan.size or SMALLEST)
        for name in names:
            small.sample(name, 0)
        small.control_sample(first)
        return replace(plan, targets=tuple(spread_over([len(plan.task(first).slices())], options.slices)))

    @property
    def site(self) -> str:
        """The attacked site."""
        return self.names[0]

    def settings(self, distance: str = "layers") -> AttackSettings:
        """How an attack searches."""
        return AttackSettings(steps=self.steps, distance=distance)

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """What a finished search with the data of these sites depends on."""
        state = self.run.selected()
        return {
            "recipe": self.run.recipe.digest(),
            "parameters": state.digest,
            "round": state.round,
            "sites": {name: self._digest(name) for name in names},
            "size": self.size,
            "settings": repr(self.settings()),
        }

    def _digest(self, name: str) -> str:
        """Digest of the manifest of a site, of its lock file or else its files, and of its kept state."""
        manifest = self.run.manifest(name)
        parts, lock = [manifest.to_toml().encode()], lock_path(manifest.path)
        if lock.is_file():
            parts.append(lock.read_bytes())
        else:
            files = [file.stat() for file in (*manifest.files("train"), *manifest.files("test"))]
            parts.append(repr([(status.st_size, status.st_mtime_ns) for status in files]).encode())
        # Files with the checksums of the versions.
        kept = sorted(self.run.spec(manifest).folder.glob("round_*.json"))
        parts += [file.name.encode() + file.read_bytes() for file in kept]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def task(self, name: str, split: Split = "train") -> SmallTask:
        """The task of a site at the matrix of the attack, which trains on the slices of a split."""
        run = self.run
        return SmallTask(run.manifest(name), run.recipe, run.maps_folder(name), self.size, split)

    def sample(self, name: str, number: int, split: Split = "train") -> Sample:
        """A batch of one slice of a site."""
        return collate([self.task(name, split).slices()[number]])

    def middle(self, name: str) -> Sample:
        """A batch of the middle training slice of a site."""
        return self.sample(name, len(self.task(name).slices()) // 2)

    def control_sample(self, name: str) -> Sample:
        """A batch of one slice of a patient who did not train: the middle of the test slices."""
        slices = self.task(name, "test").slices()
        return collate([slices[len(slices) // 2]])

    def parameter_names(self) -> list[str]:
        """Names of all parameters in the order of the network of the attacked site."""
        network = self.run.spec(self.run.manifest(self.site)).build().network
        return [name for name, _ in network.named_parameters()]

    def victim(
        self, name: str, sample: Sample, shared: State | None = None, state: ServerState | None = None
    ) -> Victim:
        """A slice at a site.

        Parameters
        ----------
        state
            Its network has the shared parameters of this state and the site's kept parameters of its round; None: the
            selected state.
        shared
            Shared parameters in place of those of the state.
        """
        recipe, state = self.run.recipe, state or self.run.selected()
        site = self.run.spec(self.run.manifest(name)).build()
        network = site.network_at(state.shared, state.round)
        if shared is not None:
            load_parameters(network, shared)
        for parameter_name, parameter in network.named_parameters():
            parameter.requires_grad_(parameter_name in site.scope.shared)
        objective = recipe.build_objective()
        return Victim(network, tuple(sorted(site.scope.shared)), sample, objective, recipe.federation.seed)
