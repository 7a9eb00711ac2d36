"""`fedrecon import-weights`: weights of fastMRI reconstruct a scan and are the base of federated adapters."""

import hashlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fastmri.models import Unet
from fastmri.models import VarNet as FastMRIVarNet
from safetensors.torch import save_file
from torch import Tensor

from federation import ConfigError, build_network, load_federation, load_recipe, make_demo_sites
from federation.attacks.small_task import SmallTask
from federation.cli.main import main
from federation.experiment import ReconstructionTask, RunFolder
from federation.methods import parameter_scope, selected_state
from federation.recipes import attach_base, detach_base
from federation.sites import CT_DEMO_SITES, SimulatedSite, make_ct_demo_sites
from physics import birdcage_maps, correlated_noise, fft2c, phantom_volume
from recon import (
    Header,
    Simulation,
    center_crop,
    coil_covariance,
    import_varnet,
    is_adapter,
    load_weights,
    open_weights,
    save_weights,
    write_kspace,
)

SHORT = ["--set", "federation.rounds=2", "--set", "training.steps_per_round=2", "--set", "evaluation.arms=[]"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("fastmri") / "knee.pt"
    torch.save(FastMRIVarNet(num_cascades=2, sens_chans=2, sens_pools=2, chans=2, pools=2).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def base(source: Path) -> Path:
    assert main(["import-weights", str(source), "--title", "Knees"]) == 0
    return source.with_suffix(".safetensors")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    scanners = [SimulatedSite(name, 2, "t1", Simulation("random", 2, 0.2, noise_std=0.01)) for name in ("east", "west")]
    make_demo_sites(folder, size=32, train=1, validation=1, test=1, slices=1, sites=scanners)
    return folder


def test_weights_and_card_are_written_once(source: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = open_weights(base)
    assert (file.title, file.modality, file.network["architecture"]) == ("Knees", "mri", "varnet")
    assert hashlib.sha256(source.read_bytes()).hexdigest() in file.card.read_text()
    assert main(["weights", str(base)]) == 0
    assert capsys.readouterr().out.startswith("# knee.safetensors: Knees\n")
    assert main(["import-weights", str(source)]) == 2
    assert f"{base}: --out: found a file, expected a new name; choose another --out" in capsys.readouterr().err
    assert main(["import-weights", str(source), "--out", "knee.h5"]) == 2
    assert "knee.h5: --out: found the end '.h5', expected the end .safetensors" in capsys.readouterr().err
    assert main(["import-weights", str(base), "--out", str(base.with_name("again.safetensors"))]) == 2
    assert f"{base}: " in (printed := capsys.readouterr().err) and "fastmri.models.VarNet" in printed
    assert not base.with_name("again.safetensors").exists()
    same = source.with_name("same.safetensors")
    save_file(torch.load(source), same)
    before = same.read_bytes()
    assert main(["import-weights", str(same), "--overwrite"]) == 2
    printed = capsys.readouterr().err
    assert "found FILE itself, expected a new name" in printed or "file: found" in printed  # before torch 2.14
    assert same.read_bytes() == before


def test_a_scan_is_reconstructed_as_by_fastmri(source: Path, base: Path, sites: Path, tmp_path: Path) -> None:
    scan = tmp_path / "scan.h5"
    with h5py.File(next((sites / "data").rglob("*_test_000.h5"))) as file, h5py.File(scan, "w") as out:
        mask = np.arange(32) % 2 == 0
        mask[12:20] = True
        kspace = (file["kspace"][:] * mask).astype(np.complex64)
        out["kspace"], out["mask"] = kspace, mask.astype(np.float32)
        out["noise_covariance"] = 1e-6 * np.eye(kspace.shape[1])  # white: the coils of the sample are those of the file
        out["ismrmrd_header"] = file["ismrmrd_header"][()]
        out.attrs["acquisition"] = "AXT1"
    image = tmp_path / "image.h5"
    assert main(["reconstruct", "--weights", str(base), str(scan), "--out", str(image)]) == 0
    peer = FastMRIVarNet(num_cascades=2, sens_chans=2, sens_pools=2, chans=2, pools=2).eval()
    peer.load_state_dict(torch.load(source, weights_only=True))
    with torch.no_grad():
        expected = peer(torch.view_as_real(torch.tensor(kspace)), torch.tensor(mask)[None, None, None, :, None]).numpy()
    with h5py.File(image) as file:
        found = file["reconstruction"][:]
    # The maps of the scan are zero outside the head, as is the image; inside, their RSS is one but for 3e-4.
    inside = found > 0
    assert inside.mean() > 0.3
    assert np.abs(found - expected)[inside].max() < 1e-3 * expected.max()


def raw_scan(path: Path, *, undersampled: bool = True) -> tuple[Tensor, Tensor]:
    """k-space of 14 coils with correlated noise and an oversampled readout, written to a file; and its mask."""
    shape, shown = (96, 44), (48, 40)
    image = torch.zeros(2, *shape, dtype=torch.complex64)
    image[:, 24:72] = phantom_volume(2, (48, 44), seed=1)
    covariance = 1e-4 * coil_covariance(14, seed=2)
    assert (covariance - covariance.diagonal().diag()).abs().max() > 1e-6  # its coils are correlated
    noise = correlated_noise((2, 14, *shape), covariance, torch.Generator().manual_seed(3)).to(torch.complex64)
    mask = torch.ones(44, dtype=torch.bool)
    if undersampled:
        mask = torch.arange(44) % 2 == 0
        mask[16:28] = True
    kspace = (fft2c(birdcage_maps(14, shape, seed=4) * image[:, None]) + noise) * mask
    fields = {"encoded_fov_mm": (288.0, 132.0), "recon_fov_mm": (144.0, 120.0)}
    header = Header(shape, shown, (0, 44), **fields)
    write_kspace(path, kspace, mask if undersampled else None, header=header, noise=covariance, patient_id=path.stem)
    return kspace, mask


def of_fastmri(source: Path, kspace: Tensor, mask: Tensor, shown: tuple[int, int]) -> np.ndarray:
    peer = FastMRIVarNet(num_cascades=2, sens_chans=2, sens_pools=2, chans=2, pools=2).eval()
    peer.load_state_dict(torch.load(source, weights_only=True))
    with torch.no_grad():
        return center_crop(peer(torch.view_as_real(kspace), mask[None, None, None, :, None]), shown).numpy()


def largest_difference(image: Path, expected: np.ndarray) -> float:
    """Of the picture of a command, over the maximum, where the maps are not zero, which is more than the object."""
    with h5py.File(image) as file:
        found = file["reconstruction"][:]
    inside = found > 0
    assert inside.mean() > 0.3
    return float(np.abs(found - expected)[inside].max() / expected.max())


def test_a_scan_of_correlated_coils_is_reconstructed_as_by_fastmri(source: Path, base: Path, tmp_path: Path) -> None:
    scan, image, old = tmp_path / "scan.h5", tmp_path / "image.h5", tmp_path / "old.safetensors"
    kspace, mask = raw_scan(scan)
    expected = of_fastmri(source, kspace, mask, (48, 40))
    assert main(["reconstruct", "--weights", str(base), str(scan), "--out", str(image)]) == 0
    assert largest_difference(image, expected) < 1e-5
    # A network without the option takes the whitened, compressed coils of a sample.
    settings, network = import_varnet(source)
    options = {key: value for key, value in settings.architecture_options.items() if key != "raw_coils"}
    save_weights(network, old, replace(settings, architecture_options=options), "mri", "Whitened")
    assert main(["reconstruct", "--weights", str(old), str(scan), "--out", str(image), "--overwrite"]) == 0
    assert largest_difference(image, expected) > 0.05


def test_a_checkpoint_of_direct_reconstructs_a_scan(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = {"layers_list.0.learning_rate": torch.ones(1)}
    model |= {f"layers_list.0.regularizer_model.{name}": t for name, t in Unet(2, 2, 2, 2).state_dict().items()}
    checkpoint, image = tmp_path / "model_10.pt", tmp_path / "image.h5"
    torch.save({"model": model, "sensitivity_model": Unet(2, 2, 2, 2).state_dict(), "__author__": "me"}, checkpoint)
    raw_scan(tmp_path / "scan.h5")
    assert main(["import-weights", str(checkpoint)]) == 0
    weights = checkpoint.with_suffix(".safetensors")
    assert open_weights(weights).title == "VarNet of DIRECT, 1 cascade of 2 channels, from model_10.pt"
    assert main(["reconstruct", "--weights", str(weights), str(tmp_path / "scan.h5"), "--out", str(image)]) == 0
    with h5py.File(image) as file:
        assert file["reconstruction"].shape == (2, 48, 40)


def test_training_scoring_and_attacks_take_raw_coils_as_well(base: Path, tmp_path: Path) -> None:
    (tmp_path / "sites" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        raw_scan(tmp_path / "sites" / "data" / f"{split}.h5", undersampled=False)
    lines = 'name = "east"\n[data]\nroot = "data"\ntrain = ["train.h5"]\ntest = ["test.h5"]\ncompress_coils = 8\n'
    simulated = '[simulate]\nsampling = "random"\nacceleration = 2\ncenter_fraction = 0.3\n'
    (tmp_path / "sites" / "east.toml").write_text(lines + simulated)
    (manifest,) = load_federation(tmp_path / "sites")
    tasks = [
        ReconstructionTask(manifest, recipe, tmp_path / "maps")
        for recipe in (load_recipe("fedavg", start_from=base), load_recipe("fedavg"))
    ]
    for slices in (
        lambda task: task.dataset("train"),
        lambda task: task.dataset("test"),
        lambda task: task.measured("test"),
    ):
        raw, white = (slices(task)[0] for task in tasks)
        assert (raw.operator.range_shape, white.operator.range_shape) == ((14, 96, 44), (8, 48, 44))
        # The reference of a fully sampled scan is that of its maps, in the same units.
        assert torch.allclose(raw.target(), white.target(), atol=0.05)
    small = SmallTask(manifest, tasks[0].recipe, tmp_path / "maps")
    assert small.slices()[0].operator.range_shape == (14, 96, 44)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["med_lora", "fed_scales", "fedpr"])
def test_sites_train_adapters_on_the_base(base: Path, sites: Path, tmp_path: Path, recipe: str) -> None:
    out = tmp_path / "run"
    arguments = ["train", recipe, "--start-from", str(base), "--sites", str(sites), "--out", str(out), *SHORT]
    assert main(arguments) == 0
    run = RunFolder.open(out)
    network = build_network(run.recipe.network, run.manifest("east"))
    scope = parameter_scope(network, run.recipe.scope.rules())
    assert scope.shared and all(is_adapter(name) for name in scope.shared)
    assert all(name.startswith("consistency.") for name in scope.kept)
    trained, start = selected_state(out).shared, network.state_dict()
    assert trained.keys() == set(scope.shared)
    assert any(not torch.equal(tensor, start[name]) for name, tensor in trained.items())
    expected = load_weights(base).state_dict()
    assert all(torch.equal(start[name], expected[name.replace(".base.", ".")]) for name in scope.frozen)
    scan = next((sites / "data").rglob("*_test_000.h5"))
    image = tmp_path / "image.h5"
    assert main(["reconstruct", str(out), str(scan), "--site", "east", "--out", str(image)]) == 0


@pytest.mark.slow
def test_all_parameters_train_on_and_are_exported(base: Path, sites: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", "fedavg", "--start-from", str(base), "--sites", str(sites), "--out", str(out), *SHORT]) == 0
    shared = selected_state(out).shared
    assert any(name.startswith("sensitivity.") for name in shared)
    assert not any(name.startswith("consistency.") for name in shared)
    assert main(["weights", "export", str(out), "--out", str(tmp_path / "exported")]) == 0
    exported = load_weights(tmp_path / "exported" / "fedavg.safetensors").state_dict()
    assert all(torch.equal(exported[name], tensor) for name, tensor in shared.items())


def test_a_proposal_holds_the_base_by_its_digest(base: Path, tmp_path: Path) -> None:
    recipe = load_recipe("med_lora", start_from=base)
    sent, content = detach_base(recipe)
    assert content is not None and str(base) not in sent.to_toml()
    (tmp_path / "base").write_bytes(content)
    received = build_network(attach_base(sent, tmp_path / "base").network).state_dict()
    expected = import_varnet(base.with_suffix(".pt"))[1].state_dict()
    assert all(
        torch.equal(received[name.replace(".weight", ".base.weight")], tensor)
        for name, tensor in expected.items()
        if name.startswith("regularizers.0.bottom")
    )


def test_a_ct_site_is_refused_in_one_line(base: Path, tmp_path: Path) -> None:
    make_ct_demo_sites(tmp_path, size=32, train=1, validation=1, test=1, slices=1, sites=CT_DEMO_SITES[:1])
    (manifest,) = load_federation(tmp_path)
    section = load_recipe("med_lora", start_from=base).network
    with pytest.raises(
        ConfigError, match=r"recipe: network.architecture: found 'varnet' at the CT site .*, expected sites of MRI"
    ):
        build_network(section, manifest)
