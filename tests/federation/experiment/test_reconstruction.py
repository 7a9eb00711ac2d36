"""`fedrecon reconstruct`: the image is written whatever can be scored, and what it cannot do is one line."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from federation.cli import main
from federation.experiment import reconstruction
from physics import birdcage_maps, phantom_volume
from recon import simulate_volume, write_kspace

from ..fake_sites import SMALL, trained_run, write_file, write_manifest, write_site

TINY = [*SMALL, "--set", "federation.rounds=1", "--set", "evaluation.arms=['zero_filled', 'tv']"]
COLUMNS = np.arange(20)
#: Masks that leave fewer than two columns, or points, outside the calibration block.
BLOCKS = {
    "upper 3/4": COLUMNS >= 5,
    "lower 3/4": COLUMNS < 15,
    "middle": abs(COLUMNS - 10) < 4,
    "middle and one more": (abs(COLUMNS - 10) < 4) | (COLUMNS == 1),
    "plane": (abs(np.arange(24) - 12) < 6)[:, None] & (COLUMNS >= 5),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("federation"), TINY)


def reconstruct(run: Path, scan: Path, out: Path) -> list[str]:
    return ["reconstruct", str(run), "--site", "north", str(scan), "--out", str(out)]


@pytest.mark.parametrize("mask", BLOCKS.values(), ids=BLOCKS)
def test_a_scan_without_anything_to_hold_out_is_reconstructed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mask: np.ndarray
) -> None:
    scan, out = tmp_path / "scan.h5", tmp_path / "out.h5"
    write_file(scan, mask=mask)
    assert main(reconstruct(run, scan, out)) == 0
    assert "residual none" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert np.isfinite(file["reconstruction"][:]).all() and file["reconstruction"][:].any()


def test_a_scan_without_anything_to_hold_out_is_not_adapted_to(
    run: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    write_file(tmp_path / "scan.h5", mask=BLOCKS["upper 3/4"])
    error = fails(*reconstruct(run, tmp_path / "scan.h5", tmp_path / "out.h5"), "--adapt", "2")
    assert "scan.h5: hold out: found 0 candidates" in error and error.endswith("or leave out --adapt")


def test_the_image_is_written_before_it_is_scored(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no score")

    monkeypatch.setattr(reconstruction, "evaluate", broken)
    write_file(tmp_path / "scan.h5")
    with pytest.raises(RuntimeError, match="no score"):
        main(reconstruct(run, tmp_path / "scan.h5", tmp_path / "out.h5"))
    assert (tmp_path / "out.h5").exists()


@pytest.mark.slow
def test_one_site_without_a_score_keeps_no_other_from_its_report(tmp_path: Path) -> None:
    """A site whose files are all partial Fourier trains with references, and is evaluated, without a score."""
    sites, out = tmp_path / "sites", tmp_path / "run"
    write_site(sites)
    for index in range(3):
        write_file(sites / "data" / "part" / f"part_{index}.h5", mask=BLOCKS["upper 3/4"])
    write_manifest(sites, "part", {"train": [], "validation": ["part_1.h5"], "test": ["part_0.h5", "part_2.h5"]})
    assert main(["train", "fedavg", "--sites", str(sites), "--out", str(out), *TINY]) == 0
    assert main(["evaluate", str(out), "--jobs", "1"]) == 0
    arm = json.loads((out / "report.json").read_text())["arms"]["fedavg"]["sites"]
    assert arm["part"] == {"residual": None, "volumes": []} and arm["north"]["psnr"] > 0
    assert ">none<" in (out / "report.html").read_text()


@pytest.mark.parametrize("kind", ["self_supervised", "two_views"])
def test_training_without_references_refuses_such_files_by_name(
    tmp_path: Path, fails: Callable[..., str], kind: str
) -> None:
    sites = tmp_path / "sites"
    for index in range(3):
        mask = BLOCKS["lower 3/4"] if index else (COLUMNS % 2 == 0) | (abs(COLUMNS - 10) < 4)
        write_file(sites / "data" / "part" / f"part_{index}.h5", mask=mask)
    write_manifest(sites, "part", {"train": [f"part_{index}.h5" for index in range(3)]})
    options = ["--set", f"objective.task='{kind}'", "--set", "objective.split=0.4"]
    error = fails("train", "fedavg", "--sites", sites, "--out", tmp_path / "run", *TINY, *options)
    assert "nothing to hold out" in error and "leave out part_1.h5, part_2.h5" in error


@pytest.mark.parametrize("factor", [1e-30, 1e-16, 1e16, 1e20, 1e25])
def test_values_beyond_single_precision_are_one_line(
    run: Path, tmp_path: Path, fails: Callable[..., str], factor: float
) -> None:
    scan, out = tmp_path / "scan.h5", tmp_path / "out.h5"
    write_file(scan)
    with h5py.File(scan, "r+") as file:
        file["kspace"][0] = file["kspace"][0] * np.float32(factor)
        if factor < 1:
            file["kspace"][1] = 0
    assert "scan.h5: kspace" in fails(*reconstruct(run, scan, out)) and not out.exists()


@pytest.mark.parametrize("size", [1, 2, 6, 7, 8])
def test_an_image_smaller_than_the_window_of_ssim_has_a_psnr(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    scan = tmp_path / "scan.h5"
    write_file(scan)
    with h5py.File(scan, "r+") as file:
        text = file["ismrmrd_header"][()].decode()
        before, after = text.split("<reconSpace>")
        del file["ismrmrd_header"]
        after = after.replace("<x>24</x>", f"<x>{size}</x>").replace("<y>20</y>", f"<y>{size}</y>")
        file["ismrmrd_header"] = f"{before}<reconSpace>{after}"
    assert main([*reconstruct(run, scan, tmp_path / "out.h5"), "--simulate"]) == 0
    said = capsys.readouterr().out
    assert "psnr" in said and ("ssim" in said) == (size >= 7)


@pytest.mark.parametrize("name", ["scan.npy", "scan.mat", "scan.nii.zip", "scan.gz", "folder.h5", "folder.nii", "full"])
def test_other_endings_of_the_output_are_refused_before_any_work(
    run: Path, tmp_path: Path, fails: Callable[..., str], name: str
) -> None:
    for folder in ("folder.h5", "folder.nii", "full"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    error = fails(*reconstruct(run, tmp_path / "no_such_scan.h5", tmp_path / name), "--overwrite")
    what = "found a folder" if name.startswith("f") else "expected a name that ends in .h5, .hdf5, .nii, .nii.gz,"
    assert name in error and what in error and (tmp_path / "full" / "notes.txt").exists()


def test_a_fully_sampled_scan_is_said_to_be_one(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only where its scores could be taken for those of an accelerated scan."""

    def said(*options: str, mask: np.ndarray | None = None) -> bool:
        write_file(tmp_path / "scan.h5", mask=mask)
        assert main([*reconstruct(run, tmp_path / "scan.h5", tmp_path / "out.h5"), "--overwrite", *options]) == 0
        return "is fully sampled (R = 1.00)" in capsys.readouterr().out

    assert said() and not said("--simulate")
    assert not said(mask=(COLUMNS % 2 == 0) | (abs(COLUMNS - 10) < 4))


