"""`fedrecon weights`, `reconstruct --weights` and `--start-from`, on small weights that the test writes; body-ct."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from federation import make_demo_sites
from federation.cli.main import main
from federation.sites import CT_DEMO_SITES, DEMO_SITES, make_ct_demo_sites
from physics import (
    MU_WATER,
    FanBeam,
    ImageGrid,
    Transmission,
    body_phantom,
    evenly_spaced,
    hu_to_attenuation,
    simulate_counts,
)
from recon import (
    MODALITIES,
    STARTER_WEIGHTS,
    CorrectedTV,
    KSpaceSlices,
    NetworkSettings,
    SinogramSlices,
    collate,
    load_weights,
    open_weights,
    reconstruct,
    save_weights,
    write_sinograms,
)

SETTINGS = NetworkSettings(
    cascades=2, regularizer="cnn", channels=2, depth=2, consistency="noise_proximal", noise_level=True
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    make_demo_sites(folder, size=40, train=1, validation=1, test=1, slices=2, sites=DEMO_SITES[:2])
    return folder


@pytest.fixture
def scan(sites: Path, tmp_path: Path) -> Path:
    """An undersampled fastMRI file without a reference."""
    source = next((sites / "data").rglob("*_test_000.h5"))
    path = tmp_path / "scan.h5"
    with h5py.File(source) as file, h5py.File(path, "w") as out:
        kspace = file["kspace"][:]
        mask = np.arange(kspace.shape[-1]) % 2 == 0
        mask[16:24] = True
        noise = np.random.default_rng(0).standard_normal((2, *kspace.shape)) * 0.01 * np.abs(kspace).max() / 10
        out["kspace"] = ((kspace + noise[0] + 1j * noise[1]) * mask).astype(np.complex64)
        out["ismrmrd_header"], out["mask"] = file["ismrmrd_header"][()], mask.astype(np.float32)
        out.attrs.update({"acquisition": "AXT1", "patient_id": "subject-1"})
    return path


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of packaged weights, for this test alone."""
    path = tmp_path / "packaged" / "head-test.safetensors"
    save_weights(SETTINGS.build(), path, SETTINGS, "mri", "Small heads", {"matrix": 32, "acceleration": 10})
    path.with_suffix(".md").write_text("# head-test\n")
    monkeypatch.setitem(STARTER_WEIGHTS, "head-test", path)
    return "head-test"


