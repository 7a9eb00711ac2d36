import os
import resource
from pathlib import Path

import fastmri
import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from fastmri.data.mri_data import SliceDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from physics import birdcage_maps, ifft2c
from recon import (
    DataError,
    open_volume,
    read_images,
    simulate_volume,
    simulated_header,
    with_smooth_phase,
    write_volume,
)

SHAPE = (24, 20)


def images(n=3, seed=0):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_noise_free_kspace_holds_the_coil_images():
    maps = birdcage_maps(4, SHAPE)
    kspace = simulate_volume(images(), maps)
    assert kspace.shape == (3, 4, *SHAPE) and kspace.dtype == torch.complex64
    assert torch.allclose(ifft2c(kspace), maps * images()[:, None], atol=1e-5)


def test_noise_has_the_given_covariance():
    coupling = torch.randn(3, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    covariance = coupling @ coupling.mH
    noise = simulate_volume(
        torch.zeros(20, 64, 64), torch.zeros(3, 64, 64, dtype=torch.complex64), noise_covariance=covariance
    )
    flat = noise.movedim(1, 0).flatten(1).to(torch.complex128)
    assert torch.allclose(flat @ flat.mH / flat.shape[1], covariance, atol=0.02 * float(covariance.abs().max()))


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="simulate_volume: images have shape"):
        simulate_volume(images(), birdcage_maps(4, (24, 22)))


def test_smooth_phase_keeps_the_magnitude():
    magnitude = images()
    phased = with_smooth_phase(magnitude, seed=1)
    assert torch.allclose(phased.abs(), magnitude, atol=1e-6)
    phase = (phased / magnitude)[0].angle()
    steps = torch.polar(torch.ones(()), phase.diff(dim=0)).angle()
    assert phase.std() > 0.2 and steps.abs().max() < 1.5
    assert not torch.equal(phased, with_smooth_phase(magnitude, seed=2))


def test_fastmri_reads_what_was_written(tmp_path):
    kspace = simulate_volume(with_smooth_phase(images(), 0), birdcage_maps(4, SHAPE))
    write_volume(tmp_path / "a.h5", kspace, simulated_header(SHAPE, (16, 16)), patient_id="p", acquisition="T1")
    dataset = SliceDataset(tmp_path, challenge="multicoil")
    assert len(dataset) == 3
    theirs, mask, target, attributes, name, i = dataset[1]
    assert mask is None and (name, i) == ("a.h5", 1)
    assert np.array_equal(theirs, kspace[1].numpy())
    coil_images = fastmri.ifft2c(torch.view_as_real(kspace[1]))
    expected = fastmri.rss(fastmri.complex_abs(coil_images))[4:20, 2:18].numpy()
    assert np.allclose(target, expected, atol=1e-6)
    assert attributes["max"] == pytest.approx(max(dataset[k][2].max() for k in range(3)))
    assert (attributes["patient_id"], attributes["acquisition"]) == ("p", "T1")


def test_round_trip_of_everything(tmp_path):
    maps, covariance = birdcage_maps(4, SHAPE), 0.01 * torch.eye(4)
    mask = torch.arange(20) % 2 == 0
    kspace = simulate_volume(images(), maps, noise_covariance=covariance)
    path = tmp_path / "deep" / "a.h5"
    write_volume(
        path,
        kspace,
        simulated_header(SHAPE),
        patient_id="p",
        acquisition="T1",
        mask=mask,
        maps=maps,
        noise_covariance=covariance,
    )
    volume = open_volume(path)
    assert torch.equal(volume.mask, mask) and volume.undersampled and volume.rss_shape is None
    assert torch.equal(volume.read_slice(2), kspace[2] * mask)
    assert torch.equal(volume.read_maps(2), maps)
    assert torch.allclose(volume.noise_covariance, covariance.to(torch.complex128), atol=1e-9)
    assert volume.header == simulated_header(SHAPE) and volume.header.vendor == "simulated"


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    path = tmp_path / "a.h5"
    facts = {"patient_id": "p", "acquisition": "T1"}
    maps = birdcage_maps(2, SHAPE)
    write_volume(path, simulate_volume(images(1, seed=0), maps), simulated_header(SHAPE), **facts)
    before = path.read_bytes()
    with path.open("rb") as old:
        write_volume(path, simulate_volume(images(1, seed=1), maps), simulated_header(SHAPE), **facts)
        assert old.read() == before != path.read_bytes()


