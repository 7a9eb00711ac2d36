"""Reconstructed images as NIfTI, DICOM, PNG and HDF5, read back by nibabel, pydicom, Pillow and h5py."""

import os
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom import config
from pydicom.uid import CTImageStorage, MRImageStorage, SecondaryCaptureImageStorage

from physics import ImageGrid, ParallelBeam, attenuation_to_hu, evenly_spaced, hu_to_attenuation
from recon import (
    DataError,
    ImageHeader,
    Placement,
    Reconstruction,
    SinogramSlices,
    read_images,
    require_export,
    write_reconstruction,
    write_sinograms,
)

SHAPE = (3, 10, 8)
#: Type 1 attributes of every image, and of one kind of image (DICOM PS3.3 A.4, A.3, A.8).
TYPE_1 = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelData", "ImageType",
)  # fmt: skip
PLANE = ("FrameOfReferenceUID", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
TYPE_1_OF = {
    MRImageStorage: (*PLANE, "ScanningSequence", "SequenceVariant"),
    CTImageStorage: (*PLANE, "RescaleIntercept", "RescaleSlope", "RescaleType"),
    SecondaryCaptureImageStorage: ("ConversionType",),
}
#: Type 2 attributes: they stand in the file, perhaps without a value.
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "InstanceNumber",
)  # fmt: skip
TYPE_2_OF = {
    MRImageStorage: ("Manufacturer", "PositionReferenceIndicator", "SliceThickness", "ScanOptions",
                     "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime"),
    CTImageStorage: ("Manufacturer", "PositionReferenceIndicator", "SliceThickness", "KVP", "AcquisitionNumber"),
    SecondaryCaptureImageStorage: (),
}  # fmt: skip


def placement(step: float = 5.0) -> Placement:
    """An oblique coronal stack."""
    along_row = np.array((0.8, 0.6, 0.0))
    down = np.array((0.0, 0.0, -1.0))
    positions = np.array((-10.0, 20.0, 30.0)) + step * np.arange(SHAPE[0])[:, None] * np.cross(along_row, down)
    return Placement(np.stack((along_row, down)), positions)


def scan(kind: str = "MR", *, placed: bool = False, stated: dict[str, str] | None = None) -> Reconstruction:
    images = np.random.default_rng(0).gamma(2, 1, SHAPE).astype(np.float32)
    values = 3e-5 * images
    if kind == "CT":
        values = hu_to_attenuation(torch.from_numpy(400 * images - 1000)).numpy()
    header = ImageHeader(
        kind, SHAPE[1:], (0.5, 0.75), 4.0, placement() if placed else None, stated or {"PatientID": "p-7"},
        ({"ismrmrd_header": b"<x/>"}, {"acquisition": "CORPD"}), is_attenuation=kind == "CT",
    )  # fmt: skip
    return Reconstruction(values, values.astype(np.complex64), header, "scan.h5", "fedavg at north", {"site": "north"})


def hounsfield(attenuation: np.ndarray) -> np.ndarray:
    return attenuation_to_hu(torch.from_numpy(attenuation)).numpy()


def written(found: Reconstruction, out: Path) -> list[pydicom.FileDataset]:
    write_reconstruction(found, out)
    files = [pydicom.dcmread(file) for file in sorted(out.iterdir())] if out.is_dir() else [pydicom.dcmread(out)]
    return files


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("kind", ["MR", "CT"])
def test_nifti_holds_the_values_and_the_pixel_size(tmp_path: Path, name: str, kind: str) -> None:
    found = scan(kind)
    notes = write_reconstruction(found, tmp_path / name)
    image = nibabel.load(tmp_path / name)
    expected = found.magnitude if kind == "MR" else hounsfield(found.magnitude)
    np.testing.assert_allclose(image.get_fdata(), expected.transpose(2, 1, 0), rtol=1e-6, atol=1e-3 * (kind == "CT"))
    np.testing.assert_allclose(image.header.get_zooms(), (0.75, 0.5, 4.0))
    assert image.header.get_xyzt_units()[0] == "mm" and image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.affine @ ((8 - 1) / 2, (10 - 1) / 2, 1, 1), (0, 0, 0, 1), atol=1e-6)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert notes == [
        "scan.h5 states no positions of its slices: they are taken as adjacent",
        "scan.h5 states no orientation, or no pixel size of an image that is cropped: left and right of the image are "
        "not known",
    ]
    assert b"not for diagnosis" in bytes(image.header["descrip"])


