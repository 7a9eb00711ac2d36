"""ISMRMRD raw data: lines sorted, noise scaled, oversampling removed; what is not taken is said."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon import MRI_READERS, DataError, KSpaceSlices, KSpaceVolume

from .conftest import coil_images, fft2c
from .raw_files import BOTH, CALIBRATION, NAVIGATOR, NOISE, REVERSE, RawFile, encoding_xml, header_of

Array = NDArray[Any]
Shows = Callable[..., None]
SIZE = (48, 40, 1)


def opened(path: Path, **options: Any) -> KSpaceVolume:
    assert MRI_READERS.detect(path) == "ismrmrd"
    return MRI_READERS.open(path, "ismrmrd", **options)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, **options).read_slice(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def raw() -> RawFile:
    return RawFile(header_of(encoding_xml(SIZE)))


def test_lines_in_any_order_become_kspace(raw: RawFile, kspace: Array, shows: Shows, tmp_path: Path) -> None:
    raw.add_slices(kspace)
    np.random.default_rng(0).shuffle(raw.lines)  # type: ignore[arg-type]
    volume = opened(raw.write(tmp_path / "a.mrd"))
    shows(volume)
    np.testing.assert_array_equal(volume.read_slice(1), kspace[1])
    assert volume.header.model == "One" and volume.header.field_T == 2.8936
    assert (volume.patient_id, volume.acquisition) == ("p7", "t2_tse")
    assert volume.mask is None and volume.noise_covariance is None and not volume.notes
    assert "no noise scan" in volume.reading
    again = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(again.read_slice(2), kspace[2])
    sample = KSpaceSlices([tmp_path / "a.mrd"], "site", format="ismrmrd")[0]
    assert sample.reference is not None


def test_readout_oversampling_is_removed(shows: Shows, tmp_path: Path) -> None:
    images = coil_images(shape=(96, 40))
    images[..., :24, :] = images[..., 72:, :] = 0
    raw = RawFile(header_of(encoding_xml((96, 40, 1), oversampling=2.0)))
    raw.add_slices(fft2c(images).astype(np.complex64))
    volume = opened(raw.write(tmp_path / "a.h5"))
    shows(volume, images[..., 24:72, :])
    assert volume.header.encoded_shape == (48, 40) and volume.header.encoded_fov_mm == (240.0, 200.0)
    assert "readout oversampling removed (96 to 48 samples)" in volume.reading
    np.testing.assert_allclose(np.linalg.norm(volume.read_slice(0)), np.linalg.norm(images[0]), rtol=1e-5)


def test_an_asymmetric_echo_is_placed_by_its_center_and_keeps_its_oversampling(kspace: Array, tmp_path: Path) -> None:
    raw = RawFile(header_of(encoding_xml(SIZE, oversampling=2.0)))
    raw.add_slices(kspace[:, :, 10:], center=14)
    volume = opened(raw.write(tmp_path / "a.h5"))
    np.testing.assert_array_equal(volume.read_slice(0)[:, 10:], kspace[0, :, 10:])
    assert not volume.read_slice(0)[:, :10].any() and volume.shape[2] == 48
    turned = RawFile(header_of(encoding_xml(SIZE)))
    turned.add_slices(kspace[:, :, :9:-1], center=38 - 1 - 14, flags=REVERSE)
    np.testing.assert_array_equal(opened(turned.write(tmp_path / "b.h5")).read_slice(0), volume.read_slice(0))


def test_discarded_samples_and_reversed_lines(raw: RawFile, kspace: Array, tmp_path: Path) -> None:
    padded = np.pad(kspace, ((0, 0), (0, 0), (3, 2), (0, 0)), constant_values=99)
    raw.add_slices(padded, range(0, 40, 2), center=27, discard=(3, 2))
    raw.add_slices(kspace[:, :, ::-1], range(1, 40, 2), flags=REVERSE)
    volume = opened(raw.write(tmp_path / "a.h5"))
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])
    assert "60 reversed lines turned round" in volume.reading


def test_a_noise_scan_gives_the_covariance_of_the_image_lines(kspace: Array, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    mix = np.array([[2.0, 0], [0.6 + 0.5j, 1.0]])
    raw = RawFile(header_of(encoding_xml(SIZE), bandwidth=0.8))
    for _ in range(200):
        white = draw.standard_normal((2, 256)) + 1j * draw.standard_normal((2, 256))
        raw.add(mix @ white / 2**0.5, flags=NOISE, time_us=10.0)
    for average in range(3):
        raw.add_slices(kspace, average=average, time_us=5.0)
    volume = opened(raw.write(tmp_path / "a.h5"))
    # Twice the bandwidth, a receiver that passes 0.8 of the noise, three averages.
    expected = mix @ mix.conj().T * 2 / 0.8 / 3
    assert volume.noise_covariance is not None
    np.testing.assert_allclose(volume.noise_covariance.numpy(), expected, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(volume.read_slice(0), kspace[0], rtol=1e-5, atol=1e-12)
    assert "noise scan of 200 lines" in volume.reading and "mean of 3 averages" in volume.reading
    other = RawFile(header_of(encoding_xml(SIZE)))
    other.add(np.ones((3, 64)), flags=NOISE)
    other.add_slices(kspace)
    without = opened(other.write(tmp_path / "b.h5"))
    assert without.noise_covariance is None and "a noise scan of 3 coils" in without.notes[0]


def test_averages_are_averaged_where_they_were_measured(raw: RawFile, kspace: Array, tmp_path: Path) -> None:
    raw.add_slices(0.5 * kspace, average=0)
    raw.add_slices(1.5 * kspace, range(10, 30), average=1)
    volume = opened(raw.write(tmp_path / "a.h5"))
    np.testing.assert_allclose(volume.read_slice(0)[..., 10:30], kspace[0][..., 10:30], rtol=1e-5)
    np.testing.assert_allclose(volume.read_slice(0)[..., :10], 0.5 * kspace[0][..., :10], rtol=1e-5)
    assert "mean of 1 to 2 averages" in volume.reading


def test_limits_become_padding_and_lines_left_out_the_mask(kspace: Array, tmp_path: Path) -> None:
    partial = RawFile(header_of(encoding_xml(SIZE, limits=(29, 10), calibration="embedded")))
    partial.add_slices(kspace, range(10, 40), shift=-10)
    volume = opened(partial.write(tmp_path / "a.h5"))
    assert volume.header.padding == (10, 40) and volume.mask is None
    assert volume.header.acceleration == 1
    assert volume.partial_fourier == pytest.approx(0.75)
    np.testing.assert_array_equal(volume.read_slice(0)[..., 10:], kspace[0][..., 10:])
    assert not volume.read_slice(0)[..., :10].any()
    columns = [*range(0, 40, 2), 17, 19, 21, 23]
    fast = RawFile(header_of(encoding_xml(SIZE)))
    fast.add_slices(kspace, columns)
    volume = opened(fast.write(tmp_path / "b.h5"))
    assert volume.mask is not None and volume.mask.nonzero().flatten().tolist() == sorted(columns)
    assert volume.undersampled


@pytest.mark.parametrize("mode", ["embedded", "separate", None])
def test_calibration_lines_are_embedded_or_separate(mode: str | None, kspace: Array, tmp_path: Path) -> None:
    raw = RawFile(header_of(encoding_xml(SIZE, calibration=mode)))
    raw.add_slices(kspace, [n for n in range(0, 40, 2) if not 14 <= n < 26])
    raw.add_slices(kspace, range(14, 26, 2), flags=BOTH)
    calibration = kspace if mode == "embedded" else 3 * kspace  # another contrast
    raw.add_slices(calibration, range(15, 26, 2), flags=CALIBRATION)
    if mode != "embedded":
        raw.add_slices(calibration, range(14, 26, 2), flags=CALIBRATION)
    path = raw.write(tmp_path / "a.h5")
    volume = opened(path)
    assert volume.mask is not None
    assert int(volume.mask.sum()) == (26 if mode == "embedded" else 20)
    np.testing.assert_array_equal(volume.read_slice(0)[..., volume.mask], kspace[0][..., volume.mask])
    if mode == "embedded":
        assert not volume.parts and not volume.notes
        assert "with 18 embedded calibration lines" in volume.reading
        return
    assert [name for name, _ in volume.parts] == ["", "calibration"]
    assert "36 separate calibration lines" in volume.notes[0]
    found = opened(path, calibration=True)
    assert found.shape == (3, 2, 48, 12) and found.header.encoded_fov_mm == (240.0, 200.0)
    np.testing.assert_array_equal(found.read_slice(2), 3 * kspace[2][..., 14:26])
    assert int(opened(path, embed=True).mask.sum()) == 26  # type: ignore[union-attr]


def test_contrasts_repetitions_and_frames_are_named(
    raw: RawFile, kspace: Array, images: Array, shows: Shows, tmp_path: Path
) -> None:
    for contrast in range(2):
        for repetition in (0, 3):
            for phase in range(2):
                weight = 1 + contrast + 10 * repetition + 100 * phase
                keys = {"contrast": contrast, "repetition": repetition, "phase": phase}
                raw.add_slices(weight * kspace, **keys)
    path = raw.write(tmp_path / "a.h5")
    volume = opened(path)
    shows(volume, np.concatenate((images, 101 * images)))
    assert [name for name, _ in volume.parts] == [f"contrast{c}_repetition{r}" for c in (0, 1) for r in (0, 3)]
    assert any("contrast 0, 1" in note for note in volume.notes)
    assert any("repetition 0, 3" in note for note in volume.notes)
    shows(opened(path, contrast=1, repetition=3, frame=1), 132 * images)
    np.testing.assert_allclose(opened(path, contrast=1, repetition=3).read_slice(0), 32 * kspace[0], rtol=1e-5)
    assert "contrast: found no lines of contrast 2, expected one of 0, 1" in refused(path, contrast=2)
    assert "2 frames x 3 slices" in volume.reading


def test_frames_of_different_lines_are_volumes(raw: RawFile, kspace: Array, tmp_path: Path) -> None:
    raw.add_slices(kspace, range(0, 40, 2), phase=0)
    raw.add_slices(kspace, range(1, 40, 2), phase=1)
    volume = opened(raw.write(tmp_path / "a.h5"))
    assert volume.shape[0] == 3 and [name for name, _ in volume.parts] == ["frame0", "frame1"]
    second = opened(tmp_path / "a.h5", frame=1)
    assert second.mask is not None and second.mask[:4].tolist() == [False, True, False, True]
    uneven = RawFile(raw.xml)
    uneven.add_slices(kspace[:1])
    uneven.add(kspace[1, ..., 0], slice=1, kspace_encode_step_1=20)
    assert "slices whose sampled lines differ" in refused(uneven.write(tmp_path / "b.h5"))


@pytest.mark.parametrize("full", [True, False])
def test_a_3d_scan_becomes_slices(full: bool, shows: Shows, tmp_path: Path) -> None:
    readout, phase, partitions = 32, 24, 12
    y, x, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (readout, phase, partitions)), indexing="ij")
    body = (y**2 / 0.5 + (x - 0.1) ** 2 / 0.4 + z**2 / 0.2 < 1) * (1.0 + (x > 0.1) + 2.0 * (y > 0.3) + (z > 0))
    volume = np.stack((body, body * np.exp(0.5j * x)))
    axes = (1, 2, 3)
    kspace = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume, axes=axes), axes=axes, norm="ortho"), axes=axes)
    raw = RawFile(header_of(encoding_xml((readout, phase, partitions), slab=1.5)))
    for ky in range(phase):
        for kz in range(partitions):
            if full or (ky - 12) ** 2 / 144 + (kz - 6) ** 2 / 36 <= 1:
                raw.add(kspace[:, :, ky, kz], kspace_encode_step_1=ky, kspace_encode_step_2=kz)
    found = opened(raw.write(tmp_path / "a.h5"))
    if full:
        shows(found, np.moveaxis(volume, 3, 0)[2:10])  # less the oversampled partitions
        assert found.header.partitions == 1 and found.mask is None
        return
    assert found.shape == (32, 2, 24, 12) and found.mask is not None and found.mask.shape == (24, 12)
    shows(found, np.moveaxis(volume, 1, 0), least=0.98)


def test_of_several_encodings_one_is_taken_and_said(kspace: Array, tmp_path: Path) -> None:
    raw = RawFile(header_of(encoding_xml((24, 20, 1)), encoding_xml(SIZE)))
    raw.add_slices(kspace[:, :, 12:36, 10:30])
    raw.add_slices(kspace, space=1)
    volume = opened(raw.write(tmp_path / "a.h5"))
    assert volume.shape == (3, 2, 48, 40)
    assert "2 encodings, 60 lines of others" in volume.notes[0] and "encoding 1 is read" in volume.notes[0]
    assert opened(tmp_path / "a.h5", encoding=0).shape == (3, 2, 24, 20)
    assert "encoding 2" in refused(tmp_path / "a.h5", encoding=2)


def test_other_lines_are_left_out_and_counted(raw: RawFile, kspace: Array, tmp_path: Path) -> None:
    raw.add_slices(kspace)
    for flags in (NAVIGATOR, NAVIGATOR, 1 << 23, 1 << 26):
        raw.add(np.full((2, 48), 99), flags=flags, kspace_encode_step_1=20)
    volume = opened(raw.write(tmp_path / "a.h5"))
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])
    assert "left out: 2 navigator lines, 1 phase correction lines, 1 dummy lines" in volume.reading


def test_echo_planar_lines_are_refused(kspace: Array, tmp_path: Path) -> None:
    raw = RawFile(header_of(encoding_xml(SIZE, trajectory="epi")))
    raw.add_slices(kspace[:1])
    assert "encoding/trajectory: found 'epi', expected cartesian" in refused(raw.write(tmp_path / "a.h5"))


def test_lines_that_do_not_fit_are_one_line(kspace: Array, tmp_path: Path) -> None:
    def line(samples: Array, xml: str = header_of(encoding_xml(SIZE)), more: int = 0, **keys: Any) -> str:
        raw = RawFile(xml)
        raw.add_slices(kspace[:1])
        raw.add(samples, **keys)
        return refused(raw.write(tmp_path / "a.h5"))

    sound = kspace[0, ..., 0]
    assert "lines of 2 and 3 coils, expected lines of one number" in line(np.ones((3, 48)))
    assert "lines of 50 samples, expected 1 to 48" in line(np.ones((2, 50)))
    assert "kspace_encode_step_1 40, expected 0 to 39" in line(sound, kspace_encode_step_1=40)
    assert "20 samples with the center at 0" in line(np.ones((2, 30)), center=0).replace("30 samples", "20 samples")
    raw = RawFile(header_of(encoding_xml(SIZE)))
    raw.add(sound, flags=NOISE)
    assert "no lines of image data among 1 lines" in refused(raw.write(tmp_path / "b.h5"))
    assert "no calibration lines" in refused(tmp_path / "b.h5", calibration=True)
    for xml, words in (("<ismrmrdHeader/>", "encoding"), ("<a", "broken XML"), ("<!DOCTYPE a><a/>", "document type")):
        assert words in line(sound, xml)


def test_broken_files_are_one_line(raw: RawFile, kspace: Array, tmp_path: Path) -> None:
    raw.add_slices(kspace)
    path = raw.write(tmp_path / "a.h5")
    content = path.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="copy it again"):
        MRI_READERS.open(tmp_path / "cut.h5", "ismrmrd")
    with h5py.File(path, "r+") as file:
        block = file["dataset/data"][:]
        block[7]["data"] = block[7]["data"][:-2]
        file["dataset/data"][:] = block
    assert "data[7]: found 190 values, expected 2 x 2 coils x 48 samples" in refused(path)
    block[7]["data"] = np.full(192, np.nan, np.float32)
    with h5py.File(path, "r+") as file:
        file["dataset/data"][:] = block
    assert "NaN or infinite values" in refused(path)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["dataset/xml"], file["dataset/data"] = "<ismrmrdHeader/>", np.zeros(3)
    assert "expected head, traj, data" in refused(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["dataset/xml"] = "<ismrmrdHeader/>"
        file["dataset/data"] = h5py.ExternalLink("a.h5", "/dataset/data")
    assert "a link, expected a plain dataset" in refused(tmp_path / "c.h5")


def test_files_of_the_ismrmrd_package_are_read(kspace: Array, shows: Shows, tmp_path: Path) -> None:
    ismrmrd = pytest.importorskip("ismrmrd")
    data = ismrmrd.Dataset(str(tmp_path / "a.h5"), "dataset")
    data.write_xml_header(header_of(encoding_xml(SIZE)).encode())
    for number, one in enumerate(kspace):
        for column in range(40):
            line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(one[..., column]))
            line.center_sample = 24
            line.idx.slice, line.idx.kspace_encode_step_1 = number, column
            data.append_acquisition(line)
    noise = ismrmrd.Acquisition.from_array(np.ones((2, 16), np.complex64))
    noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    data.append_acquisition(noise)
    data.close()
    volume = opened(tmp_path / "a.h5")
    shows(volume)
    np.testing.assert_array_equal(volume.read_slice(1), kspace[1])
    assert volume.noise_covariance is not None
