"""`fedrecon convert`: one line for each file; a folder goes on after a bad one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from federation import load, load_federation
from federation.cli.main import main
from recon import open_volume

from ...recon.data.layouts.raw_files import CALIBRATION, RawFile, encoding_xml, header_of

Array = NDArray[Any]


def kspace_of(scale: float = 1.0) -> Array:
    y, x = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 40), indexing="ij")
    disc = (y**2 / 0.5 + (x - 0.1) ** 2 / 0.4 < 1) * np.exp(0.5j * x)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(disc), norm="ortho"))
    return np.broadcast_to(scale * kspace, (2, 2, 48, 40)).astype(np.complex64)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def command(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["convert", *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scans of several layouts, two repetitions, a broken scan, and files that are no scans."""
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    np.save(data / "a.npy", kspace_of())
    (data / "sub" / "b.hdr").write_text("# Dimensions\n48 40 1 2\n")
    (data / "sub" / "b.cfl").write_bytes(kspace_of()[0].transpose(1, 2, 0).tobytes(order="F"))
    for number in (1, 2):
        with h5py.File(data / f"c_T10{number}.h5", "w") as file:
            file["kspace"] = kspace_of(number)
    (data / "readme.txt").write_text("scans\n")
    return data


def test_one_file(folder: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    code, said = run(folder / "a.npy", tmp_path / "out" / "scan.h5")
    assert (
        code == 0 and f"{folder / 'a.npy'} -> {tmp_path / 'out' / 'scan.h5'}: read as numpy: 2 slices, 2 coils" in said
    )
    np.testing.assert_array_equal(open_volume(tmp_path / "out" / "scan.h5").read_slice(1), kspace_of()[1])
    code, said = run(folder / "c_T102.h5", tmp_path / "out", "--format", "m4raw")
    assert code == 0 and "mean of 2 repetitions (c_T101.h5, c_T102.h5)" in said
    np.testing.assert_allclose(open_volume(tmp_path / "out" / "c_T102.h5").read_slice(1), 1.5 * kspace_of()[1])


def test_a_folder(folder: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    code, said = run(folder, tmp_path / "out")
    assert code == 0, said
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.h5"))
    assert found == ["a.h5", "c_T101.h5", "c_T102.h5", "sub/b.h5"]
    assert len([line for line in said.splitlines() if " -> " in line]) == 4
    assert "passed over 1 files that no reader takes: readme.txt" in said
    (folder / "d.h5").write_bytes((folder / "c_T101.h5").read_bytes()[:-500])
    np.save(folder / "sub" / "e.npy", np.full((2, 2, 48, 40), np.nan, np.complex64))
    code, said = run(folder, tmp_path / "out", "--overwrite")
    assert code == 2 and "2 of 6 scans were not converted: d.h5, e.npy" in said
    assert said.count("failed: ") == 2 and len(list((tmp_path / "out").rglob("*"))) == 5  # with the folder sub


def test_a_folder_of_one_format(folder: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    for name in ("a.npy", "sub/b.cfl", "sub/b.hdr"):
        (folder / name).unlink()
    code, said = run(folder, tmp_path / "out", "--format", "m4raw")
    assert code == 0 and [path.name for path in (tmp_path / "out").iterdir()] == ["c_T101.h5"]
    assert "passed over 1 files that no reader takes: readme.txt" in said


@pytest.mark.slow  # starts a process
def test_a_full_disk_is_one_line(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "a.npy", np.tile(kspace_of(), (20, 1, 1, 1)))
    code = "import resource, sys; from federation.cli.main import main; "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "convert", str(folder / "a.npy"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "a.h5: cannot be written (File too large); no space left" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.npy", "out.nii"], "OUT: found a name that ends in .nii, expected *.h5, or a folder"),
        (["none.npy", "out"], "found nothing, expected a file"),
        (["readme.txt", "out"], "found a text file, expected one of fastmri, numpy"),
        (["a.npy", "out", "--option", "frame"], "--option: found 'frame', expected KEY=VALUE"),
        (["a.npy", "out", "--option", "frame=1"], "options of numpy: found 'frame'"),
        (["a.npy", "out", "--format", "dicom"], "format: found 'dicom', expected one of"),
        (["", "out.h5"], "OUT: found the name of a file, expected a folder"),
        (["empty", "out"], "found 0 files, none a scan"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], line: str, run: Callable[..., tuple[int, str]]
) -> None:
    (folder / "empty").mkdir()
    code, said = run(folder / arguments[0], tmp_path / arguments[1], *arguments[2:])
    assert code == 2 and line in said and said.count("fedrecon: error: ") == 1, said


# Sites of measured scans of any layout.
def test_sites_are_made_of_every_layout(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "c_T101.h5").rename(folder / "c.h5")
    assert main(["sites", "make", "ismrmrd", str(folder), "--by", "coils", "--out", str(tmp_path / "sites")]) == 0
    sites = {site.data.format: site for site in load_federation(tmp_path / "sites")}
    assert {name: sorted(file for _, file in site.data.named()) for name, site in sites.items()} == {
        "numpy": ["a.npy"], "bart": ["sub/b.cfl"], "fastmri": ["c.h5", "c_T102.h5"],
    }  # fmt: skip
    assert sorted(site.name for site in sites.values()) == ["2coils", "2coils-2", "2coils-3"]
    assert main(["sites", "check", str(tmp_path / "sites")]) == 0
    capsys.readouterr()


def test_repetitions_are_one_scan_where_the_format_says_so(folder: Path, tmp_path: Path) -> None:
    for name in ("a.npy", "sub/b.cfl", "sub/b.hdr"):
        (folder / name).unlink()
    out = str(tmp_path / "sites")
    assert main(["sites", "make", "fastmri", str(folder), "--format", "m4raw", "--by", "coils", "--out", out]) == 0
    (site,) = load_federation(tmp_path / "sites")
    assert site.data.format == "m4raw" and [file for _, file in site.data.named()] == ["c_T101.h5"]
    sample = site.samples([folder / "c_T101.h5"], degraded=False)[0]
    assert sample.reference is not None
    assert main(["sites", "make", "fastmri", str(folder), "--format", "m4row", "--out", out]) == 2


def test_a_scan_of_any_layout_is_reconstructed(folder: Path) -> None:
    method = load("cg_sense")
    images = [method(folder / name) for name in ("a.npy", "sub/b.cfl", "c_T101.h5")]
    np.testing.assert_allclose(abs(images[0][0]), abs(images[1][0]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(abs(images[0]), abs(images[2]), rtol=1e-4, atol=1e-6)
    taken = sorted(file.name for file in folder.rglob("*") if file.is_file() and method.takes(file))
    assert taken == ["a.npy", "b.cfl", "c_T101.h5", "c_T102.h5"]


@pytest.fixture
def raw_folder(tmp_path: Path) -> Path:
    """ISMRMRD files of two persons with two contrasts and separate calibration lines."""
    for person in "pq":
        raw = RawFile(header_of(encoding_xml((48, 40, 1), calibration="separate")).replace("p7", person))
        for contrast in range(2):
            raw.add_slices((1 + contrast) * kspace_of(), [*range(0, 40, 2)], contrast=contrast)
        raw.add_slices(kspace_of(), range(8, 32), flags=CALIBRATION)
        (tmp_path / "raw").mkdir(exist_ok=True)
        raw.write(tmp_path / "raw" / f"{person}.mrd")
    return tmp_path / "raw"


def test_raw_data_become_a_file_for_each_contrast_and_their_calibration(
    raw_folder: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    code, said = run(raw_folder, tmp_path / "out")
    assert code == 0, said
    names = [f"{person}_{part}.h5" for person in "pq" for part in ("calibration", "contrast0", "contrast1")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    np.testing.assert_allclose(
        open_volume(tmp_path / "out" / "p_contrast1.h5").read_slice(0)[..., ::2], 2 * kspace_of()[0][..., ::2]
    )
    assert open_volume(tmp_path / "out" / "p_calibration.h5").is_calibration
    assert said.count("separate calibration lines") == 4


def test_sites_of_converted_raw_data_know_their_calibration_scans(raw_folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "sites")
    assert main(["convert", str(raw_folder), str(tmp_path / "out"), "--option", "contrast=0"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "p.h5", "p_calibration.h5", "q.h5", "q_calibration.h5",
    ]  # fmt: skip
    assert main(["sites", "make", "fastmri", str(tmp_path / "out"), "--by", "coils", "--out", out]) == 0
    (site,) = load_federation(tmp_path / "sites")
    assert sorted(file for _, file in site.data.named()) == ["p.h5", "q.h5"]
    assert site.data.calibration_scan == "{stem}_calibration.h5"
    assert main(["sites", "check", out]) == 0


def test_options_of_readers_are_keys_of_the_manifest(raw_folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "sites")
    assert main(["sites", "make", "ismrmrd", str(raw_folder), "--by", "coils", "--out", out]) == 0
    (file,) = (tmp_path / "sites").glob("*.toml")
    file.write_text(file.read_text().replace('format = "ismrmrd"', 'format = "ismrmrd"\ncontrast = 1\nembed = true'))
    (site,) = load_federation(tmp_path / "sites")
    volume = site.open(raw_folder / "p.mrd")
    np.testing.assert_allclose(volume.read_slice(0)[..., ::2], 2 * kspace_of()[0][..., ::2])
    file.write_text(file.read_text().replace("contrast = 1", "variable = 'kspace'"))
    assert main(["sites", "check", out]) == 2
