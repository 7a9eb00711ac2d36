"""Sites of radial and spiral scans, simulated from Cartesian k-space."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from physics import NonCartesianMRI, birdcage_maps, ifft2c, phantom_volume, root_sum_of_squares
from recon import (
    DataError,
    KSpaceSlices,
    NonCartesianCG,
    NonCartesianSlices,
    NonCartesianTV,
    Sample,
    Simulation,
    TrajectorySimulation,
    ZeroFilled,
    coil_covariance,
    collate,
    held_out_split,
    simulate_volume,
    simulated_header,
    write_volume,
)

SHAPE = (64, 56)


def write(
    path: Path,
    *,
    covariance: torch.Tensor | None = None,
    recon: tuple[int, int] | None = None,
    mask: torch.Tensor | None = None,
) -> Path:
    images, maps = phantom_volume(2, SHAPE, seed=1), birdcage_maps(6, SHAPE, seed=2)
    stated = torch.zeros(6, 6) if covariance is None else covariance
    kspace = simulate_volume(images, maps, noise_covariance=covariance)
    header = simulated_header(SHAPE, recon)
    facts = {"patient_id": "p", "acquisition": "T1"}
    write_volume(path, kspace, header, mask=mask, maps=maps, noise_covariance=stated, **facts)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.h5")


def psnr(image: torch.Tensor, sample: Sample) -> float:
    target, found = sample.target(), sample.magnitude(image)
    return float(20 * torch.log10(target.max() / (found - target).square().mean().sqrt()))


@pytest.mark.parametrize("family", ["radial", "golden_angle", "spiral"])
@pytest.mark.parametrize("maps", ["espirit", "low_resolution", "true"])
def test_a_sample_is_the_image_at_the_positions(file: Path, family: str, maps: str) -> None:
    sample = NonCartesianSlices([file], "north", simulate=TrajectorySimulation(family, 2.0), maps=maps)[1]
    A, reference = sample.operator, sample.reference
    assert isinstance(A, NonCartesianMRI) and reference is not None and reference.dtype == torch.complex64
    assert sample.measurement.shape == A.range_shape and float(sample.noise_std) == 0
    # Against the transform of the coil images of the file, without maps.
    volume = KSpaceSlices([file], "north").volumes[0]
    one = NonCartesianMRI(torch.ones(1, *SHAPE, dtype=torch.complex64), A.trajectory)
    expected = one(ifft2c(volume.read_slice(1)))[:, 0] / sample.scale
    torch.testing.assert_close(sample.measurement, expected, rtol=1e-4, atol=1e-5)
    # Estimated maps explain the measurement of the combined image.
    error = A(reference) - sample.measurement
    assert float(error.norm() / sample.measurement.norm()) < (1e-3 if maps == "true" else 0.04)
    assert sample.condition is not None and sample.meta[0].acceleration > 1.5
    assert psnr(A.start(sample.measurement), sample) > psnr(ZeroFilled()(sample.measurement, A), sample) + 1


def test_scale_reference_and_noise_are_those_of_the_cartesian_site(file: Path) -> None:
    cartesian = KSpaceSlices([file], "north", simulate=Simulation("random", 2, 0.3, 0.02), maps="true")[0]
    radial = NonCartesianSlices([file], "north", simulate=TrajectorySimulation("radial", 2, 0.02), maps="true")[0]
    assert float(radial.noise_std * radial.scale) == pytest.approx(float(cartesian.noise_std * cartesian.scale))
    assert radial.reference is not None and cartesian.reference is not None
    found, expected = radial.magnitude(radial.reference), cartesian.magnitude(cartesian.reference)
    torch.testing.assert_close(found * radial.scale, expected * cartesian.scale, rtol=1e-3, atol=1e-3)
    noise = radial.measurement - radial.operator(radial.reference)
    assert float(noise.abs().square().mean().sqrt()) == pytest.approx(float(radial.noise_std), rel=0.05)


def test_correlated_noise_is_whitened_and_coils_are_compressed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", covariance=1e-6 * coil_covariance(6, seed=1))
    data = NonCartesianSlices([file], "north", simulate=TrajectorySimulation("radial", 2, 0.05), compress_coils=4)
    sample = data[0]
    assert sample.measurement.shape[0] == 4 and sample.reference is not None
    noise = (sample.measurement - sample.operator(sample.reference)).flatten(1)
    covariance = noise @ noise.mH / noise.shape[1] / sample.noise_std**2
    # Compression leaves an error of the image, too, which is small beside this noise.
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.complex64), rtol=0, atol=0.12)


def test_the_oversampling_of_the_readout_is_removed_first(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h5", recon=(32, 56))
    full = TrajectorySimulation("radial", 1)
    sample = NonCartesianSlices([file], "north", simulate=full)[0]
    assert sample.operator.domain_shape == (32, 56) and sample.target().shape == (32, 56)
    whole = NonCartesianSlices([file], "north", simulate=TrajectorySimulation("radial", 1), remove_oversampling=False)[
        0
    ]
    assert whole.operator.domain_shape == SHAPE
    torch.testing.assert_close(whole.target() * whole.scale, sample.target() * sample.scale, rtol=0.02, atol=0.02)


def test_without_simulation_the_columns_are_the_spokes(tmp_path: Path) -> None:
    mask = torch.arange(56) % 2 == 0
    mask[20:36] = True
    file = write(tmp_path / "a.h5", mask=mask)
    plain, spokes = (kind([file], "north")[0] for kind in (KSpaceSlices, NonCartesianSlices))
    assert (
        torch.equal(spokes.measurement.mT, plain.measurement)
        and spokes.meta[0].acceleration == plain.meta[0].acceleration
    )
    x = phantom_volume(1, SHAPE, seed=3)[0]
    torch.testing.assert_close(spokes.operator(x).mT, plain.operator(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(spokes.operator.sampled.expand(6, 56, 64).mT, plain.operator.sampled.expand(6, 64, 56))
    with pytest.raises(DataError, match=r"a\.h5: mask: found an undersampled file, expected a fully sampled one"):
        NonCartesianSlices([file], "north", simulate=TrajectorySimulation("radial", 2))


def test_batches_hold_out_spokes_and_share_the_trajectory(file: Path) -> None:
    data = NonCartesianSlices([file], "north", simulate=TrajectorySimulation("golden_angle", 2, 0.01))
    batch = collate([data[0], data[1]])
    assert batch.operator.trajectory.ndim == 3
    kept, held_out = held_out_split(batch, 0.3, torch.Generator().manual_seed(0))
    assert held_out.shape == (2, 1, 50, 1) and isinstance(kept.operator, NonCartesianMRI)
    assert [tuple(array.shape) for array in data.arrays([data[0], data[1]]).values()] == [
        (2, 6, 50, 128), (2, 50, 128, 2), (2, 6, *SHAPE), (2, *SHAPE),
    ]  # fmt: skip


def test_few_spokes_warn_of_poor_maps(file: Path) -> None:
    data = NonCartesianSlices([file], "north", simulate=TrajectorySimulation("golden_angle", 12))
    assert data.calibration(0) == 2
    (line,) = data.check(0)
    assert "[simulate]: found 2 calibration lines" in line and "lower the acceleration" in line


@pytest.mark.parametrize(
    ("sampling", "acceleration", "noise", "words"),
    [
        ("random", 2, 0.0, "sampling is 'random', expected one of radial, golden_angle, spiral"),
        ("radial", 0.5, 0.0, "acceleration is 0.5, expected at least 1"),
        ("radial", 2, -1.0, "noise_std is -1.0, expected 0 or more"),
    ],
)
def test_bad_settings_are_refused(sampling: str, acceleration: float, noise: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrajectorySimulation(sampling, acceleration, noise)


def test_classical_methods_beat_gridding_in_every_batch_and_at_every_scale(file: Path) -> None:
    data = NonCartesianSlices([file], "north", simulate=TrajectorySimulation("golden_angle", 4, 0.03))
    batch, single = collate([data[0], data[1]]), data[1]
    scores = {}
    for method in (ZeroFilled(), NonCartesianCG(), NonCartesianTV()):
        image = method(batch.measurement, batch.operator)
        assert image.dtype == torch.complex64
        alone = method(single.measurement, single.operator)
        torch.testing.assert_close(image[1], alone, rtol=1e-3, atol=1e-3)
        scaled = method(1e-4 * single.measurement, single.operator)
        torch.testing.assert_close(1e4 * scaled, alone, rtol=1e-3, atol=1e-3)
        assert not method(torch.zeros_like(batch.measurement), batch.operator).any()
        scores[type(method).__name__] = psnr(alone, single)
    assert scores["ZeroFilled"] + 1 < scores["NonCartesianCG"] < scores["NonCartesianTV"], scores
    with pytest.raises(ValueError, match="weight is 0, expected a positive number"):
        NonCartesianTV(0)


@pytest.mark.parametrize("make", [NonCartesianCG, NonCartesianTV])
def test_a_weight_does_not_depend_on_the_number_of_samples(
    file: Path, make: Callable[[], NonCartesianCG | NonCartesianTV]
) -> None:
    sample = NonCartesianSlices([file], "north", simulate=TrajectorySimulation("golden_angle", 4, 0.03))[0]
    A, y = sample.operator, sample.measurement
    assert isinstance(A, NonCartesianMRI)
    twice = NonCartesianMRI(A.maps, torch.cat((A.trajectory, A.trajectory)))
    expected, found = make()(y, A), make()(torch.cat((y, y), dim=1), twice)
    assert float((found - expected).norm() / expected.norm()) < 0.01


def test_reconstructions_of_all_coils_are_as_bright_as_the_file(file: Path) -> None:
    data = NonCartesianSlices([file], "north", simulate=TrajectorySimulation("radial", 1))
    sample = data[0]
    image = sample.magnitude(sample.operator.start(sample.measurement)) * sample.scale
    rss = root_sum_of_squares(ifft2c(data.volumes[0].read_slice(0)))
    assert float((image * rss).sum() / rss.square().sum()) == pytest.approx(1, abs=0.02)
