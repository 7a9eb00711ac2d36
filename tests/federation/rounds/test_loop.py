import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from federation import WEIGHTINGS, FederatedAlgorithm, SiteUpdate, run_rounds
from federation.methods import derive_seed, parameters_of, selected_state
from federation.rounds import (
    InProcessRuntime,
    QuorumError,
    RoundContext,
    SiteFailure,
    SiteSpec,
    StillWaiting,
    initial_network,
    read_rows,
)
from federation.serialization import digest, load_checkpoint, pack, unpack
from federation.serialization.checkpoints import save_checkpoint, saved_rounds
from recon import DataError

from ..toy_federation import SEED, STEPS, ToyNetwork, ToyTask, initial_shared, run_toy, toy_specs, traces


def test_rows_say_what_each_site_loaded_kept_and_sent(tmp_path):
    result = run_toy(tmp_path, rounds=3)
    rows = read_rows(tmp_path)
    assert [(row["round"], row["site"]) for row in rows] == [(r, s) for r in range(4) for s in ("s0", "s1")]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["loaded_digest"] == second["loaded_digest"]
        assert first["kept_digest"] != second["kept_digest"]
    for row, later in zip(rows[::2], rows[2::2], strict=False):
        assert row["shared_digest_after"] == later["loaded_digest"]
    assert rows[-1]["shared_digest_after"] == result.state.digest
    n_bytes = sum(tensor.nbytes for tensor in initial_shared().values())
    for row in rows[:-2]:
        assert n_bytes < row["bytes_down"] < n_bytes + 2048 and n_bytes < row["bytes_up"] < n_bytes + 2048
        assert row["score_after"] > row["score_before"] and row["loss"] > 0 and row["n_samples"] in (16, 20)
    for row in rows[-2:]:
        assert row["score_after"] is row["loss"] is row["n_samples"] is None
        assert row["score_before"] is not None and row["bytes_up"] < n_bytes + 2048


def test_training_helps_and_the_best_round_is_selected(tmp_path):
    result = run_toy(tmp_path, rounds=8)
    means = [score.mean for score in result.state.history]
    assert len(means) == 9 and means[-1] > means[0]
    selected = selected_state(tmp_path)
    assert selected.round == result.state.best.round == means.index(max(means))
    assert selected.digest == read_rows(tmp_path)[2 * selected.round]["loaded_digest"]


def test_checkpoints_are_the_newest_two_and_the_best(tmp_path):
    class GettingWorse(ToyTask):
        calls = 0

        def validate(self, network):
            GettingWorse.calls += 1
            return -float(GettingWorse.calls)

    run_toy(tmp_path, toy_specs(tmp_path, task=GettingWorse), rounds=5)
    assert saved_rounds(tmp_path / "checkpoints") == [0, 4, 5]
    assert saved_rounds(tmp_path / "sites" / "s0") == [0, 3, 4, 5]
    assert selected_state(tmp_path).digest == digest(initial_shared())


def test_without_any_score_the_last_round_is_selected(tmp_path):
    class NoReference(ToyTask):
        def validate(self, network):
            return None

    result = run_toy(tmp_path, toy_specs(tmp_path, task=NoReference), rounds=2)
    assert selected_state(tmp_path).digest == result.state.digest
    before = traces(tmp_path)
    run_toy(tmp_path, toy_specs(tmp_path, task=NoReference), rounds=2, resume=True)
    assert traces(tmp_path) == before


def test_one_site_is_local_training_bit_for_bit(tmp_path):
    result = run_toy(tmp_path, toy_specs(tmp_path, 1), rounds=4)
    task, network, state = ToyTask(0, 16), initial_network(ToyNetwork, SEED), None
    for round in range(4):
        seed = derive_seed(SEED, round, "s0")
        torch.manual_seed(seed)
        state = task.train(
            network, round=round, steps=STEPS, seed=seed, context=RoundContext({}, {}, {}, state, {})
        ).optimizer_state
    assert result.state.digest == digest(parameters_of(network, result.state.shared))


def test_order_of_the_sites_does_not_matter(tmp_path):
    for name, step in (("up", 1), ("down", -1)):
        run_toy(tmp_path / name, toy_specs(tmp_path / name, 3)[::step])
    assert traces(tmp_path / "up") == traces(tmp_path / "down")


def test_a_fraction_of_the_sites_takes_part(tmp_path):
    algorithm = FederatedAlgorithm(seed=SEED, participation=0.5)
    run_toy(tmp_path, toy_specs(tmp_path, 4), rounds=6, algorithm=algorithm)
    rows = read_rows(tmp_path)
    by_round = [{row["site"] for row in rows if row["round"] == round} for round in range(7)]
    assert all(len(sites) == 2 for sites in by_round)
    assert set().union(*by_round) == {"s0", "s1", "s2", "s3"}


