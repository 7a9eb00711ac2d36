"""MATLAB files of FIPS, versions 5 and 7.3: the geometry of the file gives the object back."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from physics import FanBeam, ImageGrid, RadonOperator
from recon import CT_READERS, DataError, SinogramSlices
from recon.data.ct_layouts.matlab import read_matlab

R, D, PITCH, ELEMENTS = 410.66, 553.74, 0.8, 141
ANGLES = np.arange(0, 360.1, 4.0)
GRID = ImageGrid((64, 64), 1.2)


def image() -> torch.Tensor:
    x, y = torch.from_numpy(GRID.x_mm), torch.from_numpy(GRID.y_mm)
    return 0.04 * ((x[None] - 9) ** 2 + (y[:, None] + 14) ** 2 < 100).double()


def scan(frame: float = 1.0, **changes: Any) -> dict[str, Any]:
    geometry = FanBeam(tuple(np.deg2rad(ANGLES).tolist()), ELEMENTS, PITCH, R, D)
    lines = RadonOperator(GRID, geometry)(frame * image()[None])[0].numpy()
    parameters = {
        "projectName": "cross_",
        "distanceSourceDetector": D,
        "distanceSourceOrigin": R,
        "distanceUnit": "mm",
        "geometricMagnification": D / R,
        "angles": ANGLES[None],
        "pixelSize": PITCH / 16,
        "binningPost": 16,
        "pixelSizePost": PITCH,
        "effectivePixelSizePost": PITCH * R / D,
        "numDetectorsPost": ELEMENTS,
    }
    changes = dict(changes)
    lines = changes.pop("sinogram", lines)
    known = {key: value for key, value in (parameters | changes).items() if value is not None}
    return {"type": "2D", "sinogram": lines, "parameters": known}


def save_73(path: Path, name: str, content: Any) -> None:
    """As MATLAB's ``save -v7.3``: reversed axes, texts as numbers, arrays of structs as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        _store(file, file, name, content)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")


