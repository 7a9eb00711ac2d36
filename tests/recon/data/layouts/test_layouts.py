"""Every layout shows the image that was written: axes, Fourier convention, scaling; files made by its documentation."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon import MRI_READERS, DataError, KSpaceSlices, KSpaceVolume, header_xml

Array = NDArray[Any]
Shows = Callable[..., None]
RECORD = np.dtype([("real", "<f8"), ("imag", "<f8")])


def opened(path: Path, **options: Any) -> KSpaceVolume:
    """The volume as its detected reader opens it."""
    return MRI_READERS.open(path, MRI_READERS.detect(path), **options)


def records(values: Array) -> Array:
    found = np.empty(values.shape, RECORD)
    found["real"], found["imag"] = values.real, values.imag
    return found


def parts(values: Array) -> Array:
    return np.stack((values.real, values.imag), -1).astype(np.float32)


# HDF5 of the fastMRI layout, without a header.
@pytest.mark.parametrize("stored", [np.asarray, records, parts])
def test_complex_numbers_may_be_stored_in_three_ways(
    stored: Callable[[Array], Array], kspace: Array, shows: Shows, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = stored(kspace)
    assert MRI_READERS.detect(tmp_path / "a.h5") == "fastmri"
    volume = opened(tmp_path / "a.h5")
    shows(volume)
    np.testing.assert_array_equal(volume.read_slice(1), kspace[1])
    assert volume.header.recon_shape == (48, 40) and not volume.undersampled


@pytest.mark.parametrize("stored", [np.asarray, records, parts])
def test_one_coil_needs_no_axis(stored: Callable[[Array], Array], kspace: Array, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = stored(kspace[:, 0])
    volume = opened(tmp_path / "a.h5")
    assert volume.shape == (3, 1, 48, 40)
    np.testing.assert_array_equal(volume.read_slice(2), kspace[2, :1])


def test_zeros_are_found_in_any_storage(kspace: Array, tmp_path: Path) -> None:
    kspace[..., 1::2] = 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = parts(kspace)
    volume = opened(tmp_path / "a.h5")
    assert volume.mask is not None and volume.mask.tolist() == [True, False] * 20


# NumPy files.
def test_npy_follows_the_rule_for_its_axes(kspace: Array, images: Array, shows: Shows, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", kspace)
    shows(opened(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", kspace[0])
    shows(opened(tmp_path / "b.npy"), images[:1])
    np.save(tmp_path / "c.npy", parts(kspace[0, 0]))
    shows(opened(tmp_path / "c.npy"), images[:1, :1])
    assert "by the rule for its axes" in opened(tmp_path / "b.npy").reading


def test_npz_names_its_axes_in_any_order(kspace: Array, images: Array, shows: Shows, tmp_path: Path) -> None:
    swapped = kspace.transpose(3, 2, 0, 1)
    np.savez(
        tmp_path / "a.npz", kspace=swapped, axes=["phase", "readout", "slice", "coil"], noise_covariance=np.eye(2),
        patient_id="p7", acquisition="AXT2", mask=np.ones(40),
    )  # fmt: skip
    volume = opened(tmp_path / "a.npz")
    shows(volume)
    assert (volume.patient_id, volume.acquisition) == ("p7", "AXT2") and volume.noise_covariance is not None
    frames = np.stack((kspace, 0.5 * kspace))
    np.savez(tmp_path / "b.npz", kspace=frames, axes="frame slice coil readout phase")
    shows(opened(tmp_path / "b.npz"), np.concatenate((images, 0.5 * images)))
    assert "slices are frame x slice" in opened(tmp_path / "b.npz").reading


def test_npz_takes_a_header(kspace: Array, tmp_path: Path, header: Callable[..., str]) -> None:
    np.savez(tmp_path / "a.npz", kspace=kspace, ismrmrd_header=header((48, 40), (24, 40)))
    assert opened(tmp_path / "a.npz").crop_shape == (24, 40)


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"axes": "coil slice readout"}, "axes: found coil, slice, readout, expected 4 different names"),
        ({"axes": "coil slice readout time"}, "expected 4 different names"),
        ({"kspace": np.ones((2, 2, 2, 8, 8), complex)}, "5 axes without names"),
        ({"kspace": np.ones((2, 8, 8))}, "expected complex numbers"),
        ({"mask": np.ones(7)}, "mask: found float64 of shape (7,), expected 0 and 1 of shape (40,) or (48, 40)"),
        ({"mask": np.zeros(40)}, "no sampled position"),
        ({"noise_covariance": np.ones((3, 3))}, "noise_covariance: found float64 of shape (3, 3)"),
        ({"trajectory": np.ones(3)}, "found a trajectory, expected Cartesian k-space"),
        ({"ismrmrd_header": "<xml/>"}, "ismrmrd_header"),
        ({"kspace": np.zeros((0, 2, 8, 8), complex)}, "shape (0, 2, 8, 8)"),
        ({"mask": np.array([None])}, "an .npz that cannot be read (Object arrays"),
    ],
)
def test_npz_that_is_unclear_is_one_line(arrays: dict[str, Any], line: str, kspace: Array, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **({"kspace": kspace} | arrays))
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "a.npz")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_zero_frequency_in_the_corner_is_refused(kspace: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.fft.ifftshift(kspace, axes=-1))
    with pytest.raises(DataError, match=r"zero frequency in the corner.*fftshift along axes -1"):
        opened(tmp_path / "a.npy")


def test_slices_of_different_sampling_are_refused(kspace: Array, tmp_path: Path) -> None:
    kspace[1, ..., 3] = 0
    np.save(tmp_path / "a.npy", kspace)
    with pytest.raises(DataError, match="slices whose measured columns differ"):
        opened(tmp_path / "a.npy")


# Calgary-Campinas: a plain inverse FFT over (ky, kz) shows the image.
@pytest.fixture(params=["middle", "corner"])
def hybrid(request: pytest.FixtureRequest, images: Array) -> Array:
    """Hybrid k-space of the images, the zero frequency in the middle or in the corner; both show the same magnitude."""
    kspace = np.fft.fft2(images)
    if request.param == "middle":  # an image with a sign pattern
        signs = (-1.0) ** np.add.outer(np.arange(images.shape[-2]), np.arange(images.shape[-1]))
        kspace = np.fft.fft2(images * signs)
    np.testing.assert_allclose(np.abs(np.fft.ifft2(kspace)), np.abs(images), atol=1e-9)
    return kspace


def test_cc359_of_one_coil_is_told_by_its_zero_frequency(
    hybrid: Array, images: Array, shows: Shows, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", parts(hybrid[:, 0]))
    in_corner = abs(hybrid[0, 0, 0, 0]) > abs(hybrid[0, 0, 24, 20])
    volume = MRI_READERS.open(tmp_path / "a.npy", "cc359")
    shows(volume, images[:, :1], phase=False)
    assert ("zero frequency in the corner" if in_corner else "zero frequency in the middle") in volume.reading
    if in_corner:
        assert MRI_READERS.detect(tmp_path / "a.npy") == "cc359"
        return
    # In the middle it could be any array: its image lies around the corners.
    assert MRI_READERS.detect(tmp_path / "a.npy") == "numpy"
    with pytest.raises(DataError, match=r"half a field of view off.*the format cc359"):
        opened(tmp_path / "a.npy")


def test_cc359_of_several_coils_has_parts_by_turns(hybrid: Array, images: Array, shows: Shows, tmp_path: Path) -> None:
    turns = np.moveaxis(parts(hybrid), 1, 3).reshape(3, 48, 40, 4)
    with h5py.File(tmp_path / "e1.h5", "w") as file:
        file["kspace"] = turns
    assert MRI_READERS.detect(tmp_path / "e1.h5") == "cc359"
    volume = opened(tmp_path / "e1.h5")
    if abs(hybrid[0, 0, 0, 0]) > abs(hybrid[0, 0, 24, 20]):
        shows(volume, phase=False)
        return
    shows(volume, least=0.97, phase=False)  # without the last 15 % of kz
    assert volume.header.padding == (0, 34) and volume.partial_fourier is not None
    assert not volume.read_slice(0)[..., 34:].any() and bool(volume.read_slice(0)[..., 33].any())


def test_cc359_whose_center_is_unclear_is_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = draw.standard_normal((3, 48, 40, 4)).astype(np.float32)
    with pytest.raises(DataError, match="the peak of k-space unclear"):
        opened(tmp_path / "a.h5")


# CMRxRecon: MATLAB 7.3, axes in reverse order.
def matlab(path: Path, **arrays: Array) -> None:
    """A file as MATLAB 7.3 writes it: arrays are given in MATLAB's order of axes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.transpose()
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")


