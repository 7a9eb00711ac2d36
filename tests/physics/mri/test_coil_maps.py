"""Coil maps: known maps are found again, sigpy's are equalled, only the measured center is used."""

from pathlib import Path

import numpy as np
import pytest
import sigpy.mri.app
import torch

from physics import coil_compression, combine_coils, fft2c, mix_coils, root_sum_of_squares
from physics.mri.coil_maps import (
    birdcage_maps,
    espirit_maps,
    estimate_maps,
    low_resolution_maps,
    with_image_phase,
)
from physics.mri.sampling import make_mask
from physics.phantoms.head import brain_phantom


def head(shape: tuple[int, int], n_coils: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Coil images and the object's support."""
    image = brain_phantom(shape, seed, "t1")
    return birdcage_maps(n_coils, shape, seed=seed) * image, image.abs() > 0.05


def residual(maps: torch.Tensor, coil_images: torch.Tensor, support: torch.Tensor) -> float:
    """Part of the coil images that the maps cannot express; blind to a phase per pixel."""
    explained = maps * (maps.conj() * coil_images).sum(0)
    return ((explained - coil_images)[:, support].norm() / coil_images[:, support].norm()).item()


def center_mask(n: int, width: int) -> torch.Tensor:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[(n - width + 1) // 2 :][:width] = True
    return mask


@pytest.mark.parametrize("shape", [(96, 96), (97, 80), (64, 101)])
@pytest.mark.parametrize("seed", [None, 4])
def test_birdcage_is_smooth_and_of_unit_energy(shape: tuple[int, int], seed: int | None) -> None:
    maps = birdcage_maps(6, shape, seed=seed)
    assert maps.dtype == torch.complex64
    assert maps.shape == (6, *shape)
    torch.testing.assert_close(root_sum_of_squares(maps), torch.ones(shape))
    assert (maps.diff(dim=-1).abs().max() < 0.15) and (maps.diff(dim=-2).abs().max() < 0.15)
    assert torch.equal(maps, birdcage_maps(6, shape, seed=seed))


def test_birdcage_matches_sigpys_on_even_sizes() -> None:
    ours, theirs = birdcage_maps(5, (32, 48)), sigpy.mri.birdcage_maps((5, 32, 48))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)
    assert (birdcage_maps(5, (32, 48), seed=1) - birdcage_maps(5, (32, 48), seed=2)).abs().max() > 0.1


@pytest.mark.parametrize("width", [24, 18])
def test_equals_sigpys_espirit(width: int, capfd: pytest.CaptureFixture[str]) -> None:
    coil_images, support = head((96, 80), 5)
    kspace = fft2c(coil_images)
    kspace += 1e-3 * torch.randn(kspace.shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(0))
    theirs = sigpy.mri.app.EspiritCalib(kspace.numpy(), calib_width=width, crop=0, show_pbar=False).run()
    ours = espirit_maps(kspace, width)
    assert ours.dtype == torch.complex64
    aligned = ours * torch.polar(torch.ones(96, 80), -ours[0].angle())
    assert np.abs(aligned.numpy() - theirs)[:, support.numpy()].max() < 1e-3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(128, 128), (121, 96), (100, 133)])
@pytest.mark.parametrize("n_coils", [2, 8])
def test_known_maps_are_found(shape: tuple[int, int], n_coils: int) -> None:
    coil_images, support = head(shape, n_coils)
    maps = espirit_maps(fft2c(coil_images))
    assert residual(maps, coil_images, support) < 0.01
    torch.testing.assert_close(root_sum_of_squares(maps), torch.ones(shape), atol=1e-4, rtol=0)
    # The object has no hole and the reference phase is smooth: neighbors differ little.
    steps = maps.diff(dim=-1).abs().square().sum(0).sqrt()[support[:, 1:]]
    assert steps.quantile(0.999) < 0.2


@pytest.mark.parametrize(("width", "bound"), [(6, 0.05), (9, 0.03), (10, 0.02), (16, 0.015)])
@pytest.mark.parametrize("n", [128, 129])
def test_narrow_centers_still_calibrate(width: int, bound: float, n: int) -> None:
    coil_images, support = head((128, n), 6)
    maps = estimate_maps(fft2c(coil_images), center_mask(n, width))
    assert residual(maps, coil_images, support) < bound
    rough = estimate_maps(fft2c(coil_images), center_mask(n, width), "low_resolution")
    assert residual(rough, coil_images, support) < 0.15


