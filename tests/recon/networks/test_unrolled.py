"""Networks: scale and phase equivariance, empty input, ends, sharing, conditions of every registered part."""

import pytest
import torch

from physics import (
    CartesianMRI,
    NonCartesianMRI,
    birdcage_maps,
    phantom_volume,
    radial_trajectory,
    reciprocal,
    root_sum_of_squares,
)
from recon import (
    DATA_CONSISTENCY,
    MODALITIES,
    REGULARIZERS,
    DualStep,
    GradientStep,
    MapsCorrection,
    ProximalStep,
    SiteDataConsistency,
    UNetRegularizer,
    UnrolledNetwork,
    image_scale,
)
from recon.networks.regularizers import Regularizer

#: The dual step of learned primal-dual is for real sinograms.
MRI_CONSISTENCY = [name for name in DATA_CONSISTENCY if name != "primal_dual"]


def problem(batch: int = 2, shape: tuple[int, int] = (18, 15)) -> tuple[torch.Tensor, CartesianMRI, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, 3, *shape, dtype=torch.complex64, generator=generator)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = torch.arange(shape[1]) % 2 == 0
    A = CartesianMRI(maps, mask)
    x = torch.randn(batch, *shape, dtype=torch.complex64, generator=generator)
    return A(x), A, x


def small(regularizer: str) -> Regularizer:
    torch.manual_seed(0)
    return REGULARIZERS.make(regularizer, REGULARIZERS.declared(regularizer, {"channels": 4, "depth": 2}))


def network(consistency: str = "gradient", regularizer: str = "unet", **options: object) -> UnrolledNetwork:
    return UnrolledNetwork(3, DATA_CONSISTENCY[consistency], lambda: wake(small(regularizer)), **options)  # type: ignore[arg-type]


