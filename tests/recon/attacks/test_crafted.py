"""Crafted parameters brighten the output, whatever the order in which the parameters are stored."""

import pytest
import torch

from recon import MODALITIES, NetworkSettings, UnrolledNetwork, collate, crafted_parameters


def network(regularizer: str, cascades: int, attention: bool = False) -> UnrolledNetwork:
    settings = NetworkSettings(regularizer=regularizer, cascades=cascades, channels=2, attention=attention)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return settings.build()


def named(net: UnrolledNetwork) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize(
    ("regularizer", "cascades", "attention"), [("cnn", 1, False), ("unet", 2, True), ("cnn", 11, False)]
)
def test_the_mean_of_the_output_rises(regularizer: str, cascades: int, attention: bool) -> None:
    """Checkpoints sort by name: there the last bias of a U-Net is not the output's, nor cascade 9 the last of 11."""
    net = network(regularizer, cascades, attention)
    sample = collate([MODALITIES["mri"].example(0)])
    before = named(net)
    shared = {name: before[name] for name in sorted(before) if name.startswith("regularizers.")}
    crafted = crafted_parameters(shared, list(before))
    output = f"regularizers.{cascades - 1}.last.bias"
    changed = {name for name, tensor in shared.items() if tensor.ndim == 1 and not tensor.equal(crafted[name])}
    assert changed == {output}
    with torch.no_grad():
        dark = net(sample.measurement, sample.operator).abs()
        net.load_state_dict(before | crafted)
        bright = net(sample.measurement, sample.operator).abs()
    assert float(bright.mean()) > 3 * float(dark.max())


def test_without_a_bias_only_the_weights_grow() -> None:
    shared = {"b.weight": torch.ones(2, 2), "a.scale": torch.ones(2)}
    crafted = crafted_parameters(shared, ["b.weight", "a.scale"])
    assert torch.equal(crafted["b.weight"], torch.full((2, 2), 3.0)) and torch.equal(crafted["a.scale"], torch.ones(2))
    with pytest.raises(ValueError, match=r"found b\.weight"):
        crafted_parameters(shared, ["a.scale"])
