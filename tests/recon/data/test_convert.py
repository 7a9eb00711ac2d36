"""Scans of other layouts become files of the fastMRI layout: same values, facts kept, nothing half-written."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon import DataError, Header, convert_scan, open_volume, write_kspace

Array = NDArray[Any]


def kspace_of(shape: tuple[int, ...] = (3, 2, 48, 40)) -> Array:
    """k-space of a disc, with its zero frequency in the middle."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[-2:]), indexing="ij")
    disc = (y**2 / 0.5 + (x - 0.1) ** 2 / 0.4 < 1) * np.exp(0.5j * x)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(disc), norm="ortho"))
    return np.broadcast_to(kspace, shape).astype(np.complex64)


def test_values_and_facts_are_kept(tmp_path: Path) -> None:
    kspace = kspace_of()
    kspace[..., 1:9:2] = 0
    covariance = np.array([[2, 1j], [-1j, 3]])
    np.savez(tmp_path / "a.npz", kspace=kspace, noise_covariance=covariance, patient_id="p7", acquisition="AXT1")
    (made,) = convert_scan(tmp_path / "a.npz", tmp_path / "out" / "a.h5")
    volume = open_volume(made.path)
    np.testing.assert_array_equal([volume.read_slice(i) for i in range(3)], kspace)
    assert volume.mask is not None and volume.mask[:10].tolist() == [n % 2 == 0 or n > 8 for n in range(10)]
    np.testing.assert_array_equal(volume.noise_covariance, covariance)
    assert (volume.patient_id, volume.acquisition) == ("p7", "AXT1")
    assert made.format == "numpy" and made.sources == (tmp_path / "a.npz",)
    assert made.description.startswith("3 slices, 2 coils, 48x40; undersampled 1.11x; noise covariance of the scan; ")
    assert "kspace (slice, coil, readout, phase) by the rule" in made.description and "\n" not in made.description
    assert any("only zeros in 4 of 40 columns" in line for line in made.warnings)


def test_a_file_of_the_layout_is_copied_with_its_reconstruction(tmp_path: Path) -> None:
    header = Header((48, 40), (24, 40), (4, 36), vendor="Acme")
    kspace = kspace_of()
    kspace[..., :4] = kspace[..., 36:] = 0
    write_kspace(tmp_path / "a.h5", kspace, header=header, patient_id="p7", acquisition="AXT2")
    images = np.random.default_rng(0).random((3, 24, 40), np.float32)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["reconstruction_rss"] = images
        file.attrs["ImageOrientationPatient"] = [1.0, 0, 0, 0, 1, 0]
        file["ImagePositionPatient"] = np.arange(9.0).reshape(3, 3)
    (made,) = convert_scan(tmp_path / "a.h5", tmp_path / "b.h5")
    volume = open_volume(made.path)
    assert volume.header == header and volume.patient_id == "p7"
    places = [open_volume(path).image_header().placement for path in (tmp_path / "a.h5", made.path)]
    assert places[0] is not None and repr(places[0]) == repr(places[1])
    np.testing.assert_array_equal(volume.read_rss(2), images[2])
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    kspace = kspace_of((5, 2, 48, 40))
    kspace[3, 0, 3, 3] = np.nan
    np.save(tmp_path / "a.npy", kspace)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"kspace\[3\]: found NaN or infinite values"):
        convert_scan(tmp_path / "a.npy", out / "a.h5")
    assert list(out.iterdir()) == []
    np.save(tmp_path / "b.npy", np.zeros((3, 2, 48, 40), np.complex64))
    with pytest.raises(DataError, match="only zeros"):
        convert_scan(tmp_path / "b.npy", out / "b.h5")
    assert list(out.iterdir()) == []


