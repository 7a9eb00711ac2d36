"""Counting statistics, starvation, weights, Hounsfield units, LoDoPaB's convention, simulation, bodies."""

import math

import pytest
import torch

from physics import (
    BODY_FAMILIES,
    LODOPAB_MU_MAX,
    MU_AIR,
    MU_WATER,
    ImageGrid,
    ParallelBeam,
    RadonOperator,
    Transmission,
    attenuation_to_hu,
    body_phantom,
    body_volume,
    evenly_spaced,
    hu_to_attenuation,
    lodopab_observation,
    simulate_counts,
    transmitted,
)


def test_hounsfield_units_round_trip() -> None:
    hu = torch.tensor([-1000.0, 0.0, 1000.0, 3071.0], dtype=torch.float64)
    mu = hu_to_attenuation(hu)
    assert mu[:2].tolist() == pytest.approx([MU_AIR, MU_WATER])
    assert float(mu[3]) == pytest.approx(LODOPAB_MU_MAX) and pytest.approx(0.08135858) == LODOPAB_MU_MAX
    assert torch.allclose(attenuation_to_hu(mu), hu)


def test_counts_have_the_mean_and_variance_of_the_model() -> None:
    model = Transmission(1000.0, electronic_noise=8.0)
    counts = model.counts(torch.full((100_000,), 1.5, dtype=torch.float64), torch.Generator().manual_seed(0))
    expected = 1000 * math.exp(-1.5)
    assert float(counts.mean()) == pytest.approx(expected, rel=0.003)
    assert float(counts.var()) == pytest.approx(expected + 64, rel=0.02)
    spread = model.line_integrals(counts).std()
    assert float(spread) == pytest.approx(float(model.noise_std(torch.tensor(expected))), rel=0.02)


def test_photons_per_view_and_detector_scale_the_counts() -> None:
    photons = torch.tensor([[1e4], [1e6]]) * torch.tensor([0.5, 1.0, 0.5])
    model = Transmission(photons)
    counts = model.counts(torch.ones(2, 3), torch.Generator().manual_seed(1))
    assert torch.allclose(counts, photons * math.exp(-1), rtol=0.1)
    assert torch.allclose(model.line_integrals(counts), torch.ones(2, 3), atol=0.1)


def test_starved_rays_stay_finite_and_weigh_little() -> None:
    model = Transmission(1e4, electronic_noise=5.0)
    counts = torch.tensor([[-20.0, 0.0, 0.05, 100.0, 1e4]], requires_grad=True)
    lines = model.line_integrals(counts)
    lines.sum().backward()
    lines = lines.detach()
    assert lines.isfinite().all() and counts.grad is not None and counts.grad.isfinite().all()
    assert float(lines[0, 0]) == pytest.approx(math.log(1e5))
    weights = model.ray_weights(counts.detach())
    assert float(weights.square().mean()) == pytest.approx(1.0)
    assert weights[0, 0] < 0.01 * weights[0, 4] and weights.isfinite().all()


def test_lodopab_convention_is_exact() -> None:
    generator = torch.Generator().manual_seed(5)
    image, lines = torch.zeros(4, 4), torch.full((3, 5), 2.0)
    lines[0, 0] = 50.0
    found = lodopab_observation(image, lambda _: lines, generator)
    drawn = torch.poisson(4096 * (-lines).exp(), generator=torch.Generator().manual_seed(5))
    expected = -(drawn.clamp_min(0.1) / 4096).log() / 0.08135858
    assert torch.allclose(found, expected)
    assert float(found[0, 0]) == pytest.approx(-math.log(0.1 / 4096) / 0.08135858)