@pytest.mark.parametrize("stored", [np.asarray, records])
def test_cmrxrecon_of_five_axes(
    stored: Callable[[Array], Array], kspace: Array, images: Array, shows: Shows, tmp_path: Path
) -> None:
    frames = np.stack((kspace, 2 * kspace), -1)  # slices, coils, kx, ky, frames
    matlab(tmp_path / "cine_sax.mat", kspace_full=stored(frames.transpose(2, 3, 1, 0, 4)))
    assert MRI_READERS.detect(tmp_path / "cine_sax.mat") == "cmrxrecon"
    volume = opened(tmp_path / "cine_sax.mat")
    shows(volume, np.concatenate((images, 2 * images)))
    shows(opened(tmp_path / "cine_sax.mat", frame=1), images)
    assert "2 frames x 3 slices, the slice fastest" in volume.reading and volume.mask is None
    with pytest.raises(DataError, match="frame: found 2, expected 0 to 1"):
        opened(tmp_path / "cine_sax.mat", frame=2)


def test_cmrxrecon_without_frames_without_coils(kspace: Array, images: Array, shows: Shows, tmp_path: Path) -> None:
    matlab(tmp_path / "a.mat", kspace=records(kspace.transpose(2, 3, 1, 0)))
    shows(opened(tmp_path / "a.mat"))
    matlab(tmp_path / "b.mat", kspace=records(kspace[0].transpose(1, 2, 0)))
    shows(opened(tmp_path / "b.mat"), images[:1])
    single = np.stack((kspace[:, 0], 3 * kspace[:, 0]))  # frames, slices, kx, ky
    matlab(tmp_path / "c.mat", kspace_single_full=records(single.transpose(2, 3, 1, 0)))
    shows(opened(tmp_path / "c.mat"), np.concatenate((images[:, :1], 3 * images[:, :1])))
    matlab(tmp_path / "d.mat", kspace_single_full=records(kspace[0, 0]))
    shows(opened(tmp_path / "d.mat"), images[:1, :1])
    assert [opened(tmp_path / f"{name}.mat").shape[:2] for name in "abcd"] == [(3, 2), (1, 2), (6, 1), (1, 1)]


