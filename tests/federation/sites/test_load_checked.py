"""Files are checked once before training: a file that `sites check` refuses stops `train` before round 0."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from federation import ConfigError, check_sites, load_federation
from federation.cli.main import main
from federation.sites import checking, grouped, load_checked
from federation.sites.lock_file import lock_path, read_lock
from recon import DataError, KSpaceSlices, Sample

from ..fake_sites import write_file, write_site


@pytest.fixture
def said() -> list[str]:
    return []


def spoil(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["kspace"][1, 0, 3, 3] = np.nan


def test_files_are_checked_once(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("east", "north"):
        write_site(tmp_path, name)
    assert [site.name for site in load_checked(tmp_path, said.append)] == ["east", "north"]
    assert said[0] == "checking 8 files, once ..."
    said.clear()
    monkeypatch.setattr(KSpaceSlices, "check", lambda *_: pytest.fail("checked again"))
    assert [site.name for site in load_checked(tmp_path, said.append)] == ["east", "north"] and not said


def test_sites_check_counts_too(tmp_path: Path, said: list[str]) -> None:
    path = write_site(tmp_path)
    assert check_sites(tmp_path)[0].lock == "written"
    load_checked(tmp_path, said.append)
    assert not said and all(entry.checked for entry in read_lock(path).values())
    assert check_sites(tmp_path)[0].lock == "verified"


@pytest.mark.parametrize("old", ["acceleration = 4", "noise_std = 0.01", "[data]"])
def test_other_conditions_are_checked_anew(old: str, tmp_path: Path, said: list[str]) -> None:
    path = write_site(tmp_path)
    check_sites(tmp_path)
    new = {"[data]": '[data]\nmaps = "low_resolution"'}.get(old, old.split("=")[0] + "= 2")
    path.write_text(path.read_text().replace(old, new))
    load_checked(tmp_path, said.append)
    assert said[0] == "checking 4 files, once ..."


def test_new_files_and_new_checks_are_checked(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_site(tmp_path)
    check_sites(tmp_path)
    write_file(tmp_path / "data/north/new.h5")
    path.write_text(path.read_text().replace("'north_3.h5'", "'north_3.h5', 'new.h5'"))
    load_checked(tmp_path, said.append)
    assert said[0] == "checking 1 file, once ..."
    monkeypatch.setattr(checking, "CHECKS", checking.CHECKS + 1)
    load_checked(tmp_path, said.append)
    assert said[-1] == "checking 5 files, once ..."


def test_all_bad_files_of_all_sites_are_one_report(tmp_path: Path, said: list[str]) -> None:
    bad = []
    for name in ("east", "north"):
        write_site(tmp_path, name)
        bad += [tmp_path / f"data/{name}/{name}_{number}.h5" for number in (1, 3)]
    for path in bad:
        spoil(path)
    with pytest.raises(ConfigError) as caught:
        load_checked(tmp_path, said.append)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5 and all(str(path) in line for path, line in zip(bad, lines, strict=False))
    assert not lock_path(tmp_path / "east.toml").exists()


def test_all_files_that_are_gone_or_changed_are_one_report(tmp_path: Path, said: list[str]) -> None:
    write_site(tmp_path)
    check_sites(tmp_path)
    (tmp_path / "data/north/north_0.h5").unlink()
    (tmp_path / "data/north/north_2.h5").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"(?s)no file .*north_0.h5.*north_2.h5: size: found 0 bytes"):
        load_checked(tmp_path, said.append)


def test_an_error_without_a_file_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_site(tmp_path)

    def fail(self: KSpaceSlices, number: int) -> list[str]:
        raise np.linalg.LinAlgError("Singular\n matrix")

    monkeypatch.setattr(KSpaceSlices, "check", fail)
    with pytest.raises(ConfigError) as caught:
        check_sites(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5 and all("_0.h5: file: found" in line or "Singular matrix" in line for line in lines[:4])


def test_a_file_that_changed_in_its_content_is_refused(tmp_path: Path, said: list[str]) -> None:
    path = write_site(tmp_path)
    check_sites(tmp_path)
    path.write_text(path.read_text().replace("acceleration = 4", "acceleration = 2"))
    spoil(tmp_path / "data/north/north_0.h5")
    with pytest.raises(ConfigError, match=r"north_0.h5: sha256"):
        load_checked(tmp_path, said.append)


def test_a_read_only_folder_is_checked_each_time(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_site(tmp_path)

    def refuse(*_: object) -> None:
        raise DataError("no right to write")

    monkeypatch.setattr(checking, "write_lock", refuse)
    for _ in range(2):
        assert len(load_checked(tmp_path, said.append)) == 1
    assert said.count("checking 4 files, once ...") == 2
    assert said.count("note: no right to write; its files are checked again the next time") == 2


def test_old_lock_files_are_read_and_unchecked_ones_are_written_as_before(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    check_sites(tmp_path)
    lock = lock_path(path)
    lines = [line for line in lock.read_text().splitlines() if '"checked"' not in line]
    text = "\n".join(lines).replace('",\n  }', '"\n  }') + "\n"
    lock.write_text(text)
    entries = read_lock(path)
    assert len(entries) == 4 and not any(entry.checked for entry in entries.values())
    checking.write_lock(path, entries)
    assert lock.read_text() == text


def test_train_refuses_before_round_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_site(tmp_path, "north")
    spoil(tmp_path / "data/north/north_3.h5")  # a test file, which training does not read
    command = ["train", "fedavg", "--sites", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "north_3.h5" in error and "NaN" in error and "round" not in error
    assert not (tmp_path / "run").exists()


def test_an_error_of_an_operator_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_site(tmp_path)
    (site,) = load_federation(tmp_path)

    def fail(*_: object) -> Sample:
        raise ValueError("CartesianMRI: image has\n shape (7, 8), expected (8, 8)")

    monkeypatch.setattr("recon.data.mri_slices.combine_coils", fail)
    with pytest.raises(DataError) as caught:
        site.dataset("train")[3]
    assert str(caught.value).startswith(f"{tmp_path / 'data/north/north_1.h5'}: slice 1: found values that")
    assert "shape (7, 8), expected (8, 8)" in str(caught.value) and "\n" not in str(caught.value)


def test_train_refuses_files_without_references_before_round_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_site(tmp_path)
    text = path.read_text()
    path.write_text(text[: text.index("[simulate]")] + text[text.index("[data]") :])
    for number in range(2):
        write_file(tmp_path / f"data/north/north_{number}.h5", mask=[True, False] * 8 + [True] * 4)
    assert main(["train", "fedavg", "--sites", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert all(f"north_{n}.h5: reference: found nothing, expected one to train on" in error for n in range(2))
    assert error.splitlines()[-1].endswith(
        "2 files cannot be used; remove them from data.train, or use the recipe ssdu"
    )
    assert "round 0" not in error and not (tmp_path / "run").exists()


def test_warnings_of_one_kind_are_one_line() -> None:
    kind = "[simulate]: found {} lines, expected at least 4"
    warnings = [f"/a/{name}.h5: {kind.format(n)}" for name, n in (("x", 2), ("y", 3), ("z", 2))]
    other = "north: 3 files name no person"
    alike = f"{warnings[0]}; also, with other numbers: y.h5, z.h5"
    assert grouped([*warnings[:1], other, *warnings[1:]]) == [alike, other]
    assert grouped(["/a/x.h5: kspace: found zeros", "/a/y.h5: kspace: found zeros"]) == [
        "/a/x.h5: kspace: found zeros; also: y.h5"
    ]
