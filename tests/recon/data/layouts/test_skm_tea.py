"""SKM-TEA: hybrid k-space of two echoes, cut to the measured block; and 3-D ISMRMRD as on mridata.org."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon import MRI_READERS, DataError, KSpaceSlices, Simulation, convert_scan, open_volume

from .raw_files import RawFile, encoding_xml, header_of

Array = NDArray[Any]
Shows = Callable[..., None]


def write(path: Path, kspace: Array, pad: tuple[int, int] = (8, 6), **other: Array) -> Path:
    """k-space ``(x, coils, ky, kz)`` as both echoes, the second twice as bright, in zero padding."""
    padded = np.pad(kspace, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
    echoes = np.moveaxis(np.stack((padded, 2 * padded)), (0, 2), (3, 4)).astype(np.complex64)
    shape = echoes.shape
    assert shape[3:] == (2, kspace.shape[1])
    with h5py.File(path, "w") as file:
        file["kspace"] = other.get("stored", echoes)
        file["maps"] = other.get("maps", np.ones((*shape[:3], shape[4], 1), np.complex64))
        file["target"] = np.ones((*shape[:3], 2, 1), np.complex64)
        file["masks/poisson_6.0x"] = np.ones(shape[1:3], np.float32)
    return path


def test_echoes_are_volumes_at_the_measured_resolution(kspace: Array, shows: Shows, tmp_path: Path) -> None:
    path = write(tmp_path / "MTR_005.h5", kspace)
    assert MRI_READERS.detect(path) == "skm_tea"
    volume = MRI_READERS.open(path, "skm_tea")
    shows(volume)
    np.testing.assert_array_equal(volume.read_slice(1), kspace[1])
    assert "the measured 48x40 of 64x52" in volume.reading and volume.mask is None
    assert any("parallel imaging filled in" in note for note in volume.notes) and "2 echoes" in volume.notes[-1]
    np.testing.assert_array_equal(MRI_READERS.open(path, "skm_tea", echo=1).read_slice(1), 2 * kspace[1])
    with pytest.raises(DataError, match="echo: found 2, expected 0 to 1"):
        MRI_READERS.open(path, "skm_tea", echo=2)
    made = convert_scan(path, tmp_path / "a.h5")
    assert [one.path.name for one in made] == ["a_echo0.h5", "a_echo1.h5"]
    np.testing.assert_array_equal(open_volume(made[1].path).read_slice(2), 2 * kspace[2])
    data = KSpaceSlices([path], "site", format="skm_tea", simulate=Simulation("poisson", 2, 0.3))
    assert data[0].reference is not None


def test_corners_of_elliptical_sampling_count_as_measured_and_are_named(kspace: Array, tmp_path: Path) -> None:
    y, x = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 40), indexing="ij")
    inside = y**2 + x**2 <= 1.02
    volume = MRI_READERS.open(write(tmp_path / "a.h5", kspace * inside), "skm_tea")
    assert not volume.undersampled and volume.shape[2:] == (48, 40)
    assert any(f"zeros at {int((~inside).sum())} of 1920 positions" in note for note in volume.notes)


def test_other_files_are_not_taken(kspace: Array, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", kspace, maps=np.ones((3, 5, 5, 2, 1)))
    with h5py.File(path, "r+") as file:
        del file["target"]
    assert "skm_tea" not in MRI_READERS.takes(path)
    with pytest.raises(DataError, match="only zeros"):
        MRI_READERS.open(write(tmp_path / "b.h5", 0 * kspace), "skm_tea")
    flat = write(tmp_path / "c.h5", kspace, stored=np.ones((3, 8, 8, 2), np.complex64))
    with pytest.raises(DataError, match=r"found an MRI scan \(k-space\), expected a file of format skm_tea"):
        MRI_READERS.open(flat, "skm_tea")
    corner = np.fft.ifftshift(kspace, axes=(2, 3))
    with pytest.raises(DataError, match="the zero frequency in the corner"):
        MRI_READERS.open(write(tmp_path / "d.h5", corner), "skm_tea")


@pytest.mark.parametrize("depth", [6, 5])
def test_three_dimensional_spin_echoes_as_on_mridata_become_slices(depth: int, shows: Shows, tmp_path: Path) -> None:
    """All (ky, kz) in the order of echo trains, an oversampled readout, one noise line."""
    from .conftest import coil_images, fft2c

    images = coil_images(depth, shape=(96, 40))
    images[..., :24, :] = images[..., 72:, :] = 0
    planes = fft2c(images)
    volume3d = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(planes, axes=0), axis=0, norm="ortho"), axes=0)
    raw = RawFile(header_of(encoding_xml((96, 40, depth), oversampling=2.0)))
    order = [(ky, kz) for kz in range(depth) for ky in range(40)]
    np.random.default_rng(0).shuffle(order)
    for train, (ky, kz) in enumerate(order):
        raw.add(
            volume3d[kz, :, :, ky].astype(np.complex64), kspace_encode_step_1=ky, kspace_encode_step_2=kz,
            segment=train % 16,
        )  # fmt: skip
    path = raw.write(tmp_path / "knee.h5")
    volume = MRI_READERS.open(path, MRI_READERS.detect(path))
    shows(volume, images[..., 24:72, :])
    assert not volume.undersampled
