"""Private training: clipped gradients patient by patient, noise, draws of patients."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from recon import (
    MODALITIES,
    ConvRegularizer,
    DataError,
    GradientStep,
    PatientLearner,
    PatientNoise,
    Sample,
    UNetRegularizer,
    UnrolledNetwork,
    apply,
    collate,
    train_locally,
    train_privately,
)
from recon.training.losses import LOSSES
from recon.training.objectives import SelfSupervised, Supervised
from recon.training.penalties import Proximal
from recon.training.private_training import secret_normal, secret_uniform

PATIENTS = {"ann": [0, 1, 2], "bob": [3], "cid": [4, 5]}


def samples_of(modality: str) -> list[Sample]:
    return [MODALITIES[modality].example(seed) for seed in range(6)]


def network_of(regularizer: str) -> UnrolledNetwork:
    torch.manual_seed(1)
    parts = {"unet": lambda: UNetRegularizer(4, 1), "cnn": lambda: ConvRegularizer(4, 3)}
    network = UnrolledNetwork(2, GradientStep, parts[regularizer])
    for parameter in network.parameters():  # last layers begin at zero
        nn.init.normal_(parameter, std=0.2)
    return network


def learner_of(network: nn.Module, samples: list[Sample], noise: PatientNoise, **changes: object) -> PatientLearner:
    arguments = {"patients": PATIENTS, "batch_size": 2, "seed": 3, "objective": Supervised("mse")} | changes
    return PatientLearner(network, samples, noise=noise, **arguments)  # type: ignore[arg-type]


def gradient(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.double().reshape(-1) for p in network.parameters() if p.requires_grad])


def oracle(network: nn.Module, samples: list[Sample], indices: list[int]) -> torch.Tensor:
    """Gradient of a patient's mean loss by autograd, slice by slice."""
    trained = [p for p in network.parameters() if p.requires_grad]
    total = 0.0
    for index in indices:
        batch = collate([samples[index]])
        loss = LOSSES["mse"](batch.magnitude(apply(network, batch)), batch.target())
        total = total + torch.cat([g.double().reshape(-1) for g in torch.autograd.grad(loss, trained)]) / len(indices)
    return total


@pytest.mark.parametrize("regularizer", ["unet", "cnn"])
@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_the_clipped_gradient_of_each_patient_is_that_of_autograd(modality: str, regularizer: str) -> None:
    samples, network = samples_of(modality), network_of(regularizer)
    each = {name: oracle(network, samples, indices) for name, indices in PATIENTS.items()}
    norms = sorted(float(g.norm()) for g in each.values())
    clip = (norms[0] + norms[1]) / 2  # one patient is below it, two are shortened
    expected = sum(g * min(1.0, clip / float(g.norm())) for g in each.values()) / 3
    learner_of(network, samples, PatientNoise(clip, 0.0, 3)).add_gradient(1, 0)
    found = gradient(network)
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert float((found - sum(each.values()) / 3).norm() / expected.norm()) > 1e-3  # clipping did something


def test_channels_last_changes_nothing() -> None:
    samples, network = samples_of("mri"), network_of("unet")
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=layout)
        network.zero_grad()
        learner_of(network, samples, PatientNoise(1e-3, 0.0, 3)).add_gradient(1, 0)
        found.append(gradient(network))
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-5


def test_frozen_parameters_stay_and_do_not_count_in_the_norm() -> None:
    samples, network = samples_of("mri"), network_of("cnn")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("regularizers.0" in name)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    g = oracle(network, samples, [3])
    learner_of(network, samples, PatientNoise(float(g.norm()) / 2, 0.0, 1), patients={"bob": [3]}).add_gradient(1, 0)
    assert float((gradient(network) - g / 2).norm() / g.norm()) < 1e-6
    train_privately(
        network,
        samples,
        PATIENTS,
        PatientNoise(1.0, 1.0, 2),
        steps=1,
        batch_size=1,
        learning_rate=1e-2,
        optimizer="sgd",
    )
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in network.named_parameters() if p.requires_grad}


def test_the_sum_is_divided_by_the_expected_number_of_patients() -> None:
    """Also where more are drawn: the number of those who were is not public."""
    samples, network = samples_of("mri"), network_of("cnn")
    learner = learner_of(network, samples, PatientNoise(1e9, 0.0, 1))
    learner._drawn = lambda: ["ann", "bob", "cid"]  # type: ignore[method-assign]
    learner.add_gradient(1, 0)
    expected = sum(oracle(network, samples, indices) for indices in PATIENTS.values())
    assert float((gradient(network) - expected).norm() / expected.norm()) < 1e-6


