"""Images by person: the table, the deal, the scanners, and the sites made from them."""

import os
import random
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from federation import ConfigError, check_sites, load_federation, make_image_sites
from federation.cli.main import main
from federation.sites import MRIScanner, PersonImage, read_persons, read_scanners
from federation.sites.lock_file import read_lock
from federation.sites.people import Wish, deal_persons, share
from physics import phantom_volume
from recon import coil_covariance

FRACTIONS = (0.6, 0.2, 0.2)
SCANNERS = """
[[scanner]]
name = "north"
coils = 4
sampling = "random"
acceleration = 3
center_fraction = 0.16
noise_std = 0.02
matrix = 24
contrast = "T1"
slices = 2
persons = 3

[[scanner]]
name = "volume"
coils = 3
sampling = "poisson"
acceleration = 3
center_fraction = 0.2
noise_std = 0.01
gray_scale = "inverted"
train_slices = 3
slices = 1
"""


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Eight persons, of which six have T1 and five T2, in one folder; a table; and the scanners."""
    lines = ["file, person, contrast, slices, kind"]
    for number in range(8):
        for contrast in ("T1", "T2"):
            if (contrast, number) in {("T1", 0), ("T1", 5), ("T2", 1), ("T2", 2), ("T2", 7)}:
                continue
            path = tmp_path / f"p{number}" / f"{contrast}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            head = phantom_volume(5, (52, 48), number, contrast.lower()).abs().numpy()
            nibabel.save(nibabel.Nifti1Image(head.transpose(2, 1, 0)[::-1, ::-1], np.eye(4)), path)  # type: ignore[no-untyped-call]
            lines.append(f"p{number}/{path.name}, person {number}, {contrast}, ,")
    (tmp_path / "persons.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "scanners.toml").write_text(SCANNERS)
    return tmp_path


@pytest.mark.parametrize("seed", range(30))
def test_no_person_is_in_two_places(seed: int) -> None:
    drawn = random.Random(seed)
    images = [
        PersonImage(Path(f"{number}.nii"), f"p{drawn.randrange(15)}", drawn.choice(["T1", "T2", None]))
        for number in range(40)
    ]
    wishes = {"a": Wish("t1"), "b": Wish(None, drawn.randint(1, 3)), "c": Wish("T2", 2), "d": Wish()}
    dealt = deal_persons(images, wishes, FRACTIONS, seed)
    home: dict[str, tuple[str, str]] = {}
    for site, own in dealt.items():
        for part, image in own:
            assert home.setdefault(image.person, (site, part)) == (site, part)
    assert all(image.contrast == "T1" for _, image in dealt["a"]) and all(i.contrast == "T2" for _, i in dealt["c"])
    assert len({image.person for _, image in dealt["c"]}) == 2
    assert dealt == deal_persons(images, wishes, FRACTIONS, seed)


def test_spellings_of_one_person_are_dealt_to_one_split() -> None:
    names = ["P1", "p1", "P1 ", "P2", "p  3", "P 3"]
    images = [PersonImage(Path(f"{number}.nii"), name) for number, name in enumerate(names)]
    (own,) = deal_persons(images, {"a": Wish()}, FRACTIONS, 0).values()
    assert len({(image.person, split) for split, image in own}) == 3
    assert [image.person for _, image in own] == ["P1", "P1", "P1", "P2", "p  3", "p  3"]


def test_scarce_contrasts_are_kept_for_who_needs_them() -> None:
    images = [PersonImage(Path(f"{n}.nii"), f"p{n}", "T2" if n == 0 else "T1") for n in range(3)]
    dealt = deal_persons(images, {"any": Wish(), "t2": Wish("T2")}, FRACTIONS, 0)
    assert [image.person for _, image in dealt["t2"]] == ["p0"]
    assert [image.person for _, image in dealt["any"]] == ["p1", "p2"]
    with pytest.raises(ConfigError, match="site t2: found 1 persons with an image of contrast 'T2', expected 2"):
        deal_persons(images, {"any": Wish(), "t2": Wish("T2", 2)}, FRACTIONS, 0)


def test_a_table_may_name_sites_and_splits() -> None:
    images = [PersonImage(Path(f"{n}.nii"), f"p{n}", site="b" if n < 2 else None, split="test") for n in range(4)]
    dealt = deal_persons(images, {"a": Wish(), "b": Wish()}, FRACTIONS, 0)
    assert [image.person for _, image in dealt["b"]] == ["p0", "p1"]
    assert {part for own in dealt.values() for part, _ in own} == {"test"}
    twice = [PersonImage(Path("a.nii"), "p", site="a"), PersonImage(Path("b.nii"), "p", site="b")]
    with pytest.raises(ConfigError, match="person p: found sites a, b, expected one site: no person is in two places"):
        deal_persons(twice, {"a": Wish(), "b": Wish()}, FRACTIONS, 0)
    twice = [PersonImage(Path("a.nii"), "p", split="train"), PersonImage(Path("b.nii"), "p", split="test")]
    with pytest.raises(ConfigError, match="found splits test, train, expected one split"):
        deal_persons(twice, {"a": Wish()}, FRACTIONS, 0)
    with pytest.raises(ConfigError, match="found site 'c', expected one of a"):
        deal_persons([PersonImage(Path("a.nii"), "p", site="c")], {"a": Wish()}, FRACTIONS, 0)
    same = [PersonImage(Path("a.nii"), "p", slices=(0, 3)), PersonImage(Path("a.nii"), "q", slices=(3, 5))]
    with pytest.raises(ConfigError, match="found slice 3 of persons p and q, expected every slice once"):
        deal_persons(same, {"a": Wish()}, FRACTIONS, 0)


def test_shares_are_even() -> None:
    assert share(7, [9, 9, 9]) == [3, 2, 2] and share(7, [1, 9, 2]) == [1, 4, 2]
    assert share(7, [1, 2]) == [1, 2] and share(0, [4]) == [0] and share(3, []) == []


def test_a_table_is_read(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_persons(people / "persons.csv")
    assert len(images) == 11 and images[1] == PersonImage(people / "p1/T1.nii.gz", "person 1", "T1")
    assert images[1].name == "person-1_T1"
    monkeypatch.setenv("HEADS", "/data/heads")
    table = people / "one.csv"
    table.write_text("\ufeffperson,file,slices,kind,split\nA,${HEADS}/a.nii.gz,4-9,labels,test\nB,b.nii,7,,\n")
    assert read_persons(table) == [
        PersonImage(Path("/data/heads/a.nii.gz"), "A", slices=(4, 9), kind="labels", split="test"),
        PersonImage(people / "b.nii", "B", slices=(7, 7)),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "header: found columns none"),
        ("file,name\na,b\n", "header: found columns file, name, expected file, person, contrast"),
        ("file,person\n", "found no line below the header"),
        ("file,person\na.nii,p\nb.nii\n", "line 3: found another number of cells, expected 2"),
        ("file,person\n,p\n", "line 2: file: found an empty cell"),
        ("file,person,slices\na,p,9-4\n", "line 2: slices: found '9-4', expected first-last"),
        ("file,person,kind\na,p,mask\n", "line 2: kind: found 'mask', expected one of image, labels"),
        ("file,person,split\na,p,tset\n", "line 2: split: found 'tset', expected one of train, validation, test"),
        ("file,person\n$NOWHERE_AT_ALL/a,p\n", "no environment variable NOWHERE_AT_ALL"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "persons.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_persons(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("coils = 4", "coil = 4", "scanner north: coil: unknown key; did you mean 'coils'"),
        (
            'sampling = "random"',
            'sampling = "rnadom"',
            "scanner north: sampling: found 'rnadom'.*mean 'random'",
        ),
        ("matrix = 24", "matrix = 2.5", "scanner north: matrix: found 2.5"),
        ('name = "north"', 'name = "North"', "scanner North: name: found 'North', expected 1 to 64 lower-case"),
        ('name = "north"', 'name = "volume"', "name: found volume, volume, expected different names"),
        ('"inverted"', '"negative"', "scanner volume: gray_scale: found 'negative', expected 'as_is', 'gamma' or"),
        ("[[scanner]]", "[[site]]", "found sections site, expected"),
    ],
)
def test_a_wrong_scanner_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "scanners.toml"
    path.write_text(SCANNERS.replace(old, new))
    with pytest.raises(ConfigError, match=words) as caught:
        read_scanners(path, MRIScanner)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_sites_of_persons(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = people / "sites"
    command = ["sites", "make", "images", "--persons", str(people / "persons.csv"), "--out", str(out)]
    assert main([*command, "--scanners", str(people / "scanners.toml")]) == 0, capsys.readouterr().err
    north, volume = load_federation(out)
    assert north.acquisition.contrast == "T1" and volume.acquisition.contrast == "inverted"
    assert "magnitude images of 5 persons in" in str(volume.acquisition.origin)
    persons = [{entry.patient_id for entry in read_lock(site.path).values()} for site in (north, volume)]
    assert len(persons[0]) == 3 and persons[0].isdisjoint(persons[1])
    assert [len(north.dataset(part)) for part in ("train", "validation", "test")] == [2, 2, 2]  # type: ignore[arg-type]
    assert [len(volume.dataset(part)) for part in ("train", "validation", "test")] == [3, 1, 1]  # type: ignore[arg-type]
    assert [site.name for site in check_sites(out)] == ["north", "volume"]
    sample = north.dataset("train")[0]
    assert sample.reference is not None and sample.reference.shape == (24, 24)
    assert volume.dataset("test")[0].measurement.shape[-2:] == (26, 24)  # half the source
    covariances = []
    for file in north.files("train") + north.files("test"):
        with h5py.File(file) as content:
            covariances.append(torch.from_numpy(content["noise_covariance"][()]))
    assert covariances[0][0, 1].abs() > 0.05 * covariances[0][0, 0].abs() > 0
    assert not torch.allclose(covariances[0], covariances[1], rtol=0.05, atol=0)
    assert (
        main([*command, "--overwrite", "x.nii"]) == 2 and "found both images and --persons" in capsys.readouterr().err
    )
    assert main(["sites", "make", "images", "--out", str(out)]) == 2 and "found neither" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"matrix": 40},
            "matrix of site one: found 40 for images of 52x48, expected .* at most 28",
        ),
        ({"slices": 9}, "site one: slices: found 5 slices with anatomy of person person 1, expected at least 9"),
        ({"train_slices": 99}, "site one: train_slices: found .* training persons, expected at least 99"),
        ({"persons": 7}, "persons.csv: site one: found 6 persons with an image of contrast 'T1', expected 7"),
    ],
)
def test_what_the_images_do_not_hold_is_refused(people: Path, change: dict[str, int], words: str) -> None:
    scanner = MRIScanner(name="one", coils=2, sampling="random", acceleration=2, center_fraction=0.2, contrast="T1")
    table = people / "persons.csv"
    with pytest.raises(ConfigError, match=words) as caught:
        sites = [scanner.model_copy(update=change)]
        make_image_sites(read_persons(table), people / "sites", sites=sites, source=table)
    assert "\n" not in str(caught.value) and not (people / "sites").exists()


def test_persons_from_label_maps(tmp_path: Path) -> None:
    labels = np.zeros((40, 40, 4), np.int16)
    labels[5:35, 5:35], labels[12:28, 12:28] = 2, 3
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "a.nii")  # type: ignore[no-untyped-call]
    scanner = MRIScanner(name="one", coils=2, sampling="random", acceleration=2, center_fraction=0.2)
    images = [PersonImage(tmp_path / "a.nii", "p", kind="labels")]
    make_image_sites(images, tmp_path / "sites", sites=[scanner])
    (site,) = load_federation(tmp_path / "sites")
    assert site.acquisition.origin == "simulated from images drawn from the label maps a.nii"
    reference = site.dataset("train")[0].reference
    assert reference is not None
    inner, outer = reference.abs()[9:11, 9:11].mean(), reference.abs()[9:11, 3:5].mean()
    assert abs(float(inner - outer)) > 0.05 and float(reference.abs()[0].max()) < 0.1


def test_noise_of_coils_is_correlated_and_positive() -> None:
    for seed in range(20):
        covariance = coil_covariance(6, seed)
        assert torch.linalg.eigvalsh(covariance)[0] > 0.2
        assert float(covariance.diagonal().real.mean()) == pytest.approx(1)
        correlation = covariance[0, 1].abs() / (covariance[0, 0] * covariance[1, 1]).abs().sqrt()
        assert 0.1 <= float(correlation) <= 0.4
    assert coil_covariance(1, 0).shape == (1, 1)


@pytest.mark.real_data
def test_real_persons_become_sites(tmp_path: Path) -> None:
    folder = Path(os.environ["FEDRECON_DATA"]) / "mr_brain_t1_t2_flair_ms_ljubljana"
    files = sorted(folder.glob("*.nii.gz"))
    images = [PersonImage(file, file.name.split("_")[0], file.name.split("_")[2].split(".")[0]) for file in files]
    scanner = MRIScanner(
        name="flair", coils=4, sampling="random", acceleration=3, center_fraction=0.15, noise_std=0.01, matrix=64,
        contrast="FLAIR", slices=2,
    )  # fmt: skip
    (made,) = make_image_sites(images, tmp_path, sites=[scanner])
    assert made.subjects == {"train": 2, "validation": 1, "test": 1}
    sample = load_federation(tmp_path)[0].dataset("train")[0]
    assert sample.reference is not None and float(sample.reference.abs().max()) > 0.5