def test_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.h5"
    facts = {"patient_id": "p", "acquisition": "T1"}
    write_volume(path, simulate_volume(images(1), birdcage_maps(2, SHAPE)), simulated_header(SHAPE), **facts)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(DataError, match=rf"{path}: cannot be written"):
            write_volume(path, simulate_volume(images(3), birdcage_maps(4, SHAPE)), simulated_header(SHAPE), **facts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="write_volume: kspace has shape"):
        kspace = torch.zeros(3, 24, 20, dtype=torch.complex64)
        write_volume(tmp_path / "a.h5", kspace, simulated_header(SHAPE), patient_id="p", acquisition="T1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PSR"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_orientation(tmp_path, axes, suffix):
    # Canonical volume (right, anterior, superior) with one bright voxel at the right, anterior, superior end.
    volume = np.zeros((4, 5, 6), np.float32)
    volume[3, 4, 5] = 7
    canonical = nibabel.Nifti1Image(volume, np.diag([1.0, 1.0, 1.0, 1.0]))
    start = nibabel.orientations.axcodes2ornt("RAS")
    turned = canonical.as_reoriented(
        nibabel.orientations.ornt_transform(start, nibabel.orientations.axcodes2ornt(axes))
    )
    path = tmp_path / f"t1{suffix}"
    nibabel.save(turned, path)
    slices = read_images(path)
    assert slices.shape == (6, 5, 4) and slices.dtype == torch.float32
    # Last slice, anterior at the top, the patient's right at the left of the image.
    assert slices.nonzero().tolist() == [[5, 0, 0]]


def write_dicom(path, pixels, position, series, number=1):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.SeriesInstanceUID = series
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, position]
    dataset.InstanceNumber = number
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1
    dataset.PixelData = pixels.astype(np.uint16).tobytes()
    dataset.save_as(path, enforce_file_format=True)


def test_dicom_series_is_sorted_and_rescaled(tmp_path):
    series = generate_uid()
    for name, position in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        write_dicom(tmp_path / f"{name}.dcm", np.full((4, 3), int(position)), position, series)
    assert read_images(tmp_path)[:, 0, 0].tolist() == [1.0, 3.0, 5.0]
    assert read_images(tmp_path / "a.dcm").shape == (1, 4, 3)


def test_bad_images_are_one_line(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b\x08\x00 not gzip")
    (tmp_path / "broken.dcm").write_bytes(b"not DICOM")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)), tmp_path / "four.nii")
    nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), np.nan), np.eye(4)), tmp_path / "nan.nii")
    expected = {
        "missing.nii": "found nothing",
        "broken.nii.gz": "no readable NIfTI",
        "broken.dcm": "a text file, expected a NIfTI or DICOM image",
        "four.nii": "expected a 3-D volume",
        "nan.nii": "found NaN",
        "series": "no DICOM file",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message) as error:
            read_images(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    for number in range(2):
        write_dicom(series / f"{number}.dcm", np.ones((4, 3)), number, generate_uid())
    with pytest.raises(DataError, match="2 series, expected one"):
        read_images(series)


@pytest.mark.real_data
def test_real_images():
    folder = Path(os.environ["FEDRECON_DATA"]) / "mri_images"
    template = read_images(folder / "mni152_t1.nii.gz")
    assert template.shape == (189, 233, 197) and template[90, 116, 98] > 0
    slices = read_images(folder / "studyforrest_t1")
    assert slices.shape == (9, 366, 274) and slices.max() > 0  # pixels of 0.667 x 0.7 mm


def test_file_has_no_path_of_its_maker(tmp_path):
    write_volume(
        tmp_path / "a.h5",
        simulate_volume(images(1), birdcage_maps(2, SHAPE)),
        simulated_header(SHAPE),
        patient_id="p",
        acquisition="T1",
    )
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"kspace", "ismrmrd_header", "reconstruction_rss"}
        assert set(file.attrs) == {"patient_id", "acquisition", "max", "norm"}
