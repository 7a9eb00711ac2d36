import os
import pickle
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fastmri.data import transforms

from recon import DataError, KSpaceVolume, fitting_crop, open_volume


def test_reads_what_is_in_the_file(fake_file):
    maps = np.ones((4, 24, 20), np.complex64)
    rss = np.ones((3, 12, 12), np.float32)
    path = fake_file(recon=(12, 12), maximum=15, center=7, reconstruction_rss=rss, maps=maps)
    volume = pickle.loads(pickle.dumps(open_volume(path)))
    assert volume.shape == (3, 4, 24, 20)
    assert (volume.acquisition, volume.patient_id) == ("AXT2", "subject-1")
    assert (volume.header.vendor, volume.header.field_T) == ("Acme", 1.494)
    assert volume.crop_shape == (12, 12) and volume.rss_shape == (12, 12)
    assert volume.acquired.nonzero().flatten().tolist() == list(range(3, 19))
    assert volume.mask is None and not volume.undersampled
    with h5py.File(path) as file:
        kspace = file["kspace"][()]
    for i in range(3):
        assert torch.equal(volume.read_slice(i), torch.from_numpy(kspace[i]))
    assert volume.read_slice(0).dtype == torch.complex64
    assert volume.read_rss(2).shape == (12, 12) and volume.read_maps(2).shape == (4, 24, 20)


def test_single_coil_layout(fake_file):
    volume = open_volume(fake_file(shape=(2, 8, 6), reconstruction_esc=np.ones((2, 8, 6), np.float32)))
    assert volume.shape == (2, 1, 8, 6)
    assert volume.read_slice(1).shape == (1, 8, 6) and volume.read_rss(1).shape == (8, 6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(20,), (1, 20), (24, 20)])
def test_masks(fake_file, shape, dtype):
    mask = np.random.default_rng(0).random(shape) < 0.4
    volume = open_volume(fake_file(mask=mask.astype(dtype)))
    assert torch.equal(volume.mask, torch.from_numpy(mask).squeeze(0) if shape[0] == 1 else torch.from_numpy(mask))
    assert volume.undersampled


def test_mask_that_keeps_all_encoded_columns_is_fully_sampled(fake_file):
    mask = np.ones(20, bool)
    mask[:3] = mask[19:] = False
    assert not open_volume(fake_file(maximum=15, center=7, mask=mask)).undersampled


