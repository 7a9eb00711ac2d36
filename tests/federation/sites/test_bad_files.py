"""Broken files among good ones: all are named at once, `--skip-bad` leaves them out, nothing is a traceback."""

import random
import tomllib
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from federation import ConfigError, check_sites, load_federation, make_fastmri_sites, make_image_sites
from federation.cli.main import main
from federation.sites.lock_file import lock_path
from physics import ImageGrid, ParallelBeam, phantom_volume
from recon import DataError, write_sinograms

from ..fake_sites import HEADER, write_file, write_manifest


def _replace(path: Path, key: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[key]
        file[key] = value


def _of_links(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = file["kspace"][()]
        file.create_virtual_dataset("virtual", h5py.VirtualLayout((2, 2, 24, 20), "c8"))
        del file["kspace"]
        file["kspace"] = h5py.ExternalLink("/etc/passwd", "kspace")


def _to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "not_there.h5")


def _with_spoiled_slice(value: complex) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["kspace"][1, 0, 3, 3] = value

    return spoil


#: Ways to break a file that show when it is opened.
AT_ONCE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:4000]),
    "cut at the end": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("patient 7: not scanned\n"),
    "web page": lambda path: path.write_text("<html>Please log in</html>"),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(3000)),
    "signature alone": lambda path: path.write_bytes(path.read_bytes()[:8]),
    "numpy": lambda path: path.write_bytes(b"\x93NUMPY\1\0" + bytes(100)),
    "five axes": lambda path: _replace(path, "kspace", np.zeros((2, 2, 2, 24, 20), np.complex64)),
    "no slice": lambda path: _replace(path, "kspace", np.zeros((0, 2, 24, 20), np.complex64)),
    "real numbers": lambda path: _replace(path, "kspace", np.zeros((2, 2, 24, 20), np.float32)),
    "a group": lambda path: _group(path),
    "external link": _of_links,
    "link to nowhere": _to_nowhere,
    "half a header": lambda path: _replace(path, "ismrmrd_header", HEADER[:300]),
    "mask of 2": lambda path: _add(path, "mask", np.full(20, 2)),
    "maps of another scan": lambda path: _add(path, "maps", np.zeros((7, 24, 20), np.complex64)),
    "covariance": lambda path: _add(path, "noise_covariance", np.full((2, 2), np.nan)),
}
#: Ways that show when all slices are read.
WHEN_READ: dict[str, Callable[[Path], object]] = {
    "nan": _with_spoiled_slice(np.nan),
    "infinite": _with_spoiled_slice(complex(0, np.inf)),
}


def _group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["kspace"]
        file.create_group("kspace")


