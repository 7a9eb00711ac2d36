"""Files that contradict themselves: refused, read right or said; sound files pass in silence."""

import logging
import re

import h5py
import numpy as np
import pytest
import torch

from physics import SAMPLINGS, birdcage_maps, fft2c, ifft2c, make_mask, root_sum_of_squares
from recon import DataError, KSpaceSlices, Simulation, evaluate, open_volume
from recon.classical import MRI_METHODS
from recon.data import said_once
from recon.data.mri_checks import CALIBRATION_LINES
from recon.data.mri_volume import displayed_crop

SHAPE = (64, 48)
#: sigpy takes seconds to draw Poisson masks.
FAMILIES = [name for name in SAMPLINGS if name != "poisson"]


def scan(n=3, coils=4, shape=SHAPE, seed=0, scale=1e-5):
    """Noisy k-space of ellipses with a slow phase, complex64 ``(n, coils, *shape)``."""
    draw = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    images = []
    for _ in range(n):
        image = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1).astype(float)
        for cy, cx, a, b, value in draw.uniform((-0.4, -0.4, 0.1, 0.1, -0.4), (0.4, 0.4, 0.3, 0.3, 0.6), (9, 5)):
            image[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] += value
        images.append(image.clip(0) * np.exp(1j * (0.4 * x - 0.3 * y + draw.uniform(0, 6))))
    maps = birdcage_maps(coils, shape, seed=seed)
    kspace = fft2c(maps * torch.from_numpy(np.stack(images))[:, None]).numpy()
    noise = draw.standard_normal((2, *kspace.shape))
    return (scale * (kspace + 0.003 * (noise[0] + 1j * noise[1]))).astype(np.complex64)


