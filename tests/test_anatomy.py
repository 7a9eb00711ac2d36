"""Sites of real anatomy (benchmarks/anatomy.py): who is where, and one small federation of each modality."""

import csv
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from federation import check_sites, load_federation
from federation.comparison import anatomy_persons as anatomy
from federation.comparison.anatomy import ANATOMY
from federation.comparison.run import run_comparison
from federation.sites import read_persons
from federation.sites.lock_file import read_lock
from federation.sites.people import deal_persons

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("anatomy", ROOT / "benchmarks" / "anatomy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def places(folder: Path, slices: int, seed: int) -> dict[str, tuple[str, str]]:
    """Site and split of every person at the MRI sites."""
    images = anatomy.write_table(folder, anatomy.mri_rows(folder, 8, slices))
    wishes = {scanner.name: scanner.wish for scanner in anatomy.mri_scanners(8, [slices] * 5, 8, 64)}
    dealt = deal_persons(images, wishes, anatomy.SPLIT, seed)
    found: dict[str, tuple[str, str]] = {}
    for site, own in dealt.items():
        for part, image in own:
            assert found.setdefault(image.person, (site, part)) == (site, part)
    return found


def test_persons_do_not_overlap_and_the_same_ones_test(tmp_path: Path) -> None:
    few, many, other = (places(tmp_path / str(n), slices, seed) for n, slices, seed in
                        ((0, 16, 0), (1, 256, 0), (2, 16, 1)))  # fmt: skip
    assert few.items() <= many.items() and len(few) == 44 and len(many) == 56
    assert few != other
    for site in ("north", "east", "south", "west", "volume"):
        counts = [sum(place == (site, part) for place in few.values()) for part in ("train", "validation", "test")]
        assert counts == [4, 2, 2]


def test_the_persons_of_the_base_are_at_no_site(tmp_path: Path) -> None:
    base = {image.person for image in anatomy.write_table(tmp_path / "base", anatomy.base_rows(tmp_path / "base"))}
    for slices in (4, 16, 64):
        assert not base & places(tmp_path / str(slices), slices, 0).keys()
    assert len(base) == 12


def test_equal_scanners_have_all_persons_with_t1(tmp_path: Path) -> None:
    images = anatomy.write_table(tmp_path, anatomy.mri_rows(tmp_path, 8, 64, drawn=False))
    scanners = anatomy.mri_scanners(8, [4, 16, 64, 256, 16], 8, 64, equal=True)
    training = scanners[:-1]
    assert [(s.name, s.train_slices) for s in training] == list(
        zip(anatomy.MRI_NAMES, [4, 16, 64, 256, 16], strict=True)
    )
    assert (
        len({s.model_copy(update={"name": "", "train_slices": 1, "persons": 1}).model_dump_json() for s in training})
        == 1
    )
    dealt = deal_persons(images, {s.name: s.wish for s in scanners}, anatomy.EQUAL_SPLIT, 0)
    assert [len(dealt[s.name]) for s in training] == [6, 6, 6, 10, 6]


def test_measured_scans_are_not_used(tmp_path: Path) -> None:
    rows = anatomy.mri_rows(tmp_path, 8, 16) + anatomy.ct_rows()
    assert not [row for row in rows if "kspace" in row[0] or "projections" in row[0]]
    images = anatomy.write_table(tmp_path, anatomy.ct_rows())
    assert len({image.person for image in images}) == len(images) == 17
    assert all(image.file.exists() for image in images)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_sites_of_real_anatomy(
    benchmark: ModuleType, modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sites"
    counts = ["--slices", "4", "4", "8", "4", "4", "--persons-per-site", "4", "--test-slices", "1", "--matrix", "32"]
    monkeypatch.setattr(sys, "argv", ["anatomy.py", str(out), "--modality", modality, *counts])
    benchmark.main()
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


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_the_preset_compares_real_people(modality: str, tmp_path: Path) -> None:
    budgets = {
        name: replace(budget, rounds=2, steps_per_round=2, personal_rounds=1)
        for name, budget in ANATOMY.budgets.items()
    }
    table = replace(
        ANATOMY.tables[0], arms=("classical", "local", "fedavg", "finetune", "fed_scales"), seeds=1, train=4
    )
    preset = replace(
        ANATOMY, size=48, slices=1, base_slices=8, budgets=budgets, tables=(table,), rates=(1.0,), small_effect_seeds=0
    )
    page = run_comparison(preset, tmp_path, modalities=(modality,), jobs=1, say=print)
    found = json.loads(page.with_suffix(".json").read_text())
    assert len(found["tables"][0]["arms"]) == 6 and {"H4", "H8.scales", "H10"} <= found["hypotheses"].keys()
