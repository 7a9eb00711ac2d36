"""Hidden patches, and the variance that a head explains in them."""

import pytest
import torch
from torch import Tensor, nn

from recon import (
    MODALITIES,
    DataError,
    MaskedImages,
    TaskLabels,
    TaskNetwork,
    explained_variance,
    head_input,
    hide_patches,
)

NO_LABELS = TaskLabels("segmentation", ())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Copy(nn.Module):
    """Returns what it reads, changed by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.shift


def test_whole_patches_are_hidden_and_others_in_every_image() -> None:
    images = 1 + torch.rand(2, 1, 10, 12, generator=generator())
    visible, hidden = hide_patches(images, 4, 0.5, generator(3))
    assert torch.equal(visible, torch.where(hidden, 0.0, images))
    patches = hidden[..., ::4, ::4].flatten(1)  # 3 x 3 patches, the lower ones cut off
    assert patches.sum(1).tolist() == [4, 4] and not torch.equal(patches[0], patches[1])
    full = patches.view(2, 1, 3, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :10, :12]
    assert torch.equal(hidden, full)
    assert hide_patches(images, 6, 0.99, generator())[1][..., ::6, ::6].flatten(1).sum(1).tolist() == [3, 3]
    with pytest.raises(DataError, match="found images of 10x12 with patch = 16, expected at least two patches"):
        hide_patches(images, 16, 0.5, generator())


def test_a_head_that_sees_zeros_explains_nothing_and_the_loss_is_that_of_the_hidden_pixels_alone() -> None:
    samples = [MODALITIES["mri"].example(seed) for seed in (0, 1)]
    network = TaskNetwork(nn.Identity(), Copy(), NO_LABELS)
    score = explained_variance(network, samples, on_reference=True, patch=4, part=0.5)
    assert score == 0.0
    batch = MODALITIES["mri"].batch()
    loss, image = MaskedImages(patch=4)(network, batch, generator(1))
    assert image is batch.reference
    images = head_input(batch.target())
    hidden = hide_patches(images, 4, 0.5, generator(1))[1]
    assert float(loss.detach()) == pytest.approx(float(images[hidden].square().mean()))


@pytest.mark.parametrize("options", [{"input": "end_to_end"}, {"patch": 0}, {"part": 1.0}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="MaskedImages"):
        MaskedImages(**options)  # type: ignore[arg-type]
