"""Classical methods as arms of a report, tuned on validation slices."""

import numpy as np
from torch import nn

from recon import Sample, Samples, doing, evaluate, tune

from .task import ReconstructionTask


def classical_method(arm: str, task: ReconstructionTask, tuned: dict[str, float]) -> nn.Module:
    """A classical method, tuned if the site has validation data; ``tuned`` receives the chosen value."""
    make, evaluation = task.manifest.kind.methods[arm], task.recipe.evaluation
    key = getattr(make, "candidates_key", "")
    candidates = getattr(evaluation, key) if key else getattr(make, "candidates", ())
    if not candidates or not task.manifest.data.validation:
        return make()
    slices = _spread(task.dataset("validation"), evaluation.tv_slices)
    tried = 0

    def score(method: nn.Module) -> float:
        nonlocal tried
        tried += 1
        with doing(f"tuning {arm}, value {tried} of {len(candidates)},"):
            found = evaluate(method, slices).selection_score()
        return -np.inf if found is None else found

    method, tuned[arm] = tune(make, candidates, score)
    return method


def _spread(samples: Samples, count: int) -> list[Sample]:
    """``count`` slices, evenly spread over a data set."""
    positions = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[int(position)] for position in sorted(set(positions))]
