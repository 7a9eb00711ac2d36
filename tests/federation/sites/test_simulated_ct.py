"""CT sites: made, checked, trained, scored and reconstructed; alone and together with MRI sites."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from federation import (
    ConfigError,
    check_sites,
    load_federation,
    load_manifest,
    load_recipe,
    make_ct_demo_sites,
    make_ct_image_sites,
    make_demo_sites,
)
from federation.cli.main import main
from federation.experiment.personal_stage import site_network
from federation.experiment.run_folder import RunFolder
from federation.recipes.network import consistency_at
from federation.recipes.recipe_library import LIBRARY
from federation.sites import CT_DEMO_SITES, read_federation
from federation.sites.simulated_ct import scan_of
from federation.sites.simulated_mri import DEMO_SITES
from physics import FanBeam, ImageGrid, RadonOperator, body_volume, hyperfed
from physics.ct.geometry import field_of_view_radius_mm
from recon import CT_SCALE, ChebyshevStep, NormalizedStep, ScanSimulation, SinogramSlices

ROOT = Path(__file__).parents[3]
RECIPE = LIBRARY / "demos" / "fedavg_ct.toml"
TINY = [
    "--set", "network.channels=2", "--set", "network.depth=2", "--set", "network.cascades=2",
    "--set", "federation.rounds=2", "--set", "training.steps_per_round=2", "--set", "evaluation.tv_weights=[1e-2]",
    "--set", "evaluation.tv_weights_ct=[1e-3]", "--set", "evaluation.tv_slices=1", "--set", "personal.steps=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct") / "sites"
    chosen = [CT_DEMO_SITES[0], CT_DEMO_SITES[-1]]
    make_ct_demo_sites(folder, size=48, train=1, validation=1, test=2, slices=1, sites=chosen)
    return folder


@pytest.fixture(scope="module")
def trained(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(RECIPE), "--sites", str(sites), "--out", str(out), "--jobs", "1", *TINY]) == 0
    assert main(["evaluate", str(out), "--jobs", "1"]) == 0
    return out


def test_protocols_keep_the_field_of_view_at_another_size() -> None:
    for number in range(1, 6):
        grid, scan, photons = scan_of(number, 128)
        published = hyperfed(number)
        assert grid.inscribed_radius_mm == pytest.approx(published.grid.inscribed_radius_mm)
        assert field_of_view_radius_mm(scan) >= 0.99 * grid.inscribed_radius_mm
        assert scan.shape[0] == published.geometry.shape[0] // 4 and photons == published.photons


def test_few_views_of_a_small_image_are_half_of_its_scan(tmp_path: Path) -> None:
    sparse = [site for site in CT_DEMO_SITES if site.name == "sparse"]
    for size, views in ((48, 9), (128, 32)):
        make_ct_demo_sites(tmp_path / str(size), size=size, train=1, test=0, slices=1, sites=sparse)
        simulated = load_manifest(tmp_path / str(size) / "sparse.toml").simulation()
        assert isinstance(simulated, ScanSimulation) and simulated.views == views
        assert main(["sites", "check", str(tmp_path / str(size))]) == 0


@pytest.mark.parametrize("kind", ["demo", "demo-ct", "demo-cine"])
def test_a_size_without_pixels_is_one_line(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sites", "make", kind, "--size", "0", "--out", str(tmp_path / "sites")]) == 2
    assert "--size: found 0, expected at least 8" in capsys.readouterr().err
    assert not (tmp_path / "sites").exists()


def test_made_sites_are_ct_sites_whose_operator_explains_their_measurement(sites: Path) -> None:
    found = load_federation(sites)
    assert [site.modality for site in found] == ["ct", "ct"]
    for site in found:
        samples = site.dataset("test")
        assert isinstance(samples, SinogramSlices) and len(samples) == 2
        sample = samples[0]
        assert sample.reference is not None
        residual = (sample.operator(sample.reference) - sample.measurement).norm() / sample.measurement.norm()
        # Noise, and what the finer grid of the simulation makes: never nothing.
        assert 1e-3 < float(residual) < 0.06
    limited = found[0].dataset("test")
    assert isinstance(limited, SinogramSlices)
    assert np.rad2deg(np.ptp(limited.geometries[0].angles)) < 120 and limited.acceleration(0) > 2.5
    facts = {site.name: site for site in check_sites(sites)}
    assert facts["protocol1"].splits[0].measured == ("fan beam 19 views x 69 elements, 48x48",)
    assert facts["limited"].splits[0].accelerations[0] > 2.5


@pytest.mark.slow
def test_the_committed_manifests_are_those_of_the_demo(tmp_path: Path) -> None:
    # At 96 pixels the scan of each site has the views that it keeps.
    made = make_ct_demo_sites(tmp_path, size=96, slices=1, train=8, validation=1, test=2)
    committed = read_federation(ROOT / "data_manifests" / "demo_ct")
    assert [site.name for site in committed] == sorted(site.name for site in made)
    for site in committed:
        fresh = load_manifest(tmp_path / f"{site.name}.toml")
        assert site.data.root.endswith(f"runs/demo_ct/sites_data/{fresh.data.root}")
        assert site.model_copy(update={"data": fresh.data}).model_dump() == fresh.model_dump()
        assert list(site.data.named()) == list(fresh.data.named())


def test_a_site_has_the_data_consistency_of_its_manifest(trained: Path, sites: Path) -> None:
    networks = {site.name: site_network(RunFolder.open(trained), site) for site in load_federation(sites)}
    kinds = {name: {type(layer) for layer in net.consistency} for name, net in networks.items()}  # type: ignore[union-attr]
    assert kinds == {"limited": {ChebyshevStep}, "protocol1": {NormalizedStep}}


def test_a_recipe_without_physics_has_none_at_any_site(sites: Path) -> None:
    table = load_recipe(RECIPE, ["network.consistency=none"]).network
    assert {consistency_at(site, table) for site in load_federation(sites)} == {"none"}


def test_an_unknown_data_consistency_is_refused(sites: Path, tmp_path: Path) -> None:
    text = (sites / "limited.toml").read_text()
    (tmp_path / "limited.toml").write_text(text.replace('"chebyshev"', '"chebychev"'))
    with pytest.raises(ConfigError, match=r"consistency: found 'chebychev', expected .*'chebyshev'"):
        load_manifest(tmp_path / "limited.toml")


def test_the_report_shows_ct(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    assert list(report["arms"]) == ["fbp", "tv", "local", "shared", "fedavg_ct"]
    facts = report["sites"]["limited"]
    assert facts["modality"] == "ct" and "fan beam" in facts["sampling"] and facts["photons"] == 1.0625e5
    assert facts["consistency"] == "chebyshev" and report["sites"]["protocol1"]["consistency"] == "normalized"
    quality = report["quality"]["protocol1"]
    assert set(quality) == set(report["arms"])
    for entry in quality.values():
        assert entry["bias_hu"] and entry["noise_hu"].keys() == entry["bias_hu"].keys()
    assert "projected on a grid 2x as fine" in report["metric_card"]["measurement"]
    page = (trained / "report.html").read_text()
    assert "<td>chebyshev</td>" in page and "<td>normalized</td>" in page
    assert "CT image quality" in page and "Soft-tissue window" in page and page.count("data:image/png") > 4 * 5
    with h5py.File(trained / "test" / "protocol1.h5") as file:
        assert {"sinogram", "ray_weights", "reference"} <= set(file)
        assert file["images/fedavg_ct"].shape == file["reference"].shape == (2, 48, 48)


def test_a_ct_scan_is_reconstructed_in_its_units(trained: Path, sites: Path, tmp_path: Path) -> None:
    scan, out = sites / "data" / "protocol1" / "protocol1_test_000.h5", tmp_path / "out.h5"
    assert main(["reconstruct", str(trained), "--site", "protocol1", str(scan), "--out", str(out)]) == 0
    with h5py.File(out) as file, h5py.File(scan) as truth:
        image, reference = file["reconstruction"][()], truth["reference"][()]
    assert image.shape == (1, 48, 48)
    assert np.corrcoef(image.ravel(), reference.ravel())[0, 1] > 0.85 and 0.7 < image.max() / reference.max() < 1.3


def test_a_scan_of_another_dose_is_named_at_a_site_of_all_views(
    trained: Path, sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scans of the site are fully sampled, too: a low dose is what its network corrects."""
    place = trained / "sites" / "protocol1" / "usual_scans.json"
    stored, told = json.loads(place.read_text()), []
    assert stored["ranges"]["acceleration"][0] == 1
    scan, out = sites / "data" / "protocol1" / "protocol1_test_000.h5", tmp_path / "image.h5"
    arguments = ["reconstruct", str(trained), "--site", "protocol1", str(scan), "--out", str(out), "--overwrite"]
    for factor in (1, 8):
        low, middle, high, spread = stored["ranges"]["noise"]
        ranges = {**stored["ranges"], "noise": [low / factor, middle / factor, high / factor, spread]}
        place.write_text(json.dumps({**stored, "ranges": ranges}))
        assert main(arguments) == 0
        told.append([line for line in capsys.readouterr().out.splitlines() if "is unlike the scans" in line])
    place.write_text(json.dumps(stored))
    assert told[0] == [] and len(told[1]) == 1 and "noise in parts of the brightest pixel" in told[1][0]


