"""Reconstructions in files that are none of their k-space, or of too little of it; sound ones pass in silence."""

import re

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from physics import SAMPLINGS, make_mask
from recon import DataError, open_volume

from .test_mri_checks import lines, only_line, rss, scan

SHAPE = (96, 80)
FAMILIES = [name for name in SAMPLINGS if name != "poisson"]


def middle(image, size):
    top, left = ((n - wanted) // 2 for n, wanted in zip(image.shape[1:], size, strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


def mask_of(name, acceleration=4, fraction=0.1, shape=SHAPE):
    if name == "one side":
        return np.arange(shape[1]) < 0.7 * shape[1]
    return make_mask(name, shape, acceleration, fraction, 3).mask.numpy()


@pytest.mark.parametrize("name", [*FAMILIES, "one side"])
@pytest.mark.parametrize("coils", [1, 6])
@pytest.mark.parametrize("crop", [None, (64, 64)])
def test_a_zero_filled_reference_is_said(written, name, coils, crop):
    kspace, mask = scan(3, coils, SHAPE), mask_of(name)
    content = {"mask": mask, "recon": crop or SHAPE}
    path = written(kspace * mask, reconstruction_rss=rss(kspace * mask, crop), **content)
    assert re.search("found the zero-filled image of the undersampled kspace", only_line(path, reference="rss"))
    assert lines(written(kspace * mask, reconstruction_rss=rss(kspace, crop), **content), reference="rss") == []


@pytest.mark.parametrize(
    ("name", "acceleration"), [*((name, 4) for name in FAMILIES), ("random", 8), ("equispaced", 8)]
)
def test_a_reference_of_another_person_is_said_where_few_lines_are_sampled(written, name, acceleration):
    mask, kspace = mask_of(name, acceleration, 0.4 / acceleration), scan(1, 6, SHAPE)
    for seed in range(1, 4):
        # Heads differ in their outline as well.
        other = zoom(rss(scan(1, 6, SHAPE, seed=seed)), (1, 0.8, 1.1))
        picture = np.zeros((1, *SHAPE), np.float32)
        size = [min(a, b) for a, b in zip(other.shape[1:], SHAPE, strict=True)]
        middle(picture, size)[:] = middle(other, size)
        path = written(kspace * mask, mask=mask, reconstruction_rss=picture)
        assert re.search("is it of another scan", only_line(path, reference="rss"))


@pytest.mark.parametrize("wrong", [0, 5])
def test_the_ends_of_a_volume_are_compared(written, wrong):
    kspace = scan(6)
    picture = rss(kspace)
    picture[wrong] = rss(scan(6, seed=9))[wrong]
    kspace[2] *= 1.2  # the brightest one
    picture[2] *= 1.2
    line = only_line(written(kspace, reconstruction_rss=picture), reference="rss")
    assert re.search(rf"reconstruction_rss\[{wrong}\]: found an image that correlates", line)


def test_dim_slices_are_not_compared(written):
    kspace = scan(6)
    kspace[0] *= 0.01
    picture = rss(kspace)
    picture[0] = picture[0][::-1]
    assert lines(written(kspace, reconstruction_rss=picture), reference="rss") == []


@pytest.mark.parametrize("shape", [(128, 128), (160, 128), (48, 40)])
@pytest.mark.parametrize("undersampled", [False, True])
def test_interpolated_references_are_named(written, shape, undersampled):
    kspace, mask = scan(2, 6, SHAPE), mask_of("random") if undersampled else np.ones(SHAPE[1], bool)
    picture = torch.nn.functional.interpolate(torch.from_numpy(rss(kspace))[None], shape, mode="bicubic")[0].numpy()
    path = written(kspace * mask, mask=mask, reconstruction_rss=picture)
    found = rf"found {shape[0]}x{shape[1]} interpolated pixels, expected 96x80, those of kspace"
    with pytest.raises(DataError, match=found):
        lines(path, reference="rss")
    if not undersampled:
        assert re.search(found, only_line(path))
    assert open_volume(path).rss_shape == shape