def test_files_are_replaced_on_request_alone_and_never_the_source(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", kspace_of())
    convert_scan(tmp_path / "a.npy", tmp_path / "a.h5")
    with pytest.raises(DataError, match=r"found an existing file.*--overwrite"):
        convert_scan(tmp_path / "a.npy", tmp_path / "a.h5")
    convert_scan(tmp_path / "a.npy", tmp_path / "a.h5", overwrite=True)
    with pytest.raises(DataError, match="the file that is read"):
        convert_scan(tmp_path / "a.h5", tmp_path / "a.h5", overwrite=True)


def test_formats_and_options_are_checked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", kspace_of())
    with pytest.raises(DataError, match="format: found 'nmpy', expected one of fastmri, numpy"):
        convert_scan(tmp_path / "a.npy", tmp_path / "a.h5", format="nmpy")
    with pytest.raises(DataError, match="options of numpy: found 'frame', expected one of none"):
        convert_scan(tmp_path / "a.npy", tmp_path / "a.h5", options={"frame": 1})
    with pytest.raises(DataError, match="found a NumPy array, expected a file of format bart"):
        convert_scan(tmp_path / "a.npy", tmp_path / "a.h5", format="bart")


# write_kspace.
def test_arrays_are_written_with_mask_header_and_noise(tmp_path: Path) -> None:
    kspace, draw = kspace_of(), np.random.default_rng(0)
    mask = np.arange(40) % 3 != 1
    readings = draw.standard_normal((2, 5000)) + 1j * draw.standard_normal((2, 5000))
    assert not write_kspace(tmp_path / "a.h5", kspace * mask, mask, noise=readings, patient_id="p")
    volume = open_volume(tmp_path / "a.h5")
    assert volume.mask is not None and volume.mask.tolist() == mask.tolist() and volume.patient_id == "p"
    np.testing.assert_allclose(volume.noise_covariance, 2 * np.eye(2), atol=0.1)
    assert write_kspace(tmp_path / "b.h5", kspace[0], mask=np.ones((48, 40)), noise=np.eye(2))
    np.testing.assert_array_equal(open_volume(tmp_path / "b.h5").noise_covariance, np.eye(2))


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        (
            {"kspace": kspace_of().real},
            "kspace: found dtype float32, expected complex numbers; join real and imaginary",
        ),
        ({"kspace": kspace_of((1, 1, 3, 2, 48, 40))}, r"kspace: found shape \(1, 1, 3, 2, 48, 40\)"),
        ({"kspace": np.ones((0, 2, 8, 8), complex)}, r"kspace: found shape \(0, 2, 8, 8\)"),
        ({"kspace": np.full((1, 2, 8, 8), np.nan, complex)}, r"kspace\[0\]: found NaN"),
        ({"kspace": np.zeros((1, 2, 8, 8), complex)}, "only zeros, expected a measurement"),
        ({"kspace": np.fft.ifftshift(kspace_of(), axes=(-2, -1))}, r"in the corner.*fftshift along axes \[-2, -1\]"),
        ({"kspace": np.fft.ifftshift(kspace_of(), axes=-2)}, r"fftshift along axes \[-2\]"),
        ({"mask": np.ones((2, 40))}, r"mask: found shape \(2, 40\), expected \(40,\) or \(48, 40\)"),
        ({"header": Header((48, 30), (48, 30), (0, 30))}, "expected the width of kspace, 40"),
        ({"header": "<a"}, "broken XML"),
        ({"noise": np.ones(2)}, "noise_covariance: found float64 of shape"),
        ({"noise": np.array([[1, 2], [3, 4]])}, "noise_covariance: found int64|not Hermitian"),
        ({"noise": -np.eye(2)}, "not Hermitian or has negative eigenvalues"),
    ],
)
def test_arrays_that_cannot_be_a_scan_are_one_line(arrays: dict[str, Any], line: str, tmp_path: Path) -> None:
    given = {"kspace": kspace_of()} | arrays
    with pytest.raises(DataError, match=line) as caught:
        write_kspace(tmp_path / "a.h5", **given)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
