"""Cine sites: an ordinary recipe trains a space-time network on frames, scores them and reconstructs a file."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from federation import load_federation
from federation.cli.main import main
from federation.sites import SimulatedCine, make_cine_demo_sites, patients_of
from physics import CineMRI
from recon import CineSimulation, CineSlices, DataError, collate, convert_scan, evaluate, held_out_split, write_volume
from recon.classical import MRI_METHODS

FRAMES, SLICES = 4, 2
SHORT = ["--set", "federation.rounds=2", "--set", "training.steps_per_round=4", "--set", "network.cascades=2"]
SPACE_TIME = ["--set", "network.regularizer=cnn_time", "--set", "network.channels=6", "--set", "network.depth=3"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cine")
    scanners = [
        SimulatedCine("east", 4, CineSimulation("frame_shifted", 3, 0.125, noise_std=0.01)),
        SimulatedCine("west", 4, CineSimulation("frame_random", 3, 0.125, noise_std=0.02)),
    ]
    make_cine_demo_sites(folder, size=32, frames=FRAMES, train=1, validation=1, test=1, slices=SLICES, sites=scanners)
    return folder


@pytest.fixture(scope="module")
def run(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    arms = ["--set", 'evaluation.arms=["zero_filled", "cg_sense"]']
    assert main(["train", "fedavg", "--sites", str(sites), "--out", str(out), *SHORT, *SPACE_TIME, *arms]) == 0
    assert main(["evaluate", str(out)]) == 0
    return out


def samples(sites: Path, site: str = "west", **options: Any) -> CineSlices:
    manifest = next(m for m in load_federation(sites) if m.name == site)
    found = manifest.samples(manifest.files("test"), **options)
    assert isinstance(found, CineSlices)
    return found


def test_a_sample_is_one_slice_in_all_frames(sites: Path) -> None:
    dataset = samples(sites)
    assert len(dataset) == SLICES and dataset.facts()["frames"] == [FRAMES]
    sample = dataset[1]
    A, reference = sample.operator, sample.reference
    assert isinstance(A, CineMRI) and reference is not None
    assert (A.domain_shape, A.range_shape) == ((FRAMES, 32, 32), (FRAMES, 4, 32, 32))
    assert A.mask.shape == (FRAMES, 1, 32) and len({tuple(m.flatten().tolist()) for m in A.mask}) == FRAMES
    error = A(reference) - sample.measurement
    assert float(error.norm()) < 0.1 * float(sample.measurement.norm())
    assert abs(float(error.abs().square().sum() / A.sampled.expand(A.range_shape).sum()) ** 0.5 - 0.02) < 0.02
    measured = A.mask.float().mean()
    assert dataset.acceleration(0) == pytest.approx(1 / float(measured))
    # A frame of the reference is that of the file: the slice counts fastest.
    with h5py.File(dataset.volumes[0].path) as file:
        rss = file["reconstruction_rss"][:]
    for frame in range(FRAMES):
        ratio = np.corrcoef(reference[frame].abs().numpy().ravel(), rss[frame * SLICES + 1].ravel())[0, 1]
        assert ratio > 0.99
    assert not torch.allclose(reference[0].abs(), reference[2].abs(), atol=0.1)


def test_frames_that_move_are_not_used_where_they_were_not_measured(sites: Path, tmp_path: Path) -> None:
    """The samples do not change with k-space that no frame's mask holds."""
    dataset = samples(sites)
    with h5py.File(dataset.volumes[0].path) as source, h5py.File(tmp_path / dataset.names[0], "w") as out:
        for key in source:
            source.copy(key, out)
        out.attrs.update(source.attrs)
        masks = dataset.frame_masks(0)[:, 0].numpy()
        kspace = out["kspace"][:].reshape(FRAMES, SLICES, 4, 32, 32)
        kspace[:] = np.where(masks[:, None, None, None, :], kspace, 0.5 * kspace)
        out["kspace"][:] = kspace.reshape(-1, 4, 32, 32)
    manifest = next(m for m in load_federation(sites) if m.name == "west")
    again = manifest.samples([tmp_path / dataset.names[0]])[1]
    # The noise is relative to the maximum of the fully sampled volume; everything else is as before.
    assert torch.equal(again.operator.sampled, dataset[1].operator.sampled)
    assert torch.allclose(again.scale, dataset[1].scale, rtol=0.02)
    assert (again.measurement - dataset[1].measurement).abs().max() < 0.1 * dataset[1].measurement.abs().max()


def test_lines_of_a_frame_are_held_out(sites: Path) -> None:
    sample = collate([samples(sites)[0]])
    kept, held_out = held_out_split(sample, 0.3, torch.Generator().manual_seed(0))
    assert held_out.shape == (1, FRAMES, 1, 1, 32)
    assert not kept.measurement[held_out.expand(kept.measurement.shape)].any()


def test_persons_have_slices_not_frames(sites: Path) -> None:
    manifest = next(m for m in load_federation(sites) if m.name == "west")
    assert [len(slices) for slices in patients_of(manifest, manifest.dataset("train")).slices.values()] == [SLICES]


