"""Sites of DICOM-CT-PD projections: made, refused, checked, trained and reconstructed."""

import json

import numpy as np
import pydicom
import pytest

from federation import ConfigError, check_sites, load, load_manifest, make_ct_pd_sites
from federation.cli.main import main
from federation.experiment.reconstruction import ReconstructOptions, reconstruct_scan
from physics import Ellipsoid, EllipsoidPhantom, attenuation_to_hu
from recon import DataError, open_sinograms

from ...ct_pd_files import write_scan

MU = 0.0192
SMALL = {"thickness_mm": 4.0, "size": 32}


@pytest.fixture(scope="module")
def projections(tmp_path_factory):
    """Three people in folders of their own, one of them scanned twice; an image that is no projection is elsewhere."""
    folder = tmp_path_factory.mktemp("library")
    for number, name in enumerate(("C001/full", "C002/full", "C002/again", "L003/full")):
        body = EllipsoidPhantom((Ellipsoid(MU, (5, -5, 0), (110 - 8 * number, 80, 300)),))
        photons = np.full(24, 2e5)
        size = {"columns": 24, "column_mm": 28.0, "center": (12.75, 8.5), "row_mm": 2.0}
        write_scan(
            folder / name, body, views_per_turn=48, turns=1.9, photons=photons, patient=name[:4], series=f"1.{number}",
            noise=np.random.default_rng(number), **size,
        )  # fmt: skip
    (folder / "LICENSE").write_text("a file that is no scan")
    return folder


