"""One call for runs, weights and classical methods: the image of the command line, for arrays, files and samples."""

from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

import federation
from federation.cli import main
from federation.sites import CT_DEMO_SITES, make_ct_demo_sites
from recon import DataError, KSpaceSlices, NetworkSettings, SinogramSlices, collate, open_sinograms, save_weights

from ..fake_sites import SMALL, trained_run, write_file

#: Every second column and the center.
MASK = (np.arange(20) % 2 == 0) | (abs(np.arange(20) - 10) < 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("federation"), [*SMALL, "--set", "federation.rounds=1"])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Undersampled, a field of view that is cropped, with pixel size and thickness."""
    path = tmp_path / "scan.h5"
    write_file(path, mask=MASK)
    with_fov(path)
    return path


def with_fov(path: Path) -> None:
    fov = "<fieldOfView_mm><x>48</x><y>30</y><z>3.5</z></fieldOfView_mm></encodedSpace>"
    recon = "<fieldOfView_mm><x>24</x><y>24</y><z>3.5</z></fieldOfView_mm></reconSpace>"
    with h5py.File(path, "r+") as file:
        text = file["ismrmrd_header"][()].decode()
        del file["ismrmrd_header"]
        before, after = text.split("<reconSpace>")
        after = after.replace("<x>24</x><y>20</y>", "<x>12</x><y>16</y>").replace("</reconSpace>", recon)
        file["ismrmrd_header"] = before.replace("</encodedSpace>", fov) + "<reconSpace>" + after


def command_image(run: Path, scan: Path, out: Path) -> np.ndarray:
    assert main(["reconstruct", str(run), "--site", "north", str(scan), "--out", str(out)]) == 0
    with h5py.File(out) as file:
        return file["image"][()]


def test_arrays_files_and_samples_give_the_image_of_the_command_line(run: Path, scan: Path, tmp_path: Path) -> None:
    image = command_image(run, scan, tmp_path / "out.h5")
    method = federation.load(str(run), site="north")
    with h5py.File(scan) as file:
        kspace, mask, header = file["kspace"][()], file["mask"][()], file["ismrmrd_header"][()]
    np.testing.assert_array_equal(method(str(scan)), image)
    found = method(kspace, mask, header=header)
    assert isinstance(found, np.ndarray) and found.dtype == np.complex64
    np.testing.assert_array_equal(found, image)
    tensor = method(torch.from_numpy(kspace), torch.from_numpy(mask), header=header)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), image)
    samples = method.samples(scan)
    np.testing.assert_array_equal(method(samples[1]).numpy(), image[1])
    batch = method(collate([samples[0], samples[1]]))
    np.testing.assert_allclose(batch.numpy(), image, atol=1e-5 * abs(image).max())
    assert not list(tmp_path.glob("arrays*"))


def test_without_a_header_the_whole_array_is_the_image(run: Path, tmp_path: Path) -> None:
    """As for a file of the same sizes; one slice, one coil and one slice of several have their own shapes."""
    write_file(tmp_path / "scan.h5", mask=MASK)
    image = command_image(run, tmp_path / "scan.h5", tmp_path / "out.h5")
    method = federation.load(run, site="north")
    with h5py.File(tmp_path / "scan.h5") as file:
        kspace = file["kspace"][()]
    np.testing.assert_array_equal(method(kspace, MASK), image)
    assert method(kspace[0], MASK).shape == (24, 20) and method(kspace[:1], MASK).shape == (1, 24, 20)
    assert method(kspace[0, 0], MASK.reshape(1, 1, 20, 1)).shape == (24, 20)
    np.testing.assert_array_equal(method(kspace), method(kspace, np.ones(20)))


def test_the_scale_of_the_measurement_is_that_of_the_image(run: Path, scan: Path) -> None:
    method = federation.load(run, site="north")
    with h5py.File(scan) as file:
        kspace = file["kspace"][0]
    found, expected = method(kspace / 8192, MASK), method(kspace, MASK) / 8192
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("name", ["zero_filled", "cg_sense", "tv", "l1_wavelet"])
def test_classical_methods_have_the_same_call(name: str, scan: Path) -> None:
    method = federation.load(name)
    with h5py.File(scan) as file:
        kspace, mask, header = file["kspace"][()], file["mask"][()], file["ismrmrd_header"][()]
    image = method(kspace, mask, header=header)
    sample = KSpaceSlices([scan], "site")[1]
    np.testing.assert_array_equal(image[1], method(sample).numpy())


def test_options_of_a_classical_method_are_passed_on(scan: Path) -> None:
    weak, strong = (federation.load("tv", weight=weight, iterations=3) for weight in (1e-4, 1.0))
    assert strong.network.weight == 1.0 and np.abs(weak(scan) - strong(scan)).max() > 0
    with pytest.raises(DataError, match="tv: found options that fail"):
        federation.load("tv", wait=1)


def test_ct_takes_projections_with_their_geometry(tmp_path: Path) -> None:
    make_ct_demo_sites(tmp_path, size=32, train=1, validation=1, test=1, slices=2, sites=CT_DEMO_SITES[:1])
    path = next((tmp_path / "data").rglob("*_test_000.h5"))
    volume = open_sinograms(path)
    stored, method = volume.read_slice(1), federation.load("fbp")
    assert volume.holds == "counts"
    expected = method(path)
    assert expected.shape == (2, 32, 32) and expected.dtype == np.float32
    facts = {"photons": volume.photons, "counts": True}
    found = method(stored.numpy(), volume.geometry, volume.grid, **facts)
    if volume.electronic_noise == 0:
        np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_array_equal(method(SinogramSlices([path], "site")[1]).numpy(), expected[1])
    lines = np.ones(volume.geometry.shape, dtype=np.float32)
    assert method(lines, volume.geometry, volume.grid).shape == (32, 32)
    assert federation.load("tv", modality="ct").kind.name == "ct"


def test_weights_by_name_or_file(scan: Path, tmp_path: Path) -> None:
    settings = NetworkSettings(cascades=1, regularizer="cnn", channels=2, depth=2, consistency="proximal")
    save_weights(settings.build(), tmp_path / "my.safetensors", settings, "mri", "Small")
    out = tmp_path / "out.h5"
    file = str(tmp_path / "my.safetensors")
    assert main(["reconstruct", "--weights", file, str(scan), "--out", str(out)]) == 0
    with h5py.File(out) as written:
        np.testing.assert_array_equal(federation.load(file)(scan), written["image"][()])
    assert federation.load("brain-mri").kind.name == "mri"


def test_what_is_no_method_is_one_line(run: Path, scan: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("brain-mr",), "did you mean 'brain-mri'"),
        (("runs/none",), "expected the folder of a run, weights or a classical method"),
        ((run,), "site: found nothing, expected one of north"),
        ((tmp_path,), "is not a run folder"),
    ):
        with pytest.raises(DataError, match=words):
            federation.load(*arguments)
    for options, words in (
        ({"source": "tv", "site": "north"}, "site: found 'north', expected none with a classical method"),
        ({"source": run, "site": "north", "weight": 1}, "weight: found 1, expected none with a run"),
        ({"source": "fbp", "modality": "mri"}, "expected one of zero_filled"),
        ({"source": "tv", "modality": "pet"}, "modality: found 'pet'"),
        ({"source": "tv", "format": "h5"}, "--format: found 'h5'"),
    ):
        with pytest.raises(DataError, match=words):
            federation.load(**options)
    method = federation.load("cg_sense")
    with pytest.raises(TypeError, match="hold their mask"):
        method(scan, MASK)
    with pytest.raises(DataError, match=r"^arrays: kspace: found dtype float64"):
        method(np.ones((2, 24, 20)), MASK)
    with pytest.raises(DataError, match=r"^arrays: mask: found "):
        method(np.ones((2, 24, 20), complex), MASK[:5])


def test_the_command_writes_nifti_with_the_pixels_of_the_header(run: Path, scan: Path, tmp_path: Path) -> None:
    image = command_image(run, scan, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        expected = file["reconstruction"][()]
        assert b"fieldOfView_mm" in file["ismrmrd_header"][()] and file.attrs["patient_id"] == "scan"
    assert expected.shape == (2, 12, 16) and image.shape == (2, 12, 20)  # without readout oversampling
    command = ["reconstruct", str(run), "--site", "north", str(scan)]
    assert main([*command, "--out", str(tmp_path / "out.nii.gz")]) == 0
    nifti = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(nifti.get_fdata(dtype=np.float32), expected.transpose(2, 1, 0))
    np.testing.assert_allclose(nifti.header.get_zooms(), (1.5, 2.0, 3.5))
    assert main([*command, "--out", str(tmp_path / "dicom")]) == 0
    data = pydicom.dcmread(tmp_path / "dicom" / "slice_002.dcm")
    assert data.PixelSpacing == [2, 1.5] and data.SliceThickness == 3.5 and data.PatientID == "scan"
    assert data.SOPClassUID == SecondaryCaptureImageStorage and data.Manufacturer == "SIEMENS"
    np.testing.assert_allclose(
        data.pixel_array * float(data.RescaleSlope), expected[1], rtol=0, atol=expected.max() / 65535
    )


def test_a_scan_that_states_its_place_becomes_an_mr_image(
    run: Path, scan: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    command = ["reconstruct", str(run), "--site", "north", str(scan)]
    with h5py.File(scan, "r+") as file:
        file.attrs["ImageOrientationPatient"] = [0.0, 1, 0, 0, 0, -1]
    error = fails(*command, "--out", tmp_path / "out")
    assert "scan.h5: ImagePositionPatient: found nothing, expected 6 numbers, 2 x 3" in error
    with h5py.File(scan, "r+") as file:
        file["ImagePositionPatient"] = [[0.0, 0, 5], [4, 0, 5]]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    data = pydicom.dcmread(tmp_path / "out" / "slice_002.dcm")
    assert data.SOPClassUID == MRImageStorage and data.ImagePositionPatient == [4, 0, 5]
    assert data.SpacingBetweenSlices == 4 and data.SliceThickness == 3.5
    with h5py.File(scan, "r+") as file:
        file.attrs["ImageOrientationPatient"] = [0.0, 1, 0, 0, 1, -1]
    assert "expected two perpendicular unit vectors" in fails(*command, "--out", tmp_path / "other")


def test_a_folder_of_scans_goes_on_after_a_bad_one(
    run: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "images"
    for name in ("a.h5", "c.h5"):
        write_file(scans / name, mask=MASK)
    (scans / "b.h5").write_bytes(b"no scan")
    (scans / "notes.txt").write_text("not a scan")
    command = ["reconstruct", str(run), "--site", "north", str(scans), "--out", str(out), "--suffix", ".nii.gz"]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert "scans: 1 of 3 scans were not reconstructed: b.h5; the lines above say why" in printed.err
    assert "failed: " in printed.out and "scans/b.h5: file: found " in printed.out
    assert sorted(file.name for file in out.iterdir()) == ["a.nii.gz", "c.nii.gz"]
    (scans / "b.h5").unlink()
    assert "2 of 2 scans were not" in fails(*command)  # they exist
    assert main([*command[:-1], ".dcm"]) == 0
    assert sorted(path.name for path in (out / "a").iterdir()) == ["slice_001.dcm", "slice_002.dcm"]
    assert "--suffix: found 'nii', expected one of .h5" in fails(*command[:-1], "nii")
    assert "--slices: found all, with .nii.gz, expected a name that ends in .png" in fails(*command, "--slices", "all")
    write_file(scans / "a.H5")
    assert "two scans whose image would be a.nii.gz" in fails(*command)
    assert "--suffix: belongs to a folder" in fails(*command[:4], scan, "--out", tmp_path / "b.nii", "--suffix", ".nii")
    assert "expected a folder for the images" in fails(*command[:5], "--out", tmp_path / "x.nii")
    assert "found no .h5 file" in fails(*command[:4], out, *command[5:])
