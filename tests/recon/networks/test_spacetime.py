"""Regularizers of three axes: symmetries, single frames, batches; one toy volume is learned."""

import pytest
import torch
from torch import Tensor, nn

from physics import CineMRI, VolumeMRI, birdcage_maps, complex_noise, phantom_volume
from recon import (
    MODALITIES,
    ConvRegularizer,
    GradientStep,
    ProximalStep,
    Sample,
    SampleMeta,
    SpaceTimeRegularizer,
    UNetRegularizer,
    UnrolledNetwork,
    VolumeRegularizer,
    collate,
    evaluate,
    train_locally,
)
from recon.training.losses import ssim_loss


def perturbed(network: nn.Module) -> nn.Module:
    """Regularizers start as the identity: other numbers, so that every parameter counts."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network


def frames(n_frames: int, batch: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*batch, n_frames, 12, 10, dtype=torch.complex64, generator=generator)


def test_time_is_periodic_and_space_is_not() -> None:
    network, x = perturbed(SpaceTimeRegularizer(4, 3)), frames(6)
    torch.testing.assert_close(network(x.roll(2, -3)), network(x).roll(2, -3))
    assert not torch.allclose(network(x.roll(2, -1)), network(x).roll(2, -1), atol=1e-3)


def test_a_frame_sees_the_mean_over_time_and_its_neighbors() -> None:
    network, x = perturbed(SpaceTimeRegularizer(4, 3)), frames(9)

    def moved(*changes: tuple[int, float]) -> list[bool]:
        changed = x.clone()
        for frame, change in changes:
            changed[frame] += change
        return ((network(changed) - network(x)).abs().amax((-2, -1)) > 1e-4).tolist()

    assert moved((0, 1.0)) == [True] * 9
    # The mean stays: two layers in time reach two neighbors on either side.
    assert moved((0, 1.0), (1, -1.0)) == [True, True, True, True, False, False, False, True, True]


def test_one_frame_is_its_own_neighbor() -> None:
    network, x = perturbed(SpaceTimeRegularizer(4, 3)), frames(1)
    torch.testing.assert_close(network(x.expand(5, 12, 10)), network(x).expand(5, 12, 10))


@pytest.mark.parametrize("make", [SpaceTimeRegularizer, VolumeRegularizer])
def test_a_2d_scan_is_a_single_frame_and_samples_of_a_batch_do_not_mix(make: type[SpaceTimeRegularizer]) -> None:
    batch = MODALITIES["mri"].batch(3)
    network = perturbed(UnrolledNetwork(2, GradientStep, lambda: make(4, 2)))
    whole = network(batch.measurement, batch.operator)
    for seed in range(3):
        sample = MODALITIES["mri"].example(seed)
        torch.testing.assert_close(whole[seed], network(sample.measurement, sample.operator), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"got an image of shape \(12, 10\), expected 3 axes or more"):
        make(4, 2)(frames(1)[0])
    with pytest.raises(ValueError, match="depth is 1, expected at least 2"):
        make(4, 1)


@pytest.mark.parametrize("options", [{}, {"condition_dim": 3}, {"noise_level": True}])
def test_a_2d_network_treats_frames_one_by_one(options: dict[str, int]) -> None:
    batch = MODALITIES["cine"].batch(2)
    A, y = batch.operator, batch.measurement
    assert isinstance(A, CineMRI)
    network = UnrolledNetwork(
        1, GradientStep, lambda: UNetRegularizer(4, 1, **options), start="adjoint",
        uses_condition="condition_dim" in options, noise_level="noise_level" in options,
    )  # fmt: skip
    perturbed(network.regularizers)
    condition = torch.tensor([[1.0, 2.0, -1.0], [0.5, -2.0, 3.0]]) if "condition_dim" in options else None
    noise = torch.tensor([0.02, 0.05]) if "noise_level" in options else None
    image = network(y, A, condition, noise)
    assert image.shape == (2, 3, 16, 14)
    if condition is not None:
        swapped = network(y, A, condition.flip(0), noise)
        assert not torch.allclose(swapped[0], image[0], atol=1e-3)
        alone = network(y[:1], CineMRI(A.maps[:1], A.mask[:1]), condition[:1], noise)
        torch.testing.assert_close(alone[0], image[0], rtol=1e-3, atol=1e-4)


def volume(seed: int) -> Sample:
    """A fictitious head of eight partitions, three coils, half of the phase-encoded positions."""
    shape = (8, 16, 16)
    image = phantom_volume(shape[0], shape[1:], seed=seed)
    turns = torch.polar(torch.ones(8), torch.linspace(0, 1, 8))
    maps = birdcage_maps(3, shape[1:], seed=seed).unsqueeze(1) * turns[:, None, None]
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[6:10, 6:10] = True
    A = VolumeMRI(maps, mask)
    noise = complex_noise(A.range_shape, 0.01, torch.Generator().manual_seed(seed)) * A.sampled
    meta = SampleMeta("toy", f"volume_{seed}", 0, 2.0, "coil_combined")
    return Sample(A(image) + noise, A, torch.tensor(0.01), image, torch.tensor(1.0), None, (meta,))


@pytest.mark.parametrize("consistency", [GradientStep, ProximalStep])
def test_a_3d_network_learns_one_volume(consistency: type[GradientStep]) -> None:
    sample = volume(1)
    assert sample.reference is not None
    torch.manual_seed(0)
    network = UnrolledNetwork(2, consistency, lambda: VolumeRegularizer(8, 3))
    before = evaluate(network, [sample]).mean("psnr")
    losses = train_locally(network, [sample], steps=60, batch_size=1, learning_rate=5e-3).losses
    after = evaluate(network, [sample]).mean("psnr")
    assert before is not None and after is not None and losses[-1] < losses[0]
    assert after > before + 2


def test_volumes_make_a_batch() -> None:
    network = perturbed(UnrolledNetwork(1, GradientStep, lambda: VolumeRegularizer(4, 2)))
    samples = [volume(seed) for seed in range(2)]
    batch = collate(samples)
    image = network(batch.measurement, batch.operator)
    for index, sample in enumerate(samples):
        torch.testing.assert_close(image[index], network(sample.measurement, sample.operator), rtol=1e-3, atol=1e-4)


def test_a_volume_regularizer_moves_with_the_volume() -> None:
    network, x = perturbed(VolumeRegularizer(4, 2)), torch.zeros(9, 12, 12, dtype=torch.complex64)
    x[4, 5, 5] = 1 + 2j
    for axis in range(3):
        torch.testing.assert_close((network(x.roll(1, axis)))[3:7, 3:8, 3:8], network(x).roll(1, axis)[3:7, 3:8, 3:8])


def test_the_loss_of_frames_is_that_of_2d_images() -> None:
    generator = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, 2, 3, 12, 12, generator=generator)
    torch.testing.assert_close(ssim_loss(image, target), ssim_loss(image.flatten(0, 1), target.flatten(0, 1)))
    assert ConvRegularizer.image_axes == 2