def test_the_middle_of_a_ct_image_is_where_its_grid_is(tmp_path: Path) -> None:
    grid, scan_ = ImageGrid((10, 8), (0.5, 0.75), (12.0, -7.0)), ParallelBeam(evenly_spaced(9, 0.3), 64, 1.0)
    write_sinograms(tmp_path / "a.h5", grid, scan_, line_integrals=torch.zeros(3, 9, 64))
    header = SinogramSlices([tmp_path / "a.h5"], "s").image_header(0)
    assert header.center_mm == (12.0, -7.0)
    found = replace(scan("CT"), header=header)
    write_reconstruction(found, tmp_path / "a.nii")
    affine = nibabel.load(tmp_path / "a.nii").affine
    for row, column in ((0, 0), (9, 3)):
        # y of the scanner is to anterior, x to the left, as the image is seen from the table.
        expected = (-grid.x_mm[column], grid.y_mm[row])
        np.testing.assert_allclose((affine @ (column, row, 1, 1))[:2], expected, atol=1e-5)
    write_reconstruction(found, tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["grid/center_mm"][()].tolist() == [12.0, -7.0]
    cropped = header.cropped((5, 4))  # rows 2 to 6, columns 2 to 5
    assert cropped.center_mm == pytest.approx((float(grid.y_mm[4]), float(grid.x_mm[3:5].mean())))
    assert "grid/center_mm" not in cropped.carried[0]


def test_an_image_written_as_nifti_or_dicom_is_read_as_the_same_picture(tmp_path: Path) -> None:
    for kind in ("MR", "CT"):
        found = scan(kind)
        found = replace(found, header=replace(found.header, pixel_mm=(0.5, 0.5)))
        write_reconstruction(found, tmp_path / f"{kind}.nii.gz")
        np.testing.assert_array_equal(read_images(tmp_path / f"{kind}.nii.gz"), found.displayed)
        write_reconstruction(found, tmp_path / kind)
        step = 0.51 if kind == "CT" else float(found.displayed.max()) / 65535
        np.testing.assert_allclose(read_images(tmp_path / kind), found.displayed, rtol=0, atol=step)


def test_nifti_and_dicom_agree_on_the_place_of_every_pixel(tmp_path: Path) -> None:
    """The affine maps indices to the positions of DICOM with the first two axes turned."""
    found = scan(placed=True)
    assert write_reconstruction(found, tmp_path / "a.nii") == []
    image = nibabel.load(tmp_path / "a.nii")
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    for index, data in enumerate(written(found, tmp_path / "dicom")):
        position, cosines = np.array(data.ImagePositionPatient), np.array(data.ImageOrientationPatient).reshape(2, 3)
        rows_mm, columns_mm = data.PixelSpacing
        row, column = 4, 6
        expected = position + cosines[0] * columns_mm * column + cosines[1] * rows_mm * row
        np.testing.assert_allclose((image.affine @ (column, row, index, 1))[:3], expected * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("kind", ["MR", "CT"])
def test_dicom_files_have_what_their_kind_requires(
    tmp_path: Path, kind: str, placed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.RAISE)
    found = scan(kind, placed=placed)
    files = written(found, tmp_path / "out")
    storage = {"MR": MRImageStorage, "CT": CTImageStorage}[kind] if placed else SecondaryCaptureImageStorage
    for index, data in enumerate(files):
        assert data.SOPClassUID == data.file_meta.MediaStorageSOPClassUID == storage
        assert data.SOPInstanceUID == data.file_meta.MediaStorageSOPInstanceUID
        for keyword in (*TYPE_1, *TYPE_1_OF[storage]):
            assert data.get(keyword) not in (None, "", []), keyword
        for keyword in (*TYPE_2, *TYPE_2_OF[storage]):
            assert keyword in data, keyword
        list(data.iterall())  # raises where a value does not have the form of its type
        assert data.ImageType[0] == "DERIVED" and data.Modality == kind and data.InstanceNumber == index + 1
        assert data.DerivationDescription.startswith("reconstructed with fedrecon ")
        assert data.DerivationDescription.endswith("method fedavg at north, not for diagnosis")
        assert data.PatientID == "p-7" and data.PatientName == ""
        assert data.PixelSpacing == [0.5, 0.75] and data.SliceThickness == 4
        assert ("ImageOrientationPatient" in data) == ("ImagePositionPatient" in data) == placed
        step = 0.5 if kind == "CT" else 0.51 * float(found.magnitude.max()) / 65535
        values = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        np.testing.assert_allclose(values, found.displayed[index], rtol=0, atol=step * 1.001)
        assert data.WindowWidth >= 1 or data.VOILUTFunction == "LINEAR_EXACT"
        assert data.RescaleType == ("HU" if kind == "CT" else "US")
    assert len({data.SOPInstanceUID for data in files}) == len(files) == SHAPE[0]
    assert len({data.SeriesInstanceUID for data in files}) == 1
    assert all(data.SOPInstanceUID.startswith("1.2.826.0.1.3680043.8.498.") for data in files)


def test_identity_and_study_are_those_of_the_scan(tmp_path: Path) -> None:
    stated = {
        "PatientName": "Doe^J\N{LATIN SMALL LETTER O WITH DIAERESIS}", "PatientBirthDate": "19700102",
        "StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4", "RepetitionTime": "2200",
    }  # fmt: skip
    (data, *_) = written(scan(placed=True, stated=stated), tmp_path / "out")
    assert (data.PatientName, data.PatientBirthDate) == (stated["PatientName"], "19700102")
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID, data.RepetitionTime) == ("1.2.3", "1.2.4", 2200)
    assert data.PatientID == "" and data.SeriesInstanceUID != data.StudyInstanceUID


def test_another_reconstruction_has_other_uids_and_the_same_one_the_same(tmp_path: Path) -> None:
    first, second = written(scan(), tmp_path / "a")[0], written(scan(), tmp_path / "b")[0]
    other = written(replace(scan(), method="fedavg at south"), tmp_path / "c")[0]
    assert first.SOPInstanceUID == second.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID


@pytest.mark.parametrize("kind", ["MR", "CT"])
def test_error_bars_are_a_second_series_of_the_same_study(tmp_path: Path, kind: str) -> None:
    found = scan(kind, placed=True)
    widths = 0.1 * np.abs(found.magnitude) + 1e-3 * found.magnitude.max()
    header = replace(found.header, mu_water=0.025) if kind == "CT" else found.header
    found = replace(found, header=header, half_width=widths, coverage=0.9)
    notes = write_reconstruction(found, tmp_path / "image")
    assert f"error bars of 90% coverage, a second series: {tmp_path / 'image_error_bars'}" in notes
    images, bars = written(found, tmp_path / "image"), [
        pydicom.dcmread(file) for file in sorted((tmp_path / "image_error_bars").iterdir())
    ]  # fmt: skip
    assert len(images) == len(bars) == SHAPE[0]
    for image, bar, width in zip(images, bars, widths, strict=True):
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "ImagePositionPatient", "PixelSpacing"):
            assert image[keyword].value == bar[keyword].value, keyword
        assert (image.SeriesNumber, bar.SeriesNumber) == (1, 2)
        assert len({image.SeriesInstanceUID, bar.SeriesInstanceUID}) == 2
        assert image.SOPInstanceUID != bar.SOPInstanceUID
        assert "error bars, 90%" in bar.SeriesDescription and "half-width" in bar.ImageComments
        zero, one = attenuation_to_hu(torch.tensor([0.0, 1.0]), 0.025).tolist()
        expected = width * (one - zero if kind == "CT" else 1)  # a width has no offset of -1000
        np.testing.assert_allclose(
            bar.pixel_array * float(bar.RescaleSlope), expected, rtol=0, atol=expected.max() / 3e4
        )
    single = replace(found, magnitude=found.magnitude[:1], image=found.image[:1], half_width=widths[:1])
    write_reconstruction(single, tmp_path / "one.dcm")
    assert pydicom.dcmread(tmp_path / "one_error_bars.dcm").SeriesNumber == 2


