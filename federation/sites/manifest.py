"""Manifests: a site is a TOML file, which never leaves the hospital."""

from __future__ import annotations  # types of recon load PyTorch, which `read_site_name` does not need

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
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
    section_of,
    section_with,
    value_of,
)
from .lock_file import LockedFile, lock_path, read_lock, sha256_file
from .manifest_schema import AcquisitionSection, DataSection, Split, data_section
from .manifest_task import TaskSection

if TYPE_CHECKING:
    import torch


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]?))?", value):
        raise ValueError("cpu, cuda, or one of several GPUs: cuda:0, cuda:1, ...")
    return value


class SiteManifest(Section):
    """One site.

    ``synthetic`` data belong to no patient: their pictures may be shown outside the site. An ``unseen`` site takes no
    part in the rounds and is scored after them. ``consistency`` replaces the data consistency of the recipe, which is
    possible because it stays at the site. ``device`` trains and applies the networks; None: the CPU. ``plugins`` are
    Python files, relative to the manifest, that register readers or operators; a loaded manifest names them by content.
    The modality decides the keys of ``[simulate]`` and ``[data]``, see :class:`recon.Modality`. ``task`` names the
    labels of a downstream task; None: there are none.
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
    task: TaskSection | None = None
    _path: Path = PrivateAttr(default=Path("<manifest>"))

    @property
    def path(self) -> Path:
        """The TOML file."""
        return self._path

    @property
    def trains(self) -> bool:
        """Whether the site takes part in the rounds: it has training files and is not unseen."""
        return not self.unseen and bool(self.data.train)

    @property
    def root(self) -> Path:
        """Folder of the data, with variables replaced; a relative path starts at the manifest.

        Raises
        ------
        ConfigError
            If an environment variable is not set.
        """
        root = Path(expand_variables(self.data.root, self.path, "data.root")).expanduser()
        return root if root.is_absolute() else self.path.parent / root

    def torch_device(self) -> torch.device:
        """Device of the site's networks.

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

    def _listed(self, file: Path) -> str:
        """Name of a file in the manifest, if it is listed there."""
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else ""

    @property
    def kind(self) -> recon.Modality:
        """The modality of the site."""
        return recon.MODALITIES[self.modality]

    def open(self, file: Path) -> recon.Volume:
        """Open and check a file of this site.

        Raises
        ------
        DataError
            If it cannot be used.
        """
        keys = self.kind.reader_options(self.data.format)
        volume: recon.Volume = self.kind.open(file, self.data.format, **{key: getattr(self.data, key) for key in keys})
        return volume

    def simulation(self) -> Any:
        """Retrospective degradation; None: the data are used as measured."""
        return value_of(self.kind.simulation, self.simulate)

    def task_labels(self) -> recon.TaskLabels | None:
        """Kind and classes of the labels of the site; None: it has none."""
        return None if self.task is None else self.task.task_labels()

    def labels_of(self, files: Sequence[Path]) -> recon.ScanLabels | None:
        """Labels of files; None: the site has none, or lists none of the files.

        Raises
        ------
        DataError
            If a listed file has no labels and is not in ``task.unlabelled``.
        """
        names = [name if (name := self._listed(file)) in self.data.names else "" for file in files]
        return None if self.task is None or not any(names) else self.task.read(self.root, names)

    def samples(
        self,
        files: Sequence[Path],
        *,
        degraded: bool = True,
        maps_folder: Path | None = None,
        raw_coils: bool = False,
        augment: recon.Augmentation | None = None,
        redraw: bool = False,
        seed: int = 0,
        format: str | None = None,
    ) -> recon.VolumeSlices:
        """Slices of some files, with the labels of those that the manifest lists.

        Parameters
        ----------
        degraded
            Whether ``[simulate]`` is applied.
        maps_folder
            Folder of estimated coil maps; None: estimate them again.
        raw_coils
            Whether the network takes coils and readout as measured, see :class:`recon.KSpaceSlices`.
        augment, redraw, seed
            Augmentation of training images, whether ``[simulate]`` draws anew in every pass where the modality can, and
            the seed of both.
        format
            Format of the files, whose options have their defaults; None: that of the manifest, with its options.

        Raises
        ------
        ConfigError
            If the modality has no augmentation.
        DataError
            If a file cannot be used.
        """
        kind, names = self.kind, self.data.names
        if augment is not None and not kind.augments:
            found = f"{self.modality} with training.augment"
            raise config_error(self.path, "modality", found, "a recipe without", "set training.augment=false")
        options = {key: getattr(self.data, key) for key in kind.data_options()}
        if format in (None, self.data.format):
            options |= {key: getattr(self.data, key) for key in kind.reader_options(self.data.format)}
        else:
            options["format"] = format
        return kind.slices(
            files,
            self.name,
            names=[names.get(self._listed(file), file.name) for file in files],
            simulate=self.simulation() if degraded else None,
            **kind.arguments(
                maps_folder=maps_folder,
                raw_coils=raw_coils,
                augment=augment,
                redraw=redraw,
                seed=seed,
                labels=self.labels_of(files),
            ),
            **options,
        )

    def dataset(
        self,
        split: Split,
        maps_folder: Path | None = None,
        augment: recon.Augmentation | None = None,
        seed: int = 0,
        *,
        redraw: bool = False,
        raw_coils: bool = False,
    ) -> recon.VolumeSlices:
        """Slices of one split; the parameters are those of :meth:`samples`.

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
        return self.samples(
            files, maps_folder=maps_folder, raw_coils=raw_coils, augment=augment, redraw=redraw, seed=seed
        )

    def subject(self, name: str, patient_id: str | None) -> str:
        """Subject of a file: the person that the manifest names, else the patient of the file, else the file itself."""
        return subject(self.data.names[name], self.data.persons.get(name) or patient_id)

    def verify(self) -> None:
        """Check that every file exists and has the size in the lock file, and that no subject is in two splits.

        Raises
        ------
        ConfigError
            At the first file that fails.
        """
        self.check_files(read_lock(self.path))

    def check_files(self, lock: Mapping[str, LockedFile]) -> None:
        """:meth:`verify` with the content of a lock file; opens files that it does not list to read their patient."""
        self.require_root()
        same: dict[object, str] = {}
        subjects: dict[str, tuple[Split, str]] = {}
        for split, name in self.data.named():
            key, file, locked = f"data.{split}", self.root / name, lock.get(name)
            self.require_file(split, name, locked, hashes=False)
            status = file.stat()
            for identity in ((status.st_dev, status.st_ino), locked and locked.sha256):
                first = same.setdefault(identity, name) if identity else name
                if first != name:
                    found = f"{name}, the same data as {first}"
                    raise config_error(self.path, key, found, "every file once", "remove one")
            patient = locked.patient_id if locked is not None else self.open(file).patient_id
            other, where = subjects.setdefault(self.subject(name, patient), (split, name))
            if other != split:
                found = f"the subject of {name} also in {other} ({where})"
                raise config_error(self.path, key, found, "every subject in one split", "move one of the files")

    def require_root(self) -> None:
        """Refuse a site whose folder of data does not exist."""
        if not self.root.is_dir():
            found = f"{self.data.root!r} = {self.root}, {'a file' if self.root.exists() else 'no such folder'}"
            raise config_error(self.path, "data.root", found, "the folder of the data", "correct it")

    def require_file(self, split: Split, name: str, locked: LockedFile | None, *, hashes: bool) -> None:
        """Refuse a file that does not exist or differs from its entry in the lock file."""
        file = self.root / name
        if not file.is_file():
            raise config_error(self.path, f"data.{split}", f"no file {file}", "a file", "correct the name or the root")
        if locked is not None:
            self._compare(file, locked, hashes)
            self._compare_labels(file, locked)

    def label_digest(self, file: Path) -> str | None:
        """SHA-256 of the labels of a file; None: it has none."""
        labels = self.labels_of([file])
        return None if labels is None else labels.digest(0)

    def _compare_labels(self, file: Path, locked: LockedFile) -> None:
        # A section that was added or removed later is no change of the labels.
        if self.task is None or locked.labels is None or (found := self.label_digest(file)) in (None, locked.labels):
            return
        advice = f"restore them, or delete {lock_path(self.path).name} and check again if the change is wanted"
        raise config_error(file, "labels", f"sha256 {found}", f"{locked.labels} as in the lock file", advice)

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
        # Classes of sections are created at run time: another process creates its own, and has loaded the plugins.
        return parse_manifest, (self.model_dump(mode="json", exclude_none=True), self.path)

    def to_toml(self) -> str:
        """The manifest with all defaults; reads back equal."""
        table = self.model_dump(mode="json", exclude_none=True)
        if not self.data.persons:
            del table["data"]["persons"]
        return tomli_w.dumps({key: value for key, value in table.items() if value not in ({}, [])})


@lru_cache(maxsize=16)
def _manifest_model(modality: str, readers: tuple[str, ...]) -> type[SiteManifest]:
    """Class of the manifests of a modality; ``readers`` are the names of its readers, see :func:`data_section`."""
    kind = recon.MODALITIES[modality]
    keys = {
        "modality": (Literal[modality], modality),
        "simulate": (section_of(kind.simulation) | None, None),
        "data": (data_section(modality, readers), ...),
    }
    return cast(type[SiteManifest], section_with(f"{kind.title}Site", SiteManifest, keys))


def parse_manifest(table: Mapping[str, Any], path: Path) -> SiteManifest:
    """Check the content of a manifest, whose plugins are loaded.

    Raises
    ------
    ConfigError
        If a key or value cannot be used.
    """
    modality = table["modality"] if "modality" in table else _usual_modality(table)
    kind = recon.MODALITIES.get(str(modality))
    if kind is None:
        hint = nearest(str(modality), recon.MODALITIES)
        raise config_error(path, "modality", repr(modality), " or ".join(recon.MODALITIES) + hint, "correct it")
    data = table.get("data")
    named = data.get("format") if isinstance(data, Mapping) else None
    # Without the readers of other sites' plugins: a manifest means the same whatever is loaded beside it.
    readers = tuple(name for name in kind.readers if name == named or name in kind.readers.built_in)
    manifest: SiteManifest = parse_section(_manifest_model(kind.name, readers), table, path)
    manifest._path = path.absolute()
    _require_labelled(manifest)
    return manifest


def _require_labelled(manifest: SiteManifest) -> None:
    """Refuse labels that the modality does not take, and a list of other files without labels."""
    if manifest.task is None:
        return
    if not manifest.kind.takes_labels:
        able = " or ".join(kind.name for kind in recon.MODALITIES.values() if kind.takes_labels)
        raise config_error(manifest.path, "task", f"labels of {manifest.modality}", able, "remove the section")
    for name in manifest.task.unlabelled:
        if name not in manifest.data.names:
            found, expected = f"{name!r}", "a file of train, validation or test"
            raise config_error(manifest.path, "task.unlabelled", found, expected, "correct it")


def _usual_modality(table: Mapping[str, Any]) -> str:
    """Modality of a manifest that names none: that of its sampling, else the first."""
    simulate = table.get("simulate")
    sampling = simulate.get("sampling") if isinstance(simulate, Mapping) else None
    known = (
        kind.name for kind in recon.MODALITIES.values() if isinstance(sampling, str) and sampling in kind.samplings
    )
    return next(known, next(iter(recon.MODALITIES)))


def subject(name: str, person: str | None) -> str:
    """Identity of a subject: the person, or the name of a file without one."""
    return f"patient {key}" if (key := person_key(person or "")) else f"file {name}"


def person_key(person: str) -> str:
    """The person in one spelling: names that differ in the case of letters or in spaces alone are one person."""
    return " ".join(person.split()).casefold()


def names_person(subject: str) -> bool:
    """Whether a subject is a person, and not a file that names none."""
    return not subject.startswith("file ")


def expand_variables(text: str, path: Path | str, key: str, environment: Mapping[str, str] = os.environ) -> str:
    """Replace ``${NAME}`` and ``$NAME``.

    Raises
    ------
    ConfigError
        If a variable is not set or empty.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not environment.get(name):
            found = f"{text!r} but no environment variable {name}"
            raise config_error(path, key, found, "it to be set", f"export {name}=<folder>")
        return environment[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)
