"""The same networks on CT: every data consistency and classical method, LEARN's sum, memory of the dual step."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from physics import (
    CartesianMRI,
    FanBeam,
    ImageGrid,
    LinearOperator,
    RadonOperator,
    body_phantom,
    evenly_spaced,
    hu_to_attenuation,
    penalized_tv,
)
from physics.ct.total_variation import _differences, _divergence, _tv_step
from recon import (
    CT_SCALE,
    DATA_CONSISTENCY,
    MODALITIES,
    REGULARIZERS,
    AxisCorrection,
    ChebyshevStep,
    ConvRegularizer,
    DualStep,
    NormalizedStep,
    NoStep,
    PenalizedTV,
    Regularizer,
    StepScale,
    UnrolledNetwork,
    WeightedStep,
)

GRID = ImageGrid((32, 32), 6.0)
SCAN = FanBeam(evenly_spaced(30, 2 * torch.pi / 30), 46, 8.5, 400.0, 640.0)


def problem(batch: int = 2, weighted: bool = True) -> tuple[Tensor, RadonOperator, Tensor]:
    x = torch.stack([hu_to_attenuation(body_phantom(GRID.shape, seed, "abdomen")) for seed in range(batch)]) / CT_SCALE
    weights = 0.5 + torch.rand(batch, *SCAN.shape, generator=torch.Generator().manual_seed(0)) if weighted else None
    A = RadonOperator(GRID, SCAN, weights)
    return A(x), A, x


def network(consistency: str, regularizer: str = "cnn", **options: object) -> UnrolledNetwork:
    torch.manual_seed(0)

    def make() -> Regularizer:
        made = REGULARIZERS.make(regularizer, REGULARIZERS.declared(regularizer, {"channels": 4, "depth": 2}))
        for name, parameter in made.named_parameters():
            if name.endswith("last.weight"):
                torch.nn.init.normal_(parameter, std=0.05)
        return made

    return UnrolledNetwork(3, DATA_CONSISTENCY[consistency], make, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("consistency", DATA_CONSISTENCY)
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_every_network_reconstructs_ct_slice_by_slice(consistency: str, regularizer: str) -> None:
    y, A, x = problem()
    net = network(consistency, regularizer)
    both = net(y, A)
    assert both.shape == x.shape and not both.is_complex()
    assert A.ray_weights is not None
    alone = net(y[1:], RadonOperator(GRID, SCAN, A.ray_weights[1:]))
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)


def test_attenuation_has_units_so_the_regularizer_sees_it_unscaled() -> None:
    y, A, _ = problem(1)
    net = network("normalized")
    seen: list[Tensor] = []
    net.regularizers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(y, A)
    net(0.1 * y, A)
    torch.testing.assert_close(seen[1], 0.1 * seen[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("consistency", [name for name in DATA_CONSISTENCY if name != "none"])
def test_data_consistency_reduces_the_residual_of_ct(consistency: str) -> None:
    y, A, x = problem()
    start = 0.5 * x
    layer = DATA_CONSISTENCY[consistency]()
    moved = layer(start, y, A)
    assert (A(moved) - y).norm() < 0.98 * (A(start) - y).norm()


@pytest.mark.parametrize("consistency", DATA_CONSISTENCY)
def test_an_empty_sinogram_gives_finite_output_and_gradients(consistency: str) -> None:
    _, A, _ = problem()
    net = network(consistency)
    image = net(torch.zeros(2, *A.range_shape), A)
    image.abs().sum().backward()
    assert image.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("consistency", ["filtered", "normalized", "chebyshev", "gradient", "primal_dual"])
@pytest.mark.parametrize("combine", ["sequence", "sum"])
def test_every_ct_network_learns_one_slice(consistency: str, combine: str) -> None:
    y, A, x = problem(1)
    torch.manual_seed(0)
    net = UnrolledNetwork(3, DATA_CONSISTENCY[consistency], lambda: ConvRegularizer(8, 3), combine=combine)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (net(y, A) - x).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-3:]) < 0.93 * losses[0]


def test_the_untrained_dual_step_is_a_normalized_step() -> None:
    y, A, x = problem()
    torch.testing.assert_close(DualStep()(0.5 * x, y, A), NormalizedStep()(0.5 * x, y, A), rtol=1e-4, atol=1e-5)


class Diagonal(LinearOperator):
    """Eigenvalues of the normal operator between 0.02 and 1, those of CT with few views but known."""

    def __init__(self) -> None:
        super().__init__((8, 8), (8, 8))
        self.eigenvalues = torch.linspace(0.02, 1, 64).reshape(8, 8)

    @property
    def norm(self) -> Tensor:
        return torch.ones(())

    def _forward(self, x: Tensor) -> Tensor:
        return self.eigenvalues.sqrt() * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.eigenvalues.sqrt() * y

    @classmethod
    def example(cls, generator: torch.Generator) -> "Diagonal":
        return cls()


def test_chebyshev_steps_leave_the_least_error_that_their_number_allows() -> None:
    A, x = Diagonal(), torch.ones(8, 8)
    y, plain = A(x), torch.zeros(8, 8)
    for _ in range(6):
        plain = NormalizedStep()(plain, y, A)
    left = (ChebyshevStep(6, 0.02)(torch.zeros(8, 8), y, A) - x).abs().max()
    assert float((plain - x).detach().abs().max()) > 0.85
    optimal = 1 / math.cosh(6 * math.acosh((1 + 0.02) / (1 - 0.02)))
    assert float(left.detach()) == pytest.approx(optimal, rel=1e-3) and optimal < 0.4


@pytest.mark.parametrize("options", [{"iterations": 0}, {"smallest": 0.0}, {"smallest": 1.0}])
def test_chebyshev_steps_refuse_wrong_numbers(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"ChebyshevStep: {next(iter(options))} is"):
        ChebyshevStep(**options)  # type: ignore[arg-type]


def test_the_dual_step_remembers() -> None:
    y, A, x = problem()
    layer = DualStep(channels=4)
    torch.nn.init.normal_(layer.dual[-1].weight, std=0.1)
    first, memory = layer.update(x, y, A, None)
    again, _ = layer.update(x, y, A, memory)
    assert not torch.allclose(first, again, atol=1e-4)
    complex_maps = CartesianMRI(torch.ones(1, 8, 8, dtype=torch.complex64), torch.ones(8, dtype=torch.bool))
    with pytest.raises(TypeError, match="expected a sinogram"):
        layer(torch.zeros(8, 8), torch.zeros(1, 8, 8, dtype=torch.complex64), complex_maps)


def test_sum_lets_the_regularizer_see_the_image_before() -> None:
    y, A, _ = problem(1)
    net = network("normalized", combine="sum")
    seen: list[Tensor] = []
    net.regularizers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(y, A)
    start = A.start(y)
    assert torch.allclose(seen[0] / seen[0].norm(), start / start.norm(), atol=1e-5)


@pytest.mark.parametrize("method", MODALITIES["ct"].methods)
def test_classical_ct_methods_reconstruct_and_keep_the_scale(method: str) -> None:
    y, A, x = problem()
    make = MODALITIES["ct"].methods[method]
    found = make()(y, A)
    assert (found - x).norm() < (0.25 if method == "fbp" else 0.12) * x.norm()
    torch.testing.assert_close(make()(1e3 * y, A) / 1e3, found, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("method", ["fbp", "tv"])
def test_classical_ct_methods_need_a_ct_operator(method: str) -> None:
    complex_maps = CartesianMRI(torch.ones(1, 8, 8, dtype=torch.complex64), torch.ones(8, dtype=torch.bool))
    with pytest.raises(TypeError, match="expected RadonOperator"):
        MODALITIES["ct"].methods[method]()(torch.zeros(1, 8, 8, dtype=torch.complex64), complex_maps)


def test_tv_proximal_map_solves_its_problem_in_its_metric() -> None:
    generator = torch.Generator().manual_seed(9)
    image, metric, weight = torch.rand(3, 12, 11, dtype=torch.float64, generator=generator) + 0.2
    x, dual, weight = image, image.new_zeros(2, 12, 11), 0.1 * weight
    for _ in range(200):
        x, dual = _tv_step(image, weight, metric, dual)

    def cost(candidate: Tensor) -> float:
        data = 0.5 * (metric * (candidate - image).square()).sum()
        return float(data + (weight * _differences(candidate).square().sum(0).sqrt()).sum())

    best = cost(x)
    assert best < cost(image)
    for _ in range(5):
        noise = 1e-3 * torch.randn(12, 11, dtype=torch.float64, generator=generator)
        assert best <= cost((x + noise).clamp_min(0)) + 1e-9
    p = torch.randn(2, 12, 11, dtype=torch.float64)
    assert torch.allclose((_differences(image) * p).sum(), (image * _divergence(p)).sum())


@pytest.mark.parametrize("weighted", [False, True])
def test_penalized_tv_lowers_its_cost_until_it_has_converged(weighted: bool) -> None:
    y, A, _ = problem(1, weighted=False)
    y = y + 0.3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    if weighted:
        # Few photons pass the middle of a body: their weights are a thirtieth of those beside it.
        w = (-y / (2 * float(y.max()) / 7)).exp()
        y, A = y * w, RadonOperator(GRID, SCAN, w)
    images = [PenalizedTV(2e-3, iterations)(y, A) for iterations in (5, 50, 400)]
    weight = 2e-3 / 32 * float(A.norm) ** 2

    def cost(x: Tensor) -> float:
        data = 0.5 * (A(x) - y).square().sum()
        return float(data + weight * _differences(x).square().sum(0).sqrt().sum())

    costs = [cost(image) for image in images]
    assert costs[0] > costs[1] > costs[2] - 1e-3 * costs[2]
    assert costs[1] < 1.05 * costs[2]
    with pytest.raises(ValueError, match="weight is 0"):
        PenalizedTV(0.0)


def test_penalized_tv_without_a_weight_is_finite() -> None:
    """Of the whole image, or of pixels: in uniform parts no difference and no weight meet."""
    y, A, _ = problem(1, weighted=False)
    none = torch.zeros(*A.domain_shape)
    for threshold in (0.0, none, torch.where(torch.arange(none.shape[-1]) < 9, 1e-3, none)):
        assert penalized_tv(y, A, threshold, torch.zeros(len(y), *none.shape), 5).isfinite().all()


def test_site_strength_starts_as_nothing_and_scales_the_change() -> None:
    y, A, _ = problem(1)
    plain, strong = network("normalized"), network("normalized", site_strength=True)
    assert [name for name, _ in strong.named_parameters() if name.startswith("strengths.")] == [
        f"strengths.{index}.log_strength" for index in range(3)
    ]
    torch.testing.assert_close(plain(y, A), strong(y, A))
    with torch.no_grad():
        for strength in strong.strengths:
            strength.log_strength.fill_(-20.0)  # type: ignore[union-attr, operator]
    untrained = UnrolledNetwork(3, DATA_CONSISTENCY["normalized"], lambda: ConvRegularizer(4, 2))
    torch.testing.assert_close(strong(y, A), untrained(y, A), rtol=1e-4, atol=1e-5)


def test_a_weighted_step_starts_as_a_normalized_one_and_weighs() -> None:
    y, A, x = problem()
    layer = WeightedStep(knots=4)
    torch.testing.assert_close(layer(0.5 * x, y, A), NormalizedStep()(0.5 * x, y, A), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        layer.log_profile[0] = 20.0
    profile = layer.weights(y)
    assert profile.shape == y.shape[-1:] and float(profile[0].detach()) > 1e8 and float(profile[-1].detach()) == 1
    kspace = torch.zeros(2, 9, 9, dtype=torch.complex64)
    assert int(layer.weights(kspace).argmax()) == 40  # the center of k-space


def test_the_axis_correction_moves_a_sinogram_and_learns_how_far() -> None:
    y, A, _ = problem()
    layer = AxisCorrection()
    torch.testing.assert_close(layer(y, A)[0], y, rtol=1e-5, atol=1e-5)
    plain = RadonOperator(GRID, SCAN)
    wrong = RadonOperator(GRID, replace(SCAN, offset_mm=0.7 * SCAN.pitch_mm))
    sinogram = plain(problem(1)[2])
    target = wrong(problem(1)[2])
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (layer(sinogram, plain)[0] - target).square().mean().backward()
        optimizer.step()
    assert abs(abs(float(layer.elements.detach())) - 0.7) < 0.1
    with pytest.raises(TypeError, match="expected RadonOperator"):
        maps = CartesianMRI(torch.ones(1, 8, 8, dtype=torch.complex64), torch.ones(8, dtype=torch.bool))
        layer(torch.zeros(1, 8, 8), maps)


def test_a_network_scales_its_steps_by_the_condition() -> None:
    y, A, _ = problem()
    net = UnrolledNetwork(2, NormalizedStep, lambda: ConvRegularizer(4, 2), step_scale=lambda: StepScale(3))
    condition = torch.ones(3)
    before = net(y, A, condition)
    plain = UnrolledNetwork(2, NormalizedStep, lambda: ConvRegularizer(4, 2))
    torch.testing.assert_close(before, plain(y, A))
    with torch.no_grad():
        net.scales[0].hyper[-1].bias += 1.0  # type: ignore[union-attr, operator, index]
    assert not torch.allclose(net(y, A, condition), before)
    with pytest.raises(ValueError, match=r"got none as condition, expected one; set network.condition to none"):
        net(y, A)
    with pytest.raises(ValueError, match="expected none"):
        plain(y, A, condition)


def test_the_adjoint_is_another_start() -> None:
    y, A, _ = problem()
    net = UnrolledNetwork(1, NoStep, lambda: ConvRegularizer(4, 2), start="adjoint")
    torch.testing.assert_close(net(y, A), A.adjoint(y) / A.norm[..., None, None] ** 2, rtol=1e-4, atol=1e-6)
