"""Images from NIfTI and DICOM: square pixels, single slices, functional groups of enhanced files, gray scales."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from recon import DataError, read_images

HU = np.random.default_rng(0).integers(-1000, 1000, (4, 20, 16)).astype(float)


def disc(edges: tuple[float, float], slices: int = 3) -> np.ndarray[Any, Any]:
    """A disc of 40 mm in pixels of these edges (row, column), (slices, rows, columns)."""
    rows, columns = (round(60 / edge) for edge in edges)
    y, x = np.mgrid[:rows, :columns]
    inside = np.hypot((y - (rows - 1) / 2) * edges[0], (x - (columns - 1) / 2) * edges[1]) < 20
    return np.repeat(np.where(inside, 60.0, -1000.0)[None], slices, 0)


def extent(images: Any) -> tuple[int, int]:
    rows, columns = np.nonzero(np.asarray(images[0]) > -470)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def write_nifti(path: Path, values: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], axes: str = "RAS") -> Path:
    """Slices (slices, rows, columns) as a canonical volume, stored along other axes."""
    image: Any = nibabel.Nifti1Image(values[:, ::-1, ::-1].transpose(2, 1, 0).astype(np.float32), affine)  # type: ignore[no-untyped-call]
    turn: Any = nibabel.orientations
    start = turn.axcodes2ornt("RAS")
    nibabel.save(image.as_reoriented(turn.ornt_transform(start, turn.axcodes2ornt(axes))), path)  # type: ignore[attr-defined]
    return path


def write_dicom(path: Path, hu: np.ndarray[Any, Any], number: int = 0, **changes: Any) -> Path:
    """A slice; or, of a stack, an enhanced file whose keys stand in its functional groups, shared or per frame."""
    keys: dict[str, Any] = {
        "RescaleSlope": 1.0,
        "RescaleIntercept": -1024.0,
        "PixelSpacing": [1.0, 1.0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [0, 0, 3.0 * number],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    item, item.file_meta = Dataset(), FileMetaDataset()
    item.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID, item.SOPInstanceUID = pydicom.uid.CTImageStorage, item.file_meta.MediaStorageSOPInstanceUID
    item.SeriesInstanceUID, item.InstanceNumber = "1.2.3", number + 1
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
    item.SamplesPerPixel, item.PhotometricInterpretation = (
        keys.pop("SamplesPerPixel"),
        keys["PhotometricInterpretation"],
    )
    del keys["PhotometricInterpretation"]
    item.Rows, item.Columns = hu.shape[1:3] if hu.ndim > 2 else hu.shape
    slope, intercept = (np.asarray(keys[name], dtype=float) for name in ("RescaleSlope", "RescaleIntercept"))
    if hu.ndim > 2 and item.SamplesPerPixel == 1:
        item.NumberOfFrames = len(hu)
        slope, intercept = (np.broadcast_to(part.reshape(-1, 1, 1), (len(hu), 1, 1)) for part in (slope, intercept))
        shared, frames = Dataset(), [Dataset() for _ in hu]
        for name, sequence in (
            ("RescaleSlope", "PixelValueTransformationSequence"),
            ("RescaleIntercept", "PixelValueTransformationSequence"),
            ("PixelSpacing", "PixelMeasuresSequence"),
            ("ImageOrientationPatient", "PlaneOrientationSequence"),
            ("ImagePositionPatient", "PlanePositionSequence"),
        ):
            value = keys[name]
            per_frame = len(np.shape(value)) == (1 if name.startswith("Rescale") else 2)
            for group, own in zip(frames, value, strict=True) if per_frame else [(shared, value)]:
                if sequence not in group:
                    setattr(group, sequence, Items([Dataset()]))
                setattr(getattr(group, sequence)[0], name, own)
        item.SharedFunctionalGroupsSequence = Items([shared])
        item.PerFrameFunctionalGroupsSequence = Items(frames)
    else:
        for name, value in keys.items():
            if value is not None:
                setattr(item, name, value)
    item.PixelData = np.round((hu - intercept) / slope).astype(np.int16).tobytes()
    item.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("seed", range(12))
def test_a_disc_is_round_in_any_pixels(tmp_path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    edges: Any = tuple(draw.permutation([0.5, 0.5 * draw.uniform(1.02, 2.9)]).tolist())
    image = disc(edges)
    axes = ("RAS", "LPS", "RPI", "PIR", "SAL", "ILA")[seed % 6]
    files = [write_nifti(tmp_path / "a.nii.gz", image, np.diag([edges[1], edges[0], 3.0, 1.0]), axes)]
    for number in range(3):
        write_dicom(tmp_path / f"series/{number}.dcm", image[0], number, PixelSpacing=list(edges))
    positions = [[0, 0, 2.0 * number] for number in range(3)]
    enhanced = write_dicom(
        tmp_path / "e.dcm", image, PixelSpacing=list(edges), ImagePositionPatient=positions, RescaleIntercept=-1000.0
    )
    for file in (*files, tmp_path / "series", enhanced):
        images = read_images(file)
        height, width = extent(images)
        assert len(images) == 3 and abs(height - width) <= 2, f"{file.name}: {height} x {width}"
        assert height == pytest.approx(40 / max(edges), abs=2)
    labels = write_nifti(tmp_path / "l.nii", (image > 0) * 7.0, np.diag([edges[1], edges[0], 3.0, 1.0]))
    assert set(read_images(labels, labels=True).unique().tolist()) == {0.0, 7.0}


def test_square_pixels_are_left_alone(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", HU, np.diag([0.7188, 0.7187, 4.0, 1.0]))
    assert np.array_equal(read_images(path), HU.astype(np.float32))


@pytest.mark.parametrize("shape", [(16, 20, 1), (16, 20), (16, 20, 1, 1), (16, 1, 20), (1, 16, 20)])
def test_one_slice_is_one_slice(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(HU[0].T[::-1, ::-1].reshape(shape), np.eye(4)), tmp_path / "a.nii.gz")  # type: ignore
    assert np.array_equal(read_images(tmp_path / "a.nii.gz"), HU[:1].astype(np.float32))


def test_a_fourth_axis_without_length_is_none(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(HU[..., None], np.eye(4)), tmp_path / "a.nii.gz")  # type: ignore
    assert read_images(tmp_path / "a.nii.gz").shape == (16, 20, 4)


@pytest.mark.parametrize("slope", [1.0, 0.5, [1.0, 0.5, 2.0, 0.25]])
@pytest.mark.parametrize("intercept", [-1024.0, 0.0, [-1024.0, 0.0, 100.0, -200.0]])
def test_enhanced_frames_are_rescaled_and_sorted(tmp_path: Path, slope: Any, intercept: Any) -> None:
    even = 2 * np.round(HU / 2)
    positions = [[0, 0, z] for z in (3.0, 1.0, 4.0, 2.0)]
    path = write_dicom(
        tmp_path / "a.dcm", even, RescaleSlope=slope, RescaleIntercept=intercept, ImagePositionPatient=positions
    )
    assert np.abs(read_images(path).numpy() - even[[1, 3, 0, 2]]).max() <= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PixelSpacing": [1.0, 2.0]}, "PixelSpacing: found"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "ImageOrientationPatient: found"),
    ],
)
def test_slices_that_do_not_belong_together(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    for number in range(3):
        write_dicom(tmp_path / f"s/{number}.dcm", HU[0], number, **(changes if number == 1 else {}))
    with pytest.raises(DataError, match=words) as caught:
        read_images(tmp_path / "s")
    assert str(tmp_path / "s") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PatientID": "p2"}, "PatientID: found 2 patients"),
        ({"ImagePositionPatient": [0, 0, 6.0]}, "3 images at 2 pos"),
    ],
)
def test_slices_of_two_patients_or_at_one_position(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    for number in range(3):
        keys: dict[str, Any] = {"PatientID": "p1"} | (changes if number == 1 else {})
        write_dicom(tmp_path / f"s/{number}.dcm", HU[0], number, **keys)
    with pytest.raises(DataError, match=words):
        read_images(tmp_path / "s")


@pytest.mark.parametrize("missing", [("RescaleIntercept",), ("RescaleSlope", "RescaleIntercept")])
def test_a_slice_without_the_rescale_of_its_series_is_refused(tmp_path: Path, missing: tuple[str, ...]) -> None:
    for number in range(3):
        write_dicom(tmp_path / f"s/{number}.dcm", HU[0], number)
    item = pydicom.dcmread(tmp_path / "s/1.dcm")
    for key in missing:
        delattr(item, key)
    item.save_as(tmp_path / "s/1.dcm")
    with pytest.raises(DataError, match=r"1\.dcm: RescaleIntercept: found no rescale"):
        read_images(tmp_path / "s")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Modality": "MR"}, "Modality: found MR, expected CT"),
        ({"Modality": "PT"}, "Modality: found PT, expected CT"),
        ({"Modality": "CT", "RescaleType": "Z_EFF"}, "RescaleType: found Z_EFF, expected HU"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "ImageType: found ORIGINAL/PRIMARY/LOCALIZER"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "found coronal slices, expected axial"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "found sagittal slices, expected axial"),
    ],
)
def test_files_that_are_no_ct_slices_are_refused_as_ct_images(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    for number in range(3):
        write_dicom(
            tmp_path / f"s/{number}.dcm", HU[0], number, ImagePositionPatient=[number, number, number], **changes
        )
    with pytest.raises(DataError, match=words) as caught:
        read_images(tmp_path / "s", modality="CT")
    assert str(tmp_path / "s/0.dcm") in str(caught.value) and "\n" not in str(caught.value)
    assert len(read_images(tmp_path / "s")) == 3


def test_axial_slices_of_a_tilted_gantry_are_ct_images(tmp_path: Path) -> None:
    for modality in ("CT", "OT", None):
        tilted = {"ImageOrientationPatient": [1, 0, 0, 0, 0.87, -0.5], "Modality": modality}
        assert len(read_images(write_dicom(tmp_path / "a.dcm", HU[0], **tilted), modality="CT")) == 1


@pytest.mark.parametrize(("stored", "stated", "kind"), [(4095, 4095, "US"), (3000, 3000, "SS"), (63536, -2000, "SS")])
def test_bright_padding_becomes_air(tmp_path: Path, stored: int, stated: int, kind: str) -> None:
    hu = disc((1.0, 1.0))[0]
    bright = hu.copy()
    bright[:4], bright[-1, :] = stored - 1024, stored - 1024
    item = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", bright))
    item.PixelRepresentation = int(stored < 2**15)
    item.PixelData = (bright + 1024).astype(np.uint16).tobytes()
    item.add_new("PixelPaddingValue", kind, stated)
    item.save_as(tmp_path / "a.dcm")
    assert np.array_equal(read_images(tmp_path / "a.dcm").numpy()[0], hu.astype(np.float32))


def test_tissue_of_the_padding_value_stays(tmp_path: Path) -> None:
    hu = np.where(disc((1.0, 1.0))[0] > 0, 0.0, -1000.0)
    item = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", hu, RescaleIntercept=0.0))
    item.add_new("PixelPaddingValue", "SS", 0)
    item.save_as(tmp_path / "a.dcm")
    assert np.array_equal(read_images(tmp_path / "a.dcm").numpy()[0], hu.astype(np.float32))


def test_images_that_are_no_gray_slices(tmp_path: Path) -> None:
    long, zooms = np.diag([5.0, 1.0, 1.0, 1.0]), nibabel.Nifti1Image(HU, np.eye(4))  # type: ignore[no-untyped-call]
    zooms.header.set_zooms((1.0, 0.5, 3.0))  # type: ignore[no-untyped-call]
    zooms.header["sform_code"] = 1
    nibabel.save(zooms, tmp_path / "zooms.nii")  # type: ignore[attr-defined]
    nibabel.save(nibabel.Nifti1Image(HU.astype(np.complex64), np.eye(4)), tmp_path / "complex.nii")  # type: ignore
    write_nifti(tmp_path / "long.nii", HU, long)
    write_dicom(tmp_path / "rgb.dcm", np.zeros((20, 16, 3)), SamplesPerPixel=3, PhotometricInterpretation="RGB")
    for name, words in {
        "zooms.nii": "pixdim: found",
        "complex.nii": "expected gray values",
        "long.nii": "pixel spacing: found pixels of 1 x 5",
        "rgb.dcm": "expected gray values|no readable DICOM",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            read_images(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