def rss(kspace, crop=None):
    image = root_sum_of_squares(ifft2c(torch.from_numpy(kspace))).numpy()
    if crop is None:
        return image
    top, left = ((size - wanted) // 2 for size, wanted in zip(image.shape[-2:], crop, strict=True))
    return image[:, top : top + crop[0], left : left + crop[1]]


def lines(path, **options):
    found = KSpaceSlices([path], "north", **options).check(0)
    assert all(line.startswith(str(path)) and "\n" not in line for line in found)
    return found


def only_line(path, **options):
    """The line that the check says; it says no other."""
    found = lines(path, **options)
    assert len(found) == 1, found
    return found[0]


# Sound files.


@pytest.mark.parametrize("coils", [1, 6])
@pytest.mark.parametrize("shape", [(64, 48), (40, 41), (96, 80), (128, 57)])
def test_sound_files_are_silent(written, shape, coils):
    kspace = scan(3, coils, shape)
    assert lines(written(kspace, reconstruction_rss=rss(kspace)), reference="rss") == []
    padded = kspace.copy()
    padded[..., :5] = padded[..., shape[1] // 2 * 2 - 5 :] = 0
    header = {"center": shape[1] // 2 - 5, "maximum": shape[1] // 2 * 2 - 11}
    assert lines(written(padded, reconstruction_rss=rss(padded), **header), reference="rss") == []
    for name in FAMILIES:
        mask = make_mask(name, shape, 3, 0.2, 1).mask.numpy()
        path = written(kspace * mask, mask=mask, reconstruction_rss=rss(kspace, (32, 32)), recon=(32, 32))
        assert lines(path, reference="rss") == []


def test_noise_and_empty_slices_are_silent(fake_file, written):
    assert lines(fake_file(shape=(3, 2, 64, 48))) == []
    kspace = scan()
    kspace[1] = 0
    assert lines(written(kspace)) == []


# The header.


@pytest.mark.parametrize("name", ["epi", "radial", "goldenangle", "spiral", "other", "Propeller"])
def test_trajectories_other_than_cartesian_are_refused(written, header, name):
    xml = header(SHAPE).replace("</encoding>", f"<trajectory>{name}</trajectory></encoding>")
    with pytest.raises(DataError, match=f"encoding/trajectory: found '{name}', expected cartesian"):
        open_volume(written(scan(), ismrmrd_header=xml))
    assert open_volume(written(scan(), ismrmrd_header=xml.replace(name, "Cartesian"))).notes == ()


def with_z(header, z):
    return header(SHAPE).replace("<z>1</z>", f"<z>{z}</z>", 1)


def test_partitions_of_3d_kspace_are_refused_and_a_slab_is_said(written, header):
    volume = scan(1) * np.linspace(0.7, 1.3, 8).reshape(8, 1, 1, 1).astype(np.float32)
    assert re.search("matrixSize/z: found 8, expected 1", only_line(written(volume, ismrmrd_header=with_z(header, 8))))
    partitions = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(volume, axes=0), axis=0), axes=0).astype(np.complex64)
    path = written(partitions, ismrmrd_header=with_z(header, 8))
    for use in (lambda data: data.check(0), lambda data: data[0]):
        with pytest.raises(DataError, match=r"partitions of 3-D k-space, expected slices; transform"):
            use(KSpaceSlices([path], "north"))


def test_readout_of_another_size(written, header):
    kspace = scan()
    with pytest.raises(DataError, match="matrixSize/x: found 128, expected the height of kspace, 64"):
        open_volume(written(kspace, ismrmrd_header=header((128, 48))))
    assert re.search(
        "matrixSize/x: found 128.* oversampling was removed",
        only_line(written(kspace, ismrmrd_header=header((128, 48), SHAPE))),
    )


def test_acceleration_without_a_mask(written, header):
    factor = "<accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1></accelerationFactor>"
    xml = header(SHAPE).replace("</encoding>", f"<parallelImaging>{factor}</parallelImaging></encoding>")
    assert re.search(
        "parallelImaging: found acceleration 2 and no mask", only_line(written(scan(), ismrmrd_header=xml))
    )
    mask = np.arange(48) % 2 == 0
    mask[16:32] = True
    assert lines(written(scan() * mask, ismrmrd_header=xml, mask=mask)) == []


@pytest.mark.parametrize(
    ("encoded", "recon", "fields", "expected"),
    [
        ((640, 368), (320, 320), ((600, 345), (300, 300)), (320, 320)),
        ((640, 368), (320, 320), None, (320, 320)),
        ((230, 180), (230, 180), ((230, 180), (180, 180)), (230, 180)),
        ((128, 57), (128, 108), ((256, 216), (256, 216)), (128, 57)),
        ((80, 65), (128, 128), ((256, 216), (256, 216)), (80, 65)),
        ((160, 65), (128, 128), ((512, 216), (256, 216)), (80, 65)),
        ((128, 57), (64, 108), ((512, 216), (256, 216)), (64, 57)),
        ((640, 213), (320, 320), None, (320, 213)),
        ((512, 256), (256, 256), ((256, 256), (256, 256)), (512, 256)),
    ],
)
def test_the_field_of_view_is_kept(written, header, encoded, recon, fields, expected):
    xml = header(encoded, recon)
    for field in fields or ():
        fov = f"</matrixSize><fieldOfView_mm><x>{field[0]}</x><y>{field[1]}</y><z>5</z></fieldOfView_mm><!-- -->"
        xml = re.sub("</matrixSize>(?!<f)", fov, xml, count=1)
    volume = open_volume(written(scan(1, 2, encoded), ismrmrd_header=xml))
    assert volume.crop_shape == expected
    if fields is None or expected == recon:
        assert (volume.header.encoded_fov_mm is None) == (fields is None)


def test_displayed_crop_after_removed_oversampling(header):
    from recon import Header

    stated = Header((160, 65), (80, 108), (0, 65), encoded_fov_mm=(512, 216), recon_fov_mm=(256, 216))
    assert displayed_crop((80, 65), stated) == (80, 65)


# No header.


def test_sizes_without_a_header(written):
    kspace, crop = scan(), (40, 40)
    path = written(kspace, ismrmrd_header=None)
    assert open_volume(path).crop_shape == SHAPE
    assert re.search(
        "ismrmrd_header: found nothing, expected the header of the scan; sizes are those of kspace", only_line(path)
    )
    path = written(kspace, ismrmrd_header=None, reconstruction_rss=rss(kspace, crop))
    assert open_volume(path).crop_shape == crop
    assert torch.equal(KSpaceSlices([path], "north", reference="rss")[0].target().isfinite(), torch.ones(crop) > 0)
    padded = kspace.copy()
    padded[..., :4] = padded[..., 44:] = 0
    path = written(padded, ismrmrd_header=None)
    with h5py.File(path, "a") as file:
        file.attrs.update(padding_left=4, padding_right=44, recon_size=(32, 32, 1))
    volume = open_volume(path)
    assert volume.header.padding == (4, 44) and volume.crop_shape == (32, 32) and len(lines(path)) == 1
    with h5py.File(path, "a") as file:
        file.attrs["padding_left"] = "four"
    with pytest.raises(DataError, match="attribute padding_left: found 'four'"):
        open_volume(path)


# Zeros.


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("layout", ["multi-coil", "single coil"])
def test_the_mask_is_found_in_the_zeros(written, name, layout):
    mask = make_mask(name, SHAPE, 3, 0.2, 5).mask.numpy()
    kspace = scan(2) * mask
    kspace = kspace[:, 0] if layout == "single coil" else kspace
    stated = open_volume(written(kspace, mask=mask, name="stated.h5"))
    path = written(kspace)
    volume = open_volume(path)
    assert volume.undersampled and torch.equal(volume.available.expand(SHAPE), stated.available.expand(SHAPE))
    assert re.search(r"mask: found no dataset, and only zeros .*; the zeros are read as not measured", only_line(path))
    with pytest.raises(DataError, match="mask: found an undersampled file"):
        KSpaceSlices([path], "north", simulate=Simulation("random", 2, 0.2))


def test_a_missing_side_and_cut_corners_are_not_measured(written):
    y, x = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 48), indexing="ij")
    for mask in (np.broadcast_to(np.arange(48) >= 14, SHAPE), y**2 + x**2 <= 1):
        volume = open_volume(written(scan() * mask))
        assert np.array_equal(volume.available.expand(SHAPE).numpy(), mask)


