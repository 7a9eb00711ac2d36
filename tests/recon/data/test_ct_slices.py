"""CT files and samples: files of every format, weights, noise, degradation, errors of one line."""

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from physics import (
    LODOPAB_MU_MAX,
    FanBeam,
    Geometry,
    ImageGrid,
    ParallelBeam,
    ParallelVectors,
    RadonOperator,
    Transmission,
    attenuation_to_hu,
    body_volume,
    evenly_spaced,
    filtered_backprojection,
    htc2022,
    hu_to_attenuation,
    lodopab,
    moved_fan,
    tube_spectrum,
    water_correction,
)
from recon import (
    CGLS,
    CT_READERS,
    CT_SCALE,
    SIRT,
    DataError,
    FilteredBackprojection,
    PenalizedTV,
    Reconstruction,
    ScanSimulation,
    SinogramSlices,
    SinogramVolume,
    batches,
    evaluate,
    held_out_split,
    open_sinograms,
    write_sinograms,
)

GRID = ImageGrid((32, 32), 6.0)
SCAN = FanBeam(evenly_spaced(40, 2 * math.pi / 40), 50, 8.0, 400.0, 640.0)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Counts of two slices with their ground truth."""
    reference = hu_to_attenuation(body_volume(2, GRID.shape, 1, "pelvis"))
    model = Transmission(2e4)
    counts = model.counts(RadonOperator(GRID, SCAN)(reference), torch.Generator().manual_seed(0))
    path = tmp_path / "a.h5"
    write_sinograms(
        path, GRID, SCAN, counts=counts, photons=2e4, reference=reference, patient_id="p1", simulated="by hand"
    )
    return path


def test_a_volume_reads_back_as_written(volume: Path) -> None:
    found = open_sinograms(volume)
    assert found.shape == (2, 40, 50) and found.geometry == SCAN and found.grid == GRID
    assert (found.holds, found.patient_id, found.simulated) == ("counts", "p1", "by hand")
    assert found.photons is not None and float(found.photons) == 2e4
    with h5py.File(volume) as file:
        assert torch.equal(found.read_slice(1), torch.from_numpy(file["counts"][1]))


@pytest.mark.parametrize("beam", ["fan", "curved", "parallel"])
def test_geometry_of_scanners_reads_back_and_is_checked(tmp_path: Path, beam: str) -> None:
    """Pixels that are not square, off the axis, in a scan of vectors: reads back, passes the checks, is sampled."""
    grid, angles = ImageGrid((30, 40), (6.4, 4.8), (5.0, -8.0)), evenly_spaced(40, math.pi / 40)
    points = tuple((math.sin(k), math.cos(k)) for k in range(40))
    scan: Geometry = ParallelVectors(angles, 60, 5.0, tuple(a + 0.02 for a in angles), points)
    if beam != "parallel":
        wave = np.sin(np.arange(40.0))
        fan = SCAN if beam == "fan" else replace(SCAN, detector="curved")
        scan = moved_fan(fan, source_mm=np.stack((2 * wave, wave), 1), detector_mm=(0.5, 0.0), tilt_rad=0.01 * wave)
    reference = hu_to_attenuation(body_volume(2, (30, 30), 1, "pelvis"))
    reference = torch.nn.functional.pad(reference, (5, 5), value=2e-5)
    model, path = Transmission(2e5), tmp_path / "a.h5"
    counts = model.counts(RadonOperator(grid, scan)(reference), torch.Generator().manual_seed(0))
    write_sinograms(path, grid, scan, counts=counts, photons=2e5, reference=reference)
    found = open_sinograms(path)
    assert (found.geometry, found.grid) == (scan, grid) and found.image_header().pixel_mm == (6.4, 4.8)
    samples = SinogramSlices([path], "s", simulate=ScanSimulation(views=20))
    assert samples.check(0) == [] and samples.geometries[0] == scan.subset(slice(None, None, 2))
    sample = samples[0]
    assert sample.reference is not None and isinstance(sample.operator, RadonOperator)
    residual = sample.operator(sample.reference) - sample.measurement
    assert float(residual.std()) == pytest.approx(float(sample.noise_std), rel=0.05)
    # A reference of another grid, or a scan without its movement, does not fit.
    write_sinograms(path, replace(grid, center_mm=(-25.0, 30.0)), scan, counts=counts, photons=2e5, reference=reference)
    assert any("reference: found a misfit" in line for line in SinogramSlices([path], "s").check(0))


def test_a_scan_without_filtered_backprojection_is_said_and_reconstructed(tmp_path: Path) -> None:
    scan, path = moved_fan(SCAN, tilt_rad=0.1), tmp_path / "a.h5"
    reference = hu_to_attenuation(body_volume(1, GRID.shape, 1, "pelvis"))
    lines = RadonOperator(GRID, scan)(reference)
    write_sinograms(path, GRID, scan, line_integrals=lines, photons=1e6, reference=reference)
    samples = SinogramSlices([path], "s")
    (line,) = samples.check(0)
    assert "views that differ from those of a beam by 10 % of its lengths, expected at most 3 %" in line
    sample = samples[0]
    assert sample.reference is not None
    found = FilteredBackprojection()(sample.measurement, sample.operator)
    assert float((found - sample.reference).norm() / sample.reference.norm()) < 0.25


@pytest.mark.parametrize("by", ["file", "manifest"])
def test_water_is_one_and_zero_hu_at_every_energy(tmp_path: Path, by: str) -> None:
    """A disc of water and a hole of air, at 60 keV: not 31 HU, as with the attenuation at 70 keV."""
    mu_water = 0.0206
    x, y = np.meshgrid(GRID.x_mm, GRID.y_mm)
    image = torch.from_numpy(np.where((np.hypot(x, y) < 70) & (np.hypot(x - 30, y) > 20), mu_water, 0.001 * mu_water))
    lines, path = RadonOperator(GRID, SCAN)(image)[None], tmp_path / "a.h5"
    stated = {"mu_water": mu_water} if by == "file" else {}
    write_sinograms(path, GRID, SCAN, line_integrals=lines, reference=image[None], photons=1e7, **stated)
    asked = {"mu_water": mu_water} if by == "manifest" else {}
    samples = SinogramSlices([path], "s", **asked)
    assert samples.check(0) == []
    sample = samples[0]
    assert sample.reference is not None and float(sample.scale) == pytest.approx(mu_water)
    assert float(sample.reference.max()) == pytest.approx(1.0) and float(sample.reference.min()) == pytest.approx(1e-3)
    assert isinstance(sample.operator, RadonOperator)
    found = sample.operator.start(sample.measurement) * sample.scale
    header = samples.image_header(0)
    shown = Reconstruction(found[None].numpy(), found[None].numpy(), header, "a", "fbp").displayed[0]
    water, air = (np.hypot(x, y) < 58) & (np.hypot(x - 30, y) > 32), np.hypot(x - 30, y) < 10
    assert shown[water].mean() == pytest.approx(0, abs=5) and shown[air].mean() == pytest.approx(-1000, abs=30)
    assert attenuation_to_hu(image, mu_water).max() == pytest.approx(0) and hu_to_attenuation(
        torch.tensor(-1000.0).double(), mu_water
    ) == pytest.approx(mu_water / 1000)
    for wrong in (0.2, 20.0, 0.0, float("nan")):
        with pytest.raises((ValueError, DataError), match=r"mu_water.*expected the attenuation of water in 1/mm"):
            if by == "file":
                write_sinograms(path, GRID, SCAN, line_integrals=lines, mu_water=wrong)
            else:
                SinogramSlices([path], "s", mu_water=wrong)


def test_a_beam_that_hardens_is_simulated_and_corrected(tmp_path: Path) -> None:
    mu_water = 0.0206
    x, y = np.meshgrid(GRID.x_mm, GRID.y_mm)
    scan = FanBeam(evenly_spaced(120, 2 * math.pi / 120), 80, 5.0, 400.0, 640.0)
    image = torch.from_numpy(np.where(np.hypot(x, y) < 85, mu_water, 0.0))[None]
    path = tmp_path / "a.h5"
    lines = RadonOperator(GRID, scan)(image)
    write_sinograms(path, GRID, scan, line_integrals=lines, reference=image, photons=1e6, mu_water=mu_water)
    simulate, coefficients = ScanSimulation(kvp=100.0), list(water_correction(tube_spectrum(100.0), mu_water))
    hard = SinogramSlices([path], "s", simulate=simulate)
    right = SinogramSlices([path], "s", simulate=simulate, water_correction=coefficients)
    inside = np.hypot(x, y) < 70

    def hu(samples: SinogramSlices) -> Any:
        sample = samples[0]
        assert isinstance(sample.operator, RadonOperator)
        return 1000 * (sample.operator.start(sample.measurement).numpy() - 1)

    plain = hu(SinogramSlices([path], "s"))
    assert np.abs(hu(hard) - plain)[inside].max() > 30 and np.abs(hu(right) - plain)[inside].max() < 5
    # Noise grows by the derivative of the correction; weights and noise_std follow it.
    noisy = SinogramSlices([path], "s", simulate=ScanSimulation(kvp=100.0, photons=3e4), water_correction=coefficients)[
        0
    ]
    exact = right[0]
    assert isinstance(noisy.operator, RadonOperator) and isinstance(exact.operator, RadonOperator)
    noise = noisy.operator.line_integrals(noisy.measurement) - exact.operator.line_integrals(exact.measurement)
    assert noisy.operator.ray_weights is not None
    white = noisy.operator.ray_weights * noise
    thick = noisy.operator.ray_weights < noisy.operator.ray_weights.median()
    assert float(white.std()) == pytest.approx(float(noisy.noise_std), rel=0.03)
    assert float(white[thick].std() / white[~thick].std()) == pytest.approx(1, abs=0.05)
    assert right.check(0) == []
    counts = tmp_path / "b.h5"
    write_sinograms(counts, GRID, scan, counts=1e4 * (-lines).exp(), photons=1e4)
    with pytest.raises(DataError, match=r"\[simulate\] kvp: found counts of a measured beam, expected line integrals"):
        SinogramSlices([counts], "s", simulate=simulate)
    with pytest.raises(DataError, match=r"a\.h5: \[data\]: water_correction falls"):
        SinogramSlices([path], "s", water_correction=[1.0, -1.0])


def test_few_photons_leave_water_where_it_is(tmp_path: Path) -> None:
    """A disc of 300 mm at 500 photons per ray, of which 1.4 pass its middle."""
    scan = FanBeam(evenly_spaced(240, 2 * math.pi / 240), 260, 2.6, 600.0, 1000.0)
    grid = ImageGrid((48, 48), 7.0)
    radius = np.hypot(*np.meshgrid(grid.x_mm, grid.y_mm))
    image = torch.from_numpy(np.where(radius < 147, 0.02, 0.0))[None]
    lines, path = RadonOperator(grid, scan)(image), tmp_path / "a.h5"
    write_sinograms(path, grid, scan, line_integrals=lines, reference=image)

    def error(unbiased: bool) -> Any:
        simulate = ScanSimulation(photons=500.0)
        sample = SinogramSlices([path], "s", simulate=simulate, unbiased_log=unbiased)[0]
        assert isinstance(sample.operator, RadonOperator) and bool(sample.measurement.isfinite().all())
        return 1000 * (sample.operator.start(sample.measurement).numpy() - 1)

    plain, unbiased = error(False), error(True)
    middle, whole = radius < 60, radius < 120
    assert abs(plain[middle].mean()) > 60 and abs(unbiased[middle].mean()) < 25 and abs(unbiased[whole].mean()) < 20
    assert unbiased[middle].std() < 0.3 * plain[middle].std()
    with pytest.raises(DataError, match=r"\[data\] unbiased_log: found line_integrals, whose photons are not counted"):
        SinogramSlices([path], "s", unbiased_log=True)


def test_arrays_and_tensors_with_a_gradient_are_written(tmp_path: Path) -> None:
    lines, path = torch.rand(1, *SCAN.shape), tmp_path / "a.h5"
    image = torch.rand(1, *GRID.shape)
    for given in (lines, lines.numpy(), lines.double().numpy(), lines.tolist(), lines.clone().requires_grad_()):
        write_sinograms(path, GRID, SCAN, line_integrals=given, photons=np.full(50, 9.0), reference=image.numpy())
        found = CT_READERS.open(path, "sinogram")
        assert torch.equal(found.read_slice(0), lines[0]) and torch.equal(found.read_reference(0), image[0])
    for wrong in ("a", lines + 1j, [[1.0], [1.0, 2.0]]):
        with pytest.raises(TypeError, match="write_sinograms: line_integrals"):
            write_sinograms(path, GRID, SCAN, line_integrals=wrong)  # type: ignore[arg-type]


def test_samples_are_weighted_scaled_and_whitened(volume: Path) -> None:
    samples = SinogramSlices([volume], "north")
    assert len(samples) == 2 and samples.locate(1) == (0, 1)
    sample = samples[0]
    assert sample.reference is not None and isinstance(sample.operator, RadonOperator)
    weights = sample.operator.ray_weights
    assert weights is not None and float(weights.square().mean()) == pytest.approx(1.0, rel=1e-5)
    noise = sample.measurement - sample.operator(sample.reference)
    assert float(noise.std()) == pytest.approx(float(sample.noise_std), rel=0.05)
    # White: rays through bone are as noisy as rays through air.
    dense = weights < weights.median()
    assert float(noise[dense].std() / noise[~dense].std()) == pytest.approx(1.0, abs=0.12)
    assert float(sample.reference.max()) == pytest.approx(
        float(CT_READERS.open(volume, "sinogram").read_reference(0).max()) / CT_SCALE
    )
    plain = SinogramSlices([volume], "north", weighted=False)[0]
    assert isinstance(plain.operator, RadonOperator) and plain.operator.ray_weights is None
    joined = next(batches(samples, 2))
    assert joined.measurement.shape == (2, 40, 50) and joined.meta[1].reference_kind == "attenuation"


def test_degradation_takes_views_and_photons(volume: Path) -> None:
    sparse = SinogramSlices([volume], "s", simulate=ScanSimulation(views=10))
    assert sparse.geometries[0] == SCAN.subset(slice(None, None, 4)) and sparse.acceleration(0) == 4
    full = SinogramSlices([volume], "s", weighted=False)
    thin = SinogramSlices([volume], "s", weighted=False, simulate=ScanSimulation(views=10))
    assert torch.equal(thin[0].measurement, full[0].measurement[::4])
    arc = SinogramSlices([volume], "s", simulate=ScanSimulation(arc_deg=90)).geometries[0]
    assert arc.shape[0] == 10 and math.degrees(max(arc.angles_rad)) < 90
    dose = ScanSimulation(photons=2e3)
    plain = SinogramSlices([volume], "s", weighted=False, simulate=dose)[0]
    assert float(plain.noise_std) == pytest.approx(math.sqrt(10) * float(full[0].noise_std), rel=0.1)
    dim = SinogramSlices([volume], "s", simulate=dose)[0]
    assert torch.equal(dim.measurement, SinogramSlices([volume], "s", simulate=dose)[0].measurement)
    assert dim.reference is not None
    noise = dim.measurement - dim.operator(dim.reference)
    assert float(noise.std()) == pytest.approx(float(dim.noise_std), rel=0.08)


@pytest.mark.parametrize("sense", [-1, 1])
def test_the_arc_is_the_first_part_of_the_rotation(sense: int, tmp_path: Path) -> None:
    rows = torch.arange(1.0, 241.0)[None, :, None].expand(1, 240, 50).contiguous()
    degrees = 300 + sense * np.arange(0, 720, 3.0)  # two turns
    for stored in (degrees, degrees % 360, (degrees + 180) % 360 - 180):
        scan = FanBeam(tuple(np.deg2rad(stored)), 50, 8.0, 400.0, 640.0)
        write_sinograms(tmp_path / "a.h5", GRID, scan, line_integrals=rows)
        for simulate, numbers in (
            (ScanSimulation(arc_deg=120), np.arange(40)),
            (ScanSimulation(arc_deg=120, views=10), np.arange(0, 40, 4)),
            (ScanSimulation(views=60), np.arange(0, 240, 4)),
        ):
            slices = SinogramSlices([tmp_path / "a.h5"], "s", simulate=simulate)
            assert slices.geometries[0].angles == pytest.approx(np.deg2rad(stored[numbers]))
            assert (slices[0].measurement[:, 0] * CT_SCALE).round().tolist() == (numbers + 1.0).tolist()
        arc = SinogramSlices([tmp_path / "a.h5"], "s", simulate=ScanSimulation(arc_deg=120)).facts()
        assert arc["sampling"].endswith("40 views over 120 degrees")


def test_displaced_detectors_go_all_the_way(tmp_path: Path) -> None:
    scan, fine = FanBeam(evenly_spaced(60, 2 * math.pi / 60), 60, 4.0, 400.0, 640.0, offset_mm=90.0), GRID.refined(3)
    reference = hu_to_attenuation(body_volume(1, fine.shape, 1, "pelvis"))
    small = torch.nn.functional.avg_pool2d(reference, 3)
    counts = Transmission(2e4).counts(RadonOperator(fine, scan)(reference), torch.Generator().manual_seed(0))
    write_sinograms(tmp_path / "a.h5", GRID, scan, counts=counts, photons=2e4, reference=small)
    slices = SinogramSlices([tmp_path / "a.h5"], "half fan")
    assert slices.check(0) == []
    kept, held_out = held_out_split(slices[0], 0.2, torch.Generator().manual_seed(0))
    assert kept.reference is not None and int(held_out.sum()) == 12
    for method in (FilteredBackprojection(0.8, "hann"), SIRT(), CGLS(8), PenalizedTV(1e-2)):
        found = method(kept.measurement[None], kept.operator)[0]
        assert float((found - kept.reference).norm() / kept.reference.norm()) < 0.4, method


def test_noise_of_line_integrals_is_simulated_or_estimated(tmp_path: Path) -> None:
    reference = hu_to_attenuation(body_volume(1, GRID.shape, 2, "abdomen"))
    fine = ParallelBeam(evenly_spaced(60, math.pi / 60), 400, 0.8)
    lines = RadonOperator(GRID, fine)(reference)
    noisy = lines + 0.05 * torch.randn(lines.shape, generator=torch.Generator().manual_seed(3))
    write_sinograms(tmp_path / "b.h5", GRID, fine, line_integrals=noisy)
    sample = SinogramSlices([tmp_path / "b.h5"], "s")[0]
    assert float(sample.noise_std) * CT_SCALE == pytest.approx(0.05, rel=0.1)
    assert sample.reference is None and sample.meta[0].reference_kind == "none"
    simulated = SinogramSlices([tmp_path / "b.h5"], "s", simulate=ScanSimulation(photons=1e4, electronic_noise=5.0))[0]
    assert simulated.operator.ray_weights is not None


def test_without_a_reference_held_out_views_are_scored(volume: Path) -> None:
    with h5py.File(volume, "a") as file:
        del file["reference"]
    samples = SinogramSlices([volume], "s")
    kept, held_out = held_out_split(samples[0], 0.2, torch.Generator().manual_seed(0))
    assert held_out.shape == (40, 1) and int(held_out.sum()) == 8
    assert not kept.measurement[held_out[:, 0]].any() and isinstance(kept.operator, RadonOperator)
    score = evaluate(PenalizedTV(1e-3, 50), samples)
    assert 0.8 < (score.mean("residual") or 0) < 3 and score.mean("psnr") is None


def test_lodopab_follows_odl_conventions(tmp_path: Path) -> None:
    """A disc at x > 0 and y < 0 in ODL's axes: first index x, second y upwards, lengths in m, units of MU_MAX."""
    grid, geometry, _ = lodopab()
    x, y = np.meshgrid(np.linspace(-0.13, 0.13, 362), np.linspace(-0.13, 0.13, 362), indexing="ij")
    truth = ((np.hypot(x - 0.06, y + 0.03) < 0.02) * 0.5).astype(np.float32)
    u, angles = geometry.u_mm / 1000, geometry.angles[:, None]
    distance = np.abs(0.06 * np.cos(angles) - 0.03 * np.sin(angles) - u[None])
    data = (0.5 * 2 * np.sqrt(np.clip(0.02**2 - distance**2, 0, None))).astype(np.float32)
    for name, array in (("observation_test_000.hdf5", data), ("ground_truth_test_000.hdf5", truth)):
        with h5py.File(tmp_path / name, "w") as file:
            file["data"] = array[None]
    samples = SinogramSlices([tmp_path / "observation_test_000.hdf5"], "s", format="lodopab", weighted=False)
    sample = samples[0]
    assert sample.reference is not None
    assert float(sample.reference.max()) * CT_SCALE == pytest.approx(0.5 * LODOPAB_MU_MAX)
    predicted = sample.operator(sample.reference)
    assert float((predicted - sample.measurement).norm() / predicted.norm()) < 0.02
    image = filtered_backprojection(sample.measurement, geometry, grid)
    assert np.corrcoef(image.flatten(), sample.reference.flatten())[0, 1] > 0.97


