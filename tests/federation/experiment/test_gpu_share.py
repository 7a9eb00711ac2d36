"""Memory of GPUs: what a site needs is known beforehand, and sites that share a GPU wait for room; without a GPU."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from federation import load_federation, load_recipe, make_ct_demo_sites, make_demo_sites, train_run
from federation.cli import main
from federation.config import ConfigError
from federation.experiment import Planning, gpu_share
from federation.experiment.gpu_need import gpu_need
from federation.experiment.gpu_share import GpuShare, cards_of, free_memory
from federation.experiment.live_tensors import LiveTensors
from federation.experiment.plan import Plan
from federation.experiment.run_folder import RunFolder
from federation.experiment.site_cost import SiteCost
from federation.experiment.task import ReconstructionTask
from federation.machine import CUDA_CONTEXT
from federation.recipes.recipe_library import LIBRARY
from federation.sites import CT_DEMO_SITES, DEMO_SITES
from physics import CartesianMRI, FanBeam, ImageGrid, NonCartesianMRI, RadonOperator, evenly_spaced, gpu_memory
from physics.ct import rays as rays_module
from physics.ct.fbp import plain_backprojection_memory
from physics.ct.rays import backproject_reference, plain_memory, project_reference, trace
from recon import DataError, train_locally

from ..fake_sites import write_site

TINY = (
    "network.cascades=1", "network.regularizer=cnn", "network.channels=2", "network.depth=2",
    "training.steps_per_round=2", "federation.rounds=2", "personal.steps=1", "evaluation.arms=['zero_filled', 'local']",
)  # fmt: skip
CARD = "cuda:0"


def test_live_tensors_count_what_lives_at_the_same_time() -> None:
    count = 2**16
    x = torch.ones(count, requires_grad=True)
    with LiveTensors() as live:
        y = x
        for _ in range(5):
            y = y.sigmoid()  # the backward pass needs its result
        y.sum().backward()
    # x, five results, and in the backward pass the gradient before and after a layer.
    assert live.peak == pytest.approx(8 * 4 * count, abs=4096) and live.largest == 4 * count
    with LiveTensors() as live, torch.no_grad():
        y = x
        for _ in range(5):
            y = y.sigmoid()
        assert y[:7].clone().shape == (7,)  # a view has no memory of its own
    assert live.peak == pytest.approx(3 * 4 * count, abs=4096)


GRID = ImageGrid((60, 50), 4.0)
SCAN = FanBeam(evenly_spaced(90, 2 * math.pi / 90), 75, 6.0, 400.0, 640.0)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("at_once", [2**12, 2**24])
def test_ct_in_plain_torch_stays_within_its_bound(batch: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physics.ct.fbp._VALUES_AT_ONCE", at_once)
    monkeypatch.setattr(rays_module, "_PIXELS_AT_ONCE", at_once)
    from physics.ct.fbp import _plan

    sinogram, image, plan = torch.rand(batch, *SCAN.shape), torch.rand(batch, *GRID.shape), _plan(SCAN, GRID)
    with LiveTensors() as live:
        plan.backproject_reference(sinogram)
    bound = plain_backprojection_memory(SCAN, GRID, batch, 4)
    assert live.peak - sinogram.nbytes < bound
    assert at_once < 2**24 or live.peak > 0.4 * bound  # filtering needs more than small parts
    table, bound = trace(GRID, SCAN.rays, ordered=False), plain_memory(GRID.shape, math.prod(SCAN.shape), batch, 4)
    for project, argument in ((project_reference, image), (backproject_reference, sinogram)):
        with LiveTensors() as live:
            project(table, argument)
        assert 0.2 * bound < live.peak - argument.nbytes < bound


def test_operators_bound_what_they_need_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.ones(5, 24, 20, dtype=torch.complex64)
    cartesian = CartesianMRI(maps, torch.ones(20))
    assert cartesian.gpu_memory() >= 8 * maps.nbytes and cartesian.gpu_memory(3) == 3 * cartesian.gpu_memory()
    radial = NonCartesianMRI(maps, torch.rand(2, 3, 2, dtype=torch.float64) - 0.5)
    assert radial.gpu_memory() >= 8 * maps.nbytes  # however few samples there are
    radon = RadonOperator(GRID, SCAN)
    monkeypatch.setattr("physics.ct.radon.find_spec", lambda name: object())
    kernels = radon.gpu_memory(2)
    assert kernels == gpu_memory(GRID, SCAN, 2) + plain_backprojection_memory(SCAN, GRID, 2, 4)
    monkeypatch.setattr("physics.ct.radon.find_spec", lambda name: None)
    assert radon.gpu_memory(2) >= plain_memory(GRID.shape, math.prod(SCAN.shape), 2, 4)


def task_of(folder: Path, *overrides: str, modality: str = "mri", size: int = 32) -> ReconstructionTask:
    sites = folder / f"{modality}{size}"
    make, known = (make_demo_sites, DEMO_SITES) if modality == "mri" else (make_ct_demo_sites, CT_DEMO_SITES)
    if not sites.exists():
        make(sites, size=size, train=1, validation=1, test=1, slices=2, sites=known[:1])
    path = LIBRARY / ("fedavg.toml" if modality == "mri" else "demos/fedavg_ct.toml")
    (manifest,) = load_federation(sites)
    return ReconstructionTask(manifest, load_recipe(path, overrides), folder / "maps")


def saved_bytes(task: ReconstructionTask) -> int:
    """Bytes that a training step keeps for its backward pass."""
    network, kept = task.network(), dict[int, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        train_locally(network, [task.dataset("train")[0]], steps=1, batch_size=1, learning_rate=1e-3)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_the_need_covers_what_a_step_keeps_and_grows_with_slices_batch_and_network(
    tmp_path: Path, modality: str
) -> None:
    task = task_of(tmp_path, modality=modality)
    state, need = torch.get_rng_state(), gpu_need(task)
    assert isinstance(need, int) and torch.equal(torch.get_rng_state(), state)
    assert need == gpu_need(task) and need >= CUDA_CONTEXT + saved_bytes(task)
    for other in (
        task_of(tmp_path, "training.batch_size=4", modality=modality),
        task_of(tmp_path, "network.cascades=12", modality=modality),
        task_of(tmp_path, modality=modality, size=64),
    ):
        found = gpu_need(other)
        assert isinstance(found, int) and found > need + 10**6


def test_the_need_counts_the_largest_slices_private_steps_and_names_what_fails(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    private = ["privacy.noise_multiplier=1", "privacy.clip=0.1", "privacy.patients_per_step=1", "privacy.delta=1e-3"]
    assert isinstance(gpu_need(task_of(tmp_path, *private)), int)
    large = task_of(tmp_path, size=64)
    small = tmp_path / "small.h5"
    small.write_bytes(task.manifest.files("train")[0].read_bytes())
    both = large.manifest.data.model_copy(update={"train": (str(small), *large.manifest.data.train)})
    mixed = replace(large, manifest=large.manifest.model_copy(update={"data": both}))
    assert gpu_need(mixed) == pytest.approx(gpu_need(large), rel=1e-3)
    on_a_gpu = replace(task, manifest=task.manifest.model_copy(update={"device": "cuda:7"}))
    assert gpu_need(on_a_gpu) == gpu_need(task)  # no GPU is used
    task.manifest.files("train")[0].unlink()
    assert "DataError" in str(gpu_need(task))


def share(**needs: int) -> GpuShare:
    return GpuShare(dict.fromkeys(needs, CARD), needs, {CARD: 10 * 10**9})


def test_as_many_of_the_largest_as_fit_compute_at_a_time_and_at_least_one() -> None:
    assert share(a=10**9, b=3 * 10**9).at_once == {CARD: 3}
    assert share(a=11 * 10**9).at_once == {CARD: 1}
    lines = share(a=10**9, b=3 * 10**9).lines()
    assert lines == ["  cuda:0: at most a 1.0 GB, b 3.0 GB; 10.0 GB free, room for 3 at a time"]
    two = GpuShare({"a": CARD, "b": "cuda:1"}, {"a": 10**9, "b": 10**9}, {CARD: 10**9, "cuda:1": 2 * 10**9})
    assert two.at_once == {CARD: 1, "cuda:1": 2}
    assert not two.queue.has_room("a", ["a", "b"]) and two.queue.has_room("b", ["a", "b"])


def test_a_site_that_does_not_fit_alone_is_one_line(tmp_path: Path) -> None:
    write_site(tmp_path)
    (manifest,) = load_federation(tmp_path)
    share(north=10 * 10**9).require_room([manifest])
    with pytest.raises(ConfigError) as error:
        share(north=11 * 10**9).require_room([manifest])
    text = str(error.value)
    assert text.startswith(f"{manifest.path}: device: found 10.0 GB free on cuda:0, expected 11.0 GB, the most that ")
    assert 'smaller slices, fewer cascades or a smaller batch, or device = "cpu"' in text and "\n" not in text


def test_the_time_of_a_plan_is_that_of_the_queue() -> None:
    cost = SiteCost("a", 0.0, 1.0, 0.0, 0.0, 0, 10**9, {"train": 100}, (1000, 1200))
    recipe = load_recipe("fedavg", ["training.steps_per_round=10", "federation.rounds=3", "evaluation.arms=[]"])
    costs = tuple(replace(cost, site=site) for site in "abc")
    plan = Plan(recipe, costs, frozenset("abc"), 3, {}, gpus=None)
    assert plan.seconds["rounds"] == pytest.approx(30)
    one = replace(plan, gpus=GpuShare({"a": CARD, "b": CARD}, {"a": 6, "b": 5}, {CARD: 10}))
    assert one.seconds["rounds"] == pytest.approx(60)  # a, then b; c beside them
    assert "  cuda:0: at most a 1 MB, b 1 MB; 1 MB free, room for 1 at a time" in one.lines(4)
    assert replace(one, gpus=replace(one.gpus, free={CARD: 12})).seconds["rounds"] == pytest.approx(30)


class Card:
    """A GPU of so many free bytes, on which the sites compute as on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.asked = 0
        monkeypatch.setattr(gpu_share, "card_of", lambda manifest: CARD)
        for place in ("planning", "run_folder"):
            monkeypatch.setattr(f"federation.experiment.{place}.free_memory", self.ask)
        self.free = free

    def ask(self, cards: Iterable[str]) -> dict[str, int]:
        self.asked += 1
        assert set(cards) == {CARD}
        return {CARD: self.free}


