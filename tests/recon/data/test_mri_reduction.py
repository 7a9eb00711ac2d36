"""Smaller samples of the same scan: readout oversampling removed, coils compressed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from physics import (
    OPERATORS,
    CartesianMRI,
    birdcage_maps,
    correlated_noise,
    fft2c,
    ifft2c,
    phantom_volume,
    root_sum_of_squares,
    solve_normal,
)
from recon import Header, KSpaceSlices, Simulation, center_crop, coil_covariance, reconstruct, write_volume
from recon.classical import MRI_METHODS
from recon.data.mri_reduction import coil_choice

SHAPE, SHOWN = (96, 44), (48, 40)
FOVS = ((288.0, 132.0), (144.0, 120.0))
HEADER = Header(SHAPE, SHOWN, (0, SHAPE[1]), encoded_fov_mm=FOVS[0], recon_fov_mm=FOVS[1])
R2 = Simulation("random", 2, 0.25, 0.01)


@pytest.fixture(scope="module")
def long_object():
    """An object that reaches beyond the rows that are shown."""
    image = torch.zeros(2, *SHAPE, dtype=torch.complex64)
    image[:, 12:84] = phantom_volume(2, (72, SHAPE[1]), seed=1)
    return image


@pytest.fixture
def scan(tmp_path, long_object):
    """Writes a scan with colored noise; keyword arguments go to `write_volume`."""

    def write(name="a.h5", header=HEADER, coils=4, noise=0.003, stated=True, image=long_object, rows=None, **content):
        maps = birdcage_maps(coils, header.encoded_shape, seed=2)
        covariance = noise**2 * coil_covariance(coils, seed=3)
        kspace = fft2c(maps * image[:, None])
        kspace = kspace + correlated_noise(kspace.shape, covariance, torch.Generator().manual_seed(0)).to(kspace.dtype)
        if rows is not None:
            kspace[:, :, :rows] = 0
        if stated:
            content["noise_covariance"] = covariance
        write_volume(tmp_path / name, kspace, header, patient_id="p", acquisition="T1", maps=maps, **content)
        return tmp_path / name

    return write


def both(path, **options):
    """A sample with the oversampled readout, and one without."""
    return [KSpaceSlices([path], "s", remove_oversampling=remove, **options)[0] for remove in (False, True)]


@pytest.mark.parametrize("remove", [False, True])
def test_another_draw_of_mask_and_noise_has_the_rows_of_the_scan(scan, remove):
    options = {"simulate": R2, "remove_oversampling": remove}
    first, new = (KSpaceSlices([scan()], "s", redraw=redraw, **options)[0] for redraw in (False, True))
    assert new.operator.domain_shape == first.operator.domain_shape
    assert new.operator.mask.shape == first.operator.mask.shape
    assert not torch.equal(new.operator.mask, first.operator.mask)
    error = new.measurement - new.operator(first.reference)
    assert float(error[new.operator.sampled.expand_as(error)].abs().square().mean().sqrt()) < 3 * float(new.noise_std)


def relative(error, truth):
    return float(error.norm() / truth.norm())


# Readout oversampling.


@pytest.mark.parametrize("maps", ["espirit", "low_resolution", "true"])
@pytest.mark.parametrize("options", [{"simulate": R2}, {"simulate": R2, "reference": "rss"}, {}])
def test_reconstructions_without_oversampling_are_the_same(scan, maps, options):
    full, short = both(scan(), maps=maps, **options)
    assert full.operator.domain_shape == SHAPE and short.operator.domain_shape == (SHOWN[0], SHAPE[1])
    assert full.crop_shape == short.crop_shape and full.scale == short.scale
    torch.testing.assert_close(short.noise_std, full.noise_std)
    torch.testing.assert_close(short.target(), full.target(), atol=1e-5, rtol=0)
    torch.testing.assert_close(short.operator.maps, center_crop(full.operator.maps, (SHOWN[0], SHAPE[1])))
    for name in ("zero_filled", "cg_sense"):
        method = MRI_METHODS[name]()
        images = [sample.magnitude(reconstruct(method, sample)) for sample in (full, short)]
        # Conjugate gradients stop after some iterations, and those of the longer image weigh its other rows too.
        assert relative(images[1] - images[0], images[0]) < (1e-5 if name == "zero_filled" else 0.01)


def test_a_converged_reconstruction_does_not_depend_on_oversampling(scan):
    def converged(sample):
        A = sample.operator
        return sample.magnitude(solve_normal(A, A.adjoint(sample.measurement), 0.05, max_iterations=200))

    full, short = map(converged, both(scan(), simulate=R2))
    torch.testing.assert_close(short, full, atol=1e-4, rtol=0)


def test_noise_per_sample_stays(scan, tmp_path):
    path = scan(image=torch.zeros(2, *SHAPE, dtype=torch.complex64), noise=1.0)
    full, short = both(path, maps="low_resolution")
    assert float(short.noise_std * short.scale) == pytest.approx(float(full.noise_std * full.scale), rel=1e-5)
    spread = short.measurement.abs().square().mean().sqrt() / short.noise_std
    assert float(spread) == pytest.approx(1, abs=0.02)


def test_the_reconstruction_in_the_file_fits(scan):
    full, short = both(scan(noise=0.0001), reference="rss", maps="true")
    for sample in (full, short):
        image = sample.magnitude(sample.operator.zero_filled(sample.measurement))
        assert relative(image - sample.target(), sample.target()) < 0.01


def test_the_reconstruction_in_the_file_fits_virtual_coils(scan):
    path = scan(coils=14, noise=0.0001)
    every, few = (KSpaceSlices([path], "s", reference="rss", compress_coils=c)[0] for c in (False, 4))
    assert few.measurement.shape[0] == 4 and torch.equal(few.output_weight, torch.ones(few.operator.domain_shape))
    errors = []
    for sample in (every, few):
        image = sample.magnitude(sample.operator.zero_filled(sample.measurement))
        errors.append(relative(image - sample.target(), sample.target()))
    assert errors[0] < 0.02 and errors[1] < 0.03


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({}, 48),
        ({"encoded_fov_mm": None}, 48),  # encoded twice the reconstruction
        ({"encoded_fov_mm": (144.0, 132.0)}, 96),  # the scanner halves the pixels, not the field of view
        ({"recon_shape": (64, 40), "encoded_fov_mm": None}, 96),
        ({"recon_shape": (47, 40), "recon_fov_mm": (141.0, 120.0)}, 48),  # 47 of 96 rows have another middle
    ],
)
def test_the_header_says_whether_the_readout_is_oversampled(scan, change, rows):
    path = scan(header=replace(HEADER, **change))
    full, short = both(path, maps="low_resolution", simulate=R2, reference="rss")
    assert short.operator.domain_shape[0] == rows
    torch.testing.assert_close(short.target(), full.target())
    assert short.magnitude(short.operator.start(short.measurement)).shape == short.target().shape


@pytest.mark.parametrize("kind", ["plane", "asymmetric", "operator"])
def test_oversampling_stays_where_rows_differ(scan, kind, fresh_registries):
    options, content = {"simulate": R2}, {}
    if kind == "plane":
        options = {"simulate": Simulation("gaussian", 3, 0.2)}
    elif kind == "asymmetric":
        content["rows"] = 20
    else:
        OPERATORS.add("Mine")(type("Mine", (CartesianMRI,), {}))
        options["operator"] = "Mine"
    full, short = both(scan(**content), maps="low_resolution", **options)
    assert short.operator.domain_shape == SHAPE and torch.equal(short.measurement, full.measurement)


def test_equal_rows_of_a_mask_are_one_row(scan):
    mask = (torch.arange(SHAPE[1]) % 2 == 0) | ((torch.arange(SHAPE[1]) - 22).abs() < 6)
    row, plane = (scan(f"{m.ndim}.h5", mask=m) for m in (mask, mask.expand(SHAPE).contiguous()))
    samples = [KSpaceSlices([path], "s", maps="low_resolution")[0] for path in (row, plane)]
    assert samples[1].operator.mask.shape == (1, SHAPE[1])
    assert torch.equal(samples[0].measurement, samples[1].measurement)


def test_a_check_sees_the_whole_readout(scan):
    dataset = KSpaceSlices([scan()], "s", simulate=R2)
    assert dataset.volumes[0].shape[2:] == SHAPE and dataset.check(0) == []
    dataset[0]
    assert dataset.volumes[0].read_slice(0).shape[1:] == SHAPE


# Coil compression.


def test_many_coils_become_fewer(scan):
    path = scan(coils=14)
    every, auto = (KSpaceSlices([path], "s", simulate=R2, compress_coils=c) for c in (False, "auto"))
    found = auto.facts()
    assert found["coils"] == [14] and found["virtual_coils"] == [auto[0].measurement.shape[0]]
    assert auto[0].measurement.shape[0] < 14 and every.facts()["virtual_coils"] == [14]
    images = [s.magnitude(s.operator.start(s.measurement)) for s in (every[0], auto[0])]
    errors = [float((image - every[0].target()).norm()) for image in images]
    assert errors[1] < 1.012 * errors[0]  # 0.1 dB
    few = KSpaceSlices([scan("b.h5", coils=12)], "s", simulate=R2)
    assert few[0].measurement.shape[0] == 12


def test_stated_noise_is_white_after_compression(scan):
    path = scan(image=torch.zeros(2, *SHAPE, dtype=torch.complex64), coils=14, noise=1.0)
    sample = KSpaceSlices([path], "s", compress_coils=6, maps="low_resolution")[0]
    assert torch.allclose(covariance(sample.measurement / sample.noise_std), torch.eye(6) + 0j, atol=0.06, rtol=0)


def test_simulated_noise_is_white_after_compression_and_as_strong_as_stated(scan):
    # The file states noise between coils, which simulated noise follows, but holds hardly any.
    path = scan(coils=14, noise=1e-6)
    clean, noisy = (
        KSpaceSlices([path], "s", simulate=Simulation("random", 1, 0.25, std), compress_coils=6, maps="true")[0]
        for std in (0.0, 0.02)
    )
    noise = (noisy.measurement - clean.measurement) / noisy.noise_std
    assert torch.allclose(covariance(noise), torch.eye(6) + 0j, atol=0.06, rtol=0)
    every = KSpaceSlices([path], "s", simulate=Simulation("random", 1, 0.25, 0.02), compress_coils=False, maps="true")
    # Whitening keeps the geometric mean of the eigenvalues, of which compression leaves some out.
    assert float(noisy.noise_std) == pytest.approx(float(every[0].noise_std), rel=0.3)


def covariance(noise):
    return noise.flatten(1) @ noise.flatten(1).mH / noise[0].numel()


@pytest.mark.parametrize("choice", [5, 0.99])
def test_a_number_of_coils_or_an_energy(scan, choice):
    sample = KSpaceSlices([scan(coils=8)], "s", compress_coils=choice, maps="low_resolution")[0]
    assert sample.measurement.shape[0] == 5 if choice == 5 else sample.measurement.shape[0] < 8


@pytest.mark.parametrize("wrong", [True, 0, -1, 1.0, 0.0, 1.5, "all", None, [3]])
def test_other_choices_are_refused(scan, wrong):
    with pytest.raises(ValueError, match='"auto", false, a number of coils'):
        coil_choice(wrong)


@pytest.mark.real_data
def test_real_coils_lose_little():
    path = Path(os.environ["FEDRECON_DATA"]) / "mri_kspace" / "sphere_16coil_3T.h5"
    every, few = (
        KSpaceSlices([path], "real", simulate=Simulation("equispaced", 3, 0.1), compress_coils=choice)[0]
        for choice in (False, 0.9995)
    )
    assert len(KSpaceSlices([path], "real")[0].measurement) == 16  # "auto" keeps all coils of a sphere
    assert few.measurement.shape[0] < 16
    truth = root_sum_of_squares(ifft2c(KSpaceSlices([path], "real").volumes[0].read_slice(0))) / every.scale
    errors = [float((s.operator.start(s.measurement).abs() - truth).norm()) for s in (every, few)]
    assert errors[1] < 1.012 * errors[0]  # 0.1 dB