def test_simulation_averages_intensities_over_a_detector_element() -> None:
    grid = ImageGrid((32, 32), 1.0)
    geometry = ParallelBeam(evenly_spaced(4, math.pi / 4), 23, 2.0)
    image = torch.zeros(grid.refined(2).shape)
    image[24:40, 10:30] = 0.3
    found = transmitted(image, grid.refined(2), geometry, rays_per_detector=4)
    finer = ParallelBeam(geometry.angles_rad, 92, 0.5)
    every = (-RadonOperator(grid.refined(2), finer)(image)).exp()
    assert torch.allclose(found, every.reshape(4, 23, 4).mean(-1), atol=1e-5)
    # The mean of intensities is not the intensity of the mean.
    assert not torch.allclose(found, (-RadonOperator(grid.refined(2), geometry)(image)).exp(), atol=1e-3)
    counts = simulate_counts(
        image, grid.refined(2), geometry, Transmission(1e8), torch.Generator(), rays_per_detector=4
    )
    assert torch.allclose(counts / 1e8, found, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Transmission(0.0), "above 0"),
        (lambda: Transmission(torch.tensor([1.0, math.nan])), "above 0"),
        (lambda: Transmission(1.0, electronic_noise=-1.0), "electronic_noise is -1.0"),
        (lambda: Transmission(1.0, floor=0.0), "floor is 0.0"),
        (lambda: Transmission(1.0).line_integrals(torch.tensor([math.nan])), "counts hold NaN"),
        (
            lambda: transmitted(torch.zeros(3, 3), ImageGrid((4, 4), 1.0), ParallelBeam((0.0,), 8, 1.0)),
            "expected .4, 4.",
        ),
        (lambda: body_phantom((8, 8), 0, "foot"), "expected one of chest, abdomen"),
        (lambda: body_volume(0, (8, 8), 0), "n_slices is 0"),
    ],
)
def test_what_is_wrong_is_said(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("family", BODY_FAMILIES)
def test_bodies_are_drawn_by_seed_and_lie_in_the_field_of_view(family: str) -> None:
    volume = body_volume(2, (64, 64), 3, family)
    assert volume.shape == (2, 64, 64) and volume.isfinite().all()
    assert torch.equal(volume, body_volume(2, (64, 64), 3, family))
    assert not torch.allclose(volume[0], volume[1]) and not torch.allclose(volume, body_volume(2, (64, 64), 4, family))
    grid = ImageGrid((64, 64), 2 / 64)
    radius = torch.hypot(torch.from_numpy(grid.x_mm)[None], torch.from_numpy(grid.y_mm)[:, None])
    assert (volume[:, radius > 1] == -1000).all()
    assert volume.min() == -1000 and 400 < volume.max() < 1600
    inside = volume[volume > -300]
    assert -150 < float(inside.median()) < 200


def test_a_body_is_the_same_at_every_size() -> None:
    fine = body_phantom((128, 128), 7, "abdomen")
    coarse = torch.nn.functional.avg_pool2d(fine[None], 2)[0]
    small = body_phantom((64, 64), 7, "abdomen")
    difference = (coarse - small).abs().mean() / (small + 1000).abs().mean()
    assert difference < 0.08


@pytest.mark.parametrize(("mean", "electronic_noise"), [(1.0, 0.0), (3.0, 0.0), (10.0, 2.0), (40.0, 0.0), (1e4, 5.0)])
def test_the_logarithm_of_few_counts_is_right_on_average(mean: float, electronic_noise: float) -> None:
    """Of a plain object; the photons of a bow-tie filter are no structure of it."""
    bowtie = torch.linspace(0.5, 1.5, 200, dtype=torch.float64)
    model, line = Transmission(500 * bowtie, electronic_noise), math.log(500 / mean)
    lines = torch.full((400, 200), line, dtype=torch.float64)
    counts = model.counts(lines, torch.Generator().manual_seed(0))
    found = model.line_integrals(model.without_log_bias(counts))
    plain = model.line_integrals(counts)
    assert abs(float(found.mean()) - line) < 0.025
    assert abs(float(found.mean()) - line) < abs(float(plain.mean()) - line) + 1e-3
    if mean > 1000:  # as sharp as it was
        assert torch.allclose(found, plain, atol=1e-3)
    if mean < 5:
        assert float(found.std()) < 0.4 * float(plain.std())


def test_few_counts_are_averaged_along_the_detector_alone_and_stay_finite() -> None:
    counts = torch.zeros(6, 90)
    counts[2] = 3.0
    found = Transmission(100.0).without_log_bias(counts)
    assert bool((found > 0).all()) and float(found[2].min()) > 10 * float(found[[0, 1, 3, 4, 5]].max())
    sharp = torch.full((2, 90), 400.0)
    sharp[:, 45:] = 100.0
    assert torch.allclose(Transmission(1e3).without_log_bias(sharp), sharp + 0.5, atol=1.0)
    x = torch.full((3, 40), 2.0, requires_grad=True)
    model = Transmission(100.0, 1.0)
    (gradient,) = torch.autograd.grad(model.line_integrals(model.without_log_bias(x)).sum(), x)
    assert bool(gradient.isfinite().all())
