"""Training with differential privacy of patients: gradients clipped patient by patient, with secret noise."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Sample, Samples, VolumeSlices, batches, generator_for, seed_from
from ..errors import DataError
from ..method import to_device_of
from .local_training import Learner, TrainingResult, train_in_turns
from .objectives import Supervised, TaskTerm
from .optimizers import Stepper
from .penalty import Penalty


@dataclass(frozen=True)
class PatientNoise:
    r"""How a step becomes private, where one patient is one unit (DP-SGD [A]_).

    Each patient is drawn with the same probability, independently of the others (Poisson sampling). The gradient of a
    patient is that of the mean loss over its slices, shortened to the norm ``clip`` over all trained parameters. Their
    sum gets Gaussian noise of standard deviation ``noise_multiplier * clip`` and is divided by ``patients_per_step``,
    whatever number was drawn.

    Parameters
    ----------
    clip
        Largest L2 norm of the gradient of a patient.
    noise_multiplier
        Standard deviation of the noise in units of ``clip``; 0 only to study the clipping alone, without any guarantee.
    patients_per_step
        Expected number of patients in a step.
    slices_per_patient
        Slices of a patient that are drawn for a step; None: all.

    References
    ----------
    .. [A] Abadi et al., Deep learning with differential privacy, CCS 2016, algorithm 1.
    """

    clip: float
    noise_multiplier: float
    patients_per_step: int
    slices_per_patient: int | None = None

    def __post_init__(self) -> None:
        least = 1 if self.slices_per_patient is None else self.slices_per_patient
        for name, value, fits, expected in (
            ("clip", self.clip, 0 < self.clip < math.inf, "a positive finite number"),
            ("noise_multiplier", self.noise_multiplier, 0 <= self.noise_multiplier < math.inf, "0 or a finite number"),
            ("patients_per_step", self.patients_per_step, self.patients_per_step >= 1, "at least 1"),
            ("slices_per_patient", least, least >= 1, "at least 1"),
        ):
            if not fits:
                raise ValueError(f"PatientNoise: {name} is {value}, expected {expected}")

    def probability(self, patients: int) -> float:
        """Probability of each patient in a step, of a site with so many.

        Raises
        ------
        ValueError
            If a step needs more patients than there are.
        """
        if not self.patients_per_step <= patients:
            expected = f"at least patients_per_step, {self.patients_per_step}"
            raise ValueError(f"PatientNoise: found {patients} patients, expected {expected}")
        return self.patients_per_step / patients

    def part_of(self, sites: int) -> "PatientNoise":
        """The noise of one site, if the sum over so many sites shall have this noise: variances of the parts add up."""
        return replace(self, noise_multiplier=self.noise_multiplier / math.sqrt(sites))


@dataclass(frozen=True)
class _Chosen:
    """Some of the samples, each read when it is needed."""

    samples: Samples
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Sample:
        return self.samples[self.indices[number]]


class PatientLearner(Learner):
    """A network whose gradients are private: see :class:`PatientNoise`.

    Patients and noise are drawn from the generator of the operating system. The seed of a run is known to all parties:
    with it they could subtract the noise, and know who was drawn. So a training cannot be repeated bit by bit.
    All other draws depend on the seed, the step and the name of the patient alone, never on other patients.

    Parameters
    ----------
    patients
        Indices of the slices of each patient, by name.
    batch_size
        Slices of a patient in memory at once; the gradient does not depend on it.
    collect
        Whether :attr:`collected` sums the gradients.

    Raises
    ------
    ValueError
        If patients are too few, one has no slice, or the network has state beside its parameters.
    """

    tells_loss = False

    def __init__(
        self,
        network: nn.Module,
        samples: Samples,
        patients: Mapping[str, Sequence[int]],
        noise: PatientNoise,
        *,
        batch_size: int,
        seed: int,
        objective: TaskTerm,
        penalties: Sequence[Penalty] = (),
        collect: bool = False,
    ) -> None:
        super().__init__(network, samples, batch_size=batch_size, seed=seed, objective=objective, penalties=penalties)
        if empty := [name for name, indices in patients.items() if not indices]:
            raise ValueError(f"PatientLearner: found no slice of patient {empty[0]!r}, expected at least one")
        state = sorted(
            network.state_dict().keys() - {name for name, _ in network.named_parameters(remove_duplicate=False)}
        )
        if state:
            why = "it may hold data of patients without noise; use InstanceNorm or GroupNorm for BatchNorm"
            raise ValueError(f"PatientLearner: found {state[0]} beside the parameters, expected none: {why}")
        self.samples, self.patients, self.noise = samples, dict(sorted(patients.items())), noise
        self.batch_size, self.seed = batch_size, seed
        self.probability, self.collect = noise.probability(len(patients)), collect
        #: Sum of the noisy gradients so far by name, float64: those of the parameters are rounded to their dtype.
        self.collected: dict[str, Tensor] = {}

    def add_gradient(self, count: int, step: int) -> float:
        """Add the noisy mean gradient of the drawn patients, divided by ``count``; return their mean loss.

        The loss is that of the patients without noise: it must not leave the site. NaN if nobody was drawn.

        Raises
        ------
        DataError
            If a sample lacks what the objective needs, or loss or gradient are not finite at this ``step``.
        """
        named = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        parameters = list(named.values())
        before = [parameter.grad for parameter in parameters]
        sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
        if isinstance(self.samples, VolumeSlices):
            self.samples.epoch = self.seed + step  # another draw
        losses, state = [], self._versions()
        with torch.random.fork_rng(devices=[]):
            for name in self._drawn():
                loss, volume = self._patient_gradient(parameters, name, step)
                losses.append(loss)
                self._add_clipped(parameters, sums, volume, step)
        if changed := [key for key, version in self._versions().items() if state.get(key) != version]:
            why = "it would carry one patient into the gradient of another"
            raise ValueError(f"PatientLearner: found {changed[0]} changed by the forward pass, expected none: {why}")
        spread = self.noise.noise_multiplier * self.noise.clip
        for (name, parameter), earlier, total in zip(named.items(), before, sums, strict=True):
            noisy = total + spread * secret_normal(total.shape).to(total.device)
            exact = noisy / (self.noise.patients_per_step * count)
            if self.collect:
                self.collected[name] = exact + self.collected.get(name, 0.0)
            mean = exact.to(parameter.dtype)
            parameter.grad = mean if earlier is None else earlier + mean
        return sum(losses) / len(losses) if losses else math.nan

    def _versions(self) -> dict[str, int]:
        """How often each parameter and each buffer, also one that is not saved, was changed in place."""
        found: list[tuple[str, Tensor]] = [*self.network.named_parameters(), *self.network.named_buffers()]
        return {name: tensor._version for name, tensor in found}

    def _drawn(self) -> list[str]:
        """Each patient with the same probability, by secret numbers."""
        return [
            name
            for name, number in zip(self.patients, secret_uniform(len(self.patients)).tolist(), strict=True)
            if number < self.probability
        ]

    def _patient_gradient(self, parameters: Sequence[nn.Parameter], name: str, step: int) -> tuple[float, str]:
        """Write the gradient of a patient's mean loss to the parameters; return the loss and the name of its file."""
        for parameter in parameters:
            parameter.grad = None
        generator = generator_for("patient", self.seed, step, name)
        torch.manual_seed(seed_from(repr(("layers", self.seed, step, name))))  # for layers such as dropout
        indices = self.patients[name]
        most = self.noise.slices_per_patient or len(indices)
        if most < len(indices):
            order = torch.randperm(len(indices), generator=generator)[:most].tolist()
            indices = [indices[number] for number in order]
        total, volume = 0.0, ""
        for batch in batches(_Chosen(self.samples, indices), self.batch_size):
            loss, number = self.loss_of(to_device_of(self.network, batch), generator, step)
            part = len(batch.meta) / len(indices)
            (loss * part).backward()
            total, volume = total + number * part, batch.meta[0].volume
        return total, volume

    def _add_clipped(self, parameters: Sequence[nn.Parameter], sums: Sequence[Tensor], volume: str, step: int) -> None:
        """Add the gradient of a patient, shortened to the largest norm."""
        squares = [0.0 if p.grad is None else float(p.grad.double().square().sum()) for p in parameters]
        norm = math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.inf
        if not norm < math.inf:
            advice = "check this file, or lower the learning rate"
            raise DataError(f"{volume}: the gradient of its patient is not finite at step {step}; {advice}")
        factor = 1.0 if norm <= self.noise.clip else self.noise.clip / norm
        for parameter, total in zip(parameters, sums, strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad, alpha=factor)


