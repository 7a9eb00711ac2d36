"""The gradient of a site's loss as a differentiable function of the image that an attacker guesses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..data import Sample
from ..method import apply
from ..training import Supervised, TaskTerm

#: A gradient with respect to the shared parameters, in their order.
Gradient = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Smoothed:
    r"""As :class:`recon.Supervised` with the loss ``l1``, but :math:`|d|` is :math:`\sqrt{d^2 + \epsilon^2}`.

    The gradient of :math:`|d|` is a sign, whose derivative is zero: an attacker who minimizes a distance of gradients
    learns nothing from it. The smooth loss has nearly the same gradient and a useful derivative.
    """

    epsilon: float

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Loss and image of a batch."""
        image = apply(network, batch)
        difference = batch.magnitude(image) - batch.target()
        return (difference.square() + self.epsilon**2).sqrt().mean(), image


@dataclass(frozen=True, eq=False)
class Victim:
    """One slice of a site as the attacker simulates it: everything is known but the image.

    Parameters
    ----------
    network
        The site's network with the parameters of the broadcast.
    shared
        Names of the parameters whose gradient the attacker sees; the others must not require a gradient.
    sample
        A batch of one slice. The attacker uses its operator, condition and noise, and not its image.
    task
        The site's loss.
    seed
        Seed of the random numbers of the loss, known to the attacker.
    """

    network: nn.Module
    shared: Sequence[str]
    sample: Sample
    task: TaskTerm
    seed: int = 0

    def gradient(self) -> Gradient:
        """The gradient that the site computes from its measurement and reference."""
        return tuple(part.detach() for part in self._gradient(self.sample, self.task, create=False))

    def simulated(self, image: Tensor, epsilon: float) -> Gradient:
        """The gradient for a guessed image, ``(1, height, width)``, differentiable with respect to the image.

        The guess is the reference, and its measurement has the noise of the scan, which no real attacker knows: in an
        untrained network the signs of the errors, and with them the gradient of the loss l1, depend on the noise.

        Raises
        ------
        ValueError
            If the slice has no reference.
        """
        A, reference = self.sample.operator, self.sample.reference
        if reference is None:
            raise ValueError("Victim: the slice has no reference, expected one")
        measurement = A(image) + (self.sample.measurement - A(reference)).detach()
        guess = replace(self.sample, measurement=measurement, reference=image)
        plain_l1 = isinstance(self.task, Supervised) and self.task.loss == "l1"
        return self._gradient(guess, Smoothed(epsilon) if plain_l1 else self.task, create=True)

    def _gradient(self, sample: Sample, task: TaskTerm, *, create: bool) -> Gradient:
        loss, _ = task(self.network, sample, torch.Generator().manual_seed(self.seed))
        parameters = dict(self.network.named_parameters())
        wanted = [parameters[name] for name in self.shared]
        found = torch.autograd.grad(loss, wanted, create_graph=create, allow_unused=True)
        return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True))


def mean_gradient(gradients: Iterable[Gradient]) -> Gradient:
    """The mean over sites."""
    found = list(gradients)
    return tuple(sum(parts, torch.zeros_like(parts[0])) / len(found) for parts in zip(*found, strict=True))


def gradient_norm(gradient: Gradient) -> float:
    """Euclidean norm over all parameters."""
    return float(torch.stack([part.double().square().sum() for part in gradient]).sum().sqrt())


def clipped(gradient: Gradient, clip: float, noise_multiplier: float, generator: torch.Generator) -> Gradient:
    """Scale a gradient to a norm of at most ``clip``; add Gaussian noise, ``noise_multiplier * clip`` in each entry.

    Raises
    ------
    ValueError
        If ``clip`` is not positive or ``noise_multiplier`` is negative.
    """
    if not clip > 0 or noise_multiplier < 0:
        raise ValueError(f"clipped: clip is {clip}, noise_multiplier {noise_multiplier}, expected > 0 and >= 0")
    factor = min(1.0, clip / max(gradient_norm(gradient), 1e-30))
    noise = (torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in gradient)
    return tuple(factor * part + noise_multiplier * clip * drawn for part, drawn in zip(gradient, noise, strict=True))
