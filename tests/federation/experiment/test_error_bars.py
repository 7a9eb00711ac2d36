"""A run with error bars: calibrated and scored by `evaluate`, written by `reconstruct`."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from federation.cli import main
from federation.methods import selected_state

from ..fake_sites import SMALL, trained_run, write_file, write_manifest, write_site

PLAIN = [*SMALL, "--set", "federation.rounds=1", "--set", "evaluation.arms=['zero_filled']"]
BARS = [*PLAIN, "--set", "network.error_bars=true", "--set", "objective.error_bars=1.0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation")
    write_site(folder / "sites", "north")
    write_site(folder / "sites", "south")
    return trained_run(folder, BARS)


def reconstruct(run: Path, scan: Path, out: Path) -> int:
    return main(["reconstruct", str(run), "--site", "north", str(scan), "--out", str(out), "--overwrite"])


def test_evaluate_and_reconstruct(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = tmp_path / "scan.h5"
    write_file(scan)
    assert reconstruct(run, scan, tmp_path / "before.h5") == 0
    assert "no error bars: they are not calibrated; run `fedrecon evaluate" in capsys.readouterr().out
    with h5py.File(tmp_path / "before.h5") as file:
        assert "half_width" not in file

    assert main(["evaluate", str(run), "--jobs", "1", "--coverage", "0.8"]) == 0
    assert "error bars, wanted coverage 0.80:" in capsys.readouterr().out
    found = json.loads((run / "report.json").read_text())["error_bars"]
    assert set(found) == {"north", "south"} and found["north"]["wanted"] == 0.8
    assert 0 < found["north"]["coverage"] <= 1 and found["north"]["half_width"] > 0
    page = (run / "sites" / "north" / "report.html").read_text()
    assert "<h2>Error bars</h2>" in (run / "report.html").read_text() and ">error bar<" in page

    assert reconstruct(run, scan, tmp_path / "image.h5") == 0
    with h5py.File(tmp_path / "image.h5") as file, h5py.File(tmp_path / "before.h5") as before:
        assert np.array_equal(file["reconstruction"][:], before["reconstruction"][:])
        half_width = file["half_width"][:]
        assert half_width.shape == file["reconstruction"].shape and (half_width > 0).all()
        assert file.attrs["half_width_coverage"] == 0.8
    assert reconstruct(run, scan, tmp_path / "image.nii.gz") == 0
    assert "error bars of 80% coverage: " in capsys.readouterr().out
    bars = nibabel.load(tmp_path / "image_error_bars.nii.gz").get_fdata()
    np.testing.assert_allclose(bars.transpose(2, 1, 0), half_width, rtol=1e-5)
    assert reconstruct(run, scan, tmp_path / "image.png") == 0
    assert "without error bars: HDF5, NIfTI and DICOM hold them" in capsys.readouterr().out


def test_half_widths_are_those_of_the_calibration(run: Path, tmp_path: Path) -> None:
    """Another coverage multiplies all half-widths by one factor."""
    scan = tmp_path / "scan.h5"
    write_file(scan)
    widths = []
    for coverage in ("0.5", "0.9"):
        assert main(["evaluate", str(run), "--jobs", "1", "--coverage", coverage]) == 0
        assert reconstruct(run, scan, tmp_path / "image.h5") == 0
        with h5py.File(tmp_path / "image.h5") as file:
            widths.append(file["half_width"][:])
    factors = json.loads((run / "error_bars.json").read_text())["north"]
    ratio = widths[1] / widths[0]
    assert ratio.min() > 1 and np.ptp(ratio) < 1e-4 * ratio.mean() and factors["coverage"] == 0.9


def test_a_damaged_calibration_is_named(run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    place, scan = run / "error_bars.json", tmp_path / "scan.h5"
    write_file(scan)
    for content in ("{", '{"north": {"factor": 1}}'):
        place.write_text(content)
        error = fails("reconstruct", run, "--site", "north", scan, "--out", tmp_path / "out.h5")
        assert "error_bars.json" in error and "fedrecon evaluate" in error
    place.unlink()


@pytest.mark.slow
def test_validation_without_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = tmp_path / "sites"
    write_site(sites)
    for index in range(2):
        write_file(sites / "data" / "part" / f"part_{index}.h5", mask=np.arange(20) >= 5)
    write_manifest(sites, "part", {"train": [], "validation": ["part_0.h5"], "test": ["part_1.h5"]})
    out = trained_run(tmp_path, BARS)
    assert main(["evaluate", str(out), "--jobs", "1"]) == 0
    assert "without error bars, as their validation scans have no references: part" in capsys.readouterr().out
    assert set(json.loads((out / "report.json").read_text())["error_bars"]) == {"north"}


@pytest.mark.parametrize("half", ["network.error_bars=true", "objective.error_bars=1.0"])
def test_both_keys_belong_together(tmp_path: Path, fails: Callable[..., str], half: str) -> None:
    write_site(tmp_path / "sites")
    error = fails("train", "fedavg", "--sites", tmp_path / "sites", "--out", tmp_path / "run", *SMALL, "--set", half)
    assert "set network.error_bars = true and objective.error_bars = 1.0, or neither" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["0", "1", "90", "high"])
def test_a_wrong_coverage_is_named(run: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--coverage", text])
    assert "expected a number between 0 and 1" in capsys.readouterr().err


@pytest.mark.slow
def test_trained_weights_get_error_bars(tmp_path: Path) -> None:
    """A run without error bars is the base of one with them, whose other parameters are frozen: its image stays."""
    write_site(tmp_path / "sites")
    base, out = trained_run(tmp_path, PLAIN), tmp_path / "bars"
    freeze = "scope.freeze=['regularizers.*', 'consistency.*']"
    arguments = ["train", "fedavg", "--sites", str(tmp_path / "sites"), "--out", str(out), *BARS, "--set", freeze]
    assert main([*arguments, "--start-from", str(base)]) == 0
    for folder in (base, out):
        assert main(["evaluate", str(folder), "--jobs", "1"]) == 0
    psnr = [json.loads((f / "report.json").read_text())["arms"]["fedavg"]["mean"]["psnr"] for f in (base, out)]
    assert psnr[0] == psnr[1]
    bars = [json.loads((f / "report.json").read_text())["error_bars"] for f in (base, out)]
    assert bars[0] == {} and set(bars[1]) == {"north"}
    # The images of all rounds are equal: the error bars select the round.
    assert selected_state(out).round > 0


def test_a_scan_unlike_those_of_its_site_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    assert main(["evaluate", str(run), "--jobs", "1"]) == 0
    place, scan = run / "sites" / "north" / "usual_scans.json", tmp_path / "scan.h5"
    write_file(scan, mask=(np.arange(20) % 2 == 0) | (abs(np.arange(20) - 10) < 4))
    stored = json.loads(place.read_text())
    assert stored["scans"] == 1
    place.write_text(json.dumps({"scans": 9, "ranges": {"acceleration": [3.9, 4.0, 4.1, 0.05]}}))
    capsys.readouterr()
    assert reconstruct(run, scan, tmp_path / "image.h5") == 0
    assert "warning: scan.h5 is unlike the scans of the site: acceleration 1.4" in capsys.readouterr().out
    place.write_text(json.dumps({"scans": 9, "ranges": {"acceleration": [1.4, 1.43, 1.5, 0.05]}}))
    assert reconstruct(run, scan, tmp_path / "image.h5") == 0
    assert "is unlike" not in capsys.readouterr().out
    place.write_text('{"scans": 9, "ranges": {"acceleration": [1]}}')
    error = fails("reconstruct", run, "--site", "north", scan, "--out", tmp_path / "out.h5")
    assert "usual_scans.json: ranges: found" in error