def test_noise_has_the_stated_size_and_differs_between_runs() -> None:
    samples, network = samples_of("mri"), network_of("unet")
    noise, found = PatientNoise(0.5, 3.0, 1), []
    for _ in range(2):
        network.zero_grad()
        learner = learner_of(network, samples, noise)
        learner._drawn = list  # type: ignore[method-assign]  # nobody: a step of noise alone
        assert math.isnan(learner.add_gradient(1, 0))
        found.append(gradient(network))
    count = len(found[0])
    assert count > 1000
    assert not torch.equal(*found)
    for drawn in found:
        assert float(drawn.std()) == pytest.approx(1.5, rel=5 / math.sqrt(2 * count))
        assert abs(float(drawn.mean())) < 5 * 1.5 / math.sqrt(count)
    assert abs(float((found[0] * found[1]).mean())) < 5 * 1.5**2 / math.sqrt(count)


@pytest.mark.parametrize("sites", [1, 4])
def test_the_parts_of_sites_add_up_to_all_of_the_noise(sites: int) -> None:
    """That of one has its variance divided by their number."""
    samples, network = samples_of("mri"), network_of("unet")
    noise, found = PatientNoise(0.5, 3.0, 2), []
    for _ in range(sites):
        network.zero_grad()
        learner = learner_of(network, samples, noise.part_of(sites), collect=True)
        learner._drawn = list  # type: ignore[method-assign]
        learner.add_gradient(1, 0)
        found.append(torch.cat([tensor.reshape(-1) for tensor in learner.collected.values()]))
        assert found[-1].dtype == torch.float64
        torch.testing.assert_close(found[-1], gradient(network), atol=0, rtol=1e-7)
    spread, bound = 3.0 * 0.5 / 2, 5 / math.sqrt(2 * len(found[0]))
    assert bound < 0.12
    assert float(sum(found).std()) == pytest.approx(spread, rel=bound)  # type: ignore[attr-defined]
    assert all(float(part.std()) == pytest.approx(spread / math.sqrt(sites), rel=bound) for part in found)


def test_collected_gradients_are_a_mean_over_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientLearner, "_drawn", lambda self: [])
    monkeypatch.setattr("recon.training.private_training.secret_normal", torch.ones)
    network, noise = network_of("cnn"), PatientNoise(0.5, 3.0, 2)
    how = {"steps": 3, "batch_size": 1, "learning_rate": 1e-2, "optimizer": "sgd"}
    for collect in (True, False):
        result = train_privately(network, samples_of("mri"), PATIENTS, noise, collect_gradients=collect, **how)  # type: ignore[arg-type]
        names = {name for name, _ in network.named_parameters()} if collect else set()
        assert result.mean_gradient.keys() == names
        assert all(torch.equal(g, torch.full_like(g, 0.75)) for g in result.mean_gradient.values())


