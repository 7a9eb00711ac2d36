"""Total variation corrected by a U-Net."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from physics import ImageGrid, ParallelBeam, RadonOperator, Transmission, evenly_spaced, simulate_counts
from recon import CorrectedTV, NetworkSettings, PenalizedTV, load_weights, save_weights
from recon.networks.corrected_tv import _noise_weight

SETTINGS = NetworkSettings(architecture="corrected_tv", channels=4, depth=1, architecture_options={"iterations": 60})


def scan(photons: float, views: int, weighted: bool = False) -> tuple[Tensor, RadonOperator, Tensor]:
    """Line integrals of a disc with a hole in units of water, their operator and the disc."""
    place = torch.linspace(-1, 1, 64)
    disc = (torch.hypot(place[:, None], place) < 0.8).float()
    disc[20:30, 16:40] = 0.0
    # The dose of rays through 290 mm of water differs three hundredfold from that of rays beside it.
    pixel = 10.0 if weighted else 3.0
    grid, geometry = ImageGrid((32, 32), pixel), ParallelBeam(evenly_spaced(views, math.pi / views), 46, 0.8 * pixel)
    model = Transmission(photons)
    counts = simulate_counts(0.02 * disc, grid.refined(2), geometry, model, torch.Generator().manual_seed(0))
    weights = model.ray_weights(counts)[None] if weighted else None
    y = model.line_integrals(counts)[None] / 0.02 * (1 if weights is None else weights)
    return y, RadonOperator(grid, geometry, weights), torch.nn.functional.avg_pool2d(disc[None], 2)


def built() -> CorrectedTV:
    torch.manual_seed(0)
    net = SETTINGS.build()
    assert isinstance(net, CorrectedTV)
    return net


@pytest.mark.parametrize(("photons", "views"), [(1e4, 20), (3e5, 40)])
def test_untrained_it_is_tv_of_about_the_best_weight(photons: float, views: int) -> None:
    y, A, truth = scan(photons, views)
    found = float((built()(y, A).detach() - truth).square().mean())
    best = min(float((PenalizedTV(w, 60)(y, A) - truth).square().mean()) for w in (3e-3, 1e-2, 3e-2, 0.1, 0.3))
    assert found < 1.5 * best


def test_with_weights_of_the_rays_each_pixel_has_the_weight_of_its_noise() -> None:
    _, A, _ = scan(1e5, 20, weighted=True)
    noise = torch.randn(400, *A.range_shape, generator=torch.Generator().manual_seed(1))
    weight, spread = _noise_weight(A, torch.tensor([0.3]), 1.2)[0], 0.3 * A.adjoint(noise).std(0)
    place = torch.linspace(-1, 1, 32)
    inside = torch.hypot(place[:, None], place) < 0.9
    ratio = (weight / spread)[inside]
    assert float(spread[inside].max() / spread[inside].min()) > 3
    assert float(ratio.std() / ratio.mean()) < 0.15
    assert 1.0 < float(ratio.mean()) < 1.4


def test_a_larger_weight_of_a_pixel_is_smoother_and_has_no_effect_without_weights_of_the_rays() -> None:
    for weighted in (True, False):
        y, A, _ = scan(1e4, 20, weighted)
        usual, larger = (CorrectedTV(4, 1, 60, weight).inputs(y, A)[:, 0] for weight in (1.2, 8.0))
        roughness = [float(image.diff(dim=-1).abs().sum()) for image in (usual, larger)]
        assert roughness[1] < 0.95 * roughness[0] if weighted else roughness[1] == roughness[0]


def test_it_scales_with_the_measurement_and_treats_samples_alone() -> None:
    (y, A, _), net = scan(1e4, 20), built()
    torch.testing.assert_close(net.inputs(3 * y, A)[:, :2], 3 * net.inputs(y, A)[:, :2], rtol=1e-3, atol=1e-3)
    both = net(torch.cat((y, y)), A)
    torch.testing.assert_close(both[0], both[1])
    assert bool(net(torch.zeros_like(y), A).isfinite().all())


def test_the_noise_level_decides_and_zero_means_unknown() -> None:
    (y, A, _), net = scan(1e4, 20), built()
    unknown, stated = net(y, A), A.estimate_noise_std(y)
    torch.testing.assert_close(net(y, A, noise_std=torch.zeros(1)), unknown)
    torch.testing.assert_close(net(y, A, noise_std=stated), unknown)
    rough, smooth = (net(y, A, noise_std=stated * factor).detach().diff(dim=-1).abs().sum() for factor in (0.1, 10.0))
    assert float(smooth) < 0.8 * float(rough)


def test_training_corrects_tv_and_the_weights_return_from_their_file(tmp_path: Path) -> None:
    (y, A, truth), net = scan(1e4, 20), built()
    inputs, optimizer = net.inputs(y, A), torch.optim.Adam(net.parameters(), 1e-2)
    before = float((net.correct(inputs).detach() - truth).square().mean())
    for _ in range(150):
        optimizer.zero_grad()
        (net.correct(inputs) - truth).square().mean().backward()
        optimizer.step()
    after = net(y, A).detach()
    assert float((after - truth).square().mean()) < 0.8 * before
    save_weights(net, tmp_path / "a.safetensors", SETTINGS, "ct", "Discs")
    torch.testing.assert_close(load_weights(tmp_path / "a.safetensors")(y, A).detach(), after)


def test_complex_measurements_and_keys_without_effect_are_refused() -> None:
    y, A, _ = scan(1e4, 20)
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"pixel_weight is {weight}, expected a positive number"):
            CorrectedTV(pixel_weight=weight)
    options = {"pixel_weight": 0.0}
    with pytest.raises(ValueError, match=r"architecture_options: CorrectedTV: pixel_weight is 0\.0"):
        NetworkSettings(architecture="corrected_tv", architecture_options=options).build()
    with pytest.raises(TypeError, match="complex, expected a sinogram"):
        built()(y + 0j, A)
    with pytest.raises(ValueError, match="cascades: found 3, expected the default"):
        NetworkSettings(architecture="corrected_tv", cascades=3).build()
