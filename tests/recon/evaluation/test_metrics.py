import numpy as np
import pytest
import torch
from fastmri import evaluate

from recon import foreground_ssim, metric_card, nmse, psnr, ssim


def volume_pair(scale, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    reference = (scale * rng.random((3, 24, 20))).astype(dtype)
    return reference, (reference + 0.1 * scale * rng.standard_normal(reference.shape)).astype(dtype)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("ours", "theirs"), [(psnr, evaluate.psnr), (ssim, evaluate.ssim), (nmse, evaluate.nmse)])
def test_equals_fastmri_bit_for_bit(ours, theirs, scale, dtype):
    reference, image = volume_pair(scale, dtype)
    assert ours(reference, image) == theirs(reference, image)
    assert ours(torch.from_numpy(reference), torch.from_numpy(image)) == theirs(reference, image)


def test_psnr_uses_the_maximum_of_the_volume():
    # Analytic: one slice is ten times dimmer; the error is 0.01 everywhere, the maximum 1.
    reference = np.full((2, 8, 8), 0.1)
    reference[0] = 1.0
    assert psnr(reference, reference + 0.01) == pytest.approx(40.0, abs=1e-6)


def test_perfect_image():
    reference, _ = volume_pair(1e-5)
    assert psnr(reference, reference) == np.inf
    assert ssim(reference, reference) == pytest.approx(1.0)
    assert nmse(reference, reference) == 0.0
    assert foreground_ssim(reference, reference) == pytest.approx(1.0)


def test_foreground_ssim_is_ssim_where_all_is_foreground():
    reference, image = volume_pair(1.0, np.float64)
    reference, image = reference + 1.0, image + 1.0
    assert foreground_ssim(reference, image) == pytest.approx(ssim(reference, image), rel=1e-12)


def test_foreground_ssim_ignores_errors_in_the_background():
    reference = np.zeros((1, 40, 40))
    reference[0, 12:28, 12:28] = np.random.default_rng(0).random((16, 16)) + 0.5
    image = reference.copy()
    image[0, :6, :6] += 0.5
    assert foreground_ssim(reference, image) == pytest.approx(1.0)
    assert ssim(reference, image) < 0.99


@pytest.mark.parametrize("metric", [psnr, ssim, nmse, foreground_ssim])
@pytest.mark.parametrize(
    ("reference", "image", "error", "message"),
    [
        (np.ones((2, 8, 8)), np.ones((2, 8, 8)), ValueError, "constant"),
        (np.zeros((2, 8, 8)), np.ones((2, 8, 8)), ValueError, "constant"),
        (np.eye(8)[None], np.eye(9)[None], ValueError, "shape"),
        (np.eye(8), np.eye(8), ValueError, "slices"),
        (np.eye(8)[None], np.full((1, 8, 8), np.nan), ValueError, "NaN"),
        (np.full((1, 8, 8), np.inf), np.eye(8)[None], ValueError, "infinite"),
        (np.eye(8)[None] * 1j, np.eye(8)[None], TypeError, "magnitudes"),
        (np.eye(8, dtype=int)[None], np.eye(8)[None], TypeError, "float32"),
    ],
    ids=["constant", "zero", "shape", "2-D", "NaN", "infinite", "complex", "integer"],
)
def test_bad_input(metric, reference, image, error, message):
    with pytest.raises(error, match=f"{metric.__name__}.*{message}"):
        metric(reference, image)


def test_metric_card_names_reference_and_crop():
    card = metric_card({"coil_combined", "rss"}, {(320, 320), (213, 213)}, {"espirit"})
    assert "volume" in card["data_range"] and "7x7" in card["ssim"]
    assert "coil-combined" in card["reference"] and "root sum of squares" in card["reference"]
    assert "213x213, 320x320" in card["crop"] and card["coil_maps"] == "espirit"
