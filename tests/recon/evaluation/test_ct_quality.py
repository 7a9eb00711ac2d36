"""Bias, noise, noise power, sharpness and contrast: against methods whose answers are known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physics import (
    ImageGrid,
    LinearOperator,
    ParallelBeam,
    RadonOperator,
    Transmission,
    attenuation_to_hu,
    body_phantom,
    evenly_spaced,
    hu_to_attenuation,
)
from recon import CT_SCALE, FilteredBackprojection, Probe, Sample, SampleMeta, measure_quality
from recon.evaluation.ct_quality import DISC_HU, _edge_response, _half, _noise_power, _radius

GRID = ImageGrid((64, 64), 4.0)
SCAN = ParallelBeam(evenly_spaced(120, math.pi / 120), 95, 4.0)


def sample(photons: float = 1e6, weighted: bool = False) -> Sample:
    reference = hu_to_attenuation(body_phantom(GRID.shape, 3, "abdomen")) / CT_SCALE
    A = RadonOperator(GRID, SCAN, torch.ones(SCAN.shape) if weighted else None)
    meta = (SampleMeta("s", "v", 0, 1.0, "attenuation"),)
    return Sample(A(reference), A, torch.tensor(0.0), reference, torch.tensor(CT_SCALE), None, meta)


class Blurred(nn.Module):
    """Filtered back-projection after a Gaussian blur of known width in pixels."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        image = FilteredBackprojection(window="ramp")(y, A)
        n = image.shape[-1]
        frequency = torch.fft.fftfreq(n)
        gain = torch.exp(-2 * (math.pi * self.sigma) ** 2 * (frequency[:, None] ** 2 + frequency**2))
        return torch.fft.ifft2(torch.fft.fft2(image) * gain).real


def test_bias_and_noise_are_those_of_the_regions() -> None:
    hu = torch.full((2, 40, 40), 50.0)
    hu[:, :, 20:] = -800.0
    references = (hu_to_attenuation(hu) / CT_SCALE).numpy()
    noise = torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(0))
    images = (hu_to_attenuation(hu + 12 + 7 * noise) / CT_SCALE).numpy()
    quality = measure_quality(nn.Identity(), None, images, references, 1.0)
    assert set(quality.bias) == {"soft tissue", "lung"}
    assert quality.bias["lung"] == pytest.approx(12, abs=0.6) and quality.noise["soft tissue"] == pytest.approx(
        7, abs=0.5
    )
    assert quality.nps == () and quality.cnr is None
    assert quality.to_json()["nps_mean_lp_per_cm"] is None


def test_noise_power_integrates_to_the_variance() -> None:
    noise = np.random.default_rng(0).normal(0, 5, (256, 256))
    nps = _noise_power(noise, (0.5, 0.5))
    # White noise of variance 25 has a flat spectrum of 25 times the area of a pixel.
    assert [power for _, power in nps[4:]] == pytest.approx([25 * 0.25] * (len(nps) - 4), rel=0.25)
    assert np.mean([power for _, power in nps[4:]]) == pytest.approx(25 * 0.25, rel=0.05)


def test_lengths_of_pixels_that_are_not_square_are_those_of_both_axes() -> None:
    noise = np.random.default_rng(0).normal(0, 5, (256, 256))
    assert np.mean([power for _, power in _noise_power(noise, (0.5, 1.0))[4:]]) == pytest.approx(25 * 0.5, rel=0.05)
    # A wave down the rows, of 8 rows of 0.5 mm: 2.5 line pairs per cm.
    wave = 100 * np.cos(np.arange(256) * 2 * math.pi / 8)[:, None] + noise
    nps = dict(_noise_power(wave, (0.5, 1.0)))
    assert max(nps, key=lambda frequency: nps[frequency]) == pytest.approx(2.5, abs=0.2)
    radius = _radius((64, 64), (32, 31), (0.5, 1.0))
    assert (radius[34, 31], radius[32, 33]) == (1.0, 2.0)


@pytest.mark.parametrize("sigma", [1.0, 1.6])
def test_sharpness_of_a_blurred_disc(sigma: float) -> None:
    radius = _radius((64, 64), (32, 31), (1.0, 1.0))
    added = 0.5 * (1 - np.vectorize(math.erf)((radius - 6) / (sigma * math.sqrt(2))))
    expected = math.sqrt(math.log(2) / 2) / (math.pi * sigma * 0.1)  # pixels of 1 mm
    assert _half(_edge_response(added, radius, 1.0)) == pytest.approx(expected, rel=0.12)


def test_a_sharper_method_measures_sharper_and_noisier() -> None:
    probe = Probe.of(sample(weighted=True), Transmission(2e4, 5.0))
    assert probe is not None
    nothing = np.zeros((1, 64, 64))
    sharp, soft = (measure_quality(Blurred(s), probe, nothing, nothing, 4.0) for s in (0.0, 1.5))
    assert sharp.mtf50 is not None and soft.mtf50 is not None and sharp.mtf50 > 1.3 * soft.mtf50
    power = [sum(p for _, p in q.nps) for q in (sharp, soft)]
    assert power[0] > 3 * power[1]
    frequencies = [q.to_json()["nps_mean_lp_per_cm"] for q in (sharp, soft)]
    assert frequencies[0] > 1.2 * frequencies[1]
    assert sharp.contrast_hu == pytest.approx(DISC_HU, rel=0.1)
    assert sharp.cnr is not None and soft.cnr is not None and soft.cnr > sharp.cnr


def test_the_probe_measures_at_equal_noise_in_a_quiet_place() -> None:
    probe = Probe.of(sample(), Transmission(1e5))
    assert probe is not None
    reference = attenuation_to_hu(sample().reference * CT_SCALE)  # type: ignore[operator]
    row, column = (int(c) for c in probe.center)
    around = reference[row - 8 : row + 9, column - 8 : column + 9]
    assert -150 < float(around.mean()) < 250
    difference = (probe.disc.measurement - probe.plain.measurement).abs()
    # Rays that miss the disc have the very same noise.
    assert float((difference == 0).float().mean()) > 0.5
    assert not torch.equal(probe.plain.measurement, probe.again.measurement)


def test_no_probe_without_a_quiet_place_or_a_reference() -> None:
    from dataclasses import replace

    assert Probe.of(replace(sample(), reference=None), Transmission(1e5)) is None
    air = replace(sample(), reference=torch.zeros(64, 64))
    assert Probe.of(air, Transmission(1e5)) is None
    nothing = np.zeros((1, 64, 64))
    found = measure_quality(Blurred(0.0), None, nothing, nothing, 4.0).to_json()
    assert found["disc_contrast_hu"] is None and found["disc_cnr"] is None
