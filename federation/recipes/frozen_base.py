"""The frozen base of adapters: the folder of the run that trained it, or one file that travels beside a bundle."""

import hashlib
import re
from pathlib import Path

from recon import DataError

from ..config import config_error
from ..methods import selected_state
from ..serialization import MessageError, State, pack, unpack
from .recipe import Recipe

_KIND = "base"
#: What a recipe that travels says in place of a path.
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def read_base(path: Path) -> State:
    """The parameters that a run shared, or those in a file of :func:`carried`.

    Raises
    ------
    DataError
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
    """A recipe made ready to travel.

    Returns
    -------
        The recipe, which names its base by a digest, and the content of the base's file; None if it has no base.

    Raises
    ------
    DataError
        If adapters have no base, a base has no adapters, or it cannot be read.
    """
    require_base(recipe)
    if recipe.network.base is None:
        return recipe, None
    _require_adapter(recipe)
    content = pack(_KIND, {}, read_base(Path(recipe.network.base)))
    return _with(recipe, f"sha256:{hashlib.sha256(content).hexdigest()}"), content


def placed(recipe: Recipe, path: Path) -> Recipe:
    """A recipe that has travelled, made ready to be run where its base is the file ``path``.

    Returns
    -------
        The recipe that names this file; itself if it has no base.

    Raises
    ------
    DataError
        If the file is missing or is not the base that the recipe means, or the recipe does not name it by a digest or
        has no adapters: what trains from the first round on is drawn by the site, never sent.
    """
    if recipe.network.base is None:
        return recipe
    _require_adapter(recipe)
    meant = digest_of_base(recipe)
    if meant is None:
        advice = "do not approve it; a bundle of `fedrecon deploy propose` has it so"
        raise config_error("recipe", "network.base", recipe.network.base, "sha256: and 64 digits", advice)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise DataError(f"{path}: no such file; the recipe needs it, it comes with the bundle") from None
    if found != meant:
        raise DataError(f"{path}: its SHA-256 is {found[:12]}, expected {meant[:12]}; is it the base of another run?")
    return _with(recipe, str(path.resolve()))


def digest_of_base(recipe: Recipe) -> str | None:
    """SHA-256 of the base of a recipe that has travelled; None if it has none, or names it by its path."""
    match = _DIGEST.fullmatch(recipe.network.base or "")
    return match and match[1]


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


def _require_adapter(recipe: Recipe) -> None:
    if recipe.network.adapter == "none":
        advice = "a network that trains as a whole begins at what the sites draw themselves"
        raise config_error("recipe", "network.base", "a base without an adapter", "none in a deployment", advice)


def _with(recipe: Recipe, base: str | None) -> Recipe:
    return recipe.model_copy(update={"network": recipe.network.model_copy(update={"base": base})})
