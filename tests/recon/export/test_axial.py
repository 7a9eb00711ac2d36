"""Tilted planes of a helical scan: written, checked, and reconstructed to axial images with the headers of those."""

from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch

import federation
from physics import Ellipsoid, EllipsoidPhantom, TiltedPlanes, attenuation_to_hu
from recon import (
    DataError,
    Reconstruction,
    SinogramSlices,
    axial_reconstruction,
    open_series,
    open_sinograms,
    plan_slices,
    write_reconstruction,
    write_slices,
)

from ...ct_pd_files import write_scan

MU = 0.0192
#: A body with flat discs, which a plane at another height or with another tilt misses.
PHANTOM = EllipsoidPhantom(
    (
        Ellipsoid(MU, (0, 0, 0), (110, 90, 300)),
        *(Ellipsoid(0.5 * MU, (60 * x, 0, 30.0 * k + 8 * x), (24, 24, 9)) for k in range(-3, 4) for x in (-1, 1)),
    )
)
THICKNESS = 4.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    write_scan(folder, PHANTOM, views_per_turn=90, turns=1.8, rows=32, row_mm=4.0, center=(24.8, 16.5))
    series = open_series(folder)
    for tilted in (False, True):
        plan = plan_slices(series, thickness_mm=THICKNESS, size=48, tilted=tilted)
        write_slices(series, folder / f"{'tilted' if tilted else 'axial'}.h5", plan)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return {name: federation.load("fbp").reconstruct(folder / f"{name}.h5") for name in ("axial", "tilted")}


def truth_hu(header, z):
    fine = header.grid.refined(4)
    planes = z + ((np.arange(8) + 0.5) / 8 - 0.5) * THICKNESS
    mean = np.mean([PHANTOM.slice(plane, fine.x_mm, fine.y_mm) for plane in planes], axis=0)
    return 1000 * (mean.reshape(48, 4, 48, 4).mean((1, 3)) / MU - 1)


def errors(found):
    x, y = np.meshgrid(found.header.grid.x_mm, found.header.grid.y_mm)
    discs = np.hypot(np.abs(x) - 60, y) < 20
    each = [
        (image - truth_hu(found.header, z))[discs] for image, z in zip(found.displayed, found.header.z_mm, strict=True)
    ]
    return float(np.sqrt(np.mean(np.square(each))))


def test_a_tilted_file_states_its_planes(folder):
    volume, axial = (open_sinograms(folder / f"{name}.h5") for name in ("tilted", "axial"))
    assert volume.planes is not None and axial.planes is None
    assert np.diff(volume.z_mm) == pytest.approx(THICKNESS / 2) and np.diff(axial.z_mm) == pytest.approx(THICKNESS)
    assert volume.thickness_mm == axial.thickness_mm == THICKNESS
    assert "planes tilted by" in volume.description and "tilted" not in axial.description
    sampling = SinogramSlices([volume.path], "s").facts()["sampling"]
    assert sampling.startswith("fan beam, curved detector, tilted planes,")


def test_references_of_a_tilted_file_are_those_of_its_planes(folder):
    volume = open_sinograms(folder / "tilted.h5")
    x, y = np.meshgrid(volume.grid.x_mm, volume.grid.y_mm)
    discs, fine, own, mirrored = np.hypot(np.abs(x) - 60, y) < 20, volume.grid.refined(4), 0.0, 0.0
    for index in range(volume.shape[0]):
        hu, (a, b) = attenuation_to_hu(volume.read_reference(index)).numpy(), volume.planes.slopes[index]
        for slope in ((a, b), (-a, -b)):
            plane = PHANTOM.slice(volume.z_mm[index], fine.x_mm, fine.y_mm, slope).reshape(48, 4, 48, 4).mean((1, 3))
            error = np.square(hu - 1000 * (plane / MU - 1))[discs].mean()
            own, mirrored = (own + error, mirrored) if slope == (a, b) else (own, mirrored + error)
    assert own < 0.7 * mirrored


def test_reconstructions_are_axial_in_their_place_and_nearer_to_the_phantom(found):
    header = found["tilted"].header
    assert header.planes is None and np.diff(header.z_mm) == pytest.approx(THICKNESS)
    assert len(header.z_mm) == len(found["tilted"].magnitude) == len(found["tilted"].image) > 4
    assert errors(found["tilted"]) < 0.75 * errors(found["axial"])
    wrong = replace(found["tilted"], header=replace(header, z_mm=header.z_mm + THICKNESS))
    assert errors(wrong) > 1.3 * errors(found["tilted"])


