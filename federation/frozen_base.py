"""The frozen base of adapters: the folder of the run that trained it, or one file that travels beside a bundle."""

import hashlib
from pathlib import Path

from recon import DataError

from .errors import config_error
from .packing import MessageError, State, pack, unpack
from .recipe import Recipe
from .rounds import selected_state

_KIND = "base"
#: What a recipe that travels says in place of a path.
_DIGEST = "sha256:"


def read_base(path: Path) -> State:
    """The parameters that a run shared, or those in a file of :func:`carried`.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if path.is_file():
        try:
            return unpack(path.read_bytes(), kind=_KIND).tensors
        except (MessageError, OSError) as error:
            raise DataError(f"{path}: cannot be read as a base ({error}); ask who wrote it for it again") from None
    if not (path / "run.json").is_file():
        raise config_error("recipe", "network.base", str(path), "the folder of a trained run", "train one first")
    return selected_state(path).shared


def carried(recipe: Recipe) -> tuple[Recipe, bytes | None]:
    """The recipe as it travels, which names its base by a digest, and the file of that base.

    Raises
    ------
    ConfigError
        If the recipe needs a base and names none, or none that can be read.
    """
    if recipe.network.base is None:
        require_base(recipe)
        return recipe, None
    content = pack(_KIND, {}, read_base(Path(recipe.network.base)))
    return _with(recipe, _DIGEST + hashlib.sha256(content).hexdigest()), content


def placed(recipe: Recipe, path: Path) -> Recipe:
    """A recipe that has travelled, with ``path``, where its base lies here; one without a base as it is.

    Raises
    ------
    DataError
        If the file is missing, or is not the base that the recipe means.
    """
    meant = digest_of_base(recipe)
    if meant is None:
        return recipe
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise DataError(f"{path}: no such file; the recipe needs it, it comes with the bundle") from None
    if found != meant:
        raise DataError(f"{path}: its SHA-256 is {found[:12]}, expected {meant[:12]}; is it the base of another run?")
    return _with(recipe, str(path.resolve()))


def digest_of_base(recipe: Recipe) -> str | None:
    """SHA-256 of the base of a recipe that has travelled."""
    base = recipe.network.base
    return base.removeprefix(_DIGEST) if base is not None and base.startswith(_DIGEST) else None


def without_base(recipe: Recipe) -> Recipe:
    """The same network, not loaded."""
    return _with(recipe, None)


def require_base(recipe: Recipe) -> None:
    """Refuse adapters on a network that nobody trained.

    Raises
    ------
    ConfigError
        Saying which base is expected.
    """
    network = recipe.network
    if network.adapter != "none" and network.base is None:
        raise config_error(
            "recipe",
            "network.base",
            f"none with the adapter {network.adapter!r}",
            f"the folder of a run of the network without it ({network.cascades} cascades, {network.regularizer})",
            "train one on other sites, then --set network.base=<folder>",
        )


def _with(recipe: Recipe, base: str | None) -> Recipe:
    return recipe.model_copy(update={"network": recipe.network.model_copy(update={"base": base})})
