"""Sites of real anatomy (benchmarks/anatomy.py): who is where, and one small federation of each modality."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from federation import check_sites, load_federation
from federation.sites import read_persons
from federation.sites.lock_file import read_lock
from federation.sites.people import deal_persons

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def anatomy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("anatomy", ROOT / "benchmarks" / "anatomy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def places(anatomy: ModuleType, folder: Path, slices: int, seed: int) -> dict[str, tuple[str, str]]:
    """Site and split of every person at the MRI sites."""
    images = anatomy.write_table(folder, anatomy.mri_rows(folder, 8, slices))
    wishes = {scanner.name: scanner.wish for scanner in anatomy.mri_scanners(8, [slices] * 5, 8, 64)}
    dealt = deal_persons(images, wishes, anatomy.SPLIT, seed)
    found: dict[str, tuple[str, str]] = {}
    for site, own in dealt.items():
        for part, image in own:
            assert found.setdefault(image.person, (site, part)) == (site, part)
    return found


def test_persons_do_not_overlap_and_the_same_ones_test(anatomy: ModuleType, tmp_path: Path) -> None:
    few, many, other = (places(anatomy, tmp_path / str(n), slices, seed) for n, slices, seed in
                        ((0, 16, 0), (1, 256, 0), (2, 16, 1)))  # fmt: skip
    assert few.items() <= many.items() and len(few) == 44 and len(many) == 56
    assert few != other
    for site in ("north", "east", "south", "west", "volume"):
        counts = [sum(place == (site, part) for place in few.values()) for part in ("train", "validation", "test")]
        assert counts == [4, 2, 2]


def test_measured_scans_are_not_used(anatomy: ModuleType, tmp_path: Path) -> None:
    rows = anatomy.mri_rows(tmp_path, 8, 16) + anatomy.ct_rows()
    assert not [row for row in rows if "kspace" in row[0] or "projections" in row[0]]
    images = anatomy.write_table(tmp_path, anatomy.ct_rows())
    assert len({image.person for image in images}) == len(images) == 17
    assert all(image.file.exists() for image in images)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_sites_of_real_anatomy(
    anatomy: ModuleType, modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sites"
    counts = ["--slices", "4", "4", "8", "4", "4", "--persons-per-site", "4", "--test-slices", "1", "--matrix", "32"]
    monkeypatch.setattr(sys, "argv", ["anatomy.py", str(out), "--modality", modality, *counts])
    anatomy.main()
    home: dict[str, str] = {}
    for site in load_federation(out):
        for entry in read_lock(site.path).values():
            assert entry.patient_id is not None and home.setdefault(entry.patient_id, site.name) == site.name
    facts = {site.name: site for site in check_sites(out)}
    assert len(facts) == 6
    trained = [sum(part.slices for part in site.splits if part.split == "train") for site in facts.values()]
    assert sorted(trained)[1:] == [4, 4, 4, 4, 8] if modality == "mri" else sorted(trained) == [0, 4, 4, 4, 4, 8]
    with (out / "made_from" / "persons.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(read_persons(out / "made_from" / "persons.csv"))
