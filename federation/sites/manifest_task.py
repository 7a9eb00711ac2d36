"""``[task]`` of a manifest: labels of a downstream task, and where they lie."""

from __future__ import annotations  # types of recon load PyTorch, which `read_site_name` does not need

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

import recon

from ..config import Names, Section

#: Classes that a label map can have: one byte a pixel, one value for no label.
_MOST_CLASSES = 250


def _class_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or not all(name and name == name.strip() for name in names):
        raise ValueError("names, each once, without spaces at their ends")
    return names


class TaskSection(Section):
    """Labels of a site.

    ``labels`` is a path below ``data.root``. Segmentation: the label map of a scan, in which ``{stem}`` is the name of
    the scan without folder and end, and ``{path}`` its path below the root without end. Classification: a CSV table.
    The scans in ``unlabelled`` have no labels; all others must have some.
    """

    kind: Literal["segmentation", "classification"]
    classes: Annotated[Names, Field(min_length=1, max_length=_MOST_CLASSES), AfterValidator(_class_names)]
    labels: str = Field(min_length=1)
    unlabelled: Names = ()

    @model_validator(mode="after")
    def _not_columns(self) -> TaskSection:
        if self.kind == "classification" and {"file", "slice"} & set(self.classes):
            raise ValueError("classes: found a class named as a column of the table, file or slice; rename it")
        return self

    def task_labels(self) -> recon.TaskLabels:
        """Kind and classes."""
        return recon.TaskLabels(self.kind, self.classes)

    def read(self, root: Path, names: Sequence[str]) -> recon.ScanLabels:
        """Labels of scans.

        Parameters
        ----------
        root
            Folder of the data.
        names
            Scans as the manifest names them; empty for one that it does not list, which has no labels.

        Raises
        ------
        DataError
            If labels are missing, or two scans have the same.
        """
        without = {"", *self.unlabelled}
        if self.kind == "classification":
            return self._table(root, names, without)
        files = tuple(None if name in without else root / _filled(self.labels, name) for name in names)
        first: dict[Path, str] = {}
        for name, file in zip(names, files, strict=True):
            if file is not None and (other := first.setdefault(file, name)) != name:
                found, expected = f"labels of {other} and of {name}", "a file for each scan"
                raise recon.data_error(file, "task.labels", found, expected, "write {stem} or {path} into task.labels")
        return recon.LabelMaps(self.task_labels(), files)

    def _table(self, root: Path, names: Sequence[str], without: set[str]) -> recon.ClassTable:
        return recon.read_class_table(root / self.labels, self.task_labels(), names, sorted(without))


def _filled(pattern: str, name: str) -> str:
    path = PurePosixPath(name)
    return pattern.replace("{stem}", path.stem).replace("{path}", str(path.with_suffix("")))