@pytest.mark.slow
def test_command_makes_sites_that_are_checked_trained_and_reconstructed(projections, tmp_path, capsys):
    sites, run = tmp_path / "sites", tmp_path / "run"
    command = ["sites", "make", "dicom-ct-pd", str(projections), "--out", str(sites), "--slices", "4mm", "--size", "32"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "rebinning 4 series to 20 slices: reads" in printed
    assert "maker_scanner-1          subjects: 1 train, 1 validation, 1 test" in printed
    manifest = load_manifest(sites / "maker_scanner-1.toml")
    assert (manifest.modality, manifest.acquisition.vendor, manifest.acquisition.anatomy) == ("ct", "MAKER", "abdomen")
    assert manifest.simulation().views == 12
    split = {name: part for part, name in manifest.data.named()}
    assert split["C002_full.h5"] == split["C002_again.h5"]
    assert main(["sites", "check", str(sites)]) == 0
    assert "all files agree with the manifests" in capsys.readouterr().out
    tiny = ["network.channels=2", "network.depth=2", "network.cascades=1", "federation.rounds=1",
            "training.steps_per_round=1", "personal.steps=1"]  # fmt: skip
    arguments = ["train", "demos/fedavg_ct", "--sites", str(sites), "--out", str(run), "--quiet"]
    assert main([*arguments, *(word for key in tiny for word in ("--set", key))]) == 0
    scan = sites / "data" / "maker_scanner-1" / "C001_full.h5"
    assert main(["reconstruct", str(run), "--site", "maker_scanner-1", str(scan), "--out", str(tmp_path / "c.h5")]) == 0
    assert json.loads((sites / "maker_scanner-1.lock.json").read_text())


def test_water_of_the_references_is_zero_and_photons_are_there(projections, tmp_path):
    made = make_ct_pd_sites(projections, tmp_path, **SMALL)
    assert [(site.name, site.missing) for site in made] == [("maker_scanner-1", ())]
    volume = open_sinograms(tmp_path / "data" / "maker_scanner-1" / "L003_full.h5")
    hu = attenuation_to_hu(volume.read_reference(2)).numpy()
    assert hu[13:19, 13:19].mean() == pytest.approx(0, abs=6)
    assert volume.photons is not None and volume.patient_id == "L003"
    assert [site.name for site in check_sites(tmp_path)] == ["maker_scanner-1"]


def test_measured_sites_have_all_views_and_no_reference(projections, tmp_path):
    make_ct_pd_sites(projections, tmp_path, **SMALL, measured=True, views=24, subject_pattern="^(.)")
    manifest = load_manifest(tmp_path / "maker_scanner-1.toml")
    assert manifest.simulation() is None
    volume = manifest.open(manifest.root / "C001_full.h5")
    assert not volume.has_reference and volume.shape[1] == 24 and volume.patient_id == "C"


def test_tilted_planes_and_dead_elements_are_options_of_the_command(projections, tmp_path):
    sites = tmp_path / "sites"
    command = ["sites", "make", "dicom-ct-pd", str(projections / "C001"), "--out", str(sites), "--slices", "4mm"]
    options = ["--size", "16", "--planes", "tilted", "--dead", "3:4", "1:all", "--measured"]
    assert main([*command, *options]) == 0
    assert load_manifest(sites / "maker_scanner-1.toml").acquisition.origin.endswith("projections to tilted planes")
    scan = sites / "data" / "maker_scanner-1" / "full.h5"
    volume = open_sinograms(scan)
    assert volume.planes is not None and volume.has_live and float(volume.read_live(0)[:, -1].min()) < 1
    said = []
    reconstruct_scan(load("fbp"), scan, tmp_path / "dicom", ReconstructOptions(), said.append)
    images = sorted((tmp_path / "dicom").iterdir())
    counts = f"{len(images)} axial images interpolated from {volume.shape[0]} tilted planes"
    assert f"note: full.h5 has tilted planes: {counts}" in said
    places = [float(pydicom.dcmread(file).SliceLocation) for file in images]
    assert np.diff(places) == pytest.approx(4.0) and volume.z_mm[0] < places[0] < places[-1] < volume.z_mm[-1]


def test_existing_output_is_refused_before_anything_is_read(projections, tmp_path, monkeypatch):
    make_ct_pd_sites(projections / "C001", tmp_path, **SMALL)
    file = tmp_path / "data" / "maker_scanner-1" / "full.h5"
    before = file.read_bytes()
    monkeypatch.setattr("federation.sites.from_ct_pd.open_series", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ConfigError, match=r"full\.h5: found a file from before, expected a new one; .*--overwrite"):
        make_ct_pd_sites(projections / "C001", tmp_path, **SMALL)
    monkeypatch.undo()
    assert file.read_bytes() == before
    make_ct_pd_sites(projections / "C001", tmp_path, **SMALL | {"size": 16}, overwrite=True)
    assert open_sinograms(file).grid.shape == (16, 16)


def test_bad_series_are_named_together_or_left_out(projections, tmp_path, caplog):
    folder = tmp_path / "library"
    for name in ("C001/full", "C002/full", "L003/full"):
        (folder / name).mkdir(parents=True)
        for file in (projections / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    for name in ("C001/full", "C002/full"):
        (folder / name / "view_007919.dcm").unlink()
    with pytest.raises(ConfigError, match=r"C001/full: .* without 2.*\n.*C002/full: .* without 2.*\n2 files cannot"):
        make_ct_pd_sites(folder, tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()
    made = make_ct_pd_sites(folder, tmp_path / "out", **SMALL, skip_bad=True)
    assert made[0].subjects["train"] == 1
    assert sum("left out: " in line for line in caplog.messages) == 2
    assert [file.name for file in (tmp_path / "out" / "data" / made[0].name).iterdir()] == ["L003_full.h5"]


def test_images_are_passed_over_and_series_chosen_by_description(projections, tmp_path, capsys):
    folder, said = tmp_path / "library", []
    for name, source in (("P1/full", "C001/full"), ("P1/images", "C002/full"), ("P1/low", "L003/full")):
        (folder / name).mkdir(parents=True)
        for file in (projections / source).iterdir():
            data = pydicom.dcmread(file)
            if name == "P1/images":
                data.remove_private_tags()
            data.SeriesDescription = f"{name[3:].title()} Dose projections"
            data.save_as(folder / name / file.name)
    made = make_ct_pd_sites(folder, tmp_path / "out", **SMALL, series="full dose", say=said.append)
    assert [file.name for file in (tmp_path / "out" / "data" / made[0].name).iterdir()] == ["P1_full.h5"]
    assert said[0] == "note: passed over 1 folders of images, such as P1/images"
    with pytest.raises(ConfigError, match=r"--series: found 'half', expected a part of one of: Full Dose .*, Low Dose"):
        make_ct_pd_sites(folder, tmp_path / "other", **SMALL, series="half")
    with pytest.raises(ConfigError, match="found images in images, expected a folder of DICOM-CT-PD projections"):
        make_ct_pd_sites(folder / "P1" / "images", tmp_path / "other", **SMALL)


def test_a_failure_leaves_no_part_of_a_file(projections, tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    for file in (projections / "C001" / "full").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    last = sorted(folder.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{last.name}: .*; copy the file again"):
        make_ct_pd_sites(folder, tmp_path / "out", **SMALL)
    assert not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--slices", "0"], "found '0', expected millimeters from 0.1 to 100, as in 5mm"),
        (["--slices", "5 cm"], "found '5 cm', expected millimeters"),
        (["--water", "0.19"], "WaterAttenuationCoefficient: found 0.19, expected 0.012 to 0.04 per mm"),
        (["--slices", "80mm"], "is covered along z, expected 80 mm for one slice"),
        (["--planes", "titled"], "invalid choice: 'titled' (choose from"),
        (
            ["--dead", "3"],
            "--dead: found '3', expected COLUMN:ROW of 24 columns and 16 rows, from 1, as 12:3 or 12:all",
        ),
        (["--dead", "3:17"], "--dead: found '3:17', expected COLUMN:ROW"),
    ],
)
def test_wrong_options_get_one_line(projections, tmp_path, capsys, words, error):
    command = ["sites", "make", "dicom-ct-pd", str(projections / "C001"), "--out", str(tmp_path), *words]
    try:
        assert main(command) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert error in capsys.readouterr().err


def test_a_folder_without_projections_is_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, found in (("empty", "no DICOM file"), ("none", "no such folder"), ("file", "a file")):
        assert main(["sites", "make", "dicom-ct-pd", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        expected = f"{name}: found {found}, expected a folder of DICOM-CT-PD projections; correct the path"
        assert expected in capsys.readouterr().err
