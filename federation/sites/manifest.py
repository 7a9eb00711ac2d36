"""Site manifests: a hospital is a TOML file. Manifests never travel."""

from __future__ import annotations  # types of recon load PyTorch; the name of a site is read without

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tomli_w
from pydantic import AfterValidator, PrivateAttr

import recon

from ..config import (
    Name,
    Names,
    Section,
    config_error,
    nearest,
    one_of,
    parse_section,
    read_toml,
    resolve_plugins,
    section_of,
    section_with,
    value_of,
)
from .lock_file import LockedFile, lock_path, read_lock, sha256_file
from .manifest_schema import AcquisitionSection, DataSection, Split, data_section

if TYPE_CHECKING:
    import torch


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]?))?", value):
        raise ValueError("cpu, cuda, or one of several GPUs: cuda:0, cuda:1, ...")
    return value


class SiteManifest(Section):
    """One site. ``synthetic`` data are nobody's: their pictures may be shown outside the site.

    An ``unseen`` site takes part in nothing and is scored at the end. ``consistency`` is the site's own data
    consistency where it is not that of the recipe: it stays at the site, so a scanner that needs another may have it.
    ``device`` is where its networks are trained and applied, by default the CPU. ``plugins`` are Python files, relative
    to the manifest, that register readers or operators of the site. The keys of ``[simulate]`` and
    ``[data]`` are those of the modality, see :class:`recon.Modality`.
    """

    name: Name
    modality: str
    synthetic: bool = False
    unseen: bool = False
    consistency: Annotated[str, AfterValidator(one_of(lambda: recon.DATA_CONSISTENCY))] | None = None
    device: Annotated[str, AfterValidator(_device)] | None = None
    plugins: Names = ()
    acquisition: AcquisitionSection = AcquisitionSection()
    simulate: Section | None = None
    data: DataSection
    _path: Path = PrivateAttr(default=Path("<manifest>"))

    @property
    def path(self) -> Path:
        """The TOML file that it was read from."""
        return self._path

    @property
    def trains(self) -> bool:
        """Whether the site takes part in training: it is not unseen and has training files."""
        return not self.unseen and bool(self.data.train)

    @property
    def root(self) -> Path:
        """Folder of the data: variables expanded, a relative one is relative to the manifest.

        Raises
        ------
        ConfigError
            If an environment variable is not set.
        """
        root = Path(expand_variables(self.data.root, self.path, "data.root")).expanduser()
        return root if root.is_absolute() else self.path.parent / root

    def torch_device(self) -> torch.device:
        """Where the site computes.

        Raises
        ------
        ConfigError
            If this machine has no such device.
        """
        import torch

        device = torch.device(self.device or "cpu")
        if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
            found = f"{self.device!r} where PyTorch sees {count} GPU{'' if count == 1 else 's'}"
            raise config_error(self.path, "device", found, "a device of this machine", "correct it or leave it out")
        return device

    def files(self, split: Split) -> tuple[Path, ...]:
        """Files of one split."""
        names: tuple[str, ...] = getattr(self.data, split)
        return tuple(self.root / name for name in names)

    @property
    def kind(self) -> recon.Modality:
        """The modality of the site."""
        return recon.MODALITIES[self.modality]

    def open(self, file: Path) -> recon.Volume:
        """Check a file of this site and return what it holds.

        Raises
        ------
        DataError
            If it cannot be used.
        """
        keys = self.kind.reader_options(self.data.format)
        volume: recon.Volume = self.kind.open(file, self.data.format, **{key: getattr(self.data, key) for key in keys})
        return volume

    def simulation(self) -> Any:
        """The retrospective degradation, None where the data are used as measured."""
        return value_of(self.kind.simulation, self.simulate)

    def samples(
        self,
        files: Sequence[Path],
        *,
        degraded: bool = True,
        maps_folder: Path | None = None,
        augment: recon.Augmentation | None = None,
        seed: int = 0,
    ) -> recon.VolumeSlices:
        """Slices of some files, as the site measures.

        Parameters
        ----------
        degraded
            Whether ``[simulate]`` is applied.
        maps_folder
            Folder for estimated coil maps; None estimates them anew.
        augment, seed
            recon.Augmentation of the images, for training.

        Raises
        ------
        ConfigError
            If the modality has no augmentation.
        DataError
            If a file cannot be used.
        """
        kind = self.kind
        if augment is not None and not kind.augments:
            found = f"{self.modality} with training.augment"
            raise config_error(self.path, "modality", found, "a recipe without", "set training.augment=false")
        others = {key for reader in kind.readers for key in kind.reader_options(reader)}
        keys = (kind.data_options().keys() - others) | kind.reader_options(self.data.format).keys()
        return kind.slices(
            files,
            self.name,
            simulate=self.simulation() if degraded else None,
            **kind.arguments(maps_folder=maps_folder, augment=augment, seed=seed),
            **{key: getattr(self.data, key) for key in keys},
        )

    def dataset(
        self, split: Split, maps_folder: Path | None = None, augment: recon.Augmentation | None = None, seed: int = 0
    ) -> recon.VolumeSlices:
        """Slices of one split; parameters as of :meth:`samples`.

        Raises
        ------
        ConfigError
            If the split is empty, or the modality has no augmentation.
        DataError
            If a file cannot be used.
        """
        files = self.files(split)
        if not files:
            raise config_error(self.path, f"data.{split}", "no files", "at least one", "list some or leave it out")
        return self.samples(files, maps_folder=maps_folder, augment=augment, seed=seed)

    def verify(self, *, hashes: bool = False) -> None:
        """Check that every file is there and as locked, and that no subject is in two splits.

        Parameters
        ----------
        hashes
            Also compare checksums, which reads every byte; without, only sizes are compared.

        Raises
        ------
        ConfigError
            At the first file that is not as it should be.
        """
        self.check_files(read_lock(self.path), hashes=hashes)

    def check_files(self, lock: Mapping[str, LockedFile], *, hashes: bool = False) -> None:
        """:meth:`verify` against a given lock. Files that it does not know are opened for their patient."""
        if not self.root.is_dir():
            found = f"{self.data.root!r} = {self.root}, {'a file' if self.root.exists() else 'no such folder'}"
            raise config_error(self.path, "data.root", found, "the folder of the data", "correct it")
        same: dict[object, str] = {}
        subjects: dict[str, tuple[Split, str]] = {}
        for split, name in self.data.named():
            key, file, locked = f"data.{split}", self.root / name, lock.get(name)
            if not file.is_file():
                raise config_error(self.path, key, f"no file {file}", "an HDF5 file", "correct the name or the root")
            if locked is not None:
                self._compare(file, locked, hashes)
            status = file.stat()
            for identity in ((status.st_dev, status.st_ino), locked and locked.sha256):
                twin = same.setdefault(identity, name) if identity else name
                if twin != name:
                    found = f"{name}, the same data as {twin}"
                    raise config_error(self.path, key, found, "every file once", "remove one")
            patient = locked.patient_id if locked is not None else self.open(file).patient_id
            other, where = subjects.setdefault(subject(name, patient), (split, name))
            if other != split:
                found = f"the subject of {name} also in {other} ({where})"
                raise config_error(self.path, key, found, "every subject in one split", "move one of the files")

    def _compare(self, file: Path, locked: LockedFile, hashes: bool) -> None:
        size = file.stat().st_size
        advice = f"restore the file, or delete {lock_path(self.path).name} and check again if the change is wanted"
        if size != locked.size:
            raise config_error(file, "size", f"{size} bytes", f"{locked.size} as in the lock file", advice)
        if hashes:
            found = sha256_file(file)
            if found != locked.sha256:
                raise config_error(file, "sha256", found, f"{locked.sha256} as in the lock file", advice)

    def __reduce__(self) -> tuple[Any, ...]:
        # The classes of sections are made when they are needed: another process makes its own.
        return _rebuilt, (self.model_dump(mode="json", exclude_none=True), self.path)

    def to_toml(self) -> str:
        """The manifest as a file; reads back equal."""
        table = self.model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps({key: value for key, value in table.items() if value not in ({}, [])})