def test_error_bars_replace_no_other_folder(tmp_path: Path) -> None:
    found = replace(scan(), half_width=np.ones(SHAPE, np.float32), coverage=0.9)
    (other := tmp_path / "image_error_bars" / "notes.txt").parent.mkdir()
    other.write_text("kept")
    with pytest.raises(DataError, match="image_error_bars: --out: found a folder with other files"):
        write_reconstruction(found, tmp_path / "image")
    assert other.read_text() == "kept" and not (tmp_path / "image").exists()


def test_values_beyond_sixteen_bits_keep_their_scale(tmp_path: Path) -> None:
    """Metal in CT; k-space in units of a scanner; an empty scan."""
    metal = scan("CT")
    metal.magnitude[0, 0, 0] = 3.0
    data = written(metal, tmp_path / "metal")[0]
    value = data.pixel_array[0, 0] * float(data.RescaleSlope)
    assert float(data.RescaleSlope) == 5 and abs(value - hounsfield(metal.magnitude)[0, 0, 0]) <= 2.5
    for number, factor in enumerate((1e-12, 1e10, 0.0)):
        found = scan()
        found = replace(found, magnitude=found.magnitude * np.float32(factor))
        data = written(found, tmp_path / f"other{number}")[0]
        values = data.pixel_array * float(data.RescaleSlope)
        np.testing.assert_allclose(values, found.magnitude[0], rtol=0, atol=float(found.magnitude.max()) / 65535)