@pytest.mark.slow
def test_mri_and_ct_sites_share_one_regularizer(tmp_path: Path) -> None:
    folder, out = tmp_path / "sites", tmp_path / "run"
    make_demo_sites(folder, size=48, train=1, validation=1, test=1, slices=1, sites=DEMO_SITES[:2])
    make_ct_demo_sites(folder, size=48, train=1, validation=1, test=1, slices=1, sites=CT_DEMO_SITES[:2])
    assert [site.modality for site in load_federation(folder)] == ["mri", "mri", "ct", "ct"]
    recipe = LIBRARY / "demos" / "fedavg_mixed.toml"
    arguments = ["train", str(recipe), "--sites", str(folder), "--out", str(out), "--jobs", "1", *TINY]
    assert main([*arguments, "--set", 'network.consistency_ct="primal_dual"']) == 0
    assert main(["evaluate", str(out), "--jobs", "1"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert set(report["arms"]["fedavg_mixed"]["sites"]) == {"east", "north", "protocol1", "protocol2"}
    assert set(report["arms"]) == {"tv", "local", "shared", "fedavg_mixed"}  # what every site can have
    kept = {site["parameters_kept"] for site in report["sites"].values()}
    shared = {site["parameters_shared"] for site in report["sites"].values()}
    assert len(shared) == 1 and len(kept) == 2
    assert set(report["quality"]) == {"protocol1", "protocol2"}


def test_ct_images_become_sites(tmp_path: Path) -> None:
    import nibabel

    paths = []
    for number, family in enumerate(("abdomen", "chest")):
        hu = body_volume(10, (40, 36), number, family).numpy()
        path = tmp_path / f"Scanner_{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0)[::-1, ::-1], np.eye(4)), path)  # type: ignore[no-untyped-call]
        paths.append(path)
    made = make_ct_image_sites(paths, tmp_path / "sites", size=32)
    assert [site.name for site in made] == ["scanner-0", "scanner-1"]
    first, second = load_federation(tmp_path / "sites")
    assert not first.synthetic and "Scanner_0" in str(first.acquisition.origin)
    assert first.acquisition.model == "HyperFed protocol 1" and second.acquisition.model == "HyperFed protocol 2"
    counts = [len(first.dataset(split)) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert counts == [6, 1, 1]  # one slice is left out between two blocks
    sample = first.dataset("train")[3]
    assert sample.reference is not None and isinstance(sample.operator, RadonOperator)
    assert sample.operator.grid.shape == (32, 32) and 0.9 < float(sample.reference[10:22, 10:22].median()) < 1.2
    with pytest.raises(ConfigError, match="expected Hounsfield units"):
        air = tmp_path / "air.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.full((20, 20, 5), -200.0), np.eye(4)), air)  # type: ignore[no-untyped-call]
        make_ct_image_sites([air], tmp_path / "other", size=32)


def _edit(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: _edit(t, 'modality = "ct"', 'modality = "cr"'), "modality: found 'cr', expected mri or ct"),
        (lambda t: _edit(t, "[data]", '[data]\nmaps = "true"'), "data.maps"),
        (lambda t: _edit(t, "arc_deg = 120.0", "arc_deg = 400"), "simulate.arc_deg"),
        (lambda t: _edit(t, "arc_deg = 120.0", "acceleration = 4"), "simulate.acceleration"),
        (
            lambda t: _edit(t, "electronic_noise = 0.0", "electronic_noise = 4.0"),
            "electronic_noise: found 4.0",
        ),
        (lambda t: _edit(t, "arc_deg = 120.0", "views = 5000"), "views: found 5000, expected at most"),
        (lambda t: _edit(t, 'format = "sinogram"', 'format = "sinograms"'), "data.format"),
        (lambda t: _edit(t, "pitch_mm = 1.0", "pitch_mm = 2.0"), "pitch_mm: found 2.0, expected none.*leave it out"),
    ],
)
def test_a_wrong_manifest_is_one_line(sites: Path, tmp_path: Path, change: Callable[[str], str], words: str) -> None:
    text = (sites / "limited.toml").read_text().replace("data/limited", str(sites / "data" / "limited"))
    (tmp_path / "limited.toml").write_text(change(text))
    with pytest.raises(ValueError, match=words) as caught:
        load_manifest(tmp_path / "limited.toml").dataset("test")
    assert str(tmp_path) in str(caught.value) or str(sites) in str(caught.value)


def test_augmentation_is_refused_for_ct(sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(RECIPE), "--sites", str(sites), "--out", str(tmp_path / "run"), "--jobs", "1", *TINY]
    assert main([*arguments, "--set", "training.augment=true"]) == 2
    assert "set training.augment=false" in capsys.readouterr().err


def test_a_scan_is_a_value_of_its_file(sites: Path) -> None:
    samples = load_manifest(sites / "protocol1.toml").dataset("train")
    assert isinstance(samples, SinogramSlices)
    volume = samples.volumes[0]
    assert isinstance(volume.geometry, FanBeam) and isinstance(volume.grid, ImageGrid)
    assert torch.equal(samples[0].scale, torch.tensor(CT_SCALE))


def test_weights_without_a_data_consistency_train_at_sites_that_name_one(
    sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--set", "federation.rounds=1", "--set", "training.steps_per_round=1", "--set", "evaluation.arms=[]"]
    out = ["--out", str(tmp_path / "run"), "--jobs", "1"]
    assert main(["train", "fedavg", "--start-from", "body-ct", "--sites", str(sites), *out, *few]) == 0
    assert "in the manifests of limited does not apply: the network 'corrected_tv'" in capsys.readouterr().out