def htc_file(path: Path, **changes: Any) -> Path:
    geometry = htc2022().geometry
    known = {
        "distanceSourceOrigin": [[410.66]],
        "distanceSourceDetector": [[553.74]],
        "angles": np.rad2deg(geometry.angles)[None],
        "numDetectorsPost": [[560]],
        "pixelSizePost": [[0.2]],
    } | changes
    scan = {"type": "2d", "sinogram": np.ones((721, 560)), "parameters": known}
    scipy.io.savemat(path, {"CtDataFull": scan})
    return path


def test_helsinki_files_bring_their_geometry(tmp_path: Path) -> None:
    found = CT_READERS.open(htc_file(tmp_path / "htc.mat"), "htc2022")
    assert found.shape == (1, 721, 560) and found.geometry.shape == (721, 560)
    assert isinstance(found.geometry, FanBeam) and found.geometry.source_to_detector_mm == 553.74
    assert found.grid.shape == (512, 512) and found.grid.pixel_mm == pytest.approx(0.1483223, rel=1e-4)
    half = CT_READERS.open(tmp_path / "htc.mat", "htc2022", size=256).grid
    assert half.pixel_mm == pytest.approx(2 * found.grid.pixel_mm)


def test_raw_counts_are_corrected_and_the_axis_is_where_it_is(tmp_path: Path) -> None:
    views, columns, axis = 90, 64, 28.0
    angles = np.arange(views) * 2.0
    u = np.arange(columns) - axis
    center = 9 * np.cos(np.deg2rad(angles)) - 4 * np.sin(np.deg2rad(angles))  # a disc at x = 9, y = -4
    chord = 2 * np.sqrt(np.clip(25 - (u[None] - center[:, None]) ** 2, 0, None))
    flat = 1000 + 50 * np.sin(np.arange(columns))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["exchange/data"] = (100 + flat * np.exp(-0.05 * chord))[:, None].astype(np.float32)
        file["exchange/data_white"] = np.repeat((100 + flat)[None, None], 3, 0).astype(np.float32)
        file["exchange/data_dark"] = np.full((3, 1, columns), 100, np.float32)
        file["exchange/theta"] = angles
        file["exchange/theta"].attrs["units"] = "degrees"
    sample = SinogramSlices([tmp_path / "raw.h5"], "s", format="exchange", pitch_mm=1.0, axis_column=axis)[0]
    operator = sample.operator
    assert isinstance(operator, RadonOperator) and operator.ray_weights is not None
    lines = sample.measurement * CT_SCALE / operator.ray_weights
    assert torch.allclose(lines, torch.from_numpy(0.05 * chord).float(), atol=1e-4)
    image = operator.start(sample.measurement) * CT_SCALE
    peak = image > 0.04
    rows, cols = (part.double().mean() for part in torch.nonzero(peak, as_tuple=True))
    grid = operator.grid
    assert float(np.interp(float(cols), np.arange(grid.shape[1]), grid.x_mm)) == pytest.approx(9, abs=0.3)
    assert float(np.interp(float(rows), np.arange(grid.shape[0]), grid.y_mm)) == pytest.approx(-4, abs=0.3)


