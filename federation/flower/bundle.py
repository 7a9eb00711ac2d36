"""The app bundle of a run: the recipe, and code of two lines that imports the installed fedrecon."""

import io
import tomllib
import zipfile
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

from recon import DataError, write_atomically

from ..config import parse_section, require_plugins
from ..deploy.approval import NO_LIMIT, Approval
from ..recipes import Recipe, masked_sum_of

_PROJECT = """\
[project]
name = "fedrecon-run"
version = "1.0.0"
description = "A run of fedrecon: the recipe is beside this file, the code is what is installed"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedrecon"

[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"

[tool.flwr.app.config]
folder = ""
"""
_SERVER = '"""The server\'s side, as installed."""\n\nfrom federation.flower.driver import app\n\n__all__ = ["app"]\n'
_CLIENT = '''"""Never run: a site runs its installed fedrecon, see federation.flower.client_process."""

from flwr.clientapp import ClientApp

app = ClientApp()
'''


def bundle_of(place: Path) -> Path:
    """The bundle in the server's folder of a run."""
    return place / f"{place.name}.fab"


def base_beside(bundle: Path) -> Path:
    """File of the frozen base of a recipe, if it has one; the bundle holds the digest because the base is too large."""
    return bundle.with_suffix(".base")


def write_app(folder: Path, recipe: Recipe) -> bytes:
    """Write the app of a recipe and return its bundle; equal recipes and Flower versions give equal bytes."""
    files = {
        "pyproject.toml": _PROJECT,
        "server_app.py": _SERVER,
        "client_app.py": _CLIENT,
        "recipe.toml": recipe.to_toml(),
    }
    masked_sum_of(recipe, "")  # raises if the sites of a sum are not named
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    return build_fab_from_disk(folder)


def read_bundle(path: Path, most_parameters: int = NO_LIMIT) -> tuple[bytes, Recipe, Approval]:
    """Bytes and recipe of a bundle, and the approval that would accept it on this machine.

    No code of the bundle is run. Its network is counted before it is built; with plugins it may be
    built up to the limit.

    Raises
    ------
    DataError
        If the file is no bundle of fedrecon, its code differs from the code that fedrecon writes, or its network has
        more parameters than ``most_parameters``.
    """
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {info.filename: info for info in archive.infolist()}
            if sum(info.file_size for info in files.values()) > 2**20:
                raise DataError(f"{path}: unpacks to more than 1 MiB, expected a recipe and a few lines of code")
            texts = {name: archive.read(name).decode() for name in files if not name.startswith(".info/")}
        table, source = tomllib.loads(texts["recipe.toml"]), f"{path}: recipe.toml"
        require_plugins(table.get("plugins", ()), source)
        recipe = parse_section(Recipe, table, source)
        masked_sum_of(recipe, "")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError:
        raise
    except Exception:  # a damaged archive raises errors of a dozen classes
        raise DataError(
            f"{path}: is no bundle of fedrecon, or was damaged on the way; ask the server's engineer for it"
        ) from None
    expected = {"pyproject.toml": _PROJECT, "server_app.py": _SERVER, "client_app.py": _CLIENT}
    different = sorted(name for name in texts.keys() | expected.keys() if texts.get(name) != expected.get(name))
    if different != ["recipe.toml"]:
        unknown = ", ".join(name for name in different if name != "recipe.toml")
        raise DataError(f"{path}: {unknown}: differs from what this version of fedrecon writes; do not approve it")
    try:
        return content, recipe, Approval.of(content, recipe, most_parameters)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
