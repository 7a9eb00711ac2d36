"""Trained weights as the starting point of a recipe: starter weights by name, a file of weights, or a run."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from recon import STARTER_WEIGHTS, DataError, NetworkSettings, WeightsFile, is_weights, open_weights

from ..config import config_error, nearest, parse_section, read_toml
from .recipe_schema import NetworkSection

#: ``network.base`` of a loaded recipe that starts from weights: their name or path, and the digest of their content.
_PINNED = re.compile(r"(.+)@(sha256:[0-9a-f]{64})")

#: Keys of ``[network]`` that make no method: with ``--start-from`` those of the weights replace the recipe's.
_SIZES = ("cascades", "channels", "depth", "memory", "share_cascades", "site_strength", "consistency_options")
#: Keys of ``[network]`` for parts that a trained network may get in addition.
_ADDED = ("error_bars",)


def weights_of(base: str) -> WeightsFile | None:
    """The weights that ``network.base`` names; None if it names a run or the base of a deployment.

    Raises
    ------
    DataError
        If the file is damaged, or has another content than when the recipe was loaded.
    """
    name, wanted = _split(base)
    path = Path(name)
    hidden = path.is_file() or (path / "run.json").is_file()  # a file or run takes precedence over a name
    if wanted is None and (hidden or name not in STARTER_WEIGHTS) and not (path.is_file() and is_weights(path)):
        return None
    file = open_weights(name)
    if wanted is not None and (found := f"sha256:{file.sha256()}") != wanted:
        advice = "get that file again, or name the weights anew in another run"
        raise config_error(file.path, "SHA-256", found[7:19], f"{wanted[7:19]}, as the recipe states", advice)
    return file


def pinned(base: str) -> str:
    """``network.base`` with the digest of its weights; unchanged if it has one or names no weights."""
    if digest_of_weights(base) is not None or (file := weights_of(base)) is None:
        return base
    name = base if file.path == STARTER_WEIGHTS.get(base) else str(file.path.resolve())
    return f"{name}@sha256:{file.sha256()}"


def digest_of_weights(base: str | None) -> str | None:
    """``sha256:`` and the digest of the weights of a loaded recipe; None if it starts from no weights."""
    return _split(base or "")[1]


def as_copy(base: str, copy: Path) -> str:
    """``network.base`` with the weights of the same content in another file."""
    return f"{copy.resolve()}@{_split(base)[1]}"


def trained_network(source: Path | str) -> NetworkSection:
    """``[network]`` of trained weights or of a run, with them as its ``base``.

    Parameters
    ----------
    source
        A name of starter weights, a file of weights, or the folder of a run.

    Raises
    ------
    DataError
        If the source is none of them, or a run of more than one plain network.
    """
    file = weights_of(str(source))
    if file is not None:
        return parse_section(NetworkSection, file.network | {"base": str(source)}, f"{file.path}: network")
    if not (Path(source) / "run.json").is_file():
        advice = f"see `fedrecon weights`{nearest(str(source), STARTER_WEIGHTS)}"
        raise config_error("--start-from", "", repr(str(source)), "starter weights, their file, or a run", advice)
    recipe = Path(source) / "recipe.toml"
    table = read_toml(recipe)
    section = parse_section(NetworkSection, table.get("network", {}), f"{recipe}: network")
    if "task" in table and table["task"].get("input") != "end_to_end":
        return section  # its network did not train: the base is that of the run
    if section.adapter != "none" or section.twin:
        what = "twins" if section.twin else "adapters"
        raise config_error(source, "", f"a run with {what}", "a run of one plain network", "start from another run")
    return section.model_copy(update={"base": str(source)})


def with_sizes_of(trained: NetworkSection, section: Mapping[str, Any]) -> dict[str, Any]:
    """``[network]`` of a recipe that starts from trained weights: with their size, and the adapters of the recipe.

    Raises
    ------
    ConfigError
        If a key that makes the method differs from the trained network.
    """
    settings = trained.settings()
    for field in fields(settings):
        expected = getattr(settings, field.name)
        found = section.get(field.name, expected)
        if found != expected and field.name not in (*_SIZES, *_ADDED):
            advice = "this method needs another network; leave out --start-from, or leave out the key"
            raise config_error(
                "recipe", f"network.{field.name}", repr(found), f"{expected!r}, as in {trained.base}", advice
            )
    added = {key: section[key] for key in _ADDED if section.get(key)}
    return {**section, **{key: getattr(settings, key) for key in _SIZES}, **added}


def require_same_network(section: NetworkSection, file: WeightsFile) -> None:
    """Refuse weights of another network.

    Raises
    ------
    ConfigError
        The message names the keys of ``[network]`` that differ.
    """
    here = section.settings(section.consistency_of(file.modality))
    try:
        trained = NetworkSettings.of(file.network)
    except ValueError as error:
        raise DataError(f"{file.path}: network.{error}") from None
    pairs = {f.name: (getattr(here, f.name), getattr(trained, f.name)) for f in fields(trained)}
    pairs = {key: (ours, theirs) for key, (ours, theirs) in pairs.items() if not (key in _ADDED and ours)}
    different = [f"{key} ({ours!r} here, {theirs!r} there)" for key, (ours, theirs) in pairs.items() if ours != theirs]
    if different:
        found = f"{file.name}, where [network] differs in {', '.join(different)}"
        advice = f"set these keys, or let `--start-from {file.name}` set them"
        raise config_error("recipe", "network.base", found, "weights of this network", advice)


def _split(base: str) -> tuple[str, str | None]:
    """Name or path of the base, and the digest of its weights, if it states one."""
    match = _PINNED.fullmatch(base)
    return (base, None) if match is None else (match[1], match[2])
