"""Labels lie on the images of their scans, whatever the axes of their file; all others are one line."""

import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor

from physics import FanBeam, ImageGrid, birdcage_maps
from recon import (
    UNLABELLED,
    Augmentation,
    DataError,
    DisplayedGrid,
    ImageHeader,
    KSpaceSlices,
    LabelMaps,
    NonCartesianSlices,
    Placement,
    Simulation,
    SinogramSlices,
    TaskLabels,
    TrajectorySimulation,
    batches,
    label_warnings,
    read_class_table,
    read_images,
    simulate_volume,
    simulated_header,
    write_label_map,
    write_sinograms,
    write_volume,
)
from recon.export import Reconstruction, write_reconstruction

SEGMENTATION = TaskLabels("segmentation", ("lesion", "cyst"))
PRESENCE = TaskLabels("classification", ("lesion", "cyst"))
#: Slices, height and width of the displayed images; no two are alike.
SHAPE = (3, 24, 20)
#: A tilted scan of unequal pixels.
TILTED = ImageHeader(
    shape=SHAPE[1:],
    pixel_mm=(1.5, 0.8),
    placement=Placement(
        np.array([[1.0, 0, 0], [0, 0.8, -0.6]]), np.array([[10.0, -20, 30 + 5 * i] for i in range(SHAPE[0])])
    ),
)
PLAIN = ImageHeader(shape=SHAPE[1:], pixel_mm=(1.5, 0.8))


