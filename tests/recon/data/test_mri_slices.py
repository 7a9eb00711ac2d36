import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fastmri.data import mri_data, subsample, transforms
from torch.utils.data import DataLoader

from physics import birdcage_maps, ifft2c, root_sum_of_squares
from recon import (
    CONDITION_LAYOUT,
    Augmentation,
    DataError,
    KSpaceSlices,
    Simulation,
    simulate_volume,
    simulated_header,
    write_volume,
)
from recon.data.mri_file import KSpaceVolume
from recon.data.scan_features import FEATURE_RANGES, split_condition

SHAPE = (64, 56)


def anatomy(n=3, shape=SHAPE, seed=0):
    """Smooth complex blobs inside an ellipse, different in every slice."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.linspace(-1, 1, size) for size in shape)
    inside = ((rows[:, None] / 0.8) ** 2 + (columns / 0.7) ** 2 < 1).to(torch.float32)
    slices = []
    for _ in range(n):
        image = torch.full(shape, 0.3)
        for cy, cx, height in (torch.rand(6, 3, generator=generator) - 0.5).tolist():
            image += height * torch.exp(-30 * ((rows[:, None] - cy) ** 2 + (columns - cx) ** 2))
        slices.append(torch.polar((image.abs() + 0.1) * inside, rows[:, None] + 0.5 * columns.square()))
    return torch.stack(slices)


@pytest.fixture
def phantom_file(tmp_path):
    """Writes a noise-free phantom with its true maps; keyword arguments go to `write_volume`."""

    def write(name="a.h5", shape=SHAPE, recon=None, factor=1.0, images=None, coils=4, stated=True, **content):
        maps = birdcage_maps(coils, shape, seed=3) * torch.linspace(0.7, 1.3, shape[1])
        kspace = factor * simulate_volume(anatomy(shape=shape) if images is None else images, maps)
        if stated:
            content.setdefault("noise_covariance", torch.zeros(coils, coils))
        write_volume(
            tmp_path / name,
            kspace,
            simulated_header(shape, recon),
            patient_id="p",
            acquisition="T1",
            maps=maps,
            **content,
        )
        return tmp_path / name

    return write


def relative(error, truth):
    return float(error.norm() / truth.norm())


R2 = Simulation("random", 2, 0.2)


# The reference and the operator belong together.


@pytest.mark.parametrize(("maps", "bound"), [("true", 1e-5), ("espirit", 0.03), ("low_resolution", 0.03)])
def test_operator_maps_the_reference_to_the_measurement(phantom_file, maps, bound):
    dataset = KSpaceSlices([phantom_file()], "north", simulate=R2, maps=maps)
    for sample in (dataset[i] for i in range(3)):
        assert sample.operator.domain_shape == SHAPE and sample.reference.is_complex()
        assert relative(sample.operator(sample.reference) - sample.measurement, sample.measurement) < bound


def test_true_maps_give_back_the_true_image(phantom_file):
    sample = KSpaceSlices([phantom_file()], "north", simulate=R2, maps="true")[1]
    assert torch.allclose((sample.reference * sample.scale).abs(), anatomy()[1].abs(), atol=1e-5)


@pytest.mark.parametrize("maps", ["true", "espirit", "low_resolution"])
def test_the_phase_of_the_image_lies_in_the_maps(phantom_file, maps):
    sample = KSpaceSlices([phantom_file()], "north", simulate=Simulation("random", 2, 0.3), maps=maps)[1]
    bright = sample.reference.abs() > 0.2 * sample.reference.abs().max()
    assert sample.reference[bright].angle().abs().mean() < 0.15
    assert anatomy()[1][bright].angle().abs().mean() > 0.3


def test_the_reference_holds_no_simulated_noise(phantom_file):
    path = phantom_file()
    clean = KSpaceSlices([path], "north", simulate=R2, maps="true")[0]
    noisy = KSpaceSlices([path], "north", simulate=Simulation("random", 2, 0.2, 0.05), maps="true")[0]
    assert torch.allclose(clean.reference.abs(), noisy.reference.abs(), atol=1e-6)
    assert relative(clean.measurement - noisy.measurement, clean.measurement) > 0.05


# Noise.


@pytest.mark.parametrize("coloured", [False, True])
def test_noise_is_white_and_as_strong_as_stated(phantom_file, coloured):
    content = {}
    if coloured:
        coupling = torch.randn(4, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        content["noise_covariance"] = 1e-14 * coupling @ coupling.mH
    path = phantom_file(**content)
    dataset = KSpaceSlices([path], "north", simulate=Simulation("random", 2, 0.2, 0.03), maps="true")
    residuals = []
    for sample in (dataset[i] for i in range(3)):
        noise = sample.measurement - sample.operator(sample.reference)
        assert (noise * ~sample.operator.mask == 0).all()
        residuals.append(noise[:, sample.operator.mask.expand(SHAPE)] / sample.noise_std)
    flat = torch.cat(residuals, dim=1)
    covariance = flat @ flat.mH / flat.shape[1]
    assert torch.allclose(covariance, torch.eye(4, dtype=covariance.dtype), atol=0.06)
    with h5py.File(path) as file:
        maximum = file.attrs["max"]
    level = float(sample.noise_std * sample.scale)
    if not coloured:
        assert level == pytest.approx(0.03 * maximum, rel=1e-4)
    else:  # the geometric mean of the eigenvalues is below their arithmetic mean
        assert 0.1 * 0.03 * maximum < level < 0.03 * maximum


def test_noise_differs_between_slices_files_and_seeds_but_not_between_reads(phantom_file):
    same = anatomy(1).expand(2, -1, -1)
    files = [phantom_file("a.h5", images=same), phantom_file("b.h5", images=same)]

    def noise(seed):
        simulate = Simulation("equispaced", 2, 0.2, 0.05, seed=seed)
        dataset = KSpaceSlices(files, "north", simulate=simulate, maps="true")
        assert torch.equal(dataset[0].measurement, dataset[0].measurement)
        return [dataset[i].measurement - dataset[i].operator(dataset[i].reference) for i in range(4)]

    drawn = noise(0) + noise(1)
    for i, first in enumerate(drawn):
        assert all(relative(first - second, first) > 0.5 for second in drawn[:i])


def test_unknown_noise_of_a_file_is_estimated(tmp_path):
    # Smooth object, so that the outermost readout samples hold noise alone.
    maps = birdcage_maps(3, (96, 96))
    rows = torch.linspace(-1, 1, 96)
    image = torch.exp(-8 * (rows[:, None] ** 2 + rows**2)).expand(2, -1, -1)
    coupling = torch.randn(3, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    covariance = 1e-4 * coupling @ coupling.mH
    kspace = simulate_volume(image, maps, noise_covariance=covariance)
    header, facts = simulated_header((96, 96)), {"patient_id": "p", "acquisition": "T1", "maps": maps}
    write_volume(tmp_path / "unknown.h5", kspace, header, **facts)
    write_volume(tmp_path / "stated.h5", kspace, header, noise_covariance=covariance, **facts)
    unknown, stated = (KSpaceSlices([tmp_path / name], "north", maps="true")[0] for name in ("unknown.h5", "stated.h5"))
    assert unknown.noise_std / stated.noise_std == pytest.approx(1.0, rel=0.1)
    assert relative(unknown.measurement - stated.measurement, stated.measurement) < 0.1
    assert torch.allclose(unknown.reference, stated.reference, atol=0.02)


def test_noise_free_data_have_level_zero_and_no_entry_in_the_condition(phantom_file):
    sample = KSpaceSlices([phantom_file()], "north", simulate=R2)[0]
    assert sample.noise_std == 0 and not split_condition(sample.condition)[1][CONDITION_LAYOUT.index("log10_noise_std")]


# Masks.


@pytest.mark.parametrize("shape", [(32, 368), (32, 372), (31, 213)])
@pytest.mark.parametrize(
    ("name", "function"),
    [("random", subsample.RandomMaskFunc), ("equispaced_fraction", subsample.EquispacedMaskFractionFunc)],
)
def test_mask_and_measurement_equal_fastmri(fake_file, shape, name, function):
    path = fake_file(shape=(1, 2, *shape), recon=(16, 16), center=shape[1] // 2 - 10, maximum=shape[1] - 31)
    simulate = Simulation(name, 4, 0.08)
    dataset = KSpaceSlices([path], "north", simulate=simulate, maps="low_resolution", remove_oversampling=False)
    transform = transforms.VarNetDataTransform(function(center_fractions=[0.08], accelerations=[4]))
    (raw,) = mri_data.SliceDataset(path.parent, challenge="multicoil").raw_samples
    with h5py.File(path) as file:
        kspace = file["kspace"][0]
    theirs = transform(kspace, None, None, raw.metadata, path.name, 0)
    sample = dataset[0]
    assert torch.equal(sample.operator.mask[0], theirs.mask.flatten())
    facts = dataset.volume_facts(0)
    assert facts.noise_std == 0 or facts.whitening is not None
    zero = (sample.measurement == 0).all(0)
    assert torch.equal(zero, (torch.view_as_complex(theirs.masked_kspace) == 0).all(0))


def test_mask_of_the_file_without_its_padding_equals_fastmri(fake_file):
    mask = np.arange(56) % 3 == 0
    mask[24:32] = True
    path = fake_file(shape=(1, 2, *SHAPE), mask=mask.astype(np.float32), center=20, maximum=40)
    (raw,) = mri_data.SliceDataset(path.parent, challenge="multicoil").raw_samples
    kspace = np.ones((2, *SHAPE), np.complex64)
    theirs = transforms.VarNetDataTransform()(kspace, mask, None, raw.metadata, path.name, 0)
    ours = KSpaceSlices([path], "north")[0].operator.mask
    assert torch.equal(ours[0], theirs.mask.flatten()) and int(ours.sum()) < mask.sum()


def test_one_mask_per_volume(phantom_file):
    files = [phantom_file("a.h5"), phantom_file("b.h5")]
    masks = {}
    for seed in (0, 1):
        dataset = KSpaceSlices(files, "north", simulate=Simulation("random", 3, 0.1, seed=seed), maps="true")
        for i in range(6):
            sample = dataset[i]
            masks.setdefault((seed, sample.meta[0].volume), []).append(sample.operator.mask)
    firsts = [group[0] for group in masks.values()]
    assert all(torch.equal(mask, group[0]) for group in masks.values() for mask in group)
    assert all(not torch.equal(a, b) for i, a in enumerate(firsts) for b in firsts[:i])


@pytest.mark.parametrize("sampling", ["poisson", "gaussian"])
def test_two_dimensional_masks(phantom_file, sampling):
    dataset = KSpaceSlices([phantom_file()], "north", simulate=Simulation(sampling, 3, 0.2), maps="true")
    sample = dataset[0]
    assert sample.operator.mask.shape == SHAPE
    assert relative(sample.operator(sample.reference) - sample.measurement, sample.measurement) < 1e-5
    assert dataset.acceleration(0) == pytest.approx(SHAPE[0] * SHAPE[1] / int(sample.operator.mask.sum()))


def test_unmeasured_samples_do_not_matter(phantom_file):
    path = phantom_file()
    before = KSpaceSlices([path], "north", simulate=R2, maps="low_resolution")
    mask = before.mask(0).expand(SHAPE).numpy()
    samples = [before[i] for i in range(3)]
    with h5py.File(path, "a") as file:
        file["kspace"][...] = file["kspace"][()] * np.where(mask, 1, 0.5)
    after = KSpaceSlices([path], "north", simulate=R2, maps="low_resolution")
    for i, sample in enumerate(samples):
        assert torch.equal(sample.measurement, after[i].measurement) and sample.scale == after[i].scale
        assert torch.equal(sample.operator.maps, after[i].operator.maps)
        assert sample.noise_std == after[i].noise_std


def test_file_mask_and_nested_simulation(fake_file):
    mask = np.zeros(56, bool)
    mask[::2] = mask[20:36] = True
    path = fake_file(shape=(2, 3, *SHAPE), mask=mask)
    sample = KSpaceSlices([path], "north", maps="low_resolution")[0]
    assert torch.equal(sample.operator.mask[0], torch.from_numpy(mask))
    assert sample.reference is None and sample.meta[0].reference_kind == "none"
    assert sample.meta[0].acceleration == pytest.approx(56 / mask.sum())
    with pytest.raises(DataError, match=r"mask: found an undersampled file.*nested = true"):
        KSpaceSlices([path], "north", simulate=R2)
    nested = Simulation("random", 2, 0.2, nested=True)
    inner = KSpaceSlices([path], "north", simulate=nested, maps="low_resolution")[0].operator.mask[0]
    alone = KSpaceSlices([fake_file(shape=(2, 3, *SHAPE))], "north", simulate=R2, maps="low_resolution")
    assert torch.equal(inner, torch.from_numpy(mask) & alone[0].operator.mask[0])


def test_mask_without_a_center(fake_file):
    path = fake_file(shape=(1, 3, *SHAPE), mask=np.arange(56) % 2 == 1)
    with pytest.raises(DataError, match=r"mask: found no sample at the center of k-space"):
        KSpaceSlices([path], "north")[0]
    simulate = Simulation("random", 6, 0.0, seed=1)
    with pytest.raises(DataError, match=r"file\.h5: \[simulate\]: .*center_fraction"):
        KSpaceSlices([fake_file(shape=(1, 3, *SHAPE))], "north", simulate=simulate)[0]


# References and crops.


@pytest.mark.parametrize(
    ("shape", "recon", "crop"),
    [((64, 36), (32, 32), (32, 32)), ((64, 32), (32, 32), (32, 32)), ((52, 21), (32, 32), (21, 21))],
    ids=["640x368", "640x322", "512x213"],
)
@pytest.mark.parametrize("reference", ["coil_combined", "rss"])
def test_crop_after_magnitude(fake_file, shape, recon, crop, reference):
    path = fake_file(shape=(1, 3, *shape), recon=recon, noise_covariance=np.zeros((3, 3)))
    with h5py.File(path, "a") as file:
        rss = root_sum_of_squares(ifft2c(torch.from_numpy(file["kspace"][()])))
        pad = max(recon[1] - shape[1], 0)
        target = transforms.center_crop(torch.nn.functional.pad(rss, (pad // 2, pad - pad // 2)), recon)
        file["reconstruction_rss"] = target.numpy()
    if reference == "coil_combined" and shape[1] < recon[1]:
        crop = (recon[0], shape[1])  # the whole field of view; the square is fastMRI's, for its references
    sample = KSpaceSlices([path], "north", maps="low_resolution", reference=reference)[0]
    assert sample.target().shape == crop
    if reference == "rss":
        expected = transforms.center_crop(rss, crop)[0]
        assert torch.allclose(sample.target() * sample.scale, expected, rtol=1e-5)
    solution = sample.reference if reference == "coil_combined" else sample.operator.start(sample.measurement)
    assert sample.magnitude(solution).shape == crop
    assert sample.operator.domain_shape == (32 if shape[0] == 64 else shape[0], shape[1])  # oversampling is removed


def test_rss_of_the_file_equals_the_weighted_magnitude(phantom_file):
    path = phantom_file(recon=(40, 40))
    combined = KSpaceSlices([path], "north", maps="true", reference="coil_combined")[0]
    rss = KSpaceSlices([path], "north", maps="true", reference="rss")[0]
    assert rss.meta[0].reference_kind == "rss" and not rss.reference.is_complex()
    assert rss.target().shape == (40, 40)
    assert torch.allclose(rss.magnitude(combined.reference), rss.target(), atol=1e-4)


def test_references_that_files_do_not_have(fake_file):
    mask = np.arange(56) % 2 == 0
    path = fake_file(shape=(1, 3, *SHAPE), mask=mask)
    with pytest.raises(DataError, match=r"mask: found undersampled.*auto"):
        KSpaceSlices([path], "north", reference="coil_combined")
    with pytest.raises(DataError, match=r"reconstruction_rss: found nothing.*auto"):
        KSpaceSlices([path], "north", reference="rss")
    with pytest.raises(DataError, match=r"maps: found nothing.*espirit"):
        KSpaceSlices([path], "north", maps="true")
    with pytest.raises(DataError, match="without augmentation"):
        KSpaceSlices([path], "north", augment=Augmentation())
    rss = fake_file("rss.h5", (1, 3, *SHAPE), mask=mask, reconstruction_rss=np.ones((1, *SHAPE), np.float32))
    assert KSpaceSlices([rss], "north").reference_kinds == ("rss",)


# Scale, empty slices, bad slices.


@pytest.mark.parametrize("factor", [1e-5, 1e3])
def test_samples_do_not_depend_on_the_scale_of_the_file(phantom_file, factor):
    simulate = Simulation("random", 2, 0.2, 0.02)
    plain = KSpaceSlices([phantom_file()], "north", simulate=simulate)[1]
    scaled = KSpaceSlices([phantom_file(factor=factor)], "north", simulate=simulate)[1]
    assert scaled.scale / plain.scale == pytest.approx(factor, rel=1e-5)
    assert torch.allclose(scaled.measurement, plain.measurement, atol=1e-4)
    assert torch.allclose(scaled.target(), plain.target(), atol=1e-3)
    assert scaled.noise_std == pytest.approx(float(plain.noise_std), rel=1e-5)


def test_images_are_of_order_one_and_share_one_scale(phantom_file):
    dataset = KSpaceSlices([phantom_file(factor=1e-5)], "north", simulate=R2)
    samples = [dataset[i] for i in range(3)]
    assert len({float(sample.scale) for sample in samples}) == 1
    assert 0.5 < max(float(sample.target().max()) for sample in samples) < 2


@pytest.mark.parametrize("maps", ["espirit", "low_resolution"])
@pytest.mark.parametrize("reference", ["coil_combined", "rss"])
@pytest.mark.parametrize("empty", [[1], [0, 1, 2]])
def test_empty_slices_are_finite(phantom_file, maps, reference, empty):
    images = anatomy()
    images[empty] = 0
    path = phantom_file(images=images, stated=False)
    dataset = KSpaceSlices([path], "north", simulate=R2, maps=maps, reference=reference)
    for i in range(3):
        sample = dataset[i]
        image = sample.operator.start(sample.measurement)
        tensors = (sample.measurement, sample.operator.maps, sample.target(), sample.condition, image)
        assert all(tensor.isfinite().all() for tensor in tensors)
        assert i not in empty or (sample.measurement == 0).all()


def test_nan_names_file_dataset_and_slice(fake_file):
    kspace = np.ones((3, 2, *SHAPE), np.complex64)
    kspace[2, 0, 0, 0] = np.nan
    dataset = KSpaceSlices([fake_file(shape=kspace.shape, kspace=kspace)], "north")
    with pytest.raises(DataError, match=r"file\.h5: kspace\[2\]: found NaN"):
        dataset[2]


def test_arguments_that_make_no_dataset(fake_file, tmp_path):
    with pytest.raises(DataError, match="north: found no file, expected at least one"):
        KSpaceSlices([], "north")
    (tmp_path / "other").mkdir()
    first = fake_file()
    second = Path(first).rename(tmp_path / "other" / first.name)
    with pytest.raises(DataError, match="second file of this name"):
        KSpaceSlices([fake_file(), second], "north")
    dataset = KSpaceSlices([second], "north")
    assert len(dataset) == 3 and dataset.locate(-1) == (0, 2)
    with pytest.raises(IndexError, match="index 3"):
        dataset[3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling": "spiral"}, "sampling is 'spiral', expected one of random"),
        ({"acceleration": 0.5}, "acceleration is 0.5"),
        ({"center_fraction": 2}, "center_fraction is 2"),
        ({"noise_std": -1}, "noise_std is -1"),
        ({"noise_std": float("nan")}, "noise_std is nan"),
    ],
)
def test_simulation_checks_its_numbers(wrong, message):
    with pytest.raises(ValueError, match=f"Simulation: {message}"):
        Simulation(**({"sampling": "random", "acceleration": 4, "center_fraction": 0.08} | wrong))


# Reading.


def test_many_slices_cost_nothing(fake_file, monkeypatch):
    path = fake_file(kspace=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("kspace", (200_000, 4, 24, 20), np.complex64, chunks=(1, 4, 24, 20))  # 3 GB if read
    requests = []
    read = h5py.Dataset.__getitem__

    def recording(dataset, key, *args, **kwargs):
        if dataset.name == "/kspace":
            requests.append(key)
        return read(dataset, key, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", recording)
    dataset = KSpaceSlices([path], "north", maps="low_resolution")
    assert len(dataset) == 200_000 and len(requests) <= 4  # to look for zeros
    dataset[123_456]
    assert len(requests) <= 21 and requests[-1] == 123_456
    dataset[7]
    assert len(requests) <= 22 and requests[-1] == 7


def test_a_volume_is_probed_once_until_its_file_changes(fake_file, monkeypatch):
    path = fake_file(shape=(4, 2, *SHAPE))
    reads = []
    read = KSpaceVolume.read_slice
    monkeypatch.setattr(KSpaceVolume, "read_slice", lambda volume, i: (reads.append(i), read(volume, i))[1])

    def first(**options):
        reads.clear()
        simulate = Simulation(**{"sampling": "random", "acceleration": 4, "center_fraction": 0.2, **options})
        return KSpaceSlices([path], "north", simulate=simulate, maps="low_resolution")[0], len(reads)

    sample, count = first()
    assert count == 5
    again, count = first()
    assert count == 1 and torch.equal(again.measurement, sample.measurement) and again.scale == sample.scale
    # Another mask and another noise are other facts.
    assert [first(**options)[1] for options in ({"acceleration": 2}, {"noise_std": 0.1}, {})] == [5, 5, 1]
    with h5py.File(path, "r+") as file:
        file["kspace"][...] *= 2
    louder, count = first()
    assert count == 5 and float(louder.scale) == pytest.approx(2 * float(sample.scale), rel=1e-5)


def test_a_file_that_goes_away_is_one_line(fake_file):
    path = fake_file(shape=(2, 2, *SHAPE))
    dataset = KSpaceSlices([path], "north")
    path.unlink()
    with pytest.raises(DataError, match=r"file.h5: file: found nothing, expected a complete HDF5 file"):
        dataset[0]


def test_a_replaced_file_gets_new_facts(phantom_file):
    def dataset():
        return KSpaceSlices([phantom_file_path], "north", maps="low_resolution")

    phantom_file_path = phantom_file(noise_covariance=torch.eye(4))
    before = dataset()
    phantom_file(noise_covariance=4 * torch.eye(4))
    before[0]  # header of the old file, slices of the new one
    after = dataset()[0]
    assert float(after.noise_std * after.scale) == pytest.approx(2.0, rel=1e-5)


def test_workers_give_the_same_samples(phantom_file, tmp_path):
    files = [phantom_file("a.h5"), phantom_file("b.h5")]
    simulate = Simulation("random", 2, 0.2, 0.02)
    dataset = KSpaceSlices(
        files, "north", simulate=simulate, maps_folder=tmp_path / "maps", augment=Augmentation(probability=1.0)
    )
    alone = [dataset[i] for i in range(6)]
    fresh = pickle.loads(pickle.dumps(KSpaceSlices(files, "north", simulate=simulate, augment=dataset.augment)))
    loader = DataLoader(fresh, batch_size=None, num_workers=2, collate_fn=_first)
    for sample, other in zip(alone, loader, strict=True):
        assert sample.meta == other.meta
        for name in ("measurement", "reference", "noise_std", "scale", "condition"):
            assert torch.equal(getattr(sample, name), getattr(other, name))
        assert torch.equal(sample.operator.maps, other.operator.maps)


def _first(sample):
    return sample


def test_stored_maps_are_the_estimated_ones(phantom_file, tmp_path):
    path, maps_folder = phantom_file(), tmp_path / "maps"
    fresh, stored, again = (
        KSpaceSlices([path], "north", simulate=R2, maps_folder=folder)[0] for folder in (None, maps_folder, maps_folder)
    )
    assert list(maps_folder.iterdir())
    assert torch.equal(fresh.operator.maps, stored.operator.maps)
    assert torch.equal(stored.operator.maps, again.operator.maps)


def test_augmentation_is_drawn_by_seed_epoch_and_slice(phantom_file):
    def first(seed=0, epoch=0, index=0):
        augment = Augmentation(probability=1.0)
        dataset = KSpaceSlices([phantom_file()], "north", simulate=R2, maps="true", augment=augment, seed=seed)
        dataset.epoch = epoch
        return dataset[index].reference

    assert torch.equal(first(), first())
    assert not torch.equal(first(), first(seed=1)) and not torch.equal(first(), first(epoch=1))


def test_condition_holds_the_features_of_the_scan(phantom_file):
    simulate = Simulation("equispaced", 4, 0.2, 0.01)
    dataset = KSpaceSlices([phantom_file()], "north", simulate=simulate, maps="true")
    sample = dataset[0]
    values, present = split_condition(sample.condition)
    known = {
        name: low + float(value) * (high - low)
        for (name, (low, high)), value, here in zip(FEATURE_RANGES.items(), values, present, strict=True)
        if here
    }
    assert 2 ** known["log2_acceleration"] == pytest.approx(sample.meta[0].acceleration, rel=1e-5)
    assert sample.meta[0].acceleration == pytest.approx(dataset.acceleration(0))
    assert 0.15 < known["center_fraction"] < 0.3 and known["n_coils/16"] == pytest.approx(4 / 16)
    assert 10 ** known["log10_noise_std"] == pytest.approx(float(sample.noise_std), rel=1e-5)
    families = {name for name in known if name.startswith("mask_") and known[name] == 1}
    assert families == {"mask_equispaced"} and len(known) == 8


# Measured data.


def real(name):
    return Path(os.environ["FEDRECON_DATA"]) / "mri_kspace" / name


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["bottle_4coil_3T.h5", "sphere_16coil_3T.h5", "head_t1_sagittal_1coil.h5"])
def test_real_fully_sampled(name):
    sample = KSpaceSlices([real(name)], "real", simulate=Simulation("equispaced", 3, 0.1))[0]
    assert relative(sample.operator(sample.reference) - sample.measurement, sample.measurement) < 0.2
    assert 0.5 < sample.target().max() < 3
    rss = KSpaceSlices([real(name)], "real", reference="rss")[0]
    assert np.corrcoef(sample.target().flatten(), rss.target().flatten())[0, 1] > 0.98


@pytest.mark.real_data
def test_real_oversampled_readout_is_cropped():
    sample = KSpaceSlices([real("structured_2coil_3T.h5")], "real", simulate=Simulation("random", 2, 0.15))[0]
    assert sample.operator.domain_shape == (160, 160) and sample.reference.shape == (160, 160)
    assert sample.target().shape == sample.magnitude(sample.reference).shape == (160, 160)


@pytest.mark.real_data
def test_real_two_dimensional_mask():
    sample = KSpaceSlices([real("head_8coil_poisson_R8.h5")], "real")[0]
    assert sample.operator.mask.shape == (230, 180) and sample.reference is None
    assert sample.meta[0].acceleration == pytest.approx(8, abs=0.2)
    image = sample.operator.start(sample.measurement)
    residual = sample.operator(image) - sample.measurement
    assert relative(residual, sample.measurement) < 0.3


@pytest.mark.parametrize("name", ["RadonOperator", "Adjoint"])
def test_an_operator_of_another_modality_is_named(phantom_file, name):
    path = phantom_file()
    dataset = KSpaceSlices([path], "north", operator=name)
    with pytest.raises(DataError, match=f"{path}: operator: found '{name}', which fails .* operator of this modality"):
        dataset[0]