def states_of(run: RunFolder) -> dict[str, Tensor]:
    found = dict(run.selected().shared)
    for manifest in run.manifests:
        local = run.selected(local=manifest.name).shared
        found |= {f"{manifest.name} {name}": tensor for name, tensor in local.items()}
    return found


@pytest.mark.slow
def test_no_bit_of_a_run_depends_on_the_room_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("north", "south", "west"):
        write_site(tmp_path / "sites", name)
    recipe, sites = load_recipe("fedavg", TINY), load_federation(tmp_path / "sites")

    def trained(name: str) -> RunFolder:
        planning = Planning(fixed_jobs=True, always=True)
        return train_run(recipe, sites, tmp_path / name, jobs=3, resume=False, say=said.append, planning=planning)

    said: list[str] = []
    expected = states_of(trained("cpu"))
    assert not any(CARD in line for line in said)
    for free, at_once in ((600 * 10**6, 1), (1700 * 10**6, 3)):
        with monkeypatch.context() as patch:
            card, said = Card(patch, free), []
            run = trained(f"card {at_once}")
            assert run.queue(["north", "west"]).most == {CARD: at_once}
            assert card.asked == 1
            assert main(["evaluate", str(run.path), "--jobs", "2", "--quiet"]) == 0
            assert card.asked == 2
        assert any(f"room for {at_once} at a time" in line for line in said)
        record = json.loads((run.path / "run.json").read_text())
        assert record["gpu_at_once"] == {CARD: at_once} and record["gpu_memory"].keys() == {"north", "south", "west"}
        found = states_of(run)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_run_that_does_not_fit_on_its_gpu_is_refused_and_leaves_its_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_site(tmp_path / "sites")
    recipe, sites = load_recipe("fedavg", TINY), load_federation(tmp_path / "sites")
    Card(monkeypatch, 400 * 10**6)
    for jobs in (1, 2):
        with pytest.raises(ConfigError, match=r"device: found 0\.4 GB free on cuda:0, expected 0\.5 GB, the most that"):
            train_run(
                recipe, sites, tmp_path / "run", jobs=jobs, resume=False, say=str, planning=Planning(fixed_jobs=True)
            )
        assert not (tmp_path / "run" / "run.json").exists()
    sets = [word for override in TINY for word in ("--set", override)]
    assert main(["plan", "fedavg", "--sites", str(tmp_path / "sites"), "--jobs", "1", *sets]) == 2
    assert "the most that site north needs" in capsys.readouterr().err
    Card(monkeypatch, 5 * 10**9)
    assert main(["plan", "fedavg", "--sites", str(tmp_path / "sites"), "--jobs", "1", "--quiet", *sets]) == 0
    assert "cuda:0: at most north 0.5 GB; 5.0 GB free, room for" in capsys.readouterr().out


