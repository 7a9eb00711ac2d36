"""The trained weights that a head starts from: a file, or a run with a head."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from recon import HeadStart, class_parameters, make_head, read_head_file, start_head

from ..config import ConfigError, config_error, parse_section, read_toml
from ..methods import selected_state
from ..serialization import State, below
from .head_section import HeadSection

#: ``task.head_weights`` of a loaded recipe that starts from a file: its path, and the digest of its content.
_PINNED = re.compile(r"(.+)@(sha256:[0-9a-f]{64})")


def pinned_head(weights: str) -> str:
    """``task.head_weights`` with the digest of its file; unchanged if it has one or names a run.

    Raises
    ------
    ConfigError
        If it names neither a file nor a run.
    """
    if digest_of_head(weights) is not None or (Path(weights) / "run.json").is_file():
        return weights
    path = Path(weights)
    if not path.is_file():
        expected = "a safetensors file, or the folder of a run with a head"
        raise config_error("recipe", "task.head_weights", repr(weights), expected, "correct the path")
    return f"{path.resolve()}@sha256:{_sha256(path)}"


def digest_of_head(weights: str | None) -> str | None:
    """``sha256:`` and the digest of the file of a loaded recipe; None if its head starts from no file."""
    match = _PINNED.fullmatch(weights or "")
    return match and match[2]


def head_as_copy(weights: str, copy: Path) -> str:
    """``task.head_weights`` with the same content in another file."""
    return f"{copy.resolve()}@{digest_of_head(weights)}"


def file_of_head(weights: str) -> Path:
    """The file of ``task.head_weights``.

    Raises
    ------
    ConfigError
        If its content is another one than when the recipe was loaded.
    """
    match = _PINNED.fullmatch(weights)
    assert match is not None  # a loaded recipe states the digest
    path, wanted = Path(match[1]), match[2]
    found = f"sha256:{_sha256(path)}" if path.is_file() else None
    if found != wanted:
        shown = "no such file" if found is None else found[7:19]
        advice = "get that file again, or name the weights anew in another run"
        raise config_error(path, "SHA-256", shown, f"{wanted[7:19]}, as task.head_weights states", advice)
    return path


def source_of_head(task: HeadSection) -> str:
    """``task.head_weights`` without a digest."""
    return _PINNED.sub(r"\1", task.head_weights or "")


def run_of_head(task: HeadSection | None) -> Path | None:
    """Folder of the run from which a head starts; None: from no run."""
    if task is None or task.head_weights is None or digest_of_head(task.head_weights) is not None:
        return None
    return Path(task.head_weights)


def section_of_run(run: Path) -> HeadSection | None:
    """``[task]`` of a run; None: it trained no head."""
    path = run / "recipe.toml"
    section = read_toml(path).get("task")
    return None if section is None else parse_section(HeadSection, section, f"{path}: task")


def with_head_of(source: Path | str, section: Mapping[str, Any]) -> dict[str, Any]:
    """``[task]`` of a recipe that starts from a run: with its head and the size of it, if it trained one."""
    trained = section_of_run(Path(source)) if (Path(source) / "run.json").is_file() else None
    if trained is None:
        return dict(section)
    return {**section, "head_options": dict(trained.head_options), "head_weights": str(source)}


def made_head(task: HeadSection) -> tuple[nn.Module, HeadStart | None]:
    """The head of a recipe, initialized from torch's global generator or trained; and what it has taken over.

    Raises
    ------
    ConfigError
        If the head refuses its options, or the trained weights are those of another head.
    """
    try:
        head = make_head(task.head, task.labels, task.head_options)
    except ValueError as error:
        raise ConfigError(f"recipe: task.{' '.join(str(error).split())}") from error
    if task.head_weights is None:
        return head, None
    classes = class_parameters(task.head, task.labels, task.head_options)
    state, same_labels = _trained(task)
    try:
        return head, start_head(head, state, classes, same_labels=same_labels)
    except ValueError as error:
        raise ConfigError(f"recipe: task.head_weights: {error}") from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _trained(task: HeadSection) -> tuple[State, bool]:
    """Tensors of the trained head, and whether it knows the classes of this one."""
    run = run_of_head(task)
    if run is None:
        return read_head_file(file_of_head(task.head_weights or "")), False
    if not (run / "run.json").is_file():
        expected = "the folder of a run with a head"
        raise config_error("recipe", "task.head_weights", str(run), expected, "put the run back, or train anew")
    trained = section_of_run(run)
    if trained is None or trained.adapter != "none":
        found = f"{run}, a run {'without a head' if trained is None else 'with adapters of its head'}"
        raise config_error("recipe", "task.head_weights", found, "a run with a plain head", "start from another run")
    return below("head.", selected_state(run).shared), trained.labels == task.labels
