"""Heads, their losses and validation scores, and the network around them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from recon import MODALITIES, Sample, TaskLabels, apply, collate, task_accuracy, task_score_in_db, validation_accuracy
from recon.data import UNLABELLED
from recon.errors import DataError
from recon.tasks import (
    TASK_HEADS,
    TASK_LOSSES,
    TaskNetwork,
    head_input,
    make_head,
    predictions,
    probabilities,
    task_input,
    task_network_of,
)

MAPS = TaskLabels("segmentation", ("a", "b"))
TABLE = TaskLabels("classification", ("a", "b"))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Start(nn.Module):
    """The start image, scaled by a parameter."""

    uses_condition = uses_noise = False

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, y: Tensor, A: object) -> Tensor:
        return self.factor * A.start(y)  # type: ignore[attr-defined]


class Told(nn.Module):
    """Returns given logits, whatever it reads."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), *self.logits.shape[1:])


# --- heads ---


@pytest.mark.parametrize(
    ("name", "labels", "options", "message"),
    [
        ("cnn_classifier", MAPS, {}, "head for classification, expected a head for segmentation, such as 'unet'"),
        ("unet", TABLE, {}, "a head for segmentation, expected a head for classification, such as 'cnn_classifier'"),
        ("unet", MAPS, {"depth": 0}, r"head_options: UNetHead: channels is 16, depth 0, expected at least 1 each"),
        ("unet", MAPS, {"chanels": 2}, r"found 'chanels', expected one of .*did you mean 'channels'"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    name: str, labels: TaskLabels, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(name, labels, options)


def test_heads_of_both_kinds_and_of_torchvision_are_registered() -> None:
    assert {"unet", "cnn_classifier", "resnet18"} <= set(TASK_HEADS)


# --- losses ---


@pytest.mark.parametrize("name", TASK_LOSSES["segmentation"])
def test_losses_of_maps_fall_with_the_right_class_and_leave_out_unlabelled_pixels(name: str) -> None:
    loss, label = TASK_LOSSES["segmentation"][name], torch.randint(0, 3, (2, 6, 5))
    right = 8.0 * nn.functional.one_hot(label, 3).movedim(-1, 1)
    assert loss(right, label) < 0.1 * loss(0 * right, label) < loss(-right, label)
    label[:, :3] = UNLABELLED
    other = right.clone()
    other[:, :, :3] = numbers(2, 3, 3, 5)
    assert torch.equal(loss(right, label), loss(other, label))
    logits = numbers(2, 3, 6, 5).requires_grad_()
    loss(logits, torch.full_like(label, UNLABELLED)).backward()
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("name", TASK_LOSSES["classification"])
def test_losses_of_classes_fall_with_the_right_answer_and_leave_out_unknown_ones(name: str) -> None:
    loss, label = TASK_LOSSES["classification"][name], torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right = 8 * (2 * label - 1)
    assert loss(right, label) < 0.1 * loss(0 * right, label) < loss(-right, label)
    label[0, 1] = torch.nan
    other = right.clone()
    other[0, 1] = 3.0
    assert torch.equal(loss(right, label), loss(other, label)) and loss(right, label).isfinite()
    logits = numbers(2, 2).requires_grad_()
    loss(logits, torch.full_like(label, torch.nan)).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_dice_and_cross_entropy_by_hand() -> None:
    """Two pixels, one class: p = (0.5, 0.5) of the class, labels (1, 0)."""
    loss = TASK_LOSSES["segmentation"]["dice_ce"](torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 0]]]))
    dice = (2 * 0.5 + 1) / (1.0 + 1.0 + 1)
    assert float(loss) == pytest.approx(float(torch.tensor(2.0).log()) + 1 - dice)


