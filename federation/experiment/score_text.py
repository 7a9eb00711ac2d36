"""Validation scores as text: a PSNR, a held-out residual, or the accuracy of a head."""

from recon import MOST_DB, task_accuracy

from ..recipes import Recipe

#: What the validation of a head measures, by kind of task.
MEASURES = {"segmentation": "Dice", "classification": "likelihood", "pretraining": "explained variance"}


def score_text(score: float | None, recipe: Recipe) -> str:
    """A validation score of a recipe: its PSNR, or the held-out residual of a site without references.

    With a head, its Dice or likelihood, see :func:`recon.validation_accuracy`.
    """
    if score is None:
        return "no score"
    if recipe.task is not None:
        return f"{MEASURES[recipe.task.kind]} {task_accuracy(score):.3f}"
    if score >= MOST_DB:
        return f"{MOST_DB:.0f} dB or more"
    return f"{score:.2f} dB" if score > 0 else f"residual {-score:.2f}"


def scores_by_name(score: float | None, recipe: Recipe) -> dict[str, float | None]:
    """A validation score as the curves of ``--log`` name it."""
    if recipe.task is not None:
        return {f"validation/{MEASURES[recipe.task.kind]}": None if score is None else task_accuracy(score)}
    return {
        "validation/PSNR in dB": score if score is not None and score > 0 else None,
        "validation/held-out residual": -score if score is not None and score <= 0 else None,
    }


def score_label(recipe: Recipe) -> str | None:
    """Label of the axis of validation scores; None: PSNR or residual, as the sites have references."""
    if recipe.task is None:
        return None
    return f"\N{MINUS SIGN}10 log\N{SUBSCRIPT ONE}\N{SUBSCRIPT ZERO}(1 \N{MINUS SIGN} {MEASURES[recipe.task.kind]})"
