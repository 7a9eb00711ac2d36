"""Read the manifests of a folder, and change their text."""

import re
import tomllib
from collections.abc import Collection
from pathlib import Path

from ..config import Name, Section, config_error, parse_section, read_toml, resolve_plugins
from .manifest import SiteManifest, parse_manifest


def read_site_name(path: Path | str) -> str:
    """Read the name in a manifest alone, without loading PyTorch.

    Raises
    ------
    ConfigError
        If the file cannot be read, or its name cannot be used.
    """
    path = Path(path)
    return parse_section(_Named, {"name": read_toml(path).get("name", "")}, path).name


def without_files(manifest: SiteManifest, names: Collection[str]) -> tuple[str, SiteManifest]:
    """Text of a manifest without some files, the rest as the user wrote it, and the manifest that it describes.

    Raises
    ------
    ConfigError
        If no file is left, or a name is written in a way that is not found.
    """
    text = manifest.path.read_text(encoding="utf-8")
    for name in names:
        quoted = rf"""(?:"(?:\./)*{re.escape(name)}"|'(?:\./)*{re.escape(name)}')"""
        text = re.sub(rf"(?m)^[ \t]*{quoted}[ \t]*=.*\n?", "", text)  # its line of [data.persons]
        text = re.sub(rf"(?m)^[ \t]*{quoted}[ \t]*,?[ \t]*\n|{quoted}[ \t]*,?[ \t]*", "", text)
    wanted = [entry for entry in manifest.data.named() if entry[1] not in names]
    try:
        left = parse_manifest(tomllib.loads(text) | {"plugins": manifest.plugins}, manifest.path)
    except tomllib.TOMLDecodeError:
        left = None
    if left is None or list(left.data.named()) != wanted:
        found = f"lists from which {', '.join(sorted(names))} cannot be removed"
        raise config_error(manifest.path, "data", found, "plain strings", "remove them by hand")
    return text, left


class _Named(Section):
    name: Name


def load_manifest(path: Path | str) -> SiteManifest:
    """Read a manifest and load its plugins; opens no data file.

    Raises
    ------
    ConfigError
        If the file, a key, a value or a plugin cannot be used, or an environment variable is not set.
    """
    path = Path(path)
    table = read_toml(path)
    if "plugins" in table:
        table["plugins"] = resolve_plugins(table["plugins"], path.parent, path)
    manifest = parse_manifest(table, path)
    manifest.root  # noqa: B018  fails here, not at its first use, if a variable is not set
    return manifest


def load_federation(folder: Path | str) -> list[SiteManifest]:
    """Read every manifest in a folder, sorted by name, and check that their files and devices exist.

    Compares sizes with the lock file if there is one; ``fedrecon sites check`` compares checksums.

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
    """Read every manifest in a folder, sorted by name; opens no data file."""
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