def train_privately(
    network: nn.Module,
    samples: Samples,
    patients: Mapping[str, Sequence[int]],
    noise: PatientNoise,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    optimizer_state: Mapping[str, Tensor] | None = None,
    objective: TaskTerm | None = None,
    penalties: Sequence[Penalty] = (),
    optimizer: str = "adam",
    momentum: float = 0.0,
    collect_gradients: bool = False,
) -> TrainingResult:
    """Make ``steps`` private optimizer steps in place; all parameters that are not frozen get noise.

    Parameters
    ----------
    network, samples, patients, noise, batch_size, seed, penalties
        As for :class:`PatientLearner`.
    steps, learning_rate, optimizer_state, objective, optimizer, momentum
        As for :func:`recon.train_locally`.
    collect_gradients
        Whether the result has the mean of the noisy gradients over the steps, float64.

    Returns
    -------
        The losses in it are without noise and must not leave the site.

    Raises
    ------
    DataError
        As for :func:`recon.train_locally`.
    ValueError
        If patients are too few, the network has state beside its parameters, or the optimizer state does not fit.
    """
    task = objective or Supervised()
    learner = PatientLearner(
        network,
        samples,
        patients,
        noise,
        batch_size=batch_size,
        seed=seed,
        objective=task,
        penalties=penalties,
        collect=collect_gradients,
    )
    named = dict(network.named_parameters())
    stepper = Stepper(named, optimizer, learning_rate, momentum, moments=optimizer_state or {})
    losses = train_in_turns(stepper, [[learner]] * steps)
    return TrainingResult(losses, stepper.moments(), {name: g / steps for name, g in learner.collected.items()})


def secret_uniform(count: int) -> Tensor:
    """Numbers in [0, 1) with 53 bits, float64, from the generator of the operating system."""
    words = np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(11)
    return torch.from_numpy(words.astype(np.int64)).double() * 2.0**-53


def secret_normal(shape: Sequence[int]) -> Tensor:
    """Standard normal numbers in float64, from the generator of the operating system (Box and Muller)."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    # 1 - u is in (0, 1]: the logarithm is finite.
    radius = torch.sqrt(-2 * torch.log1p(-secret_uniform(pairs)))
    angle = 2 * math.pi * secret_uniform(pairs)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count].reshape(tuple(shape))
