"""Options of the command ``fedrecon compare``, checked before anything is trained, and their effect."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recon import DataError

from ..experiment import Say
from .anatomy import ANATOMY
from .anatomy_persons import data_folder
from .arms import arm_of
from .changed import CHANGED, with_values
from .own_sites import at_sites
from .plan import extra_arms
from .presets import PRESETS
from .published import publish, require_place
from .run import run_comparison
from .tables import write_tables


@dataclass(frozen=True)
class CompareOptions:
    """Options of ``fedrecon compare``, see its ``--help``.

    ``every`` is ``--all``, ``published`` is ``--from``, ``overrides`` are those of ``--set``; None: the default.

    Raises
    ------
    DataError
        If two options contradict each other.
    """

    preset: str = "laptop"
    recipes: Sequence[Path | str] = ()
    every: bool = False
    sites: Path | None = None
    out: Path | None = None
    published: Path | None = None
    modality: str | None = None
    seeds: int | None = None
    only: Sequence[str] = ()
    device: str | None = None
    tables: bool = False
    publish: Path | None = None
    overrides: Sequence[str] = ()
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.published is not None and (self.tables or self.sites is not None):
            other = "--tables" if self.tables else "--sites"
            raise DataError(
                f"--from: found beside {other}, which goes on from no published tables; leave one of them out"
            )
        if self.publish is not None and self.sites is not None:
            raise DataError("--publish: found beside --sites, whose scores name volumes; leave one of them out")
        if self.overrides and (self.tables or self.published is not None):
            other, why = ("--tables", "which trains nothing") if self.tables else ("--from", "whose preset is another")
            raise DataError(f"--set: found beside {other}, {why}; leave one of them out")
        for option, given in (("--only", self.only), ("--device", self.device)):
            if given and self.sites is not None:
                why = "which have one table" if option == "--only" else "whose manifests name their devices"
                raise DataError(f"{option}: found beside --sites, {why}; leave one of them out")
            if given and self.tables:
                raise DataError(f"{option}: found beside --tables, which trains nothing; leave one of them out")

    @property
    def folder(self) -> Path:
        """Folder of the comparison; each preset, changed or not, and each folder of sites has its own by default."""
        at_own_sites = "" if self.sites is None else f"_{self.sites.resolve().name}"
        changed = CHANGED if self.overrides else ""
        return self.out or Path("runs") / f"compare_{self.preset}{changed}{at_own_sites}"


def compare(options: CompareOptions, say: Say) -> Path:
    """Run a comparison, or only write its tables, and publish them if asked; returns the page.

    Raises
    ------
    DataError
        If the preset needs a folder of images that is not set; as :func:`run_comparison`, :func:`at_sites` and
        :func:`publish`.
    """
    page = write_tables(options.folder, say) if options.tables else _run(options, say)
    if options.publish is not None:
        say(f"\npublished: {publish(options.folder, options.publish)} arms in {options.publish}")
    return page


def _run(options: CompareOptions, say: Say) -> Path:
    preset = with_values(replace(PRESETS[options.preset], device=options.device), options.overrides)
    if options.preset == ANATOMY.name and options.sites is None:
        data_folder()
    modalities = tuple(preset.budgets) if options.modality is None else (options.modality,)
    if options.publish is not None:
        require_place(options.folder, options.publish, preset.described(), modalities)
    if options.sites is not None:
        preset = at_sites(preset, options.sites, modalities, say)
        modalities = tuple(preset.budgets)
    if options.every and preset.sites_with_patients():
        say("note: --all leaves out recipes with differential privacy: at sites with patients no epsilon would hold")
    return run_comparison(
        preset,
        options.folder,
        modalities=modalities,
        extra=extra_arms(preset, [arm_of(path) for path in options.recipes], every=options.every),
        seeds=options.seeds,
        only=options.only,
        published=options.published,
        more_seeds=not options.recipes,  # named recipes only: run those, without extra seeds
        jobs=options.jobs,
        say=say,
    )
