import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from federation import worker_pool
from federation.rounds import InProcessRuntime, SiteFailure, SiteSpec
from federation.serialization import Broadcast, SiteUpdate, digest
from federation.worker_pool import Queue, Workers, computing_with, run_jobs
from recon import said_warnings
from recon.data import said_once

from ..toy_federation import ToyData, ToyTask, initial_shared, run_toy, toy_specs, traces

ROOT = Path(__file__).parents[3]


def requests(specs: list[SiteSpec]) -> dict[str, bytes]:
    shared = initial_shared()
    return {spec.name: Broadcast(0, spec.name, shared, digest(shared)).to_bytes() for spec in specs}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Failing(ToyTask):
    def train(self, network, **kwargs):
        raise RuntimeError("several\nlines")


class Dying(ToyTask):
    def train(self, network, **kwargs):
        os._exit(3)


class Sleeping(ToyTask):
    def train(self, network, **kwargs):
        time.sleep(600)


def replies_of(specs, jobs):
    with InProcessRuntime(specs, jobs) as runtime:
        return dict(runtime.exchange(requests(specs)))


@pytest.mark.slow
def test_two_jobs_give_the_same_bits_as_one(tmp_path):
    for jobs in (1, 2):
        run_toy(tmp_path / str(jobs), toy_specs(tmp_path / str(jobs), 3), jobs=jobs)
    assert traces(tmp_path / "1") == traces(tmp_path / "2")


class Counting(ToyTask):
    def validate(self, network):
        return float(torch.get_num_threads())


@pytest.mark.parametrize(("jobs", "threads"), [(1, 1), (1, 3), (2, 3)])
def test_sites_compute_with_the_threads_of_the_runtime_and_the_callers_number_comes_back(tmp_path, jobs, threads):
    specs, shared = toy_specs(tmp_path, 2, task=Counting), initial_shared()
    with computing_with(2), InProcessRuntime(specs, jobs, threads) as runtime:
        replies = dict(runtime.exchange(requests(specs)))
        assert torch.get_num_threads() == 2
    for site, reply in replies.items():
        update = SiteUpdate.from_bytes(reply, broadcast=Broadcast(0, site, shared, digest(shared)))
        assert update.score_before == threads


def test_only_one_sites_data_is_in_memory_with_40_sites(tmp_path):
    # Tracebacks that pytest keeps may hold sites of other tests.
    before = ToyData.most_alive = ToyData.alive
    run_toy(tmp_path, toy_specs(tmp_path, 40), rounds=2)
    assert ToyData.most_alive == before + 1
    assert ToyData.alive == before


def test_a_failure_is_one_line_and_releases_the_data(tmp_path):
    specs = [*toy_specs(tmp_path, 1, task=Failing), *toy_specs(tmp_path, 2)[1:]]
    alive = ToyData.alive
    replies = replies_of(specs, 1)
    assert isinstance(replies["s0"], SiteFailure) and str(replies["s0"]) == "RuntimeError: several lines"
    assert isinstance(replies["s1"], bytes)
    assert ToyData.alive == alive


@pytest.mark.slow
def test_workers_that_die_are_replaced_and_those_of_an_abandoned_exchange_end(tmp_path):
    tasks = (Dying, Failing, ToyTask, Sleeping)
    specs = [toy_specs(tmp_path, site + 1, task=task)[site] for site, task in enumerate(tasks)]
    with InProcessRuntime(specs, 2) as runtime:
        replies = dict(runtime.exchange(requests(specs[:3])))
        assert str(replies["s0"]) == "its process ended with exit code 3"
        assert str(replies["s1"]) == "RuntimeError: several lines"
        assert isinstance(replies["s2"], bytes)

        exchange = runtime.exchange(requests(specs[2:]))
        assert next(exchange)[0] == "s2"
        pids = [worker.process.pid for worker in runtime.workers.workers]
        assert len(pids) == 2 and all(is_alive(pid) for pid in pids)
        exchange.close()
        assert not any(is_alive(pid) for pid in pids)


def test_sites_must_be_there_and_differ(tmp_path):
    with pytest.raises(ValueError, match="all different"):
        InProcessRuntime(toy_specs(tmp_path, 1) * 2)
    with pytest.raises(ValueError, match="expected some"):
        InProcessRuntime([])
    with pytest.raises(ValueError, match="jobs is 0"):
        InProcessRuntime(toy_specs(tmp_path), 0)
    with pytest.raises(ValueError, match="threads is 0"):
        InProcessRuntime(toy_specs(tmp_path), threads=0)


def _said(_: int) -> int:
    return len(said_warnings())


def test_worker_processes_do_not_repeat_warnings(monkeypatch):
    monkeypatch.setattr(said_once, "_SAID", {("north", ": found  zeros"), ("south", ": found  zeros")})
    assert list(run_jobs(_said, [0, 1], 2)) == [2, 2]


def _threads(_: int) -> int:
    return torch.get_num_threads()


def test_jobs_have_their_threads_in_every_process():
    assert list(run_jobs(_threads, [0, 1], 1)) == [1, 1]
    for processes in (1, 2):
        assert list(run_jobs(_threads, [0, 1], processes, threads=3)) == [3, 3]


def _seen(name: str) -> tuple[str | None, str, str]:
    import recon

    return os.environ.get(name), str(recon.__file__), os.getcwd()


