"""`[task]` of a manifest: labels reach the samples, lock files hold them, `sites check` counts them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from federation import ConfigError, check_sites, load_federation, load_manifest, make_task_demo_sites
from federation.cli import main
from federation.sites import TASK_DEMO_SITES, TASK_DEMOS, check_new
from federation.sites.lock_file import lock_path, read_lock
from federation.sites.manifest_files import without_files
from physics import hu_to_attenuation
from recon import UNLABELLED, Augmentation, DataError, TaskLabels

from ..fake_sites import write_file, write_manifest, write_site

SHAPE = (2, 24, 20)
MAPS = '[task]\nkind = "segmentation"\nclasses = ["lesion", "cyst"]\nlabels = "labels/{stem}.npz"\n'
TABLE = '[task]\nkind = "classification"\nclasses = ["lesion"]\nlabels = "labels.csv"\n'


def labeled_site(folder: Path, section: str = MAPS, name: str = "north") -> Path:
    """A site of four files whose labels differ: file i has i pixels of the class 1 in slice 0, and one of class 2."""
    path = write_site(folder, name)
    data = folder / "data" / name
    (data / "labels").mkdir()
    for number in range(4):
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[0, 2, 1 : number + 2] = 1
        labels[1, 5, 3] = 2
        np.savez(data / "labels" / f"{name}_{number}.npz", labels=labels)
    rows = [f"{name}_{number}.h5,{i},{int(number > 0)}" for number in range(4) for i in range(2)]
    (data / "labels.csv").write_text("\n".join(["file,slice,lesion", *rows, "else.h5,0,1"]) + "\n")
    path.write_text(path.read_text() + section)
    return path


def line(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(DataError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def replace(path: Path, old: str, new: str) -> Path:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return path


def test_label_maps_reach_the_samples(tmp_path: Path) -> None:
    manifest = load_manifest(labeled_site(tmp_path))
    assert manifest.task_labels() == TaskLabels("segmentation", ("lesion", "cyst"))
    labels = [sample.label for sample in manifest.dataset("train")]
    assert [int((label == 1).sum()) for label in labels] == [1, 0, 2, 0]
    assert all(label.shape == SHAPE[1:] and label.dtype == torch.int64 for label in labels)
    augmented = manifest.dataset("train", augment=Augmentation(probability=1.0, max_rotation_deg=0, scale=(1, 1)))
    assert [int((sample.label == 1).sum()) for sample in augmented] == [1, 0, 2, 0]
    (tmp_path / "again.toml").write_text(manifest.to_toml())
    assert load_manifest(tmp_path / "again.toml").model_dump() == manifest.model_dump()


def test_tables_of_classes_reach_the_samples(tmp_path: Path) -> None:
    manifest = load_manifest(labeled_site(tmp_path, TABLE))
    assert [sample.label.tolist() for sample in manifest.dataset("train")] == [[0], [0], [1], [1]]
    assert manifest.task_labels() == TaskLabels("classification", ("lesion",))


def test_a_site_without_the_section_has_no_labels(tmp_path: Path) -> None:
    manifest = load_manifest(write_site(tmp_path))
    assert manifest.task_labels() is None
    assert manifest.dataset("train")[0].label is None
    assert "task" not in manifest.to_toml()


def test_scans_that_the_manifest_does_not_list_need_no_labels(tmp_path: Path) -> None:
    manifest = load_manifest(labeled_site(tmp_path))
    write_file(tmp_path / "new.h5")
    assert manifest.samples([tmp_path / "new.h5"])[0].label is None
    assert manifest.samples([manifest.root / "north_0.h5", tmp_path / "new.h5"])[2].label.eq(UNLABELLED).all()


def test_folders_of_scans_have_their_labels_by_path(tmp_path: Path) -> None:
    for person in "ab":
        write_file(tmp_path / f"data/north/{person}/scan.h5", person)
        np.savez(tmp_path / f"data/north/{person}/scan.npz", labels=np.full(SHAPE, person == "b", dtype=np.uint8))
    section = MAPS.replace("labels/{stem}", "{path}")
    path = write_manifest(tmp_path, "north", {"train": ["a/scan.h5", "b/scan.h5"]})
    path.write_text(path.read_text() + section)
    assert [int(sample.label.max()) for sample in load_manifest(path).dataset("train")] == [0, 0, 1, 1]
    replace(path, "{path}", "{stem}")
    message = line(load_manifest(path).dataset, "train")
    assert "labels of a/scan.h5 and of b/scan.h5, expected a file for each scan" in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"segmentation"', '"detection"', ["task.kind", "'detection'"]),
        ('["lesion", "cyst"]', "[]", ["task.classes"]),
        ('["lesion", "cyst"]', '["lesion", "lesion"]', ["task.classes", "each once"]),
        ('["lesion", "cyst"]', '["lesion", ""]', ["task.classes"]),
        ("labels = ", "label = ", ["task.label", "did you mean 'labels'"]),
        ("[task]", '[task]\nunlabelled = ["north_9.h5"]', ["task.unlabelled: found 'north_9.h5'", "a file of train"]),
    ],
)
def test_a_wrong_section_is_one_line(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    path = replace(labeled_site(tmp_path), old, new)
    message = line(load_manifest, path)
    assert message.startswith(f"{path}: ")
    for word in words:
        assert word in message


def test_columns_of_the_table_are_no_classes(tmp_path: Path) -> None:
    path = replace(labeled_site(tmp_path, TABLE), '["lesion"]', '["slice"]')
    assert "named as a column" in line(load_manifest, path)


def test_frames_have_no_labels(tmp_path: Path) -> None:
    path = replace(labeled_site(tmp_path), 'name = "north"', 'name = "north"\nmodality = "cine"')
    replace(path, '"random"', '"frame_random"')
    assert "labels of cine, expected mri or ct or non_cartesian" in line(load_manifest, path)


def test_missing_labels_are_one_line_unless_said(tmp_path: Path) -> None:
    path = labeled_site(tmp_path)
    (tmp_path / "data/north/labels/north_1.npz").unlink()
    for call in (lambda: load_manifest(path).dataset("train"), lambda: check_sites(tmp_path)):
        message = line(call)
        assert "labels/north_1.npz: file: found nothing" in message and "task.unlabelled" in message
    replace(path, "[task]", '[task]\nunlabelled = ["north_1.h5"]')
    labels = torch.stack([sample.label for sample in load_manifest(path).dataset("train")])
    assert (labels[2:] == UNLABELLED).all() and (labels[:2] != UNLABELLED).all()
    (site,) = check_sites(tmp_path)
    assert site.splits[0].labels is not None and site.splits[0].labels.people == 1
    _, left = without_files(load_manifest(path), ["north_1.h5"])
    assert left.task is not None and left.task.unlabelled == ()


def test_sites_check_counts_people_and_slices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labeled_site(tmp_path)
    assert main(["sites", "check", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "labels of 2 subjects (4 slices): lesion in 2 (2), cyst in 2 (2)" in text
    assert "labels of 1 subjects (2 slices)" in text


@pytest.mark.parametrize(("section", "words"), [(MAPS, "no training slice with cyst"), (TABLE, "slice with lesion")])
def test_a_class_that_is_in_no_training_slice_is_a_warning(tmp_path: Path, section: str, words: str) -> None:
    labeled_site(tmp_path, section)
    data = tmp_path / "data/north"
    for number in range(2):
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[0, 0, 0] = 1
        np.savez(data / f"labels/north_{number}.npz", labels=labels)
    (data / "labels.csv").write_text("file,lesion\n" + "".join(f"north_{n}.h5,{int(n > 1)}\n" for n in range(4)))
    (site,) = check_sites(tmp_path)
    assert [warning for warning in site.warnings if "task" in warning and words in warning]
    said: list[str] = []
    lock_path(tmp_path / "north.toml").unlink()
    check_new(load_federation(tmp_path), said.append)
    assert [text for text in said if words in text]


def test_wrong_labels_are_found_by_sites_check(tmp_path: Path) -> None:
    labeled_site(tmp_path)
    np.savez(tmp_path / "data/north/labels/north_2.npz", labels=np.zeros((2, 20, 24), dtype=np.uint8))
    assert "shape (2, 20, 24), expected (2, 24, 20)" in line(check_sites, tmp_path)


@pytest.mark.parametrize("section", [MAPS, TABLE])
def test_changed_labels_are_noticed(tmp_path: Path, section: str) -> None:
    path = labeled_site(tmp_path, section)
    data = tmp_path / "data/north"
    check_sites(tmp_path)
    assert all(entry.labels for entry in read_lock(path).values())
    load_federation(tmp_path)
    # Rows of scans of other sites do not matter.
    with (data / "labels.csv").open("a") as file:
        file.write("else.h5,1,0\n")
    load_federation(tmp_path)
    np.savez(data / "labels/north_1.npz", labels=np.ones(SHAPE, dtype=np.uint8))
    text = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(text.replace("north_1.h5,0,1", "north_1.h5,0,0"))
    for call in (lambda: load_federation(tmp_path), lambda: check_sites(tmp_path)):
        message = line(call)
        assert "north_1.h5: labels: found sha256" in message and "north.lock.json" in message
    lock_path(path).unlink()
    assert check_sites(tmp_path)[0].lock == "written"


def test_labels_that_are_added_later_are_checked_and_locked(tmp_path: Path) -> None:
    path = labeled_site(tmp_path, "")
    check_sites(tmp_path)
    assert not any(entry.labels for entry in read_lock(path).values())
    path.write_text(path.read_text() + MAPS)
    (site,) = check_sites(tmp_path)
    assert site.lock == "updated" and all(entry.labels for entry in read_lock(path).values())
    assert check_sites(tmp_path)[0].lock == "verified"


def test_a_lock_file_without_labels_is_that_of_before(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    check_sites(tmp_path)
    assert all("labels" not in entry for entry in json.loads(lock_path(path).read_text())["files"].values())


def test_the_demo_has_both_kinds_of_labels_on_the_same_scans(tmp_path: Path) -> None:
    common = {"size": 48, "train": 2, "validation": 1, "test": 1, "slices": 3, "sites": TASK_DEMO_SITES[:2]}
    maps, classes = tmp_path / "maps", tmp_path / "classes"
    make_task_demo_sites(maps, **common)  # type: ignore[arg-type]
    made = make_task_demo_sites(classes, kind="classification", **common)  # type: ignore[arg-type]
    assert [site.subjects for site in made] == [{"train": 2, "validation": 1, "test": 1}] * 2
    for name in ("north", "east"):
        drawn, present = (load_manifest(folder / f"{name}.toml") for folder in (maps, classes))
        assert not check_sites(maps)[0].warnings
        for split in ("train", "test"):
            pairs = list(zip(drawn.dataset(split), present.dataset(split), strict=True))
            for a, b in pairs:
                assert torch.equal(a.measurement, b.measurement)
                assert float(b.label) == float((a.label == 1).sum() >= 4)
                assert not (a.label == UNLABELLED).any()
    with pytest.raises(ConfigError, match="from before"):
        make_task_demo_sites(maps, **common)  # type: ignore[arg-type]


def test_ct_sites_have_labels_on_the_grid_of_their_images(tmp_path: Path) -> None:
    made = make_task_demo_sites(
        tmp_path, size=48, train=1, validation=1, test=1, slices=2, sites=TASK_DEMOS["ct"][3:], seed=1
    )
    assert len(made) == 1 and not any(site.warnings for site in check_sites(tmp_path))
    lesions, water = [], hu_to_attenuation(torch.tensor(0.0))
    for sample in (one for manifest in load_federation(tmp_path) for one in manifest.dataset("train")):
        assert sample.label is not None and sample.label.shape == sample.target().shape
        lesions.append(sample.target()[sample.label == 1] * sample.scale / water)
    assert 0.6 < float(torch.cat(lesions).median()) < 1.06  # 40 HU, blurred; lungs have 0.16


def test_the_command_makes_sites_that_pass(tmp_path: Path) -> None:
    out = tmp_path / "sites"
    command = ["sites", "make", "demo-task", "--out", str(out), "--size", "32", "--people", "1", "--jobs", "1"]
    assert main([*command, "--task", "classification"]) == 0
    assert len(load_federation(out)) == 4
    shutil.rmtree(out / "data/west/labels")
    load_federation(out)  # the table alone is used
