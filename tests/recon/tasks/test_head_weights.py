"""Which trained tensors a head takes over: from a head, from a network of torchvision, from a file."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from recon import DataError, TaskLabels
from recon.tasks import class_parameters, make_head, read_head_file, start_head

ONE, TWO = (TaskLabels("segmentation", tuple("ab")[:count]) for count in (1, 2))
SLICES = TaskLabels("classification", ("a",))
SIZE = {"channels": 4, "depth": 1}


def state(head: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() + 0.1 for name, tensor in head.named_parameters()}


def test_the_last_layers_are_those_whose_shapes_depend_on_the_classes() -> None:
    assert class_parameters("unet", ONE, SIZE) == {"last.weight", "last.bias"}
    assert class_parameters("resnet18", SLICES, {}) == {"network.fc.weight", "network.fc.bias"}


@pytest.mark.parametrize("same", [True, False])
def test_all_but_the_last_layers_start_from_a_head_of_other_labels(same: bool) -> None:
    head, trained = make_head("unet", TWO, SIZE), state(make_head("unet", TWO, SIZE))
    begun = {name: tensor.clone() for name, tensor in head.named_parameters()}
    start = start_head(head, trained, class_parameters("unet", TWO, SIZE), same_labels=same)
    assert set(start.new) == (set() if same else {"last.weight", "last.bias"})
    for name, parameter in head.named_parameters():
        assert torch.equal(parameter, begun[name] if name in start.new else trained[name]), name
    assert str(start) == f"{len(start.taken)} tensors are taken over (first, down, reduce, up{', last' * same}); " + (
        "new: nothing" if same else "new: last"
    )


def test_a_classifier_starts_from_the_encoder_of_a_unet() -> None:
    head, trained = make_head("cnn_classifier", SLICES, SIZE), state(make_head("unet", ONE, SIZE))
    start = start_head(head, trained, class_parameters("cnn_classifier", SLICES, SIZE), same_labels=False)
    assert start.new == ("last.weight", "last.bias") and {name.split(".")[0] for name in start.taken} == {
        "first",
        "down",
    }
    assert torch.equal(head.get_parameter("down.0.0.weight"), trained["down.0.0.weight"])


def test_a_head_that_does_not_fit_is_refused() -> None:
    classes = class_parameters("unet", ONE, SIZE)
    with pytest.raises(ValueError, match=r"found first.0.weight of shape \(8, 1, 3, 3\), expected \(4, 1, 3, 3\)"):
        start_head(
            make_head("unet", ONE, SIZE), state(make_head("unet", ONE, {"channels": 8})), classes, same_labels=True
        )
    with pytest.raises(ValueError, match=r"found no tensor reduce.0.weight, expected one of shape"):
        start_head(
            make_head("unet", ONE, SIZE), state(make_head("cnn_classifier", SLICES, SIZE)), classes, same_labels=False
        )


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_head_with_weights_of_torchvision_computes_what_torchvision_computes(name: str) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model(name, weights=None, num_classes=1).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    head = make_head(name, SLICES, {"norm": "affine"}).eval()
    start_head(head, network.state_dict(), set(), same_labels=True)
    images = torch.rand(2, 1, 40, 40)
    with torch.no_grad():
        expected = network(images.expand(-1, 3, -1, -1))
        assert torch.allclose(head(images), expected, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(ValueError, match=r"found running statistics .* set task.head_options = {norm = 'affine'}"):
        start_head(make_head(name, SLICES, {}), network.state_dict(), set(), same_labels=True)


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="found no safetensors file"):
        read_head_file(path)
    safetensors.torch.save_file({"a": torch.tensor([torch.nan])}, path)
    with pytest.raises(DataError, match="a holds numbers that are not finite"):
        read_head_file(path)
