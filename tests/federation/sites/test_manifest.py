"""Manifests and lock files are read as written; every mistake is one line."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from federation import ConfigError, SiteManifest, check_sites, load_federation, load_manifest
from federation.sites import sha256_file
from federation.sites.lock_file import lock_file, lock_path, read_lock, write_lock
from federation.sites.manifest import expand_variables
from federation.sites.manifest_schema import data_section
from recon import CT_READERS, MODALITIES, DataError

from ..fake_sites import write_file, write_manifest, write_site

REAL = Path(__file__).parents[3] / "data_manifests" / "real_mri"


def line(call: object, *arguments: object) -> str:
    with pytest.raises(ConfigError) as error:
        call(*arguments)  # type: ignore[operator]
    assert "\n" not in str(error.value)
    return str(error.value)


def lock(path: Path) -> SiteManifest:
    manifest = load_manifest(path)
    write_lock(
        path,
        {
            name: lock_file(manifest.root / name, manifest.open(manifest.root / name).patient_id)
            for _, name in manifest.data.named()
        },
    )
    return manifest


def replace(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_manifest_is_read(tmp_path: Path) -> None:
    manifest = load_manifest(write_site(tmp_path))
    assert (manifest.name, manifest.trains, manifest.synthetic, manifest.unseen) == (
        "north",
        True,
        False,
        False,
    )
    assert manifest.files("train") == tuple(tmp_path / "data/north" / f"north_{i}.h5" for i in range(2))
    simulation = manifest.simulation()
    assert simulation is not None
    assert (simulation.sampling, simulation.acceleration, simulation.nested) == ("random", 4, False)
    manifest.verify()


def test_toml_reads_back_equal_and_manifests_pickle(tmp_path: Path) -> None:
    manifest = load_manifest(write_site(tmp_path))
    (tmp_path / "again.toml").write_text(manifest.to_toml())
    assert load_manifest(tmp_path / "again.toml").model_dump() == manifest.model_dump()
    copy = pickle.loads(pickle.dumps(manifest))
    assert copy.path == manifest.path
    assert copy.files("test") == manifest.files("test")


def test_a_manifest_makes_its_dataset(tmp_path: Path) -> None:
    manifest = load_manifest(write_site(tmp_path))
    dataset = manifest.dataset("train")
    assert len(dataset) == 4
    assert dataset.site == "north"
    assert dataset.simulate == manifest.simulation()


def test_an_empty_split_is_no_dataset(tmp_path: Path) -> None:
    write_file(tmp_path / "data/solo/a.h5")
    manifest = load_manifest(write_manifest(tmp_path, "solo", {"test": ["a.h5"]}))
    assert not manifest.trains
    assert "data.train" in line(manifest.dataset, "train")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("acceleration", "accelration", ["simulate.accelration", "did you mean 'acceleration'"]),
        ("name =", "nmae =", ["nmae", "did you mean 'name'"]),
        ("train =", "trian =", ["data.trian", "did you mean 'train'"]),
        ("[data]", "modality = 3\n[data]", ["simulate.modality", "did you mean 'modality'"]),
        ("acceleration = 4", "acceleration = 0.5", ["found 0.5", "greater than or equal to 1"]),
        ("acceleration = 4", 'acceleration = "4"', ["found '4'", "number"]),
        ("center_fraction = 0.2", "center_fraction = nan", ["found nan", "finite"]),
        ('"random"', '"randon"', ["simulate.sampling", "did you mean 'random'"]),
        ('root = "data/north"', "", ["data.root", "missing"]),
        ("[data]", "[data]\nmaps = 'esprit'", ["data.maps", "'espirit'"]),
        ("'north_3.h5'", "3", ["data.test.0", "found 3", "string"]),
        ("'north_3.h5'", "'../north_3.h5'", ["data.test", "without .."]),
        ("'north_3.h5'", "'/etc/passwd'", ["data.test", "below data.root"]),
        ("'north_3.h5'", "'north_0.h5'", ["data.test: found 'north_0.h5' also in train", "once"]),
        ("'north_3.h5'", "'./north_0.h5'", ["'north_0.h5' also in train"]),
        ("[data]", "[data]\npersons = {'a.h5' = 'p'}", ["data.persons: found 'p' for 'a.h5'", "a file of train"]),
        ("'north_1.h5'", "'north_0.h5'", ["'north_0.h5' also in train"]),
        ("[data]", "[data", ["syntax error", "line"]),
        ('name = "north"', 'name = "north"\nmodality = []', ["modality: found [], expected mri or ct"]),
        ('name = "north"', 'name = "north"\nmodality = "mry"', ["found 'mry'", "did you mean 'mri'"]),
        ("[data]", "[data]\nweighted = true", ["data.weighted: unknown key, expected one of root, format"]),
    ],
)
def test_a_wrong_manifest_is_one_line(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    path = replace(write_site(tmp_path), old, new)
    message = line(load_manifest, path)
    assert message.startswith(f"{path}: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["../x", "a/b", "North", "", ".x", "-x", "a b", "a\\nb", "x" * 65, "é"])
def test_names_are_safe(tmp_path: Path, name: str) -> None:
    path = replace(write_site(tmp_path), 'name = "north"', f'name = "{name}"')
    assert "name: found" in line(load_manifest, path)


def test_a_site_without_any_file_is_refused(tmp_path: Path) -> None:
    assert "all empty" in line(load_manifest, write_manifest(tmp_path, "none", {"train": []}))


def test_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = replace(write_site(tmp_path), "data/north", "${SOME_FOLDER}/north")
    monkeypatch.delenv("SOME_FOLDER", raising=False)
    message = line(load_manifest, path)
    assert str(path) in message
    assert "no environment variable SOME_FOLDER" in message
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path / "data"))
    load_manifest(path).verify()
    monkeypatch.setenv("SOME_FOLDER", "")
    assert "SOME_FOLDER" in line(load_manifest, path)


def test_both_spellings_of_variables() -> None:
    assert expand_variables("${A}/$B/c", "x", "y", {"A": "1", "B": "2"}) == "1/2/c"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    (tmp_path / "data/north/north_2.h5").unlink()
    message = line(load_federation, tmp_path)
    assert str(path) in message
    assert "data.validation" in message
    assert "north_2.h5" in message
    shutil.rmtree(tmp_path / "data")
    assert "no such folder" in line(load_federation, tmp_path)
    (tmp_path / "data").write_text("")
    assert "data.root" in line(load_federation, tmp_path)


def test_the_folder_must_hold_manifests(tmp_path: Path) -> None:
    assert "no such folder" in line(load_federation, tmp_path / "none")
    assert "no *.toml" in line(load_federation, tmp_path)
    (tmp_path / "file").write_text("")
    assert "a file" in line(load_federation, tmp_path / "file")


def test_sites_come_sorted_and_names_are_unique(tmp_path: Path) -> None:
    for name in ("west", "east", "north"):
        write_site(tmp_path, name)
    assert [manifest.name for manifest in load_federation(tmp_path)] == ["east", "north", "west"]
    shutil.copy(tmp_path / "east.toml", tmp_path / "other.toml")
    message = line(load_federation, tmp_path)
    assert "other.toml" in message
    assert "east.toml" in message


@pytest.mark.parametrize("locked", [False, True])
def test_a_subject_in_two_splits_is_refused(tmp_path: Path, locked: bool) -> None:
    path = write_site(tmp_path)
    write_file(tmp_path / "data/north/north_3.h5", "north_0")
    if locked:
        lock(path)
    message = line(load_federation, tmp_path)
    for word in ("data.test", "subject of north_3.h5", "train (north_0.h5)"):
        assert word in message


def test_two_files_of_a_subject_in_one_split_are_fine(tmp_path: Path) -> None:
    write_site(tmp_path)
    write_file(tmp_path / "data/north/north_1.h5", "north_0")
    (site,) = load_federation(tmp_path)
    assert {site.open(file).patient_id for file in site.files("train")[:2]} == {"north_0"}


def test_files_without_patient_are_their_own_subjects(tmp_path: Path) -> None:
    write_site(tmp_path)
    for index in range(4):
        write_file(tmp_path / f"data/north/north_{index}.h5", None)
    (site,) = load_federation(tmp_path)
    assert len(list(site.data.named())) == 4


def test_the_same_data_under_two_names_is_refused(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    data = tmp_path / "data/north"
    (data / "north_1.h5").unlink()
    os.link(data / "north_0.h5", data / "north_1.h5")
    assert "same data as north_0.h5" in line(load_federation, tmp_path)
    (data / "north_1.h5").unlink()
    shutil.copy(data / "north_0.h5", data / "north_1.h5")
    lock(path)
    assert "same data as north_0.h5" in line(load_federation, tmp_path)


def test_a_changed_file_does_not_pass(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    manifest = lock(path)
    manifest.verify()
    file = tmp_path / "data/north/north_0.h5"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    manifest.verify()
    message = line(check_sites, tmp_path)
    assert str(file) in message
    assert sha256_file(file) in message
    file.write_bytes(content + b"x")
    assert "size" in line(load_federation, tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"files": {"a.h5": {"sha256": "0", "size": 1, "patient_id": ""}}}', '{"files": 3}'],
)
def test_a_broken_lock_file_is_one_line(tmp_path: Path, content: str) -> None:
    path = write_site(tmp_path)
    lock_path(path).write_text(content)
    with pytest.raises(DataError) as error:
        load_federation(tmp_path)
    assert str(lock_path(path)) in str(error.value) and "\n" not in str(error.value)


def test_lock_files_read_back(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    lock(path)
    facts = read_lock(path)
    assert lock_path(path).name == "north.lock.json"
    assert set(facts) == {f"north_{index}.h5" for index in range(4)}
    file = tmp_path / "data/north/north_2.h5"
    assert (facts["north_2.h5"].sha256, facts["north_2.h5"].size) == (sha256_file(file), file.stat().st_size)
    assert facts["north_2.h5"].patient_id == "north_2"


def test_an_undersampled_file_with_simulate_is_refused(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    write_file(tmp_path / "data/north/north_0.h5", mask=[True, False] * 10)
    with pytest.raises(DataError, match="nested"):
        load_manifest(path).dataset("train")
    load_manifest(replace(path, "noise_std", "nested = true\nnoise_std")).dataset("train")


@pytest.mark.real_data
def test_the_real_sites_are_as_locked() -> None:
    for manifest in load_federation(REAL):
        lock = {name: sha256_file(manifest.root / name) for _, name in manifest.data.named()}
        assert {name: entry.sha256 for name, entry in read_lock(manifest.path).items()} == lock
        assert not manifest.trains


def test_an_option_has_one_default_among_all_readers() -> None:
    """A manifest holds one value per key: with two defaults, one reader would get that of the other."""

    @CT_READERS.add("other_pitch")
    def other_pitch(path: Path, *, pitch_mm: float = 3.0) -> None: ...

    try:
        with pytest.raises(ValueError, match=r"reader 'other_pitch': found default 3\.0 of the option 'pitch_mm'"):
            data_section("ct", ("exchange", "other_pitch"))
    finally:
        CT_READERS.remove("other_pitch")
    for modality in MODALITIES.values():
        data_section(modality.name, tuple(modality.readers))
