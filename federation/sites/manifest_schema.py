"""The tables of a manifest: what was measured, how it is degraded, which files belong to which split."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

import physics

from ..config import Names, Section, Seed, one_of

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
#: Names in `physics.SAMPLINGS`, which loads PyTorch: it is asked for other names only.
SAMPLINGS = (
    "random",
    "equispaced",
    "equispaced_fraction",
    "magic",
    "magic_fraction",
    "partial_fourier",
    "poisson",
    "gaussian",
)


class AcquisitionSection(Section):
    """Facts about what was measured. Nothing is computed from them; reports print them."""

    vendor: str | None = None
    model: str | None = None
    field_T: float | None = Field(default=None, gt=0)
    contrast: str | None = None
    anatomy: str | None = None
    origin: str | None = None


class MRISimulateSection(Section):
    """Retrospective degradation, the fields of :class:`recon.Simulation`. Only this degrades data."""

    sampling: Annotated[str, AfterValidator(one_of(lambda: physics.SAMPLINGS, known=SAMPLINGS))]
    acceleration: float = Field(ge=1)
    center_fraction: float = Field(gt=0, le=1)
    noise_std: float = Field(default=0.0, ge=0)
    seed: Seed = 0
    nested: bool = False


class CTSimulateSection(Section):
    """Fewer views and fewer photons, the fields of :class:`recon.ScanSimulation`. Only this degrades data."""

    views: int | None = Field(default=None, ge=1)
    arc_deg: float | None = Field(default=None, gt=0, le=360)
    photons: float | None = Field(default=None, gt=0)
    electronic_noise: float = Field(default=0.0, ge=0)
    seed: Seed = 0
    axis_error_mm: float = 0.0

    @model_validator(mode="after")
    def _with_photons(self) -> "CTSimulateSection":
        if self.electronic_noise and self.photons is None:
            raise ValueError("photons: found none, expected photons to go with electronic_noise; add them")
        return self


class DataSection(Section):
    """Where the files are and which split each belongs to, by subject. Names are relative to ``root``."""

    root: str = Field(min_length=1)
    format: str
    train: Names = ()
    validation: Names = ()
    test: Names = ()

    @field_validator("train", "validation", "test")
    @classmethod
    def _inside_root(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.name:
                raise ValueError(f"file names below data.root with / between folders, without .. ({name!r})")
        # One spelling per file: "./a.h5" is "a.h5".
        return tuple(str(PurePosixPath(name)) for name in names)

    @model_validator(mode="after")
    def _once(self) -> "DataSection":
        # By base name: it seeds the mask of a volume and names it in the report.
        first: dict[str, str] = {}
        for split, name in self.named():
            base = PurePosixPath(name).name
            if base in first:
                found = f"found {base!r} also in {first[base]}"
                raise ValueError(f"{split}: {found}, expected every file name once; remove or rename one")
            first[base] = split
        if not first:
            raise ValueError("train, validation and test are all empty, expected at least one file; list one")
        return self

    def named(self) -> Iterator[tuple[Split, str]]:
        """Every file as ``(split, name)``."""
        for split in SPLITS:
            for name in getattr(self, split):
                yield split, name


class MRIDataSection(DataSection):
    """fastMRI-style k-space."""

    format: Literal["fastmri"] = "fastmri"
    maps: Literal["espirit", "low_resolution", "true"] = "espirit"
    reference: Literal["auto", "coil_combined", "rss"] = "auto"


class CTDataSection(DataSection):
    """Sinograms, see :func:`recon.open_sinograms`; ``pitch_mm``, ``axis_column`` and ``size`` as in its `ScanSetup`."""

    format: Literal["sinogram", "lodopab", "htc2022", "exchange"] = "sinogram"
    weighted: bool = True
    pitch_mm: float = Field(default=1.0, gt=0)
    axis_column: float | None = Field(default=None, ge=0)
    size: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _known_to_the_file(self) -> "CTDataSection":
        free = {"pitch_mm", "axis_column", "size"} if self.format == "exchange" else {"size"}
        if self.format in ("sinogram", "lodopab"):
            free = set()
        for key in ("pitch_mm", "axis_column", "size"):
            if key in self.model_fields_set - free and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: found a value, expected none: {self.format} files hold it; leave it out")
        return self
