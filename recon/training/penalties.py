"""Penalties: terms added to the loss of the task.

A penalty without anything to act on raises an error: as a silent zero, it would train another method than reported.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from physics import Registry, reciprocal

from ..data import Sample
from ..method import apply
from .error_bar_fit import ErrorBarFit
from .feature_moments import MomentAlignment
from .losses import mse_loss
from .objectives import last_axes, require_positive
from .penalty import Penalty, RoundStart, State


@dataclass(frozen=True, eq=False)
class Proximal(Penalty):
    r"""Stay near the broadcast parameters, :math:`\frac{\mu}{2} \|w - w_g\|^2` (FedProx [L]_).

    Parameters
    ----------
    mu
        The weight; 1e-3 to 1e-6 are usual for reconstruction.
    reference
        :math:`w_g` by name; other parameters are free.

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
    r"""Stay near the broadcast parameters, away from the site's previous ones (FedMRI [F]_).

    :math:`\beta\, \|w - w_g\|_1 / \|w - w_p\|_1`; the gradient includes the denominator. Begins in the second round.

    Parameters
    ----------
    beta
        The weight, up to 100 in the paper for a task loss of weight 1.
    reference
        :math:`w_g` by name.
    previous
        :math:`w_p`, the site's parameters after an earlier round, at least the names of the reference.

    References
    ----------
    .. [F] Feng et al., Specificity-preserving federated learning for MR image reconstruction, IEEE Trans. Med.
       Imaging 42, 2023.
    """

    beta: float
    reference: State
    previous: State
    needs_previous: ClassVar[bool] = True

    @classmethod
    def for_round(cls, weight: float, at: RoundStart) -> Penalty | None:
        return cls(weight, at.shared, at.previous) if at.previous else None

    def __post_init__(self) -> None:
        who = "ContrastiveRatio"
        require_positive(who, "beta", self.beta)
        object.__setattr__(self, "reference", _reference(who, self.reference))
        if missing := sorted(self.reference.keys() - self.previous.keys()):
            raise ValueError(f"{who}: the previous state lacks {_some(missing)}, which the reference has")
        object.__setattr__(self, "previous", _copy({name: self.previous[name] for name in self.reference}))

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        near, far = (_l1("ContrastiveRatio", network, state) for state in (self.reference, self.previous))
        # With one site a round starts at the previous parameters: 0 / 0 counts as 0, and has no gradient.
        return self.beta * near / far.clamp_min(1e-12)


@dataclass(frozen=True)
class MeasurementResidual(Penalty):
    r"""The image must explain the measurement, :math:`w\, \|A x - y\|^2 / \|y\|^2` per slice (ProFed, Fed-CRFD).

    Operator and measurement are whitened: the residual is in units of the noise, relative to the signal.

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
    """Stay near the image of the global network (ModFed [M]_): mean squared difference of scaled magnitudes.

    Parameters
    ----------
    weight
        0.1 in the paper.
    teacher
        The network with the broadcast parameters, of which a frozen copy is kept.

    References
    ----------
    .. [M] Wu et al., Model-based federated learning for accurate MR image reconstruction from undersampled k-space
       data, Comput. Biol. Med. 180, 2024.
    """

    weight: float
    teacher: nn.Module

    @classmethod
    def for_round(cls, weight: float, at: RoundStart) -> Penalty:
        return cls(weight, at.network)

    def __post_init__(self) -> None:
        require_positive("Distillation", "weight", self.weight)
        object.__setattr__(self, "teacher", copy.deepcopy(self.teacher).eval().requires_grad_(False))

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        with torch.no_grad():
            target = batch.magnitude(apply(self.teacher, batch))
        return self.weight * mse_loss(batch.magnitude(image), target)


def _l1(who: str, network: nn.Module, state: State) -> Tensor:
    total: Tensor = torch.stack([(w - g).abs().sum() for w, g in _pairs(who, network, state)]).sum()
    return total


def _pairs(who: str, network: nn.Module, reference: State) -> list[tuple[nn.Parameter, Tensor]]:
    """Pairs of a parameter and its reference; every name must exist, and one parameter must be trained."""
    parameters = dict(network.named_parameters())
    if unknown := sorted(reference.keys() - parameters.keys()):
        raise ValueError(f"{who}: the network has no parameter {_some(unknown)}, it has {_some(parameters)}")
    wrong = [name for name, tensor in reference.items() if tensor.shape != parameters[name].shape]
    if wrong:
        found, expected = tuple(reference[wrong[0]].shape), tuple(parameters[wrong[0]].shape)
        raise ValueError(f"{who}: the reference of {wrong[0]} has shape {found}, expected {expected}")
    if not any(parameters[name].requires_grad for name in reference):
        raise ValueError(f"{who}: all of {_some(reference)} are frozen; the penalty would change nothing")
    return [(parameters[name], tensor.to(parameters[name].device)) for name, tensor in reference.items()]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _reference(who: str, state: State) -> State:
    if not state:
        raise ValueError(f"{who}: the reference is empty, expected at least one parameter")
    return _copy(state)


def _copy(state: State) -> State:
    """Copies of the tensors: the network changes its own while it trains."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


#: Penalties; the name is the key of the weight in ``[objective]``.
PENALTIES: Registry[Penalty] = Registry("penalty", {
    "proximal": Proximal,
    "contrastive": ContrastiveRatio,
    "moments": MomentAlignment,
    "residual": MeasurementResidual,
    "distillation": Distillation,
    "error_bars": ErrorBarFit,
})  # fmt: skip
