from dataclasses import replace

import pytest
import torch

from physics import CartesianMRI, Sampling
from recon import DataError, Sample, SampleMeta, batches, center_crop, collate, held_out_split


def make_sample(shape=(24, 20), coils=3, seed=0, mask=None, kind="coil_combined", crop=None):
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(*size, dtype=torch.complex64, generator=generator)

    if mask is None:
        mask = torch.rand(shape[1], generator=generator) < 0.5
        mask[shape[1] // 2 - 3 : shape[1] // 2 + 3] = True
    operator = CartesianMRI(random(coils, *shape), mask)
    image = random(*shape)
    references = {"coil_combined": image, "rss": torch.rand(crop or shape, generator=generator), "none": None}
    return Sample(
        measurement=operator(image),
        operator=operator,
        noise_std=torch.tensor(0.01 * (seed + 1)),
        reference=references[kind],
        scale=torch.tensor(1e-5),
        condition=torch.arange(8.0),
        meta=(SampleMeta("north", f"file_{seed}.h5", seed, 2.0, kind),),
        output_weight=operator.rss if kind == "rss" else None,
        crop_shape=crop,
    )


def test_magnitude_and_target():
    sample = make_sample(crop=(12, 12))
    image = sample.reference
    assert torch.equal(sample.magnitude(image), image.abs()[6:18, 4:16])
    assert torch.equal(sample.target(), sample.magnitude(image))
    rss = make_sample(kind="rss", crop=(12, 10))
    expected = (image.abs() * rss.operator.rss)[6:18, 5:15]
    assert torch.equal(rss.magnitude(image), expected)
    assert torch.equal(rss.target(), rss.reference)
    with pytest.raises(ValueError, match=r"file_0\.h5 slice 0 has no reference"):
        make_sample(kind="none").target()


def test_magnitude_has_a_finite_gradient_at_zero():
    image = torch.zeros(24, 20, dtype=torch.complex64, requires_grad=True)
    make_sample().magnitude(image).sum().backward()
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(6, 5), (7, 8), (3, 3)])
def test_center_crop_equals_fastmri(shape):
    from fastmri.data.transforms import center_crop as theirs

    image = torch.randn(2, 9, 8)
    assert torch.equal(center_crop(image, shape), theirs(image, shape))


def test_center_crop_of_too_small_an_image():
    with pytest.raises(ValueError, match=r"center_crop: .*expected at least \(9, 4\)"):
        center_crop(torch.zeros(8, 8), (9, 4))


@pytest.mark.parametrize("kind", ["coil_combined", "rss", "none"])
def test_a_batch_equals_its_samples(kind):
    samples = [make_sample(seed=i, kind=kind, crop=(12, 12)) for i in range(3)]
    batch = collate(samples)
    assert batch.measurement.shape == (3, 3, 24, 20) and batch.noise_std.shape == batch.scale.shape == (3,)
    assert batch.condition.shape == (3, 8)
    assert [meta.volume for meta in batch.meta] == ["file_0.h5", "file_1.h5", "file_2.h5"]
    images = torch.randn(3, 24, 20, dtype=torch.complex64)
    measured, magnitude = batch.operator(images), batch.magnitude(images)
    for i, sample in enumerate(samples):
        assert torch.allclose(measured[i], sample.operator(images[i]), atol=1e-5)
        assert torch.allclose(magnitude[i], sample.magnitude(images[i]), atol=1e-5)
        if kind != "none":
            assert torch.allclose(batch.target()[i], sample.target())


def test_collate_refuses_samples_of_different_kinds():
    with pytest.raises(ValueError, match="no sample"):
        collate([])
    with pytest.raises(ValueError, match=r"2 kinds.*batches"):
        collate([make_sample(), make_sample(shape=(24, 22))])
    with pytest.raises(ValueError, match=r"2 kinds.*batches"):
        collate([make_sample(), make_sample(kind="none")])
    bare = replace(make_sample(), operator=2 * make_sample().operator)
    with pytest.raises(ValueError, match="operator is Scaled, expected one with `collate`"):
        collate([bare])


def test_batches_group_by_shape_and_visit_all():
    shapes = [(24, 20), (24, 22), (24, 20), (24, 20), (24, 22)]
    samples = [make_sample(shape=shape, seed=i) for i, shape in enumerate(shapes)]
    seen = [[meta.slice for meta in batch.meta] for batch in batches(samples, 2)]
    assert seen == [[0, 2], [1, 4], [3]]

    def drawn(seed):
        found = batches(samples, 2, torch.Generator().manual_seed(seed))
        return [[meta.slice for meta in batch.meta] for batch in found]

    assert sorted(i for batch in drawn(0) for i in batch) == list(range(5))
    assert drawn(0) == drawn(0) and any(drawn(0) != drawn(seed) for seed in range(1, 6))
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(batches(samples, 0))


def test_to_leaves_the_original_where_it_is():
    sample = make_sample()
    assert sample.to("cpu") is sample
    moved = sample.to("meta")
    assert moved.measurement.device.type == moved.operator.maps.device.type == "meta"
    assert sample.measurement.device.type == sample.operator.maps.device.type == "cpu"


@pytest.mark.parametrize("two_dimensional", [False, True])
def test_held_out_positions_are_taken_away(two_dimensional):
    mask = torch.rand(24, 20, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[8:16, 6:14] = True
    sample = make_sample(mask=mask if two_dimensional else None)
    kept, held_out = held_out_split(sample, 0.3, torch.Generator().manual_seed(2))
    full = sample.operator.mask
    assert held_out.shape == (1, *full.shape) and held_out.any()
    assert torch.equal(kept.operator.mask | held_out[0], full) and not (kept.operator.mask & held_out).any()
    assert (kept.measurement * held_out == 0).all()
    assert torch.equal(kept.measurement + sample.measurement * held_out, sample.measurement)
    block = (slice(8, 16), slice(6, 14)) if two_dimensional else (slice(None), slice(7, 13))
    assert kept.operator.mask[block].all()
    assert torch.allclose(kept.operator(sample.reference), kept.measurement, atol=1e-5)
    again = held_out_split(sample, 0.3, torch.Generator().manual_seed(2))[1]
    assert torch.equal(held_out, again)


def test_held_out_fraction():
    mask = torch.zeros(20, dtype=torch.bool)
    mask[::2] = mask[8:12] = True  # candidates: 0 2 4 6 14 16 18 (and 12, 13 belong to neither)
    sample = make_sample(mask=mask)
    counts = [int(held_out_split(sample, f, torch.Generator())[1].sum()) for f in (0.01, 0.5, 0.99)]
    candidates = counts[2] + 1
    assert counts[0] == 1 and counts[1] == round(candidates / 2) and candidates >= 6


def test_held_out_of_a_mask_without_a_center():
    sample = make_sample(mask=torch.arange(20) % 2 == 1)
    assert held_out_split(sample, 0.5, torch.Generator())[1].sum() == 5


def test_held_out_split_refuses():
    sample = make_sample()
    with pytest.raises(ValueError, match="fraction is 1"):
        held_out_split(sample, 1, torch.Generator())
    with pytest.raises(DataError, match=r"file_0\.h5: hold out: found 0 candidates.*outside the calibration block"):
        held_out_split(make_sample(mask=torch.ones(20, dtype=torch.bool)), 0.5, torch.Generator())
    bare = replace(sample, operator=Sampling(torch.ones(3, 24, 20, dtype=torch.bool), (3, 24, 20)))
    with pytest.raises(TypeError, match="operator is Sampling"):
        held_out_split(bare, 0.5, torch.Generator())
