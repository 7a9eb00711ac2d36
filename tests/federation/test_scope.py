import pytest
import torch
from torch import nn

from federation import ConfigError, ScopeRules, load_parameters, parameter_scope, parameters_of

from .toy_federation import ToyConsistency, ToyNetwork


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
