import json
import random

import pytest
import torch

from federation import SERVER_RULES, TRANSFORMS, WEIGHTINGS, FederatedAlgorithm, SiteUpdate
from federation.methods import Chain, RoundScore, ServerState, derive_seed
from federation.serialization import State, digest
from recon import seed_from

SHARED = {"w": torch.zeros(3)}


def update(
    site: str,
    value: float = 1.0,
    n_samples: int = 1,
    score: float | None = 30.0,
    round: int = 0,
    shared: State | None = None,
) -> SiteUpdate:
    return SiteUpdate(
        round=round,
        site=site,
        shared={"w": torch.full((3,), value)} if shared is None else shared,
        n_samples=n_samples,
        loaded_digest=digest(SHARED),
        kept_digest=digest({}),
        score_before=score,
        score_after=None,
        loss=None,
        seconds=0.0,
    )


def test_federated_averaging_weighs_by_samples_or_not():
    updates = [update("a", 1.0, 3), update("b", 5.0, 1)]
    for weights, expected in (("samples", 2.0), ("uniform", 3.0)):
        algorithm = FederatedAlgorithm(weighting=WEIGHTINGS[weights]())
        state = algorithm.aggregate(algorithm.start(SHARED), updates)
        assert state.round == 1
        assert torch.equal(state.shared["w"], torch.full((3,), expected))


def test_aggregate_is_pure_and_does_not_depend_on_the_order_of_sites():
    algorithm = FederatedAlgorithm()
    start = algorithm.start(SHARED)
    updates = [update(f"s{i}", 0.1 + i, 3 + i, score=1 / (i + 3)) for i in range(6)]
    reference = algorithm.aggregate(start, updates)
    for seed in range(5):
        shuffled = random.Random(seed).sample(updates, len(updates))
        result = algorithm.aggregate(start, shuffled)
        assert (result.digest, result.history) == (reference.digest, reference.history)
    assert start.round == 0 and start.history == () and torch.equal(start.shared["w"], torch.zeros(3))


def test_participants_are_a_fraction_that_changes_with_the_round():
    sites = [f"s{i}" for i in range(10)]
    algorithm = FederatedAlgorithm(seed=3, participation=0.3)
    drawn = [algorithm.participants(ServerState(round, SHARED), sites) for round in range(60)]
    assert all(len(set(chosen)) == 3 and list(chosen) == sorted(chosen) for chosen in drawn)
    assert set().union(*drawn) == set(sites)
    assert drawn == [algorithm.participants(ServerState(round, SHARED), sites[::-1]) for round in range(60)]
    assert FederatedAlgorithm(participation=0.01).participants(ServerState(0, SHARED), sites[:2])
    assert FederatedAlgorithm().participants(ServerState(0, SHARED), sites) == tuple(sites)


def test_best_round_has_the_highest_score_before_training():
    algorithm = FederatedAlgorithm()
    state = algorithm.start(SHARED)
    assert algorithm.broadcast(state, "a").best_round is None
    for round, scores in enumerate([(10, 20), (30, 32), (31, 31), (12, 40)]):
        reports = [update("a", score=scores[0], round=round), update("b", score=scores[1], round=round)]
        state = algorithm.aggregate(state, reports)
    assert state.best == RoundScore(1, 2, 31.0, {"a": 30, "b": 32})
    assert algorithm.broadcast(state, "a").best_round == 1
    assert [score.round for score in state.history] == [0, 1, 2, 3]


def test_a_mean_over_fewer_sites_never_becomes_best():
    algorithm = FederatedAlgorithm()
    state = algorithm.aggregate(algorithm.start(SHARED), [update("easy", score=40.0), update("hard", score=20.0)])
    state = algorithm.aggregate(state, [update("easy", score=39.0, round=1)])
    assert state.best is not None and state.best.round == 0


def test_without_scores_there_is_no_best_round():
    algorithm = FederatedAlgorithm()
    state = algorithm.aggregate(algorithm.start(SHARED), [update("a", score=None)])
    assert state.best is None
    scored = algorithm.score(state, [update("a", score=None, round=1)])
    assert scored.history[-1].round == scored.round == 1 and scored.shared is state.shared


def test_stale_and_duplicate_replies_are_refused():
    algorithm = FederatedAlgorithm()
    with pytest.raises(ValueError, match="several replies of a"):
        algorithm.aggregate(algorithm.start(SHARED), [update("a"), update("b"), update("a")])
    with pytest.raises(ValueError, match="b answers round 5, expected 0"):
        algorithm.aggregate(algorithm.start(SHARED), [update("a"), update("b", round=5)])
    with pytest.raises(ValueError, match="no contributions"):
        algorithm.aggregate(algorithm.start(SHARED), [])


@pytest.mark.parametrize(
    "wrong",
    [{"participation": 0.0}, {"participation": 1.5}, {"schedule": "never"}, {"both_ways": True}],
)
def test_wrong_choices_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FederatedAlgorithm(**wrong)


def test_seeds_depend_on_every_part_and_never_change():
    assert derive_seed(0, 1, "north") == 240818973835113743
    assert seed_from("0 north anatomy", bits=32) == 1836439034
    seeds = {derive_seed(s, r, n) for s in range(3) for r in range(30) for n in ("a", "b", "ab")}
    assert len(seeds) == 270
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_cyclic_participants_take_turns():
    sites = ["c", "a", "b"]
    algorithm = FederatedAlgorithm(schedule="cyclic", participation=1e-6)
    drawn = [algorithm.participants(ServerState(round, SHARED), sites) for round in range(4)]
    assert drawn == [("a",), ("b",), ("c",), ("a",)]


def test_a_description_tells_algorithms_apart():
    rules = [FederatedAlgorithm(rule=SERVER_RULES[name]()) for name in SERVER_RULES]
    chains = [FederatedAlgorithm(chain=Chain((TRANSFORMS["int8"](),)), both_ways=both) for both in (False, True)]
    described = [json.dumps(algorithm.describe()) for algorithm in [*rules, *chains]]
    assert len(set(described)) == len(described)
    assert FederatedAlgorithm().describe() == FederatedAlgorithm().describe()


def test_what_a_lossy_broadcast_leaves_out_is_sent_later():
    generator = torch.Generator().manual_seed(0)
    start = {"w": torch.zeros(1000)}
    algorithm = FederatedAlgorithm(chain=Chain((TRANSFORMS["topk"](fraction=0.3),)), both_ways=True)
    state, goal = algorithm.start(start), torch.randn(1000, generator=generator)
    for round in range(12):
        first = algorithm.broadcast(state, "a")
        assert first.encoded == (round > 0)  # the site has stored the broadcast of the round before
        assert not algorithm.broadcast(state, "late").encoded
        change = goal if round == 0 else torch.zeros(1000)
        state = algorithm.aggregate(state, [update("a", round=round, shared={"w": state.shared["w"] + change})])
    torch.testing.assert_close(state.shared["w"], goal, rtol=1e-5, atol=1e-6)
