"""Siemens raw data: lines sorted as those of ISMRMRD files; what is not taken is said."""

import builtins
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recon import MRI_READERS, DataError, KSpaceSlices, KSpaceVolume, convert_scan, open_volume

from .conftest import coil_images, fft2c
from .twix_files import (
    MULTI_BAND,
    NOISE,
    PHASE_CORRECTION,
    REFERENCE,
    REFERENCE_AND_IMAGE,
    REFLECT,
    Measurement,
    protocol,
    write_twix,
)

Array = NDArray[Any]
Shows = Callable[..., None]
LINES, BASE = 40, 24

pytest.importorskip("twixtools")


@pytest.fixture
def inner() -> Array:
    """Images within the displayed half of the oversampled readout, ``(slices, coils, 48, 40)``."""
    images = coil_images(shape=(2 * BASE, LINES))
    images[..., : BASE // 2, :] = images[..., -BASE // 2 :, :] = 0
    return images


@pytest.fixture
def raw(inner: Array) -> Array:
    return (1e-5 * fft2c(inner)).astype(np.complex64)


def opened(path: Path, **options: Any) -> KSpaceVolume:
    assert MRI_READERS.detect(path) == "twix"
    return MRI_READERS.open(path, "twix", **options)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, **options).read_slice(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("is_vd", [True, False])
def test_lines_become_kspace_without_oversampling(
    is_vd: bool, raw: Array, inner: Array, shows: Shows, tmp_path: Path
) -> None:
    scan = Measurement(protocol(LINES, BASE), is_vd)
    scan.add_slices(raw)
    if is_vd:
        scan.blocks.insert(7, b"")
        scan.add_sync()
        scan.blocks.insert(9, scan.blocks.pop())
    volume = opened(write_twix(tmp_path / "meas.dat", scan))
    shows(volume, inner[..., BASE // 2 : -BASE // 2, :])
    header = volume.header
    assert (header.vendor, header.model, header.field_T) == ("SIEMENS", "Skyra", 2.89362)
    assert header.encoded_shape == header.recon_shape == (BASE, LINES) and header.encoded_fov_mm == (240.0, 200.0)
    assert (volume.patient_id, volume.acquisition, volume.mask) == ("p7", "t1_fl2d", None)
    assert "120 Siemens lines" in volume.reading and "readout oversampling removed (48 to 24" in volume.reading
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume)).read_slice(1), volume.read_slice(1))
    assert KSpaceSlices([tmp_path / "meas.dat"], "site", format="twix")[0].reference is not None
    (made,) = convert_scan(tmp_path / "meas.dat", tmp_path / "a.h5")
    np.testing.assert_array_equal(open_volume(made.path).read_slice(2), volume.read_slice(2))


def test_noise_of_an_earlier_measurement_is_scaled_to_the_image(raw: Array, tmp_path: Path) -> None:
    draw, mix = np.random.default_rng(1), np.array([[2.0, 0], [0.6 + 0.5j, 1.0]])
    adjustment = Measurement(protocol(LINES, BASE, dwell_ns=10000))
    for _ in range(200):
        white = draw.standard_normal((2, 256)) + 1j * draw.standard_normal((2, 256))
        adjustment.add(mix @ white / 2**0.5, flags=NOISE)
    scan = Measurement(protocol(LINES, BASE, dwell_ns=5000))
    for average in range(3):
        scan.add_slices(raw, Ave=average)
    volume = opened(write_twix(tmp_path / "a.dat", adjustment, scan))
    assert volume.noise_covariance is not None
    # Twice the bandwidth, receivers that pass 0.793 of the noise, three averages.
    np.testing.assert_allclose(volume.noise_covariance, mix @ mix.conj().T * 2 / 0.793 / 3, rtol=0.03, atol=0.03)
    assert "mean of 3 averages" in volume.reading and not volume.notes
    assert "no image lines in measurement 0 of 2" in refused(tmp_path / "a.dat", measurement=0)
    assert "measurement: found 2, expected 0 to 1" in refused(tmp_path / "a.dat", measurement=2)
    own = Measurement(protocol(LINES, BASE))
    own.add(np.ones((2, 48)), flags=NOISE)
    own.add_slices(raw)
    # The dwell time of noise lines within an image scan is not stated.
    assert "no time per sample" in opened(write_twix(tmp_path / "b.dat", own)).notes[0]


