"""Reconstruct images from a gradient: the attacker guesses images whose gradient matches it (Geiping et al. [G]_)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import made
from ..errors import DataError
from .gradients import Gradient, Victim, mean_gradient

#: Smoothing of the l1 loss at the first and at the last step, in scaled units of the image.
_SMOOTHING = (0.05, 0.003)


@dataclass(frozen=True)
class AttackSettings:
    """How an attack searches.

    Parameters
    ----------
    steps
        Steps of Adam.
    learning_rate
        Of the first step, in scaled units of the image; it falls to a hundredth along half a cosine.
    total_variation
        Weight of the prior.
    distance
        ``"cosine"``: one minus the cosine between the gradients. ``"layers"``: the mean of this over the parameter
        tensors, so that tensors with a small gradient count. ``"l2"``: relative squared distance.
    start
        Value of the blank image from which the search starts.
    """

    steps: int = 200
    learning_rate: float = 0.03
    total_variation: float = 1e-3
    distance: str = "layers"
    start: float = 0.2

    def __post_init__(self) -> None:
        if self.distance not in ("cosine", "layers", "l2"):
            raise ValueError(f"AttackSettings: distance is {self.distance!r}, expected 'cosine', 'layers' or 'l2'")
        if self.steps < 1:
            raise ValueError(f"AttackSettings: steps is {self.steps}, expected at least 1")


@dataclass(frozen=True, eq=False)
class Inversion:
    """Outcome of :func:`invert`: the images, one per victim, and the distance of the gradients at each step."""

    images: tuple[Tensor, ...]
    losses: tuple[float, ...]


def blank_start(victim: Victim, settings: AttackSettings, seed: int = 0) -> Tensor:
    """The start of a search: a constant image with one percent of noise, as an exactly constant one has no gradient."""
    reference = victim.sample.reference
    if reference is None:
        raise ValueError("blank_start: the slice has no reference, expected one")
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(seed))
    return (settings.start * (1 + 0.01 * noise)).to(reference.dtype)


def invert(victims: Sequence[Victim], seen: Gradient, settings: AttackSettings) -> Inversion:
    """Search the images, one per victim, whose mean gradient matches the one that was seen.

    Parameters
    ----------
    seen
        Gradient in the order of ``shared`` of the victims, or an update divided by minus its learning rate: the cosine
        does not depend on its scale.

    Raises
    ------
    DataError
        If the gradient that was seen is zero, or the distance or its derivative is not finite at some step.

    References
    ----------
    .. [G] Geiping et al., Inverting gradients: how easy is it to break privacy in federated learning?, NeurIPS 2020.
    """
    if not any(bool(part.any()) for part in seen):
        advice = "train more rounds: a network that begins with zero output has no gradient"
        raise DataError(f"inversion: found a gradient of zeros, expected one that depends on the image; {advice}")
    images = [blank_start(victim, settings).requires_grad_() for victim in victims]
    optimizer = torch.optim.Adam(images, lr=settings.learning_rate)
    losses = []
    for step in range(settings.steps):
        progress = step / settings.steps
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        epsilon = _SMOOTHING[0] * (_SMOOTHING[1] / _SMOOTHING[0]) ** progress
        guess = mean_gradient(v.simulated(x, epsilon) for v, x in zip(victims, images, strict=True))
        distance = _distance(guess, seen, settings.distance)
        prior = sum((_total_variation(x) for x in images), torch.zeros(()))
        found = torch.autograd.grad(distance + settings.total_variation * prior, images)
        losses.append(float(distance.detach()))
        _require_finite(losses[-1], found, step)
        for image, gradient in zip(images, found, strict=True):
            image.grad = gradient
        optimizer.step()
        made(step + 1, losses[-1])
    return Inversion(tuple(x.detach() for x in images), tuple(losses))


def _require_finite(distance: float, gradients: Sequence[Tensor], step: int) -> None:
    if math.isfinite(distance) and all(bool(gradient.isfinite().all()) for gradient in gradients):
        return
    found = f"a distance of gradients of {distance:.3g} whose derivative is not finite"
    if not math.isfinite(distance):
        found = f"a distance of gradients of {distance}"
    advice = "attack another round or site: the network, or its derivatives, are not finite there"
    raise DataError(f"inversion: found {found} at step {step + 1}, expected finite numbers; {advice}")


def distance_at(victims: Sequence[Victim], images: Sequence[Tensor], seen: Gradient, settings: AttackSettings) -> float:
    """Distance of :func:`invert` at given images, with the smoothing of its last step."""
    guess = mean_gradient(v.simulated(x, _SMOOTHING[1]) for v, x in zip(victims, images, strict=True))
    return float(_distance(guess, seen, settings.distance).detach())


def _distance(guess: Gradient, seen: Gradient, kind: str) -> Tensor:
    if kind == "l2":
        difference = tuple(x - y for x, y in zip(guess, seen, strict=True))
        return _inner(difference, difference) / _inner(seen, seen)
    if kind == "layers":
        pairs = [(x, y) for x, y in zip(guess, seen, strict=True) if bool(y.any())]
        return torch.stack([_angle((x,), (y,)) for x, y in pairs]).mean()
    return _angle(guess, seen)


def _angle(a: Gradient, b: Gradient) -> Tensor:
    """One minus the cosine."""
    return 1 - _inner(a, b) / (_norm(a) * _norm(b))


def _norm(a: Gradient) -> Tensor:
    # Clamped inside the root: its derivative at zero is infinite.
    return _inner(a, a).clamp_min(1e-30).sqrt()


def _inner(a: Gradient, b: Gradient) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbors."""
    return (image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean()) / 2