@pytest.mark.parametrize(("first", "last"), [(4, 44), (5, 44), (3, 44), (23, 26)])
def test_zeros_on_both_sides_are_padding(written, first, last):
    kspace = scan()
    kspace[..., :first] = kspace[..., last:] = 0
    path = written(kspace)
    volume = open_volume(path)
    assert volume.header.padding == (first, last) and not volume.undersampled
    assert any("encodingLimits: found only zeros" in line for line in lines(path))


def test_zeros_that_the_mask_counts_as_measured(written):
    mask = np.arange(48) % 2 == 0
    mask[16:32] = True
    kspace = scan() * mask
    kspace[..., 40] = 0
    path = written(kspace, mask=mask)
    assert re.search("mask: found 1 for only zeros in 1 of 32 columns of kspace .40.", only_line(path))
    assert not open_volume(path).mask[40]


def test_zeros_in_one_slice_alone(written):
    kspace = scan(5)
    kspace[1, ..., 30:36] = 0
    assert re.search(
        r"kspace\[1\]: found only zeros in columns 30-35, which count .*\(1 of 5 slices\)", only_line(written(kspace))
    )


def test_rows_of_zeros_are_said(written):
    kspace = scan()
    kspace[..., :9, :] = 0
    path = written(kspace)
    assert re.search(r"kspace\[0\]: found only zeros in rows 0-8 \(3 of 3 slices\)", only_line(path))
    assert not open_volume(path).undersampled


def test_rounded_data_keep_their_zeros(written):
    kspace = scan(4, 1, scale=30.0)
    rounded = (np.round(kspace.real) + 1j * np.round(kspace.imag)).astype(np.complex64)
    assert 0.02 < (rounded == 0).mean() < 0.3
    assert lines(written(rounded)) == []


def test_signal_in_the_padding(written):
    assert re.search(
        r"signal in the padding .*expected zeros outside columns 4 to 43",
        only_line(written(scan(), center=20, maximum=39)),
    )


# The center.


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
@pytest.mark.parametrize("shape", [SHAPE, (65, 49)])
def test_zero_frequency_in_the_corner_is_refused(written, axes, shape):
    kspace = scan(5, shape=shape)
    kspace[3] = np.fft.ifftshift(kspace[3], axes=axes)
    path = written(kspace)
    for use in (lambda data: data.check(0), lambda data: data[0]):
        with pytest.raises(DataError, match=rf"kspace\[3\].* corner: apply np.fft.fftshift along {axes[0]}"):
            use(KSpaceSlices([path], "north"))


@pytest.mark.parametrize("by", [-12, -7, -4, 4, 8])
@pytest.mark.parametrize(("axis", "line"), [(-1, "column"), (-2, "row")])
def test_an_echo_off_center_is_said(written, by, axis, line):
    kspace = np.roll(scan(), by, axis)
    shift = re.escape(f"shift k-space by {-by:+d} {line}s")
    assert re.search(rf"found the peak at {line} {SHAPE[axis] // 2 + by} .*{shift}", only_line(written(kspace)))