def wake(regularizer: Regularizer) -> Regularizer:
    """Give the zero-initialized last layer weights, so that the regularizer does something."""
    for name, parameter in regularizer.named_parameters():
        if name.endswith("last.weight"):
            torch.nn.init.normal_(parameter, std=0.05)
    return regularizer


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("consistency", MRI_CONSISTENCY)
@pytest.mark.parametrize("ends_in", ["regularizer", "consistency"])
def test_every_network_is_equivariant_to_scale_and_phase(regularizer: str, consistency: str, ends_in: str) -> None:
    net = network(consistency, regularizer, ends_in=ends_in)
    y, A, _ = problem()
    reference = net(y, A)
    for factor in (1e-6, 1e-3, 1e3, torch.polar(torch.tensor(2.0), torch.tensor(2.5))):
        torch.testing.assert_close(net(factor * y, A) / factor, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", MODALITIES["mri"].methods)
def test_every_classical_method_is_scale_equivariant_and_shaped(method: str) -> None:
    y, A, x = problem()
    reference = MODALITIES["mri"].methods[method]()(y, A)
    assert reference.shape == x.shape
    for factor in (1e-6, 1e3):
        torch.testing.assert_close(
            MODALITIES["mri"].methods[method]()(factor * y, A) / factor, reference, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("method", MODALITIES["mri"].methods)
def test_classical_methods_survive_an_empty_slice_beside_a_full_one(method: str) -> None:
    y, A, _ = problem()
    y = torch.stack((torch.zeros_like(y[0]), y[1]))
    image = MODALITIES["mri"].methods[method]()(y, A)
    assert (image[0] == 0).all()
    assert image[1].abs().max() > 0


@pytest.mark.parametrize("consistency", MRI_CONSISTENCY)
def test_an_empty_slice_gives_finite_output_and_gradients(consistency: str) -> None:
    net = network(consistency)
    _, A, _ = problem()
    zero_maps = CartesianMRI(torch.zeros_like(A.maps), A.mask.expand(2, 1, -1))
    for operator in (A, zero_maps):
        net.zero_grad()
        image = net(torch.zeros(2, *A.range_shape, dtype=torch.complex64), operator)
        image.abs().sum().backward()
        assert image.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_the_untrained_network_is_plain_data_consistency() -> None:
    y, A, _ = problem()
    net = UnrolledNetwork(4, lambda: GradientStep(1.0), lambda: small("unet"))
    x = A.start(y)
    for _ in range(4):
        x = x - A.adjoint(A(x) - y) / (A.norm**2)[:, None, None]
    torch.testing.assert_close(net(y, A), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("consistency", [name for name in MRI_CONSISTENCY if name != "none"])
def test_data_consistency_reduces_the_residual(consistency: str) -> None:
    y, A, x = problem()
    start = x + 0.3 * torch.randn_like(x)
    layer = DATA_CONSISTENCY[consistency]()
    known = {"noise_std": torch.full((len(y),), 0.02)} if layer.uses_noise else {}
    assert (A(layer(start, y, A, **known)) - y).norm() < 0.7 * (A(start) - y).norm()
    torch.testing.assert_close(layer(start, y, A, **known), layer(start, y, A, A.adjoint(y), **known))


def test_several_gradient_steps_are_one_after_the_other_and_smaller_errors_remain() -> None:
    y, A, x = problem()
    layer, start = GradientStep(iterations=3), torch.zeros_like(x)
    image = start
    for log_step in layer.log_step:
        single = GradientStep()
        single.log_step.data = log_step.detach()
        image = single(image, y, A)
    torch.testing.assert_close(layer(start, y, A), image)
    residuals = [(A(GradientStep(iterations=number)(start, y, A)) - y).norm() for number in (1, 2, 3)]
    assert residuals[0] > 1.2 * residuals[1] > 1.2 * 1.2 * residuals[2]
    assert GradientStep(0.5).log_step.shape == ()


def test_the_proximal_step_minimizes_its_objective() -> None:
    y, A, x = problem()
    start = x + 0.3 * torch.randn_like(x)
    layer = ProximalStep(0.3, iterations=30)
    z = layer(start, y, A)
    gradient = A.adjoint(A(z) - y) + (0.3 * A.norm**2)[:, None, None] * (z - start)
    assert gradient.abs().max() < 1e-4


def test_steps_do_not_depend_on_the_scanner() -> None:
    """The same problem with maps ten times as large needs no other step."""
    y, A, x = problem()
    louder = CartesianMRI(10 * A.maps, A.mask)
    for layer in (GradientStep(), ProximalStep()):
        torch.testing.assert_close(layer(x, 10 * y, louder), layer(x, y, A), rtol=1e-4, atol=1e-5)


def test_ending_in_consistency_adds_a_layer_and_fits_the_data_better() -> None:
    y, A, _ = problem()
    plain, ending = network(), network(ends_in="consistency")
    ending.load_state_dict(plain.state_dict(), strict=False)
    assert len(ending.consistency) == len(plain.consistency) + 1
    assert (A(ending(y, A)) - y).norm() < (A(plain(y, A)) - y).norm()


def test_a_shared_regularizer_is_registered_once() -> None:
    shared, separate = network(share_regularizer=True), network()
    assert sum("regularizers" in name for name in separate.state_dict()) == 3 * sum(
        "regularizers" in name for name in shared.state_dict()
    )
    y, A, _ = problem()
    shared(y, A).abs().sum().backward()
    assert all(p.grad is not None for p in shared.parameters())


def test_the_operator_never_enters_the_state() -> None:
    y, A, _ = problem()
    net = network()
    before = set(net.state_dict())
    net(y, A)
    assert set(net.state_dict()) == before
    kept = [name for name, module in net.named_modules() if isinstance(module, SiteDataConsistency)]
    assert kept == ["consistency.0", "consistency.1", "consistency.2"]


@pytest.mark.parametrize("shape", [(18, 15), (7, 9), (16, 16)])
@pytest.mark.parametrize("regularizer", ["cnn", "unet", "fdd"])
def test_regularizers_take_any_size_and_real_images(regularizer: str, shape: tuple[int, int]) -> None:
    layer = small(regularizer)
    image = torch.randn(2, 3, *shape, dtype=torch.complex64)
    torch.testing.assert_close(layer(image), image)  # starts as the identity
    wake(layer)
    assert layer(image).shape == image.shape
    assert layer(image.real).dtype == torch.float32
    with pytest.raises(ValueError, match="takes no condition"):
        layer(image, torch.ones(2, 8))


def test_image_scale_is_robust_and_one_for_nothing() -> None:
    image = torch.ones(2, 40, 40)
    image[0, 0, 0] = 1e6
    image[1] = 0
    torch.testing.assert_close(image_scale(image), torch.tensor([1.0, 1.0]))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="cascades is 0"):
        UnrolledNetwork(0, GradientStep, UNetRegularizer)
    with pytest.raises(ValueError, match="ends_in is 'dc'"):
        UnrolledNetwork(1, GradientStep, UNetRegularizer, ends_in="dc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"consistency: found Identity, expected a subclass of recon.SiteData"):
        UnrolledNetwork(1, torch.nn.Identity, UNetRegularizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"step is 0.0, expected a positive number"):
        GradientStep(0.0)
    with pytest.raises(ValueError, match="depth is 0"):
        UNetRegularizer(8, 0)


def test_sigpy_methods_need_a_cartesian_operator() -> None:
    y, A, _ = problem()
    with pytest.raises(TypeError, match="operator is Scaled, expected CartesianMRI"):
        MODALITIES["mri"].methods["tv"]()(y, 2.0 * A)


def test_the_maps_correction_is_nothing_at_first_and_learns_what_a_poor_calibration_does() -> None:
    torch.manual_seed(0)
    maps = birdcage_maps(4, (24, 24), seed=0)
    maps = maps * (phantom_volume(1, (24, 24), seed=1)[0].abs() > 0)
    # The low frequencies alone, at the same root sum of squares.
    spectrum = torch.fft.fftshift(torch.fft.fft2(maps), dim=(-2, -1))
    low = torch.zeros(24, 24)
    low[8:16, 8:16] = 1
    poor = torch.fft.ifft2(torch.fft.ifftshift(spectrum * low, dim=(-2, -1))) * (maps != 0)
    poor = poor * (root_sum_of_squares(maps) * reciprocal(root_sum_of_squares(poor)))
    mask = torch.ones(24, dtype=torch.bool)
    y, wrong = torch.zeros(4, 24, 24, dtype=torch.complex64), CartesianMRI(poor, mask)
    layer = MapsCorrection()
    same = layer(y, wrong)[1]
    torch.testing.assert_close(same.maps, poor, rtol=1e-5, atol=1e-6)

    def error() -> torch.Tensor:
        return (layer(y, wrong)[1].maps - maps).abs().square().sum()

    before = float(error().detach())
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert float(error().detach()) < 0.5 * before
    learned = layer(y, wrong)[1]
    assert torch.equal(learned.maps == 0, maps == 0) and torch.equal(learned.mask, wrong.mask)
    torch.testing.assert_close(learned.rss, wrong.rss, rtol=1e-4, atol=1e-5)
    radial = layer(y, NonCartesianMRI(poor, radial_trajectory(9, 24)))[1]
    assert isinstance(radial, NonCartesianMRI) and torch.equal(radial.maps, learned.maps)
    with pytest.raises(TypeError, match="expected MultiCoilMRI"):
        layer(y, learned.gram)


def test_a_network_trains_its_correction_and_stays_scale_equivariant() -> None:
    y, A, image = problem()
    net = network(correction=MapsCorrection)
    torch.testing.assert_close(net(y, A), network()(y, A))
    (net(y, A) - image).abs().mean().backward()
    last = net.correction.cnn[-1]
    assert float(last.weight.grad.norm()) > 0
    with torch.no_grad():
        last.bias += 0.1
    torch.testing.assert_close(net(7 * y, A), 7 * net(y, A), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(net(y, A), network()(y, A), rtol=1e-3)


def test_what_sites_share_is_drawn_alike_whatever_their_own_parts() -> None:
    def drawn(consistency: type[SiteDataConsistency], **options: object) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        net = UnrolledNetwork(2, consistency, lambda: small_anew(), **options)  # type: ignore[arg-type]
        return {name: p for name, p in net.named_parameters() if name.startswith("regularizers")}

    def small_anew() -> Regularizer:
        return REGULARIZERS["cnn"](4, 2)  # type: ignore[call-arg]

    plain = drawn(GradientStep)
    for other in (drawn(DualStep), drawn(GradientStep, correction=MapsCorrection, site_strength=True)):
        assert other.keys() == plain.keys() and all(torch.equal(other[name], plain[name]) for name in plain)
