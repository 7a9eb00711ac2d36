"""Detectability against what is known: white noise, the ideal observer of the counts, dose, smoothing, anatomy."""

import math

import numpy as np
import pytest
import torch

from physics import (
    MU_WATER,
    FanBeam,
    ImageGrid,
    RadonOperator,
    Transmission,
    body_phantom,
    evenly_spaced,
    hu_to_attenuation,
)
from recon import CT_SCALE, FilteredBackprojection, Probe, Sample, SampleMeta, measure_quality
from recon.evaluation.ct_quality import FAINT_HU, detectability
from recon.evaluation.detectability import dog_channels, hotelling_detectability

GRID = ImageGrid((96, 96), 4.0)
SCAN = FanBeam(evenly_spaced(180, 2 * math.pi / 180), 140, 6.0, 550.0, 1000.0)


def disc(size: int = 96, place: tuple[float, float] = (47.0, 48.0)) -> np.ndarray:
    rows, columns = np.indices((size, size))
    return np.asarray(10.0 * (np.hypot(rows - place[0], columns - place[1]) <= 6))


def test_in_white_noise_it_is_the_energy_of_the_signal_over_the_variance() -> None:
    signal, sigma = disc(72, (35.0, 36.0)), 25.0
    noise = np.random.default_rng(0).normal(0, sigma, (1600, 72, 72))
    # One channel with the shape of the signal keeps all of it.
    sums = (noise * signal).sum((1, 2))[:, None]
    found = hotelling_detectability(np.array([(signal**2).sum()]), sums - sums.mean(0), 1599)
    assert found == pytest.approx(math.sqrt((signal**2).sum()) / sigma, rel=0.05)
    # Difference-of-Gaussian channels keep the part of the signal that they span.
    channels = dog_channels(np.hypot(*(np.indices((72, 72)) - np.array([35.0, 36.0])[:, None, None]))).reshape(3, -1)
    projected = channels.T @ np.linalg.lstsq(channels.T, signal.ravel(), rcond=None)[0]
    expected = math.sqrt((projected**2).sum()) / sigma
    assert 0.6 * math.sqrt((signal**2).sum()) / sigma < expected
    # From four draws it is known to a tenth.
    quartets = noise[:240].reshape(60, 4, 72, 72)
    several = [detectability(draws, draws + signal, (35.0, 36.0), (1.0, 1.0)) for draws in quartets]
    assert np.mean(several) == pytest.approx(expected, rel=0.07)  # type: ignore[type-var]
    assert np.std(several) < 0.15 * expected  # type: ignore[type-var]


def test_anatomy_and_pixels_that_are_not_square_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    noise, anatomy = rng.normal(0, 20, (4, 96, 96)), 300 * rng.random((96, 96))
    plain = detectability(noise, noise + disc(), (47.0, 48.0), (1.0, 1.0))
    assert detectability(noise + anatomy, noise + anatomy + disc(), (47.0, 48.0), (1.0, 1.0)) == pytest.approx(plain)
    halved = dog_channels(np.hypot((np.arange(40) - 20)[:, None] * 0.5, np.arange(40) - 20))
    assert np.allclose(halved[:, ::2], dog_channels(np.hypot((np.arange(20) - 10)[:, None], np.arange(40) - 20)))


def test_no_noise_is_no_number() -> None:
    nothing = np.zeros((4, 96, 96))
    assert detectability(nothing, nothing + disc(), (47.0, 48.0), (1.0, 1.0)) is None
    rows = np.random.default_rng(0).normal(size=(50, 1)) @ np.ones((1, 3))
    assert hotelling_detectability(np.ones(3), rows, 50) is None


def probe(photons: float) -> tuple[Probe, Sample]:
    reference = hu_to_attenuation(body_phantom(GRID.shape, 3, "abdomen")) / CT_SCALE
    A = RadonOperator(GRID, SCAN)
    meta = (SampleMeta("s", "v", 0, 1.0, "attenuation"),)
    sample = Sample(A(reference), A, torch.tensor(0.0), reference, torch.tensor(CT_SCALE), None, meta)
    found = Probe.of(sample, Transmission(photons))
    assert found is not None
    return found, sample


def of(method: torch.nn.Module, found: Probe) -> tuple[float, float]:
    """Detectability and contrast to noise."""
    nothing = np.zeros((1, 96, 96))
    quality = measure_quality(method, found, nothing, nothing, 4.0)
    assert quality.detectability is not None and quality.cnr is not None
    assert quality.to_json()["disc_detectability"] == quality.detectability
    return quality.detectability, quality.cnr


def test_filtered_backprojection_is_below_the_ideal_observer_of_the_counts_and_grows_with_the_dose() -> None:
    low, sample = probe(2e5)
    absent, faint = low.absent[0].measurement * MU_WATER, low.faint[0].measurement * MU_WATER
    # The noise of absent and faint is the same draw: the difference is that of the means.
    counts = 2e5 * (-(sample.measurement * MU_WATER)).exp()
    ideal = float(((absent - faint).square() * counts).sum().sqrt())
    found, cnr = of(FilteredBackprojection(), low)
    assert 0.3 * ideal < found < ideal
    assert of(FilteredBackprojection(), probe(8e5)[0])[0] == pytest.approx(2 * found, rel=0.15)
    # A smoother filter has more contrast to noise, but shows the disc little better.
    soft = of(FilteredBackprojection(cutoff=0.5, window="hann"), low)
    assert soft[1] > 2 * cnr and soft[0] < 1.4 * found and soft[0] < ideal
    assert FAINT_HU == 10
