"""ISMRMRD files with trajectories: the same images as from the same samples in our own layout, or one line."""

import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from physics import (
    NonCartesianMRI,
    birdcage_maps,
    complex_noise,
    golden_angle_trajectory,
    ifft2c,
    phantom_volume,
    radial_trajectory,
    root_sum_of_squares,
    spiral_trajectory,
)
from recon import (
    MRI_READERS,
    DataError,
    KSpaceSlices,
    NonCartesianSlices,
    TrajectoryVolume,
    convert_scan,
    open_volume,
    write_non_cartesian,
)

from .raw_files import NAVIGATOR, NOISE, REVERSE, RawFile, encoding_xml, header_of

Array = NDArray[Any]
N, COILS = 32, 3
SHAPE = (N, N)
TRAJECTORIES = {
    "radial": radial_trajectory(40, 2 * N),
    "goldenangle": golden_angle_trajectory(40, 2 * N),
    "spiral": spiral_trajectory(8, 300, 4.0),
}


def xml(kind: str = "radial", fov: float = 240.0, depth: int = 1, slab: float = 1.0, oversampling: float = 2.0) -> str:
    """Header of a scan with an oversampled readout, whose phase size is the number of spokes, as scanners write it."""
    text = encoding_xml(
        (round(N * oversampling), 40, depth), (N, N, round(depth / slab)), oversampling=oversampling, trajectory=kind,
        slab=slab,
    )  # fmt: skip
    text = text.replace("<y>200.0</y>", "<y>240.0</y>")
    return header_of(text.replace("240.0", str(fov)).replace("480.0", str(fov * oversampling)))


def measured(trajectory: torch.Tensor, slices: int = 2, seed: int = 1, shape: tuple[int, int] = SHAPE) -> Array:
    """Samples ``(slices, coils, spokes, samples)`` of phantoms without symmetry, with a little noise."""
    maps = birdcage_maps(COILS, shape, seed=2)
    A = NonCartesianMRI(maps, trajectory)
    y = torch.stack([A(image) for image in phantom_volume(slices, shape, seed=seed)])
    return (1e-5 * (y + complex_noise(y.shape, 0.005, torch.Generator().manual_seed(0)))).numpy()


def add_spokes(raw: RawFile, samples: Array, positions: Any, **keys: Any) -> RawFile:
    """Lines of ``(slices, coils, spokes, samples)`` with positions ``(spokes, samples, axes)``."""
    for number, one in enumerate(samples):
        for spoke in range(one.shape[1]):
            raw.add(
                one[:, spoke],
                positions=None if positions is None else np.asarray(positions[spoke]),
                kspace_encode_step_1=spoke,
                **{"slice": number, **keys},
            )
    return raw