def _broken(path: Path, kind: str) -> Path:
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "text":
        path.write_text("no data")
    else:
        with h5py.File(path, "a") as file:
            counts = file["counts"][()]
            if kind == "axes":
                del file["counts"]
                file["counts"] = counts.transpose(0, 2, 1)
            elif kind == "nan":
                file["counts"][0, 0, 0] = np.nan
            elif kind == "negative":
                file["counts"][0, 0, 0] = -3
            elif kind == "views":
                del file["geometry/angles_rad"]
                file["geometry/angles_rad"] = np.zeros(0)
            elif kind == "degrees":
                file["geometry/angles_rad"][...] = np.arange(40) * 9.0 * 3
            elif kind == "distance":
                file["geometry/source_to_axis_mm"][...] = -1.0
            elif kind == "photons":
                del file["photons"]
            elif kind == "kind":
                file["geometry/kind"][...] = b"ConeBeam"
            elif kind == "grid":
                del file["grid"]
            elif kind.startswith("shape"):
                del file["grid/shape"]
                file["grid/shape"] = np.array(GRID.shape) + float(kind.split()[1])
            elif kind == "nothing":
                del file["counts"]
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "no readable HDF5.*copy it again"),
        ("text", "found a text file, expected a file of format sinogram"),
        ("axes", "exchange its last two axes"),
        ("nan", "counts: found NaN"),
        ("negative", "counts down to -3.*state electronic_noise"),
        ("views", "at least one view"),
        ("degrees", "convert degrees"),
        ("distance", "source_to_axis_mm is -1.0"),
        ("photons", "photons: found nothing"),
        ("kind", "found ConeBeam, expected ParallelBeam or FanBeam"),
        ("grid", "grid: found nothing"),
        ("shape 0.5", "shape is .*5.*, expected .height, width., positive whole numbers"),
        ("shape nan", "shape is .nan, nan., expected .height, width., positive whole numbers"),
        ("shape inf", "shape is .inf, inf., expected .height, width., positive whole numbers"),
        ("nothing", "expected one of counts and line_integrals"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(volume: Path, kind: str, words: str) -> None:
    _broken(volume, kind)
    with pytest.raises(DataError, match=words) as caught:
        SinogramSlices([volume], "s")[0]
    assert str(volume) in str(caught.value) and "\n" not in str(caught.value)


def test_whole_numbers_of_any_type_are_a_shape(volume: Path) -> None:
    assert CT_READERS.open(_broken(volume, "shape 0"), "sinogram").grid == GRID


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"simulate": ScanSimulation(views=99)}, "views: found 99, expected at most the 40"),
        ({"simulate": ScanSimulation(photons=1e6)}, "expected at most 20000"),
        ({"format": "htc2022"}, "found a CT scan of fedrecon, expected a MATLAB 5 file.*sinogram"),
        ({"format": "exchange"}, "found a CT scan of fedrecon, expected a file of format exchange.*sinogram"),
        ({"format": "lodopab"}, "found a CT scan of fedrecon, expected a file of format lodopab.*sinogram"),
    ],
)
def test_arguments_that_a_file_cannot_serve_are_refused(volume: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        SinogramSlices([volume], "s", **arguments)
    with pytest.raises(DataError, match=re.escape("none.h5: file: found nothing")):
        SinogramSlices([volume.with_name("none.h5")], "s")


@pytest.mark.parametrize(
    "arguments", [{"views": 0}, {"arc_deg": 0.0}, {"photons": -1.0}, {"electronic_noise": 3.0}, {"arc_deg": 361.0}]
)
def test_a_simulation_out_of_range_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ScanSimulation"):
        ScanSimulation(**arguments)


def test_a_helsinki_file_without_a_distance_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="CtDataFull"):
        CT_READERS.open(htc_file(tmp_path / "x.mat", distanceSourceOrigin=[[-1.0]]), "htc2022")
    scipy.io.savemat(tmp_path / "y.mat", {"other": np.ones(3)})
    with pytest.raises(DataError, match="found other, expected CtDataFull or CtDataLimited"):
        CT_READERS.open(tmp_path / "y.mat", "htc2022")


