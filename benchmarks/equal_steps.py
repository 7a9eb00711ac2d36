"""Train a network for a number of steps, on slices in an order that a generator decides: for networks that compare."""

import itertools

import torch
from torch import nn

from federation import Recipe
from recon import LOSSES, Samples, apply, batches, cosine_learning_rate


def train_steps(
    network: nn.Module, samples: Samples, steps: int, generator: torch.Generator, recipe: Recipe
) -> nn.Module:
    """Adam on batches of one slice, with loss and learning rate of a recipe, the latter along a cosine."""
    base = recipe.training.learning_rate
    optimizer = torch.optim.Adam(network.parameters(), lr=base)
    endless = itertools.chain.from_iterable(batches(samples, 1, generator) for _ in itertools.count())
    for number, batch in enumerate(itertools.islice(endless, steps)):
        optimizer.param_groups[0]["lr"] = cosine_learning_rate(base, number / steps)
        optimizer.zero_grad(set_to_none=True)
        image = apply(network, batch)
        LOSSES[recipe.training.loss](batch.magnitude(image), batch.target()).backward()
        optimizer.step()
    return network.eval()