def test_partial_fourier_is_not_said_to_be_fully_sampled(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_file(tmp_path / "scan.h5")
    limits = "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>14</maximum><center>10</center>"
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        xml = file["ismrmrd_header"][()].decode()
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = xml.replace(
            "</encoding>", f"{limits}</kspace_encoding_step_1></encodingLimits></encoding>"
        )
        file["kspace"][..., 15:] = 0
    assert main([*reconstruct(run, tmp_path / "scan.h5", tmp_path / "out.h5"), "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "is partial Fourier, 75% of the lines (R = 1.00)" in said and "fully sampled" not in said
    assert "the reference has zeros in the missing lines" in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_that_asks_for_space(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str], number: int
) -> None:
    """While coil maps are stored, and while the image is written."""
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    write_file(tmp_path / "scan.h5", seed=number)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    for place in ("physics.mri.stored_maps.save", "recon.files.os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            error = fails(*reconstruct(run, tmp_path / "scan.h5", tmp_path / "out.h5"))
            assert "no space left" in error and "free space" in error and not (tmp_path / "out.h5").exists()


def test_a_full_disk_at_a_site_asks_for_space_and_not_for_fewer_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_site(tmp_path / "sites")
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("physics.mri.stored_maps.save", full)
    error = fails("train", "fedavg", "--sites", tmp_path / "sites", "--out", tmp_path / "run", *TINY)
    assert "no space left" in error and error.endswith("free space and --resume")


@pytest.mark.slow
def test_a_run_whose_manifests_have_moved_is_evaluated_with_sites(
    run: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "run"))
    facts = json.loads((moved / "run.json").read_text())
    facts["sites"] = {name: str(tmp_path / "gone" / f"{name}.toml") for name in facts["sites"]}
    (moved / "run.json").write_text(json.dumps(facts))
    scan, sites = run.parent / "sites" / "data" / "north" / "north_3.h5", str(run.parent / "sites")
    commands = (["evaluate", str(moved), "--jobs", "1"], reconstruct(moved, scan, tmp_path / "out.h5"))
    for command in commands:
        assert "gone/north.toml" in (error := fails(*command)) and "--sites" in error
        assert main([*command, "--sites", sites]) == 0
    write_manifest(tmp_path / "others", "south", {"test": ["south_0.h5"]})
    assert "manifests: found none of north" in fails(*commands[0], "--sites", tmp_path / "others")


@pytest.mark.slow
def test_fully_sampled_sites_train(tmp_path: Path) -> None:
    """Their start image is the reference, above the 100 dB that a message may state."""
    for index in range(3):
        write_file(tmp_path / "sites" / "data" / "full" / f"full_{index}.h5")
    splits = {"train": ["full_0.h5"], "validation": ["full_1.h5"], "test": ["full_2.h5"]}
    write_manifest(tmp_path / "sites", "full", splits)
    command = ["train", "fedavg", "--sites", str(tmp_path / "sites"), "--out", str(tmp_path / "run"), *TINY]
    assert main(command) == 0


def write_other_layouts(folder: Path) -> dict[str, Path]:
    """One scan of two slices in the fastMRI layout, as a NumPy array, and in the order of MATLAB, as in CMRxRecon."""
    images = torch.stack([phantom_volume(1, (24, 20), seed=seed)[0] for seed in range(2)])
    kspace = simulate_volume(images, birdcage_maps(2, (24, 20))).numpy()
    paths = {
        name: folder / f"{name}.{end}" for name, end in (("fastmri", "h5"), ("numpy", "npy"), ("cmrxrecon", "mat"))
    }
    write_kspace(paths["fastmri"], kspace)
    np.save(paths["numpy"], kspace)
    with h5py.File(paths["cmrxrecon"], "w", userblock_size=512) as file:
        pairs = np.empty((1, *kspace.swapaxes(-1, -2).shape), [("real", "f4"), ("imag", "f4")])
        pairs["real"], pairs["imag"] = kspace.swapaxes(-1, -2).real, kspace.swapaxes(-1, -2).imag
        file["kspace_full"] = pairs
        file["kspace_full"].attrs["MATLAB_class"] = np.bytes_("single")
    return paths


def test_a_scan_of_another_layout_is_read_as_what_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {}
    for name, path in write_other_layouts(tmp_path).items():
        out = tmp_path / f"{name}_image.h5"
        assert main([*reconstruct(run, path, out), "--simulate"]) == 0
        printed = capsys.readouterr().out
        line = f"note: {path} is read as {name}, told from its content; the files of the site are fastmri"
        assert (line in printed) == (name != "fastmri")
        with h5py.File(out) as file:
            images[name] = file["reconstruction"][:]
    # Names of files seed the masks: the images differ in these alone.
    assert {image.shape for image in images.values()} == {(2, 24, 20)}
    for name in ("numpy", "cmrxrecon"):
        assert np.corrcoef(images[name].ravel(), images["fastmri"].ravel())[0, 1] > 0.8


def test_a_folder_may_hold_several_layouts(run: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    write_other_layouts(tmp_path / "scans")
    assert main([*reconstruct(run, tmp_path / "scans", tmp_path / "images"), "--suffix", ".h5"]) == 0
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"fastmri.h5", "numpy.h5", "cmrxrecon.h5"}


def test_a_file_that_no_reader_takes_is_named_as_before(run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "scan.h5").write_text("no scan")
    error = fails(*reconstruct(run, tmp_path / "scan.h5", tmp_path / "out.h5"))
    assert "scan.h5: file: found a text file" in error and "\n" not in error
