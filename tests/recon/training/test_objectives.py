"""Tasks and penalties on every modality: values, gradients, the data that they use, and errors."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from physics import CartesianMRI, FanBeam, ImageGrid, LinearOperator, RadonOperator, Sampling, evenly_spaced
from recon.data.hold_out import held_out_split
from recon.data.sample import Sample, SampleMeta, collate
from recon.data.task_labels import TaskLabels
from recon.errors import DataError
from recon.method import apply
from recon.networks.data_consistency import GradientStep, NormalizedStep
from recon.networks.regularizers import ConvRegularizer, UNetRegularizer
from recon.networks.unrolled import UnrolledNetwork
from recon.networks.wrappers import TwinNetwork
from recon.tasks import TASK_LOSSES, TaskNetwork, UNetHead, head_input, task_input
from recon.training.feature_moments import MomentAlignment, measure_moments, moment_layout, watching
from recon.training.losses import LOSSES
from recon.training.objectives import OBJECTIVES, Downstream, MutualDistillation, SelfSupervised, Supervised, TwoViews
from recon.training.penalties import ContrastiveRatio, Distillation, MeasurementResidual, Proximal
from recon.training.penalty import Penalty, RoundStart, State

GRID = ImageGrid((16, 16), 12.0)
SCAN = FanBeam(evenly_spaced(15, 2 * torch.pi / 15), 24, 16.0, 400.0, 640.0)
BOTTLENECK = "regularizers.*.down.0"


def image_of(seed: int) -> Tensor:
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    return (xx**2 + yy**2 < (0.5 + 0.1 * seed) ** 2) * (0.7 + 0.3 * torch.cos(5 * xx + seed))


def mri_sample(seed: int = 0, mask: Tensor | None = None) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 16, 16, dtype=torch.complex64, generator=generator)
    if mask is None:
        mask = torch.rand(16, generator=generator) < 0.6
        mask[6:10] = True
        mask[[1, 13]], mask[[4, 11]] = True, False
    A = CartesianMRI(maps / maps.abs().square().sum(0).sqrt(), mask)
    return sample_of(image_of(seed) * torch.exp(1j * image_of(seed + 1)), A, "coil_combined", seed)


def ct_sample(seed: int = 0) -> Sample:
    weights = 0.5 + torch.rand(SCAN.shape, generator=torch.Generator().manual_seed(seed))
    return sample_of(image_of(seed), RadonOperator(GRID, SCAN, weights), "attenuation", seed)


def sample_of(image: Tensor, A: LinearOperator, kind: str, seed: int) -> Sample:
    meta = SampleMeta("north", f"volume_{seed}", 0, 2.0, kind)
    return Sample(A(image), A, torch.tensor(0.01), image, torch.tensor(1.0), None, (meta,))


#: A sample of every modality from a seed.
SAMPLES: dict[str, Callable[[int], Sample]] = {"mri": mri_sample, "ct": ct_sample}


def samples_of(modality: str, count: int = 2) -> list[Sample]:
    return [SAMPLES[modality](seed) for seed in range(count)]


def batch_of(modality: str) -> Sample:
    return collate(samples_of(modality))


def network_of(modality: str, seed: int = 0) -> UnrolledNetwork:
    def regularizer() -> UNetRegularizer:
        made = UNetRegularizer(2, 1)
        nn.init.normal_(made.last.weight, std=0.1)
        return made

    torch.manual_seed(seed)
    # A whole normalized step undoes any constant that was added, and with it the gradient of a bias.
    return UnrolledNetwork(2, GradientStep if modality == "mri" else lambda: NormalizedStep(0.7), regularizer)


def twin_of(modality: str) -> TwinNetwork:
    return TwinNetwork(network_of(modality, 1), network_of(modality, 2))


def labelled(batch: Sample) -> Sample:
    return replace(batch, label=(batch.target() > 0.7).long())


def with_head(modality: str) -> TaskNetwork:
    reconstruction = network_of(modality)
    return TaskNetwork(reconstruction, UNetHead(2, 4, 1), TaskLabels("segmentation", ("bright",)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state_of(network: nn.Module, offset: float = 0.0) -> State:
    return {name: p.detach() + offset for name, p in network.named_parameters()}


def gradient(network: nn.Module, value: Tensor) -> Tensor:
    grads = torch.autograd.grad(value, list(network.parameters()), allow_unused=True, retain_graph=True)
    zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(network.parameters(), grads, strict=True)]
    return torch.cat([g.flatten() for g in zeros])


class Fixed(nn.Module):
    """Returns given images, one per call, then the last again; records its arguments."""

    def __init__(self, *images: Tensor) -> None:
        super().__init__()
        self.images = list(images)
        self.calls: list[tuple[Tensor, LinearOperator]] = []

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        self.calls.append((y, A))
        return self.images[min(len(self.calls), len(self.images)) - 1]


# --- tasks ---


@pytest.mark.parametrize("modality", SAMPLES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_task_trains_every_parameter_and_depends_on_its_generator_alone(name: str, modality: str) -> None:
    batch = batch_of(modality)
    network: nn.Module = twin_of(modality) if name == "mutual" else network_of(modality)
    if name == "downstream":
        batch, network = labelled(batch), with_head(modality)
    if name == "masked_images":
        network = TaskNetwork(network, UNetHead(1, 4, 1), TaskLabels("segmentation", ()))
    values = []
    for _ in range(2):
        torch.manual_seed(len(values))  # global state must not matter
        value, image = OBJECTIVES[name]()(network, batch, generator(5))
        assert value.ndim == 0 and value.isfinite()
        assert batch.reference is not None
        assert image.shape == batch.reference.shape and image.dtype == batch.reference.dtype
        values.append(float(value.detach()))
    assert values[0] == values[1]
    value.backward()
    trained = network.head if isinstance(network, TaskNetwork) and name == "masked_images" else network
    assert [n for n, p in trained.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("modality", SAMPLES)
@pytest.mark.parametrize("task", [SelfSupervised(), TwoViews()])
def test_tasks_without_a_reference_do_not_look_at_it(task: SelfSupervised | TwoViews, modality: str) -> None:
    batch, network = batch_of(modality), network_of(modality)
    blind = replace(batch, reference=None)
    assert torch.equal(task(network, batch, generator())[0], task(network, blind, generator())[0])
    assert not torch.equal(task(network, blind, generator(0))[0], task(network, blind, generator(1))[0])
    with pytest.raises(DataError, match="volume_0: has no reference to train on"):
        Supervised()(network, blind, generator())


@pytest.mark.parametrize("modality", SAMPLES)
@pytest.mark.parametrize("task", [SelfSupervised(), TwoViews()])
def test_the_true_image_has_no_loss_and_no_gradient_that_is_not_finite(
    task: SelfSupervised | TwoViews, modality: str
) -> None:
    batch = batch_of(modality)
    assert batch.reference is not None
    truth = batch.reference.clone().requires_grad_()
    value, _ = task(Fixed(truth), batch, generator())
    assert float(value.detach()) == pytest.approx(0, abs=1e-5)
    value.backward()
    assert truth.grad is not None and truth.grad.isfinite().all()
    empty = replace(batch, measurement=torch.zeros_like(batch.measurement))
    nothing = torch.zeros_like(truth, requires_grad=True)
    value, _ = task(Fixed(nothing), empty, generator())
    value.backward()
    assert float(value.detach()) == 0 and nothing.grad is not None and nothing.grad.isfinite().all()


@pytest.mark.parametrize("modality", SAMPLES)
def test_self_supervision_scores_the_held_out_part(modality: str) -> None:
    batch, network = batch_of(modality), network_of(modality)
    _, held_out = held_out_split(batch, 0.4, generator(3))
    value, image = SelfSupervised(0.4)(network, batch, generator(3))
    other = replace(batch, measurement=torch.where(held_out, 3 * batch.measurement, batch.measurement))
    changed, same = SelfSupervised(0.4)(network, other, generator(3))
    assert torch.equal(image, same)
    assert float(changed.detach()) != pytest.approx(float(value.detach()), rel=1e-2)
    expected = 0.0
    for y, predicted, mask in zip(
        batch.measurement, batch.operator(image.detach()), held_out.expand_as(batch.measurement), strict=True
    ):
        u, v = y[mask].numpy(), predicted[mask].numpy()
        expected += abs(u - v).sum() / abs(u).sum() + ((abs(u - v) ** 2).sum() / (abs(u) ** 2).sum()) ** 0.5
    assert float(value.detach()) == pytest.approx(expected / 2, rel=1e-5)


def test_held_out_are_columns_outside_the_calibration_block_drawn_for_every_slice() -> None:
    samples = [mri_sample(), mri_sample()]
    batch = collate(samples)
    kept, held_out = held_out_split(batch, 0.4, generator())
    assert held_out.shape == (2, 1, 1, 16)
    assert not held_out[..., 6:10].any() and not torch.equal(held_out[0], held_out[1])
    assert isinstance(kept.operator, CartesianMRI) and isinstance(samples[0].operator, CartesianMRI)
    full = samples[0].operator.mask
    for mask, gone in zip(kept.operator.mask, held_out[:, 0], strict=True):
        assert torch.equal(mask | gone, full) and not (mask & gone).any()
    assert not (kept.measurement * held_out).any()
    plane = torch.rand(16, 16, generator=generator()) < 0.5
    plane[5:11, 5:11] = True
    _, points = held_out_split(collate([mri_sample(mask=plane)]), 0.4, generator())
    assert points.shape == (1, 1, 16, 16) and not points[..., 5:11, 5:11].any()


def test_held_out_in_ct_are_the_same_whole_views_of_every_slice() -> None:
    batch = batch_of("ct")
    kept, held_out = held_out_split(batch, 0.4, generator())
    assert held_out.shape == (15, 1) and int(held_out.sum()) == 6
    assert isinstance(kept.operator, RadonOperator) and kept.operator.ray_weights is not None
    assert torch.equal((kept.operator.ray_weights > 0).all(-1), (~held_out[:, 0]).expand(2, 15))
    assert not (kept.measurement * held_out).any()
    assert isinstance(batch.operator, RadonOperator)
    unweighted = replace(batch, operator=RadonOperator(GRID, SCAN))
    assert torch.equal(held_out_split(unweighted, 0.4, generator())[1], held_out)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    sample = mri_sample()
    with pytest.raises(ValueError, match="fraction is 1"):
        held_out_split(collate([sample]), 1, generator())
    with pytest.raises(DataError, match=r"volume_0: .*outside the calibration block"):
        held_out_split(collate([mri_sample(mask=torch.ones(16, dtype=torch.bool))]), 0.4, generator())
    bare = replace(collate([sample]), operator=Sampling(torch.ones(2, 16, 16, dtype=torch.bool), (2, 16, 16)))
    with pytest.raises(TypeError, match="operator is Sampling"):
        held_out_split(bare, 0.4, generator())


@pytest.mark.parametrize("modality", SAMPLES)
def test_two_views_fit_all_that_was_measured_and_approach_each_other(modality: str) -> None:
    batch = batch_of(modality)
    assert batch.reference is not None
    a, b = (torch.tensor(factor, requires_grad=True) for factor in (0.9, 1.5))
    network = Fixed(a * batch.reference, b * batch.reference)
    value, image = TwoViews(0.4, weight=3.0)(network, batch, generator())
    (y1, A1), (y2, A2) = network.calls
    assert not torch.equal(y1, y2) and A1 is not A2
    assert torch.allclose(image, 1.2 * batch.reference, atol=1e-5)
    # d(a x, b x) is 2 |a - b| / b, and its slope is that of the numerator: the other image is a constant.
    fit, pull = 0.2 + 1.0, 2 * 0.6 / 1.5 + 2 * 0.6 / 0.9
    assert float(value.detach()) == pytest.approx((fit + 3 * pull) / 2, rel=1e-4)
    slopes = [float(slope) for slope in torch.autograd.grad(value, (a, b))]
    assert slopes == pytest.approx([(-2 - 3 * 2 / 1.5) / 2, (2 + 3 * 2 / 0.9) / 2], rel=1e-4)


@pytest.mark.parametrize("modality", SAMPLES)
def test_each_twin_learns_from_the_reference_and_the_others_detached_image(modality: str) -> None:
    batch, twin = batch_of(modality), twin_of(modality)
    value, image = MutualDistillation("mse", 0.7)(twin, batch, generator(4))
    (private_loss, private), (shared_loss, shared) = (
        Supervised("mse")(network, batch, generator(4)) for network in (twin.private, twin.shared)
    )
    assert torch.equal(image, private)
    magnitudes = [batch.magnitude(x) for x in (private, shared)]
    for network, own, mine, others in (
        (twin.private, private_loss, magnitudes[0], magnitudes[1]),
        (twin.shared, shared_loss, magnitudes[1], magnitudes[0]),
    ):
        expected = gradient(network, own + 0.7 * (mine - others.detach()).square().mean())
        torch.testing.assert_close(gradient(network, value), expected, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(expected, gradient(network, own), rtol=1e-2)


def test_mutual_distillation_needs_twins() -> None:
    with pytest.raises(TypeError, match="network is UnrolledNetwork, expected TwinNetwork"):
        MutualDistillation()(network_of("mri"), batch_of("mri"), generator())
    twin = twin_of("mri")
    y, A = batch_of("mri").measurement, batch_of("mri").operator
    assert torch.equal(twin(y, A), twin.private(y, A))
    assert {name.split(".")[0] for name, _ in twin.named_parameters()} == {"private", "shared"}


@pytest.mark.parametrize("modality", SAMPLES)
def test_a_head_learns_from_what_its_input_says_and_from_there_the_gradient_comes(modality: str) -> None:
    batch, network = labelled(batch_of(modality)), with_head(modality)
    loss = TASK_LOSSES["segmentation"]["focal"]
    seen = {
        "reference": head_input(batch.target()),
        "reconstruction": task_input(batch, apply(network, batch)),
        "end_to_end": task_input(batch, apply(network, batch)),
    }
    for name, images in seen.items():
        network.zero_grad()
        task = Downstream(task_loss="focal", input=name, reconstruction_weight=0.0)  # type: ignore[arg-type]
        value, image = task(network, batch, generator())
        assert torch.allclose(value, loss(network.head(images), batch.label))  # type: ignore[arg-type]
        assert torch.equal(image, batch.reference if name == "reference" else apply(network, batch))
        value.backward()
        trained = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        assert trained == ({"head", "reconstruction"} if name == "end_to_end" else {"head"})
        assert task.needs_reference == (name == "reference")
    both = Downstream(task_loss="focal", reconstruction_weight=2.0)(network, batch, generator())[0]
    distance = LOSSES["l1"](batch.magnitude(apply(network, batch)), batch.target())
    assert torch.allclose(both, value + 2 * distance)


def test_heads_refuse_scans_without_labels_or_references_and_networks_without_heads() -> None:
    batch, network = labelled(batch_of("mri")), with_head("mri")
    with pytest.raises(DataError, match="volume_0: has no label to train on"):
        Downstream()(network, replace(batch, label=None), generator())
    with pytest.raises(DataError, match="volume_0: has no reference to train on"):
        Downstream()(network, replace(batch, reference=None), generator())
    Downstream(input="reconstruction")(network, replace(batch, reference=None), generator())
    with pytest.raises(TypeError, match="network is UnrolledNetwork, expected TaskNetwork"):
        Downstream()(network_of("mri"), batch, generator())


# --- penalties ---


def penalty_of(name: str, network: nn.Module, modality: str) -> Penalty:
    """A penalty that is not zero on ``network``."""
    moments = measure_moments(network, samples_of(modality), BOTTLENECK) if name == "moments" else {}
    made: dict[str, Callable[[], Penalty]] = {
        "proximal": lambda: Proximal(0.1, state_of(network, 0.05)),
        "contrastive": lambda: ContrastiveRatio(0.1, state_of(network, 0.05), state_of(network, -0.02)),
        "moments": lambda: MomentAlignment(1.0, {name: 0.5 * value for name, value in moments.items()}, BOTTLENECK),
        "residual": lambda: MeasurementResidual(0.1),
        "distillation": lambda: Distillation(0.1, network_of(modality, 9)),
    }
    return made[name]()


@pytest.mark.parametrize("modality", SAMPLES)
@pytest.mark.parametrize("name", ["proximal", "contrastive", "moments", "residual", "distillation"])
def test_every_penalty_changes_the_gradient(name: str, modality: str) -> None:
    batch, network = batch_of(modality), network_of(modality)
    penalty = penalty_of(name, network, modality)
    with watching(network, [penalty]):
        value, image = Supervised()(network, batch, generator())
        added = penalty(network, batch, image)
    assert isinstance(added, Tensor) and added.ndim == 0 and float(added.detach()) > 0
    plain, penalized = gradient(network, value), gradient(network, value + added)
    assert penalized.isfinite().all()
    assert (penalized - plain).norm() > 1e-4 * plain.norm()
    before = float(added.detach())
    with torch.no_grad():  # and a step along it makes it smaller
        direction = gradient(network, added)
        for p, g in zip(network.parameters(), direction.split([p.numel() for p in network.parameters()]), strict=True):
            p -= (1e-3 / direction.norm() * g).reshape(p.shape)
    with watching(network, [penalty]):
        _, image = Supervised()(network, batch, generator())
        assert float(penalty(network, batch, image).detach()) < before


class _WithOption(Penalty):
    """A penalty with an option that sends nothing."""

    def __init__(self, weight: float, power: float) -> None:
        self.weight, self.power = weight, power

    @classmethod
    def for_round(cls, weight: float, at: RoundStart, power: float = 1.0) -> Penalty:
        return cls(weight, power)

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        return self.weight * image.abs().pow(self.power).mean()


def test_a_penalty_with_an_option_overrides_one_class_method() -> None:
    network, batch = network_of("mri"), batch_of("mri")
    at = RoundStart(network, state_of(network), {}, {}, 0)
    assert _WithOption.sends(network, power=2.0) == _WithOption.measure(network, [mri_sample()], power=2.0) == {}
    image = apply(network, batch).detach()
    value = _WithOption.for_round(3.0, at, power=2.0)(network, batch, image)
    assert float(value) == pytest.approx(3 * float(image.abs().square().mean()))


def line(*weights: float) -> nn.Linear:
    made = nn.Linear(len(weights), 1, bias=False, dtype=torch.float64)
    made.weight.data = torch.tensor([weights], dtype=torch.float64)
    return made


VOID = torch.zeros(())


def test_proximal_and_contrastive_are_their_formulas() -> None:
    network, batch = line(1.0, -2.0, 0.5), batch_of("ct")
    reference = {"weight": torch.tensor([[0.0, -1.0, 1.0]], dtype=torch.float64)}
    previous = {"weight": torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)}
    value = Proximal(0.3, reference)(network, batch, VOID)
    assert float(value.detach()) == pytest.approx(0.15 * (1 + 1 + 0.25))
    value.backward()
    assert network.weight.grad is not None
    torch.testing.assert_close(network.weight.grad, 0.3 * (network.weight.detach() - reference["weight"]))
    ratio = ContrastiveRatio(2.0, reference, previous)
    near, far = 2.5, 1 + 2 + 0.5
    value = ratio(network, batch, VOID)
    assert float(value.detach()) == pytest.approx(2 * near / far)
    slopes = torch.tensor([[1.0, -1.0, -1.0]]) / far - near / far**2 * torch.tensor([[-1.0, -1.0, 1.0]])
    torch.testing.assert_close(gradient(network, value), 2 * slopes.double()[0])


def test_contrastive_ratio_begins_in_the_second_round_and_is_finite_where_nothing_moved() -> None:
    network, batch = line(1.0, 2.0), batch_of("ct")
    assert ContrastiveRatio.for_round(100.0, RoundStart(network, state_of(network), {}, {}, 0)) is None
    for kind in (torch.float32, torch.float64):
        alone = network.to(kind)
        value = ContrastiveRatio(100.0, state_of(alone), state_of(alone))(alone, batch, VOID)
        assert float(value.detach()) == 0 and not gradient(alone, value).any()


@pytest.mark.parametrize("make", [lambda s: Proximal(0.1, s), lambda s: ContrastiveRatio(0.1, s, s)])
def test_a_reference_must_be_of_this_network(make: Callable[[State], Penalty]) -> None:
    network, batch = network_of("mri"), batch_of("mri")
    image = apply(network, batch)
    with pytest.raises(ValueError, match=r"the network has no parameter module\.x, it has consistency.0.log_step"):
        make(state_of(network) | {"module.x": torch.zeros(())})(network, batch, image)
    with pytest.raises(ValueError, match=r"the reference of consistency.0.log_step has shape \(3,\), expected \(\)"):
        make({"consistency.0.log_step": torch.zeros(3)})(network, batch, image)
    with pytest.raises(ValueError, match="the reference is empty"):
        make({})
    frozen = network_of("mri").requires_grad_(False)
    with pytest.raises(ValueError, match=r"all of consistency.0.log_step, .* are frozen"):
        make(state_of(frozen))(frozen, batch, image)


@pytest.mark.parametrize("make", [lambda s: Proximal(0.1, s), lambda s: ContrastiveRatio(0.1, s, state_of(MOVED))])
def test_a_reference_does_not_follow_the_network(make: Callable[[State], Penalty]) -> None:
    network = line(1.0, 2.0)
    penalty = make(dict(network.named_parameters()))
    with torch.no_grad():
        network.weight += 1
    assert float(penalty(network, batch_of("ct"), VOID).detach()) > 0


MOVED = line(5.0, 5.0)


def test_previous_states_hold_the_reference() -> None:
    network = network_of("mri")
    with pytest.raises(ValueError, match=r"the previous state lacks consistency\.0\.log_step"):
        ContrastiveRatio(1.0, state_of(network), {})


@pytest.mark.parametrize("modality", SAMPLES)
def test_measurement_residual_is_relative_per_slice(modality: str) -> None:
    batch = batch_of(modality)
    assert batch.reference is not None
    network, penalty = network_of(modality), MeasurementResidual(0.5)
    assert float(penalty(network, batch, batch.reference)) == pytest.approx(0, abs=1e-6)
    factors = torch.tensor([1.2, 0.0])[:, None, None]
    expected = 0.5 * (0.2**2 + 1) / 2
    assert float(penalty(network, batch, factors * batch.reference)) == pytest.approx(expected, rel=1e-4)
    louder = replace(batch, measurement=100 * batch.measurement)
    assert float(penalty(network, louder, 100 * factors * batch.reference)) == pytest.approx(expected, rel=1e-4)
    empty = replace(batch, measurement=0 * batch.measurement)
    assert float(penalty(network, empty, 0 * batch.reference)) == 0


@pytest.mark.parametrize("modality", SAMPLES)
def test_distillation_keeps_a_frozen_copy_of_its_teacher(modality: str) -> None:
    batch, teacher, student = batch_of(modality), network_of(modality, 1), network_of(modality, 2)
    penalty = Distillation(0.1, teacher)
    with torch.no_grad():
        images = [batch.magnitude(apply(network, batch)) for network in (student, teacher)]
        for p in teacher.parameters():
            p.zero_()
    image = apply(student, batch)
    value = penalty(student, batch, image)
    assert float(value.detach()) == pytest.approx(0.1 * float(LOSSES["mse"](*images)), rel=1e-4)
    value.backward()
    assert all(p.grad is None and not p.requires_grad for p in penalty.teacher.parameters())
    assert all(p.requires_grad for p in teacher.parameters())


# --- moments ---


class Features(nn.Module):
    """A network with one layer whose features can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
            self.layer.bias.copy_(torch.tensor([0.5, 0.0]))  # type: ignore[union-attr]

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        return self.layer(A.start(y)[:, None])[:, 0]


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_measured_moments_are_those_of_the_pixels() -> None:
    network, samples = Features(), samples_of("ct", 3)
    starts = torch.stack([sample.operator.start(sample.measurement) for sample in samples]).numpy()
    mean, std = starts.mean((1, 2)).mean(), starts.std((1, 2)).mean()
    found = measure_moments(network, samples, "layer")
    assert found.keys() == {"layer.mean", "layer.std"}
    torch.testing.assert_close(found["layer.mean"], torch.tensor([2 * mean + 0.5, -mean]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["layer.std"], torch.tensor([2 * std, std]), rtol=1e-4, atol=1e-5)
    assert hooks(network) == 0 and network.training


@pytest.mark.parametrize("modality", SAMPLES)
def test_alignment_is_zero_on_own_moments_and_its_formula_on_others(modality: str) -> None:
    network, batch = network_of(modality), batch_of(modality)
    own = measure_moments(network, samples_of(modality), BOTTLENECK)
    assert own.keys() == {f"regularizers.{i}.down.0.{moment}" for i in (0, 1) for moment in ("mean", "std")}
    zeros = moment_layout(network, BOTTLENECK)
    assert {name: (value.shape, value.dtype) for name, value in own.items()} == {
        name: (value.shape, value.dtype) for name, value in zeros.items()
    }
    for offset, expected in ((0.0, 0.0), (0.3, 2 * 0.3**2)):
        penalty = MomentAlignment(2.0, {name: value + offset for name, value in own.items()}, BOTTLENECK)
        with watching(network, [penalty]):
            image = apply(network, batch)
            with torch.no_grad():
                network(0 * batch.measurement, batch.operator)  # a validation in between does not count
            value = penalty(network, batch, image)
            assert float(value.detach()) == pytest.approx(expected, abs=1e-6)
            with pytest.raises(RuntimeError, match=r"regularizers.0.down.0 was not called"):
                penalty(network, batch, image)


def test_hooks_are_removed_after_errors() -> None:
    network, batch = network_of("ct"), batch_of("ct")
    penalty = penalty_of("moments", network, "ct")
    with pytest.raises(KeyError), watching(network, [penalty]):
        assert hooks(network) == 2
        raise KeyError
    assert hooks(network) == 0
    handle = network.regularizers[1].register_forward_pre_hook(lambda *_: [][0])
    with pytest.raises(IndexError):
        measure_moments(network, samples_of("ct"), BOTTLENECK)
    handle.remove()
    assert hooks(network) == 0 and network.training
    with pytest.raises(RuntimeError, match="outside `watch`"):
        penalty(network, batch, VOID)


def test_moments_that_do_not_fit_are_refused() -> None:
    network, samples = network_of("mri"), samples_of("mri")
    with pytest.raises(ValueError, match=r"no module matches 'encoder\.\*', expected some of consistency"):
        measure_moments(network, samples, "encoder.*")
    with (
        pytest.raises(ValueError, match="no module matches 'encoder'"),
        watching(network, [MomentAlignment(1.0, {}, "encoder")]),
    ):
        pass
    with pytest.raises(TypeError, match=r"regularizers.0 returns torch.complex64 \(1, 16, 16\), expected real"):
        measure_moments(network, samples, "regularizers.0")
    with pytest.raises(ValueError, match="regularizers matches 'regularizers' but is never called"):
        measure_moments(network, samples, "regularizers")
    with pytest.raises(ValueError, match=r"regularizers\.0\.film has no convolution"):
        moment_layout(network, "*.0.film")
    with pytest.raises(ValueError, match="no samples"):
        measure_moments(network, [], BOTTLENECK)
    own = measure_moments(network, samples, BOTTLENECK)
    own.pop("regularizers.0.down.0.std")
    with (
        pytest.raises(ValueError, match="the target has moments"),
        watching(network, [MomentAlignment(1.0, own, BOTTLENECK)]),
    ):
        pass
    narrow = {name: value[:1] for name, value in measure_moments(network, samples, BOTTLENECK).items()}
    penalty = MomentAlignment(1.0, narrow, BOTTLENECK)
    with watching(network, [penalty]), pytest.raises(ValueError, match="has 1 channels, expected 4"):
        penalty(network, batch_of("mri"), apply(network, batch_of("mri")))
    frozen = copy.deepcopy(network).requires_grad_(False)
    penalty = penalty_of("moments", network, "mri")
    with watching(frozen, [penalty]), pytest.raises(RuntimeError, match="or is frozen"):
        penalty(frozen, batch_of("mri"), apply(frozen, batch_of("mri")))


# --- options and calls ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Supervised("l7"), "Supervised: loss is 'l7', expected one of l1, mse"),
        (lambda: SelfSupervised(1.0), "SelfSupervised: fraction is 1.0"),
        (lambda: TwoViews(0.0), "TwoViews: fraction is 0.0"),
        (lambda: TwoViews(weight=0.0), "TwoViews: weight is 0.0"),
        (lambda: MutualDistillation(distillation=-1.0), "MutualDistillation: distillation is -1.0"),
        (lambda: Proximal(0.0, {"w": VOID}), "Proximal: mu is 0.0, expected a positive number; leave the penalty out"),
        (lambda: ContrastiveRatio(float("nan"), {"w": VOID}, {}), "ContrastiveRatio: beta is nan"),
        (lambda: MeasurementResidual(0.0), "MeasurementResidual: weight is 0.0"),
        (lambda: MomentAlignment(0.0, {}, "*"), "MomentAlignment: weight is 0.0"),
        (lambda: Distillation(0.0, nn.Identity()), "Distillation: weight is 0.0"),
    ],
)
def test_void_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Conditioned(nn.Module):
    uses_condition = True

    def forward(self, y: Tensor, A: LinearOperator, *condition: Tensor) -> Tensor:
        return torch.full((1, 16, 16), float(condition[0].sum()) if condition else -1.0)


def test_a_network_sees_the_condition_if_it_declares_that_it_does() -> None:
    batch = collate([replace(ct_sample(), condition=torch.tensor([2.0, 3.0]))])
    assert float(apply(Conditioned(), batch).mean()) == 5
    assert float(apply(Conditioned(), replace(batch, condition=None)).mean()) == -1
    plain = UnrolledNetwork(1, NormalizedStep, lambda: ConvRegularizer(2, 2))  # refuses a condition if it gets one
    assert torch.equal(apply(plain, batch), plain(batch.measurement, batch.operator))
    twins = TwinNetwork(Conditioned(), plain), TwinNetwork(plain, Conditioned()), TwinNetwork(plain, plain)
    assert [twin.uses_condition for twin in twins] == [True, True, False]
    assert float(apply(twins[0], batch).mean()) == 5
    assert torch.equal(apply(twins[1], batch), apply(plain, batch))