def _rebuilt(table: dict[str, Any], path: Path) -> SiteManifest:
    return parse_manifest(table, path)


@lru_cache(maxsize=16)
def _manifest_model(modality: str, readers: tuple[str, ...]) -> type[SiteManifest]:
    """The manifest of a modality, with the keys of its sections."""
    kind = recon.MODALITIES[modality]
    keys = {
        "modality": (Literal[modality], modality),
        "simulate": (section_of(kind.simulation) | None, None),
        "data": (data_section(modality, readers), ...),
    }
    return cast(type[SiteManifest], section_with(f"{kind.title}Site", SiteManifest, keys))


def parse_manifest(table: Mapping[str, Any], path: Path) -> SiteManifest:
    """Check the content of a manifest.

    Raises
    ------
    ConfigError
        If a key or value cannot be used.
    """
    names = table.get("plugins", ())
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        resolve_plugins(names, path.parent, path)
    modality = table.get("modality", next(iter(recon.MODALITIES)))
    if modality not in recon.MODALITIES:
        hint = nearest(str(modality), recon.MODALITIES)
        raise config_error(path, "modality", repr(modality), " or ".join(recon.MODALITIES) + hint, "correct it")
    manifest: SiteManifest = parse_section(
        _manifest_model(modality, tuple(recon.MODALITIES[modality].readers)), table, path
    )
    manifest._path = path.absolute()
    return manifest


