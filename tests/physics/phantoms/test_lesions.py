"""Heads with lesions whose labels are known."""

import pytest
import torch

from physics import PHANTOM_FAMILIES, body_volume, lesion_volume, lung_lesion_volume, phantom_volume

SHAPE = (64, 60)


@pytest.mark.parametrize("family", sorted(PHANTOM_FAMILIES))
def test_labels_are_where_the_image_differs_from_a_head_without_lesions(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the labels and their blurred edges nothing changes; inside, most pixels do."""
    from physics.phantoms import head

    images, labels = lesion_volume(4, SHAPE, 7, family)
    monkeypatch.setattr(head, "LESION_RADIUS", (1e-6, 1e-6))
    plain, none = lesion_volume(4, SHAPE, 7, family)
    assert int(labels.sum()) > 40 and int(none.sum()) == 0 and labels.unique().tolist() == [0, 1]
    near = torch.nn.functional.max_pool2d(labels[:, None].float(), 5, 1, 2)[:, 0] > 0
    # Where a lesion is the brightest pixel, all others are darker by one factor.
    bright = ~near & (plain.abs() > 0.1)
    factor = (plain[bright].abs() / images[bright].abs()).median()
    changed = (images.abs() * factor - plain.abs()).abs() > 0.02
    assert int((changed & ~near).sum()) <= 0.025 * int(labels.sum())  # lesions of less than half a pixel
    assert float(changed[labels == 1].float().mean()) > 0.8


def test_lesions_are_few_to_many_small_to_large_and_inside_the_head() -> None:
    volumes = [lesion_volume(4, SHAPE, seed, "flair") for seed in range(24)]
    pixels = torch.tensor([int(labels.sum()) for _, labels in volumes])
    assert 1 <= int((pixels == 0).sum()) <= 8 and int(pixels.max()) > 8 * int(pixels[pixels > 0].min())
    for images, labels in volumes:
        assert (images.abs()[labels == 1] > 0).all()
    # No threshold separates them: many pixels outside are as bright.
    inside = torch.cat([images.abs()[labels == 1] for images, labels in volumes])
    outside = torch.cat([images.abs()[labels == 0] for images, labels in volumes])
    assert int((outside > inside.median()).sum()) > 0.2 * len(inside)


def test_a_seed_is_one_head_at_every_size() -> None:
    images, labels = lesion_volume(3, (96, 96), 5)
    again, _ = lesion_volume(3, (96, 96), 5)
    assert torch.equal(images, again)
    _, small = lesion_volume(3, (48, 48), 5)
    shrunk = torch.nn.functional.avg_pool2d(labels[:, None].float(), 2)[:, 0] >= 0.5
    assert float((shrunk != small.bool()).float().sum()) <= 0.3 * float(small.sum() + 1)
    with pytest.raises(ValueError, match="n_slices is 0"):
        lesion_volume(0, SHAPE, 0)
    assert phantom_volume(3, (48, 48), 5).shape == small.shape


def test_lesions_of_the_lungs_are_denser_than_the_lungs_and_the_body_stays() -> None:
    images, labels = lung_lesion_volume(3, (64, 64), 1)
    body = body_volume(3, (64, 64), 1, "chest")
    assert labels.unique().tolist() == [0, 1] and 20 < int(labels.sum()) < 600
    near = torch.nn.functional.max_pool2d(labels[:, None].float(), 5, 1, 2)[:, 0] > 0
    same = ((images - body).abs() < 1.0)[~near]
    assert float(same.float().mean()) > 0.98  # but for the lesions of the body that are not drawn
    assert float(images[labels == 1].median()) > -100 > float(body[labels == 1].median())
    with pytest.raises(ValueError, match="n_slices is 0"):
        lung_lesion_volume(0, SHAPE, 0)
