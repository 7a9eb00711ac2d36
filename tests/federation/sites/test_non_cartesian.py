"""Sites of radial and spiral scans: manifests, scanners, and a training with an ordinary recipe."""

from pathlib import Path

import pytest

from federation import ConfigError, check_sites, load_federation, load_manifest, make_demo_sites, make_fastmri_sites
from federation.cli.main import main
from federation.sites import MRIScanner, SimulatedSite, read_scanners
from physics import NonCartesianMRI, birdcage_maps, golden_angle_trajectory, phantom_volume
from recon import Simulation, TrajectorySimulation, write_non_cartesian

from ..fake_sites import SMALL, write_file

SITES = (
    SimulatedSite("radial", 4, "t1", TrajectorySimulation("radial", 2, 0.02)),
    SimulatedSite("spiral", 5, "t2", TrajectorySimulation("spiral", 2, 0.02)),
    SimulatedSite("lines", 4, "t1", Simulation("random", 2, 0.2, 0.02)),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_demo_sites(tmp_path / "sites", size=32, train=1, validation=1, test=1, slices=1, sites=SITES)
    return tmp_path / "sites"


def test_a_simulation_decides_the_modality_of_its_site(folder: Path) -> None:
    found = {manifest.name: (manifest.modality, manifest.simulation()) for manifest in load_federation(folder)}
    assert found == {
        "radial": ("non_cartesian", SITES[0].simulate),
        "spiral": ("non_cartesian", SITES[1].simulate),
        "lines": ("mri", SITES[2].simulate),
    }
    facts = {site.name: site.splits[0] for site in check_sites(folder)}
    assert facts["radial"].accelerations[0] == pytest.approx(2, rel=0.05) and facts["radial"].calibration is not None
    path = folder / "radial.toml"
    path.write_text(path.read_text().replace('modality = "non_cartesian"\n', ""))
    assert load_manifest(path).modality == "non_cartesian"  # the sampling says it
    sample = load_manifest(folder / "spiral.toml").dataset("test")[0]
    assert isinstance(sample.operator, NonCartesianMRI)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            '"radial"\nacc',
            '"rosette"\nacc',
            "simulate.sampling: found 'rosette', expected one of golden_angle, radial, spiral",
        ),
        ("acceleration = 2.0", "acceleration = 0.5", "simulate.acceleration: found 0.5, expected"),
        ("noise_std", "center_fraction = 0.1\nnoise_std", "simulate.center_fraction: unknown key"),
        ("maps =", 'calibration_scan = "a.h5"\nmaps =', "data.calibration_scan: unknown key"),
        ('modality = "non_cartesian"', 'modality = "mri"', "simulate.sampling: found 'radial', expected"),
    ],
)
def test_a_wrong_manifest_is_one_line(folder: Path, old: str, new: str, words: str) -> None:
    path = folder / "radial.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as error:
        load_manifest(path)
    assert words in str(error.value)


def test_files_of_a_folder_are_measured_along_a_trajectory(tmp_path: Path) -> None:
    for index in range(3):
        write_file(tmp_path / "knee" / f"p{index}.h5", f"p{index}")
    write_file(tmp_path / "knee" / "u.h5", mask=[True, False] * 10)
    words = ["sites", "make", "fastmri", str(tmp_path / "knee"), "--trajectory", "golden_angle"]
    assert main([*words, "--out", str(tmp_path / "sites")]) == 0
    full, undersampled = load_federation(tmp_path / "sites")
    assert (full.modality, full.simulation()) == ("non_cartesian", TrajectorySimulation("golden_angle", 4))
    assert (undersampled.modality, undersampled.simulate) == ("mri", None)
    again = make_fastmri_sites(tmp_path / "knee", tmp_path / "again", simulate=TrajectorySimulation("spiral", 3))
    assert load_manifest(again[0].path).simulation() == TrajectorySimulation("spiral", 3)


def test_measured_radial_scans_make_sites_of_their_own_that_train(tmp_path: Path) -> None:
    trajectory = golden_angle_trajectory(30, 40)
    A = NonCartesianMRI(birdcage_maps(2, (20, 20), seed=0), trajectory)
    for index in range(3):
        samples = A(phantom_volume(1, (20, 20), seed=index)[0])
        write_non_cartesian(tmp_path / "knee" / f"r{index}.h5", samples, trajectory, (20, 20), patient_id=f"r{index}")
        write_file(tmp_path / "knee" / f"p{index}.h5", f"p{index}")
    make_fastmri_sites(tmp_path / "knee", tmp_path / "sites")
    radial, cartesian = sorted(
        load_federation(tmp_path / "sites"), key=lambda manifest: manifest.data.format, reverse=True
    )
    assert (radial.modality, radial.data.format, radial.simulate) == ("non_cartesian", "trajectory", None)
    assert radial.name.endswith("non-cartesian") and radial.trains and cartesian.modality == "mri"
    sample = radial.dataset("train")[0]
    assert isinstance(sample.operator, NonCartesianMRI) and sample.reference is None


def test_scanners_of_a_file_may_be_radial(tmp_path: Path) -> None:
    path = tmp_path / "scanners.toml"
    text = '[[scanner]]\nname = "north"\ncoils = 4\nsampling = "radial"\nacceleration = 4\n'
    path.write_text(text + "noise_std = 0.01\n")
    (scanner,) = read_scanners(path, MRIScanner)
    assert scanner.simulate == TrajectorySimulation("radial", 4, 0.01)
    for change, words in (
        ("center_fraction = 0.1\n", "center_fraction: found 0.1, expected none for radial"),
        ('sampling = "random"\n', "center_fraction: found none, expected one for random"),
    ):
        path.write_text((text if "center" in change else text.replace('sampling = "radial"\n', "")) + change)
        with pytest.raises(ConfigError, match=words):
            read_scanners(path, MRIScanner)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fedavg", "ssdu", "varnet"])
def test_an_ordinary_recipe_trains_scores_and_reconstructs(folder: Path, tmp_path: Path, recipe: str) -> None:
    run, scan = str(tmp_path / "run"), str(folder / "data/radial/radial_test_000.h5")
    small = (*SMALL, "--set", "federation.rounds=1", "--set", 'evaluation.arms=["zero_filled", "tv", "local"]')
    assert main(["train", recipe, "--sites", str(folder), "--out", run, *small, "--set", "evaluation.tv_slices=1"]) == 0
    assert main(["evaluate", run]) == 0
    out = tmp_path / "image.h5"
    assert main(["reconstruct", run, scan, "--site", "radial", "--simulate", "--out", str(out)]) == 0
    assert out.is_file() and "non" in (tmp_path / "run" / "report.html").read_text("utf-8").lower()