def test_low_resolution_maps_improve_with_the_center() -> None:
    coil_images, support = head((128, 128), 6)
    residuals = [
        residual(low_resolution_maps(fft2c(coil_images), center_mask(128, width)), coil_images, support)
        for width in (8, 16, 24)
    ]
    assert residuals[0] > residuals[1] > residuals[2]
    assert residuals[2] < 0.04


@pytest.mark.parametrize("method", ["espirit", "low_resolution"])
def test_the_scale_of_kspace_does_not_matter(method: str) -> None:
    coil_images, support = head((64, 72), 4)
    kspace = fft2c(coil_images)
    mask = make_mask("random", (64, 72), 3, 0.2, 0).mask
    expected = estimate_maps(kspace, mask, method)
    for scale in (1e-5, 1e5, 1e-20):
        scaled = estimate_maps(scale * kspace, mask, method)
        torch.testing.assert_close(scaled[:, support], expected[:, support], atol=6e-4, rtol=0)  # half precision


@pytest.mark.parametrize("method", ["espirit", "low_resolution"])
@pytest.mark.parametrize("family", ["random", "equispaced", "partial_fourier", "poisson", "gaussian"])
def test_only_measured_samples_are_used(method: str, family: str) -> None:
    coil_images, _ = head((65, 91), 4)  # an even center in an odd width lies off the crop
    mask = make_mask(family, (65, 91), 3, 0.11, 3).mask
    kspace = fft2c(coil_images)
    garbage = 50 * torch.randn(kspace.shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(0))
    expected = estimate_maps(torch.where(mask, kspace, 0), mask, method)
    for unmeasured in (garbage, torch.full_like(garbage, torch.nan), kspace):
        assert torch.equal(estimate_maps(torch.where(mask, kspace, unmeasured), mask, method), expected)


@pytest.mark.parametrize("method", ["espirit", "low_resolution"])
def test_nothing_measured_gives_constant_maps(method: str) -> None:
    maps = estimate_maps(torch.zeros(4, 40, 30, dtype=torch.complex64), center_mask(30, 8), method)
    assert torch.equal(maps, torch.full((4, 40, 30), 0.5, dtype=torch.complex64))


@pytest.mark.parametrize("method", ["espirit", "low_resolution"])
@pytest.mark.parametrize(("shape", "height"), [((64, 40), 32), ((65, 41), 30)])
def test_maps_of_the_center_rows_are_the_center_of_the_maps(method: str, shape: tuple[int, int], height: int) -> None:
    coil_images, support = head(shape, 4)
    mask, top = center_mask(shape[1], 12), (shape[0] - height) // 2
    whole = estimate_maps(fft2c(coil_images), mask, method)[:, top : top + height]
    rows = estimate_maps(fft2c(coil_images), mask, method, height=height)
    assert rows.shape == whole.shape
    inside = support[top : top + height]
    torch.testing.assert_close(rows[:, inside], whole[:, inside], atol=6e-4, rtol=0)
    with pytest.raises(ValueError, match=f"{shape[0] + 1} rows of maps, expected 1 to {shape[0]}"):
        estimate_maps(fft2c(coil_images), mask, method, height=shape[0] + 1)


def test_maps_are_rounded_whether_stored_or_new(tmp_path: Path) -> None:
    coil_images, support = head((48, 40), 5)
    kspace, mask = fft2c(coil_images), center_mask(40, 12)
    new, stored, again = (estimate_maps(kspace, mask, maps_folder=folder) for folder in (None, tmp_path, tmp_path))
    assert torch.equal(new, stored) and torch.equal(stored, again)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 4 * new.numel() + 200  # two numbers of two bytes
    exact = espirit_maps(kspace, (24, 12))
    agreement = (new * exact.conj()).sum(0).abs()[support]  # blind to a phase per pixel
    assert float((1 - agreement).abs().max()) < 1e-3


def test_virtual_coils_keep_the_brightness_of_all_coils() -> None:
    coil_images, support = head((64, 56), 8)
    kspace, mask = fft2c(coil_images), center_mask(56, 16)
    matrix = coil_compression(kspace.flatten(1) @ kspace.flatten(1).mH, torch.zeros(8, 8), coils=2)
    maps = estimate_maps(kspace, mask, compression=matrix)
    assert maps.shape == (2, 64, 56) and float(root_sum_of_squares(maps)[support].max()) < 1.01
    image = combine_coils(mix_coils(coil_images, matrix), maps).abs()
    truth = root_sum_of_squares(coil_images)
    assert float((image - truth)[support].norm() / truth[support].norm()) < 0.005
    dark = root_sum_of_squares(mix_coils(coil_images, matrix))
    assert float((dark - truth)[support].norm() / truth[support].norm()) > 0.01