def test_reads_one_slice_of_many(fake_file, monkeypatch):
    path = fake_file(kspace=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("kspace", (200_000, 4, 24, 20), np.complex64, chunks=(1, 4, 24, 20))  # 3 GB if read
        file["kspace"][123_456] = 1j
    requests = []
    read = h5py.Dataset.__getitem__

    def recording(dataset, key, *args, **kwargs):
        if dataset.name == "/kspace":
            requests.append(key)
        return read(dataset, key, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", recording)
    start = time.perf_counter()
    volume = open_volume(path)
    assert len(requests) <= 4  # to look for zeros
    assert (volume.read_slice(123_456) == 1j).all()
    assert requests[4:] == [123_456] and time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    ("image", "recon", "expected"),
    [
        ((640, 368), (320, 320), (320, 320)),
        ((640, 322), (320, 320), (320, 320)),
        ((512, 213), (320, 320), (213, 213)),
        ((640, 372), (320, 320), (320, 320)),
        ((320, 160), (160, 160), (160, 160)),
        ((8, 6), (8, 6), (8, 6)),
        ((8, 12), (10, 10), (8, 8)),
    ],
)
def test_crop_is_that_of_fastmri(image, recon, expected):
    assert fitting_crop(image, recon) == expected
    if image[0] >= recon[0]:  # fastmri.data.transforms.UnetDataTransform raises otherwise
        target = np.ones(recon, np.float32)
        kspace = np.ones((1, *image), np.complex64)
        sample = transforms.UnetDataTransform("multicoil")(kspace, None, target, {}, "x", 0)
        assert sample.image.shape == expected


class NumpyVolume(KSpaceVolume):
    """A volume of another layout: memory-mapped NumPy files."""

    def _read(self, what, index):
        return np.load(self.path, mmap_mode="r")[index]


def test_a_volume_of_another_layout_overrides_one_method(fake_file, tmp_path):
    theirs = open_volume(fake_file())
    path = tmp_path / "a.npy"
    np.save(path, np.stack([theirs.read_slice(i) for i in range(3)]))
    ours = pickle.loads(pickle.dumps(NumpyVolume(path, (3, 4, 24, 20), theirs.header)))
    assert torch.equal(ours.read_slice(2), theirs.read_slice(2)) and not ours.undersampled
    with pytest.raises(IndexError, match=r"slice 3 .*expected 0 to 2"):
        ours.read_slice(3)
    with pytest.raises(DataError, match="reconstruction_rss: found nothing"):
        ours.read_rss(0)
    np.save(path, np.full((3, 4, 24, 20), np.nan))
    with pytest.raises(DataError, match=r"a\.npy: kspace\[1\]: found NaN"):
        ours.read_slice(1)
    assert NumpyVolume(path, ours.shape, ours.header).version != ours.version


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_hdf5(path):
    path.write_text("kspace")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "no readable HDF5 .*truncated"),
        (empty, "an empty file"),
        (not_hdf5, "expected .*HDF5"),
        (Path.unlink, "found nothing"),
        (lambda path: (path.unlink(), path.mkdir()), "found a folder"),
    ],
    ids=["truncated", "empty", "not HDF5", "missing", "folder"],
)
def test_damaged_files(fake_file, damage, message):
    path = fake_file()
    damage(path)
    with pytest.raises(DataError, match=message) as error:
        open_volume(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"kspace": None}, "kspace: found only ismrmrd_header, expected dataset kspace"),
        ({"kspace": np.ones((3, 4, 24, 20), np.float32)}, "kspace: found dtype float32, expected complex64"),
        ({"kspace": np.ones((24, 20), np.complex64)}, r"kspace: found shape \(24, 20\), expected \(slices"),
        ({"kspace": np.ones((0, 4, 24, 20), np.complex64)}, r"kspace: found shape \(0, 4, 24, 20\)"),
        (
            {"ismrmrd_header": np.ones(3)},
            "ismrmrd_header: found dtype float64 with 3 entries, expected one string",
        ),
        (
            {"mask": np.ones(19, bool)},
            r"mask: found bool of shape \(19,\), expected 0 and 1 of shape \(20,\)",
        ),
        ({"mask": np.ones((4, 24, 20), bool)}, "mask: .* without coil axis"),
        ({"mask": np.full(20, 0.5)}, "mask: found values other than 0 and 1"),
        ({"mask": np.zeros(20, bool)}, "mask: found no sampled position"),
        ({"reconstruction_rss": np.ones((2, 24, 20), np.float32)}, r"reconstruction_rss: .*expected .*\(3,"),
        ({"reconstruction_rss": np.ones((3, 24, 20), np.complex64)}, "reconstruction_rss: found complex64"),
        ({"maps": np.ones((3, 24, 20), np.complex64)}, "maps: found complex64 of shape"),
        ({"noise_covariance": np.eye(3)}, "noise_covariance: found float64 of shape"),
        ({"noise_covariance": -np.eye(4)}, "noise_covariance: found .*negative eigenvalues"),
        ({"noise_covariance": np.triu(np.ones((4, 4)))}, "noise_covariance: found .*not Hermitian"),
        ({"noise_covariance": np.full((4, 4), np.nan)}, "noise_covariance: found NaN"),
    ],
)
def test_wrong_layout(fake_file, datasets, message):
    path = fake_file(**datasets)
    with pytest.raises(DataError, match=message) as error:
        open_volume(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_padding_that_leaves_nothing(fake_file):
    with pytest.raises(DataError, match=r"ismrmrd_header: found no sampled position .*encodingLimits"):
        open_volume(fake_file(maximum=2, center=40))


@pytest.mark.parametrize("key", ["kspace", "mask", "ismrmrd_header", "maps"])
@pytest.mark.parametrize("kind", ["external", "soft", "virtual", "storage", "group"])
def test_nothing_outside_the_file_is_read(fake_file, tmp_path, key, kind):
    content = {
        "kspace": np.ones((3, 4, 24, 20), np.complex64),
        "mask": np.ones(20),
        "maps": np.ones((4, 24, 20)),
    }
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file[key] = content.get(key, "<xml/>")
    (tmp_path / "raw.bin").write_bytes(bytes(4 * 24 * 20 * 8 * 3))
    path = fake_file(**{key: None})
    shape, dtype = ((3, 4, 24, 20), np.complex64) if key == "kspace" else ((20,), np.float32)
    with h5py.File(path, "a") as file:
        if kind == "external":
            file[key] = h5py.ExternalLink(str(other), f"/{key}")
        elif kind == "soft":
            file[key] = h5py.SoftLink("/kspace" if key != "kspace" else "/ismrmrd_header")
        elif kind == "group":
            file.create_group(key)
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(other), key, shape)
            file.create_virtual_dataset(key, layout)
        else:
            file.create_dataset(key, shape, dtype, external=[(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)])
    names = {"external": "an external link", "soft": "a soft link", "storage": "external storage"}
    found = names.get(kind, "a virtual dataset" if kind == "virtual" else "a group")
    with pytest.raises(DataError, match=f"{path}: {key}: found {found}, expected a (plain )?dataset"):
        open_volume(path)


