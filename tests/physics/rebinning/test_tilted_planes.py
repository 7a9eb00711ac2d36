"""Axial images of tilted planes against functions that a straight line along z restores, and against a phantom."""

import math

import numpy as np
import pytest
import torch

from physics import MU_WATER, ImageGrid, SliceRebinning, TiltedPlanes, filtered_backprojection

from .test_rebinning import FLAT, scan_of, views_of

GRID = ImageGrid((20, 30), 2.0, (1.0, -3.0))


def planes_of(count=20, spacing=1.0, slope=0.01, turn=0.7):
    z = 5 + np.arange(count) * spacing
    return TiltedPlanes(z, slope * np.stack((np.cos(turn * z), np.sin(turn * z)), axis=1))


def heights(planes, grid):
    return np.stack(
        [z + a * grid.x_mm + b * grid.y_mm[:, None] for z, (a, b) in zip(planes.z_mm, planes.slopes, strict=True)]
    )


def test_functions_that_are_linear_along_z_are_restored():
    planes = planes_of()
    images = (2 * heights(planes, GRID) + np.square(GRID.x_mm)).astype(np.float32)
    at = planes.axial_mm(GRID, 1.5)
    found = planes.axial_images(images, GRID, at)
    assert found == pytest.approx(2 * at[:, None, None] + np.square(GRID.x_mm) + np.zeros((20, 1)), abs=2e-4)
    # The images as they are, taken for axial ones, are not.
    assert np.abs(images[8] - (2 * planes.z_mm[8] + np.square(GRID.x_mm))).max() > 0.3


def test_axial_images_fill_what_the_planes_cover():
    planes = planes_of()
    of_planes = heights(planes, GRID)
    low, high = of_planes[0].max(), of_planes[-1].min()
    at = planes.axial_mm(GRID, 1.5)
    assert np.diff(at) == pytest.approx(1.5)
    assert low <= at[0] < low + 1.5 and high - 1.5 < at[-1] <= high
    assert at.mean() == pytest.approx((low + high) / 2)
    edges = planes.axial_images(of_planes.astype(np.float32), GRID, np.array([low, high]))
    assert edges == pytest.approx(np.array([low, high])[:, None, None] + np.zeros((20, 30)), abs=1e-4)
    with pytest.raises(ValueError, match=rf"{high + 0.1:g} mm, expected {low:g} to {high:g}, which the planes cover"):
        planes.axial_images(of_planes.astype(np.float32), GRID, np.array([high + 0.1]))
    assert planes.tilt_rad == pytest.approx(math.atan(0.01))


def test_planes_that_cross_or_cover_nothing_are_refused():
    with pytest.raises(ValueError, match=r"planes 0 and 1 cross within \d+ mm of the axis"):
        planes_of(slope=0.1, turn=math.pi).axial_mm(GRID, 1.0)
    with pytest.raises(ValueError, match=r"planes from 5 to 5\.5 mm, tilted by 0\.57 degrees, cover no axial image of"):
        planes_of(count=2, spacing=0.5).axial_mm(GRID, 1.0)
    with pytest.raises(ValueError, match=r"have shapes \(3,\) and \(2, 2\), expected \(planes,\) and \(planes, 2\)"):
        TiltedPlanes(np.arange(3.0), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="heights that increase"):
        TiltedPlanes(np.array([0.0, 2.0, 2.0]), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"images have shape \(3, 4, 4\), expected \(20, 20, 30\)"):
        planes_of().axial_images(np.zeros((3, 4, 4), np.float32), GRID, np.array([9.0]))


def test_axial_images_of_a_helix_are_nearer_to_the_phantom_than_single_slices():
    scan = scan_of(rows=32, row_mm=4.0, columns=140, pitch_mm=4.5)
    views, grid, z = views_of(scan, FLAT), ImageGrid((64, 64), 260 / 64), 14.0
    fine = grid.refined(4)
    truth = FLAT.slice(z, fine.x_mm, fine.y_mm).reshape(64, 4, 64, 4).mean((1, 3))

    def image(rebinning, height):
        lines = rebinning.rebin(views, height, 0.0).lines
        return filtered_backprojection(torch.from_numpy(lines)[None], rebinning.geometry, grid)[0].numpy()

    rebinning = SliceRebinning(scan, 150, tilted=True)
    at = z + np.arange(-9, 10) * 1.0
    planes = TiltedPlanes(at, np.array([rebinning.slope_at(height) for height in at]))
    stack = np.stack([image(rebinning, height) for height in at])
    found = {
        "axial": planes.axial_images(stack, grid, np.array([z]))[0],
        "tilted": stack[9],
        "single slice": image(SliceRebinning(scan, 150), z),
    }
    error = {name: float(np.sqrt(np.square(each - truth).mean())) / MU_WATER for name, each in found.items()}
    assert error["axial"] < 0.7 * error["single slice"]
    assert error["axial"] < 0.7 * error["tilted"]
