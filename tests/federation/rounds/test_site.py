import pickle
from pathlib import Path

import pytest
import torch

from federation.methods import ScopeRules, derive_seed, parameters_of
from federation.rounds import RoundContext, SiteSpec, initial_network
from federation.serialization import Broadcast, MessageError, SiteReport, SiteUpdate, digest, load_checkpoint
from federation.serialization.checkpoints import saved_rounds
from recon import DataError

from ..toy_federation import SEED, STEPS, ToyNetwork, ToyTask, initial_shared, toy_specs


@pytest.fixture
def spec(tmp_path: Path) -> SiteSpec:
    return toy_specs(tmp_path, 1)[0]


def broadcast(round: int, shared=None, **changes) -> Broadcast:
    shared = shared or initial_shared()
    accepted = round - 1 if round else None
    fields = {"round": round, "site": "s0", "shared": shared, "digest": digest(shared), "accepted_round": accepted}
    return Broadcast(**fields | changes)


def train(spec: SiteSpec, sent: Broadcast) -> SiteUpdate:
    return SiteUpdate.from_bytes(spec.build().handle(sent.to_bytes()), broadcast=sent)


def train_rounds(spec: SiteSpec, rounds: int, **changes) -> list[SiteUpdate]:
    updates: list[SiteUpdate] = []
    for round in range(rounds):
        shared = updates[-1].shared if updates else None
        updates.append(train(spec, broadcast(round, shared, **changes)))
    return updates


def facts(update: SiteReport) -> dict:
    return {name: value for name, value in update.header().items() if name != "seconds"}


def test_a_round_trains_and_scores_both_sides(spec):
    sent = broadcast(0)
    update = train(spec, sent)
    assert update.loaded_digest == sent.digest != digest(update.shared)
    assert update.score_after > update.score_before
    assert (update.n_samples, update.round, update.site) == (16, 0, "s0")


def test_rounds_are_local_training_bit_for_bit(spec):
    update = train_rounds(spec, 3)[-1]
    task, network, state = ToyTask(0, 16), initial_network(ToyNetwork, SEED), None
    for round in range(3):
        seed = derive_seed(SEED, round, "s0")
        torch.manual_seed(seed)
        state = task.train(
            network, round=round, steps=STEPS, seed=seed, context=RoundContext({}, {}, {}, state, {})
        ).optimizer_state
    assert digest(update.shared) == digest(parameters_of(network, update.shared))
    assert update.kept_digest == digest(parameters_of(network, ["consistency.log_scale"]))


def test_a_replayed_round_gives_the_same_bits(spec):
    updates = train_rounds(spec, 3)
    for round in (2, 2, 1):
        again = train(spec, broadcast(round, updates[round - 1].shared))
        assert facts(again) == facts(updates[round])
        assert digest(again.shared) == digest(updates[round].shared)


def test_results_do_not_depend_on_the_global_generator_and_leave_it_alone(tmp_path):
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        digests.append(digest(train(toy_specs(tmp_path / str(seed), 1)[0], broadcast(0)).shared))
        assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1]


def test_versions_that_a_broadcast_may_ask_for_are_kept(spec):
    train_rounds(spec, 6, best_round=None)
    assert saved_rounds(spec.folder) == [4, 5, 6]
    train(spec, broadcast(6, best_round=4))
    train(spec, broadcast(7, best_round=4))
    train(spec, broadcast(8, best_round=4))
    assert saved_rounds(spec.folder) == [4, 7, 8, 9]


def test_a_round_that_was_skipped_starts_from_the_newest_version_before_it(spec):
    train_rounds(spec, 2)
    kept_before = load_checkpoint(spec.folder, 2).tensors["kept.consistency.log_scale"]
    network = spec.build().network_at(initial_shared(), 9)
    assert torch.equal(network.consistency.log_scale, kept_before)


def test_versions_of_an_abandoned_history_are_dropped(spec):
    train_rounds(spec, 3)
    train(spec, broadcast(1))
    assert saved_rounds(spec.folder) == [1, 2]


def test_going_back_too_far_is_an_error_not_a_fresh_start(spec):
    train_rounds(spec, 5)
    with pytest.raises(DataError, match="starts at round 3, expected one for round 1"):
        spec.build().network_at(initial_shared(), 1)


@pytest.mark.parametrize("mode", ["keep", "reset"])
def test_moments_are_kept_only_if_asked_for(tmp_path, mode):
    spec = toy_specs(tmp_path, 1, optimizer_state=mode)[0]
    train_rounds(spec, 2)
    names = load_checkpoint(spec.folder, 2).tensors.keys()
    assert "kept.consistency.log_scale" in names
    assert ("optimizer.exp_avg.regularizer.0.weight" in names) == (mode == "keep")