def test_one_coil() -> None:
    coil_images, support = head((48, 50), 1)
    maps = espirit_maps(fft2c(coil_images))
    torch.testing.assert_close(maps[:, support], torch.ones_like(maps[:, support]), atol=1e-5, rtol=0)


def test_a_region_longer_than_kspace_is_cut() -> None:
    coil_images, support = head((20, 18), 3)
    assert residual(espirit_maps(fft2c(coil_images), 24), coil_images, support) < 0.05
    assert torch.equal(espirit_maps(fft2c(coil_images), 24), espirit_maps(fft2c(coil_images), (20, 18)))


@pytest.mark.parametrize("method", ["espirit", "low_resolution"])
def test_cache_is_read_and_a_damaged_file_replaced(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coil_images, _ = head((48, 40), 3)
    kspace, mask = fft2c(coil_images), center_mask(40, 10)
    cache = tmp_path / "maps"
    expected = estimate_maps(kspace, mask, method, cache)
    assert torch.equal(expected, estimate_maps(kspace, mask, method))
    (path,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("physics.mri.coil_maps.MAP_ESTIMATES", {method: None})  # a cached result needs no estimate
        assert torch.equal(estimate_maps(kspace, mask, method, cache), expected)
        # The key ignores what was not measured, and nothing else.
        assert torch.equal(estimate_maps(torch.where(mask, kspace, 3), mask, method, cache), expected)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"not safetensors"):
        path.write_bytes(damaged)
        assert torch.equal(estimate_maps(kspace, mask, method, cache), expected)
        assert path.read_bytes() == whole
    estimate_maps(2 * kspace, mask, method, cache)
    estimate_maps(kspace, center_mask(40, 12), method, cache)
    assert len(list(cache.iterdir())) == 3


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("physics.mri.stored_maps.os.replace", full)
    coil_images, _ = head((32, 32), 2)
    with pytest.raises(OSError, match="No space"):
        estimate_maps(fft2c(coil_images), center_mask(32, 10), "low_resolution", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_named() -> None:
    kspace = torch.ones(2, 16, 16, dtype=torch.complex64)
    with pytest.raises(ValueError, match="no method 'espirt', expected one of espirit, low_resolution"):
        estimate_maps(kspace, torch.ones(16), "espirt")
    with pytest.raises(ValueError, match="does not sample the center"):
        estimate_maps(kspace, ~center_mask(16, 4))
    with pytest.raises(ValueError, match=r"mask has shape \(17,\)"):
        low_resolution_maps(kspace, torch.ones(17))
    with pytest.raises(ValueError, match=r"k-space has shape \(16, 16\)"):
        espirit_maps(kspace[0])
    with pytest.raises(TypeError, match=r"dtype torch\.float32"):
        espirit_maps(kspace.real)
    with pytest.raises(ValueError, match="NaN"):
        espirit_maps(torch.full_like(kspace, torch.nan))
    with pytest.raises(ValueError, match="calibration_width is 0"):
        espirit_maps(kspace, 0)
    with pytest.raises(ValueError, match="0 coils"):
        birdcage_maps(0, (4, 4))


def test_the_image_phase_goes_into_the_maps() -> None:
    n = 64
    magnitude = brain_phantom((n, n), 0, "t1").abs()
    ramp = torch.linspace(-4, 4, n)
    image = torch.polar(magnitude, ramp[:, None] + 0.5 * ramp)
    maps = birdcage_maps(6, (n, n), seed=0)
    kspace, mask = fft2c(maps * image), center_mask(n, 12)
    turned = with_image_phase(maps, kspace, mask)
    torch.testing.assert_close(turned.abs(), maps.abs())
    found = combine_coils(maps * image, turned)
    torch.testing.assert_close(found.abs(), magnitude, atol=1e-5, rtol=1e-4)
    inside = magnitude > 0.2
    assert found[inside].angle().abs().mean() < 0.2 < image[inside].angle().abs().mean()
    empty = with_image_phase(maps, 0 * kspace, mask)
    assert torch.equal(empty, maps)
