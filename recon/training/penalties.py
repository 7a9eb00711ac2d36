"""Penalties: terms added to the loss of the task."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from physics import Registry, reciprocal

from ..data import Sample
from ..method import apply
from .feature_moments import MomentAlignment
from .losses import LOSSES
from .objectives import last_axes, require_loss, require_positive, some
from .penalty import Penalty, RoundStart, State


@dataclass(frozen=True, eq=False)
class Proximal(Penalty):
    r"""Stay near the broadcast parameters, :math:`\frac{\mu}{2} \|w - w_g\|^2` (FedProx [L]_).

    Parameters
    ----------
    mu
        The weight; 1e-3 to 1e-6 are usual for reconstruction.
    reference
        :math:`w_g` by name, copied; the parameters that it does not name are free.

    References
    ----------
    .. [L] Li et al., Federated optimization in heterogeneous networks, MLSys 2020, eq. 2.
    """

    mu: float
    reference: State

    @classmethod
    def for_round(cls, weight: float, at: RoundStart) -> Penalty:
        return cls(weight, at.shared)

    def __post_init__(self) -> None:
        require_positive("Proximal", "mu", self.mu)
        object.__setattr__(self, "reference", _reference("Proximal", self.reference))

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        pairs = _pairs("Proximal", network, self.reference)
        return self.mu / 2 * torch.stack([(w - g).square().sum() for w, g in pairs]).sum()


@dataclass(frozen=True, eq=False)
class ContrastiveRatio(Penalty):
    r"""Near the broadcast parameters, away from where the sites were before (FedMRI [F]_).

    :math:`\beta\, \|w - w_g\|_1 / \sum_j \|w - w_j\|_1`; the gradient goes through numerator and denominator. Zero
    where there is no previous state, as in the first round.

    Parameters
    ----------
    beta
        The weight; the paper's is up to 100 for a task loss of weight 1.
    reference
        :math:`w_g` by name, copied: the shared encoder.
    previous
        The :math:`w_j`, copied: what sites had after an earlier round, at least the names of the reference.

    References
    ----------
    .. [F] Feng et al., Specificity-preserving federated learning for MR image reconstruction, IEEE Trans. Med.
       Imaging 42, 2023.
    """

    beta: float
    reference: State
    previous: Sequence[State] = ()
    needs_previous: ClassVar[bool] = True

    @classmethod
    def for_round(cls, weight: float, at: RoundStart) -> Penalty | None:
        return cls(weight, at.shared, [at.previous]) if at.previous else None

    def __post_init__(self) -> None:
        who = "ContrastiveRatio"
        require_positive(who, "beta", self.beta)
        object.__setattr__(self, "reference", _reference(who, self.reference))
        for number, state in enumerate(self.previous):
            if missing := sorted(self.reference.keys() - state.keys()):
                raise ValueError(f"{who}: previous state {number} lacks {some(missing)}, which the reference has")
        states = tuple(_copy({name: state[name] for name in self.reference}) for state in self.previous)
        object.__setattr__(self, "previous", states)

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        here = _l1("ContrastiveRatio", network, self.reference)
        if not self.previous:
            return torch.zeros_like(here)
        away = torch.stack([_l1("ContrastiveRatio", network, state) for state in self.previous]).sum()
        # A site alone starts a round where it was: 0 / 0 counts as 0, and has no gradient.
        return self.beta * here / away.clamp_min(1e-12)


@dataclass(frozen=True)
class MeasurementResidual(Penalty):
    r"""The image must explain the measurement, :math:`w\, \|A x - y\|^2 / \|y\|^2` per slice (ProFed, Fed-CRFD).

    Operator and measurement are whitened: it is the residual in units of the noise, relative to the signal.

    Parameters
    ----------
    weight
        w.
    """

    weight: float

    def __post_init__(self) -> None:
        require_positive("MeasurementResidual", "weight", self.weight)

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        axes = last_axes(len(batch.operator.range_shape))
        residual: Tensor = (batch.operator(image) - batch.measurement).abs().square().sum(axes)
        return self.weight * (residual * reciprocal(batch.measurement.abs().square().sum(axes))).mean()


@dataclass(frozen=True, eq=False)
class Distillation(Penalty):
    """Stay near the image of the global network (ModFed [M]_), on magnitudes in scaled units.

    Parameters
    ----------
    weight
        0.1 in the paper.
    teacher
        The network with the broadcast parameters; a frozen copy is taken, which sees the whole measurement.
    loss
        A name in :data:`recon.LOSSES`.

    References
    ----------
    .. [M] Wu et al., Model-based federated learning for accurate MR image reconstruction from undersampled k-space
       data, Comput. Biol. Med. 180, 2024.
    """

    weight: float
    teacher: nn.Module
    loss: str = "mse"

    @classmethod
    def for_round(cls, weight: float, at: RoundStart) -> Penalty:
        return cls(weight, at.network)

    def __post_init__(self) -> None:
        require_positive("Distillation", "weight", self.weight)
        require_loss("Distillation", self.loss)
        object.__setattr__(self, "teacher", copy.deepcopy(self.teacher).eval().requires_grad_(False))

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        with torch.no_grad():
            target = batch.magnitude(apply(self.teacher, batch))
        return self.weight * LOSSES[self.loss](batch.magnitude(image), target)


def _l1(who: str, network: nn.Module, state: State) -> Tensor:
    total: Tensor = torch.stack([(w - g).abs().sum() for w, g in _pairs(who, network, state)]).sum()
    return total


def _pairs(who: str, network: nn.Module, reference: State) -> list[tuple[nn.Parameter, Tensor]]:
    """Each parameter with its reference; every name must exist, and something must be able to move."""
    parameters = dict(network.named_parameters())
    if unknown := sorted(reference.keys() - parameters.keys()):
        raise ValueError(f"{who}: the network has no parameter {some(unknown)}, it has {some(parameters)}")
    wrong = [name for name, tensor in reference.items() if tensor.shape != parameters[name].shape]
    if wrong:
        found, expected = tuple(reference[wrong[0]].shape), tuple(parameters[wrong[0]].shape)
        raise ValueError(f"{who}: the reference of {wrong[0]} has shape {found}, expected {expected}")
    if not any(parameters[name].requires_grad for name in reference):
        raise ValueError(f"{who}: all of {some(reference)} are frozen; the penalty would change nothing")
    return [(parameters[name], tensor.to(parameters[name].device)) for name, tensor in reference.items()]


def _reference(who: str, state: State) -> State:
    if not state:
        raise ValueError(f"{who}: the reference is empty, expected at least one parameter")
    return _copy(state)


def _copy(state: State) -> State:
    """Copies: a reference that shares memory with the network would follow it, and the penalty would stay zero."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


#: Penalties by the key of their weight in ``[objective]``.
PENALTIES: Registry[Penalty] = Registry("penalty", {
    "proximal": Proximal,
    "contrastive": ContrastiveRatio,
    "moments": MomentAlignment,
    "residual": MeasurementResidual,
    "distillation": Distillation,
})  # fmt: skip
