"""Label images of people lie on the simulated scans of their images, reduced, cropped and sliced alike."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from federation import ConfigError, ImageLabels, check_sites, load_federation, make_ct_image_sites, make_image_sites
from federation.cli.main import main
from federation.sites import CTScanner, MRIScanner, PersonImage, parse_classes
from recon import DataError, reduce_labels, reduce_matrix, resize_labels

CLASSES = {"body": (7, 8), "mark": (3,)}


def drawn(slices: int, height: int, width: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Bright bodies with a brighter mark at another place in every slice, and their labels 7 and 3."""
    rows, columns = np.mgrid[:height, :width]
    body = ((rows - 0.4 * height) / (0.34 * height)) ** 2 + ((columns - 0.55 * width) / (0.35 * width)) ** 2 < 1
    labels = np.where(body, 7, 0)[None].repeat(slices, 0)
    for number, own in enumerate(labels):
        row, column = round(0.3 * height) + number, round(0.4 * width) + 2 * number
        own[row : row + height // 6, column : column + width // 4] = 3
    return np.select([labels == 3, labels == 7], [1.0, 0.5], 0.0), labels


def save(path: Path, volume: np.ndarray[Any, Any], affine: Any = None, order: str = "RAS") -> None:
    """NIfTI of slices as :func:`recon.read_images` shows them, stored along other axes."""
    image = nibabel.Nifti1Image(
        volume.transpose(2, 1, 0)[::-1, ::-1].astype(np.float32), np.eye(4) if affine is None else affine
    )
    turn = nibabel.orientations.axcodes2ornt(tuple(order))  # type: ignore[no-untyped-call]
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image.as_reoriented(turn), path)


def people(folder: Path, scale: Callable[[Any], Any], order: str = "RAS", count: int = 3) -> list[PersonImage]:
    """Images of people, with label images beside them along other axes."""
    images = []
    for number in range(count):
        # Air below the body, whose slices are left out.
        volume, labels = (np.concatenate([0 * part[:2], part]) for part in drawn(4 + number, 52, 48))
        save(folder / f"p{number}_t1.nii.gz", scale(volume))
        save(folder / f"p{number}_seg.nii.gz", labels, order=order)
        images.append(PersonImage(folder / f"p{number}_t1.nii.gz", f"p{number}"))
    return images


MRI = MRIScanner(name="one", coils=2, sampling="random", acceleration=2, center_fraction=0.3, phase="smooth")
CT = CTScanner(name="one", protocol=1, matrix=24, field_of_view=1.2)
LABELS = ImageLabels("{person}_seg.nii.gz", CLASSES)


@pytest.mark.parametrize("order", ["RAS", "LPS", "SAR", "PIL"])
@pytest.mark.parametrize("matrix", [None, 20])
def test_labels_lie_on_simulated_mri(tmp_path: Path, order: str, matrix: int | None) -> None:
    images = people(tmp_path / "from", lambda volume: volume, order)
    scanner = MRI.model_copy(update={"matrix": matrix, "slices": 3})
    make_image_sites(images, tmp_path / "sites", sites=[scanner], labels=LABELS)
    (site,) = check_sites(tmp_path / "sites")
    assert site.splits[0].labels is not None and site.splits[0].labels.classes == {"body": (1, 3), "mark": (1, 3)}
    (manifest,) = load_federation(tmp_path / "sites")
    for split in ("train", "validation", "test"):
        for sample in manifest.dataset(split):
            assert sample.label is not None
            target = sample.target() / sample.target().max()
            shown = torch.bucketize(target, torch.tensor([0.25, 0.75]))
            wanted = torch.tensor([0, 1, 2])[sample.label]
            # The tapered edges of k-space blur one pixel at the edges.
            assert float((shown != wanted).float().mean()) < 0.06
            for axes in ((-1,), (-2,), (-1, -2)):
                assert float((shown != wanted.flip(axes)).float().mean()) > 0.1


@pytest.mark.parametrize("persons", [True, False])
def test_labels_lie_on_simulated_ct(tmp_path: Path, persons: bool) -> None:
    images = people(tmp_path / "from", lambda volume: np.select([volume == 1, volume == 0.5], [400, 0], -1000))
    if persons:
        make_ct_image_sites(images, tmp_path / "sites", sites=[CT], labels=LABELS)
    else:
        labels = ImageLabels("{stem}_seg.nii.gz", CLASSES)
        for image in images:
            (tmp_path / f"from/{image.person}_seg.nii.gz").rename(tmp_path / f"from/{image.person}_t1_seg.nii.gz")
        make_ct_image_sites([image.file for image in images], tmp_path / "sites", size=24, labels=labels)
    for manifest in load_federation(tmp_path / "sites"):
        for sample in manifest.dataset("train"):
            assert sample.label is not None
            shown = torch.bucketize(sample.target(), torch.tensor([0.5, 1.2]))
            assert float((shown != sample.label).float().mean()) < 0.08
            assert float((shown != sample.label.flip(-1)).float().mean()) > 0.1


def test_the_same_labels_as_classes_of_slices(tmp_path: Path) -> None:
    images = people(tmp_path / "from", lambda volume: volume)
    labels = ImageLabels("{person}_seg.nii.gz", CLASSES, "classification")
    make_image_sites(images, tmp_path / "sites", sites=[MRI], labels=labels)
    (manifest,) = load_federation(tmp_path / "sites")
    assert all(sample.label is not None and sample.label.tolist() == [1, 1] for sample in manifest.dataset("train"))