def test_cmrxrecon_of_frames_with_different_lines_is_read_frame_by_frame(kspace: Array, tmp_path: Path) -> None:
    frames = np.stack((kspace, kspace), -1).transpose(2, 3, 1, 0, 4).copy()
    frames[:, 1:15:2, ..., 0], frames[:, :14:2, ..., 1] = 0, 0
    matlab(tmp_path / "a.mat", kus=records(frames))
    volume = opened(tmp_path / "a.mat")
    assert volume.shape[0] == 3 and [name for name, _ in volume.parts] == ["frame0", "frame1"]
    assert any("2 frames of different sampling" in note for note in volume.notes)
    masks = [opened(tmp_path / "a.mat", frame=index).mask for index in range(2)]
    assert all(mask is not None for mask in masks)
    assert [mask[:4].tolist() for mask in masks if mask is not None] == [[True, False] * 2, [False, True] * 2]


def test_cmrxrecon_with_several_arrays_asks_for_one(kspace: Array, shows: Shows, tmp_path: Path) -> None:
    one = records(kspace.transpose(2, 3, 1, 0))
    matlab(tmp_path / "a.mat", kspace_full=one, kspace_sub04=one)
    with pytest.raises(DataError, match="variable: found kspace_full, kspace_sub04, expected one array"):
        opened(tmp_path / "a.mat")
    shows(opened(tmp_path / "a.mat", variable="kspace_full"))