def test_contradictory_arrays_are_not_written(tmp_path: Path) -> None:
    counts = torch.ones(1, 40, 50)
    for arguments, words in (
        ({}, "either counts or line_integrals"),
        ({"counts": counts}, "need the photons"),
        ({"line_integrals": counts[0]}, "has shape"),
        ({"line_integrals": counts, "reference": torch.ones(1, 3, 3)}, "reference has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            write_sinograms(tmp_path / "c.h5", GRID, SCAN, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.real_data
def test_the_measured_disc_agrees_with_the_organisers() -> None:
    """Angles as given and no flip."""
    folder = Path(os.environ["FEDRECON_DATA"]) / "ct_projections" / "htc2022"
    sample = SinogramSlices([folder / "htc2022_ta_full.mat"], "htc", format="htc2022")[0]
    theirs = scipy.io.loadmat(folder / "htc2022_ta_full_recon_fbp.mat")["reconFullFbp"]
    assert np.corrcoef(sample.operator.start(sample.measurement).flatten(), theirs.ravel())[0, 1] >= 0.9995


def test_a_check_reads_every_slice_of_the_measurement_once(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def noted(self: SinogramVolume, index: int, of: Any = SinogramVolume.read_slice) -> torch.Tensor:
        read.append(index)
        return of(self, index)

    monkeypatch.setattr(SinogramVolume, "read_slice", noted)
    data = SinogramSlices([volume], "s")
    data.check(0)
    assert read == list(range(data.volumes[0].shape[0]))
    data[0]
    assert len(read) == data.volumes[0].shape[0] + 1
