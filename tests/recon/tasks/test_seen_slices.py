"""Images of a frozen network in memory: what a head sees, how often they are made, how many are kept."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recon import (
    MODALITIES,
    DataError,
    Downstream,
    ImageStore,
    Sample,
    SeenSlices,
    TaskLabels,
    TaskNetwork,
    collate,
    make_head,
)

LABELS = TaskLabels("segmentation", ("bright",))


class Start(nn.Module):
    """The start image; counts its calls."""

    uses_condition = uses_noise = False
    calls = 0

    def forward(self, y: Tensor, A: Any) -> Tensor:
        self.calls += 1
        image: Tensor = A.start(y)
        return image


class Scan:
    """Three slices with labels."""

    def __init__(self, modality: str) -> None:
        self.slices = [MODALITIES[modality].example(seed) for seed in range(3)]

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> Sample:
        return self.slices[index]

    def locate(self, index: int) -> tuple[int, int]:
        return 0, index

    def label(self, number: int, i: int) -> Tensor:
        target = self.slices[i].target()
        return (target > target.mean()).long()


def seen(scan: Scan, network: TaskNetwork, store: ImageStore, *, on_reference: bool = False) -> SeenSlices:
    samples: Any = scan
    return SeenSlices(samples, network, on_reference=on_reference, store=store, key="scan")


def network() -> TaskNetwork:
    torch.manual_seed(0)
    return TaskNetwork(Start(), make_head("unet", LABELS, {"channels": 4, "depth": 1}), LABELS)


@pytest.mark.parametrize("modality", ["mri", "ct"])
@pytest.mark.parametrize("way", ["reference", "reconstruction"])
def test_the_loss_of_a_head_is_that_on_the_slice_itself(modality: str, way: Any) -> None:
    scan, net = Scan(modality), network()
    images = seen(scan, net, ImageStore(), on_reference=way == "reference")
    generator = torch.Generator()
    for index in range(len(scan)):
        whole = collate([replace(scan[index], label=scan.label(0, index))])
        expected, _ = Downstream(input=way)(net, whole, generator)
        found, _ = Downstream(input="reference")(net, collate([images[index]]), generator)
        assert torch.equal(found, expected) and images[index].meta == scan[index].meta


def test_an_image_is_made_once_or_again_where_the_store_is_full() -> None:
    scan, net = Scan("mri"), network()
    size = scan[0].target().nbytes
    for fits, calls in ((0, 6), (1, 6), (3, 3)):
        store = ImageStore(most_bytes=fits * size)
        images, net.reconstruction.calls = seen(scan, net, store), 0  # type: ignore[assignment]
        first = [images[index].target() for index in range(3)]
        again = [images[index].target() for index in range(3)]
        assert net.reconstruction.calls == calls and store.n_bytes == fits * size
        assert all(map(torch.equal, first, again))


def test_a_head_that_reads_references_needs_them() -> None:
    scan = Scan("mri")
    scan.slices = [replace(sample, reference=None) for sample in scan.slices]
    with pytest.raises(DataError, match="has no reference for the head to read"):
        seen(scan, network(), ImageStore(), on_reference=True)[0]
