"""The preset `anatomy` on images of people that do not exist: sites, tables, claims, worth of joining."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from federation import ConfigError, load_federation
from federation.comparison import anatomy_persons
from federation.comparison.anatomy import ANATOMY, MAIN, UNEQUAL, AnatomyPreset, AnatomyTable
from federation.comparison.arm_result import ArmResult
from federation.comparison.arms import Arm, Budget
from federation.comparison.command import CompareOptions, compare
from federation.comparison.hypotheses import ANATOMY_CLAIMS, CLAIMS, claims_of
from federation.comparison.own_sites import at_sites
from federation.comparison.plan import ModalityPlan
from federation.comparison.preset import set_devices
from federation.comparison.presets import PRESETS
from federation.comparison.run import run_comparison
from federation.comparison.verdicts import judge, short_of_seeds
from federation.comparison.worth import slices_to_reach, worth_of_joining
from federation.recipes import NetworkSection
from recon import ScoreRow, read_scores

from .fake_people import FAKE_CT_TRAINING, write_people

ARMS = ("classical", "local", "fedavg", "finetune")
MORE = (*ARMS, "blind", "shared_step", "fed_scales", "joint")
NETWORK = NetworkSection(
    cascades=1, regularizer="cnn", channels=8, depth=3, consistency="noise_proximal", noise_level=True,
    ends_in="consistency",
)  # fmt: skip
BUDGET = Budget(NETWORK, 2, 2, 5e-3, (1e-2,), patience=1, schedule="constant", personal_rounds=1)


def tiny() -> AnatomyPreset:
    """Two numbers of slices and unequal ones, at 32 pixels; one seed, nothing is tuned."""
    tables = (
        AnatomyTable(MAIN, MORE, seeds=1, train=4),
        AnatomyTable("4 slices a site", ARMS[1:], seeds=1, train=2, modalities=("mri",)),
        AnatomyTable(UNEQUAL, ARMS[1:], seeds=1, train=0, modalities=("mri",), by_site=(2, 3, 4, 6, 2)),
    )
    return replace(
        ANATOMY, size=32, slices=1, persons=4, base_slices=2, budgets={"mri": BUDGET, "ct": BUDGET}, tables=tables,
        rates=(1.0,), small_effect_seeds=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = write_people(tmp_path_factory.mktemp("people") / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRECON_DATA", str(folder))
        patch.setattr(anatomy_persons, "CT_TRAINING", FAKE_CT_TRAINING)
        yield folder


@pytest.fixture(scope="module")
def compared(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out, said = tmp_path_factory.mktemp("compare") / "out", []
    run_comparison(tiny(), out, modalities=("mri",), jobs=1, say=said.append)
    return out, said


@pytest.mark.slow
def test_the_whole_path_runs(compared: tuple[Path, list[str]]) -> None:
    out, _ = compared
    rows = read_scores(out / "scores.csv")
    assert {row.table for row in rows} == {table.name for table in tiny().tables}
    assert {row.arm for row in rows} == {*MORE[1:], "zero_filled", "tv"}
    for arm in MORE[1:]:
        result = ArmResult.read(out / "mri" / "16_slices_a_site" / "seed0" / arm)
        assert result is not None and result.failed is None and result.curves
    tables = {
        each["table"]: each["metric_card"] for each in json.loads((out / "comparison.json").read_text())["tables"]
    }
    assert tables[MAIN]["size"] == "32x32; training slices: 4 at each of 5 sites"
    assert tables[UNEQUAL]["size"].endswith("north 2, east 3, south 4, west 6, volume 2")
    assert tables[MAIN]["measurement"].startswith("simulated from magnitude images of people")
    assert tables[MAIN]["regime"].startswith("every arm trains until no improvement")
    assert "simulated hospitals" not in (out / "comparison.html").read_text()


@pytest.mark.slow
def test_claims_are_those_of_the_preset(compared: tuple[Path, list[str]]) -> None:
    out, _ = compared
    found = json.loads((out / "hypotheses.json").read_text())
    assert set(found) == {"H2.scalar", "H2.noise", "H4", "H5'", "H5.4", "H8.scales", "H10", "H14.smallest", "H14.loss"}
    beside = json.loads((out / "beside.json").read_text())
    assert judge(read_scores(out / "scores.csv"), beside, ANATOMY_CLAIMS) == found
    assert found["H14.loss"]["mri"]["note"].split(";")[0].startswith("1 of at least")
    assert claims_of("full") == claims_of("laptop") == CLAIMS and claims_of("anatomy") == ANATOMY_CLAIMS
    page = (out / "comparison.html").read_text()
    assert "What joining is worth" in page and "Learning curves: MRI, unequal slices" in page


@pytest.mark.slow
def test_the_worth_of_joining_is_said(compared: tuple[Path, list[str]]) -> None:
    out, said = compared
    worth = json.loads((out / "comparison.json").read_text())["worth"]
    assert [sentence.split(":")[0] for sentence in worth] == ["MRI, 2 slices a site", "MRI, 4 slices a site"]
    assert " ".join(said[-1].split()).endswith(worth[-1])


@pytest.mark.slow
def test_persons_are_in_one_place_and_the_same_ones_test(compared: tuple[Path, list[str]]) -> None:
    out, _ = compared
    tested = {}
    for folder in ("16_slices_a_site", "4_slices_a_site"):
        sites = load_federation(out / "mri" / folder / "sites")
        tested[folder] = {site.name: site.data.test for site in sites}
        files = [file for site in sites for part in ("train", "validation", "test") for file in site.files(part)]  # type: ignore[arg-type]
        persons = {site.name: {file.name.split("_")[1] for file in files if site.name in file.parts} for site in sites}
        assert sum(map(len, persons.values())) == len(set.union(*persons.values()))
        base = {path.name.split("_")[1] for path in (out / "mri" / "base" / "sites" / "data").rglob("*.h5")}
        assert base and not base & set.union(*persons.values())
    first, second = tested.values()
    assert first == second


@pytest.mark.slow
def test_equal_scanners_have_unequal_numbers_of_slices(compared: tuple[Path, list[str]]) -> None:
    sites = load_federation(compared[0] / "mri" / "unequal_slices" / "sites")
    training = {site.name: site for site in sites if site.trains}
    assert {name: len(site.dataset("train")) for name, site in training.items()} == {
        "north": 2, "east": 3, "south": 4, "west": 6, "volume": 2,
    }  # fmt: skip
    assert len({str(site.simulate) for site in training.values()}) == 1


@pytest.mark.slow
def test_ct_has_sites_and_a_base_of_phantoms(people: Path, tmp_path: Path) -> None:
    preset = tiny()
    preset.make_sites(tmp_path / "sites", "ct", preset.tables[0])
    sites = load_federation(tmp_path / "sites")
    assert [len(site.dataset("train")) for site in sites if site.trains] == [4, 4, 4, 4, 4]
    preset.make_sites(tmp_path / "base", "ct", preset.tables[0], base=True)
    assert {site.acquisition.origin for site in sites}.isdisjoint(
        {site.acquisition.origin for site in load_federation(tmp_path / "base")}
    )


def test_one_table_alone_is_run_and_its_arms_are_tuned_in_the_first(tmp_path: Path) -> None:
    preset = replace(tiny(), rates=(0.5, 1.0))
    plan = ModalityPlan(preset, tmp_path, (), None, "mri", only=("4 slices a site",))
    assert [table.name for table in plan.tables] == ["4 slices a site"]
    assert {job.arm.name for job in plan.trials()} == set(ARMS) - {"classical"}
    assert {(job.table, job.tuned.rate) for job in plan.trials()} == {(MAIN, 0.5), (MAIN, 1.0)}
    with pytest.raises(
        ConfigError, match=r"--only: found 'x', expected tables of the preset: 16 slices .*; correct it"
    ):
        run_comparison(preset, tmp_path / "x", only=["x"], jobs=1, say=print)
    with pytest.raises(ConfigError, match=r"--only: found recipes without their table '16 slices a site'"):
        run_comparison(preset, tmp_path / "x", only=["4 slices a site"], extra=[Arm("a")], jobs=1, say=print)
    assert not (tmp_path / "x").exists()


def test_the_device_is_that_of_every_site_and_not_part_of_the_preset(people: Path, tmp_path: Path) -> None:
    preset = tiny()
    assert replace(preset, device="cuda").described() == preset.described()
    preset.make_sites(tmp_path, "ct", preset.tables[0])
    replace(preset, device="cpu").refresh(tmp_path)
    assert {site.device for site in load_federation(tmp_path)} == {"cpu"}
    preset.refresh(tmp_path)
    assert {site.device for site in load_federation(tmp_path)} == {None}
    with pytest.raises(ConfigError, match=r"device: found 'cuda:99' where PyTorch sees"):
        set_devices(tmp_path, lambda site: "cuda:99")


def test_the_preset_needs_the_folder_of_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for value in (None, str(tmp_path / "none")):
        monkeypatch.delenv("FEDRECON_DATA", raising=False)
        if value is not None:
            monkeypatch.setenv("FEDRECON_DATA", value)
        with pytest.raises(ConfigError, match=r"environment: FEDRECON_DATA: found .*; set it") as error:
            compare(CompareOptions(preset="anatomy", out=tmp_path / "out"), print)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_the_budget_can_be_used_at_ones_own_sites(people: Path, tmp_path: Path) -> None:
    preset = tiny()
    preset.make_sites(tmp_path, "ct", preset.tables[0])
    own = at_sites(preset, tmp_path, ("ct",), print)
    assert own.budgets == {"ct": BUDGET} and "fed_scales" not in own.tables[0].arms


def test_the_personal_stage_of_a_budget_replaces_rounds() -> None:
    for modality, budget in PRESETS["anatomy"].budgets.items():
        finetune = next(arm for arm in ANATOMY.arms if arm.name == "finetune")
        recipe = budget.recipe(finetune, modality, 0)
        assert recipe.personal.steps == 8 * budget.steps_per_round
        assert recipe.federation.rounds == budget.rounds - 8 and recipe.training.patience == 10


def drawn(table: str, arm: str, psnr: dict[str, float], seeds: int = 8) -> list[ScoreRow]:
    return [
        ScoreRow("mri", table, arm, seed, site, False, f"{site}{v}", score + 0.01 * v + 0.001 * seed, 0.9, 0.1)
        for seed in range(seeds)
        for site, score in psnr.items()
        for v in range(4)
    ]


NONE = dict.fromkeys(("north", "east", "south", "west", "volume"), 20.0)


@pytest.mark.parametrize(
    ("gains", "smallest", "verdicts"),
    [
        ((0.6, 0.3, 0.2, 0.1, 0.0), 0.5, ("holds", "holds")),
        ((0.1, 0.3, 0.2, 0.6, 0.0), -0.5, ("fails", "holds")),
        ((0.6, -0.2, 0.2, 0.1, 0.0), 0.5, ("holds", "fails")),
    ],
)
def test_h14_is_about_two_sites_and_about_every_site(
    gains: tuple[float, ...], smallest: float, verdicts: tuple[str, str]
) -> None:
    joined = {site: 20.0 + gain for site, gain in zip(NONE, gains, strict=True)}
    rows = drawn(UNEQUAL, "finetune", joined) + drawn(UNEQUAL, "local", NONE)
    beside = {f"mri/{UNEQUAL}": {"bytes": {}}}
    found = judge(rows, beside, ANATOMY_CLAIMS)
    assert found["H14.smallest"]["mri"]["found"] == pytest.approx(smallest)
    assert found["H14.loss"]["mri"]["found"] == pytest.approx(min(gains))
    assert (found["H14.smallest"]["mri"]["verdict"], found["H14.loss"]["mri"]["verdict"]) == verdicts
    few = [row for row in rows if row.seed < 3]
    assert short_of_seeds(few, beside, ANATOMY_CLAIMS) == {("mri", UNEQUAL): {"finetune", "local"}}


def test_slices_are_interpolated_in_their_logarithm() -> None:
    local = {4: 20.0, 16: 22.0, 64: 23.0, 256: 23.5}
    assert slices_to_reach(21.0, local) == pytest.approx(8)
    assert slices_to_reach(22.5, local) == pytest.approx(32)
    assert [slices_to_reach(score, local) for score in (20.0, 22.0, 23.5)] == pytest.approx([4, 16, 256])
    assert slices_to_reach(19.0, local) == 0 and slices_to_reach(24.0, local) == float("inf")
    # Where more slices score less, the fewest that reach the score count.
    assert slices_to_reach(21.0, local | {64: 20.0}) == pytest.approx(8)


def test_the_worth_of_joining_has_a_range_over_the_seeds() -> None:
    names = {
        count: name for count, name in zip((4, 16, 64), ("4 slices a site", MAIN, "64 slices a site"), strict=True)
    }
    rows = [row for count, name in names.items() for row in drawn(name, "local", {"a": 20.0 + count.bit_length()}, 3)]
    for seed, score in enumerate((26.0, 26.5, 27.5)):
        rows += [replace(row, psnr=score + 0.015) for row in drawn(MAIN, "finetune", {"a": 0.0}, 3) if row.seed == seed]
    (sentence,) = worth_of_joining(rows, PRESETS["anatomy"].described())
    assert sentence == (
        "MRI, 16 slices a site: joining is worth 51 slices of one's own (3 seeds: 32 to > 64). FedAvg with fine-tuning "
        "scores 26.68 dB; local training scores 23.02, 25.02, 27.02 dB with 4, 16, 64 slices."
    )
    assert worth_of_joining(rows, PRESETS["full"].described()) == []
