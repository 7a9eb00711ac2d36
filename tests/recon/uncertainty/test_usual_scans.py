"""Scans that are unlike those of their site: more noise, another acceleration, data that the network cannot predict."""

from pathlib import Path

import pytest
import torch

from physics import birdcage_maps, brain_phantom, fft2c
from recon import KSpaceSlices, Simulation, UsualScans, measure_scan, write_kspace
from recon.classical import CGSense

N = 48


def slices(folder: Path, seeds: range, *, acceleration: float = 3.0, noise: float = 0.01) -> KSpaceSlices:
    """Head phantoms of several people, one file each, undersampled with noise."""
    files = []
    for seed in seeds:
        image = torch.stack([brain_phantom((N, N), 10 * seed + k, "t1") for k in range(4)])[:, None]
        path = folder / f"person_{seed}.h5"
        if not path.exists():
            write_kspace(path, fft2c(birdcage_maps(4, (N, N), seed=seed) * image))
        files.append(path)
    simulate = Simulation(sampling="equispaced", acceleration=acceleration, center_fraction=0.15, noise_std=noise)
    return KSpaceSlices(files, "north", simulate=simulate)


def features(samples: KSpaceSlices) -> list[dict[str, float]]:
    return [measure_scan(CGSense(0.01), samples, number) for number in range(len(samples.volumes))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


@pytest.fixture(scope="module")
def usual(folder: Path) -> UsualScans:
    return UsualScans.of(features(slices(folder, range(6))))


def test_other_people_of_the_site_are_usual(folder: Path, usual: UsualScans) -> None:
    assert usual.scans == 6 and set(usual.ranges) == {"acceleration", "noise", "object", "residual", "shape"}
    assert [usual.unusual(scan) for scan in features(slices(folder, range(6, 12)))] == [[]] * 6


@pytest.mark.parametrize(
    ("change", "word"), [({"noise": 0.08}, "noise in parts of the brightest pixel"), ({"acceleration": 6}, "accelera")]
)
def test_another_protocol_is_named(folder: Path, usual: UsualScans, change: dict[str, float], word: str) -> None:
    for scan in features(slices(folder, range(6, 10), **change)):
        lines = usual.unusual(scan)
        assert any(line.startswith(word) and "in the site's own scans" in line for line in lines), scan


@pytest.mark.parametrize(
    ("turn", "word"),
    [(True, "height of the object over its width"), (False, "part of the picture that shows the object")],
)
def test_another_object_is_named(usual: UsualScans, tmp_path: Path, turn: bool, word: str) -> None:
    """The same heads, lying on the side or half as large, with the noise of the site."""
    image = torch.stack([brain_phantom((N, N), 60 + k, "t1") for k in range(4)])[:, None]
    if turn:
        image = image.mT.contiguous()
    else:
        small = torch.nn.functional.interpolate(image.real, scale_factor=0.5, mode="area").to(image.dtype)
        image = torch.nn.functional.pad(small, (N // 4,) * 4)
    write_kspace(tmp_path / "other.h5", fft2c(birdcage_maps(4, (N, N), seed=6) * image))
    simulate = Simulation(sampling="equispaced", acceleration=3.0, center_fraction=0.15, noise_std=0.01)
    scan = measure_scan(CGSense(0.01), KSpaceSlices([tmp_path / "other.h5"], "north", simulate=simulate))
    assert any(line.startswith(word) for line in usual.unusual(scan)), scan


def test_data_that_do_not_fit_have_a_larger_residual(folder: Path, usual: UsualScans, tmp_path: Path) -> None:
    """A shift of the head during the scan: the lines disagree with each other."""
    image = torch.stack([brain_phantom((N, N), 60 + k, "t1") for k in range(4)])[:, None]
    maps = birdcage_maps(4, (N, N), seed=6)
    kspace, moved = fft2c(maps * image), fft2c(maps * image.roll(12, -1))
    kspace[..., ::2] = moved[..., ::2]
    write_kspace(tmp_path / "moved.h5", kspace)
    simulate = Simulation(sampling="equispaced", acceleration=3.0, center_fraction=0.15, noise_std=0.01)
    scan = measure_scan(CGSense(0.01), KSpaceSlices([tmp_path / "moved.h5"], "north", simulate=simulate))
    assert any(line.startswith("residual of held-out measurements") for line in usual.unusual(scan)), scan


def test_a_value_within_the_range_is_never_unusual() -> None:
    scans = UsualScans.of([{"noise": 0.01}, {"noise": 0.01}, {"noise": 0.01}, {"noise": 1.0}])
    assert scans.unusual({"noise": 0.9}) == [] and scans.unusual({"residual": 5.0}) == []


def test_one_scan_tells_no_spread() -> None:
    """Values of the test scans of the demo's site `north`, beside those of its only validation scan."""
    one = UsualScans.of([{"residual": 3.74, "noise": 0.0219, "acceleration": 4.92}])
    assert one.unusual({"residual": 7.32, "noise": 0.0170, "acceleration": 3.77}) == []
    lines = one.unusual({"residual": 60.0, "noise": 0.06, "acceleration": 10.0})
    assert [line.split(" ")[0] for line in lines] == ["residual", "noise", "acceleration"]
    many = UsualScans.of([{"residual": 3.74 + 0.01 * k} for k in range(60)])
    assert len(many.unusual({"residual": 7.32})) == 1


def test_a_small_residual_is_usual() -> None:
    many = UsualScans.of([{"residual": 3.7, "noise": 0.1}] * 40)
    assert many.unusual({"residual": 1.0}) == [] and len(many.unusual({"noise": 0.01})) == 1


def test_no_scan_no_distance() -> None:
    assert UsualScans.of([]).distance({"noise": 1.0}) == 0.0 and UsualScans.of([{}]).unusual({"noise": 1.0}) == []
