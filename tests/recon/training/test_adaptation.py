"""Adaptation to one scan: it improves the scan without its reference, stops by itself, and leaves its input alone."""

from dataclasses import replace

import pytest
import torch

from physics import brain_phantom
from recon import (
    MODALITIES,
    ConvRegularizer,
    DataError,
    GradientStep,
    RandomScans,
    Sample,
    UnrolledNetwork,
    adapt,
    apply,
    collate,
)


def network() -> UnrolledNetwork:
    torch.manual_seed(0)
    return UnrolledNetwork(3, GradientStep, lambda: ConvRegularizer(8, 3), ends_in="consistency")


def scan(index: int = 3) -> Sample:
    return RandomScans([brain_phantom((48, 48), seed, "t1").abs() for seed in range(3)], 8, seed=4)[index]


def error(net: torch.nn.Module, sample: Sample) -> float:
    with torch.no_grad():
        image = apply(net, collate([sample]))[0]
    assert sample.reference is not None
    return float((image.abs() - sample.reference.abs()).norm() / sample.reference.norm())


@pytest.mark.slow
def test_it_improves_the_scan_without_its_reference() -> None:
    sample, net = scan(5), network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    seen: list[int] = []
    blind = [replace(sample, reference=None)]
    adapted = adapt(net, blind, steps=60, learning_rate=1e-3, progress=lambda n, _: seen.append(n))
    assert adapted.best > 0 and 0 < adapted.gain < 1
    assert error(adapted.network, sample) < error(net, sample)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert seen == [10 * (i + 1) for i in range(len(adapted.residuals) - 1)]


def test_it_keeps_the_network_where_nothing_improves() -> None:
    net = network()
    adapted = adapt(net, [scan()], steps=60, learning_rate=3.0, patience=2)
    assert adapted.best == 0 and adapted.gain == 0 and len(adapted.residuals) == 3
    for name, tensor in adapted.network.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])


def test_equal_seeds_give_equal_networks() -> None:
    states = [adapt(network(), [scan()], steps=10, learning_rate=1e-3, seed=s).residuals for s in (1, 1, 2)]
    assert states[0] == states[1] != states[2]


@pytest.mark.parametrize("name", MODALITIES)
def test_every_modality_can_be_adapted(name: str) -> None:
    samples = [MODALITIES[name].example(seed) for seed in range(2)]
    adapted = adapt(network(), samples, steps=4, check_every=2)
    assert len(adapted.residuals) >= 2 and all(value > 0 for value in adapted.residuals)


def test_unknown_noise_is_estimated_and_an_empty_scan_is_refused() -> None:
    sample = scan()
    blind = replace(sample, noise_std=torch.tensor(0.0))
    told = replace(sample, noise_std=sample.operator.estimate_noise_std(sample.measurement))
    found = [adapt(network(), [each], steps=2, check_every=1).residuals for each in (blind, told)]
    assert found[0] == found[1]
    empty = replace(sample, measurement=torch.zeros_like(sample.measurement))
    with pytest.raises(DataError, match="found no measurement"):
        adapt(network(), [empty], steps=1)


def test_too_few_measurements_and_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="steps 0"):
        adapt(network(), [scan()], steps=0)
    with pytest.raises(ValueError, match="0 slices"):
        adapt(network(), [])
    sample = scan()
    few = sample.operator.restrict(~sample.operator.hold_out_candidates())
    with pytest.raises(DataError, match="found 0 candidates"):
        adapt(network(), [replace(sample, operator=few)])
