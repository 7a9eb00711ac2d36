"""Images that are collected while a site is scored."""

import pytest
import torch

from federation.experiment.score_site import _Collected
from recon import VolumeImages


@pytest.mark.parametrize(
    ("shapes", "joined"),
    [([(2, 4, 5), (1, 4, 5)], (3, 4, 5)), ([(2, 4, 5), None], None), ([(2, 4, 5), (1, 3, 5)], None), ([None], None)],
)
def test_references_are_joined_only_if_every_volume_has_one_of_the_same_size(
    shapes: list[tuple[int, ...] | None], joined: tuple[int, ...] | None
) -> None:
    collected = _Collected()
    receive = collected.receiver("tv")
    for number, shape in enumerate(shapes):
        reference = None if shape is None else torch.ones(shape)
        receive(VolumeImages(f"{number}.h5", (), torch.ones(shape or (2, 4, 5)), reference))
    found = collected.all_references()
    assert (None if found is None else found.shape) == joined
    assert collected.volumes == [f"{number}.h5" for number in range(len(shapes))]
