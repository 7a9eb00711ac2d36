"""Inversion of gradients: recovers an image where it must, and no more than its control where it cannot."""

from dataclasses import replace

import pytest
import torch

from recon import (
    MODALITIES,
    AttackSettings,
    DataError,
    LinearReconstruction,
    Sample,
    Supervised,
    Victim,
    blank_start,
    clipped,
    collate,
    distance_at,
    gradient_norm,
    invert,
    linear_victim,
    mean_gradient,
    psnr,
)
from recon.attacks.inversion import _angle


def batch(name: str, seed: int = 0) -> Sample:
    return collate([MODALITIES[name].example(seed)])


def score(sample: Sample, image: torch.Tensor) -> float:
    """PSNR after the best scaling: the cosine does not tell it."""
    target, shown = sample.target(), sample.magnitude(image)
    return psnr(target, shown * (shown * target).sum() / shown.square().sum())


@pytest.mark.parametrize("name", ["mri", pytest.param("ct", marks=pytest.mark.slow)])
def test_positive_control_recovers_the_image_and_its_control_does_not(name: str) -> None:
    target, other = linear_victim(batch(name)), linear_victim(batch(name, 5))
    settings = AttackSettings(steps=100, distance="cosine")
    found = invert([target], target.gradient(), settings)
    wrong = invert([target], other.gradient(), settings)
    blank = score(target.sample, blank_start(target, settings))
    assert score(target.sample, found.images[0]) > 30 > blank + 10
    assert found.losses[-1] < 0.01 * found.losses[0] and len(found.losses) == 100
    assert score(target.sample, wrong.images[0]) < 25


def test_sum_of_two_sites_is_sought_together() -> None:
    victims = [linear_victim(batch("mri", seed)) for seed in (0, 1)]
    seen = mean_gradient(victim.gradient() for victim in victims)
    one, two = (victim.gradient()[0] for victim in victims)
    assert torch.allclose(seen[0], (one + two) / 2)
    truth = [victim.sample.reference for victim in victims]
    settings = AttackSettings(steps=3, distance="l2")
    assert distance_at(victims, truth, seen, settings) < 1e-8  # type: ignore[arg-type]
    assert distance_at(victims, truth[::-1], seen, settings) > 1e-3  # type: ignore[arg-type]
    assert len(invert(victims, seen, settings).images) == 2


def test_guess_of_the_true_image_gives_the_gradient_of_the_site() -> None:
    """Also with noise in the measurement, which the attacker knows."""
    clean = linear_victim(batch("mri")).sample
    noisy = replace(clean, measurement=clean.measurement + 0.1 * clean.operator.sampled)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LinearReconstruction(16 * 14, 2)
    victim = Victim(network, ("weight", "bias"), noisy, Supervised("mse"))
    simulated = victim.simulated(noisy.reference, 0.0)
    for found, expected in zip(simulated, victim.gradient(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-4)
    assert simulated[0].requires_grad is True


def test_clipping_and_noise() -> None:
    gradient = (torch.full((30, 30), 2.0), torch.zeros(4))
    assert gradient_norm(gradient) == pytest.approx(60)
    generator = torch.Generator().manual_seed(0)
    half = clipped(gradient, 30.0, 0.0, generator)
    assert gradient_norm(half) == pytest.approx(30) and gradient_norm(clipped(gradient, 90.0, 0.0, generator)) == 60
    noise = clipped((torch.zeros(100, 100),), 2.0, 0.5, generator)[0]
    assert float(noise.std()) == pytest.approx(1.0, rel=0.05)
    with pytest.raises(ValueError, match="clip is 0"):
        clipped(gradient, 0.0, 1.0, generator)


def test_numbers_that_are_not_finite_end_a_search() -> None:
    victim = linear_victim(batch("mri"))
    seen = victim.gradient()
    for gradient, text in (
        (tuple(torch.full_like(part, torch.nan) for part in seen), "a distance of gradients of nan at step 1"),
        (tuple(torch.zeros_like(part) for part in seen), "a gradient of zeros"),
    ):
        with pytest.raises(DataError, match=text):
            invert([victim], gradient, AttackSettings(steps=2))


def test_the_angle_to_a_gradient_of_zeros_has_a_derivative() -> None:
    guess = torch.zeros(3, requires_grad=True)
    angle = _angle((guess,), (torch.ones(3),))
    (found,) = torch.autograd.grad(angle, guess)
    assert angle.item() == 1 and bool(found.isfinite().all())
    # The product of the squared norms is below the smallest number of single precision.
    assert float(_angle((torch.full((3,), 1e-12),), (torch.full((3,), 1e-12),))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("options", "text"), [({"distance": "l3"}, "'cosine'"), ({"steps": 0}, "at least 1")])
def test_wrong_settings(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AttackSettings(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mri", "ct"])
def test_smaller_slice_is_measured_by_its_own_operator(name: str) -> None:
    sample = MODALITIES[name].example(0)
    small = MODALITIES[name].smaller(sample, 8)
    assert small.reference is not None and sample.reference is not None
    assert max(small.operator.domain_shape) == 8 and tuple(small.reference.shape) == small.operator.domain_shape
    residual = small.measurement - small.operator(small.reference)
    assert float(residual.abs().square().mean().sqrt()) < 2 * float(sample.noise_std)
    assert float(small.reference.abs().mean()) == pytest.approx(float(sample.reference.abs().mean()), rel=0.1)
    again = MODALITIES[name].smaller(sample, 8)
    assert torch.equal(small.measurement, again.measurement)


@pytest.mark.parametrize("missing", [True, False])
def test_a_slice_without_a_whole_reference_is_not_made_smaller(missing: bool) -> None:
    sample = MODALITIES["mri"].example(0)
    meta = tuple(replace(part, reference_kind="rss") for part in sample.meta)
    broken = replace(sample, reference=None) if missing else replace(sample, meta=meta)
    found = "found none" if missing else "found one of kind rss and shape"
    with pytest.raises(DataError, match=rf"slice 0, reference: {found}.*fully sampled"):
        MODALITIES["mri"].smaller(broken, 8)
