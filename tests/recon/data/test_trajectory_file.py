"""Files of samples along a trajectory: written, read, refused; facts of a measured radial scan."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from physics import (
    NonCartesianMRI,
    birdcage_maps,
    complex_noise,
    golden_angle_trajectory,
    phantom_volume,
    radial_trajectory,
)
from recon import (
    MRI_READERS,
    DataError,
    Header,
    NonCartesianCG,
    NonCartesianSlices,
    TrajectorySimulation,
    collate,
    convert_scan,
    held_out_split,
    open_trajectory,
    write_non_cartesian,
)

SHAPE, COILS = (32, 28), 4
TRAJECTORY = golden_angle_trajectory(40, 64)


def samples(trajectory: torch.Tensor = TRAJECTORY, noise: float = 0.01, coils: int = COILS) -> torch.Tensor:
    A = NonCartesianMRI(birdcage_maps(coils, SHAPE, seed=2), trajectory)
    y = torch.stack([A(image) for image in phantom_volume(2, SHAPE, seed=1)])
    return y + complex_noise(y.shape, noise, torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_non_cartesian(
        tmp_path / "a.h5", samples(), TRAJECTORY, SHAPE, noise=1e-4 * np.eye(COILS), patient_id="p", acquisition="T1"
    )
    return tmp_path / "a.h5"


def test_a_file_is_read_as_it_was_written(file: Path) -> None:
    assert MRI_READERS.detect(file) == "trajectory"
    volume = open_trajectory(file)
    assert torch.equal(volume.read_slice(1), samples()[1]) and torch.equal(volume.positions(1), TRAJECTORY)
    assert (volume.shape, volume.image_shape, volume.patient_id) == ((2, COILS, 40, 64), SHAPE, "p")
    assert torch.equal(pickle.loads(pickle.dumps(volume)).positions(0), TRAJECTORY)
    np.testing.assert_allclose(volume.noise_covariance, 1e-4 * np.eye(COILS))
    assert volume.description == "4 coils 40x64 samples of 32x28"
    copy = file.with_name("b.h5")
    (made,) = convert_scan(file, copy)
    assert torch.equal(open_trajectory(copy).read_slice(0), samples()[0])
    assert (
        "2 slices, 4 coils, 40 spokes of 64 samples, image 32x28; radial, 1.26x; noise covariance" in made.description
    )


def test_a_sample_is_the_measurement_without_reference(file: Path) -> None:
    data = NonCartesianSlices([file], "north", format="trajectory")
    sample = data[1]
    assert sample.reference is None and sample.meta[0].reference_kind == "none"
    torch.testing.assert_close(sample.measurement * sample.scale, samples()[1], rtol=1e-5, atol=1e-6)
    assert float(sample.noise_std * sample.scale) == pytest.approx(0.01, rel=1e-3)
    assert data.acceleration(0) == sample.meta[0].acceleration == pytest.approx(np.pi * 16 / 40, rel=0.01)
    assert data.completeness(0) == "40 spokes of 64 samples" and 8 <= (data.calibration(0) or 0) <= 28
    image = NonCartesianCG()(sample.measurement, sample.operator).abs() * sample.scale
    assert np.corrcoef(image.flatten(), phantom_volume(2, SHAPE, seed=1)[1].abs().flatten())[0, 1] > 0.95
    kept, held_out = held_out_split(collate([data[0], data[1]]), 0.3, torch.Generator().manual_seed(0))
    assert held_out.shape == (2, 1, 40, 1) and isinstance(kept.operator, NonCartesianMRI)
    assert data.check(0) == []


def test_slices_may_have_positions_of_their_own_and_noise_is_estimated(tmp_path: Path) -> None:
    each = torch.stack((TRAJECTORY, golden_angle_trajectory(40, 64, first=40)))
    y = torch.stack([samples(positions, noise=0.05)[i] for i, positions in enumerate(each)])
    write_non_cartesian(tmp_path / "a.h5", y, each, SHAPE)
    data = NonCartesianSlices([tmp_path / "a.h5"], "north", format="trajectory")
    assert torch.equal(data[1].operator.trajectory, each[1])  # type: ignore[attr-defined]
    facts = data.volume_facts(0)
    assert facts.noise_is_estimated and 0.045 < facts.noise_std < 0.2
    for sample in (data[0], data[1]):
        A = sample.operator
        residual = A(A.start(sample.measurement)) - sample.measurement
        assert float(residual.norm() / sample.measurement.norm()) < 0.2
    convert_scan(tmp_path / "a.h5", tmp_path / "b.h5")
    assert torch.equal(open_trajectory(tmp_path / "b.h5").positions(1), each[1])


def test_many_coils_are_compressed_and_correlated_noise_whitened(tmp_path: Path) -> None:
    mix = torch.eye(6) + 0.3 * torch.ones(6, 6)
    write_non_cartesian(tmp_path / "a.h5", samples(coils=6), TRAJECTORY, SHAPE, noise=1e-4 * (mix @ mix.T).numpy())
    sample = NonCartesianSlices([tmp_path / "a.h5"], "north", format="trajectory", compress_coils=3)[0]
    assert sample.measurement.shape == (3, 40, 64) == sample.operator.range_shape


def test_what_makes_a_scan_doubtful_is_said(tmp_path: Path) -> None:
    y = samples()
    y[1, :, 5] = 0
    write_non_cartesian(tmp_path / "a.h5", y, TRAJECTORY, SHAPE)
    (line,) = NonCartesianSlices([tmp_path / "a.h5"], "north", format="trajectory").check(0)
    assert "kspace[1]: found only zeros in 1 of 40 spokes" in line
    few = radial_trajectory(3, 64)
    write_non_cartesian(tmp_path / "b.h5", samples(few), few, SHAPE)
    lines = NonCartesianSlices([tmp_path / "b.h5"], "north", format="trajectory").check(0)
    assert any("expected at least 4" in line and "measure more spokes" in line for line in lines)
    # The object fills the image of a scan that is told to have half its field of view.
    small = (SHAPE[0] // 2, SHAPE[1] // 2)
    dense = radial_trajectory(90, 64)
    write_non_cartesian(tmp_path / "c.h5", samples(dense), dense, small)
    (line,) = NonCartesianSlices([tmp_path / "c.h5"], "north", format="trajectory").check(0)
    assert "of the signal outside of the image of 16x14 pixels" in line


def test_a_simulation_of_a_measured_scan_is_refused(file: Path) -> None:
    with pytest.raises(DataError, match=r"trajectory: found samples along a trajectory, expected Cartesian .*\[simul"):
        NonCartesianSlices([file], "north", format="trajectory", simulate=TrajectorySimulation("radial", 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": samples().real}, "samples: found float32 of shape"),
        ({"samples": samples()[..., :0]}, "samples: found complex64 of shape"),
        ({"samples": samples() * torch.nan}, "samples: found NaN or infinite values"),
        ({"samples": samples() * 0}, "samples: found only zeros"),
        ({"trajectory": TRAJECTORY[:-1]}, r"trajectory: found float64 of shape \(39, 64, 2\), expected real \(40, 64"),
        ({"trajectory": TRAJECTORY * torch.nan}, "trajectory: found NaN or infinite positions"),
        ({"trajectory": TRAJECTORY * 64}, "trajectory: found a position of 32, expected positions from -0.5 to 0.5"),
        ({"trajectory": TRAJECTORY * 0}, "trajectory: found only zeros"),
        ({"header": Header((8, 8), (8, 8), (0, 8))}, r"header: found encoded matrix \(8, 8\), expected the size of"),
        ({"noise": np.eye(3)}, "noise_covariance: found"),
    ],
)
def test_arrays_that_cannot_be_written_are_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = {"samples": samples(), "trajectory": TRAJECTORY, "shape": SHAPE} | change
    with pytest.raises(DataError, match=words):
        write_non_cartesian(tmp_path / "a.h5", **given)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("trajectory", np.zeros((40, 64, 3)), r"trajectory: found float64 of shape \(40, 64, 3\), expected real"),
        ("trajectory", np.full((40, 64, 2), np.inf), r"trajectory\[0\]: found NaN or infinite positions"),
        ("trajectory", np.full((40, 64, 2), 0.6), r"trajectory\[0\]: found a position of 0.6"),
        ("kspace", np.zeros((2, 4, 40, 64)), "kspace: found float64"),
        ("kspace", np.full((2, 4, 40, 64), np.nan + 0j), r"kspace\[0\]: found NaN or infinite values"),
        ("ismrmrd_header", None, "ismrmrd_header: found nothing, expected the header, with the size of the image"),
        ("ismrmrd_header", "<a/>", "encodedSpace/matrixSize/x: found nothing"),
        ("noise_covariance", np.eye(3), "noise_covariance: found"),
    ],
)
def test_files_that_cannot_be_used_are_named(file: Path, key: str, value: Any, words: str) -> None:
    with h5py.File(file, "r+") as content:
        del content[key]
        if value is not None:
            content[key] = value
    with pytest.raises(DataError, match=words) as caught:
        MRI_READERS.open(file, "trajectory").read_slice(0)
    assert "\n" not in str(caught.value)
