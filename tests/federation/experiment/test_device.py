"""The device of a site: valid values, the place of networks, the same results on a GPU as on the CPU."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from federation import ConfigError, load_manifest, make_ct_demo_sites, make_demo_sites
from federation.cli.main import main
from federation.experiment.task import ReconstructionTask
from federation.recipes.recipe import load_recipe
from federation.recipes.recipe_library import LIBRARY
from federation.sites import CT_DEMO_SITES, DEMO_SITES
from recon import DataError

from ..fake_sites import write_site

RECIPES = LIBRARY
TINY = [
    "--set", "network.channels=4", "--set", "network.cascades=2", "--set", "federation.rounds=2",
    "--set", "training.steps_per_round=3", "--set", "evaluation.arms=['local']",
]  # fmt: skip


def with_device(path: Path, device: str) -> Path:
    path.write_text(f'device = "{device}"\n' + path.read_text())
    return path


@pytest.mark.parametrize("device", ["gpu", "cuda:", "CPU", "mps", "cuda:0,1", "cuda:01", "cuda:256", "cuda:\u0661"])
def test_a_device_that_is_none_is_one_line(tmp_path: Path, device: str) -> None:
    path = with_device(write_site(tmp_path), device)
    with pytest.raises(ConfigError) as error:
        load_manifest(path)
    expected = f"{path}: device: found '{device}', expected cpu, cuda, or one of several GPUs: cuda:0, cuda:1, ..."
    assert str(error.value) == expected


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_device_that_the_machine_lacks_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str, count: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    sites = tmp_path / "sites"
    path = with_device(write_site(sites), device)
    out = tmp_path / "run"
    assert main(["train", str(RECIPES / "fedavg.toml"), "--sites", str(sites), "--out", str(out)]) == 2
    found = f"'{device}' where PyTorch sees {count} GPU{'s' if count == 0 else ''}"
    assert f"{path}: device: found {found}, expected a device of this machine" in capsys.readouterr().err
    assert not out.exists()


class Traveller(nn.Module):
    """Records its devices; raises the given error on the way to a device, or at work."""

    def __init__(self, on_the_way: Exception | None = None, at_work: Exception | None = None) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.on_the_way, self.at_work = on_the_way, at_work

    def to(self, device: object) -> "Traveller":  # type: ignore[override]
        self.sent.append(str(device))
        if self.on_the_way is not None and device != "cpu":
            raise self.on_the_way
        return self

    def work(self) -> None:
        if self.at_work is not None:
            raise self.at_work


def test_a_network_is_at_the_device_for_its_work_and_comes_back_from_any_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    path = write_site(tmp_path)
    recipe, network = load_recipe(RECIPES / "fedavg.toml"), Traveller()
    with ReconstructionTask(load_manifest(path), recipe, tmp_path).at_work(network):
        assert network.sent == []  # without the key
    task = ReconstructionTask(load_manifest(with_device(path, "cuda:1")), recipe, tmp_path)
    with task.at_work(network):
        assert network.sent == ["cuda:1"] and not torch.backends.cudnn.allow_tf32
    assert network.sent == ["cuda:1", "cpu"]
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n20 GiB")
    broken = RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")
    for failure, network in (
        (full, Traveller(at_work=full)),
        (full, Traveller(on_the_way=full)),
        (broken, Traveller(at_work=broken)),
    ):
        with pytest.raises(DataError) as error, task.at_work(network):
            network.work()
        assert str(error.value).startswith(
            f"{path}: device: failed (cuda:1: {str(failure).splitlines()[0]}); run fewer"
        )
        assert "\n" not in str(error.value) and network.sent[-1] == "cpu"
    # Others' errors stay what they are.
    for other in (RuntimeError("two tensors differ in shape"), DataError("diverged")):
        network = Traveller(at_work=other)
        with pytest.raises(type(other), match=str(other)), task.at_work(network):
            network.work()
        assert network.sent[-1] == "cpu"


@pytest.mark.slow
def test_all_that_a_network_does_at_a_site_is_at_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_work: list[nn.Module] = []
    done: set[str] = set()

    @contextmanager
    def recorded(self: ReconstructionTask, method: nn.Module) -> Iterator[None]:
        at_work.append(method)
        yield
        at_work.pop()

    def watch(module: str, name: str) -> None:
        original = getattr(import_module(module), name)

        def watched(method: nn.Module, *args: object, **kwargs: object) -> object:
            if any(True for _ in method.parameters()):
                assert at_work[-1:] == [method], f"{module}.{name} outside at_work"
                done.add(name)
            return original(method, *args, **kwargs)

        monkeypatch.setattr(f"{module}.{name}", watched)

    monkeypatch.setattr(ReconstructionTask, "at_work", recorded)
    watch("federation.experiment.task", "train_locally")
    for module in ("task", "classical_arms", "score_site", "reconstruction"):
        watch(f"federation.experiment.{module}", "evaluate")
    watch("recon.modalities.ct", "measure_quality")
    watch("federation.experiment.method", "reconstruct")
    sites, out = tmp_path / "sites", tmp_path / "run"
    make_ct_demo_sites(sites, size=48, train=1, validation=1, test=1, slices=1, sites=CT_DEMO_SITES[:2])
    recipe = str(RECIPES / "demos" / "fedavg_ct.toml")
    command = ["train", recipe, "--sites", str(sites), "--out", str(out), "--jobs", "1", "--set", "personal.steps=2"]
    assert main([*command, *TINY]) == 0 and main(["evaluate", str(out), "--jobs", "1"]) == 0
    manifest = load_manifest(next(iter(sorted(sites.glob("*.toml")))))
    scan, image = str(manifest.files("test")[0]), str(tmp_path / "image.h5")
    assert main(["reconstruct", str(out), "--site", manifest.name, scan, "--out", image]) == 0
    assert done == {"train_locally", "evaluate", "measure_quality", "reconstruct"}
    # Evaluation on a machine without the device fails at once.
    with_device(manifest.path, "cuda:99")
    assert main(["evaluate", str(out), "--jobs", "1"]) == 2
    assert "device: found 'cuda:99' where PyTorch sees" in capsys.readouterr().err


def allocations() -> int:
    """Pieces of a GPU's memory that this process has asked for until now."""
    return int(torch.cuda.memory_stats().get("allocation.all.allocated", 0))


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
        before = allocations()
        assert main([*command, *TINY]) == 0 and main(["evaluate", str(out), "--jobs", "1"]) == 0
        assert (allocations() > before) == (device == "cuda")
        arms = json.loads((out / "report.json").read_text())["arms"]
        found[device] = {arm: {site: s["psnr"] for site, s in each["sites"].items()} for arm, each in arms.items()}
    assert found["cpu"].keys() == found["cuda"].keys() and len(found["cpu"]) >= 2
    for arm, scores in found["cpu"].items():
        assert len(scores) == 2 and found["cuda"][arm] == pytest.approx(scores, abs=0.05)
