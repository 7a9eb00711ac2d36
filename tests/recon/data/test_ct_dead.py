"""Dead detector elements are found in every layout, have weight zero, and draw no ring."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from physics import (
    FanBeam,
    ImageGrid,
    RadonOperator,
    Transmission,
    attenuation_to_hu,
    body_volume,
    evenly_spaced,
    filtered_backprojection,
    hu_to_attenuation,
    simulate_counts,
)
from recon import CT_SCALE, DataError, FilteredBackprojection, PenalizedTV, SinogramSlices, write_sinograms
from recon.data.ct_dead import dead_rays

GRID = ImageGrid((128, 128), 3.0)
SCAN = FanBeam(evenly_spaced(240, 2 * math.pi / 240), 200, 4.0, 550.0, 1000.0)
DEAD, PHOTONS, NOISE = [75, 110, 111], 1e5, 10.0


@pytest.fixture(scope="module")
def truth() -> tuple[Tensor, Tensor]:
    """Counts and reference of an abdomen."""
    image = hu_to_attenuation(body_volume(1, (256, 256), 3, "abdomen"))
    generator = torch.Generator().manual_seed(0)
    counts = simulate_counts(image, GRID.refined(2), SCAN, Transmission(PHOTONS, NOISE), generator)
    return counts, torch.nn.functional.avg_pool2d(image[None], 2)[0]


def write(path: Path, counts: Tensor, reference: Tensor | None = None, holds: str = "counts") -> Path:
    if holds == "counts":
        write_sinograms(path, GRID, SCAN, counts=counts, photons=PHOTONS, electronic_noise=NOISE, reference=reference)
    else:
        lines = (PHOTONS / counts.clamp_min(0.1)).log() if holds == "line_integrals" else counts
        write_sinograms(path, GRID, SCAN, line_integrals=lines, reference=reference)
    return path


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 777.0])
def test_dead_elements_of_counts_have_weight_zero(tmp_path: Path, truth: tuple[Tensor, Tensor], value: float) -> None:
    counts, reference = truth[0].clone(), truth[1]
    counts[..., DEAD] = value
    slices = SinogramSlices([write(tmp_path / "a.h5", counts, reference)], "s")
    (line,) = slices.check(0)
    assert line.startswith(f"{tmp_path}/a.h5: detector: found dead elements 75, 110, 111, 3 in all, in 1 of 1 slices")
    sample = slices[0]
    assert isinstance(sample.operator, RadonOperator) and sample.operator.ray_weights is not None
    assert (sample.operator.ray_weights == 0).all(0).nonzero().flatten().tolist() == DEAD
    assert (sample.operator.ray_weights > 0).sum() == 240 * 197
    assert not sample.measurement[:, DEAD].any() and bool(sample.measurement.isfinite().all())
    whole = SinogramSlices([write(tmp_path / "b.h5", truth[0])], "s")[0]
    assert float(sample.noise_std) == pytest.approx(float(whole.noise_std), rel=1e-3)


def hu_error(image: Tensor, reference: Tensor) -> float:
    error = attenuation_to_hu(image * CT_SCALE) - attenuation_to_hu(reference)
    return float(error[attenuation_to_hu(reference) > -200].square().mean().sqrt())


def test_three_dead_elements_draw_no_ring(tmp_path: Path, truth: tuple[Tensor, Tensor]) -> None:
    counts, reference = truth[0].clone(), truth[1]
    whole = SinogramSlices([write(tmp_path / "whole.h5", counts)], "s")[0]
    counts[..., DEAD] = 0
    hit = SinogramSlices([write(tmp_path / "hit.h5", counts)], "s")[0]
    for method in (FilteredBackprojection(cutoff=0.7), PenalizedTV(1e-4, 30)):
        errors = [hu_error(method(s.measurement, s.operator), reference[0]) for s in (whole, hit)]
        assert errors[1] < 1.1 * errors[0]
    assert isinstance(hit.operator, RadonOperator)
    ring = filtered_backprojection(hit.operator.line_integrals(hit.measurement), SCAN, GRID, "shepp_logan", 0.7)
    assert hu_error(ring, reference[0]) > 5 * hu_error(
        FilteredBackprojection(cutoff=0.7)(whole.measurement, whole.operator), reference[0]
    )
    start = hit.operator.start(torch.stack((hit.measurement, 2 * hit.measurement)))
    assert torch.allclose(start[1], 2 * start[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_line_integrals_without_photons_and_elements_that_are_named(
    tmp_path: Path, truth: tuple[Tensor, Tensor], weighted: bool
) -> None:
    counts = truth[0].clone()
    counts[..., 75] = 0  # a constant line integral
    path = write(tmp_path / "a.h5", counts, None, "line_integrals")
    sample = SinogramSlices([path], "s", dead_elements=[0, 110], weighted=weighted)[0]
    weights = sample.operator.ray_weights
    assert isinstance(weights, Tensor) and set(weights.unique().tolist()) == {0.0, 1.0}
    assert (weights == 0).any(0).nonzero().flatten().tolist() == [0, 75, 110]
    assert "elements 75, 1 in all" in SinogramSlices([path], "s", dead_elements=[0, 110]).check(0)[0]
    with pytest.raises(DataError, match=r"a\.h5: \[data\] dead_elements: found 200, expected elements from 0 to 199"):
        SinogramSlices([path], "s", dead_elements=[200])


def test_a_flat_field_without_counts_is_a_dead_element(tmp_path: Path, truth: tuple[Tensor, Tensor]) -> None:
    path, scale = tmp_path / "raw.h5", 0.01
    raw = (truth[0] * scale + 100)[0]
    white = torch.full((3, 1, 200), PHOTONS * scale + 100)
    white[..., DEAD] = 100
    raw[:, DEAD] = 100 + torch.rand(240, 3)
    with h5py.File(path, "w") as file:
        for name, values in (
            ("data", raw[:, None]),
            ("data_white", white),
            ("data_dark", torch.full((1, 1, 200), 100.0)),
        ):
            file[f"exchange/{name}"] = values.numpy()
        file["exchange/theta"] = np.linspace(0, 180, 240, endpoint=False)
        file["exchange/theta"].attrs["units"] = "degrees"
    slices = SinogramSlices([path], "s", format="exchange")
    weights = slices[0].operator.ray_weights
    assert isinstance(weights, Tensor) and (weights == 0).all(0).nonzero().flatten().tolist() == DEAD
    assert any("dead elements 75, 110, 111" in line for line in slices.check(0))
    assert bool(slices[0].measurement.isfinite().all())


def test_too_many_dead_elements_and_single_values_are_refused(tmp_path: Path, truth: tuple[Tensor, Tensor]) -> None:
    counts = truth[0].clone()
    counts[..., :60] = math.nan
    with pytest.raises(
        DataError, match=r"30% of the rays of slice 0 without a value \(dead elements\), expected at most"
    ):
        SinogramSlices([write(tmp_path / "a.h5", counts)], "s")[0]
    counts = truth[0].clone()
    counts[0, 3, 100] = math.nan
    with pytest.raises(DataError, match="counts: found NaN or infinite values"):
        SinogramSlices([write(tmp_path / "b.h5", counts)], "s")[0]


def cases() -> dict[str, tuple[Tensor, str]]:
    """Sinograms without a dead element."""
    draw, u = torch.Generator().manual_seed(0), torch.arange(64) - 31.3
    disc = 0.04 * (24**2 - u**2).clamp_min(0).sqrt()
    moving = 0.04 * (12**2 - (u - 9 * torch.arange(30)[:, None].sin()) ** 2).clamp_min(0).sqrt()
    return {
        "air of a simulation without noise": (moving, "line_integrals"),
        "the same in counts": (1e4 * (-moving).exp(), "counts"),
        "a round object on the axis": (disc.expand(30, -1), "line_integrals"),
        "the same with rounding": (disc * (1 + 1e-7 * torch.rand(30, 64, generator=draw).round()), "line_integrals"),
        "an object that no photon passes": (torch.poisson(50 * (-6 * moving).exp(), generator=draw), "counts"),
        "a few photons": (torch.poisson(2 * (-moving).exp(), generator=draw), "counts"),
        "few views": (torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 4.0]]), "line_integrals"),
    }  # fmt: skip


@pytest.mark.parametrize("name", cases())
def test_no_object_is_a_dead_element(name: str) -> None:
    stored, holds = cases()[name]
    assert not dead_rays(stored, holds).any()
