"""The library: recipes that come with fedrecon, by name."""

from pathlib import Path
from typing import NamedTuple

from ..config import config_error, nearest, read_toml

#: Folder of the recipes that come with fedrecon.
LIBRARY = Path(__file__).resolve().parent / "library"


class LibraryEntry(NamedTuple):
    """A recipe of the library: its name, and its method in one line."""

    name: str
    summary: str


def recipe_path(recipe: Path | str, beside: Path | None = None) -> Path:
    """The file of a recipe.

    Parameters
    ----------
    recipe
        Path of a TOML file, or the name of a recipe in the library, such as ``"fedavg"`` or ``"demos/fedavg_ct"``.
        A file takes precedence over a recipe of the same name.
    beside
        Folder of relative paths; None: the working directory.

    Raises
    ------
    ConfigError
        If there is neither such a file nor such a recipe.
    """
    path = Path(recipe) if beside is None else beside / recipe
    if path.is_file():
        return path
    name = Path(recipe).as_posix().removesuffix(".toml")
    if (found := LIBRARY / f"{name}.toml").is_file() and not Path(recipe).is_absolute() and ".." not in found.parts:
        return found
    what, advice = (
        "a folder" if path.exists() else "no such file",
        f"correct it{nearest(Path(name).name, recipe_names())}",
    )
    raise config_error(path, "", what, "a TOML file, or a recipe of `fedrecon recipes`", advice)


def recipe_names() -> list[str]:
    """Names of all recipes in the library, those of the demos last."""
    names = [path.relative_to(LIBRARY).with_suffix("").as_posix() for path in LIBRARY.rglob("*.toml")]
    return sorted(names, key=lambda name: ("/" in name, name))


def library_entries() -> list[LibraryEntry]:
    """Every recipe in the library, in the order of :func:`recipe_names`."""
    return [LibraryEntry(name, _summary(LIBRARY / f"{name}.toml")) for name in recipe_names()]


def _summary(path: Path) -> str:
    """The first sentence of the comment at the top of a recipe, or its paper."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    text = " ".join(lines)
    sentence = text.split(". ")[0].rstrip(".")
    return sentence or str(read_toml(path).get("paper", ""))
