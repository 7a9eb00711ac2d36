"""Persons: told by a pattern or a table, warned about where nothing tells them, and met at two sites."""

import random
import tomllib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from federation import ConfigError, check_sites, load_federation, make_fastmri_sites, make_image_sites
from federation.cli.main import main
from federation.sites import PersonImage
from federation.sites.people import one_person_per_file
from federation.sites.subjects import images_of_persons, persons_by_pattern, persons_by_table, unnamed_people
from physics import phantom_volume

from ..fake_sites import write_file, write_manifest, write_site


def splits_of_persons(sites: Path, person_of: dict[str, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in sites.glob("*.toml"):
        data = tomllib.loads(path.read_text())["data"]
        for split in ("train", "validation", "test"):
            for name in data.get(split, ()):
                found.setdefault(person_of[name], set()).add(split)
    return found


def repetitions(folder: Path, seed: int) -> dict[str, str]:
    """Files of persons without patient_id, one to five files each, some in folders; the person by file."""
    drawn = random.Random(seed)
    person_of = {}
    for person in range(drawn.randint(3, 6)):
        for number in range(drawn.randint(1, 3)):
            name = drawn.choice([f"2022{person:03d}_T10{number}.h5", f"2022{person:03d}_{number}/kspace.h5"])
            write_file(folder / name, None, seed=100 * person + number)
            person_of[name] = f"2022{person:03d}"
    return person_of


@pytest.mark.parametrize("kind", ["fastmri", "images", "ct-images"])
def test_a_pattern_beside_a_table_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "data/a.h5")
    command = ["sites", "make", kind, str(tmp_path / "data"), "--out", str(tmp_path / "sites")]
    assert main([*command, "--subject", "^(.)", "--persons", str(tmp_path / "persons.csv")]) == 2
    error = capsys.readouterr().err
    assert "sites make: --subject: found --persons, too, expected one of them; leave one out" in error


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("told", ["pattern", "table"])
def test_told_persons_are_never_in_two_splits(seed: int, told: str, tmp_path: Path) -> None:
    person_of = repetitions(tmp_path / "data", seed)
    options = ["--subject", "^([0-9]+)_"]
    if told == "table":
        lines = ["file,person", *(f"data/{name},{person}" for name, person in person_of.items())]
        (tmp_path / "persons.csv").write_text("\n".join(lines))
        options = ["--persons", str(tmp_path / "persons.csv")]
    out = tmp_path / "sites"
    assert main(["sites", "make", "fastmri", str(tmp_path / "data"), "--out", str(out), *options]) == 0
    places = splits_of_persons(out, person_of)
    assert all(len(splits) == 1 for splits in places.values()) and len(places) == len(set(person_of.values()))
    (facts,) = check_sites(out)
    assert sum(split.subjects for split in facts.splits) == len(places) and not facts.warnings
    # By hand, into another split: refused.
    (site,) = load_federation(out)
    several = [name for name in site.data.train if list(person_of.values()).count(person_of[name]) > 1]
    if several:
        text = site.path.read_text()
        for key in ("train", "test"):
            old = list(getattr(site.data, key))
            new = [name for name in old if name != several[0]] + ([several[0]] if key == "test" else [])
            start = text.index(f"{key} = [")
            text = text[:start] + f"{key} = {new!r}" + text[text.index("]", start) + 1 :]
        site.path.write_text(text)
        with pytest.raises(ConfigError, match="subject of"):
            load_federation(out)


def test_files_without_persons_are_said_to_count_as_persons(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in ("2022061003", "2022061004"):
        for number in (1, 2, 3):
            write_file(tmp_path / f"data/{person}_T10{number}.h5", None, seed=number)
    make_fastmri_sites(tmp_path / "data", tmp_path / "sites")
    text = "6 files without patient_id: each counts as a person of its own (2022061003_T10"
    assert text in caplog.text and "seem to show one" in caplog.text and "--subject" in caplog.text
    assert main(["sites", "check", str(tmp_path / "sites")]) == 0
    assert text in capsys.readouterr().out


def test_known_persons_are_not_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        write_file(tmp_path / f"data/p{number // 2}_{number}.h5", f"p{number // 2}", seed=number)
    make_fastmri_sites(tmp_path / "data", tmp_path / "sites")
    assert not caplog.text and not check_sites(tmp_path / "sites")[0].warnings
    # One split alone has nothing to share people with.
    for number in range(2):
        write_file(tmp_path / f"one/data/s/{number}.h5", None)
    write_manifest(tmp_path / "one", "s", {"test": ["0.h5", "1.h5"]})
    assert not check_sites(tmp_path / "one")[0].warnings


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["2022061003_T101.h5", "2022061003_T102.h5", "2022061004_T101.h5"], True),
        (["sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz", "sub-02_T1w.nii.gz"], True),
        (["IXI013-Guys-T1.nii.gz", "IXI013-Guys-T2.nii.gz", "IXI014-Guys-T1.nii.gz"], True),
        (["sub-01_ses-2_T1w.nii", "sub-01_ses-1_T1w.nii", "sub-02_ses-1_T1w.nii"], True),
        (["p01/t1.h5", "p01/t2.h5", "p02/t1.h5"], True),
        (["p01/t1.h5", "p02/t1.h5"], False),
        (["observation_train_000.hdf5", "observation_train_001.hdf5", "observation_test_000.hdf5"], False),
        (["file1000001.h5", "file1000002.h5"], False),
        (["file_1000001.h5", "file_1000002.h5"], False),
        (["train_001.h5", "train_002.h5", "test_001.h5"], False),
        (["patient01.h5", "patient02.h5"], False),
        (["scan.h5"] * 2, False),
    ],
)
def test_names_of_one_person_are_recognized(names: list[str], alike: bool) -> None:
    (warning,) = unnamed_people("folder", names)
    assert ("seem to show one" in warning) == alike
    assert unnamed_people("folder", names[:1]) == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a", "--subject: found '(a'"),
        ("a", "with 0 groups, expected a regular expression with one group"),
        ("(a)(b)", "with 2 groups"),
        ("^(p[0-9]+)_", "which finds no person in q1_T1.h5"),
        ("^(x?)", "which finds no person"),
    ],
)
def test_a_wrong_pattern_is_one_line(pattern: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        persons_by_pattern(["p1_T1.h5", "q1_T1.h5"], pattern)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file,person\na.h5,p\n", "no line for b/c.h5"),
        ("file,person\na.h5,p\nb/c.h5,q\nb/c.h5,r\n", "c.h5 of q and r"),
        ("file,person,split\na.h5,p,test\nb/c.h5,q,\n", "more than a person"),
        ("file\na.h5\n", "header: found columns file"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(table: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(ConfigError) as caught:
        persons_by_table({name: tmp_path / name for name in ("a.h5", "b/c.h5")}, tmp_path / "t.csv")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_may_lie_elsewhere_and_name_files_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,person\na.h5,p\nc.h5,q\n")
    files = {name: tmp_path / "data" / name for name in ("a.h5", "b/c.h5")}
    assert persons_by_table(files, tmp_path / "t.csv") == {"a.h5": "p", "b/c.h5": "q"}


@pytest.mark.parametrize("other", ["p001", "P001 ", " p001", "P001\t"])
def test_spellings_of_one_person_are_one(other: str, tmp_path: Path) -> None:
    for number, person in enumerate(("P001", other, "P002", "P003")):
        write_file(tmp_path / f"data/north/{number}.h5", person, seed=number)
    write_manifest(tmp_path, "north", {"train": ["0.h5"], "test": ["1.h5", "2.h5"]})
    with pytest.raises(ConfigError, match=r"the subject of 1.h5 also in train \(0.h5\)"):
        check_sites(tmp_path)
    write_manifest(tmp_path, "north", {"train": ["0.h5", "1.h5"], "test": ["2.h5", "3.h5"]})
    (facts,) = check_sites(tmp_path)
    assert [split.subjects for split in facts.splits] == [1, 2]


def test_people_at_two_sites_are_warned_about(tmp_path: Path) -> None:
    for name in ("east", "north", "west"):
        write_site(tmp_path, name)
    assert not any(site.warnings for site in check_sites(tmp_path))
    write_file(tmp_path / "data/west/west_3.h5", "east_0")  # test here, training there
    write_file(tmp_path / "data/north/north_2.h5", "east_2")  # validation at both
    for path in tmp_path.glob("*.json"):
        path.unlink()
    warnings = {site.name: site.warnings for site in check_sites(tmp_path)}
    assert not warnings["east"]
    (north,), (west,) = warnings["north"], warnings["west"]
    assert "1 person also at site east, such as that of north_2.h5 (validation) and east_2.h5 (validation)" in north
    assert "west_3.h5 (test) and east_0.h5 (train); scores are then not those of new people" in west
    assert "not those of new people" not in north and "patient" not in north + west  # names of files, not of people


def test_the_same_file_at_two_sites_is_warned_about(tmp_path: Path) -> None:
    for name in ("east", "west"):
        write_site(tmp_path, name)
        write_file(tmp_path / f"data/{name}/{name}_3.h5", None, seed=1)
    (tmp_path / "data/west/west_3.h5").write_bytes((tmp_path / "data/east/east_3.h5").read_bytes())
    assert "west_3.h5 (test) and east_3.h5 (test)" in check_sites(tmp_path)[1].warnings[0]


def heads(folder: Path, names: list[str]) -> list[Path]:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        head = phantom_volume(2, (36, 36), number).abs().numpy()
        nibabel.save(nibabel.Nifti1Image(head.transpose(2, 1, 0), np.eye(4)), folder / name)  # type: ignore[no-untyped-call]
    return [folder / name for name in names]


def test_images_are_dealt_by_the_person_of_a_pattern(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"p{person}/{contrast}.nii.gz" for person in range(9) for contrast in ("t1", "t2")]
    files = heads(tmp_path / "in", names)
    out = tmp_path / "sites"
    assert main(["sites", "make", "images", *map(str, files), "--out", str(out), "--subject", r"/(p\d)/"]) == 0
    assert not caplog.text
    places: dict[str, set[tuple[str, str]]] = {}
    for site in load_federation(out):
        for split, name in site.data.named():
            places.setdefault(name.split("_")[1], set()).add((site.name, split))
    assert len(places) == 9 and all(len(each) == 1 for each in places.values())
    images = images_of_persons([Path("a/p1.nii"), Path("b/p1.nii")], "(p[0-9])")
    assert images == [PersonImage(Path("a/p1.nii"), "p1"), PersonImage(Path("b/p1.nii"), "p1")]


def test_series_of_one_patient_are_one_person(tmp_path: Path) -> None:
    dicom = pydicom.dcmread(str(pydicom.data.get_testdata_file("CT_small.dcm")))

    def persons(*patients: str) -> list[str]:
        files = [tmp_path / f"series{number}" / "1.dcm" for number in range(len(patients))]
        for file, patient in zip(files, patients, strict=True):
            file.parent.mkdir(exist_ok=True)
            dicom.PatientID = patient
            dicom.save_as(file)
        return [image.person for image in one_person_per_file([file.parent for file in files])]

    assert persons("A", "B", "A", "", "C") == ["series0", "series1", "series0", "series3", "series4"]
    assert persons("ANON", "ANON") == ["series0", "series1"]


def test_image_files_are_said_to_count_as_persons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = heads(tmp_path, [f"patient{n // 3:02d}_2020_{'abc'[n % 3]}.nii.gz" for n in range(9)])
    make_image_sites(files, tmp_path / "sites")
    assert "9 files: each counts as a person of its own" in caplog.text and "seem to show one" in caplog.text
    caplog.clear()
    make_image_sites(files[:3], tmp_path / "blocks")
    assert "3 files give 3 blocks of slices" in caplog.text and "share people" in caplog.text


def test_images_of_one_name_in_several_folders_are_kept_apart(tmp_path: Path) -> None:
    make_image_sites(heads(tmp_path, [f"p{n}/t1.nii.gz" for n in range(9)]), tmp_path / "sites")
    names = [name for site in load_federation(tmp_path / "sites") for _, name in site.data.named()]
    assert len({name.split("_")[1] for name in names}) == 9
