"""Slices as a head sees them while the network before it stays as it is: every image is made once."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from physics import Sampling

from ..data import Sample, SampleMeta, VolumeSlices, collate
from ..errors import DataError
from ..method import apply, to_device_of
from .network import TaskNetwork


@dataclass(eq=False)
class ImageStore:
    """Images of slices in memory; beyond ``most_bytes`` those that were not used for longest go."""

    most_bytes: int = 256 * 2**20
    n_bytes: int = field(default=0, init=False)
    _images: OrderedDict[Hashable, tuple[Tensor, SampleMeta]] = field(default_factory=OrderedDict, init=False)

    def get(self, key: Hashable) -> tuple[Tensor, SampleMeta] | None:
        """The image of a key and its origin; None: it is not there."""
        if (found := self._images.get(key)) is not None:
            self._images.move_to_end(key)
        return found

    def put(self, key: Hashable, image: Tensor, meta: SampleMeta) -> None:
        """Keep an image of a new key, if it fits at all."""
        if image.nbytes > self.most_bytes:
            return
        self._images[key] = image, meta
        self.n_bytes += image.nbytes
        while self.n_bytes > self.most_bytes:
            self.n_bytes -= self._images.popitem(last=False)[1][0].nbytes


class SeenSlices:
    """Slices whose measurement and reference are the image that the head of a frozen network reads.

    A head that is trained or scored on their references (``Downstream(input="reference")``) sees what it sees in the
    network, bit for bit whether the image was stored or is made again: images are made one by one.

    Parameters
    ----------
    samples
        Slices without augmentation.
    network
        Network whose reconstruction stays as it is.
    on_reference
        Whether the head reads references, or images of the network.
    store, key
        Where images are kept. The key must differ for other slices and other parameters of the reconstruction.
    """

    def __init__(
        self, samples: VolumeSlices, network: TaskNetwork, *, on_reference: bool, store: ImageStore, key: Hashable
    ) -> None:
        self._samples, self._network, self._on_reference = samples, network, on_reference
        self._store, self._key = store, key

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        number, i = self._samples.locate(index)
        key = self._key, number, i
        if (stored := self._store.get(key)) is None:
            stored = self._made(self._samples[index])
            self._store.put(key, *stored)
        image, meta = stored
        return Sample(
            measurement=image,
            operator=Sampling(torch.ones(1, 1, dtype=torch.bool), tuple(image.shape)),
            noise_std=torch.zeros(()),
            reference=image,
            scale=torch.ones(()),
            condition=None,
            meta=(meta,),
            label=self._samples.label(number, i),
        )

    def _made(self, sample: Sample) -> tuple[Tensor, SampleMeta]:
        if self._on_reference and sample.reference is None:
            raise DataError(f"{sample.meta[0].volume}: has no reference for the head to read; leave the file out")
        reconstruction = self._network.reconstruction
        batch, training = to_device_of(self._network, collate([sample])), reconstruction.training
        try:
            with torch.no_grad():
                seen = batch.target() if self._on_reference else batch.magnitude(apply(reconstruction.eval(), batch))
        finally:
            reconstruction.train(training)
        return seen[0].cpu(), sample.meta[0]