def test_a_spike_is_no_echo(written):
    kspace = scan()
    kspace[:, :, 3, 5] = 30 * np.abs(kspace).max()
    assert lines(written(kspace)) == []


def test_rows_between_others_are_refused(written):
    kspace = scan()
    kspace[:, :, 1::2] = 0
    with pytest.raises(DataError, match=r"only zeros in .* rows between others.*exchange the last two axes"):
        lines(written(kspace))


def test_kspace_out_of_order_is_told_by_an_unused_reconstruction(written):
    kspace = scan()
    sign = (-1.0) ** np.add.outer(np.arange(kspace.shape[2]), np.arange(kspace.shape[3])).astype(np.float32)
    assert re.search("an image that is shifted by", only_line(written(kspace * sign, reconstruction_rss=rss(kspace))))


def test_warnings_are_logged_once_per_site(written, caplog, monkeypatch):
    monkeypatch.setattr(said_once, "_SAID", set())
    files = [written(np.roll(scan(seed=n), 8, -1), name=f"{n}.h5") for n in range(3)]
    with caplog.at_level(logging.WARNING):
        data = KSpaceSlices(files, "north", maps="low_resolution")
        for index in range(len(data)):
            data[index]
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"{files[0]}: kspace[0]: found the peak")


def test_lines_of_a_check_are_not_logged_again(written, caplog, monkeypatch):
    monkeypatch.setattr(said_once, "_SAID", set())
    path = written(np.roll(scan(), 8, -1))
    with caplog.at_level(logging.WARNING):
        data = KSpaceSlices([path], "north", maps="low_resolution")
        assert len(data.check(0)) == 1
        data[0]
        assert not caplog.messages
        KSpaceSlices([path], "another site", maps="low_resolution")[0]
    assert len(caplog.messages) == 1


# Calibration.