@pytest.mark.slow
def test_workers_have_the_packages_and_the_variables_of_their_parent(tmp_path, monkeypatch):
    """Wherever the command runs: a package in the current folder is not imported, and variables may change."""
    (tmp_path / "recon").mkdir()
    (tmp_path / "recon" / "__init__.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from federation.worker_pool import run_jobs\n"
        "from tests.federation.rounds.test_local_transport import _seen\n"
        "if __name__ == '__main__':\n"
        "    for value in '12':\n"
        "        os.environ['SOME'] = value\n"
        "        print(list(run_jobs(_seen, ['SOME', 'SOME'], 2)))\n"
    )
    out = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    own = str(Path(ROOT) / "recon" / "__init__.py")
    assert out.stdout.splitlines() == [str([(value, own, str(tmp_path))] * 2) for value in "12"]


def _wait(_: int) -> None:
    time.sleep(60)


@pytest.mark.parametrize("where", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
def test_a_worker_ends_when_its_pool_is_closed_even_without_a_signal(where, monkeypatch):
    worker_pool._context()
    monkeypatch.setattr("federation.worker_pool._context", lambda: multiprocessing.get_context(where))
    workers = Workers(1)
    calls = workers.call(_wait, [(0, 0)])
    threading.Thread(target=lambda: next(calls, None), daemon=True).start()
    while not workers.workers:
        time.sleep(0.01)
    (worker,) = workers.workers
    pid = worker.process.pid
    worker._lifeline.close()
    end = time.monotonic() + 60
    while is_alive(pid) and worker.process.is_alive() and time.monotonic() < end:
        time.sleep(0.05)
    assert not worker.process.is_alive()
    workers.close()


def test_where_nothing_can_be_forked_a_new_interpreter_serves(monkeypatch):
    def refuse() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr("federation.worker_pool._FORKED_WITH", [])
    monkeypatch.setattr("federation.worker_pool.ensure_running", refuse)
    before = dict(os.environ)
    assert worker_pool._context().get_start_method() == "spawn" and os.environ == before


def test_changed_variables_that_packages_read_need_a_new_interpreter(monkeypatch):
    assert worker_pool._context().get_start_method() == "forkserver"
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    assert worker_pool._context().get_start_method() == "spawn"


@pytest.mark.parametrize("name", worker_pool._PRELOADED)
def test_what_workers_need_is_where_the_pool_looks_for_it(name):
    """A name that is gone would be skipped without a word, and workers would start in seconds again."""
    assert importlib.util.find_spec(name) is not None


def _same(value: int) -> int:
    return value


def test_a_call_ends_when_the_last_answers_come_together(monkeypatch):
    real = worker_pool.wait

    def all_of(connections):
        assert connections, "waits for nothing, for ever"
        for connection in connections:
            real([connection])
        return connections

    monkeypatch.setattr(worker_pool, "wait", all_of)
    assert sorted(run_jobs(_same, [1, 2, 3, 4], 2)) == [1, 2, 3, 4]


def _watched(job: tuple[Path, str]) -> tuple[str, int, float, float]:
    """Site, process, begin and end of a job that waits until another has begun, at most for a while."""
    folder, site = job
    begin = time.monotonic()
    (folder / site).touch()
    while time.monotonic() < begin + 0.3 and len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    time.sleep(0.05)
    return site, os.getpid(), begin, time.monotonic()


def at_a_time(found: list[tuple[str, int, float, float]]) -> int:
    return max(sum(other[2] <= each[2] < other[3] for other in found) for each in found)


@pytest.mark.slow
def test_jobs_of_one_place_wait_for_room_and_others_go_on(tmp_path):
    sites = ["a0", "a1", "a2", "cpu0", "cpu1", "b0", "b1"]
    queue = Queue({site: site[0] for site in sites if site[0] != "c"}, {"a": 1, "b": 2})
    work = [(tmp_path, site) for site in sites]
    found = list(run_jobs(_watched, work, 3, queue=queue.in_order(sites)))
    assert [each[0] for each in found] == sites
    of = {place: [each for each in found if each[0].startswith(place)] for place in ("a", "b", "cpu")}
    assert at_a_time(of["a"]) == 1 and 2 <= at_a_time(found) <= 3
    # A process serves one place: memory of a GPU stays with it.
    pids = {place: {each[1] for each in jobs} for place, jobs in of.items()}
    assert len(set.union(*pids.values())) == sum(map(len, pids.values()))


@pytest.mark.slow
@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2), (0, 1)])
def test_sites_on_one_gpu_compute_as_many_at_a_time_as_it_has_room_for_and_at_least_one(tmp_path, most, expected):
    specs = toy_specs(tmp_path, 3)
    with InProcessRuntime(specs, 3) as runtime:
        runtime.queue = Queue(dict.fromkeys(runtime.sites(), "cuda:0"), {"cuda:0": most})
        (tmp_path / "seen").mkdir()
        found = list(runtime.call(_watched, {site: (tmp_path / "seen", site) for site in runtime.sites()}).values())
        replies = dict(runtime.exchange(requests(specs)))
        assert len(runtime.workers.workers) == expected
    assert at_a_time(found) == expected
    assert all(isinstance(reply, bytes) for reply in replies.values()) and len(replies) == 3