def test_an_empty_draw_is_a_step_of_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, network = samples_of("mri"), network_of("cnn")
    before = [p.detach().clone() for p in network.parameters()]
    monkeypatch.setattr(PatientLearner, "_drawn", lambda self: [])
    noise = PatientNoise(1.0, 1.0, 1)
    result = train_privately(
        network, samples, PATIENTS, noise, steps=1, batch_size=1, learning_rate=1e-2, optimizer="sgd"
    )
    assert math.isnan(result.losses[0])
    assert not any(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


def test_patients_are_drawn_with_the_stated_probability_and_independently() -> None:
    samples, network = samples_of("mri"), network_of("cnn")
    patients = {f"p{number:02d}": [number % 6] for number in range(40)}
    learner = learner_of(network, samples, PatientNoise(1.0, 1.0, 10), patients=patients)
    draws = [learner._drawn() for _ in range(2000)]
    assert learner.probability == 0.25
    counts = [sum(name in drawn for drawn in draws) for name in patients]
    spread = math.sqrt(2000 * 0.25 * 0.75)
    assert all(abs(count - 500) < 5 * spread for count in counts)
    sizes = torch.tensor([float(len(drawn)) for drawn in draws])
    # Poisson sampling: the number of drawn patients is binomial, not fixed.
    assert float(sizes.mean()) == pytest.approx(10, abs=5 * math.sqrt(7.5 / 2000))
    assert float(sizes.var()) == pytest.approx(7.5, rel=0.2)


def test_the_gradient_of_a_patient_does_not_depend_on_who_else_is_drawn() -> None:
    """Draws of the objective and of slices depend on the patient's name; else one patient would change another's."""
    samples, network = samples_of("mri"), network_of("cnn")
    found = []
    for drawn in (["cid"], ["ann", "cid"], ["ann"]):
        learner = learner_of(network, samples, PatientNoise(1e9, 0.0, 1, 1), objective=SelfSupervised(0.5))
        learner._drawn = lambda drawn=drawn: drawn  # type: ignore[method-assign, misc]
        network.zero_grad()
        learner.add_gradient(1, 0)
        found.append(gradient(network))
    alone, both, other = found
    assert float((both - other - alone).norm() / alone.norm()) < 1e-6
    assert float((alone - other).norm() / alone.norm()) > 1e-2


def test_slices_of_a_patient_are_drawn_anew_in_every_step() -> None:
    samples, network = samples_of("mri"), network_of("cnn")
    learner = learner_of(network, samples, PatientNoise(1e9, 0.0, 1, 1), patients={"ann": [0, 1, 2]})
    found = []
    for step in range(6):
        network.zero_grad()
        learner.add_gradient(1, step)
        found.append(gradient(network))
    single = [oracle(network, samples, [index]) for index in range(3)]
    chosen = [[i for i in range(3) if float((g - single[i]).norm() / g.norm()) < 1e-5] for g in found]
    assert all(len(which) == 1 for which in chosen) and len({which[0] for which in chosen}) > 1


def test_penalties_are_clipped_with_the_gradient() -> None:
    samples, network = samples_of("mri"), network_of("cnn")
    reference = {name: p.detach() + 1.0 for name, p in network.named_parameters()}
    noise = PatientNoise(1e-2, 0.0, 1)
    learner = learner_of(network, samples, noise, patients={"bob": [3]}, penalties=[Proximal(10.0, reference)])
    learner.add_gradient(1, 0)
    assert float(gradient(network).norm()) == pytest.approx(1e-2, rel=1e-5)


def test_without_noise_and_clipping_it_is_gradient_descent() -> None:
    samples = samples_of("mri")[:1]
    ordinary, private = network_of("cnn"), network_of("cnn")
    how = {"steps": 3, "batch_size": 1, "learning_rate": 1e-2, "objective": Supervised("mse"), "optimizer": "sgd"}
    plain = train_locally(ordinary, samples, **how)  # type: ignore[arg-type]
    noise = PatientNoise(1e9, 0.0, 1)
    result = train_privately(private, samples, {"ann": [0]}, noise, **how)  # type: ignore[arg-type]
    assert result.losses == pytest.approx(plain.losses, rel=1e-6)
    for a, b in zip(ordinary.parameters(), private.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        ({"clip": 0.0}, "clip is 0.0"),
        ({"noise_multiplier": math.inf}, "noise_multiplier is inf"),
        ({"patients_per_step": 0}, "patients_per_step is 0"),
        ({"slices_per_patient": 0}, "slices_per_patient is 0"),
        ({"patients_per_step": 4}, "found 3 patients, expected at least patients_per_step, 4"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(noise: dict[str, float], text: str) -> None:
    settings = {"clip": 1.0, "noise_multiplier": 1.0, "patients_per_step": 2} | noise
    with pytest.raises(ValueError, match=text):
        learner_of(network_of("cnn"), [], PatientNoise(**settings))  # type: ignore[arg-type]


def test_a_network_with_state_beside_its_parameters_is_refused() -> None:
    network = nn.Sequential(network_of("cnn"), nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match=r"1\.num_batches_tracked beside the parameters"):
        learner_of(network, [], PatientNoise(1.0, 1.0, 1))


def test_a_gradient_that_is_not_finite_ends_the_training() -> None:
    samples, network = samples_of("mri"), network_of("cnn")
    learner = learner_of(network, samples, PatientNoise(1.0, 1.0, 3))

    def broken(parameters: list[nn.Parameter], name: str, step: int) -> tuple[float, str]:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, math.nan)
        return 0.0, "ann.h5"

    learner._patient_gradient = broken  # type: ignore[assignment, method-assign]
    with pytest.raises(DataError, match=r"ann\.h5: the gradient of its patient is not finite at step 7"):
        learner.add_gradient(1, 7)


def test_secret_numbers_are_uniform_and_normal() -> None:
    uniform = secret_uniform(200_000)
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 200_000))
    numbers = secret_normal((3, 66_667))
    assert numbers.shape == (3, 66_667) and numbers.dtype == torch.float64
    ordered = numbers.reshape(-1).sort().values
    empirical = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    distance = (torch.special.ndtr(ordered) - empirical).abs().max()
    assert float(distance) < 2.2 / math.sqrt(len(ordered))  # Kolmogorov and Smirnov, p = 1e-4


class Remembering(nn.Module):
    """Keeps a mean of what it has seen in a buffer that is not saved."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, measurement: torch.Tensor, operator: Any) -> torch.Tensor:
        self.mean.add_(measurement.abs().mean().detach())
        found: torch.Tensor = self.network(measurement, operator)
        return found


def test_a_network_that_remembers_patients_is_refused() -> None:
    learner = learner_of(Remembering(network_of("cnn")), samples_of("mri"), PatientNoise(1.0, 1.0, 3))
    with pytest.raises(ValueError, match="found mean changed by the forward pass, expected none"):
        learner.add_gradient(1, 0)
