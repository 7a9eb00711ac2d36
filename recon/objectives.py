r"""What a site minimizes: a task term on its measurements, plus penalties that tie it to the other sites.

A task calls the network and returns a loss with the image that it was computed from; a penalty looks at the parameters
or at that image and adds to the loss. A penalty with nothing to act on raises: silently zero, it would train another
method than the one that is reported.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from physics import CartesianMRI, RadonOperator, reciprocal

from .calls import apply
from .errors import DataError
from .losses import LOSSES
from .moments import MomentAlignment
from .sample import Sample, held_out_split
from .twin import TwinNetwork

#: Named tensors.
State = Mapping[str, Tensor]


class TaskTerm(Protocol):
    """The part of an objective that the measurements decide; all randomness from ``generator``."""

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Loss of a batch as :func:`recon.collate` makes it, and the image, ``(batch, *A.domain_shape)``."""


class Penalty(Protocol):
    """A term that is added to the loss of the task, its weight included."""

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        """Penalty of ``network``, which made ``image`` from ``batch``."""


@dataclass(frozen=True)
class Supervised:
    """Distance to the reference, on magnitudes in scaled units.

    Parameters
    ----------
    loss
        A name in :data:`recon.LOSSES`.
    """

    loss: str = "l1"

    def __post_init__(self) -> None:
        _require_loss("Supervised", self.loss)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if batch.reference is None:
            raise DataError(
                f"{batch.meta[0].volume}: has no reference to train on; use fully sampled files for training"
            )
        image = apply(network, batch)
        return LOSSES[self.loss](batch.magnitude(image), batch.target()), image


@dataclass(frozen=True)
class SelfSupervised:
    r"""Predict the part of the measurement that the network did not see (SSDU [Y]_); no reference is needed.

    A new part :math:`\Lambda` is hidden at every step, see :func:`hide`. The loss is the normalized l1-l2 distance of
    the paper on that part, :math:`\|u - v\|_2 / \|u\|_2 + \|u - v\|_1 / \|u\|_1` with the measured u and
    :math:`v = (A x)_\Lambda`, per slice. Both are whitened, so noisy coils and rays count less.

    In MRI the calibration block is never hidden, so this loss does not see low frequencies, and the contrast drifts.
    Train a network that ends in data consistency, as the paper's does, or add :class:`MeasurementResidual`.

    Parameters
    ----------
    fraction
        Part of the candidates that is hidden; the paper's is 0.4.

    References
    ----------
    .. [Y] Yaman et al., Self-supervised learning of physics-guided reconstruction neural networks without fully sampled
       reference data, Magn. Reson. Med. 84, 2020.
    """

    fraction: float = 0.4

    def __post_init__(self) -> None:
        _require_fraction("SelfSupervised", self.fraction)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen, hidden = hide(batch, self.fraction, generator)
        image = apply(network, seen)
        predicted = batch.operator(image) * hidden
        n_axes = len(batch.operator.range_shape)
        return _distance(predicted, batch.measurement * hidden, n_axes), image


@dataclass(frozen=True)
class TwoViews:
    r"""Two reconstructions from two random parts of one measurement, which must agree [Z]_; no reference is needed.

    :math:`\tfrac12 \sum_v d(A x_v, y) + w \cdot \tfrac12 [d(x_1, \bar x_2) + d(x_2, \bar x_1)]` with the normalized
    l1-l2 distance d of :class:`SelfSupervised`. Each image must explain all that was measured, also what it did not
    see. The bar stops the gradient: an image moves towards the other, and none can win by growing. The image that
    is returned is the mean of the two.

    Parameters
    ----------
    fraction
        Part of the candidates that is hidden from each view, see :func:`hide`.
    weight
        w, of the agreement.

    References
    ----------
    .. [Z] Zou et al., Self-supervised federated learning for fast MR imaging (SSFedMRI), 2023.
    """

    fraction: float = 0.4
    weight: float = 1.0

    def __post_init__(self) -> None:
        _require_fraction("TwoViews", self.fraction)
        _require_positive("TwoViews", "weight", self.weight)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        A = batch.operator
        one, two = (apply(network, hide(batch, self.fraction, generator)[0]) for _ in range(2))
        n_range, n_domain = len(A.range_shape), len(A.domain_shape)
        fit = _distance(A(one), batch.measurement, n_range) + _distance(A(two), batch.measurement, n_range)
        pull = _distance(one, two.detach(), n_domain) + _distance(two, one.detach(), n_domain)
        return (fit + self.weight * pull) / 2, (one + two) / 2


