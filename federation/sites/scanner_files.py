"""Scanners to simulate, chosen in a TOML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from physics import SAMPLINGS, TRAJECTORIES
from recon import DATA_CONSISTENCY, ScanSimulation, Simulation, TrajectorySimulation

from ..config import Name, NonNegative, Section, config_error, one_of, parse_section, read_toml
from .people import Wish


class Scanner(Section):
    """What scanners of both modalities have.

    ``persons`` is the number of persons at the site, None: its share. ``slices`` is the number of slices of each
    person, None: all with anatomy; ``train_slices`` replaces it for all training persons together.
    """

    name: Name
    matrix: int | None = Field(default=None, ge=16, le=1024)
    persons: int | None = Field(default=None, ge=1)
    slices: int | None = Field(default=None, ge=1)
    train_slices: int | None = Field(default=None, ge=1)
    unseen: bool = False


class MRIScanner(Scanner):
    """An MRI scanner for magnitude images.

    ``contrast`` selects the images of a table of persons, None: all. ``gray_scale`` changes their contrast and
    ``phase`` is that of the images. ``matrix`` is at most half the source, None: half. A ``sampling`` of
    ``physics.TRAJECTORIES`` makes a site of non-Cartesian MRI, without ``center_fraction``.
    """

    coils: int = Field(ge=1, le=64)
    sampling: Annotated[str, AfterValidator(one_of(lambda: (*SAMPLINGS, *TRAJECTORIES)))]
    acceleration: float = Field(ge=1)
    center_fraction: float | None = Field(default=None, gt=0, le=1)
    noise_std: NonNegative = 0.0
    contrast: str | None = None
    gray_scale: Literal["as_is", "gamma", "inverted"] = "as_is"
    phase: Literal["realistic", "smooth"] = "realistic"

    @model_validator(mode="after")
    def _center_of_a_mask(self) -> "MRIScanner":
        if (self.center_fraction is None) != (self.sampling in TRAJECTORIES):
            found, expected = ("none", "one") if self.center_fraction is None else (self.center_fraction, "none")
            raise ValueError(f"center_fraction: found {found}, expected {expected} for {self.sampling}; correct it")
        return self

    @property
    def simulate(self) -> Simulation | TrajectorySimulation:
        if self.center_fraction is None:
            return TrajectorySimulation(self.sampling, self.acceleration, self.noise_std)
        return Simulation(self.sampling, self.acceleration, self.center_fraction, noise_std=self.noise_std)

    @property
    def wish(self) -> Wish:
        return Wish(self.contrast, self.persons)

    def manifest_keys(self) -> dict[str, Any]:
        shown = {"as_is": "", "gamma": "gamma", "inverted": "inverted"}[self.gray_scale]
        contrast = " ".join(filter(None, (self.contrast, shown)))
        return {"acquisition": {"contrast": contrast}} if contrast else {}


class CTScanner(Scanner):
    """A CT scanner for images in Hounsfield units, with the geometry of one of HyperFed's protocols.

    ``photons`` per ray default to the protocol's. ``field_of_view`` is the side of the image relative to the source:
    above 1, air surrounds it. ``table`` is the one in the source, none, or a drawn one. ``views`` and ``arc_deg`` are
    those of ``[simulate]``.
    """

    protocol: int = Field(ge=1, le=5)
    photons: float | None = Field(default=None, gt=0)
    field_of_view: float = Field(default=1.0, ge=1, le=2)
    table: Literal["as_is", "none", "flat", "curved"] = "as_is"
    views: int | None = Field(default=None, ge=1)
    arc_deg: float | None = Field(default=None, gt=0, le=360)
    consistency: Annotated[str, AfterValidator(one_of(lambda: DATA_CONSISTENCY))] | None = None

    @property
    def simulate(self) -> ScanSimulation | None:
        if self.views is None and self.arc_deg is None:
            return None
        return ScanSimulation(views=self.views, arc_deg=self.arc_deg)

    @property
    def wish(self) -> Wish:
        return Wish(None, self.persons)

    def manifest_keys(self) -> dict[str, Any]:
        own = {} if self.consistency is None else {"consistency": self.consistency}
        return {"modality": "ct", "acquisition": {"model": f"HyperFed protocol {self.protocol}"}} | own


Kind = TypeVar("Kind", MRIScanner, CTScanner)


def read_scanners(path: Path | str, kind: type[Kind]) -> tuple[Kind, ...]:
    """Read the scanners in a TOML file, one section ``[[scanner]]`` each.

    Raises
    ------
    ConfigError
        If the file is unreadable or a key is wrong, one line per mistake, or two scanners have one name.
    """
    path = Path(path)
    content = read_toml(path)
    entries = content.pop("scanner", None)
    if not isinstance(entries, list) or not entries or content:
        found = f"sections {', '.join(content)}" if content else "no [[scanner]]"
        raise config_error(path, "", found, "[[scanner]] alone, at least once", "write one section per scanner")
    scanners = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        source = f"{path}: scanner {name if isinstance(name, str) else number}"
        if not isinstance(entry, dict):
            raise config_error(source, "", repr(entry), "a section", "write [[scanner]]")
        scanners.append(parse_section(kind, entry, source))
    require_different_names(scanners, path)
    return tuple(scanners)


def require_different_names(scanners: Sequence[Scanner], source: Path | str) -> None:
    """Refuse scanners of which two have one name, which is that of the site."""
    names = [scanner.name for scanner in scanners]
    if len(set(names)) < len(names):
        raise config_error(source, "name", ", ".join(names), "different names", "rename one")