def drawn(shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Labels without any symmetry: another value and place in every slice."""
    labels = torch.zeros(shape, dtype=torch.int64)
    labels[0, 3:7, 2:12] = 1
    labels[1, 15:21, 4:7] = 2
    labels[2, 1:8, 11:16] = 1
    labels[2, 18:23, 1:9] = UNLABELLED
    return labels


def grid(header: ImageHeader = PLAIN, scan: str = "scan.h5") -> DisplayedGrid:
    return DisplayedGrid(Path(scan), SHAPE, header.affine(SHAPE), header.placement is not None)


def read(path: Path, header: ImageHeader = PLAIN, task: TaskLabels = SEGMENTATION) -> Tensor:
    maps = LabelMaps(task, (path,))
    return torch.stack([maps.of_slice(0, i, grid(header)) for i in range(SHAPE[0])])


def refused(path: Path, header: ImageHeader = PLAIN) -> str:
    with pytest.raises(DataError) as error:
        read(path, header)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("header", [PLAIN, TILTED], ids=["plain", "tilted"])
def test_label_maps_read_back_as_written(tmp_path: Path, header: ImageHeader) -> None:
    write_label_map(tmp_path / "a.nii.gz", drawn(), header)
    found = read(tmp_path / "a.nii.gz", header)
    assert found.dtype == torch.int64
    assert torch.equal(found, drawn())


@pytest.mark.parametrize("header", [PLAIN, TILTED], ids=["plain", "tilted"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axes_of_any_order_and_direction_are_turned(
    tmp_path: Path, header: ImageHeader, order: tuple[int, ...]
) -> None:
    """The same labels in the same place, stored along other axes: what the tools of radiologists write."""
    stored, affine = drawn().numpy().astype(np.int16).transpose(2, 1, 0), header.affine(SHAPE)
    assert affine is not None
    for signs in itertools.product((1, -1), repeat=3):
        turn = np.array(list(zip(order, signs, strict=True)), dtype=float)
        values = nibabel.orientations.apply_orientation(stored, turn)
        own = affine @ nibabel.orientations.inv_ornt_aff(turn, stored.shape)
        path = tmp_path / f"{signs}.nii"
        nibabel.save(nibabel.Nifti1Image(values, own), path)
        assert torch.equal(read(path, header), drawn()), signs


@pytest.mark.parametrize("header", [PLAIN, TILTED], ids=["plain", "tilted"])
def test_labels_drawn_on_a_written_reconstruction_lie_on_it(tmp_path: Path, header: ImageHeader) -> None:
    images = drawn().clamp_min(0).float().numpy()
    write_reconstruction(Reconstruction(images, images, header, "scan.h5", "fbp"), tmp_path / "a.nii.gz")
    written: Any = nibabel.load(tmp_path / "a.nii.gz")
    mask = nibabel.Nifti1Image((np.asarray(written.dataobj) == 1).astype(np.uint8), written.affine)
    nibabel.save(mask, tmp_path / "mask.nii.gz")
    assert torch.equal(read(tmp_path / "mask.nii.gz", header), (drawn() == 1).long())


def test_labels_of_images_lie_as_read_images_shows_them(tmp_path: Path) -> None:
    """An independent reader of the same convention: axial slices, anterior at the top, left at the right."""
    header = ImageHeader(shape=SHAPE[1:], pixel_mm=(1.0, 1.0))
    write_label_map(tmp_path / "a.nii.gz", drawn(), header)
    assert torch.equal(read_images(tmp_path / "a.nii.gz", labels=True), drawn().float())


def test_labels_beside_a_placed_scan_are_refused(tmp_path: Path) -> None:
    affine = TILTED.affine(SHAPE)
    assert affine is not None
    stored = drawn().numpy().astype(np.int16).transpose(2, 1, 0)
    shifted, larger = affine.copy(), affine.copy()
    shifted[:3, 3] += 2.0
    larger[:3, :3] *= 1.2
    wrongs = {"shifted": (stored, shifted), "larger": (stored, larger), "nowhere": (stored, np.eye(4))}
    for name, (values, own) in wrongs.items():
        path = tmp_path / f"{name}.nii"
        nibabel.save(nibabel.Nifti1Image(values, own), path)
        assert "mm beside the images of scan.h5" in refused(path, TILTED), name


def test_slices_at_uneven_steps_have_no_affine(tmp_path: Path) -> None:
    assert TILTED.placement is not None
    positions = TILTED.placement.positions.copy()
    positions[2] += 3
    uneven = replace(TILTED, placement=Placement(TILTED.placement.orientation, positions))
    write_label_map(tmp_path / "a.nii.gz", drawn(), TILTED)
    assert "uneven steps" in refused(tmp_path / "a.nii.gz", uneven)
    with pytest.raises(DataError, match="uneven steps"):
        write_label_map(tmp_path / "b.nii.gz", drawn(), uneven)
    np.savez(tmp_path / "c.npz", labels=drawn().numpy())
    assert torch.equal(read(tmp_path / "c.npz", uneven), drawn())


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float32])
def test_arrays_are_read_as_displayed(tmp_path: Path, kind: type) -> None:
    values = drawn().numpy()
    if kind is np.uint8:
        values = np.where(values < 0, 255, values)
    np.savez(tmp_path / "a.npz", labels=values.astype(kind))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["labels"] = values.astype(kind)
    assert torch.equal(read(tmp_path / "a.npz"), drawn())
    assert torch.equal(read(tmp_path / "a.h5"), drawn())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.transpose(0, 2, 1), ["shape (3, 20, 24)", "(3, 24, 20), the displayed images of scan.h5"]),
        (lambda v: v[:2], ["shape (2, 24, 20)"]),
        (lambda v: v[0], ["shape (24, 20)", "integers (slices, height, width)"]),
        (lambda v: v + 2, ["values 3, 4", "0 to 2, 255 or -1"]),
        (lambda v: v + 0.5, ["values -0.5, 0.5"]),
        (lambda v: np.where(v == 1, np.nan, v), ["values nan"]),
        (lambda v: v.astype(complex), ["complex128"]),
    ],
)
def test_other_arrays_are_one_line(tmp_path: Path, change: Callable[[Any], Any], words: list[str]) -> None:
    np.savez(tmp_path / "a.npz", labels=change(drawn().numpy()))
    message = refused(tmp_path / "a.npz")
    for word in words:
        assert word in message


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", mask=drawn().numpy())
    np.savez(tmp_path / "objects.npz", labels=np.array([{}], dtype=object))
    for name in ("text.npz", "text.nii.gz", "text.h5"):
        (tmp_path / name).write_text("no labels")
    assert "found only mask" in refused(tmp_path / "other.npz")
    for name in ("objects.npz", "text.npz", "text.nii.gz", "text.h5"):
        assert "file: found" in refused(tmp_path / name), name
    (tmp_path / "a.png").write_text("")
    for name, words in (("none.nii.gz", "task.unlabelled"), ("a.png", "another ending")):
        with pytest.raises(DataError, match=words):
            LabelMaps(SEGMENTATION, (tmp_path / name,))


def test_labels_that_change_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, labels=drawn().numpy())
    before = LabelMaps(SEGMENTATION, (path,)).digest(0)
    assert read(path).any()
    np.savez(path, labels=0 * drawn().numpy())
    assert not read(path).any()
    assert LabelMaps(SEGMENTATION, (path,)).digest(0) != before


def test_scans_without_labels_are_unlabelled() -> None:
    label = LabelMaps(SEGMENTATION, (None,)).of_slice(0, 0, grid())
    assert label.shape == SHAPE[1:] and (label == UNLABELLED).all()
    assert LabelMaps(SEGMENTATION, (None,)).digest(0) is None


def scan(path: Path, image: Tensor, crop: tuple[int, int] | None = None) -> Path:
    """Fully sampled k-space of images, displayed cropped."""
    shape = (image.shape[-2], image.shape[-1])
    maps = birdcage_maps(4, shape, seed=1)
    kspace = simulate_volume(image.to(torch.complex64), maps)
    options: dict[str, Any] = {"patient_id": path.stem, "acquisition": "test", "maps": maps}
    write_volume(path, kspace, simulated_header(shape, crop), noise_covariance=torch.zeros(4, 4), **options)
    return path


def object_of(labels: Tensor) -> Tensor:
    """Images that are bright exactly where a class is."""
    return 0.2 + (labels > 0).float()


def cut(values: Tensor, crop: tuple[int, int]) -> Tensor:
    top, left = (values.shape[-2] - crop[0]) // 2, (values.shape[-1] - crop[1]) // 2
    return values[..., top : top + crop[0], left : left + crop[1]]


@pytest.mark.parametrize("crop", [(24, 20), (17, 20), (16, 15)], ids=str)
@pytest.mark.parametrize("reference", ["coil_combined", "rss"])
@pytest.mark.parametrize("raw", [False, True])
def test_labels_lie_on_the_displayed_image(tmp_path: Path, crop: tuple[int, int], reference: Any, raw: bool) -> None:
    """With and without oversampling of the readout, and for every kind of reference."""
    labels = drawn()
    np.savez(tmp_path / "a.npz", labels=cut(labels, crop).numpy())
    file = scan(tmp_path / "a.h5", object_of(labels), crop)
    maps = LabelMaps(SEGMENTATION, (tmp_path / "a.npz",))
    slices = KSpaceSlices([file], "north", maps="true", reference=reference, raw_coils=raw, labels=maps)
    for sample in slices:
        target = sample.target() / sample.target().max()
        assert sample.label is not None and sample.label.shape == target.shape == crop
        assert torch.equal(target > 0.5, sample.label > 0)
    assert torch.stack([s.label for s in slices if s.label is not None]).equal(cut(labels, crop))


def test_undersampled_trajectories_and_copies_have_the_labels(tmp_path: Path) -> None:
    labels = drawn()
    np.savez(tmp_path / "a.npz", labels=labels.numpy())
    file, maps = scan(tmp_path / "a.h5", object_of(labels)), LabelMaps(SEGMENTATION, (tmp_path / "a.npz",))
    radial = TrajectorySimulation("radial", 2)
    cartesian = KSpaceSlices([file], "north", maps="true", simulate=Simulation("random", 2, 0.2), labels=maps)
    turned = NonCartesianSlices([file], "north", maps="true", simulate=radial, labels=maps)
    for slices in (cartesian, pickle.loads(pickle.dumps(cartesian)), turned):
        assert torch.stack([sample.label for sample in slices]).equal(labels)
    (batch,) = batches(cartesian, 3)
    assert batch.label is not None and batch.label.equal(labels)
    assert batch.to("meta").label is not None


def test_ct_slices_have_labels(tmp_path: Path) -> None:
    labels = drawn()
    np.savez(tmp_path / "a.npz", labels=labels.numpy())
    image_grid = ImageGrid(SHAPE[1:], 2.0)
    angles = tuple(np.linspace(0, 2 * np.pi, 30, endpoint=False).tolist())
    geometry = FanBeam(angles, detectors=40, pitch_mm=3.0, source_to_axis_mm=200.0, source_to_detector_mm=400.0)
    lines = torch.ones(3, 30, 40)
    write_sinograms(
        tmp_path / "a.h5", image_grid, geometry, line_integrals=lines, reference=object_of(labels) * 0.02,
        patient_id="a", acquisition="test",
    )  # fmt: skip
    slices = SinogramSlices([tmp_path / "a.h5"], "north", labels=LabelMaps(SEGMENTATION, (tmp_path / "a.npz",)))
    for sample in slices:
        assert sample.label is not None
        assert torch.equal(sample.target() > 0.9, sample.label > 0)


@pytest.mark.parametrize("shape", [(32, 28), (33, 27)], ids=str)
@pytest.mark.parametrize("crop", [None, (26, 22), (25, 21)], ids=str)
def test_augmentation_moves_labels_with_the_image(
    tmp_path: Path, shape: tuple[int, int], crop: tuple[int, int] | None
) -> None:
    """The bright pixels of the changed image are those of the changed label; an odd crop turns by another center."""
    labels = torch.zeros(3, *shape, dtype=torch.int64)
    labels[:, 10:22, 8:13] = 1
    labels[:, 10:14, 8:20] = 1
    shown = crop or shape
    np.savez(tmp_path / "a.npz", labels=cut(labels, shown).numpy())
    file, maps = scan(tmp_path / "a.h5", object_of(labels), shown), LabelMaps(SEGMENTATION, (tmp_path / "a.npz",))
    augment = Augmentation(probability=1.0, max_rotation_deg=30, scale=(0.8, 1.2))
    options: dict[str, Any] = {"maps": "true", "labels": maps, "remove_oversampling": False}
    plain = KSpaceSlices([file], "north", **options)
    moved = KSpaceSlices([file], "north", augment=augment, **options)
    changed = 0
    for epoch in range(6):
        moved.epoch = epoch
        for before, sample in zip(plain, moved, strict=True):
            assert sample.label is not None and before.label is not None
            bright = sample.target() > 0.6 * before.target().max()
            known = sample.label != UNLABELLED
            # Interpolation rounds edges: less than a tenth of the pixels of the object.
            wrong = ((sample.label == 1) != bright) & known
            assert int(wrong.sum()) <= 0.1 * int(bright.sum())
            assert bright[known].sum() >= 0.8 * bright.sum()
            changed += not torch.equal(sample.label, before.label)
    assert changed > 12


def test_flips_of_labels_are_exact(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=drawn().numpy())
    file, maps = scan(tmp_path / "a.h5", object_of(drawn())), LabelMaps(SEGMENTATION, (tmp_path / "a.npz",))
    augment = Augmentation(probability=1.0, max_rotation_deg=0, scale=(1.0, 1.0))
    slices = KSpaceSlices([file], "north", maps="true", labels=maps, augment=augment)
    seen = set()
    for slices.epoch in range(12):
        for label, sample in zip(drawn(), slices, strict=True):
            turns = [axes for axes in ((), (-1,), (-2,), (-1, -2)) if torch.equal(label.flip(axes), sample.label)]
            assert len(turns) == 1
            seen.add(turns[0])
            assert torch.equal(sample.target() > 0.6 * sample.target().max(), sample.label > 0)
    assert len(seen) == 4


TURNS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("left-right mirrored", lambda labels: labels.flip(-1)),
    ("upside down", lambda labels: labels.flip(-2)),
    ("rotated by 180 degrees", lambda labels: labels.flip(-1, -2)),
    ("transposed", lambda labels: labels.mT),
    ("in reverse order", lambda labels: labels.flip(0)),
    ("upside down, in reverse order", lambda labels: labels.flip(0, -2)),
]


@pytest.mark.parametrize(("name", "turn"), TURNS, ids=[name for name, _ in TURNS])
def test_labels_that_fit_better_when_turned_are_a_warning(
    tmp_path: Path, name: str, turn: Callable[[Tensor], Tensor]
) -> None:
    labels = drawn((3, 24, 24))
    np.savez(tmp_path / "a.npz", labels=labels.numpy())
    file, maps = scan(tmp_path / "a.h5", object_of(labels)), LabelMaps(SEGMENTATION, (tmp_path / "a.npz",))
    assert label_warnings(KSpaceSlices([file], "north", labels=maps)) == []
    np.savez(tmp_path / "a.npz", labels=turn(labels).numpy())
    (line,) = label_warnings(KSpaceSlices([file], "north", labels=maps))
    assert line.startswith(f"{file}: labels: found labels that explain") and f"when {name}, expected" in line


def test_labels_of_which_the_image_says_nothing_bring_no_warning(tmp_path: Path) -> None:
    noise = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "a.npz", labels=drawn().numpy())
    file, maps = scan(tmp_path / "a.h5", noise), LabelMaps(SEGMENTATION, (tmp_path / "a.npz",))
    assert label_warnings(KSpaceSlices([file], "north", labels=maps)) == []
    assert label_warnings(KSpaceSlices([file], "north")) == []
    np.savez(tmp_path / "a.npz", labels=torch.full(SHAPE, UNLABELLED).numpy())
    assert label_warnings(KSpaceSlices([file], "north", labels=maps)) == []


def table(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_a_table_of_classes_is_read(tmp_path: Path) -> None:
    path = table(tmp_path, "file,slice,cyst,lesion\na.h5,0,1,0\na.h5,2,,1\nb.h5,,0,1\nother_site.h5,,1,1\n\n")
    found = read_class_table(path, PRESENCE, ["b.h5", "a.h5", "c.h5"], ["c.h5"])
    assert found.of_slice(0, 1, grid()).tolist() == [1, 0]
    assert found.of_slice(1, 0, grid()).tolist() == [0, 1]
    assert found.of_slice(1, 0, grid()).dtype == torch.float32
    assert found.of_slice(1, 2, grid()).isnan().tolist() == [False, True]
    assert found.of_slice(1, 1, grid()).isnan().all() and found.of_slice(2, 0, grid()).isnan().all()
    other = read_class_table(table(tmp_path, "cyst,file,lesion\n0,b.h5,1\n"), PRESENCE, ["b.h5"])
    assert other.digest(0) == found.digest(0) != found.digest(1)
    assert found.digest(2) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["columns none"]),
        ("file,lesion\na.h5,1\n", ["columns file, lesion", "the classes lesion, cyst, each once"]),
        ("file,lesion,cyst,tumor\na.h5,1,0,0\n", ["columns file, lesion, cyst, tumor"]),
        ("file,lesion,cyst,cyst\na.h5,1,0,0\n", ["each once"]),
        ("file,lesion,cyst\na.h5,1\n", ["line 2: found 2 cells, expected 3"]),
        ("file,lesion,cyst\na.h5,1,2\n", ["line 2: found '2' for cyst, expected 1, 0 or nothing"]),
        ("file,lesion,cyst\na.h5,1,0\na.h5,1,0\n", ["line 3: found a second row for a.h5"]),
        ("file,slice,lesion,cyst\na.h5,,1,0\na.h5,1,1,0\n", ["a second row for a.h5 slice 1"]),
        ("file,slice,lesion,cyst\na.h5,-1,1,0\n", ["slice '-1'"]),
        ("file,slice,lesion,cyst\na.h5,3,1,0\n", ["slice 3 of scan.h5, expected 0 to 2"]),
        ("file,lesion,cyst\nb.h5,1,0\n", ["no row for a.h5", "task.unlabelled"]),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = table(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_class_table(path, PRESENCE, ["a.h5"]).of_slice(0, 0, grid())
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_classes_of_slices_reach_the_samples(tmp_path: Path) -> None:
    file = scan(tmp_path / "a.h5", object_of(drawn()))
    labels = read_class_table(
        table(tmp_path, "file,slice,lesion,cyst\na.h5,0,1,0\na.h5,1,0,1\na.h5,2,1,\n"), PRESENCE, ["a.h5"]
    )
    augment = Augmentation(probability=1.0)
    slices = KSpaceSlices([file], "north", maps="true", labels=labels, augment=augment)
    (batch,) = batches(slices, 3)
    assert batch.label is not None
    assert batch.label[:2].tolist() == [[1, 0], [0, 1]] and math.isnan(batch.label[2, 1])