def _store(file: h5py.File, group: h5py.Group, name: str, content: Any) -> None:
    if isinstance(content, list):
        struct = group.create_group(name)
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        for key in content[0]:
            references = []
            for item in content:
                place = f"r{len(file.require_group('#refs#'))}"
                _store(file, file["#refs#"], place, item[key])
                references.append([file["#refs#"][place].ref])
            struct.create_dataset(key, data=np.array(references, dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
    elif isinstance(content, dict):
        struct = group.create_group(name)
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        for key, value in content.items():
            _store(file, struct, key, value)
    elif isinstance(content, str):
        group[name] = np.array([[ord(letter)] for letter in content], np.uint16)
        group[name].attrs["MATLAB_class"] = np.bytes_("char")
    else:
        value = np.asarray(content, np.float64)
        group[name] = np.atleast_2d(value).T
        group[name].attrs["MATLAB_class"] = np.bytes_("double")


def write(path: Path, version: str, name: str, content: Any) -> Path:
    if version == "7.3":
        save_73(path, name, content)
    elif isinstance(content, list):
        records = np.empty((1, len(content)), [(key, object) for key in content[0]])
        for index, item in enumerate(content):
            records[0, index] = tuple(item.values())
        scipy.io.savemat(path, {name: records})
    else:
        scipy.io.savemat(path, {name: content})
    return path


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("name", ["CtData", "CtDataFull", "Lotus"])
def test_the_geometry_of_the_file_gives_the_object_back(tmp_path: Path, version: str, name: str) -> None:
    path = write(tmp_path / "a.mat", version, name, scan())
    assert CT_READERS.detect(path) == "fips"
    sample = SinogramSlices([path], "s", format="fips", size=96)[0]
    operator = sample.operator
    assert isinstance(operator, RadonOperator)
    assert isinstance(operator.geometry, FanBeam) and operator.geometry.pitch_mm == PITCH
    assert operator.grid.pixel_mm == pytest.approx(PITCH * R / D * ELEMENTS / 96)
    found = operator.start(sample.measurement) * float(sample.scale)
    mass = found.clamp_min(0.02).double().numpy() - 0.02
    assert (mass.sum(0) @ operator.grid.x_mm) / mass.sum() == pytest.approx(9, abs=0.2)
    assert (mass.sum(1) @ operator.grid.y_mm) / mass.sum() == pytest.approx(-14, abs=0.2)
    assert float(found[found > 0.02].median()) == pytest.approx(0.04, rel=0.03)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_structs_of_an_array_are_frames(tmp_path: Path, version: str) -> None:
    path = write(tmp_path / "gel.mat", version, "GelPhantomData_b4", [scan(0.5 + frame) for frame in range(3)])
    assert CT_READERS.detect(path) == "fips"
    volume = CT_READERS.open(path, "fips")
    assert volume.shape == (3, len(ANGLES), ELEMENTS) and volume.grid.shape == (ELEMENTS, ELEMENTS)
    assert torch.allclose(volume.read_slice(2), 5 * volume.read_slice(0), rtol=1e-4)
    frames = [scan(), scan(distanceSourceOrigin=R + 5)]
    with pytest.raises(DataError, match="frames of different geometries"):
        CT_READERS.open(write(tmp_path / "moved.mat", version, "Gel", frames), "fips")


def test_variables_without_a_struct_are_read(tmp_path: Path) -> None:
    known = scan(pixelSizePost=None, effectivePixelSizePost=None, numDetectorsPost=None, pixelSize=PITCH)
    flat = {"sinogram": known["sinogram"], **known["parameters"]}
    scipy.io.savemat(tmp_path / "walnut.mat", flat)
    assert CT_READERS.detect(tmp_path / "walnut.mat") == "fips"
    volume = CT_READERS.open(tmp_path / "walnut.mat", "fips")
    assert volume.geometry.pitch_mm == PITCH
    assert np.allclose(volume.read_slice(0), known["sinogram"], atol=1e-5)


def test_texts_and_numbers_of_both_versions_are_equal(tmp_path: Path) -> None:
    old, new = (read_matlab(write(tmp_path / v, v, "CtData", scan()))["CtData"] for v in ("5", "7.3"))
    assert old["type"] == new["type"] == "2D"
    assert old["parameters"].keys() == new["parameters"].keys()
    for key, value in old["parameters"].items():
        assert np.array_equal(value, new["parameters"][key]), key
    assert np.array_equal(old["sinogram"], new["sinogram"])


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixelSizePost": None}, r"pixelSize: found 0.05 mm, but effectivePixelSizePost is that of 0.8 mm"),
        ({"numDetectorsPost": 280}, "sinogram: found 141 columns, expected 280, the numDetectorsPost"),
        ({"angles": ANGLES[None, :-1]}, "angles: found 90 angles, expected one per row of the sinogram, 91"),
        ({"angles": np.deg2rad(ANGLES)[None]}, "angles: found 91 angles that span 6.28, expected degrees"),
        ({"distanceUnit": "cm"}, "distanceUnit: found 'cm', expected mm"),
        ({"distanceSourceOrigin": None}, "distanceSourceOrigin: found nothing, expected a number"),
        ({"distanceSourceOrigin": 600.0, "effectivePixelSizePost": None}, "source_to_detector_mm is 553.74"),
        ({"sinogram": np.full((91, 141), 51234.0)}, "sinogram: found values up to 51234, expected line integrals"),
        ({"sinogram": np.zeros((141, 91))}, "sinogram: found 91 columns, expected 141"),
        ({"sinogram": np.zeros((141, 91, 20))}, r"sinogram: found shape \(141, 91, 20\).*cone beams are not read"),
    ],
)
def test_what_disagrees_is_named(tmp_path: Path, version: str, changes: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "a.mat", version, "CtData", scan(**changes))
    with pytest.raises(DataError, match=words):
        CT_READERS.open(path, "fips")


def test_the_manifest_can_state_pitch_and_unit(tmp_path: Path) -> None:
    content = scan(pixelSizePost=None, angles=np.deg2rad(ANGLES)[None])
    path = write(tmp_path / "a.mat", "7.3", "CtData", content)
    geometry = CT_READERS.open(path, "fips", element_mm=PITCH, angle_unit="radians").geometry
    assert geometry.pitch_mm == PITCH and np.allclose(geometry.angles, np.deg2rad(ANGLES))


def test_files_without_a_geometry_and_broken_files_are_named(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"A": np.eye(3), "m": np.ones((82, 120))})
    with pytest.raises(DataError, match=r"a.mat: file: found a MATLAB file"):
        CT_READERS.open(tmp_path / "a.mat", "fips")
    for version in ("5", "7.3"):
        path = write(tmp_path / version, version, "CtData", scan())
        path.write_bytes(path.read_bytes()[:-3000])
        with pytest.raises(DataError, match="copy it again"):
            CT_READERS.open(path, "fips")


@pytest.mark.real_data
def test_a_measured_file_is_read_as_by_the_reader_of_the_challenge() -> None:
    folder = Path(os.environ["FEDRECON_DATA"]) / "ct_projections" / "htc2022"
    for file in folder.glob("*_full.mat"):
        known, found = CT_READERS.open(file, "htc2022"), CT_READERS.open(file, "fips", size=512)
        assert found.geometry == known.geometry and torch.equal(found.read_slice(0), known.read_slice(0))
        theirs = scipy.io.loadmat(folder / "htc2022_ta_full_recon_fbp.mat")["reconFullFbp"]
        if "_ta_" in file.name:
            ours = CT_READERS.open(file, "fips", size=560)
            image = RadonOperator(ours.grid, ours.geometry).start(ours.read_slice(0))[24:536, 24:536]
            assert np.corrcoef(image.flatten(), theirs.ravel())[0, 1] > 0.9995
