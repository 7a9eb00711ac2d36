"""Classical methods as arms of a report, tuned on validation slices."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from recon import (
    CGLS,
    CLASSICAL,
    SIRT,
    CGSense,
    FilteredBackprojection,
    L1Wavelet,
    PenalizedTV,
    Sample,
    Samples,
    TotalVariation,
    evaluate,
    tune,
)

from .task import ReconstructionTask

#: Relative dampings that CG-SENSE is tuned over.
CG_WEIGHTS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


#: Cut-offs that filtered back-projection is tuned over, and numbers of iterations for SIRT and CGLS.
FBP_CUTOFFS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)


ITERATIONS = (10, 20, 40, 80, 160)


def classical_method(arm: str, task: ReconstructionTask, tuned: dict[str, float]) -> nn.Module:
    """A classical method, its weight tuned on validation slices where the site has some, and told in ``tuned``."""
    make, evaluation = CLASSICAL[task.manifest.modality][arm], task.recipe.evaluation
    weights: dict[type[nn.Module], Sequence[float]] = {
        CGSense: CG_WEIGHTS,
        TotalVariation: evaluation.tv_weights,
        L1Wavelet: evaluation.tv_weights,
        PenalizedTV: evaluation.tv_weights_ct,
        FilteredBackprojection: FBP_CUTOFFS,
        SIRT: ITERATIONS,
        CGLS: ITERATIONS,
    }
    if make not in weights or not task.manifest.data.validation:
        return make()
    slices = _spread(task.dataset("validation"), evaluation.tv_slices)

    def score(method: nn.Module) -> float:
        found = evaluate(method, slices).selection_score()
        return -np.inf if found is None else found

    factory: Callable[[float], nn.Module] = make
    method, tuned[arm], _ = tune(factory, weights[make], score)
    return method


def _spread(samples: Samples, count: int) -> list[Sample]:
    """Slices evenly spread over a data set, each counted as a volume of its own by its position."""
    positions = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[int(position)] for position in sorted(set(positions))]