def test_a_run_that_was_not_measured_has_one_site_at_a_time_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_site(tmp_path / "sites")
    recipe, sites = load_recipe("fedavg", TINY), load_federation(tmp_path / "sites")
    assert cards_of(sites) == {}
    run = RunFolder.create(tmp_path / "run", recipe, sites, resume=False)
    card = Card(monkeypatch, 10**9)
    assert run.queue(["north"]).most == {CARD: 1}
    run.renew_queue(["north"])
    assert card.asked == 0  # nothing is known of its needs
    run.record_gpus(GpuShare({"north": CARD}, {"north": 10**8}, {CARD: 10**9}))
    assert run.queue(["north"]).most == {CARD: 10}
    card.free = 3 * 10**8
    run.renew_queue(["north"])
    assert run.queue(["north"]).most == {CARD: 3}
    # A resumed run remembers.
    assert RunFolder.create(tmp_path / "run", recipe, sites, resume=True).queue(["north"]).most == {CARD: 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_does_not_answer_is_one_line() -> None:
    assert free_memory([]) == {}
    with pytest.raises(DataError, match=r"^cuda:0: does not say how much of its memory is free \(.*give its sites"):
        free_memory([CARD])


@pytest.mark.cuda
@pytest.mark.parametrize("modality", ["mri", "ct"])
@pytest.mark.parametrize("size", [64, 192])
def test_the_need_bounds_what_a_gpu_gives_out(tmp_path: Path, modality: str, size: int) -> None:
    task = task_of(tmp_path, modality=modality, size=size)
    need = gpu_need(task)
    on_gpu = replace(task, manifest=task.manifest.model_copy(update={"device": "cuda"}))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    network = on_gpu.network()
    with on_gpu.at_work(network):
        train_locally(network, [task.dataset("train")[0]], steps=2, batch_size=1, learning_rate=1e-3)
    on_gpu.validate(network)
    assert isinstance(need, int)
    assert torch.cuda.max_memory_reserved() <= need - CUDA_CONTEXT
    (free,) = free_memory([CARD]).values()
    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory
