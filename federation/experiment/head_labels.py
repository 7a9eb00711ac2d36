"""Labels of the sites against those that a recipe trains a head on."""

from collections.abc import Sequence

from recon import TaskLabels

from ..config import config_error
from ..recipes import Recipe
from ..sites import SiteManifest


def require_labels(recipe: Recipe, manifests: Sequence[SiteManifest]) -> None:
    """Refuse sites without the labels that a recipe trains a head on; a recipe without a head needs none.

    Raises
    ------
    ConfigError
        At the first site that has no labels, or those of another task.
    """
    for manifest in manifests if recipe.task is not None and recipe.task.learns_labels else ():
        if not has_labels(recipe, manifest):
            expected = f"{_text(recipe.task.labels)}, on which {recipe.name} trains a head"  # type: ignore[union-attr]
            raise config_error(manifest.path, "task", "no labels", expected, "add [task], or leave the site out")


def has_labels(recipe: Recipe, manifest: SiteManifest) -> bool:
    """Whether a site has labels for the head of a recipe.

    Raises
    ------
    ConfigError
        If it has labels of another task: their numbers would mean other classes.
    """
    found = manifest.task_labels()
    if recipe.task is None or found is None or not recipe.task.learns_labels:
        return False
    if found != recipe.task.labels:
        expected = f"{_text(recipe.task.labels)}, as in the recipe"
        advice = "set task.kind and task.classes of the recipe, or leave the site out"
        raise config_error(manifest.path, "task", _text(found), expected, advice)
    return True


def _text(labels: TaskLabels) -> str:
    return f"{labels.kind} of {', '.join(labels.classes)}"