def test_slices_are_ordered_by_their_place(raw: Array, inner: Array, shows: Shows, tmp_path: Path) -> None:
    # In another order the images would not be those that are expected.
    assert all(np.corrcoef(np.abs(inner[k - 1]).ravel(), np.abs(inner[k]).ravel())[0, 1] < 0.999 for k in range(3))
    scan = Measurement(protocol(LINES, BASE))
    for counter, number in enumerate((1, 0, 2)):  # acquired interleaved, obliquely placed
        scan.add_slices(raw[number : number + 1], Sli=counter, place=(0.1 * number, 1.0, 5.0 * number - 30))
    volume = opened(write_twix(tmp_path / "a.dat", scan))
    shows(volume, inner[..., BASE // 2 : -BASE // 2, :])
    unplaced = Measurement(protocol(LINES, BASE))
    unplaced.add_slices(raw[::-1])
    shows(opened(write_twix(tmp_path / "b.dat", unplaced)), inner[::-1, :, BASE // 2 : -BASE // 2])


def test_reference_lines_are_embedded_or_a_scan_of_their_own(raw: Array, tmp_path: Path) -> None:
    embedded = Measurement(protocol(LINES, BASE, reference=2, acceleration=2))
    center = range(14, 26)
    embedded.add_slices(raw, [line for line in range(0, LINES, 2) if line not in center])
    embedded.add_slices(raw, range(14, 26, 2), flags=REFERENCE_AND_IMAGE | REFERENCE)
    embedded.add_slices(raw, range(15, 26, 2), flags=REFERENCE)
    volume = opened(write_twix(tmp_path / "a.dat", embedded))
    sampled = sorted({*range(0, LINES, 2), *center})
    assert volume.mask is not None and volume.mask.nonzero().flatten().tolist() == sampled
    assert "with 18 embedded calibration lines" in volume.reading and volume.header.acceleration == 2
    separate = Measurement(protocol(LINES, BASE, reference=4, acceleration=2))
    separate.add_slices(raw, center, flags=REFERENCE)
    separate.add_slices(raw, range(0, LINES, 2))
    write_twix(tmp_path / "b.dat", separate)
    image, calibration = convert_scan(tmp_path / "b.dat", tmp_path / "b.h5")
    assert calibration.path.name == "b_calibration.h5" and "undersampled 1.95x" in image.description
    assert open_volume(calibration.path).is_calibration and open_volume(calibration.path).shape == (3, 2, 24, 12)


def test_partial_fourier_and_asymmetric_echoes_are_placed_by_their_centers(raw: Array, tmp_path: Path) -> None:
    scan = Measurement(protocol(LINES, BASE))
    scan.add_slices(raw, range(10, LINES), center=10, shift=-10)
    volume = opened(write_twix(tmp_path / "a.dat", scan))
    assert volume.header.padding == (10, 40) and volume.partial_fourier == 0.75
    echo = Measurement(protocol(LINES, BASE))
    for line in range(LINES):
        echo.add(np.pad(raw[0, :, 8:, line], ((0, 0), (4, 2))), cut=(4, 2), center=(20, 20, 0), Lin=line)
    found = opened(write_twix(tmp_path / "b.dat", echo)).read_slice(0)
    np.testing.assert_array_equal(found[:, 8:], raw[0, :, 8:])
    assert not found[:, :8].any()


def test_partitions_become_slices_and_repetitions_volumes(
    raw: Array, inner: Array, shows: Shows, tmp_path: Path
) -> None:
    partitions = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(raw, axes=0), axis=0, norm="ortho"), axes=0)
    scan = Measurement(protocol(LINES, BASE, partitions=3))
    for repetition in range(2):
        for number, one in enumerate(partitions):
            for line in range(LINES):
                scan.add(
                    (1 + repetition) * one[..., line],
                    center=(BASE, LINES // 2, 1),
                    Lin=line,
                    Par=number,
                    Rep=repetition,
                )
    volume = opened(write_twix(tmp_path / "a.dat", scan))
    shows(volume, inner[..., BASE // 2 : -BASE // 2, :])
    assert "repetition 0, 1" in volume.notes[0]
    second = opened(tmp_path / "a.dat", repetition=1)
    np.testing.assert_allclose(second.read_slice(0), 2 * volume.read_slice(0), rtol=1e-4, atol=1e-10)


def _radial(raw: Array) -> Measurement:
    return _filled(Measurement(protocol(LINES, BASE, trajectory=2)), raw)


def _regridded(raw: Array) -> Measurement:
    return _filled(Measurement(protocol(LINES, BASE, regrid=2)), raw)


def _turned(raw: Array) -> Measurement:
    scan = Measurement(protocol(LINES, BASE))
    scan.add(raw[0, ..., 0], flags=PHASE_CORRECTION | REFLECT)
    return _filled(scan, raw)


def _multi_band(raw: Array) -> Measurement:
    return _filled(Measurement(protocol(LINES, BASE)), raw, flags=MULTI_BAND)


def _outside(raw: Array) -> Measurement:
    return _filled(Measurement(protocol(LINES - 8, BASE)), raw)


def _without_matrix(raw: Array) -> Measurement:
    header = protocol(LINES, BASE)
    return _filled(Measurement(header | {"MeasYaps": "### ASCCONV BEGIN ###\na = 1\n\n### ASCCONV END ###"}), raw)


def _filled(scan: Measurement, raw: Array, **keys: Any) -> Measurement:
    scan.add_slices(raw, **keys)
    return scan


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_radial, "ucTrajectory: found radial, expected Cartesian lines; convert it with siemens_to_ismrmrd"),
        (_regridded, "found an echo-planar scan"),
        (_turned, "found an echo-planar scan"),
        (_multi_band, "found several slices in one line"),
        (_outside, "found kspace_encode_step_1 0, expected 4 to 35"),
        (_without_matrix, "protocol: found no matrix, expected MeasYaps/sKSpace/lBaseResolution"),
    ],
)
def test_scans_that_cannot_be_used_are_named(
    make: Callable[[Array], Measurement], words: str, raw: Array, tmp_path: Path
) -> None:
    assert words in refused(write_twix(tmp_path / "a.dat", make(raw)))


def test_damaged_files_are_named_and_never_hang(raw: Array, tmp_path: Path) -> None:
    path = write_twix(tmp_path / "a.dat", _filled(Measurement(protocol(LINES, BASE)), raw))
    whole = path.read_bytes()
    for length in (1024, 9000, 10300, len(whole) // 2, len(whole) - 700):
        path.write_bytes(whole[:length])
        assert "copy the file again" in refused(path)
    # A device block without a length, from which no program goes on.
    scan = _filled(Measurement(protocol(LINES, BASE)), raw)
    scan.add_sync()
    scan.blocks[-1] = bytes(4) + scan.blocks[-1][4:]
    assert "found a block of 0 bytes" in refused(write_twix(tmp_path / "b.dat", scan))
    endless = _filled(Measurement(protocol(LINES, BASE)), raw)
    path = write_twix(tmp_path / "c.dat", endless)
    data = bytearray(path.read_bytes())
    end = data.rfind(b"\x01\0\0\0\0\0\0\0\x10\0\x01\0")  # the flags of the last block, 16 samples of one coil
    data[end] = 0
    path.write_bytes(bytes(data))
    assert "without its last block" in refused(path)
    write_twix(tmp_path / "d", endless)
    assert "a name without suffix" in refused(tmp_path / "d")


def test_without_the_package_one_line_says_how_to_get_it(
    raw: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_twix(tmp_path / "a.dat", _filled(Measurement(protocol(LINES, BASE)), raw))
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keys: Any) -> Any:
        if name == "twixtools":
            raise ImportError(name)
        return real(name, *arguments, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "expected the package twixtools to read it; pip install -e '.[twix]'" in refused(path)
