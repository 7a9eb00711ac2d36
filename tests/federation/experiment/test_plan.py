"""The cost of a run: arithmetic on given seconds, measurement at a small site, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from federation import load_federation, load_recipe, train_run
from federation.cli import main
from federation.config import ConfigError
from federation.experiment import Planning
from federation.experiment.plan import Plan, fitting, require_room
from federation.experiment.site_cost import PrivateCost, SiteCost, measure_site
from federation.experiment.task import ReconstructionTask

from ..fake_sites import write_site

COST = SiteCost("a", 0.5, 2.0, 1.0, 7.0, 28_000_000, 10**9, {"train": 100, "validation": 16, "test": 8}, (1000, 1200))
TINY = (
    "network.cascades=1", "network.regularizer=cnn", "network.channels=2", "network.depth=2",
    "training.steps_per_round=2", "federation.rounds=2", "personal.steps=1", "evaluation.arms=['zero_filled', 'local']",
)  # fmt: skip
TIMED = (
    "training.steps_per_round=20",
    "federation.rounds=10",
    "personal.steps=30",
    "evaluation.arms=['local']",
)
ROUND = 0.5 + 20 * 2.0 + 16 * 1.0


def plan(*sites: str, jobs: int = 2, overrides: tuple[str, ...] = (), **changes) -> Plan:
    costs = tuple(replace(COST, site=site, maps=0.0) for site in sites)
    known = {"participants": frozenset(sites), "jobs": jobs, "rounds_done": {}} | changes
    return Plan(load_recipe("fedavg", [*TIMED, *overrides]), costs, **known)


def test_the_time_is_that_of_steps_and_validation_of_the_sites_at_once() -> None:
    found = plan("a", "b", "c").seconds
    assert found["rounds"] == pytest.approx(10 * 2 * ROUND + 2 * 16)  # three sites, two at a time
    assert found["local arm"] == pytest.approx(2 * (10 * ROUND + 16))
    assert found["personal stage"] == pytest.approx(3 * (2 * 0.5 + 2 * 16 + 30 * 2))
    assert plan("a", "b", "c", jobs=3).seconds["rounds"] == pytest.approx(10 * ROUND + 16)


def test_rounds_that_are_done_sites_in_turn_and_a_second_validation_count() -> None:
    half = plan("a", "b", rounds_done={"": 5, "a": 10}).seconds
    assert half["rounds"] == pytest.approx(5 * ROUND + 16)
    assert half["local arm"] == pytest.approx(10 * ROUND + 16)
    in_turn = plan("a", "b", overrides=("federation.schedule=cyclic",)).seconds
    assert in_turn["rounds"] == pytest.approx(10 * ROUND + 16)
    twice = plan("a", "b", overrides=("federation.weights=uncertainty",)).seconds
    assert twice["rounds"] == pytest.approx(10 * (ROUND + 16) + 16)
    part = plan("a", "b", "c", "d", overrides=("federation.participation=0.5",)).seconds
    assert part["rounds"] == pytest.approx(10 * ROUND + 2 * 16)


def test_private_steps_have_their_own_cost_in_the_rounds_and_nowhere_else() -> None:
    other = plan("a")
    private = replace(other, costs=(replace(other.costs[0], private=PrivateCost(6.0, 8.0)),))
    assert private.seconds["rounds"] == pytest.approx(10 * (0.5 + 20 * 6.0 + 16) + 16)
    assert {**private.seconds, "rounds": 0} == {**other.seconds, "rounds": 0}
    assert private.map_bytes == round(28e6 * (100 + 16))  # 160 slices a round, of 100
    assert "private step 6.0 s for about 8 slices; step 2.0 s, 100 training" in "\n".join(private.lines(1))


def test_maps_are_estimated_once_for_the_slices_that_are_read() -> None:
    with_maps = replace(plan("a"), costs=(COST,))
    read = 100 * (1 - 0.8**10) + 16
    assert with_maps.seconds["rounds"] - plan("a").seconds["rounds"] == pytest.approx((read - 3) * 7.0)
    assert with_maps.seconds["local arm"] == plan("a").seconds["local arm"]
    assert with_maps.map_bytes == round(28e6 * read)
    unseen = replace(with_maps, costs=(COST, replace(COST, site="u")))  # trains alone
    assert unseen.seconds["local arm"] - plan("a", "u").seconds["local arm"] == pytest.approx((read - 3) * 7.0)


def test_the_text_names_time_memory_disk_cores_and_what_changes_them() -> None:
    text = "\n".join(
        replace(plan("a"), costs=(COST,), jobs=1, available=8 * 10**9, disk=10**11, maps_disk=5 * 10**10).lines(4)
    )
    for words in (
        "takes about ",
        "rounds ",
        "local arm ",
        "personal stage ",
        "coil maps, once",
        "step 2.0 s, 100 training slices; validation 1.0 s a slice, 16 slices; coil maps 7.0 s a slice",
        "memory: 1.0 GB a process, 1 at a time, 8.0 GB free; --jobs changes it",
        "MB, 100.0 GB free; 2.9 GB of coil maps, 50.0 GB free\n",
        "cores: 1 of 4, 1 thread for each process; --threads changes it",
        "--set KEY=VALUE: federation.rounds = 10",
    ):
        assert words in text
    assert "cores: 6 of 8, 3 threads for each" in "".join(plan("a", "b", threads=3).lines(8))
    assert "takes at most" in plan("a", overrides=("training.patience=3",)).lines(1)[0]


def test_what_cannot_fit_is_refused_and_what_may_not_fit_is_said() -> None:
    assert [fitting(4, 3 * 10**9, n) for n in (13 * 10**9, 7 * 10**9, 10**9, None)] == [4, 2, 1, 4]
    two = plan("a", "b", available=8 * 10**9, total=16 * 10**9)
    assert require_room(two) == []
    assert "2 processes of 1.0 GB may not fit into the 1.5 GB" in require_room(replace(two, available=15 * 10**8))[0]
    with pytest.raises(ConfigError, match=r"--jobs: found 2 processes of 1.0 GB, expected at most 1.9 GB.*--jobs 1"):
        require_room(replace(two, total=19 * 10**8))
    maps = replace(plan("a"), costs=(COST,), maps_disk=10**6)
    assert "up to 2.9 GB of coil maps may not fit where 1 MB are free" in require_room(maps)[0]
    assert len(require_room(replace(maps, available=1))) == 2
    with pytest.raises(ConfigError, match=r"--out: found 1 MB free, expected .* free space"):
        require_room(replace(plan("a"), costs=(replace(COST, parameters=(10**6, 10**6)),), disk=10**6))


def test_measuring_changes_no_bit_of_the_run(tmp_path: Path) -> None:
    write_site(tmp_path / "sites")
    recipe, sites = load_recipe("fedavg", TINY), load_federation(tmp_path / "sites")
    states = []
    for planning in (None, Planning(fixed_jobs=False, always=True)):
        said: list[str] = []
        before = torch.get_rng_state()
        out = tmp_path / str(planning is None)
        run = train_run(recipe, sites, out, jobs=1, resume=False, say=said.append, planning=planning)
        assert torch.equal(torch.get_rng_state(), before)
        assert (run.memory() is None) == (planning is None)
        alone = {f"local {name}": tensor for name, tensor in run.selected(local="north").shared.items()}
        states.append({**run.selected().shared, **alone})
        assert any(line.startswith("this training takes about") for line in said) == (planning is not None)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_site_is_measured_on_its_own_slices(tmp_path: Path) -> None:
    write_site(tmp_path / "sites")
    (manifest,) = load_federation(tmp_path / "sites")
    task = ReconstructionTask(manifest, load_recipe("fedavg", TINY), tmp_path / "maps")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "of another data set").write_bytes(bytes(10**6))
    found = measure_site((task, False))
    assert found.slices == {"train": 4, "validation": 2, "test": 2}
    assert min(found.build, found.step, found.validation, found.memory) > 0
    assert found.map_bytes == 2 * 24 * 20 * 4  # two coils in half precision, whatever else is in the folder
    (tmp_path / "sites/data/north/north_0.h5").unlink()
    assert "north_0.h5" in measure_site((task, False))


def test_a_run_that_cannot_fit_leaves_its_folder_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_site(tmp_path / "sites")
    recipe, sites = load_recipe("fedavg", TINY), load_federation(tmp_path / "sites")
    with monkeypatch.context() as patch:
        patch.setattr("federation.experiment.planning.disk_free", lambda folder: 1)
        with pytest.raises(ConfigError, match="--out: found 1 MB free"):
            train_run(recipe, sites, tmp_path / "run", jobs=1, resume=False, say=str, planning=Planning(False))
    run = train_run(recipe, sites, tmp_path / "run", jobs=1, resume=False, say=str, planning=Planning(False))
    assert run.selected().history and run.memory()
    # A resumed run remembers the memory of its processes.
    assert train_run(recipe, sites, tmp_path / "run", jobs=1, resume=True, say=str).memory() == run.memory()


def test_plan_prints_the_cost_and_writes_nothing_but_lock_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_site(tmp_path / "sites")
    sets = [word for override in TINY for word in ("--set", override)]
    before = set(tmp_path.rglob("*"))
    assert main(["plan", "fedavg", "--sites", str(tmp_path / "sites"), "--quiet", "--jobs", "1", *sets]) == 0
    printed = capsys.readouterr().out
    assert "this training takes about" in printed and "--jobs changes it" in printed and "personal stage" in printed
    assert {path.suffix for path in set(tmp_path.rglob("*")) - before} <= {".sha256", ".lock", ".json"}


def test_plan_in_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    write_site(tmp_path / "sites")
    monkeypatch.setattr("federation.experiment.planning.TemporaryDirectory", refuse)
    error = fails("plan", "fedavg", "--sites", tmp_path / "sites")
    assert f"{Path.cwd()}: a temporary folder: found Permission denied, expected a folder that can be written" in error


@pytest.mark.slow
def test_a_quiet_training_prints_its_result_and_logs_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_site(tmp_path / "sites")
    sets = [word for override in TINY for word in ("--set", override)]
    out = tmp_path / "run"
    words = ["train", "fedavg", "--sites", str(tmp_path / "sites"), "--out", str(out), "--quiet", "--jobs", "1"]
    assert main([*words, *sets]) == 0
    assert capsys.readouterr().out == f"trained: {out}   next: fedrecon evaluate {out}\n"
    logged = (out / "log.txt").read_text()
    for line in ("checking 4 files, once", "round   1/2  north ", "ended: all 2 rounds", "personal local   north"):
        assert line in logged
    assert "this training takes" not in logged  # less than a minute
    assert "The training is finished" in (out / "report.html").read_text()