@pytest.mark.parametrize("width", range(1, 8))
def test_few_calibration_lines_are_said(written, width, caplog, monkeypatch):
    mask = np.arange(48) % 8 == 0
    mask[24 - width // 2 : 24 - width // 2 + width] = True
    path = written(scan() * mask, mask=mask)
    data = KSpaceSlices([path], "north")
    assert data.calibration(0) == width
    expected = rf"mask: found {width} calibration lines?, expected at least {CALIBRATION_LINES}"
    if width >= CALIBRATION_LINES:
        assert lines(path) == []
    else:
        assert re.search(expected, only_line(path))
    monkeypatch.setattr(said_once, "_SAID", set())
    with caplog.at_level(logging.WARNING):
        data[0]
    assert bool(caplog.messages) == (width < CALIBRATION_LINES)


def test_no_calibration_for_one_coil_true_maps_or_a_wide_center(written):
    mask = np.arange(48) % 4 == 0
    assert lines(written(scan(coils=1) * mask, mask=mask)) == []
    path = written(scan() * mask, mask=mask, maps=birdcage_maps(4, SHAPE).numpy())
    assert lines(path, maps="true") == [] and KSpaceSlices([path], "north", maps="true").calibration(0) is None
    assert re.search(
        r"\[simulate\]: found 2 cal", only_line(written(scan()), simulate=Simulation("equispaced", 4, 0.04))
    )


# References.


TURNS = {
    "upside down": lambda image: image[:, ::-1],
    "left-right mirrored": lambda image: image[:, :, ::-1],
    "rotated by 180 degrees": lambda image: image[:, ::-1, ::-1],
    "transposed": lambda image: image.transpose(0, 2, 1),
    "shifted by 6 rows and -5 columns": lambda image: np.roll(image, (6, -5), (1, 2)),
}


@pytest.mark.parametrize("words", TURNS)
@pytest.mark.parametrize("undersampled", [False, True])
def test_the_turn_of_a_reference_is_named(written, words, undersampled):
    kspace, crop = scan(shape=(96, 80)), (64, 64)
    mask = make_mask("random", (96, 80), 4, 0.1, 3).mask.numpy() if undersampled else np.ones(80, bool)
    picture = np.ascontiguousarray(TURNS[words](rss(kspace, crop)))
    path = written(kspace * mask, mask=mask, recon=crop, reconstruction_rss=picture)
    assert re.search(
        rf"reconstruction_rss\[\d\]: found an image that is {words}, expected", only_line(path, reference="rss")
    )


@pytest.mark.parametrize("factor", [1e5, 10, 2.5, 0.3, 1e-5])
def test_the_factor_of_a_reference_is_named(written, factor):
    kspace = scan()
    path = written(kspace, reconstruction_rss=factor * rss(kspace))
    assert re.search(
        rf"found values {factor:.3g} times those of kspace.*divide it by {factor:.3g}".replace("+", r"\+"),
        only_line(path, reference="rss"),
    )
    assert lines(path) == []  # not used as reference


def test_references_of_another_scan_and_slices_in_reverse(written):
    kspace = scan(3)
    for picture in (rss(scan(3, seed=9)), rss(kspace)[::-1].copy()):
        assert re.search(
            "correlates 0.* is it of another scan",
            only_line(written(kspace, reconstruction_rss=picture), reference="rss"),
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
def test_references_that_are_no_numbers(written, value):
    picture = rss(scan())
    picture[2, 5, 5] = value
    with pytest.raises(DataError, match=r"reconstruction_rss\[2\]: found (NaN|values up to 1e\+20)"):
        lines(written(scan(), reconstruction_rss=picture), reference="rss")


def test_empty_references(written):
    picture = rss(scan())
    picture[1] = 0
    assert re.search(
        r"reconstruction_rss\[1\]: found only zeros",
        only_line(written(scan(), reconstruction_rss=picture), reference="rss"),
    )
    with pytest.raises(DataError, match="reconstruction_rss: found only zeros"):
        lines(written(scan(), reconstruction_rss=0 * picture), reference="rss")


def test_a_single_coil_has_a_reference_of_its_own(written):
    kspace = scan(coils=1)
    crop = (40, 40)
    content = {"reconstruction_esc": rss(kspace), "reconstruction_rss": 1.9 * rss(scan(), crop)}
    path = written(kspace[:, 0], **content)
    assert open_volume(path).rss_shape == SHAPE and lines(path, reference="rss") == []
    sample = KSpaceSlices([path], "north", reference="rss")[1]
    assert np.allclose((sample.reference * sample.scale).numpy(), rss(kspace)[1], rtol=1e-5)
    assert open_volume(written(scan(), **content)).rss_shape == crop
    path = written(kspace[:, 0], reconstruction_rss=content["reconstruction_rss"])
    assert len(lines(path, reference="rss")) == 1


# Values.


@pytest.mark.parametrize("power", [-25, -18, -13, -5, 0, 8, 13, 17, 25])
@pytest.mark.parametrize("simulate", [None, Simulation("random", 3, 0.2, 0.01)])
def test_values_are_refused_or_scaled_away(written, power, simulate):
    usual = KSpaceSlices([written(scan(scale=1.0))], "north", simulate=simulate)[1]
    path = written((scan(scale=1.0).astype(complex) * 10.0**power).astype(np.complex128))
    data = KSpaceSlices([path], "north", simulate=simulate)
    if abs(power) > 13:
        for use in (lambda: data.check(0), lambda: data[1]):
            with pytest.raises(
                DataError, match=r"kspace.*: found values up to 1?\de[-+]\d\d, expected at .*scale the file"
            ):
                use()
        return
    sample = data[1]
    assert data.check(0) == []
    assert torch.allclose(sample.measurement, usual.measurement, atol=1e-5)
    assert torch.allclose(sample.reference, usual.reference, atol=5e-4)  # maps have half precision
    assert float(sample.noise_std) == pytest.approx(float(usual.noise_std), rel=1e-4)


def test_images_below_the_window_of_ssim_have_a_psnr(written):
    data = KSpaceSlices([written(scan(), recon=(6, 6))], "north", simulate=Simulation("random", 2, 0.2))
    score = evaluate(MRI_METHODS["zero_filled"](), data).volumes[0]
    assert score.psnr > 0 and score.nmse > 0 and score.ssim is None and score.foreground_ssim is None


def test_true_maps_are_read(written):
    maps = birdcage_maps(4, SHAPE).numpy()
    maps[2, 5, 7] = np.nan
    with pytest.raises(DataError, match=r"maps\[0\]: found NaN"):
        lines(written(scan(), maps=maps), maps="true")