def test_a_dangling_link_is_not_taken_for_an_absent_dataset(fake_file):
    path = fake_file()
    with h5py.File(path, "a") as file:
        file["mask"] = h5py.ExternalLink("nowhere.h5", "/mask")
    with pytest.raises(DataError, match="mask: found an external link"):
        open_volume(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_names_the_slice(fake_file, value):
    kspace = np.ones((3, 4, 24, 20), np.complex64)
    kspace[1, 2, 3, 4] = value
    volume = open_volume(fake_file(kspace=kspace))
    assert volume.read_slice(0).isfinite().all()
    with pytest.raises(DataError, match=r"file\.h5: kspace\[1\]: found NaN"):
        volume.read_slice(1)


def test_header_of_another_scan(fake_file, header):
    with pytest.raises(DataError, match=r"encodedSpace/matrixSize/y: found 22, expected .* 20"):
        open_volume(fake_file(ismrmrd_header=header((24, 22))))


def test_slice_that_does_not_exist(fake_file):
    with pytest.raises(IndexError, match=r"slice 3 .*expected 0 to 2"):
        open_volume(fake_file()).read_slice(3)


def test_damaged_chunk_is_one_line(fake_file):
    path = fake_file(kspace=None)
    with h5py.File(path, "a") as file:
        random = np.random.default_rng(0).standard_normal((3, 4, 24, 20)).astype(np.complex64)
        dataset = file.create_dataset("kspace", data=random, chunks=(1, 4, 24, 20), compression="gzip")
        offset = dataset.id.get_chunk_info(1).byte_offset
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(bytes(1000))
    with pytest.raises(DataError, match=r"kspace\[1\]: found unreadable data .*copy the file again"):
        open_volume(path).read_slice(1)


@pytest.mark.real_data
def test_real_files():
    folder = Path(os.environ["FEDRECON_DATA"]) / "mri_kspace"
    head = open_volume(folder / "head_8coil_poisson_R8.h5")
    assert head.mask.shape == (230, 180) and head.undersampled and head.rss_shape is None
    assert head.header.vendor is None and head.header.field_T is None
    structured = open_volume(folder / "structured_2coil_3T.h5")
    assert structured.shape == (1, 2, 320, 160) and structured.crop_shape == (160, 160)
    assert (structured.header.model, structured.header.field_T) == ("Skyra", 2.89)
    assert structured.read_slice(0).isfinite().all()