def opened(path: Path, **options: Any) -> TrajectoryVolume:
    assert MRI_READERS.detect(path) == "ismrmrd"
    volume = MRI_READERS.open(path, "ismrmrd", **options)
    assert isinstance(volume, TrajectoryVolume)
    return volume


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, **options).read_slice(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", TRAJECTORIES)
def test_the_image_is_that_of_the_same_samples_in_our_layout(kind: str, tmp_path: Path) -> None:
    trajectory = TRAJECTORIES[kind]
    samples = measured(trajectory)
    raw = add_spokes(RawFile(xml(kind)), samples, trajectory)
    np.random.default_rng(0).shuffle(order := list(range(len(raw.lines))))
    raw.lines, raw.positions = [raw.lines[i] for i in order], {n: raw.positions[i] for n, i in enumerate(order)}
    volume = opened(raw.write(tmp_path / "a.mrd"))
    assert volume.shape == samples.shape and volume.image_shape == volume.crop_shape == SHAPE
    np.testing.assert_array_equal(volume.read_slice(1), samples[1])
    np.testing.assert_allclose(volume.positions(1), trajectory, atol=1e-7)
    assert (volume.patient_id, volume.acquisition, volume.header.model) == ("p7", "t2_tse", "One")
    assert volume.header.trajectory == kind and "positions in cycles/pixel" in volume.reading
    assert volume.pixel_mm == (240 / N, 240 / N)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume)).positions(0), volume.positions(0))
    write_non_cartesian(tmp_path / "own.h5", samples, trajectory, SHAPE)
    (made,) = convert_scan(tmp_path / "a.mrd", tmp_path / "copy.h5")
    images = []
    for path, format in (
        (tmp_path / "a.mrd", "ismrmrd"),
        (tmp_path / "own.h5", "trajectory"),
        (made.path, "trajectory"),
    ):
        data = NonCartesianSlices([path], "site", format=format)
        sample = data[1]
        assert sample.reference is None and isinstance(sample.operator, NonCartesianMRI)
        images.append(sample.magnitude(sample.operator.start(sample.measurement)) * sample.scale)
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-4 * float(images[1].max()))
    torch.testing.assert_close(images[0], images[2], rtol=0, atol=0)
    truth = phantom_volume(2, SHAPE, seed=1)[1].abs()
    assert np.corrcoef(images[0].flatten(), truth.flatten())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("unit", "scale"),
    [
        ("cycles/pixel", 1.0),
        ("rad/pixel", 2 * math.pi),
        ("cycles/fov", N),
        ("cycles/encoded_fov", 2 * N),
        ("1/mm", N / 240),
        ("1/m", 1000 * N / 240),
        ("rad/mm", 2 * math.pi * N / 240),
        ("rad/m", 2000 * math.pi * N / 240),
    ],
)
def test_units_are_told_from_the_data(unit: str, scale: float, tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["radial"]
    raw = add_spokes(RawFile(xml()), measured(trajectory, 1), scale * trajectory)
    for options in ({}, {"trajectory_unit": unit}):
        volume = opened(raw.write(tmp_path / "a.h5"), **options)
        np.testing.assert_allclose(volume.positions(0), trajectory, atol=1e-7)
        assert f"positions in {unit}" in volume.reading


def test_an_unclear_unit_is_refused_and_can_be_named(tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["radial"]
    samples = measured(trajectory, 1)
    # Pixels of 1.05 mm: 0.476 is the edge in 1/mm and nearly the edge in cycles per pixel.
    raw = add_spokes(RawFile(xml(fov=1.05 * N)), samples, trajectory / 1.05)
    assert "found positions up to 0.4762: cycles/pixel or 1/mm, expected one unit that fits; name it" in refused(
        raw.write(tmp_path / "a.h5")
    )
    volume = opened(tmp_path / "a.h5", trajectory_unit="1/mm")
    np.testing.assert_allclose(volume.positions(0), trajectory, atol=1e-7)
    # A scan that ends early fits no unit, but is right in a named one.
    raw = add_spokes(RawFile(xml()), samples, 0.3 * trajectory)
    assert "positions up to 0.15, expected the edge of k-space: 0.5 in cycles/pixel, 3.142 in rad/pixel" in refused(
        raw.write(tmp_path / "b.h5")
    )
    assert float(opened(tmp_path / "b.h5", trajectory_unit="cycles/pixel").positions(0).abs().max()) < 0.16
    raw = add_spokes(RawFile(xml()), samples, 1.2 * trajectory)
    message = refused(raw.write(tmp_path / "c.h5"), trajectory_unit="cycles/pixel")
    assert "positions up to 1.2 of the half width of k-space" in message
    message = refused(tmp_path / "c.h5", trajectory_unit="inch")
    assert "trajectory_unit: found 'inch', expected one of cycles/pixel, rad/pixel" in message
    lacking = xml().replace("fieldOfView_mm", "fieldOfView_cm")
    add_spokes(bare := RawFile(lacking), samples, trajectory)
    assert "no field of view for positions in 1/mm" in refused(bare.write(tmp_path / "d.h5"), trajectory_unit="1/mm")


def test_noise_discards_reversed_lines_and_others(tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["goldenangle"]
    samples = measured(trajectory, 1)
    raw, draw = RawFile(xml()), np.random.default_rng(1)
    for _ in range(200):
        noise = draw.standard_normal((COILS, 256)) + 1j * draw.standard_normal((COILS, 256))
        raw.add(noise / 2**0.5, flags=NOISE, time_us=10.0)
    raw.add(np.ones((COILS, 2 * N)), flags=NAVIGATOR)
    padded = np.pad(samples, ((0, 0), (0, 0), (0, 0), (3, 2)), constant_values=99)
    positions = np.pad(trajectory.numpy(), ((0, 0), (3, 2), (0, 0)), constant_values=7)
    for spoke in range(40):
        one, at = padded[0, :, spoke], positions[spoke]
        turn = slice(None, None, -1) if spoke % 2 else slice(None)
        raw.add(
            np.ascontiguousarray(one[:, turn]), positions=at[turn], kspace_encode_step_1=spoke, center=N + 3,
            discard=(2, 3) if spoke % 2 else (3, 2), flags=REVERSE if spoke % 2 else 0,
        )  # fmt: skip
    volume = opened(raw.write(tmp_path / "a.h5"))
    np.testing.assert_array_equal(volume.read_slice(0), samples[0])
    np.testing.assert_allclose(volume.positions(0), trajectory, atol=1e-7)
    assert volume.noise_covariance is not None
    np.testing.assert_allclose(volume.noise_covariance, 2 * np.eye(COILS), atol=0.05)
    assert "20 reversed lines turned round" in volume.reading and "1 navigator lines" in volume.reading
    assert not NonCartesianSlices([tmp_path / "a.h5"], "site", format="ismrmrd").volume_facts(0).noise_is_estimated


def test_repetitions_are_volumes_and_frames_have_positions_of_their_own(tmp_path: Path) -> None:
    trajectory = golden_angle_trajectory(80, 2 * N)
    samples = measured(trajectory, 1)
    raw = RawFile(xml("goldenangle"))
    for spoke in range(80):
        raw.add(
            samples[0, :, spoke], positions=trajectory[spoke].numpy(), kspace_encode_step_1=spoke,
            phase=spoke // 20 % 2, repetition=spoke // 40,
        )  # fmt: skip
    volume = opened(raw.write(tmp_path / "a.h5"))
    assert volume.shape == (2, COILS, 20, 2 * N) and "2 frames x 1 slices" in volume.reading
    np.testing.assert_allclose(volume.positions(1), trajectory[20:40], atol=1e-7)
    assert "repetition 0, 1" in volume.notes[0]
    np.testing.assert_allclose(opened(tmp_path / "a.h5", repetition=1).positions(0), trajectory[40:60], atol=1e-7)
    first, second = convert_scan(tmp_path / "a.h5", tmp_path / "b.h5")
    assert first.path.name == "b_repetition0.h5"
    data = NonCartesianSlices([second.path], "site", format="trajectory")
    np.testing.assert_allclose(data.volumes[0].positions(1), trajectory[60:], atol=1e-7)  # type: ignore[attr-defined]
    assert "20 spokes of 64 samples, image 32x32; radial, 2.51x" in second.description


@pytest.mark.parametrize(("depth", "axes"), [(6, 2), (5, 3)])
def test_a_stack_of_stars_becomes_slices(depth: int, axes: int, tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["radial"]
    slices = measured(trajectory, depth)
    shifted = np.fft.fft(np.fft.ifftshift(slices, axes=0), axis=0, norm="ortho")
    partitions = np.fft.fftshift(shifted, axes=0).astype(np.complex64)
    raw = RawFile(xml(depth=depth))
    for kz, one in enumerate(partitions):
        for spoke in range(40):
            at = trajectory[spoke].numpy()
            if axes == 3:
                at = np.concatenate((at, np.full((2 * N, 1), (kz - depth // 2) / depth)), axis=1)
            raw.add(one[:, spoke], positions=at, kspace_encode_step_1=spoke, kspace_encode_step_2=kz)
    volume = opened(raw.write(tmp_path / "a.h5"))
    assert volume.shape == slices.shape and f"stack of {depth} partitions" in volume.reading
    found = np.array([volume.read_slice(i).numpy() for i in range(depth)])
    np.testing.assert_allclose(found, slices, atol=1e-5 * np.abs(slices).max())
    raw.lines.pop()
    assert f"{40 * depth - 1} lines in {depth} of {depth} partitions, not as many in each" in refused(
        raw.write(tmp_path / "b.h5")
    )
    raw.lines = raw.lines[:-39]
    assert f"in {depth - 1} of {depth} partitions" in refused(raw.write(tmp_path / "c.h5"))
    turned = RawFile(xml(depth=depth))
    for kz, one in enumerate(partitions):
        add_spokes(turned, one[None], golden_angle_trajectory(40, 2 * N, first=kz), kspace_encode_step_2=kz)
    assert "spokes that differ from partition to partition" in refused(turned.write(tmp_path / "d.h5"))


def test_oversampled_partitions_are_cut(tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["radial"]
    slices = np.concatenate((measured(trajectory, 3)[:1] * 0, measured(trajectory, 2), measured(trajectory, 1) * 0))
    partitions = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(slices, axes=0), axis=0, norm="ortho"), axes=0)
    raw = RawFile(xml(depth=4, slab=2.0))
    for kz, one in enumerate(partitions):
        add_spokes(raw, one[None], trajectory, kspace_encode_step_2=kz)
    for line in raw.lines:
        line[0]["idx"]["slice"] = 0
    volume = opened(raw.write(tmp_path / "a.h5"))
    assert volume.shape[0] == 2 and "the inner 2 of 4 kept" in volume.reading
    np.testing.assert_allclose(volume.read_slice(0), slices[1], atol=1e-5 * np.abs(slices).max())


@pytest.mark.parametrize("angles", ["golden", "uniform"])
def test_angles_that_the_file_does_not_state_are_refused_or_named(angles: str, tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["goldenangle" if angles == "golden" else "radial"]
    samples = measured(trajectory, 1)
    raw = add_spokes(RawFile(xml()), samples, None)
    message = refused(raw.write(tmp_path / "a.h5"))
    assert "no positions; the header says 'radial' alone" in message and 'angles = "golden"' in message
    assert "angles: found 'goldn', expected one of golden, uniform" in refused(tmp_path / "a.h5", angles="goldn")
    volume = opened(tmp_path / "a.h5", angles=angles)
    np.testing.assert_allclose(volume.positions(0), trajectory, atol=1e-7)
    late = add_spokes(RawFile(xml()), samples[..., 8:], None, center=N - 8)
    np.testing.assert_allclose(
        opened(late.write(tmp_path / "b.h5"), angles=angles).positions(0), trajectory[:, 8:], atol=1e-7
    )
    wrong = add_spokes(RawFile(xml()), samples, None, center=5)
    assert "64 samples with the center at 5" in refused(wrong.write(tmp_path / "c.h5"), angles=angles)
    assert "no positions of a spiral scan" in refused(
        add_spokes(RawFile(xml("spiral")), samples, None).write(tmp_path / "d.h5"), angles=angles
    )
    same = RawFile(xml())
    for spoke in range(40):
        same.add(samples[0, :, spoke])
    assert "kspace_encode_step_1 0 in all lines" in refused(same.write(tmp_path / "e.h5"), angles=angles)


def _third(raw: RawFile, samples: Array, trajectory: Array) -> None:
    weights = np.hypot(trajectory[..., :1], trajectory[..., 1:])
    add_spokes(raw, samples, np.concatenate((trajectory, weights), axis=-1))


def _nan(raw: RawFile, samples: Array, trajectory: Array) -> None:
    trajectory[3, 5] = np.nan
    add_spokes(raw, samples, trajectory)


def _zeros(raw: RawFile, samples: Array, trajectory: Array) -> None:
    add_spokes(raw, samples, 0 * trajectory)


def _short(raw: RawFile, samples: Array, trajectory: Array) -> None:
    add_spokes(raw, samples, trajectory)
    raw.positions[7] = raw.positions[7][:-2]


def _uneven(raw: RawFile, samples: Array, trajectory: Array) -> None:
    add_spokes(raw, samples, trajectory)
    raw.lines.pop()
    raw.add(samples[1, :, 39, 2:], positions=trajectory[39, 2:], slice=1, kspace_encode_step_1=39)


def _mixed(raw: RawFile, samples: Array, trajectory: Array) -> None:
    add_spokes(raw, samples, trajectory)
    raw.lines.pop()
    del raw.positions[79]
    raw.add(samples[1, :, 39], slice=1, kspace_encode_step_1=39)


def _slices(raw: RawFile, samples: Array, trajectory: Array) -> None:
    add_spokes(raw, samples, trajectory)
    raw.lines.pop()


def _nan_sample(raw: RawFile, samples: Array, trajectory: Array) -> None:
    samples[0, 0, 3, 4] = np.nan
    add_spokes(raw, samples, trajectory)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            _third,
            "found positions whose third axis changes along a line, expected a 2-D trajectory or a stack of stars",
        ),
        (_nan, "data[3] traj: found NaN or infinite positions"),
        (_zeros, "data traj: found only zeros, expected positions"),
        (_short, "data[7] traj: found 126 values, expected 64 samples x 2 axes"),
        (_uneven, "found lines of 62 to 64 samples, expected one number of samples"),
        (_mixed, "found positions along 0 and 2 axes"),
        (_slices, "found slices of different numbers of spokes, expected as many in every slice; write each slice"),
        (_nan_sample, "kspace[0]: found NaN or infinite values"),
    ],
)
def test_what_cannot_be_used_is_named(
    write: Callable[[RawFile, Array, Array], None], words: str, tmp_path: Path
) -> None:
    trajectory = TRAJECTORIES["radial"]
    write(raw := RawFile(xml()), measured(trajectory), trajectory.numpy().copy())
    assert words in refused(raw.write(tmp_path / "a.h5"))


def test_a_shifted_center_is_noted(tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["radial"]
    raw = add_spokes(RawFile(xml()), measured(trajectory, 1), trajectory, center=N + 6)
    (note,) = opened(raw.write(tmp_path / "a.h5")).notes
    assert "found center_sample 38, expected sample 32, the nearest to the center" in note


def test_a_calibration_scan_of_another_encoding_is_not_mixed_in(tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["radial"]
    samples = measured(trajectory, 1)
    spaces = [text[text.index("<encoding>") : text.index("</encoding>") + 11] for text in (xml(), xml("cartesian"))]
    raw = add_spokes(RawFile(header_of(*spaces)), samples, trajectory)
    for line in range(8):
        raw.add(np.ones((COILS, 2 * N)), space=1, kspace_encode_step_1=16 + line)
    volume = opened(raw.write(tmp_path / "a.h5"))
    assert volume.shape == samples.shape and "2 encodings, 8 lines of others" in volume.notes[0]
    assert MRI_READERS.open(tmp_path / "a.h5", "ismrmrd", encoding=1).shape[1] == COILS


def test_files_of_the_ismrmrd_package_are_read(tmp_path: Path) -> None:
    ismrmrd = pytest.importorskip("ismrmrd")
    trajectory = TRAJECTORIES["spiral"]
    samples = measured(trajectory, 1)
    data = ismrmrd.Dataset(str(tmp_path / "a.h5"), "dataset")
    data.write_xml_header(xml("spiral").encode())
    for spoke in range(8):
        line = ismrmrd.Acquisition.from_array(
            np.ascontiguousarray(samples[0, :, spoke]), trajectory[spoke].numpy().astype(np.float32)
        )
        line.idx.kspace_encode_step_1 = spoke
        data.append_acquisition(line)
    data.close()
    volume = opened(tmp_path / "a.h5")
    np.testing.assert_array_equal(volume.read_slice(0), samples[0])
    np.testing.assert_allclose(volume.positions(0), trajectory, atol=1e-7)


def test_cartesian_sites_refuse_it(tmp_path: Path) -> None:
    trajectory = TRAJECTORIES["radial"]
    path = add_spokes(RawFile(xml()), measured(trajectory, 1), trajectory).write(tmp_path / "a.h5")
    with pytest.raises(
        DataError, match=r'samples along a trajectory, expected Cartesian k-space; set modality = "non_'
    ):
        KSpaceSlices([path], "site", format="ismrmrd")


@pytest.mark.real_data
def test_the_measured_radial_bottle_as_ismrmrd(tmp_path: Path) -> None:
    folder = Path(os.environ["FEDRECON_DATA"]) / "mri_kspace"
    arrays = np.load(folder / "bottle_radial_4coil_3T.npz")
    samples, trajectory = arrays["kspace"], arrays["traj_ky_kx"]
    bottle = encoding_xml((256, 256, 1), trajectory="radial").replace("<y>200.0</y>", "<y>240.0</y>")
    raw = add_spokes(RawFile(header_of(bottle)), samples[None], 256 * trajectory)
    data = NonCartesianSlices([raw.write(tmp_path / "a.mrd")], "site", format="ismrmrd")
    sample = data[0]
    image = sample.magnitude(sample.operator.start(sample.measurement))
    cartesian = open_volume(folder / "bottle_4coil_3T.h5")
    truth = root_sum_of_squares(ifft2c(cartesian.read_slice(cartesian.shape[0] // 2)))
    assert np.corrcoef(image.flatten(), truth.T.flatten())[0, 1] > 0.97
    assert 1.5 < data.acceleration(0) < 1.65