def test_scores_are_of_all_frames_and_of_each(sites: Path) -> None:
    (volume,) = evaluate(MRI_METHODS["cg_sense"](), samples(sites)).volumes
    assert volume.slices == SLICES and len(volume.psnr_by_frame) == FRAMES
    errors = [10 ** (-value / 10) for value in volume.psnr_by_frame]
    assert volume.psnr == pytest.approx(-10 * np.log10(np.mean(errors)), abs=1e-3)


def test_training_scores_and_report_name_frames(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    for site in ("east", "west"):
        row = report["arms"]["fedavg"]["sites"][site]["volumes"][0]
        assert row["slices"] == SLICES and len(row["psnr_by_frame"]) == FRAMES
        assert report["sites"][site]["frames"] == [FRAMES]
    page = (run / "report.html").read_text()
    assert f"slice 1 of {SLICES}, frame" in page or f"slice 2 of {SLICES}, frame" in page
    with h5py.File(run / "test" / "west.h5") as file:
        assert file["kspace"].shape == (SLICES, FRAMES, 4, 32, 32) and file["mask"].shape == (SLICES, FRAMES, 32, 32)
        assert file["reference"].shape == file["images/fedavg"].shape == (SLICES, FRAMES, 32, 32)


def test_a_file_is_reconstructed_in_its_own_order(run: Path, sites: Path, tmp_path: Path) -> None:
    scan = samples(sites).volumes[0].path
    out = tmp_path / "image.h5"
    assert main(["reconstruct", str(run), str(scan), "--site", "west", "--out", str(out)]) == 0
    with h5py.File(out) as found, h5py.File(scan) as file:
        images, rss = found["reconstruction"][:], file["reconstruction_rss"][:]
    assert images.shape == rss.shape == (FRAMES * SLICES, 32, 32)
    for image in range(FRAMES * SLICES):
        errors = [np.abs(images[image] / images.max() - other / rss.max()).mean() for other in rss]
        assert int(np.argmin(errors)) == image


def test_frames_survive_a_conversion(sites: Path, tmp_path: Path) -> None:
    scan = samples(sites).volumes[0].path
    convert_scan(scan, tmp_path / "again.h5")
    with h5py.File(tmp_path / "again.h5") as file:
        assert file.attrs["frames"] == FRAMES


def test_frames_of_cmrxrecon_are_frames(sites: Path, tmp_path: Path) -> None:
    scan, path = samples(sites).volumes[0].path, tmp_path / "cine.mat"
    with h5py.File(scan) as source, h5py.File(path, "w", userblock_size=512) as file:
        kspace = source["kspace"][:].reshape(FRAMES, SLICES, 4, 32, 32).swapaxes(-1, -2)
        pairs = np.empty(kspace.shape, [("real", "f4"), ("imag", "f4")])
        pairs["real"], pairs["imag"] = kspace.real, kspace.imag
        file["kspace_full"] = pairs
        file["kspace_full"].attrs["MATLAB_class"] = np.bytes_("single")
    theirs, ours = CineSlices([path], "site", format="cmrxrecon"), CineSlices([scan], "site")
    assert len(theirs) == SLICES and theirs.volumes[0].frames == FRAMES
    for index in range(SLICES):
        found, expected = theirs[index].target(), ours[index].target()
        assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.999
    convert_scan(path, tmp_path / "cine.h5")
    with h5py.File(tmp_path / "cine.h5") as file:
        assert file.attrs["frames"] == FRAMES


def test_a_2d_site_reads_the_frames_as_slices(sites: Path) -> None:
    manifest = next(m for m in load_federation(sites) if m.name == "west")
    from recon import KSpaceSlices

    dataset = KSpaceSlices(manifest.files("test"), "site")
    assert len(dataset) == FRAMES * SLICES and dataset[0].operator.domain_shape == (32, 32)


def test_what_does_not_fit_is_one_line(sites: Path, tmp_path: Path) -> None:
    scan = samples(sites).volumes[0].path
    with pytest.raises(DataError, match=r"reference: found 'rss', expected 'auto' or 'coil_combined' for frames"):
        CineSlices([scan], "site", reference="rss")
    with h5py.File(scan) as source, h5py.File(tmp_path / "bad.h5", "w") as out:
        for key in source:
            source.copy(key, out)
        out.attrs["frames"] = 3
    with pytest.raises(DataError, match=r"bad.h5: attribute frames: found 3, expected a divisor of the 8 slices"):
        CineSlices([tmp_path / "bad.h5"], "site")
    with pytest.raises(ValueError, match="kspace has 8 slices, expected a multiple of 3 frames"):
        with h5py.File(scan) as file:
            kspace = torch.from_numpy(file["kspace"][:])
        header = samples(sites).volumes[0].header
        write_volume(tmp_path / "no.h5", kspace, header, patient_id="p", acquisition="cine", frames=3)
    with pytest.raises(ValueError, match="sampling is 'random', expected one of frame_random, frame_shifted"):
        CineSimulation("random", 4, 0.1)
