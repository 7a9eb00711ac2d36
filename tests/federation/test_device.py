"""The device of a site: what a manifest may say, where networks lie, the same results from a GPU as from the CPU."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from federation import CT_DEMO_SITES, DEMO_SITES, ConfigError, load_manifest, make_ct_demo_sites, make_demo_sites
from federation.cli import main
from federation.experiment import RunFolder
from federation.recipe import load_recipe
from federation.store import load_checkpoint, saved_rounds
from federation.task import ReconstructionTask
from recon import DataError

from .fake_sites import write_site

RECIPES = Path(__file__).parents[2] / "scripts" / "recipes"
TINY = [
    "--set", "network.channels=4", "--set", "network.cascades=2", "--set", "federation.rounds=2",
    "--set", "training.steps_per_round=3", "--set", "evaluation.arms=['local']",
]  # fmt: skip


def with_device(path: Path, device: str) -> Path:
    path.write_text(f'device = "{device}"\n' + path.read_text())
    return path


@pytest.mark.parametrize("device", ["gpu", "cuda:", "CPU", "mps", "cuda:0,1"])
def test_a_device_that_is_none_is_one_line(tmp_path: Path, device: str) -> None:
    path = with_device(write_site(tmp_path), device)
    with pytest.raises(ConfigError) as error:
        load_manifest(path)
    expected = f"{path}: device: found '{device}', expected cpu, cuda, or one of several GPUs: cuda:0, cuda:1, ..."
    assert str(error.value) == expected


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_device_that_the_machine_lacks_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str, count: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    sites = tmp_path / "sites"
    path = with_device(write_site(sites), device)
    out = tmp_path / "run"
    assert main(["train", str(RECIPES / "fedavg.toml"), "--sites", str(sites), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert (
        f"{path}: device: found '{device}' where PyTorch sees {count} GPUs, expected a device of this machine" in said
    )
    assert not out.exists()


class Traveller(nn.Module):
    """Remembers where it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def to(self, device: object) -> "Traveller":  # type: ignore[override]
        self.sent.append(str(device))
        return self


def test_a_network_is_at_the_device_for_its_work_and_comes_back_from_any_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    path = write_site(tmp_path)
    recipe, network = load_recipe(RECIPES / "fedavg.toml"), Traveller()
    with ReconstructionTask(load_manifest(path), recipe, tmp_path).at_work(network):
        assert network.sent == []  # as before where the manifest says nothing
    task = ReconstructionTask(load_manifest(with_device(path, "cuda:1")), recipe, tmp_path)
    with task.at_work(network):
        assert network.sent == ["cuda:1"] and not torch.backends.cudnn.allow_tf32
    assert network.sent == ["cuda:1", "cpu"]
    with pytest.raises(DataError) as error, task.at_work(network):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n20 GiB")
    assert f"{path}: device: the memory of cuda:1 does not suffice; lower training.batch_size" in str(error.value)
    assert "\n" not in str(error.value) and network.sent[-1] == "cpu"


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("modality", "recipe"),
    [
        ("mri", "fedavg_finetune"),
        ("mri", "scaffold"),
        ("mri", "gautomri"),
        ("mri", "fedmri"),
        ("ct", "demos/fedavg_ct"),
    ],
)
def test_a_run_on_a_gpu_scores_what_one_on_the_cpu_does(tmp_path: Path, modality: str, recipe: str) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        sites, out = tmp_path / device / "sites", tmp_path / device / "run"
        if modality == "mri":
            make_demo_sites(sites, size=48, train=2, validation=1, test=1, slices=2, sites=DEMO_SITES[:2])
        else:
            make_ct_demo_sites(sites, size=48, train=2, validation=1, test=1, slices=2, sites=CT_DEMO_SITES[:2])
        for path in sites.glob("*.toml"):
            with_device(path, device)
        command = ["train", str(RECIPES / f"{recipe}.toml"), "--sites", str(sites), "--out", str(out), "--jobs", "1"]
        assert main([*command, *TINY]) == 0 and main(["evaluate", str(out), "--jobs", "1"]) == 0
        arms = json.loads((out / "report.json").read_text())["arms"]
        found[device] = {arm: {site: s["psnr"] for site, s in each["sites"].items()} for arm, each in arms.items()}
        run = RunFolder.open(out)
        for manifest in run.participants:
            folder = run.spec(manifest).folder
            tensors = load_checkpoint(folder, saved_rounds(folder)[-1]).tensors
            assert tensors and all(tensor.device.type == "cpu" for tensor in tensors.values())
    assert found["cpu"].keys() == found["cuda"].keys() and len(found["cpu"]) >= 2
    for arm, scores in found["cpu"].items():
        assert len(scores) == 2 and found["cuda"][arm] == pytest.approx(scores, abs=0.05)
