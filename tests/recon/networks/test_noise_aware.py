"""Noise-aware networks: the noise level is known or estimated, per scan and per pixel, and changes the image."""

from collections.abc import Callable

import pytest
import torch

from physics import (
    MU_WATER,
    CartesianMRI,
    ImageGrid,
    LinearOperator,
    ParallelBeam,
    RadonOperator,
    birdcage_maps,
    body_phantom,
    brain_phantom,
    equispaced_mask,
    evenly_spaced,
    hu_to_attenuation,
    random_mask,
)
from recon import (
    REGULARIZERS,
    DataConsistent,
    FixedCondition,
    GradientStep,
    NoiseProximalStep,
    TwinNetwork,
    UnrolledNetwork,
    noise_map,
)
from recon.method import call

N = 64


def mri(seed: int = 0, factor: float = 3, n_coils: int = 6) -> tuple[CartesianMRI, torch.Tensor]:
    """Operator of one scan, with a batch axis, and its image."""
    maps = birdcage_maps(n_coils, (N, N), seed=seed)
    A = CartesianMRI.collate([CartesianMRI(maps, random_mask(N, factor, 0.1, seed).mask)])
    return A, brain_phantom((N, N), seed, "t1")[None]


def ct(weighted: bool = False) -> tuple[RadonOperator, torch.Tensor]:
    geometry = ParallelBeam(evenly_spaced(90, torch.pi / 90), 95, 1.0)
    weights = None
    if weighted:
        # Half the views have a third of the noise.
        weights = torch.ones(1, 90, 95)
        weights[:, ::2] = 3.0
    return RadonOperator(ImageGrid((N, N), 1.0), geometry, weights), hu_to_attenuation(
        body_phantom((N, N), 1, "chest")[None]
    ) / MU_WATER


def noisy(A: LinearOperator, x: torch.Tensor, std: float, seed: int = 0) -> torch.Tensor:
    y = A(x)
    noise = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))
    return y + std * noise * A.sampled