def test_kept_moments_matter(tmp_path):
    last = [train_rounds(toy_specs(tmp_path / m, 1, optimizer_state=m)[0], 2)[-1] for m in ("keep", "reset")]
    assert digest(last[0].shared) != digest(last[1].shared)


def test_evaluating_changes_nothing_and_uses_the_kept_state_of_the_round(spec):
    updates = train_rounds(spec, 2)
    before = {path: path.read_bytes() for path in spec.folder.iterdir()}
    sent = broadcast(2, updates[1].shared, evaluate_only=True)
    report = SiteReport.from_bytes(spec.build().handle(sent.to_bytes()), broadcast=sent)
    assert report.score_before == updates[1].score_after
    assert report.kept_digest == updates[1].kept_digest
    assert {path: path.read_bytes() for path in spec.folder.iterdir()} == before


def test_an_unseen_site_has_the_initial_kept_parameters_and_writes_nothing(spec):
    network = spec.build().network_at(train_rounds(toy_specs(spec.folder / "other", 1)[0], 1)[0].shared, 5)
    assert torch.equal(network.consistency.log_scale, initial_network(ToyNetwork, SEED).consistency.log_scale)
    assert saved_rounds(spec.folder) == []


def test_what_was_loaded_must_be_what_was_broadcast(spec):
    with pytest.raises(MessageError, match=r"site s0.*digest .*, that of the broadcast"):
        spec.build().handle(broadcast(0, digest="0" * 64).to_bytes())
    assert load_checkpoint(spec.folder, 0) and saved_rounds(spec.folder) == [0]


def test_a_message_holds_exactly_what_the_scope_shares(spec):
    shared = dict(initial_shared())
    for wrong in (shared | {"consistency.log_scale": torch.zeros(2)}, dict(list(shared.items())[1:])):
        with pytest.raises(MessageError, match="broadcast"):
            spec.build().handle(broadcast(0, wrong).to_bytes())
    keeps_more = toy_specs(spec.folder, 1, scope=ScopeRules(keep=("regularizer.2.*",)))[0]
    with pytest.raises(MessageError, match="network, scope and method must be the same"):
        keeps_more.build().handle(broadcast(0).to_bytes())


class Diverging(ToyTask):
    def train(self, network, **kwargs):
        result = super().train(network, **kwargs)
        with torch.no_grad():
            network.regularizer[0].weight.fill_(torch.nan)
        return result


class NoScore(ToyTask):
    def validate(self, network):
        return None


class BadScore(ToyTask):
    def validate(self, network):
        return float("nan")


@pytest.mark.parametrize(
    ("task", "word"),
    [
        (Diverging, "after training in round 0: tensor 'regularizer.0.weight' holds NaN"),
        (BadScore, "score_before is 'nan'"),
    ],
)
def test_a_round_that_fails_leaves_no_kept_state(tmp_path, task, word):
    spec = toy_specs(tmp_path, 1, task=task)[0]
    with pytest.raises(MessageError, match=word):
        spec.build().handle(broadcast(0).to_bytes())
    assert saved_rounds(spec.folder) == [0]


def test_a_site_without_reference_has_no_score_rather_than_a_made_up_one(tmp_path):
    update = train(toy_specs(tmp_path, 1, task=NoScore)[0], broadcast(0))
    assert update.score_before is None and update.score_after is None


def test_a_damaged_kept_state_is_an_error_not_another_result(spec):
    updates = train_rounds(spec, 2)
    (spec.folder / "round_000002.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"round_000002\.safetensors.*truncated or altered"):
        train(spec, broadcast(2, updates[-1].shared))


def test_a_kept_state_of_another_run_is_refused(spec):
    train_rounds(spec, 1)
    other = SiteSpec(spec.name, spec.task, spec.folder, seed=SEED + 1, steps=STEPS)
    with pytest.raises(DataError, match="another run"):
        other.build().network_at(initial_shared(), 1)


def test_spec_is_picklable_and_checked(spec):
    assert pickle.loads(pickle.dumps(spec)).name == spec.name
    for changes in ({"name": "../s0"}, {"steps": 0}, {"optimizer_state": "forget"}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            SiteSpec(**{"name": "s0", "task": ToyTask, "folder": Path(), "seed": 0, "steps": 1} | changes)


def test_a_run_that_is_begun_anew_starts_from_the_initial_kept_parameters(spec):
    first = train_rounds(spec, 4)
    assert saved_rounds(spec.folder)[0] > 0
    again = train_rounds(spec, 2)
    assert [facts(update) for update in again] == [facts(update) for update in first[:2]]
