import pytest
import torch
from torch import nn

from federation import ConfigError
from federation.methods import ScopeRules, load_parameters, parameter_scope, parameters_of

from ..toy_federation import ToyConsistency, ToyNetwork


def test_data_consistency_is_kept_and_the_rest_shared():
    scope = parameter_scope(ToyNetwork())
    assert scope.kept == ("consistency.log_scale",)
    assert scope.shared == (
        "regularizer.0.bias",
        "regularizer.0.weight",
        "regularizer.2.bias",
        "regularizer.2.weight",
    )


def test_patterns_override_the_default():
    scope = parameter_scope(ToyNetwork(), ScopeRules(keep=("regularizer.2.*",), share=("consistency.*",)))
    assert scope.kept == ("regularizer.2.bias", "regularizer.2.weight")
    assert "consistency.log_scale" in scope.shared


def test_every_parameter_is_in_exactly_one_half():
    network = ToyNetwork()
    scope = parameter_scope(network, ScopeRules(keep=("*.bias",)))
    assert sorted(scope.shared + scope.kept) == sorted(name for name, _ in network.named_parameters())
    assert not set(scope.shared) & set(scope.kept)


@pytest.mark.parametrize(
    ("keep", "share", "words"),
    [
        (["regulariser.*"], [], ["'regulariser.*'", "matches no parameter", "regularizer.0.weight"]),
        (["regularizer.*"], ["*.bias"], ["regularizer.0.bias", "keep", "share", "disjoint"]),
        (["regularizer.0.*", "*.bias"], [], ["regularizer.0.bias", "disjoint"]),
        (["regularizer.*"], [], ["nothing is shared", "`local`"]),
    ],
)
def test_a_wrong_scope_map_is_one_line_that_names_what_is_wrong(keep, share, words):
    with pytest.raises(ConfigError) as error:
        parameter_scope(ToyNetwork(), ScopeRules(keep=tuple(keep), share=tuple(share)))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_a_tied_tensor_counts_once_under_any_of_its_names():
    network = nn.Module()
    network.first = nn.Linear(2, 2)
    network.second = network.first
    network.third = nn.Linear(2, 2)
    assert parameter_scope(network).shared == ("first.bias", "first.weight", "third.bias", "third.weight")
    assert parameter_scope(network, ScopeRules(keep=("second.*",))).kept == ("first.bias", "first.weight")


def test_a_tensor_that_is_also_in_data_consistency_never_travels():
    network = nn.Module()
    network.a = nn.Linear(2, 2)
    network.z = ToyConsistency()
    network.a.bias = network.z.log_scale
    assert parameter_scope(network).kept == ("a.bias",)


def test_buffers_with_state_and_integer_parameters_are_refused():
    with pytest.raises(ConfigError, match="running_mean"):
        parameter_scope(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    network = nn.Linear(2, 2)
    network.register_buffer("constant", torch.zeros(3), persistent=False)
    assert parameter_scope(network).shared == ("bias", "weight")
    network.register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    with pytest.raises(ConfigError, match="phase"):
        parameter_scope(network)


def test_parameters_are_copied_out_and_in():
    network = ToyNetwork()
    state = parameters_of(network, ["regularizer.0.bias"])
    state["regularizer.0.bias"] += 1
    assert not torch.equal(network.regularizer[0].bias, state["regularizer.0.bias"])
    load_parameters(network, state)
    assert torch.equal(network.regularizer[0].bias, state["regularizer.0.bias"])
    with pytest.raises(ValueError, match=r"regularizer\.0\.bias.*\(2,\).*\(3,\)"):
        load_parameters(network, {"regularizer.0.bias": torch.zeros(2)})


def test_frozen_parameters_neither_travel_nor_stay():
    scope = parameter_scope(ToyNetwork(), ScopeRules(freeze=("regularizer.0.*",)))
    assert scope.frozen == ("regularizer.0.bias", "regularizer.0.weight")
    assert scope.shared == ("regularizer.2.bias", "regularizer.2.weight")


def test_delta_freezes_all_else_that_would_travel():
    scope = parameter_scope(ToyNetwork(), ScopeRules(delta=("*.bias",)))
    assert scope.shared == ("regularizer.0.bias", "regularizer.2.bias")
    assert scope.frozen == ("regularizer.0.weight", "regularizer.2.weight")
    assert scope.kept == ("consistency.log_scale",)
    with pytest.raises(ConfigError, match=r"delta: consistency.log_scale stay at the site"):
        parameter_scope(ToyNetwork(), ScopeRules(delta=("consistency.*",)))


def test_a_mixed_parameter_starts_between_the_broadcast_and_that_of_the_round_before():
    scope = parameter_scope(ToyNetwork(), ScopeRules(mix={"regularizer.0.bias": 0.25}))
    shared = {name: torch.full((4,), 4.0) for name in scope.shared}
    previous = {name: torch.zeros(4) for name in scope.shared}
    blended = scope.blend(shared, previous)
    assert torch.equal(blended["regularizer.0.bias"], torch.ones(4)) and scope.needs_previous
    assert torch.equal(blended["regularizer.2.bias"], shared["regularizer.2.bias"])
    assert scope.blend(shared, {}) == shared  # before its first training a site has no previous parameters


def test_the_channels_that_differ_most_stay():
    scope = parameter_scope(ToyNetwork(), ScopeRules(channels={"regularizer.2.weight": 0.5}))
    shared = {name: torch.ones(4, 3) for name in scope.shared}
    previous = {name: torch.ones(4, 3) * torch.tensor([1.0, 9.0, 1.1, 3.0])[:, None] for name in scope.shared}
    blended = scope.blend(shared, previous)["regularizer.2.weight"]
    assert blended[:, 0].tolist() == [1.0, 9.0, 1.0, 3.0]


@pytest.mark.parametrize("part", [0.0, 1.0, 1.5])
def test_a_part_out_of_range_is_refused(part):
    with pytest.raises(ConfigError, match="expected 0 < part < 1"):
        parameter_scope(ToyNetwork(), ScopeRules(mix={"regularizer.*": part}))


def test_only_what_travels_can_be_mixed():
    with pytest.raises(ConfigError, match=r"consistency.log_scale do not travel"):
        parameter_scope(ToyNetwork(), ScopeRules(mix={"consistency.*": 0.5}))