def network(seed: int = 0, regularizer: str = "cnn", cascades: int = 3, option: str = "tells_noise") -> UnrolledNetwork:
    """A network whose regularizers are not the identity."""
    torch.manual_seed(seed)
    size = {"channels": 8, "depth": 2, "noise_level": True}
    made = UnrolledNetwork(
        cascades, NoiseProximalStep, lambda: REGULARIZERS.make(regularizer, dict(size)), **{option: True}
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "last.weight" in name:
                parameter.normal_(std=0.05)
    return made


@pytest.mark.parametrize("std", [0.003, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("n_coils", [1, 8])
def test_the_noise_of_k_space_is_estimated(std: float, factor: float, n_coils: int) -> None:
    A, x = mri(factor=factor, n_coils=n_coils)
    estimate = A.estimate_noise_std(noisy(A, x, std))
    assert estimate.shape == (1,)
    # Fine structure adds to small noise: the estimate is an upper bound.
    structure = float(A.estimate_noise_std(A(x)))
    assert structure < 0.025
    assert 0.85 * std < float(estimate) < 1.15 * (std**2 + structure**2) ** 0.5


@pytest.mark.parametrize("std", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("n_coils", [1, 4])
def test_the_noise_beside_the_object_is_not_taken_for_fine_structure(std: float, factor: float, n_coils: int) -> None:
    A, x = mri(factor=factor, n_coils=n_coils)
    x[..., : N // 8, :] = x[..., -N // 8 :, :] = 0
    assert float(A.estimate_noise_std(noisy(A, x, std))) == pytest.approx(std, rel=0.15)


def test_a_background_of_zeros_is_not_taken_for_a_scan_without_noise() -> None:
    A, x = mri(factor=2, n_coils=1)
    x[..., : N // 8, :] = x[..., -N // 8 :, :] = 0
    noise = 0.02 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)) * (x != 0)
    assert float(A.estimate_noise_std(A(x + noise))) > 0.01


def test_the_noise_of_rays_is_estimated() -> None:
    for weighted in (False, True):
        A, x = ct(weighted)
        for std in (0.5, 2.0):
            estimate = float(A.estimate_noise_std(noisy(A, x, std)))
            structure = float(A.estimate_noise_std(A(x)))
            assert structure < 0.6
            assert 0.85 * std < estimate < 1.1 * (std + structure)


def test_samples_without_data_do_not_change_the_estimate() -> None:
    A, x = mri()
    y = noisy(A, x, 0.05)
    padded = y.clone()
    padded[..., :4] = padded[..., -4:] = 0
    assert float(A.estimate_noise_std(padded)) == pytest.approx(0.05, rel=0.1)
    assert torch.equal(A.estimate_noise_std(torch.zeros_like(y)), torch.zeros(1))
    R, body = ct()
    kept = torch.arange(90)[:, None] % 3 > 0
    line = noisy(R, body, 2.0)
    assert float(R.restrict(kept).estimate_noise_std(line * kept)) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("make", [mri, ct, lambda: ct(True)])
def test_the_noise_map_is_the_spread_of_many_start_images(
    make: Callable[[], tuple[LinearOperator, torch.Tensor]],
) -> None:
    A, x = make()
    std = 0.02
    images = torch.stack([A.start(noisy(A, 0 * x, std, seed)) for seed in range(60)])
    spread = images.abs().square().mean(0).sqrt()
    found = noise_map(A, torch.tensor([std]))
    assert found.shape == x.shape
    inside = (slice(None), slice(8, -8), slice(8, -8))
    assert float((found / spread)[inside].log().abs().mean()) < 0.15
    assert torch.allclose(noise_map(A, torch.tensor([3 * std])), 3 * found)


def test_the_noise_map_follows_the_g_factor() -> None:
    maps = birdcage_maps(8, (N, N), seed=0)
    slow, fast = (CartesianMRI(maps[None], equispaced_mask(N, r, 0.08, 0).mask) for r in (1, 4))
    level = [noise_map(A, torch.tensor([0.01])) for A in (slow, fast)]
    assert level[0].mean() == pytest.approx(0.01, rel=0.05)
    assert level[1].mean() > 1.5 * level[0].mean()


@pytest.mark.parametrize("regularizer", [name for name in REGULARIZERS if "noise_level" in REGULARIZERS.options(name)])
def test_unknown_noise_is_estimated_and_known_noise_is_used(regularizer: str) -> None:
    A, x = mri()
    net, y = network(regularizer=regularizer), noisy(A, x, 0.03)
    estimate = A.estimate_noise_std(y)
    expected = net(y, A, noise_std=estimate)
    assert torch.equal(net(y, A), expected)
    assert torch.equal(net(y, A, noise_std=torch.zeros(1)), expected)
    assert not torch.allclose(net(y, A, noise_std=4 * estimate), expected, rtol=1e-3)


@pytest.mark.parametrize("option", ["tells_noise", "noise_level"])
def test_scaling_data_and_noise_scales_the_image(option: str) -> None:
    A, x = mri()
    net, y, std = network(option=option), noisy(A, x, 0.03), torch.tensor([0.03])
    for factor in (1e-6, 1e3):
        torch.testing.assert_close(net(factor * y, A, noise_std=factor * std) / factor, net(y, A, noise_std=std))


@pytest.mark.parametrize("option", ["tells_noise", "noise_level"])
def test_clean_images_are_changed_less_only_if_that_is_chosen(option: str) -> None:
    A, x = mri()
    net, y = network(cascades=1, option=option), noisy(A, x, 0.03)
    net.consistency[0] = GradientStep()
    hidden = net.regularizers[0].get_submodule("hidden")
    with torch.no_grad():
        hidden.get_submodule("0").get_parameter("weight")[:, 2] = 0  # of the noise that it is told
    clean, other = (net(y, A, noise_std=torch.tensor([std])) for std in (1e-3, 0.3))
    assert torch.equal(clean, other) == (option == "tells_noise")


def test_samples_of_a_batch_keep_their_own_noise() -> None:
    (A, x), (B, _) = mri(0), mri(1)
    both = CartesianMRI(torch.cat((A.maps, B.maps)), torch.cat((A.mask, B.mask)))
    y = noisy(both, torch.cat((x, x)), 0.03)
    net, std = network(), torch.tensor([0.01, 0.2])
    together = net(y, both, noise_std=std)
    torch.testing.assert_close(together[:1], net(y[:1], A, noise_std=std[:1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[1:], net(y[1:], B, noise_std=std[1:]), rtol=1e-4, atol=1e-5)


def test_a_noisy_measurement_is_trusted_less() -> None:
    A, x = mri()
    y, layer = noisy(A, x, 0.03), NoiseProximalStep()
    residuals = [(A(layer(0 * x, y, A, noise_std=torch.tensor([std]))) - y).norm() for std in (1e-3, 0.03, 0.3)]
    assert residuals[0] < residuals[1] < residuals[2]


def test_the_step_minimizes_its_objective() -> None:
    A, x = mri()
    y, std = noisy(A, x, 0.05), torch.tensor([0.05])
    center = x + 0.3 * torch.randn_like(x)
    z = NoiseProximalStep(precision=30.0, iterations=60)(center, y, A, noise_std=std)
    gradient = A.adjoint(A(z) - y) / std**2 + 30.0 * (z - center)
    assert gradient.norm() < 1e-3 * (A.adjoint(A(center) - y) / std**2).norm()


def test_empty_slices_and_noise_free_ones_are_finite() -> None:
    A, x = mri()
    R, body = ct()
    for operator, image in ((A, x), (R, body)):
        for y in (operator(image), 0 * operator(image)):
            net = network()
            out = net(y, operator)
            out.abs().square().sum().backward()
            assert bool(out.isfinite().all())
            assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_wrappers_pass_the_noise_on() -> None:
    A, x = mri()
    net, y, std = network(), noisy(A, x, 0.03), torch.tensor([0.2])
    expected = net(y, A, noise_std=std)
    assert torch.equal(call(TwinNetwork(net, network(1)), y, A, noise_std=std), expected)
    consistent = DataConsistent(net)
    assert not torch.equal(call(consistent, y, A, noise_std=std), call(consistent, y, A))
    assert FixedCondition(net, torch.zeros(4)).uses_noise
    with pytest.raises(ValueError, match="as condition, expected none"):
        FixedCondition(net, torch.zeros(4))(y, A)


def test_a_network_that_uses_no_noise_refuses_it() -> None:
    _, x = mri()
    blind = UnrolledNetwork(1, NoiseProximalStep, lambda: REGULARIZERS.make("cnn", {"channels": 4, "depth": 2}))
    assert blind.uses_noise  # by its data consistency
    with pytest.raises(ValueError, match="noise level has shape None, expected"):
        network().regularizers[0](x)
    with pytest.raises(ValueError, match="expected None"):
        blind.regularizers[0](x, None, x.real)


def test_the_norm_of_an_operator_that_was_used_in_inference_mode_can_train() -> None:
    A, _ = mri()
    with torch.inference_mode():
        A.norm  # noqa: B018  computed once and kept
    step = torch.ones(1, requires_grad=True)
    (step * A.norm).sum().backward()
    assert step.grad is not None and float(step.grad) == float(A.norm)
