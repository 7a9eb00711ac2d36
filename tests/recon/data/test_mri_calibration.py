"""Coil maps from a calibration scan of another matrix and field of view."""

import re

import numpy as np
import pytest
import torch

from physics import CalibrationScan, estimate_maps, fft2c
from recon import DataError, KSpaceSlices
from recon.classical import MRI_METHODS

SHAPE, COILS = (96, 80), 8


def body(shape, zoom=1.0):
    """Ellipses in a field of view ``zoom`` times that of the scan."""
    y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 2) * zoom for n in shape), indexing="ij")
    image = ((y / 0.7) ** 2 + (x / 0.6) ** 2 < 1).astype(float)
    for cy, cx, a, b, value in ((0.2, 0.1, 0.2, 0.3, 0.8), (-0.3, -0.2, 0.25, 0.15, -0.6), (-0.1, 0.35, 0.1, 0.1, 1)):
        image[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] += value
    return torch.from_numpy(image * np.exp(1j * (0.4 * x - 0.3 * y))), torch.from_numpy(np.stack((y, x)))


def sensitivities(place):
    """Smooth maps at positions in units of half the field of view of the scan."""
    y, x = place
    maps = []
    for angle in 2 * np.pi * np.arange(COILS) / COILS:
        distance = (y - 1.3 * np.sin(angle)) ** 2 + (x - 1.3 * np.cos(angle)) ** 2
        maps.append(torch.polar(torch.exp(-distance / 1.5), angle + 0.5 * (x * np.cos(angle) + y * np.sin(angle))))
    maps = torch.stack(maps)
    return maps / maps.abs().square().sum(0).sqrt()


def measured(shape, zoom=1.0, seed=0):
    image, place = body(shape, zoom)
    maps = sensitivities(place)
    noise = np.random.default_rng(seed).standard_normal((2, COILS, *shape))
    kspace = fft2c(maps * image).numpy() + 0.002 * (noise[0] + 1j * noise[1])
    return kspace[None].astype(np.complex64), maps[None].to(torch.complex64).numpy()


@pytest.fixture
def pair(fake_file, header):
    """A scan without calibration lines, and its calibration scan; keyword arguments change the latter."""

    def xml(shape, fov):
        field = f"</matrixSize><fieldOfView_mm><x>{fov[0]}</x><y>{fov[1]}</y><z>5</z></fieldOfView_mm>"
        return header(shape).replace("</matrixSize>", field)

    def write(zoom=1.25, coils=COILS, fov=None, slices=1, with_fields=True):
        mask = np.arange(SHAPE[1]) % 2 == 1
        kspace, maps = measured(SHAPE)
        low = (40, 32)
        calibration = np.repeat(measured(low, zoom, 1)[0][:, :coils], slices, 0)
        fov = fov or (240 * zoom, 200 * zoom)
        text = {"ismrmrd_header": xml(low, fov)} if with_fields else {}
        fake_file("scan_calibration.h5", shape=calibration.shape, kspace=calibration, **text)
        content = {"mask": mask, "ismrmrd_header": xml(SHAPE, (240, 200))}
        return fake_file("scan.h5", shape=kspace.shape, kspace=kspace * mask, maps=maps, **content)

    return write


PATTERN = "{stem}_calibration.h5"


@pytest.mark.parametrize("zoom", [1.1, 1.25, 1.6])
def test_maps_of_a_calibration_scan_are_nearly_the_true_ones(pair, zoom, tmp_path):
    path = pair(zoom)
    truth = body(SHAPE)[0].abs()

    def psnr(**options):
        sample = KSpaceSlices([path], "north", **options)[0]
        image = MRI_METHODS["cg_sense"]()(sample.measurement, sample.operator).abs() * sample.scale
        return float(10 * torch.log10(truth.max() ** 2 / (image - truth).square().mean()))

    found = psnr(calibration_scan=PATTERN, maps_folder=tmp_path / "maps")
    assert found > psnr(maps="true") - 1 and found > 22
    assert psnr(calibration_scan=PATTERN, maps_folder=tmp_path / "maps") == found
    with pytest.raises(DataError, match="no sample at the center of k-space"):
        psnr()


def test_stored_maps_belong_to_the_calibration_scan(pair, tmp_path):
    folder = tmp_path / "maps"
    for number, zoom in enumerate((1.0, 1.25)):
        KSpaceSlices([pair(zoom)], "north", calibration_scan=PATTERN, maps_folder=folder)[0]
        assert len(list(folder.iterdir())) == number + 1


@pytest.mark.parametrize("center", [True, False])
def test_masks_of_columns_are_taken_as_they_are(center):
    kspace = torch.from_numpy(measured(SHAPE)[0][0])
    mask = torch.arange(SHAPE[1]) % 2 == (SHAPE[1] // 2 + (not center)) % 2
    scan = CalibrationScan(torch.from_numpy(measured((40, 32))[0][0]))
    assert torch.equal(
        estimate_maps(kspace * mask, mask, calibration=scan), estimate_maps(kspace * mask, mask[None], calibration=scan)
    )


def test_a_calibration_scan_needs_no_calibration_lines(pair):
    data = KSpaceSlices([pair()], "north", calibration_scan=PATTERN)
    assert data.calibration(0) is None and data.check(0) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coils": 6}, "kspace: found 6 coils, expected 8"),
        ({"slices": 3}, "kspace: found 3 slices, expected 1 or 1"),
        ({"fov": (200, 160)}, "fieldOfView_mm: found 200x160, expected at least 240x200"),
        ({"with_fields": False}, "fieldOfView_mm: found nothing usable"),
    ],
)
def test_calibration_scans_that_do_not_fit_are_refused(pair, changes, words):
    with pytest.raises(DataError, match=rf"scan_calibration.h5: .*{re.escape(words)}"):
        KSpaceSlices([pair(**changes)], "north", calibration_scan=PATTERN)


def test_a_missing_calibration_scan_is_named(pair):
    with pytest.raises(DataError, match=r"other\.h5: file: found nothing"):
        KSpaceSlices([pair()], "north", calibration_scan="other.h5")
