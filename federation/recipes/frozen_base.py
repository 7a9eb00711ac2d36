"""The base of a network: a run that trained it, weights, or one file beside the bundle of a deployment."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from recon import MODALITIES, STARTER_WEIGHTS, DataError, read_weights

from ..config import config_error, nearest
from ..methods import selected_state
from ..serialization import MessageError, State, below, pack, unpack
from ..sites import SiteManifest
from .recipe import Recipe
from .recipe_schema import CENTRALIZED, START
from .starting_point import require_same_network, weights_of

_KIND = "base"
#: Name of the base in a recipe that is sent to sites.
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def read_base(path: Path) -> State:
    """Shared parameters of the network of a run, or those in the file of :func:`detach_base`.

    Raises
    ------
    DataError
        If the path is neither.
    """
    if path.is_file():
        try:
            return unpack(path.read_bytes(), kind=_KIND).tensors
        except (MessageError, OSError) as error:
            raise DataError(f"{path}: cannot be read as a base ({error}); get the file again") from None
    if not (path / "run.json").is_file():
        expected = "the folder of a trained run, or starter weights"
        advice = f"train one first, or see `fedrecon weights`{nearest(str(path), STARTER_WEIGHTS)}"
        raise config_error("recipe", "network.base", str(path), expected, advice)
    shared = selected_state(path).shared
    if not any(name.startswith("head.") for name in shared):
        return shared
    network = below("reconstruction.", shared)
    if not network:
        found, expected = f"{path}, a run that trained a head alone", "a run of the network; name the base of that run"
        raise config_error("recipe", "network.base", found, expected, f"see {path / 'recipe.toml'}")
    return network


def detach_base(recipe: Recipe) -> tuple[Recipe, bytes | None]:
    """The recipe with its base named by a digest, ready to be sent; and the file of the base, None if it has none.

    Raises
    ------
    DataError
        If adapters or a head have no base, a base trains, or it cannot be read; or the recipe cannot be deployed.
    """
    require_base(recipe)
    _require_deployable(recipe)
    if recipe.network.base is None:
        return recipe, None
    _require_frozen(recipe)
    file = weights_of(recipe.network.base)
    if file is None and recipe.task is not None:
        advice = "write them with `fedrecon weights export`, or name starter weights"
        found = f"{recipe.network.base}, a run, of which every site keeps a part"
        raise config_error("recipe", "network.base", found, "weights in a deployment of a head", advice)
    if file is not None:
        require_same_network(recipe.network, file)
    content = pack(_KIND, {}, read_base(Path(recipe.network.base)) if file is None else read_weights(file))
    return _with(recipe, f"sha256:{hashlib.sha256(content).hexdigest()}"), content


def attach_base(recipe: Recipe, path: Path) -> Recipe:
    """The recipe of :func:`detach_base` with its base in the file ``path``; the same recipe if it has no base.

    Raises
    ------
    DataError
        If the file is missing or has another digest, or the recipe names its base by a path or trains it: parameters
        that train are drawn at the site, never sent. If the recipe cannot be deployed.
    """
    _require_deployable(recipe)
    if recipe.network.base is None:
        return recipe
    _require_frozen(recipe)
    wanted = digest_of_base(recipe)
    if wanted is None:
        advice = "do not approve it; `fedrecon deploy propose` writes the digest"
        raise config_error("recipe", "network.base", recipe.network.base, "sha256: and 64 digits", advice)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise DataError(f"{path}: no such file; the recipe needs it, it comes with the bundle") from None
    if found != wanted:
        raise DataError(f"{path}: its SHA-256 is {found[:12]}, expected {wanted[:12]}; is it the base of another run?")
    return _with(recipe, str(path.resolve()))


def digest_of_base(recipe: Recipe) -> str | None:
    """SHA-256 by which a recipe names its base; None if it has no base, or names it by a path."""
    match = _DIGEST.fullmatch(recipe.network.base or "")
    return match and match[1]


def run_of_base(recipe: Recipe) -> Path | None:
    """Folder of the run that is the base of a recipe; None: it has no base, or another one."""
    base = recipe.network.base
    if base is None or weights_of(base) is not None or not (Path(base) / "run.json").is_file():
        return None
    return Path(base)


def without_base(recipe: Recipe) -> Recipe:
    """The same recipe without base."""
    return _with(recipe, None)


def require_base(recipe: Recipe, manifests: Sequence[SiteManifest] = ()) -> None:
    """Refuse adapters on an untrained network, and weights of another modality than that of the sites.

    Raises
    ------
    ConfigError
        If the recipe has an adapter or a head that reads images of the base and no base, where the message describes
        the base, or a site has another modality.
    """
    network = recipe.network
    file = None if network.base is None else weights_of(network.base)
    for manifest in manifests:
        if file is not None and manifest.modality != file.modality:
            title = MODALITIES[file.modality].title
            found = f"{file.name}, weights for {title}, with the {manifest.kind.title} site {manifest.name}"
            raise config_error("recipe", "network.base", found, "sites of one modality", "leave out one of them")
    if recipe.task is not None and not recipe.task.trains_reconstruction and network.base is None:
        raise config_error(
            "recipe",
            "network.base",
            f"none with task.input {recipe.task.input!r}",
            "the reconstruction network, which this recipe does not train",
            "train one first, then --start-from <its run>, or name starter weights (`fedrecon weights`)",
        )
    if recipe.task is not None and recipe.task.adapter != "none" and recipe.task.head_weights is None:
        raise config_error(
            "recipe",
            "task.head_weights",
            f"none with the adapter {recipe.task.adapter!r}",
            "the trained head that it changes: a safetensors file or the folder of a run",
            "train one first, then --start-from <its run>",
        )
    if START in recipe.evaluation.arms and (network.base if recipe.task is None else recipe.task.head_weights) is None:
        key = "network.base" if recipe.task is None else "task.head_weights"
        found = f"{START!r} without {key}"
        raise config_error("recipe", "evaluation.arms", found, "both: trained parameters to compare", "leave it out")
    if network.adapter != "none" and network.base is None:
        raise config_error(
            "recipe",
            "network.base",
            f"none with the adapter {network.adapter!r}",
            f"the folder of a run of the network without it ({network.cascades} cascades, {network.regularizer})",
            "train one on other sites, then --set network.base=<folder>",
        )


def _require_deployable(recipe: Recipe) -> None:
    """Refuse what needs files that do not travel, or the data of all sites."""
    if recipe.task is not None and recipe.task.head_weights is not None:
        found, advice = recipe.task.head_weights, "train it on one machine, or leave the key out"
        raise config_error("recipe", "task.head_weights", found, "none in a deployed federation", advice)
    if CENTRALIZED in recipe.evaluation.arms:
        found, expected = repr(CENTRALIZED), "none in a deployed federation, whose data are in no single place"
        raise config_error("recipe", "evaluation.arms", found, expected, "leave it out, or simulate the federation")


def _require_frozen(recipe: Recipe) -> None:
    """Refuse a base that trains."""
    is_read_only = recipe.task is not None and not recipe.task.trains_reconstruction
    if recipe.network.adapter == "none" and not is_read_only:
        advice = "sites draw the parameters that they train; leave it out, or add an adapter (network.adapter)"
        raise config_error("recipe", "network.base", "a base without an adapter", "none in a deployment", advice)


def _with(recipe: Recipe, base: str | None) -> Recipe:
    return recipe.model_copy(update={"network": recipe.network.model_copy(update={"base": base})})