@dataclass(frozen=True)
class MutualDistillation:
    """The two halves of a :class:`TwinNetwork` learn the task, and each from the other's image (FedM2CT [W]_).

    Both are trained in one step. The image of the other is detached, so a teacher does not move towards its pupil; both
    see the same random part of the measurement where the task draws one.

    Parameters
    ----------
    task
        What each of the two is trained on.
    weight
        Of the distance to the other's image.
    loss
        A name in :data:`recon.LOSSES`, that distance.

    References
    ----------
    .. [W] Wang et al., Federated metadata-constrained iRadonMAP framework with mutual learning for all-in-one computed
       tomography imaging (FedM2CT), Cyborg Bionic Syst. 6, 2025.
    """

    task: TaskTerm = field(default_factory=Supervised)
    weight: float = 1.0
    loss: str = "mse"

    def __post_init__(self) -> None:
        _require_positive("MutualDistillation", "weight", self.weight)
        _require_loss("MutualDistillation", self.loss)

    def __call__(self, network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if not isinstance(network, TwinNetwork):
            raise TypeError(f"MutualDistillation: network is {type(network).__name__}, expected TwinNetwork")
        state = generator.get_state()
        private_loss, private = self.task(network.private, batch, generator)
        generator.set_state(state)
        shared_loss, shared = self.task(network.shared, batch, generator)
        distance, (p, s) = LOSSES[self.loss], (batch.magnitude(image) for image in (private, shared))
        mutual = distance(p, s.detach()) + distance(s, p.detach())
        return private_loss + shared_loss + self.weight * mutual, private


@dataclass(frozen=True, eq=False)
class Proximal:
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

    def __post_init__(self) -> None:
        _require_positive("Proximal", "mu", self.mu)
        object.__setattr__(self, "reference", _reference("Proximal", self.reference))

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        pairs = _pairs("Proximal", network, self.reference)
        return self.mu / 2 * torch.stack([(w - g).square().sum() for w, g in pairs]).sum()


@dataclass(frozen=True, eq=False)
class ContrastiveRatio:
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

    def __post_init__(self) -> None:
        who = "ContrastiveRatio"
        _require_positive(who, "beta", self.beta)
        object.__setattr__(self, "reference", _reference(who, self.reference))
        for number, state in enumerate(self.previous):
            if missing := sorted(self.reference.keys() - state.keys()):
                raise ValueError(f"{who}: previous state {number} lacks {_some(missing)}, which the reference has")
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
class MeasurementResidual:
    r"""The image must explain the measurement, :math:`w\, \|A x - y\|^2 / \|y\|^2` per slice (ProFed, Fed-CRFD).

    Operator and measurement are whitened: it is the residual in units of the noise, relative to the signal.

    Parameters
    ----------
    weight
        w.
    """

    weight: float

    def __post_init__(self) -> None:
        _require_positive("MeasurementResidual", "weight", self.weight)

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        axes = _last(len(batch.operator.range_shape))
        residual: Tensor = (batch.operator(image) - batch.measurement).abs().square().sum(axes)
        return self.weight * (residual * reciprocal(batch.measurement.abs().square().sum(axes))).mean()


@dataclass(frozen=True, eq=False)
class Distillation:
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

    def __post_init__(self) -> None:
        _require_positive("Distillation", "weight", self.weight)
        _require_loss("Distillation", self.loss)
        object.__setattr__(self, "teacher", copy.deepcopy(self.teacher).eval().requires_grad_(False))

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        with torch.no_grad():
            target = batch.magnitude(apply(self.teacher, batch))
        return self.weight * LOSSES[self.loss](batch.magnitude(image), target)


def hide(batch: Sample, fraction: float, generator: torch.Generator) -> tuple[Sample, Tensor]:
    """Take a random part of the measurements of a batch away, by the rules of :func:`recon.held_out_split`.

    MRI: sampled positions outside the calibration block, drawn for every slice. CT: whole views, the same for all
    slices of the batch, so that filtered back-projection knows which are missing.

    Returns
    -------
        The batch without that part, and the mask of it, bool, broadcastable to the measurement.

    Raises
    ------
    DataError
        If a slice has too little outside its calibration block.
    TypeError
        If the operator is neither Cartesian MRI nor CT.
    ValueError
        If the fraction is out of range or the sample is no batch.
    """
    _require_fraction("hide", fraction)
    A, y = batch.operator, batch.measurement
    if y.ndim != len(A.range_shape) + 1:
        raise ValueError(f"hide: measurement has shape {tuple(y.shape)}, expected one batch axis; use `collate`")
    try:
        if isinstance(A, CartesianMRI):
            slices = [
                replace(batch, measurement=y[i], operator=CartesianMRI(A.maps[i], A.mask[i])) for i in range(len(y))
            ]
            masks = torch.stack([held_out_split(single, fraction, generator)[1] for single in slices])
            hidden = masks.unsqueeze(-3)
        elif isinstance(A, RadonOperator):
            single = replace(batch, measurement=y[0], operator=RadonOperator(A.grid, A.geometry))
            hidden = masks = held_out_split(single, fraction, generator)[1]
        else:
            raise TypeError(f"hide: operator is {type(A).__name__}, expected CartesianMRI or RadonOperator")
    except ValueError as error:
        raise DataError(f"{batch.meta[0].volume}: {error}") from None
    return replace(batch, operator=A.restrict(~masks), measurement=y * ~hidden), hidden


def _distance(found: Tensor, wanted: Tensor, n_axes: int) -> Tensor:
    """Normalized l1-l2 distance over the last axes, mean over the batch; 0 for a slice that is wanted empty."""
    axes = _last(n_axes)

    def relative(order: int) -> Tensor:
        size = torch.linalg.vector_norm(wanted, order, axes)
        distance: Tensor = torch.linalg.vector_norm(found - wanted, order, axes) * reciprocal(size)
        return distance

    return (relative(2) + relative(1)).mean()


def _last(n_axes: int) -> tuple[int, ...]:
    return tuple(range(-n_axes, 0))


def _l1(who: str, network: nn.Module, state: State) -> Tensor:
    total: Tensor = torch.stack([(w - g).abs().sum() for w, g in _pairs(who, network, state)]).sum()
    return total


def _pairs(who: str, network: nn.Module, reference: State) -> list[tuple[nn.Parameter, Tensor]]:
    """Each parameter with its reference; every name must exist, and something must be able to move."""
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


def _reference(who: str, state: State) -> State:
    if not state:
        raise ValueError(f"{who}: the reference is empty, expected at least one parameter")
    return _copy(state)


def _copy(state: State) -> State:
    """Copies: a reference that shares memory with the network would follow it, and the penalty would stay zero."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _require_positive(who: str, what: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{who}: {what} is {value}, expected a positive number; leave the penalty out for none")


def _require_fraction(who: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{who}: fraction is {value}, expected a number between 0 and 1")


def _require_loss(who: str, loss: str) -> None:
    if loss not in LOSSES:
        raise ValueError(f"{who}: loss is {loss!r}, expected one of {', '.join(LOSSES)}")


#: Task terms by the name used in recipes.
OBJECTIVES: dict[str, type[TaskTerm]] = {
    "supervised": Supervised,
    "self_supervised": SelfSupervised,
    "two_views": TwoViews,
    "mutual": MutualDistillation,
}
#: Penalties by the name used in recipes.
PENALTIES: dict[str, type[Penalty]] = {
    "proximal": Proximal,
    "contrastive": ContrastiveRatio,
    "moments": MomentAlignment,
    "residual": MeasurementResidual,
    "distillation": Distillation,
}