# M4Raw: one file for each repetition.
@pytest.fixture
def repetitions(kspace: Array, tmp_path: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    paths = [tmp_path / f"2022061003_T10{number}.h5" for number in (1, 2, 3)]
    for path in (*paths, tmp_path / "2022061003_T201.h5", tmp_path / "2022061004_T101.h5"):
        noise = draw.standard_normal((2, *kspace.shape)) * 1e-6
        with h5py.File(path, "w") as file:
            file["kspace"] = (kspace + noise[0] + 1j * noise[1]).astype(np.complex64)
            file["noise_covariance"] = np.eye(2) * 2e-12
            file["reconstruction_rss"] = np.ones((3, 48, 40), np.float32)
    return paths


def test_m4raw_is_averaged_where_its_format_is_named(repetitions: list[Path], kspace: Array, shows: Shows) -> None:
    volume = MRI_READERS.open(repetitions[1], "m4raw")
    shows(volume, least=0.98)
    assert volume.sources == tuple(repetitions) and volume.rss_shape is None
    error = [
        np.std(MRI_READERS.open(repetitions[0], name).read_slice(0).numpy() - kspace[0])
        for name in ("fastmri", "m4raw")
    ]
    assert error[1] / error[0] == pytest.approx(3**-0.5, rel=0.1)
    assert volume.noise_covariance is not None
    assert float(volume.noise_covariance[0, 0].real) == pytest.approx(2e-12 / 3)
    assert MRI_READERS.detect(repetitions[0]) == "fastmri"


def test_m4raw_refuses_what_cannot_be_averaged(repetitions: list[Path], kspace: Array) -> None:
    with pytest.raises(DataError, match="found one file, expected several, 2022061004_T1"):
        MRI_READERS.open(repetitions[0].with_name("2022061004_T101.h5"), "m4raw")
    other = repetitions[0].with_name("scan.h5")
    repetitions[0].rename(other)
    with pytest.raises(DataError, match="a name with contrast and number"):
        MRI_READERS.open(other, "m4raw")
    with h5py.File(repetitions[2], "r+") as file:
        del file["kspace"]
        file["kspace"] = kspace[..., :-2]
    with pytest.raises(DataError, match=r"T103.h5: kspace: found shape"):
        MRI_READERS.open(repetitions[1], "m4raw")


# BART.
def cfl(path: Path, array: Array, sizes: dict[int, int] | None = None) -> Path:
    """Write an array whose axes are the first dimensions of BART, or those of ``sizes``."""
    dims = [1] * 16
    for axis, size in (sizes or dict(enumerate(array.shape))).items():
        dims[axis] = size
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n")
    path.with_suffix(".cfl").write_bytes(array.astype(np.complex64).tobytes(order="F"))
    return path.with_suffix(".cfl")


def test_bart_slices_coils_and_averages(kspace: Array, images: Array, shows: Shows, tmp_path: Path) -> None:
    ordered = kspace.transpose(2, 3, 1, 0)  # READ, PHS1, COIL, SLICE
    path = cfl(tmp_path / "a", ordered, {0: 48, 1: 40, 3: 2, 13: 3})
    assert MRI_READERS.detect(path) == MRI_READERS.detect(path.with_suffix(".hdr")) == "bart"
    shows(opened(path))
    twice = np.stack((0.5 * ordered, 1.5 * ordered), -1)
    shows(opened(cfl(tmp_path / "b", twice, {0: 48, 1: 40, 3: 2, 13: 3, 14: 2})))
    shows(opened(cfl(tmp_path / "c", kspace[0].transpose(1, 2, 0), {1: 48, 2: 40, 3: 2})), images[:1])


@pytest.mark.parametrize("full", [True, False])
def test_bart_of_three_dimensions_becomes_slices(full: bool, tmp_path: Path, shows: Shows) -> None:
    slices, readout, phase = 12, 32, 24
    y, x, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (readout, phase, slices)), indexing="ij")
    body = (y**2 / 0.5 + (x - 0.1) ** 2 / 0.4 + (z - 0.2) ** 2 / 0.6 < 1) * (1.0 + (x > 0.1) + 2.0 * (y > 0.3))
    volume = np.stack((body, body * np.exp(0.5j * x)))  # coils, x, y, z
    axes = (1, 2, 3)
    kspace = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume, axes=axes), axes=axes, norm="ortho"), axes=axes)
    if not full:
        kspace[:, :, 2, 1] = kspace[:, :, 5, 9] = 0
    path = cfl(tmp_path / "a", np.moveaxis(kspace, 0, -1))
    found = opened(path)
    if full:
        shows(found, np.moveaxis(volume, 3, 0))
        assert "along the partitions" in found.reading and found.mask is None
    else:
        shows(found, np.moveaxis(volume, 1, 0), least=0.999)
        assert "along the readout" in found.reading and found.mask is not None and int((~found.mask).sum()) == 2


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("# Dimensions\n48 40 1 2 2\n", "dimension MAPS of 2, expected k-space"),
        ("# Dimensions\n48 x\n", "found '48 x', expected 1 to 16 sizes"),
        ("# Dimensions\n", "no dimensions"),
        ("# Dimensions\n48 40 1 3\n", "bytes, expected 46080, complex64 of the dimensions of a.hdr"),
        ("# Dimensions\n3840 1 1 2\n", "expected two or three axes"),
    ],
)
def test_bart_that_cannot_be_kspace_is_one_line(header: str, line: str, tmp_path: Path) -> None:
    path = cfl(tmp_path / "a", np.ones((48, 40, 1, 2, 2 if "MAPS" in line else 1)))
    if "3840" in header:
        path.write_bytes(np.ones((3840, 2), np.complex64).tobytes())
    path.with_suffix(".hdr").write_text(header)
    with pytest.raises(DataError) as caught:
        MRI_READERS.open(path, "bart")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_bart_needs_both_files(tmp_path: Path, kspace: Array) -> None:
    path = cfl(tmp_path / "a", kspace[0].transpose(1, 2, 0), {0: 48, 1: 40, 3: 2})
    path.with_suffix(".hdr").unlink()
    with pytest.raises(DataError, match=r"a.hdr: file: found nothing, expected the other file"):
        MRI_READERS.open(path, "bart")