def test_the_command_makes_labeled_sites(tmp_path: Path, fails: Callable[..., str]) -> None:
    images = people(tmp_path / "from", lambda volume: volume, count=9)
    files = [str(image.file) for image in images]
    command = ["sites", "make", "images", *files, "--subject", "/(p[0-9])_", "--out", str(tmp_path / "sites")]
    labels = ["--labels", "{person}_seg.nii.gz"]
    assert main([*command, *labels, "--classes", "mark=3"]) == 0
    assert all(site.splits[0].labels is not None for site in check_sites(tmp_path / "sites"))
    assert "both or none" in fails(*command, *labels)
    assert "--classes: found 'mark=x'" in fails(*command, *labels, "--classes", "mark=x")
    assert "no pixel with the values 9 of rare" in fails(*command, "--overwrite", *labels, "--classes", "rare=9")
    absent = ImageLabels("{person}_mask.nii.gz", CLASSES)
    with pytest.raises(DataError, match=r"p0_mask.nii.gz: file: found nothing, expected labels of p0_t1.nii.gz"):
        make_image_sites(images, tmp_path / "other", sites=[MRI], labels=absent)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a"], "'a'"), (["=1"], "'=1'"), (["a="], "'a='"), (["a=1", "a=2"], "there once"), (["a=4-2"], "'a=4-2'"),
        (["a=1-3", "b=2"], "value 2 twice"), (["a=-1"], "'a=-1'"),
    ],
)  # fmt: skip
def test_wrong_classes_are_one_line(texts: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_classes(texts)
    assert parse_classes(["deep gray=23, 30,36-38", "b=0"]) == {"deep gray": (23, 30, 36, 37, 38), "b": (0,)}


@pytest.mark.parametrize(
    ("affine", "shape", "words"),
    [
        (np.diag([1, 1, 2, 1]), (6, 52, 48), "mm beside those of the image"),
        (np.eye(4) + np.eye(4, k=3) * 2, (6, 52, 48), "corners 2.0 mm beside"),
        (np.eye(4), (6, 52, 40), "40 x 52 x 6 voxels"),
    ],
)
def test_labels_in_another_place_are_refused(tmp_path: Path, affine: Any, shape: tuple[int, ...], words: str) -> None:
    images = people(tmp_path, lambda volume: volume, count=1)
    save(tmp_path / "p0_seg.nii.gz", np.full(shape, 3), affine)
    with pytest.raises(DataError, match=words) as error:
        make_image_sites(images, tmp_path / "sites", sites=[MRI], labels=LABELS)
    assert "p0_seg.nii.gz: affine" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("source", [(120, 120), (101, 120), (121, 90)], ids=str)
@pytest.mark.parametrize("shape", [(60, 60), (50, 45), (33, 40)], ids=str)
def test_reduced_labels_lie_on_reduced_images(source: tuple[int, int], shape: tuple[int, int]) -> None:
    _, labels = drawn(2, *source)
    for value in (3, 7):
        mask = torch.from_numpy(labels == value)
        image = reduce_matrix(mask.float(), shape)
        assert int(((image > 0.5) != (reduce_labels(mask.long(), shape) == 1)).sum()) <= 0.03 * int((image > 0.5).sum())


def test_resized_labels_take_the_largest_part() -> None:
    labels = torch.tensor([[1, 1, 2, 0], [2, 1, 0, 0], [0, 3, 3, 3], [3, 3, 0, 0]])
    assert resize_labels(labels, (2, 2)).tolist() == [[1, 0], [3, 0]]  # half and half: the lower one
    assert torch.equal(resize_labels(labels, (4, 4)), labels)
    assert torch.equal(resize_labels(labels, (8, 8)), labels.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert resize_labels(labels.to(torch.uint8)[None, None], (3, 2)).shape == (1, 1, 3, 2)


@pytest.mark.real_data
def test_real_labels_lie_on_real_anatomy(tmp_path: Path) -> None:
    data = Path(os.environ["FEDRECON_DATA"])
    files = sorted((data / "mr_brain_t1_ixi_3T_philips").glob("*_T1.nii.gz"))[:3]
    images = [PersonImage(file, file.name.split("-")[0]) for file in files]
    labels = ImageLabels("{stem}_DLMUSE.nii.gz", parse_classes(["ventricles=4,11,49-52", "white=81-88"]))
    make_image_sites(images, tmp_path / "mri", sites=[MRI.model_copy(update={"slices": 8})], labels=labels)
    (manifest,) = load_federation(tmp_path / "mri")
    shown = [(s.target(), s.label) for s in manifest.dataset("test") if s.label is not None and (s.label == 1).any()]
    ventricles, white = (torch.cat([target[label == k] for target, label in shown]) for k in (1, 2))
    assert len(ventricles) > 30
    assert float(ventricles.median()) < 0.8 * float(white.median())  # on T1
    mirrored = torch.cat([target[label.flip(-2) == 1] for target, label in shown])
    assert float(ventricles.median()) < 0.8 * float(mirrored.median())
    chaos, liver = (
        data / "ct_abdomen_liver_labels_chaos" / "chaos_ct_set3.nii.gz",
        ImageLabels("{stem}_liver.nii.gz", {"liver": (1,)}),
    )
    make_ct_image_sites([chaos], tmp_path / "ct", size=64, labels=liver)
    (manifest,) = load_federation(tmp_path / "ct")
    values = [s.target()[s.label == 1] for s in manifest.dataset("train") if s.label is not None]
    assert 1.0 < float(torch.cat(values).median()) < 1.2 and float(torch.cat(values).std()) < 0.1