def subject(name: str, patient_id: str | None) -> str:
    """What identifies a subject: the patient of the file, or the file's own name where it names none."""
    return f"patient {patient_id}" if patient_id else f"file {PurePosixPath(name).name}"


def expand_variables(text: str, path: Path | str, key: str, environment: Mapping[str, str] = os.environ) -> str:
    """Replace ``${NAME}`` and ``$NAME``.

    Raises
    ------
    ConfigError
        If a variable is not set or empty: the path would then be a wrong one.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not environment.get(name):
            raise config_error(
                path,
                key,
                f"{text!r} but no environment variable {name}",
                "it to be set",
                f"export {name}=<folder>",
            )
        return environment[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


def read_site_name(path: Path | str) -> str:
    """The name in a manifest, without a look at its other keys: fast, as PyTorch is not loaded.

    Raises
    ------
    ConfigError
        If the file cannot be read, or its name cannot be used.
    """
    path = Path(path)
    return parse_section(_Named, {"name": read_toml(path).get("name", "")}, path).name


class _Named(Section):
    name: Name


def load_manifest(path: Path | str) -> SiteManifest:
    """Read one manifest; looks at no data file.

    Raises
    ------
    ConfigError
        If the file, a key or a value cannot be used, or an environment variable is not set.
    """
    path = Path(path)
    manifest = parse_manifest(read_toml(path), path)
    manifest.root  # noqa: B018  an unset variable is an error of the manifest, not of its first use
    return manifest


def load_federation(folder: Path | str) -> list[SiteManifest]:
    """Read every manifest in a folder, sorted by name, and check that their files and devices are there.

    Sizes are compared with the lock file where there is one; ``fedrecon sites check`` compares checksums.

    Raises
    ------
    ConfigError
        If the folder holds no manifest, two have one name, or one cannot be used.
    """
    manifests = read_federation(folder)
    for manifest in manifests:
        manifest.verify()
        manifest.torch_device()
    return manifests


def read_federation(folder: Path | str) -> list[SiteManifest]:
    """Read every manifest in a folder, sorted by name; looks at no data file."""
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise config_error(folder, "", found, "a folder with one TOML per site", "correct the path")
    paths = sorted(folder.glob("*.toml"))
    if not paths:
        raise config_error(folder, "", "no *.toml", "one TOML per site", "see `fedrecon sites make`")
    manifests: dict[str, SiteManifest] = {}
    for path in paths:
        manifest = load_manifest(path)
        if manifest.name in manifests:
            other = manifests[manifest.name].path.name
            raise config_error(path, "name", f"{manifest.name!r} also in {other}", "one name per site", "rename one")
        manifests[manifest.name] = manifest
    return [manifests[name] for name in sorted(manifests)]