def test_a_scan_is_reconstructed_without_run_or_site(
    weights: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5"
    assert main(["reconstruct", "--weights", weights, str(scan), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "\nresidual " in printed and "held-out samples, in units of the noise" in printed
    assert "warning: matrix 40, expected at most 32 for head-test; compare" in printed
    assert f"reconstructed 2 slices of 40x40: {out}" in printed
    samples = KSpaceSlices([scan], "scan")
    with h5py.File(out) as file, torch.no_grad():
        assert file.attrs["weights"] == weights
        assert file.attrs["weights_sha256"] == hashlib.sha256(STARTER_WEIGHTS[weights].read_bytes()).hexdigest()
        for index, sample in enumerate([samples[0], samples[1]]):
            image = reconstruct(load_weights(weights), sample)
            np.testing.assert_array_equal(file["image"][index], (image * sample.scale).numpy())
            np.testing.assert_array_equal(
                file["reconstruction"][index], (sample.magnitude(image) * sample.scale).numpy()
            )
    command = ["reconstruct", str(scan), "--out", str(out), "--overwrite", "--format", "fastmri"]
    assert main([*command, "--weights", str(STARTER_WEIGHTS[weights])]) == 0


def test_a_network_is_adapted_to_the_scan(
    weights: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5"
    command = ["reconstruct", "--weights", weights, str(scan), "--out", str(out), "--overwrite"]
    assert main([*command, "--adapt", "20"]) == 0
    printed = capsys.readouterr().out
    assert "adapting to 2 slices, at most 20 steps, without a reference" in printed
    assert "step 10/20   residual of held-out measurements" in printed
    with h5py.File(out) as file:
        residuals = file.attrs["adapted_residuals"]
        assert len(residuals) == 3 and residuals[file.attrs["adapted_checks"]] == min(residuals)
    assert main([*command, "--adapt", "0"]) == 2
    assert "--adapt: found 0, expected at least 1 step" in capsys.readouterr().err


def test_a_ct_scan_is_reconstructed_by_weights_for_ct(tmp_path: Path) -> None:
    make_ct_demo_sites(tmp_path / "ct", size=32, train=1, validation=1, test=1, slices=1, sites=CT_DEMO_SITES[:1])
    settings = NetworkSettings(cascades=1, regularizer="cnn", channels=2, depth=2, consistency="normalized")
    save_weights(settings.build(MODALITIES["ct"].correction), tmp_path / "b.safetensors", settings, "ct", "Bodies")
    scan, out = next((tmp_path / "ct" / "data").rglob("*_test_000.h5")), tmp_path / "out.h5"
    assert main(["reconstruct", "--weights", str(tmp_path / "b.safetensors"), str(scan), "--out", str(out)]) == 0
    with h5py.File(out) as file:
        assert file["reconstruction"].shape == file["image"].shape == (1, 32, 32)


def test_packaged_weights_for_bodies_improve_their_total_variation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, scan, out = ImageGrid((96, 96), 4.0), tmp_path / "scan.h5", tmp_path / "out.h5"
    geometry = FanBeam(evenly_spaced(80, 2 * math.pi / 80), 160, 4.5, 570.0, 1026.0)
    model, fine = Transmission(1e5, electronic_noise=10.0), grid.refined(2)
    body = hu_to_attenuation(body_phantom(fine.shape, 3, "abdomen"), MU_WATER)[None]
    truth = torch.nn.functional.avg_pool2d(body, 2)
    counts = simulate_counts(body, fine, geometry, model, torch.Generator().manual_seed(0))
    write_sinograms(scan, grid, geometry, counts=counts, photons=1e5, electronic_noise=10.0, reference=truth)
    assert main(["reconstruct", "--weights", "body-ct", str(scan), "--out", str(out)]) == 0
    assert "warning:" not in capsys.readouterr().out
    samples = SinogramSlices([scan], "scan")
    sample, net = collate([samples[0]]), load_weights("body-ct")
    assert isinstance(net, CorrectedTV) and net.pixel_weight == 2.4
    of_tv = net.inputs(sample.measurement, sample.operator, sample.noise_std)[0, 0] * sample.scale
    with h5py.File(out) as file:
        image = torch.from_numpy(file["reconstruction"][0])
    errors = [float((found - truth[0]).square().mean()) for found in (image, of_tv)]
    assert errors[0] < 0.9 * errors[1]
    write_sinograms(scan, grid, geometry, counts=counts, photons=9e4, electronic_noise=10.0)
    assert main(["reconstruct", "--weights", "body-ct", str(scan), "--out", str(out), "--overwrite"]) == 0
    assert "warning: photons 9e+04, expected at least 100000 for body-ct; compare" in capsys.readouterr().out
    part = FanBeam(geometry.angles[:60], 160, 4.5, 570.0, 1026.0)
    write_sinograms(scan, grid, part, counts=counts[:, :60], photons=1e5, electronic_noise=10.0)
    assert main(["reconstruct", "--weights", "body-ct", str(scan), "--out", str(out), "--overwrite"]) == 0
    assert "warning: degrees 270, expected at least 350 for body-ct; compare" in capsys.readouterr().out
    assert open_weights("body-ct").beyond(matrix=257, photons=1e5) == ["matrix 257, expected at most 256"]


def test_a_wrong_mixture_of_options_is_one_line(
    weights: str, scan: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    to = ("--out", tmp_path / "out.h5")
    assert "run: a run folder or --weights, not both" in fails("reconstruct", "--weights", weights, "run", scan, *to)
    for option in (("--site", "north"), ("--simulate",)):
        assert f"{option[0]}: belongs to a run" in fails("reconstruct", "--weights", weights, scan, *to, *option)
    assert "--site: missing; name a site of the run" in fails("reconstruct", "run", scan, *to)
    assert "--format: goes with --weights" in fails("reconstruct", "run", "--site", "a", scan, *to, "--format", "x")
    named = ("reconstruct", "--weights", weights, scan, *to, "--format", "fastmry")
    assert "--format: found 'fastmry', expected one of fastmri" in (error := fails(*named)) and "did you mean" in error
    assert "did you mean 'head-test'" in fails("reconstruct", "--weights", "head-tst", scan, *to)
    assert "nothing.h5" in fails("reconstruct", "--weights", weights, tmp_path / "nothing.h5", *to)
    with pytest.raises(SystemExit):
        main(["reconstruct", "run", "--site", "north", "--out", "out.h5"])
    assert not (tmp_path / "out.h5").exists()


def test_weights_are_listed_and_their_card_is_printed(
    weights: str, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    assert main(["weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(STARTER_WEIGHTS)
    line = next(line for line in lines if line.startswith(weights))
    count = sum(parameter.numel() for parameter in SETTINGS.build().parameters())
    assert f"Small heads; mri, {count} parameters, " in line and line.endswith("head-test.md")
    assert main(["weights", weights]) == 0
    assert capsys.readouterr().out == "# head-test\n"
    assert "did you mean 'head-test'" in fails("weights", "head-tst")


@pytest.mark.slow
def test_training_starts_from_weights_and_from_a_run(
    weights: str, sites: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    out, options = tmp_path / "run", []
    for override in ("federation.rounds=1", "training.steps_per_round=1", "evaluation.arms=[]"):
        options += ["--set", override]
    command = ["train", "fedavg", "--sites", str(sites), "--jobs", "1", *options]
    assert main([*command, "--out", str(out), "--start-from", weights]) == 0
    assert main([*command, "--out", str(tmp_path / "onward"), "--start-from", str(out)]) == 0
    first = {row["loaded_digest"] for row in rows(tmp_path / "onward") if row["round"] == 0}
    assert len(first) == 1 and first < {row["loaded_digest"] for row in rows(out)}
    scan, image = next((sites / "data").rglob("*_test_000.h5")), tmp_path / "image.h5"
    site = next(iter(sites.glob("*.toml"))).stem
    assert main(["reconstruct", str(out), "--site", site, str(scan), "--out", str(image)]) == 0
    assert "did you mean 'head-test'" in fails(*command, "--out", tmp_path / "no", "--start-from", "head-tst")
    assert not (tmp_path / "no").exists()


def rows(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
