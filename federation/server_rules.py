"""How the server combines what the sites send back."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .messages import State

#: Shared tensors and weight by site -> new shared tensors.
ServerRule = Callable[[Mapping[str, State], Mapping[str, float]], State]


def weighted_mean(states: Mapping[str, State], weights: Mapping[str, float]) -> State:
    r"""Average, :math:`\sum_s w_s x_s / \sum_s w_s`.

    Summed in float64 in the order of the sites' names and cast once, so the order of arrival does not matter.
    One state at a time is in memory.

    Parameters
    ----------
    states
        Tensors by site, all with the same names and shapes.
    weights
        A positive number for each site.

    Raises
    ------
    ValueError
        If there is no site, a weight is missing or not positive, or names differ.
    """
    if not states or states.keys() != weights.keys():
        raise ValueError(f"weighted_mean: states of {sorted(states)}, weights of {sorted(weights)}, expected the same")
    if not all(weight > 0 for weight in weights.values()):
        raise ValueError(f"weighted_mean: weights are {dict(weights)}, expected positive numbers")
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for site in sorted(states):
        for name, tensor in states[site].items():
            term = weights[site] * tensor.to(torch.float64)
            sums[name] = sums[name] + term if name in sums else term
            dtypes[name] = tensor.dtype
        if states[site].keys() != sums.keys():
            raise ValueError(f"weighted_mean: site {site} lacks {sorted(sums.keys() - states[site].keys())}")
    total = sum(weights[site] for site in sorted(weights))
    return {name: (value / total).to(dtypes[name]) for name, value in sums.items()}


#: Server rules by the name used in recipes.
SERVER_RULES: dict[str, ServerRule] = {"mean": weighted_mean}