def test_focal_losses_are_cross_entropy_times_the_square_of_the_error() -> None:
    logits, label = numbers(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    p = logits.softmax(1).gather(1, label[:, None])
    expected = ((1 - p) ** 2 * -p.log()).mean()
    assert torch.allclose(TASK_LOSSES["segmentation"]["focal"](logits, label), expected)
    truth = torch.tensor([[1.0, 0.0]])
    p = torch.where(truth == 1, logits[0, :2, 0, 0].sigmoid(), 1 - logits[0, :2, 0, 0].sigmoid())
    expected = ((1 - p) ** 2 * -p.log()).mean()
    assert torch.allclose(TASK_LOSSES["classification"]["focal"](logits[:, :2, 0, 0], truth), expected)


# --- network ---


@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_the_network_returns_the_image_and_the_head_reads_it_in_units_of_its_maximum(modality: str) -> None:
    batch = MODALITIES[modality].batch()
    network = TaskNetwork(Start(), make_head("unet", MAPS, {"channels": 2, "depth": 1}), MAPS)
    image, logits = predictions(network, batch)
    assert torch.equal(image, apply(network, batch)) and image.shape == (2, *batch.operator.domain_shape)
    assert logits.shape == (2, 3, *batch.target().shape[1:])
    assert torch.allclose(probabilities(MAPS, logits).sum(1), torch.ones(()))
    seen = task_input(batch, image)
    assert torch.equal(seen, head_input(batch.magnitude(image))) and seen.shape[1] == 1
    assert torch.allclose(task_input(batch, 7 * image), seen, rtol=1e-4, atol=1e-5)
    assert torch.allclose(seen.flatten(1).abs().quantile(0.995, dim=1), torch.ones(()), atol=0.02)
    assert not bool(head_input(torch.zeros(1, 4, 4)).any())
    assert task_network_of(nn.Sequential(network)) is network and task_network_of(network.head) is None


def test_frames_are_refused() -> None:
    with pytest.raises(DataError, match="found images of 3 axes, expected height and width"):
        head_input(torch.zeros(1, 3, 4, 4))


# --- validation ---


def labelled(logits: Tensor, *labels: Tensor) -> tuple[TaskNetwork, list[Sample]]:
    kind = MAPS if logits.ndim == 4 else TABLE
    example = MODALITIES["mri"].example(0)
    samples = [
        replace(example, label=label, meta=(replace(example.meta[0], volume=f"volume_{number}"),))
        for number, label in enumerate(labels)
    ]
    return TaskNetwork(Start(), Told(logits), kind), samples


def test_accuracy_of_maps_is_the_mean_dice_of_volumes_and_classes_that_are_shown() -> None:
    shape = MODALITIES["mri"].example(0).target().shape
    found = torch.zeros(shape, dtype=torch.int64)
    found[:4] = 1
    logits = 50.0 * nn.functional.one_hot(found, 3).movedim(-1, 0)[None]
    half = torch.zeros_like(found)
    half[:2] = 1
    unknown = found.clone()
    unknown[2:] = UNLABELLED  # nobody labelled the rest: the prediction there does not count
    for label, dice in ((found, 1.0), (half, 2 / 3), (unknown, 1.0)):
        network, samples = labelled(logits, label)
        accuracy = validation_accuracy(network, samples, on_reference=True)
        assert accuracy == pytest.approx(dice, abs=2e-3)
    network, samples = labelled(logits, found, half)
    assert validation_accuracy(network, samples, on_reference=False) == pytest.approx((1 + 2 / 3) / 2, abs=2e-3)
    network, samples = labelled(logits, torch.full_like(found, UNLABELLED))
    assert validation_accuracy(network, samples, on_reference=True) is None


def test_of_rounds_with_no_overlap_the_likelier_one_is_better() -> None:
    shape = MODALITIES["mri"].example(0).target().shape
    label = torch.ones(shape, dtype=torch.int64)
    scores = []
    for logit in (-5.0, -1.0):
        logits = torch.zeros(1, 3, *shape)
        logits[:, 1] = logit
        network, samples = labelled(logits, label)
        scores.append(validation_accuracy(network, samples, on_reference=True))
    assert 0 < scores[0] < scores[1] < 1e-3  # type: ignore[operator]


def test_accuracy_of_classes_is_the_likelihood() -> None:
    logits = torch.tensor([[2.0, -1.0]])
    truth = [torch.tensor([1.0, 0.0]), torch.tensor([torch.nan, 1.0]), torch.tensor([torch.nan, torch.nan])]
    network, samples = labelled(logits, *truth)
    p = logits[0].sigmoid()
    first = ((p[0] * (1 - p[1])).log() / 2).item()
    expected = torch.tensor([first, p[1].log().item()]).mean().exp().item()
    assert validation_accuracy(network, samples, on_reference=True) == pytest.approx(expected, rel=1e-5)
    assert validation_accuracy(network, samples[2:], on_reference=True) is None


def test_scores_in_decibels_are_those_of_the_error_and_can_be_read_back() -> None:
    assert task_score_in_db(0.9) == pytest.approx(10.0) and task_score_in_db(1.0) == 100.0
    assert task_accuracy(task_score_in_db(0.37)) == pytest.approx(0.37)


def test_a_batch_of_one_shape_with_and_without_labels_is_told_apart() -> None:
    example = MODALITIES["mri"].example(0)
    with pytest.raises(ValueError, match="2 kinds"):
        collate([example, replace(example, label=torch.zeros(example.target().shape, dtype=torch.int64))])
