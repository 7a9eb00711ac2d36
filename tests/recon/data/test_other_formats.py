"""Files of other formats are named by their content, whatever their suffix, by every reader."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io
import torch

from physics import FanBeam, ImageGrid
from recon import CT_READERS, MRI_READERS, DataError, read_images, write_sinograms
from recon.data import format_of


def _numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 3), np.complex64))


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, kspace=np.zeros(3))


def _torch(path: Path) -> None:
    torch.save({"kspace": torch.zeros(3)}, path)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scan/readme.txt", "k-space")


def _matlab(path: Path) -> None:
    with path.open("wb") as file:
        scipy.io.savemat(file, {"kspace": np.zeros(3)})


def _matlab73(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["sinogram"] = np.zeros((3, 4))
        file["sinogram"].attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")


def _bart(path: Path) -> None:
    path.with_suffix(".cfl").write_bytes(np.ones(99, np.complex64).tobytes())
    path.with_suffix(".hdr").write_text("# Dimensions\n3 33 1\n")


def _ismrmrd(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["dataset/xml"], file["dataset/data"] = "<ismrmrdHeader/>", np.zeros(3)


def _nifti(path: Path) -> None:
    path.write_bytes(_nifti_bytes())


def _nifti_bytes() -> bytes:
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4))  # type: ignore[no-untyped-call]
    return bytes(image.to_bytes())


def _twix_vb(path: Path) -> None:
    path.write_bytes((4096).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"Config\0" + bytes(5000))


def _kspace(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["kspace"], file["ismrmrd_header"] = np.zeros((1, 1, 4, 4), np.complex64), "<xml/>"


def _sinogram(path: Path) -> None:
    scan = FanBeam((0.0, 1.0, 2.0), 8, 1.0, 100.0, 200.0)
    write_sinograms(path, ImageGrid((4, 4), 1.0), scan, line_integrals=torch.zeros(1, 3, 8))


def _exchange(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["exchange/data"] = np.zeros((3, 1, 4))


def _bytes(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


#: Writers of formats, with words of their names.
FORMATS: dict[str, Callable[[Path], object]] = {
    "NumPy array": _numpy,
    "NumPy archive": _npz,
    "torch.save": _torch,
    "zip archive": _zip,
    "a MATLAB file": _matlab,
    "MATLAB 7.3": _matlab73,
    "BART": _bart,
    "ISMRMRD": _ismrmrd,
    "NIfTI": _nifti,
    "NIfTI ": lambda path: path.write_bytes(gzip.compress(_nifti_bytes())),
    "DICOM": _bytes(bytes(128) + b"DICM" + bytes(200)),
    "Siemens raw data": _bytes(b"\0\0\0\0\1\0\0\0" + bytes(20_000)),
    "Siemens raw data ": _twix_vb,
    "gzip archive": lambda path: path.write_bytes(gzip.compress(b"k-space")),
    "web page": _bytes(b"\n<!DOCTYPE html><html></html>"),
    "text file": _bytes("Müller, not scanned\n".encode()),
    "Git LFS": _bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "TIFF": _bytes(b"II*\0" + bytes(100)),
    "MRI scan": _kspace,
    "CT scan of fedrecon": _sinogram,
    "Data Exchange": _exchange,
}
READERS: dict[str, Callable[[Path], object]] = {
    **{f"mri {name}": lambda path, name=name: MRI_READERS.open(path, name) for name in MRI_READERS.built_in},  # type: ignore[misc]
    **{f"ct {name}": lambda path, name=name: CT_READERS.open(path, name) for name in CT_READERS.built_in},  # type: ignore[misc]
    "images": read_images,
}
#: What a reader reads itself.
OWN = {
    ("mri fastmri", "MRI scan"),
    ("mri m4raw", "MRI scan"),
    ("mri numpy", "NumPy array"),
    ("mri numpy", "NumPy archive"),
    ("mri bart", "BART"),
    ("mri ismrmrd", "ISMRMRD"),
    ("mri twix", "Siemens raw data"),
    ("mri twix", "Siemens raw data "),
    ("ct sinogram", "CT scan of fedrecon"),
    ("ct exchange", "Data Exchange"),
    ("ct htc2022", "a MATLAB file"),
    ("ct 2detect", "TIFF"),
    ("ct walnut", "text file"),
    ("images", "DICOM"),
}


@pytest.mark.parametrize("suffix", [".h5", ".dat", ".dcm"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_reader_names_other_formats(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{'.cfl' if name == 'BART' else suffix}"
    FORMATS[name](path)
    known = format_of(path)
    assert known is not None and name.strip() in known.name
    for reader, read in READERS.items():
        if (reader, name) in OWN:
            continue
        with pytest.raises(DataError) as caught:
            read(path)
        said = str(caught.value)
        assert name.strip() in said, (reader, said)
        assert said.startswith(f"{path}: file") and "\n" not in said and "again" not in said, (reader, said)


@pytest.mark.parametrize("name", FORMATS)
def test_readers_of_ct_are_told_by_the_content_of_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / ("scan.cfl" if name == "BART" else "scan.dat")
    FORMATS[name](path)
    known = {"CT scan of fedrecon": ["sinogram"], "Data Exchange": ["exchange"]}
    assert CT_READERS.takes(path) == known.get(name, [])


def test_only_the_sinogram_in_a_folder_is_a_scan(tmp_path: Path) -> None:
    names = (
        "sinogram.tif",
        "dark.tif",
        "flat1.tif",
        "flat2.tif",
        "scan_geom_corrected.geom",
        "scan_geom_original.geom",
    )
    for name in names:
        (tmp_path / name).write_bytes(b"II*\0" + bytes(100) if name.endswith("tif") else b"1.5 " * 12)
    taken = {name: CT_READERS.takes(tmp_path / name) for name in names}
    assert {name: by for name, by in taken.items() if by} == {names[0]: ["2detect"], names[4]: ["walnut"]}


def test_observations_of_lodopab_are_told(tmp_path: Path) -> None:
    for name, shape in (("a.hdf5", (1, 1000, 513)), ("b.hdf5", (1, 362, 362))):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("data", shape, np.float32)
    assert [CT_READERS.takes(tmp_path / name) for name in ("a.hdf5", "b.hdf5")] == [["lodopab"], []]


@pytest.mark.parametrize("write", [_kspace, _sinogram, _exchange])
def test_a_truncated_file_is_to_be_copied_again(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    path.write_bytes(path.read_bytes()[:-300])
    for name in ("mri fastmri", "ct sinogram", "ct exchange", "ct lodopab"):
        with pytest.raises(DataError, match="copy it again"):
            READERS[name](path)


def test_what_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    path = tmp_path / "a.h5"
    for size in (0, 1, 7, 100, 5000):
        for _ in range(20):
            path.write_bytes(draw.integers(128, 256, size, np.uint8).tobytes())
            assert format_of(path) is None
            for reader in READERS.values():
                with pytest.raises(DataError):
                    reader(path)


def test_images_are_read_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    for name in ("a.nii", "a.NII", "a.nii.gz", "a.NII.GZ"):
        content = _nifti_bytes()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
        assert read_images(tmp_path / name).shape == (4, 4, 4)
    (tmp_path / "b").write_bytes(_nifti_bytes())
    with pytest.raises(DataError, match=r"a NIfTI image, expected a name that ends with .nii"):
        read_images(tmp_path / "b")


def test_a_folder_of_dicom_slices_may_have_other_suffixes(tmp_path: Path) -> None:
    import pydicom

    source = Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))
    for name in ("._1.IMA", "DICOMDIR", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7" * 50)
    for number, name in enumerate(("1.IMA", "2.DCM", "3")):
        image = pydicom.dcmread(source)
        image.ImagePositionPatient[2] += 5 * number
        image.save_as(tmp_path / name)
    assert read_images(tmp_path).shape[0] == 3
