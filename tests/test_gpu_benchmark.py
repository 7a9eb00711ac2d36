"""Benchmarks of a GPU (benchmarks/gpu.py) on the CPU: what they count, and regularizers in bfloat16."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nibabel")  # of the benchmarks' images

ROOT = Path(__file__).parents[1]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import gpu_steps

    return gpu_steps


def test_numbers_that_are_read_back_are_counted(steps: Any) -> None:
    with steps.NumbersRead() as reads:
        x = torch.ones(3).sum()
        assert reads.count == 0
        assert float(x) == 3.0 and bool(x > 2)
    assert reads.count == 2


@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_a_step_of_the_default_networks_reads_no_number_and_bfloat16_is_that_of_regularizers_alone(
    steps: Any, modality: str
) -> None:
    from bfloat16_regularizers import RECIPES, bfloat16_regularizers

    from federation import build_network, load_recipe

    A, x = steps._mri(32) if modality == "mri" else steps._ct(32)
    network, y = build_network(load_recipe(RECIPES[modality]).network), A(x).contiguous()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    step = steps._plain(network, A, y)
    single = step()
    with steps.NumbersRead() as reads:
        step()
    assert reads.count == 0  # a CUDA graph allows none
    seen: list[torch.dtype] = []
    layer = network.regularizers[0].hidden[0]
    with bfloat16_regularizers(network):
        hook = layer.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
        half, image = step(), network(y, A)
        hook.remove()
    assert set(seen) == {torch.bfloat16} and image.dtype == x.dtype and half.dtype == torch.float32
    assert 1e-5 < float((half - single).norm() / single.norm()) < 0.05
    assert torch.equal(step(), single)  # as before, outside