def test_times_and_progress_are_reported(tmp_path):
    seen = []
    result = run_toy(tmp_path, rounds=2, progress=lambda round, rounds, rows: seen.append((round, rounds, len(rows))))
    assert seen == [(0, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert [time.round for time in result.rounds] == [0, 1, 2]
    assert all(0 <= time.overhead <= 1 and time.site_seconds <= time.seconds for time in result.rounds)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run_toy(tmp_path, rounds=2)
    before = traces(tmp_path)
    with pytest.raises(DataError, match="holds a run already"):
        run_toy(tmp_path, rounds=2)
    with pytest.raises(DataError, match="another algorithm"):
        run_toy(
            tmp_path, rounds=2, resume=True, algorithm=FederatedAlgorithm(seed=SEED, weighting=WEIGHTINGS["uniform"]())
        )
    with pytest.raises(DataError, match="round 2, expected at most 1"):
        run_toy(tmp_path, rounds=1, resume=True)
    assert traces(tmp_path) == before


def test_a_checkpoint_of_another_version_is_refused_in_one_line(tmp_path):
    run_toy(tmp_path, rounds=1)
    last = load_checkpoint(tmp_path / "checkpoints", 1)
    numbers = {key: value for key, value in last.numbers.items() if key != "accepted"}
    save_checkpoint(tmp_path / "checkpoints", 1, last.tensors, numbers)
    for read in (lambda: run_toy(tmp_path, rounds=1, resume=True), lambda: selected_state(tmp_path)):
        with pytest.raises(DataError, match="round 1 has no accepted, it is of another version of fedrecon; use that"):
            read()


def test_resuming_a_finished_run_changes_nothing_and_more_rounds_go_on(tmp_path):
    run_toy(tmp_path / "a", rounds=2)
    before = traces(tmp_path / "a")
    assert run_toy(tmp_path / "a", rounds=2, resume=True).rounds == ()
    assert traces(tmp_path / "a") == before
    run_toy(tmp_path / "a", rounds=4, resume=True)
    run_toy(tmp_path / "b", rounds=4)
    assert traces(tmp_path / "a") == traces(tmp_path / "b")


def test_wrong_arguments_are_refused(tmp_path):
    for changes in ({"rounds": 0}, {"quorum": 0}, {"quorum": 3}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            run_toy(tmp_path, **changes)
    assert not (tmp_path / "checkpoints").exists()


class Meddling:
    """A transport that passes each reply through ``meddle``."""

    jobs = 1

    def __init__(self, specs: list[SiteSpec], meddle) -> None:
        self.runtime = InProcessRuntime(specs)
        self.meddle = meddle

    def sites(self) -> list[str]:
        return self.runtime.sites()

    def exchange(self, requests: Mapping[str, bytes]):
        for site, reply in self.runtime.exchange(requests):
            yield from self.meddle(site, reply)


def altered(reply: bytes, header=(), joined=None, **more: Tensor) -> bytes:
    """A reply with other header fields, another tensor of all parameters, or one more."""
    message = unpack(reply, kind="update")
    numbers = message.tensors["F32"] if joined is None else joined(message.tensors["F32"])
    return pack("update", message.header | dict(header), {"F32": numbers, **more})


FAULTS = {
    "failure": (lambda reply: [("s1", SiteFailure("RuntimeError: disk gone"))], "disk gone"),
    "garbage": (lambda reply: [("s1", b"garbage!")], "not safetensors"),
    "pickle": (lambda reply: [("s1", b"\x80\x04\x95" + reply)], "not safetensors"),
    "nan": (lambda reply: [("s1", altered(reply, joined=lambda t: t * torch.nan))], "holds NaN"),
    "shape": (
        lambda reply: [("s1", altered(reply, joined=lambda t: t[1:]))],
        "'F32' is float32",
    ),
    "dtype": (
        lambda reply: [("s1", altered(reply, joined=Tensor.half))],
        "'F32' is float16",
    ),
    "name": (
        lambda reply: [("s1", altered(reply, log_scale=torch.zeros(2)))],
        r"unexpected \['log_scale'\]",
    ),
    "network": (lambda reply: [("s1", altered(reply, {"layout": "0" * 64}))], "names, dtypes and shapes"),
    "weight": (lambda reply: [("s1", altered(reply, {"n_samples": 0}))], "n_samples"),
    "stale": (lambda reply: [("s1", altered(reply, {"round": 7}))], "round is 7"),
    "site": (lambda reply: [("s1", altered(reply, {"site": "s0"}))], "site is 's0', expected 's1'"),
    "digest": (lambda reply: [("s1", altered(reply, {"loaded_digest": "0" * 64}))], "loaded_digest"),
    "silent": (lambda reply: [], "no reply of s1|no reply of site s1"),
}


@pytest.mark.fault("wrong update (NaN, shape, weight, ...)")
@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_site_is_named_with_the_reason_and_left_out_while_the_quorum_holds(tmp_path, caplog, fault, reason):
    specs = toy_specs(tmp_path, 3)

    def meddle(site, reply):
        return fault(reply) if site == "s1" and b"n_samples" in reply else [(site, reply)]

    result = run_rounds(FederatedAlgorithm(), Meddling(specs, meddle), initial_shared(), tmp_path, rounds=2, quorum=2)
    assert result.state.round == 2
    assert {row["site"] for row in read_rows(tmp_path) if row["round"] < 2} == {"s0", "s2"}
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2 and all("site s1" in text for text in warnings)

    with pytest.raises(QuorumError, match=reason) as error:
        run_rounds(FederatedAlgorithm(), Meddling(specs, meddle), initial_shared(), tmp_path / "all", rounds=2)
    assert "s1" in str(error.value) and "round 0" in str(error.value) and "\n" not in str(error.value)


def test_the_others_aggregate_is_as_if_the_faulty_site_were_not_there(tmp_path):
    def meddle(site, reply):
        return [] if site == "s2" else [(site, reply)]

    specs = toy_specs(tmp_path, 3)
    result = run_rounds(
        FederatedAlgorithm(seed=SEED), Meddling(specs, meddle), initial_shared(), tmp_path, rounds=2, quorum=2
    )
    assert result.state.digest == run_toy(tmp_path / "two", rounds=2).state.digest


@pytest.mark.fault("stale, foreign or second reply")
def test_second_answers_and_strangers_are_refused(tmp_path, caplog):
    def meddle(site, reply):
        return [(site, reply), (site, reply), ("stranger", reply)]

    specs = toy_specs(tmp_path)
    result = run_rounds(FederatedAlgorithm(seed=SEED), Meddling(specs, meddle), initial_shared(), tmp_path, rounds=1)
    assert result.state.digest == run_toy(tmp_path / "clean", rounds=1).state.digest
    assert "answered twice" in caplog.text and "site stranger refused: it was not asked" in caplog.text


def test_a_round_without_quorum_ends_early_and_is_resumable(tmp_path):
    trained = []

    class Watched(ToyTask):
        def train(self, network, **kwargs):
            trained.append(len(self.data.x))
            if len(self.data.x) == 16 and kwargs["round"] == 1 and trained.count(16) == 2:
                raise DataError("scan.h5: kspace: found NaN, expected numbers; remove it")
            return super().train(network, **kwargs)

    specs = toy_specs(tmp_path, 3, task=Watched)
    with pytest.raises(QuorumError, match=r"round 1: site s0: scan\.h5: kspace: found NaN"):
        run_toy(tmp_path, specs)
    assert trained == [16, 20, 24, 16]
    run_toy(tmp_path, specs, resume=True)
    run_toy(tmp_path / "clean", toy_specs(tmp_path / "clean", 3))
    clean = traces(tmp_path / "clean")
    assert {name: trace for name, trace in traces(tmp_path).items() if not name.startswith("clean")} == clean


@pytest.mark.fault("path traversal in a name")
def test_names_of_sites_cannot_leave_the_folder(tmp_path):
    transport = Meddling(toy_specs(tmp_path), None)
    transport.sites = lambda: ["../s0"]
    with pytest.raises(ValueError, match=r"\.\./s0"):
        run_rounds(FederatedAlgorithm(), transport, initial_shared(), tmp_path, rounds=1)


@pytest.mark.fault("damaged checkpoint")
def test_a_server_with_a_damaged_checkpoint_goes_back_one_round(tmp_path, caplog):
    run_toy(tmp_path / "a", rounds=4)
    reference = traces(tmp_path / "a")
    path = tmp_path / "a" / "checkpoints" / "round_000004.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    run_toy(tmp_path / "a", rounds=4, resume=True)
    assert traces(tmp_path / "a") == reference
    assert "truncated or altered" in caplog.text


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run_toy(tmp_path, rounds=1)
    other = replace(load_checkpoint(tmp_path / "checkpoints", 0), round=0).tensors | {"more": torch.zeros(1)}
    with InProcessRuntime(toy_specs(tmp_path)) as runtime, pytest.raises(DataError, match="missing"):
        run_rounds(FederatedAlgorithm(seed=SEED), runtime, other, tmp_path, rounds=1, resume=True)


def test_spooled_updates_are_gone_after_the_round(tmp_path):
    run_toy(tmp_path, rounds=1)
    assert not (tmp_path / "incoming").exists()
    assert all(json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines())
    assert SiteUpdate.kind() == "update"


def test_where_sites_take_turns_the_last_round_is_selected(tmp_path):
    turns = FederatedAlgorithm(seed=SEED, schedule="cyclic", participation=1e-6)
    result = run_toy(tmp_path, rounds=4, algorithm=turns)
    assert result.state.best is not None
    assert selected_state(tmp_path).round == 4
    assert len({row["site"] for row in read_rows(tmp_path) if row["round"] < 4}) == 2


def test_an_aggregate_that_is_not_finite_ends_the_round_and_is_not_kept(tmp_path, monkeypatch):
    aggregate = FederatedAlgorithm.aggregate

    def diverged(self, state, updates, **options):
        after = aggregate(self, state, updates, **options)
        return replace(after, shared={name: tensor * torch.inf for name, tensor in after.shared.items()})

    monkeypatch.setattr(FederatedAlgorithm, "aggregate", diverged)
    with pytest.raises(QuorumError, match="round 0: the aggregate: tensor 'regularizer"):
        run_toy(tmp_path, rounds=1)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.json")] == ["round_000000.json"]


class Late(Meddling):
    """A transport on which the reply of s1 comes ``meddle`` seconds after those of the others."""

    def exchange(self, requests: Mapping[str, bytes]):
        late = None
        for site, reply in self.runtime.exchange(requests):
            if site == "s1":
                late = site, reply
            else:
                yield site, reply
        begin = time.monotonic()
        while time.monotonic() - begin < self.meddle:
            yield "", StillWaiting()
            time.sleep(0.02)
        yield late


def test_a_round_closes_with_its_quorum_and_says_what_it_waits_for(tmp_path):
    def late_rounds(name: str, seconds: float, **options) -> tuple[set[str], set[tuple[int, str]], float]:
        waited, begin = set(), time.monotonic()
        run_rounds(
            FederatedAlgorithm(seed=SEED), Late(toy_specs(tmp_path / name, 3), seconds), initial_shared(),
            tmp_path / name, rounds=1, waiting=lambda number, sites: waited.add((number, *sites)), **options,
        )  # fmt: skip
        return {row["site"] for row in read_rows(tmp_path / name)}, waited, time.monotonic() - begin

    everyone = {"s0", "s1", "s2"}
    sites, waited, _ = late_rounds("all", 0.4, late_seconds=0.0)
    assert sites == everyone and waited == {(0, "s1"), (1, "s1")}  # all are needed
    assert late_rounds("patient", 0.4, quorum=2)[0] == everyone
    assert late_rounds("in time", 0.4, quorum=2, late_seconds=60.0)[0] == everyone
    sites, _, seconds = late_rounds("late", 30.0, quorum=2, late_seconds=0.1)
    assert sites == {"s0", "s2"} and seconds < 30.0


class Absent(Meddling):
    """A transport on which one site is not asked in one round."""

    def exchange(self, requests: Mapping[str, bytes]):
        asked = {site: data for site, data in requests.items() if not (site == "s2" and b'\\"round\\": 1,' in data)}
        yield from self.runtime.exchange(asked)


def test_a_reply_that_was_lost_leaves_no_trace_at_its_site(tmp_path):
    """The site drops the kept state of that round, and continues as if it had not been asked."""
    lost = []

    def lose(site, reply):
        if site == "s2" and b'\\"round\\": 1,' in reply:
            lost.append(reply)
            return []
        return [(site, reply)]

    digests = []
    for name, transport in (("lost", Meddling), ("absent", Absent)):
        specs = toy_specs(tmp_path / name, 3)
        algorithm, shared = FederatedAlgorithm(seed=SEED), initial_shared()
        result = run_rounds(algorithm, transport(specs, lose), shared, tmp_path / name, rounds=4, quorum=2)
        rows = [row for row in read_rows(tmp_path / name) if row["site"] == "s2"]
        assert [row["round"] for row in rows] == [0, 2, 3, 4] and result.state.accepted == {"s0": 3, "s1": 3, "s2": 3}
        digests.append((result.state.digest, [row["kept_digest"] for row in rows]))
    assert len(lost) == 1 and digests[0] == digests[1]