def test_a_dcm_name_is_a_file_for_one_slice_and_a_folder_for_several(tmp_path: Path) -> None:
    found = scan()
    single = replace(found, magnitude=found.magnitude[:1], image=found.image[:1])
    write_reconstruction(single, tmp_path / "one.dcm")
    write_reconstruction(found, tmp_path / "all.dcm")
    write_reconstruction(single, tmp_path / "folder")
    assert (tmp_path / "one.dcm").is_file()
    names = [file.relative_to(tmp_path).as_posix() for file in sorted(tmp_path.rglob("*.dcm")) if file.is_file()]
    assert names == [f"all.dcm/slice_00{i}.dcm" for i in (1, 2, 3)] + ["folder/slice_001.dcm", "one.dcm"]


def test_a_folder_is_replaced_as_a_whole_and_only_if_it_holds_dicom(tmp_path: Path) -> None:
    out, found = tmp_path / "out", scan()
    write_reconstruction(found, out)
    single = replace(found, magnitude=found.magnitude[:1], image=found.image[:1])
    with pytest.raises(DataError, match="add --overwrite"):
        require_export(out, overwrite=False)
    require_export(out, overwrite=True)
    write_reconstruction(single, out)
    assert [file.name for file in out.iterdir()] == ["slice_001.dcm"]
    (out / "notes.txt").write_text("mine")
    for overwrite in (True, False):
        with pytest.raises(DataError, match="a folder with other files"):
            require_export(out, overwrite=overwrite)
    with pytest.raises(DataError, match="a folder with other files"):
        write_reconstruction(found, out)
    assert (out / "notes.txt").read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "hidden" / ".git").mkdir(parents=True)
    with pytest.raises(DataError, match="a folder with other files"):
        require_export(tmp_path / "hidden", overwrite=True)
    with pytest.raises(DataError, match="found no name"):
        require_export(Path(), overwrite=True)


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, found = tmp_path / "out", scan()
    write_reconstruction(found, out)
    before, replace_file = {file.name: file.read_bytes() for file in out.iterdir()}, os.replace

    def fails(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp") and Path(target) == out:
            raise OSError(13, "Permission denied", str(target))
        replace_file(source, target)

    monkeypatch.setattr("recon.export.formats.os.replace", fails)
    with pytest.raises(DataError, match="out"):
        write_reconstruction(replace(found, magnitude=2 * found.magnitude), out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["a.h5", "a.nii.gz", "all.png", "a.dcm", "a"])
def test_nothing_half_written_stays(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 1 or name in ("a.h5", "a.nii.gz"):  # others: at the second slice
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("recon.files.os.fsync", full)
    with pytest.raises(DataError, match="no space left"):
        write_reconstruction(scan(), tmp_path / name, slices="all")
    assert calls and list(tmp_path.iterdir()) == []


def test_slices_that_are_not_evenly_spaced_are_no_nifti(tmp_path: Path) -> None:
    found = scan(placed=True)
    assert found.header.placement is not None
    found.header.placement.positions[2] += 3 * np.cross(*found.header.placement.orientation)
    with pytest.raises(DataError, match=r"scan.h5: ImagePositionPatient: found uneven steps.*\.dcm"):
        write_reconstruction(found, tmp_path / "a.nii")
    assert len(written(found, tmp_path / "out")) == 3
    found.header.placement.positions[:] = 0  # repetitions of one slice
    with pytest.raises(DataError, match="found uneven steps"):
        write_reconstruction(found, tmp_path / "a.nii")


def test_sizes_that_the_scan_does_not_state_are_said_and_not_invented(tmp_path: Path) -> None:
    found = scan()
    found = replace(found, header=ImageHeader("MR"))
    notes = write_reconstruction(found, tmp_path / "a.nii")
    assert len(notes) == 3 and "no pixel size" in notes[0] and "no slice thickness" in notes[1]
    assert nibabel.load(tmp_path / "a.nii").header.get_xyzt_units()[0] == "unknown"
    (data, *_) = written(found, tmp_path / "out")
    assert "PixelSpacing" not in data and "SliceThickness" not in data and data.PatientID == ""


@pytest.mark.parametrize("kind", ["MR", "CT"])
def test_png_shows_the_middle_slice_or_all_in_one_window(tmp_path: Path, kind: str) -> None:
    found = scan(kind)
    (note,) = write_reconstruction(found, tmp_path / "a.png")
    assert note.startswith("window: black ") and note.endswith("(HU)" if kind == "CT" else "(units of the scan)")
    middle = Image.open(tmp_path / "a.png")
    assert middle.text["Window"] in note.replace("window: ", "") or "white" in middle.text["Window"]
    assert "slice 2 of 3" in middle.text["Source"] and "not for diagnosis" in middle.text["Description"]
    write_reconstruction(found, tmp_path / "b.png", slices="all")
    pictures = [np.asarray(Image.open(tmp_path / f"b_00{i}.png")) for i in (1, 2, 3)]
    np.testing.assert_array_equal(pictures[1], middle)
    black, white = (float(part.split()[-1]) for part in middle.text["Window"].split("(")[0].split(","))
    shown = np.stack(pictures) / 255 * (white - black) + black
    np.testing.assert_allclose(shown, np.clip(found.displayed, black, white), atol=(white - black) / 500)
    with pytest.raises(DataError, match=r"b_001.png: --out: found a file that exists"):
        require_export(tmp_path / "b.png", overwrite=False, slices="all")
    for name, other in (("b.nii.gz", "with .nii.gz"), ("b", "with a folder of DICOM files")):
        with pytest.raises(DataError, match=f"--slices: found all, {other}, expected a name that ends in .png; leave"):
            require_export(tmp_path / name, overwrite=True, slices="all")
    single = replace(found, magnitude=found.magnitude[:1], image=found.image[:1])
    others = ["b_2024_final.png", "b_2_001.png"]  # of other scans
    for name in others:
        (tmp_path / name).touch()
    write_reconstruction(single, tmp_path / "b.png", slices="all")
    assert sorted(file.name for file in tmp_path.glob("b*.png")) == ["b_001.png", *others]


def test_hdf5_carries_the_header_along(tmp_path: Path) -> None:
    found = scan()
    assert write_reconstruction(found, tmp_path / "a.h5") == []
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["reconstruction"], found.magnitude)
        assert file["image"].dtype == np.complex64 and file["ismrmrd_header"][()] == b"<x/>"
        assert file.attrs["acquisition"] == "CORPD" and file.attrs["site"] == "north"
        assert file.attrs["scan"] == "scan.h5" and "not for diagnosis" in file.attrs["derivation"]


def test_a_cropped_image_lies_where_its_pixels_lay() -> None:
    header = scan(placed=True).header
    assert header.shape is not None and header.pixel_mm is not None and header.placement is not None
    height, width = header.shape
    cut = header.cropped((height - 3, width - 4))
    assert cut.placement is not None
    along_row, along_column = header.placement.orientation
    shift = 1 * header.pixel_mm[0] * along_column + 2 * header.pixel_mm[1] * along_row
    np.testing.assert_allclose(cut.placement.positions, header.placement.positions + shift)
    np.testing.assert_array_equal(cut.carried[0]["ImagePositionPatient"], cut.placement.positions)
    assert replace(header, pixel_mm=None).cropped((2, 2)).placement is None
