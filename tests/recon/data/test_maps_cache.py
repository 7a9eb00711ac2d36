"""The folder of coil maps: where it is, what it says, what it leaves alone."""

import os
from pathlib import Path

import pytest
import torch

from recon import DataError, KSpaceSlices, cache_facts, clear_cache, maps_cache, require_maps_cache


def test_variables_name_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert maps_cache({}) == tmp_path / ".cache/fedrecon/maps"
    assert maps_cache({"XDG_CACHE_HOME": "/x"}) == Path("/x/fedrecon/maps")
    assert maps_cache({"XDG_CACHE_HOME": "relative"}) == tmp_path / ".cache/fedrecon/maps"
    assert maps_cache({"FEDRECON_CACHE": "~/own", "XDG_CACHE_HOME": "/x"}) == tmp_path / "own/maps"


def test_the_tests_do_not_write_to_the_users_folder():
    assert not maps_cache().is_relative_to(Path.home() / ".cache")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/maps"


def test_the_folder_is_for_its_owner_alone(folder):
    assert require_maps_cache() == folder
    assert folder.stat().st_mode & 0o777 == 0o700 and folder.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_names_the_variable(folder):
    folder.parent.write_text("a file")
    with pytest.raises(DataError, match=r"FEDRECON_CACHE: found .*; set FEDRECON_CACHE to another folder"):
        require_maps_cache()


def test_maps_are_listed_and_cleared_and_nothing_else(folder):
    assert cache_facts().files == 0 and cache_facts().oldest is None
    require_maps_cache()
    for name in ("a" * 64 + ".safetensors", "tmp1x_y2.tmp", "notes.txt"):
        (folder / name).write_bytes(b"12345")
    facts = cache_facts()
    assert (facts.folder, facts.files, facts.size) == (folder, 2, 10) and facts.oldest is not None
    clear_cache()  # another process may be writing the temporary file
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "tmp1x_y2.tmp"]
    os.utime(folder / "tmp1x_y2.tmp", (0, 0))
    clear_cache()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("number", "words"), [(28, "free space"), (13, "one that can be written")])
def test_a_full_disk_is_one_line_with_the_variable(fake_file, folder, monkeypatch, number, words):
    def fail(*_):
        raise OSError(number, "reason")

    dataset = KSpaceSlices([fake_file(shape=(1, 2, 32, 32))], "s", maps="low_resolution", maps_folder=folder)
    monkeypatch.setattr("physics.mri.stored_maps.os.replace", fail)
    with pytest.raises(
        DataError, match=f"coil maps: {folder}.*{words}.*, set FEDRECON_CACHE to another folder"
    ) as error:
        dataset[0]
    assert "\n" not in str(error.value) and list(folder.iterdir()) == []


def test_a_folder_of_a_site_does_not_name_the_variable(fake_file, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("physics.mri.stored_maps.os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    dataset = KSpaceSlices([fake_file(shape=(1, 2, 32, 32))], "s", maps="low_resolution", maps_folder=tmp_path / "own")
    with pytest.raises(DataError, match=r"coil maps: .*free space$"):
        dataset[0]


def test_two_data_sets_share_maps(fake_file, folder):
    path = fake_file(shape=(2, 2, 32, 32))
    first, second = (KSpaceSlices([path], name, maps_folder=folder)[1] for name in ("a", "b"))
    assert len(list(folder.iterdir())) == 1 and torch.equal(first.operator.maps, second.operator.maps)