def test_files_have_the_headers_of_axial_images(found, tmp_path):
    images = found["tilted"]
    write_reconstruction(images, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["z_mm"][()] == pytest.approx(images.header.z_mm) and "slopes" not in file
        assert file.attrs["thickness_mm"] == THICKNESS
        assert file.attrs["planes"].startswith(f"{len(images.magnitude)} axial images interpolated from ")
    lines = write_reconstruction(images, tmp_path / "dicom")
    slices = [pydicom.dcmread(file) for file in sorted((tmp_path / "dicom").iterdir())]
    assert [float(one.SliceLocation) for one in slices] == pytest.approx(images.header.z_mm, abs=1e-6)
    assert {float(one.SliceThickness) for one in slices} == {THICKNESS}
    assert not any("thickness" in line or "adjacent" in line for line in lines)
    write_reconstruction(images, tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").header.get_zooms()[2] == pytest.approx(THICKNESS)


def test_slices_with_gaps_have_no_affine(found, tmp_path):
    images = found["axial"]
    gaps = images.header.z_mm + np.where(np.arange(len(images.header.z_mm)) > 2, 30, 0)
    with pytest.raises(DataError, match="z_mm: found uneven steps, expected evenly spaced slices; write DICOM or HDF5"):
        write_reconstruction(replace(images, header=replace(images.header, z_mm=gaps)), tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.dcm", "dicom", "a.nii.gz", "a.png"])
def test_tilted_images_are_not_written_as_axial_ones(folder, tmp_path, name):
    samples = SinogramSlices([folder / "tilted.h5"], "s")
    values = np.stack([samples.volumes[0].read_reference(i).numpy() for i in range(len(samples))])
    tilted = Reconstruction(values, values, samples.image_header(0), "tilted.h5", "fbp")
    with pytest.raises(DataError, match="found images of tilted planes, expected axial images; call"):
        write_reconstruction(tilted, tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="images of tilted planes have no affine"):
        tilted.header.affine(values.shape)
    write_reconstruction(tilted, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["slopes"][()] == pytest.approx(tilted.header.planes.slopes)


def test_half_widths_are_interpolated_with_the_images(folder):
    samples = SinogramSlices([folder / "tilted.h5"], "s")
    header, shape = samples.image_header(0), (len(samples), 48, 48)
    heights = np.broadcast_to(header.planes.z_mm[:, None, None], shape).astype(np.float32)
    images = axial_reconstruction(Reconstruction(heights, heights, header, "a", "b", half_width=heights, coverage=0.9))
    assert (images.half_width == images.magnitude).all()
    assert images.magnitude[:, 24, 24] == pytest.approx(images.header.z_mm, abs=0.2)


def test_axial_scans_and_short_helices_are_refused(tmp_path):
    write_scan(tmp_path / "axial", PHANTOM, views_per_turn=30, turns=1, pitch=0, kind="AXIAL")
    with pytest.raises(DataError, match="--planes: found tilted planes of an axial scan, expected a helix; choose"):
        plan_slices(open_series(tmp_path / "axial"), tilted=True)
    write_scan(tmp_path / "short", PHANTOM, views_per_turn=30, turns=0.75)
    series = open_series(tmp_path / "short")
    plan = plan_slices(series, thickness_mm=2.0, size=16)
    assert plan.centers_mm
    with pytest.raises(DataError, match=r"short: TiltedPlanes: planes from .* cover no axial image of radius"):
        plan_slices(series, thickness_mm=2.0, size=16, tilted=True)


def test_labels_and_one_orientation_do_not_fit_tilted_planes(folder, tmp_path):
    file = tmp_path / "tilted.h5"
    file.write_bytes((folder / "tilted.h5").read_bytes())
    samples = SinogramSlices([file], "s")
    with pytest.raises(DataError, match="labels: found slices of tilted planes, expected axial slices"):
        samples.displayed_grid(0)
    with h5py.File(file, "r+") as stored:
        stored.attrs["ImageOrientationPatient"] = [1.0, 0, 0, 0, 1, 0]
        stored["ImagePositionPatient"] = np.zeros((len(samples), 3))
    with pytest.raises(DataError, match="ImageOrientationPatient: found one orientation of tilted planes"):
        SinogramSlices([file], "s").image_header(0)
    with h5py.File(file, "r+") as stored:
        del stored["z_mm"]
    with pytest.raises(DataError, match="z_mm: found nothing, expected the places of the tilted planes"):
        SinogramSlices([file], "s")


def test_planes_of_a_file_without_thickness_are_not_guessed(found):
    header = replace(found["axial"].header, planes=TiltedPlanes(np.arange(3.0), np.zeros((3, 2))), thickness_mm=None)
    values = torch.zeros(3, 48, 48).numpy()
    with pytest.raises(DataError, match="thickness_mm: found nothing, expected the thickness of a slice"):
        axial_reconstruction(Reconstruction(values, values, header, "a.h5", "fbp"))
