import pytest
import torch

from physics import CartesianMRI
from recon import Augmentation, Sample, SampleMeta


def make_sample(shape=(32, 32), noise_std=0.0, kind="coil_combined", maps=None):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(shape[1], generator=generator) < 0.6
    if maps is None:
        maps = torch.randn(4, *shape, dtype=torch.complex64, generator=generator)
    operator = CartesianMRI(maps, mask)
    image = torch.randn(*shape, dtype=torch.complex64, generator=generator)
    return Sample(
        measurement=operator(image),
        operator=operator,
        noise_std=torch.tensor(noise_std),
        reference=image if kind == "coil_combined" else image.abs(),
        scale=torch.tensor(1.0),
        condition=None,
        meta=(SampleMeta("north", "file.h5", 0, 2.0, kind),),
    )


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_new_measurement_belongs_to_the_new_reference():
    sample = make_sample()
    changed = Augmentation(probability=1.0)(sample, seeded(0))
    assert not torch.equal(changed.reference, sample.reference)
    assert torch.equal(changed.measurement, sample.operator(changed.reference))
    assert changed.operator is sample.operator and changed.meta == sample.meta


def test_drawn_by_the_generator_alone():
    sample, augmentation = make_sample(noise_std=0.1), Augmentation(probability=1.0)
    first, second, other = (augmentation(sample, seeded(seed)).measurement for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_probability():
    sample = make_sample()
    assert Augmentation(probability=0.0)(sample, seeded(0)) is sample
    changed = sum(Augmentation(probability=0.5)(sample, seeded(i)) is not sample for i in range(200))
    assert 70 < changed < 130


def test_noise_is_at_sampled_positions_with_the_level_of_the_sample():
    sample = make_sample(shape=(96, 96), noise_std=0.3)
    changed = Augmentation(probability=1.0)(sample, seeded(0))
    noise = changed.measurement - sample.operator(changed.reference)
    mask = sample.operator.mask.expand(96, 96)
    assert (noise[:, ~mask] == 0).all()
    assert noise[:, mask].abs().square().mean().sqrt() == pytest.approx(0.3, rel=0.02)


def test_flips_are_exact():
    image = torch.randn(6, 5, dtype=torch.complex64)
    augmentation = Augmentation(max_rotation_deg=0, scale=(1, 1))
    assert torch.equal(augmentation.transform(image, [0.0, 0.9, 0.5, 0.5]), image.flip(-1))
    assert torch.equal(augmentation.transform(image, [0.9, 0.0, 0.5, 0.5]), image.flip(-2))
    still = Augmentation(flip=False, max_rotation_deg=0, scale=(1, 1))
    assert torch.equal(still.transform(image, [0.0, 0.0, 0.5, 0.5]), image)


def test_a_quarter_turn_is_exact():
    image = torch.randn(8, 8, dtype=torch.complex64)
    turned = Augmentation(flip=False, max_rotation_deg=90, scale=(1, 1)).transform(image, [0, 0, 1.0, 0])
    errors = [float((turned - image.rot90(k)).abs().max()) for k in (1, -1)]
    assert min(errors) < 1e-4


def test_magnification_scales_lengths():
    rows = torch.arange(64) - 31.5
    disc = ((rows[:, None] ** 2 + rows**2) < 15**2).to(torch.complex64)
    larger = Augmentation(flip=False, max_rotation_deg=0, scale=(1, 1.5)).transform(disc, [0, 0, 0, 1.0])
    assert float(larger.abs().sum() / disc.abs().sum()) == pytest.approx(1.5**2, rel=0.02)


def test_phase_moves_with_the_magnitude():
    image = torch.randn(16, 16, dtype=torch.complex64)
    augmentation, draws = Augmentation(max_rotation_deg=20), [0.1, 0.9, 0.8, 0.3]
    turned = augmentation.transform(1j * image, draws)
    assert torch.allclose(turned, 1j * augmentation.transform(image, draws), atol=1e-6)


def test_reference_is_zero_where_the_operator_is_blind():
    maps = torch.randn(4, 32, 32, dtype=torch.complex64)
    maps[:, :, :10] = 0
    changed = Augmentation(probability=1.0)(make_sample(maps=maps), seeded(0))
    assert (changed.reference[:, :10] == 0).all() and changed.reference[:, 10:].any()


def test_refuses():
    with pytest.raises(ValueError, match="reference is rss, expected coil_combined"):
        Augmentation()(make_sample(kind="rss"), seeded(0))
    for wrong in ({"max_rotation_deg": -1}, {"scale": (1.1, 0.9)}, {"scale": (0, 1)}, {"probability": 2}):
        with pytest.raises(ValueError, match=f"Augmentation: {next(iter(wrong))} is"):
            Augmentation(**wrong)
