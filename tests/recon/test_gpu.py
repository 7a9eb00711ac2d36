"""On a GPU: every data consistency, regularizer, task and classical method gives what it gives on the CPU.

So does training with penalties, whose optimizer is resumed.
Convolutions run in float32 proper here (``allow_tf32=False``), so that a difference is an error and not a rounding.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from physics import CartesianMRI, FanBeam, ImageGrid, RadonOperator, evenly_spaced
from recon import (
    DATA_CONSISTENCY,
    MODALITIES,
    REGULARIZERS,
    AxisCorrection,
    Distillation,
    MapsCorrection,
    MeasurementResidual,
    MomentAlignment,
    Penalty,
    Proximal,
    Regularizer,
    Sample,
    SampleMeta,
    TaskLabels,
    TaskNetwork,
    TwinNetwork,
    UnrolledNetwork,
    collate,
    evaluate,
    measure_moments,
    train_locally,
)
from recon.tasks import UNetHead
from recon.training.objectives import OBJECTIVES

pytestmark = pytest.mark.cuda

GRID = ImageGrid((16, 16), 12.0)
SCAN = FanBeam(evenly_spaced(15, 2 * torch.pi / 15), 24, 16.0, 400.0, 640.0)
#: The dual step of learned primal-dual is for real sinograms.
PAIRS = [
    (m, name) for m in MODALITIES for name in DATA_CONSISTENCY if name != "primal_dual" or m not in ("mri", "cine")
]


@pytest.fixture(autouse=True)
def _exact_convolutions() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def sample_of(modality: str, seed: int) -> Sample:
    if modality == "cine":
        return MODALITIES[modality].example(seed)
    generator = torch.Generator().manual_seed(seed)
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    image = (xx**2 + yy**2 < (0.5 + 0.1 * seed) ** 2) * (0.7 + 0.3 * torch.cos(5 * xx + seed))
    A: CartesianMRI | RadonOperator
    if modality == "mri":
        maps = torch.randn(2, 16, 16, dtype=torch.complex64, generator=generator)
        mask = torch.arange(16) % 2 == 0
        mask[6:10] = True
        A, image = CartesianMRI(maps / maps.abs().square().sum(0).sqrt(), mask), torch.polar(image, 2 * xx)
    else:
        A = RadonOperator(GRID, SCAN, 0.5 + torch.rand(SCAN.shape, generator=generator))
    kind = "coil_combined" if modality == "mri" else "attenuation"
    meta = SampleMeta("north", f"volume_{seed}", 0, 2.0, kind)
    return Sample(A(image), A, torch.tensor(0.01), image, torch.tensor(1.0), None, (meta,))


def samples_of(modality: str) -> list[Sample]:
    return [sample_of(modality, seed) for seed in range(3)]


def network_of(modality: str, consistency: str = "gradient", regularizer: str = "unet", seed: int = 0) -> nn.Module:
    def make() -> Regularizer:
        made = REGULARIZERS.make(regularizer, REGULARIZERS.declared(regularizer, {"channels": 4, "depth": 2}))
        for name, parameter in made.named_parameters():
            if name.endswith("last.weight"):
                nn.init.normal_(parameter, std=0.05)
        return made

    torch.manual_seed(seed)
    correction = MapsCorrection if modality in ("mri", "cine") else AxisCorrection
    return UnrolledNetwork(2, DATA_CONSISTENCY[consistency], make, correction=correction, site_strength=True)


def assert_same(loss: Callable[[nn.Module, Sample], tuple[Tensor, Tensor]], network: nn.Module, batch: Sample) -> None:
    """The same image, loss and gradient on both devices."""
    there = copy.deepcopy(network).to("cuda")
    results = []
    for net, data in ((network, batch), (there, batch.to("cuda"))):
        value, image = loss(net, data)
        value.backward()
        assert image.device == data.measurement.device
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
        results.append((value.detach().cpu(), image.detach().cpu(), torch.cat([g.flatten().cpu() for g in grads])))
    assert float(results[0][2].norm()) > 0
    for expected, found in zip(*results, strict=True):
        assert float((found - expected).norm()) < 1e-3 * float(expected.norm())


def supervised(network: nn.Module, batch: Sample) -> tuple[Tensor, Tensor]:
    return OBJECTIVES["supervised"]()(network, batch, torch.Generator())


@pytest.mark.parametrize(("modality", "consistency"), PAIRS)
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_every_network(modality: str, consistency: str, regularizer: str) -> None:
    assert_same(supervised, network_of(modality, consistency, regularizer), collate(samples_of(modality)))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective(name: str, modality: str) -> None:
    network, batch = network_of(modality), collate(samples_of(modality))
    if name == "mutual":
        network = TwinNetwork(network, network_of(modality, seed=1))
    if name == "downstream":
        if batch.target().ndim > 3:
            pytest.skip("heads read 2-D images")
        network = TaskNetwork(network, UNetHead(2, 4, 1), TaskLabels("segmentation", ("bright",)))
        batch = replace(batch, label=(batch.target() > 0.5).long())

    def loss(net: nn.Module, batch: Sample) -> tuple[Tensor, Tensor]:
        return OBJECTIVES[name]()(net, batch, torch.Generator().manual_seed(5))

    assert_same(loss, network, batch)


@pytest.mark.parametrize("modality", MODALITIES)
def test_training_with_every_penalty_and_a_resumed_optimizer(modality: str) -> None:
    """Samples stay on the CPU, as a site reads them: each batch goes to the network."""
    samples = samples_of(modality)
    feature = "regularizers.*.down.0"
    begin = network_of(modality)
    moments = measure_moments(network_of(modality, seed=1), samples, feature)
    scores, losses = [], []
    for device in ("cpu", "cuda"):
        network = copy.deepcopy(begin).to(device)
        reference = {name: p.detach() + 0.01 for name, p in begin.named_parameters()}
        penalties: list[Penalty] = [
            Proximal(0.1, reference),
            MomentAlignment(1e-3, moments, feature),
            MeasurementResidual(0.1),
            Distillation(0.1, network),
        ]
        state = None
        for seed in range(2):
            result = train_locally(
                network, samples, steps=5, batch_size=2, learning_rate=1e-3, penalties=penalties, seed=seed,
                optimizer_state=state,
            )  # fmt: skip
            # As a site keeps it: on disk, so on the CPU.
            state = {name: tensor.cpu() for name, tensor in result.optimizer_state.items()}
            losses.append(result.losses)
        scores.append(evaluate(network, samples).mean("psnr"))
    assert losses[2] == pytest.approx(losses[0], rel=1e-3) and losses[3] == pytest.approx(losses[1], rel=1e-3)
    assert scores[1] == pytest.approx(scores[0], abs=0.05)


@pytest.mark.parametrize(("modality", "name"), [(m, name) for m in MODALITIES for name in MODALITIES[m].methods])
def test_every_classical_method(modality: str, name: str) -> None:
    batch = collate(samples_of(modality))
    here, there = (MODALITIES[modality].methods[name]()(b.measurement, b.operator) for b in (batch, batch.to("cuda")))
    assert there.device.type == "cuda"
    assert float((there.cpu() - here).norm()) < 1e-2 * float(here.norm())
