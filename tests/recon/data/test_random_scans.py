"""Random scans: reproducible, different from each other, and consistent with their operators and noise."""

import pytest
import torch
from skimage.measure import label

from physics import body_phantom, brain_phantom
from recon import RandomCTScans, RandomScans, Sample, collate

COUNT = 12


def mri(**options: object) -> RandomScans:
    images = [brain_phantom((64, 64), seed, "t1").abs() for seed in range(3)]
    return RandomScans(images, COUNT, **options)  # type: ignore[arg-type]


def ct(**options: object) -> RandomCTScans:
    return RandomCTScans([body_phantom((160, 160), seed, "chest") for seed in range(2)], COUNT, size=64, **options)  # type: ignore[arg-type]


def misfit(sample: Sample) -> float:
    """Root mean square of ``A x - y`` at measured positions, in units of the noise."""
    assert sample.reference is not None
    measured = sample.operator.sampled.expand(sample.measurement.shape)
    error = (sample.operator(sample.reference) - sample.measurement)[measured]
    return float(error.abs().square().mean().sqrt() / sample.noise_std)


def test_equal_seeds_give_equal_scans_in_any_order() -> None:
    for make in (mri, ct):
        one, two, other = make(), make(), make(seed=1)
        for index in (7, 2):
            a, b = one[index], two[index]
            assert torch.equal(a.measurement, b.measurement) and a.operator.range_shape == b.operator.range_shape
            assert a.measurement.shape != other[index].measurement.shape or not torch.equal(
                a.measurement, other[index].measurement
            )


def test_mri_scans_differ_and_their_residual_is_the_noise() -> None:
    scans = [mri()[i] for i in range(COUNT)]
    assert len({scan.measurement.shape[0] for scan in scans}) > 3
    assert len({round(scan.meta[0].acceleration, 1) for scan in scans}) > 5
    fits = sorted(misfit(scan) for scan in scans)
    # Estimated maps do not fit exactly: clean scans show it.
    assert fits[0] > 0.95 and fits[COUNT // 2] < 1.3
    for scan in scans:
        assert scan.reference is not None and scan.condition is not None
        assert 0.0015 <= float(scan.noise_std) <= 0.07 and float(scan.reference.abs().max()) < 1.3
        assert collate([scan]).operator.norm.shape == (1,)


def test_labels_get_an_image() -> None:
    labels = (brain_phantom((64, 64), 0, "t1").abs() * 4).round().long()
    scan = RandomScans([labels], 2)[1]
    assert scan.reference is not None and float(scan.reference.abs().max()) > 0.5


def test_the_phase_can_be_smooth() -> None:
    scans = mri(phase="smooth")
    assert scans[0].measurement.shape == mri()[0].measurement.shape
    assert not torch.equal(scans[3].measurement, mri()[3].measurement)


@pytest.mark.slow
def test_ct_scans_differ_and_fit() -> None:
    scans = [ct()[i] for i in range(COUNT)]
    assert len({scan.measurement.shape[0] for scan in scans}) > 6
    for scan in scans:
        assert scan.reference is not None and scan.reference.shape == (64, 64)
        assert float(scan.reference.min()) >= 0 and 0.3 < float(scan.reference.max()) < 4
        # Finer objects and several rays per element: the model error is of the order of the noise.
        assert 0.8 < misfit(scan) < 12


@pytest.mark.slow
def test_discs_have_few_holes_or_many_cells_and_most_have_a_cup() -> None:
    discs = [ct(discs=1.0)[i].reference for i in range(COUNT)]
    counts, falls = [], []
    for disc in discs:
        assert disc is not None
        dense = disc > 0.5 * disc.max()
        counts.append(int(label(~dense.numpy(), connectivity=1).max()) - 1)  # without the air around it
        # Attenuation of a quarter of the radius against that of the rim.
        place = torch.hypot(*torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij"))
        falls.append(float(disc[dense & (place < 0.4)].mean() / disc[dense].max()))
    assert min(counts) <= 1 and max(counts) >= 5
    assert min(falls) < 0.85


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="0 images"):
        RandomScans([], 3)
    with pytest.raises(ValueError, match="0 bodies"):
        RandomCTScans([], 3)
    with pytest.raises(IndexError, match="index 12"):
        mri()[COUNT]