def _add(path: Path, key: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        file[key] = value


#: Ways to break a CT file, by the dataset that is replaced.
CT_VALUES = {
    "line_integrals": (np.full((1, 6, 9), np.nan), np.zeros((1, 5, 9)), np.zeros((1, 9, 6)), np.zeros(3), "none"),
    "geometry/angles_rad": (np.zeros(0), np.full(6, np.nan), np.zeros((6, 2)), "0 to 360"),
    "geometry/kind": ("ConeBeam", np.ones(2), 7),
    "geometry/detectors": (9.5, -9, "nine", np.ones(3)),
    "geometry/pitch_mm": (-1.0, np.nan, "wide", np.ones(2)),
    "grid/shape": (np.array([0, -3]), np.array([8]), "8x8", np.ones((2, 2))),
    "grid/pixel_mm": (np.nan, -1.0, "x", np.ones(3)),
    "photons": (np.zeros(3), "many", -5.0),
}


def scans(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"f{number:02d}.h5" for number in range(count)]
    for path in paths:
        write_file(path, seed=1)
    return paths


def listed(sites: Path) -> set[str]:
    data = [tomllib.loads(path.read_text())["data"] for path in sites.glob("*.toml")]
    return {name for table in data for split in ("train", "validation", "test") for name in table.get(split, ())}


@pytest.mark.parametrize("seed", range(4))
def test_all_broken_files_are_named_and_can_be_left_out(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    drawn = random.Random(seed)
    paths = scans(tmp_path / "data", 10)
    kinds = dict(
        zip(drawn.sample(paths, 7), drawn.sample(sorted(AT_ONCE), 5) + drawn.sample(sorted(WHEN_READ), 2), strict=True)
    )
    for path, kind in kinds.items():
        (AT_ONCE | WHEN_READ)[kind](path)
    at_once = {path.name for path, kind in kinds.items() if kind in AT_ONCE}
    when_read = {path.name for path in kinds} - at_once
    make = ["sites", "make", "fastmri", str(tmp_path / "data"), "--out", str(tmp_path / "sites")]

    assert main(make) == 2
    lines = capsys.readouterr().err.splitlines()
    assert {name for name in at_once if sum(name in line for line in lines) == 1} == at_once, kinds
    assert len(lines) == len(at_once) + 1 and "--skip-bad" in lines[-1]
    assert not (tmp_path / "sites").exists()

    assert main([*make, "--skip-bad"]) == 0
    assert {name for name in at_once if f"{name}: " in caplog.text} == at_once
    assert listed(tmp_path / "sites") == {path.name for path in paths} - at_once

    check = ["sites", "check", str(tmp_path / "sites")]
    assert main(check) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and {name for name in when_read if any(name in line for line in lines)} == when_read

    assert main([*check, "--skip-bad"]) == 0
    assert listed(tmp_path / "sites") == {path.name for path in paths if path not in kinds}
    assert main(check) == 0
    assert all(word not in caplog.text for word in ("Traceback", "Error:"))


@pytest.mark.parametrize("kind", sorted(AT_ONCE | WHEN_READ))
def test_a_broken_file_is_one_line_that_names_it(kind: str, tmp_path: Path) -> None:
    good, bad = scans(tmp_path / "data/s", 2)
    (AT_ONCE | WHEN_READ)[kind](bad)
    write_manifest(tmp_path, "s", {"train": [good.name], "test": [bad.name]})
    with pytest.raises(DataError) as caught:
        check_sites(tmp_path)
    assert "f01.h5" in str(caught.value) and "\n" not in str(caught.value) and "expected" in str(caught.value)
    assert not lock_path(tmp_path / "s.toml").exists()


def test_hidden_files_are_passed_over_and_other_suffixes_are_read(tmp_path: Path) -> None:
    first, *others = scans(tmp_path / "data", 4)
    (tmp_path / "data/._f00.h5").write_bytes(b"\0\5\x16\7" * 99)
    (tmp_path / "data/.Trashes").mkdir()
    (tmp_path / "data/.Trashes/old.h5").write_bytes(first.read_bytes())
    for path, suffix in zip(others, (".hdf5", ".H5", ".HDF5"), strict=True):
        path.rename(path.with_suffix(suffix))
    make_fastmri_sites(tmp_path / "data", tmp_path / "sites")
    assert listed(tmp_path / "sites") == {"f00.h5", "f01.hdf5", "f02.H5", "f03.HDF5"}


def test_a_manifest_keeps_its_text_without_the_files_that_are_left_out(tmp_path: Path) -> None:
    for path in scans(tmp_path / "data/s", 4)[1:]:
        path.write_bytes(b"")
    path = tmp_path / "s.toml"
    path.write_text(
        'name = "s"  # of the "old" scanner\n[data]\nroot = "data/s"  # f01.h5 is broken\n'
        "train = ['f00.h5', './f01.h5']\nvalidation = [\n    \"f02.h5\", # why\n]\ntest = ['f03.h5']\n"
        '[data.persons]\n"f00.h5" = "one"\n"f02.h5" = "two"\n'
    )
    facts = check_sites(tmp_path, skip_bad=True)
    assert [split.files for split in facts[0].splits] == [1]
    assert path.read_text() == (
        'name = "s"  # of the "old" scanner\n[data]\nroot = "data/s"  # f01.h5 is broken\n'
        'train = [\'f00.h5\', ]\nvalidation = [\n    # why\n]\ntest = []\n[data.persons]\n"f00.h5" = "one"\n'
    )
    (site,) = load_federation(tmp_path)
    assert list(site.data.named()) == [("train", "f00.h5")] and site.data.persons == {"f00.h5": "one"}


def test_a_site_does_not_lose_its_last_file(tmp_path: Path) -> None:
    """Its files are named, with what is wrong with them; the advice is not the option that was given."""
    bad = scans(tmp_path / "data/s", 2)
    for path in bad:
        path.write_bytes(b"")
    scans(tmp_path / "data/other", 1)
    path = write_manifest(tmp_path, "s", {"test": [path.name for path in bad]})
    write_manifest(tmp_path, "other", {"test": ["f00.h5"]})
    before = path.read_text()
    named = "(?s)f00.h5: file: found an empty file.*f01.h5: file: found an empty file.*2 files cannot be used; "
    with pytest.raises(DataError, match=f"{named}site s has no other; correct them, or remove its manifest$"):
        check_sites(tmp_path, skip_bad=True)
    with pytest.raises(DataError, match=f"{named}no other is left; correct them$"):
        make_fastmri_sites(bad[0].parent, tmp_path / "out", skip_bad=True)
    assert path.read_text() == before


def test_images_that_cannot_be_used_are_named_and_can_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / f"head{number:02d}.nii.gz" for number in range(12)]
    for number, path in enumerate(paths):
        head = phantom_volume(2, (36, 36), number).abs().numpy()
        nibabel.save(nibabel.Nifti1Image(head.transpose(2, 1, 0), np.eye(4)), path)  # type: ignore[no-untyped-call]
    paths[3].write_bytes(paths[3].read_bytes()[:2000])
    paths[5].write_bytes(b"")
    nibabel.save(nibabel.Nifti1Image(np.zeros((36, 36, 2)), np.eye(4)), paths[8])  # type: ignore[no-untyped-call]
    bad = ("head03", "head05", "head08")
    with pytest.raises(ConfigError) as caught:
        make_image_sites(paths, tmp_path / "sites")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and all(name in line for name, line in zip(bad, lines, strict=False))
    make_image_sites(paths, tmp_path / "sites", skip_bad=True)
    assert all(name in caplog.text for name in bad)
    assert len({name.split("_")[1] for name in listed(tmp_path / "sites")}) == 9


@pytest.mark.parametrize("key", CT_VALUES)
def test_a_broken_ct_file_is_one_line_that_names_it(key: str, tmp_path: Path) -> None:
    values = CT_VALUES[key]
    names = [f"{number}.h5" for number in range(len(values) + 1)]
    (tmp_path / "data/s").mkdir(parents=True)
    scan = ParallelBeam((0.0, 0.5, 1.0, 1.5, 2.0, 2.5), 9, 1.0)
    for number, name in enumerate(names):
        lines = torch.full((1, 6, 9), 1 + number / 10)
        write_sinograms(tmp_path / "data/s" / name, ImageGrid((6, 6), 1.0), scan, line_integrals=lines, photons=1e4)
    for name, value in zip(names[1:], values, strict=True):
        _replace(tmp_path / "data/s" / name, key, value)
    write_manifest(tmp_path, "s", {"test": names}, 'modality = "ct"')
    with pytest.raises(DataError) as caught:
        check_sites(tmp_path)
    lines_said = str(caught.value).splitlines()
    assert [sum(f"/{name}: " in line for line in lines_said) for name in names] == [0] + [1] * len(values), lines_said
    facts = check_sites(tmp_path, skip_bad=True)
    assert [split.files for split in facts[0].splits] == [1]