# The registry.
def test_volumes_of_every_layout_can_be_sent_to_other_processes_and_become_samples(
    kspace: Array, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", kspace)
    files = {
        "numpy": tmp_path / "a.npy",
        "bart": cfl(tmp_path / "b", kspace[0].transpose(1, 2, 0), {0: 48, 1: 40, 3: 2}),
    }
    for name, path in files.items():
        volume = pickle.loads(pickle.dumps(MRI_READERS.open(path, name)))
        np.testing.assert_array_equal(volume.read_slice(0), kspace[0])
        sample = KSpaceSlices([path], "site", format=name)[0]
        assert sample.reference is not None and bool(sample.reference.abs().isfinite().all())


def test_a_file_that_no_reader_takes_is_named(tmp_path: Path) -> None:
    for name, content, line in (
        ("a.txt", b"no scan\n", "found a text file, expected one of fastmri, numpy"),
        ("b.npz", b"", "an empty file"),
        ("c.dat", bytes(range(256)), "a format that is not known"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=line):
            MRI_READERS.detect(tmp_path / name)
    with pytest.raises(DataError, match="found nothing, expected a file"):
        MRI_READERS.detect(tmp_path / "gone.h5")


@pytest.mark.usefixtures("fresh_registries")
def test_a_file_that_two_readers_take_is_one_line(kspace: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", kspace)
    MRI_READERS.add("mine", detect=lambda path: path.suffix == ".npy")(lambda path: None)
    try:
        with pytest.raises(DataError, match="a file that numpy and mine read, expected one reader; name the format"):
            MRI_READERS.detect(tmp_path / "a.npy")
    finally:
        MRI_READERS.remove("mine")
    assert MRI_READERS.detect(tmp_path / "a.npy") == "numpy"


def test_a_header_is_kept_by_name(kspace: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", kspace)
    assert b"<x>48</x>" in header_xml(opened(tmp_path / "a.npy").header)
