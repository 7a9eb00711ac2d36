"""A comparison at tiny sites: tables, claims, resuming, arms that fail, budgets."""

import gzip
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

from federation import ConfigError, build_network, load_recipe, make_ct_demo_sites, make_demo_sites
from federation.cli.main import main
from federation.comparison.arm_result import ArmResult
from federation.comparison.arm_runs import TRIAL_SEED, ArmJob, Tuned
from federation.comparison.arms import Arm, Budget, arm_of, every_recipe, with_same_modules
from federation.comparison.hospitals import HOSPITALS, VARIANTS
from federation.comparison.hypotheses import claims_of
from federation.comparison.own_sites import at_sites
from federation.comparison.plan import ModalityPlan, companion, extra_arms
from federation.comparison.preset import Preset, TableSpec
from federation.comparison.presets import PRESETS, TINY, WRONG_OPERATOR
from federation.comparison.published import publish, read_published
from federation.comparison.run import _require_no_privacy, run_comparison
from federation.comparison.tables import _flags, write_tables
from federation.comparison.verdicts import judge, short_of_seeds
from federation.experiment.task import DEVICE_FAILED, ReconstructionTask
from federation.methods import parameter_scope
from federation.recipes.recipe import Recipe
from federation.recipes.recipe_library import LIBRARY
from federation.recipes.recipe_schema import NetworkSection
from federation.sites import load_federation
from recon import DataError, ScoreRow, read_scores, write_scores

NETWORK = NetworkSection(cascades=2, regularizer="cnn", channels=3, depth=3, consistency="gradient")
BUDGET = Budget(NETWORK, 2, 2, 5e-3, (1e-2,))
STEPS = BUDGET.rounds * BUDGET.steps_per_round
NAMES = ("classical", "local", "fedavg", "finetune", "joint", "fed_scales")
TRAINED = NAMES[1:]


def tiny(**changes: Any) -> Preset:
    table = TableSpec("together", NAMES, seeds=2, train=1, modalities=("mri",))
    preset = replace(PRESETS["laptop"], size=24, slices=1, test=1, budgets={"mri": BUDGET}, tables=(table,))
    return replace(preset, **changes)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out, said = tmp_path_factory.mktemp("compare") / "out", []
    broken = out.parent / "too_few.toml"
    recipes = LIBRARY
    broken.write_text(
        f'extends = "{recipes / "fedavg.toml"}"\nname = "too_few"\n[federation]\nserver_rule = "krum"\n'
        "server_options = { faulty = 3 }\n"
    )
    run_comparison(tiny(), out, modalities=("mri",), extra=[arm_of(broken)], jobs=1, say=said.append)
    return out, said


@pytest.mark.slow
def test_every_arm_is_scored_at_every_site_and_volume(compared: tuple[Path, list[str]]) -> None:
    out, _ = compared
    rows = read_scores(out / "scores.csv")
    assert {row.arm for row in rows} == {*TRAINED, "zero_filled", "tv"}
    sites = {row.site for row in rows}
    assert len(sites) == 6 and {row.site for row in rows if row.unseen} == {"unseen"}
    for arm in {*TRAINED, "tv"}:
        assert sorted({(row.site, row.seed) for row in rows if row.arm == arm}) == [
            (site, seed) for site in sorted(sites) for seed in (0, 1)
        ]
    for name in ("comparison.html", "comparison.json", "comparison.csv", "comparison.tex", "hypotheses.json"):
        assert (out / name).stat().st_size > 0


@pytest.mark.slow
def test_all_arms_make_the_same_steps(compared: tuple[Path, list[str]]) -> None:
    out, _ = compared
    facts = {arm: json.loads((out / "mri" / "together" / "seed0" / arm / "facts.json").read_text()) for arm in TRAINED}
    assert {(known["least_steps"], known["steps"]) for known in facts.values()} == {(STEPS, STEPS)}
    assert facts["fed_scales"]["bytes_up"] < 0.8 * facts["fedavg"]["bytes_up"]
    assert facts["fed_scales"]["bytes_base"] > 0 and facts["fedavg"]["bytes_base"] == 0
    assert all(known["peak_memory_mb"] > 1 and known["seconds"] > 0 for known in facts.values())


@pytest.mark.slow
def test_claims_can_be_judged_again_from_the_scores(compared: tuple[Path, list[str]]) -> None:
    out, _ = compared
    written = json.loads((out / "hypotheses.json").read_text())
    beside = json.loads((out / "beside.json").read_text())
    assert judge(read_scores(out / "scores.csv"), beside) == written
    assert beside["mri/together"]["best_personal"] == "finetune"
    assert {"H4", "H5.32", "H6.S", "H8.scales"} <= set(written)
    entry = written["H4"]["mri"]
    assert entry["seeds"] == 2 and entry["verdict"] == "undecided" and entry["aim"] == "> 0 dB"
    assert entry["interval"][0] <= entry["found"] <= entry["interval"][1]


@pytest.mark.slow
def test_an_arm_that_cannot_run_is_named_and_the_others_go_on(compared: tuple[Path, list[str]]) -> None:
    _, said = compared
    assert any("too_few, seed 0  failed: federation.server_rule: Krum needs at least 9 sites" in line for line in said)
    assert any(line.startswith("left out: mri/together/seed0/too_few (federation.server_rule") for line in said)


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_stopped(compared: tuple[Path, list[str]]) -> None:
    out, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("facts.json")}
    (out / "mri" / "together" / "seed1" / "joint" / "facts.json").unlink()
    said: list[str] = []
    run_comparison(tiny(), out, modalities=("mri",), jobs=1, say=said.append)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("facts.json")}
    assert before.keys() == after.keys()
    assert [path.parent.name for path in before if before[path] != after[path]] == ["joint"]
    assert any(line.startswith("[1/1] mri together: joint, seed 1") for line in said)


@pytest.mark.slow
def test_a_table_without_its_reference_waits(compared: tuple[Path, list[str]], tmp_path: Path) -> None:
    out, _ = compared
    shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "mri" / "together" / "seed0" / "fedavg")
    shutil.rmtree(tmp_path / "out" / "mri" / "together" / "seed1" / "fedavg")
    said: list[str] = []
    with pytest.raises(DataError, match="no arm was scored"):
        write_tables(tmp_path / "out", said.append)
    assert said[-1] == "left out: mri, table 'together', until its arm fedavg is there"


@pytest.mark.slow
def test_another_preset_and_a_foreign_folder_are_refused(compared: tuple[Path, list[str]], tmp_path: Path) -> None:
    out, _ = compared
    with pytest.raises(DataError, match="another preset"):
        run_comparison(tiny(size=32), out, modalities=("mri",), jobs=1, say=print)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="is not empty and holds no comparison"):
        run_comparison(tiny(), tmp_path, modalities=("mri",), jobs=1, say=print)
    with pytest.raises(DataError, match="holds no comparison"):
        write_tables(tmp_path / "none", print)


def test_a_budget_lays_the_parts_of_a_method_over_one_network() -> None:
    plain, conditioned = (BUDGET.recipe(Arm(name, name), "ct", 3) for name in ("fedavg", "hyperfed"))
    assert plain.network == NETWORK and plain.federation.seed == 3
    assert conditioned.network == NETWORK.model_copy(update={"condition": "both"})
    tuned = BUDGET.recipe(Arm("finetune", "fedavg_finetune"), "mri", 0)
    assert tuned.federation.rounds * 2 + tuned.personal.steps == STEPS and tuned.personal.steps > 0
    few = BUDGET.recipe(Arm("few", overrides=("personal.steps=1",)), "mri", 0)
    assert few.personal.steps == 1 and few.federation.rounds == BUDGET.rounds
    last = BUDGET.recipe(Arm("last", overrides=("scope.keep=['regularizers.{last}.*']",)), "mri", 0)
    assert last.scope.keep == ("regularizers.1.*",)


def test_a_recipe_that_extends_nothing_keeps_the_parts_of_its_method(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\n[network]\ncascades = 9\nnorm = "instance"\n')
    mine = BUDGET.recipe(Arm("mine", str(tmp_path / "mine.toml")), "mri", 0)
    assert mine.network == NETWORK.model_copy(update={"norm": "instance"})


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_have_what_their_claims_need(preset: Preset) -> None:
    arms = {arm.name: arm for arm in preset.arms}
    for modality, budget in preset.budgets.items():
        for arm in arms.values():
            if modality in arm.modalities:
                assert budget.recipe(arm, modality, 0, base=Path("base")).name == arm.name
    for table in preset.tables:
        assert set(table.arms) <= set(arms)
    tables = {table.name: set(table.arms) for table in preset.tables}
    for claim in claims_of(preset.name) if preset.name != TINY else ():  # that one decides nothing
        if claim.table in tables:  # small presets have few tables
            assert {claim.arm, claim.reference} - {"best_personal", "best_federated"} <= tables[claim.table]
    assert {
        claim.table for claim in claims_of(preset.name)
    } & tables.keys() == tables.keys() or preset.name != "anatomy"


def test_sites_of_a_one_factor_table_differ_in_that_factor_only(tmp_path: Path) -> None:
    preset = replace(tiny(), slices=1, test=1)
    for variant in VARIANTS:
        folder = tmp_path / variant.replace(" ", "_")
        preset.make_sites(folder, "mri", TableSpec(variant, (), 1, 1))
        sites = [site for site in load_federation(folder) if site.trains]
        operators = {(s.simulate.sampling, s.simulate.acceleration) for s in sites}  # type: ignore[union-attr]
        noise = {s.simulate.noise_std for s in sites}  # type: ignore[union-attr]
        anatomy = set()
        for site in sites:
            with h5py.File(site.files("train")[0]) as file:
                anatomy.add(file.attrs["acquisition"])
        counts = {"operator only": operators, "noise only": noise, "anatomy only": anatomy}
        assert {name: len(found) > 1 for name, found in counts.items()} == {name: name == variant for name in counts}


def test_mri_sites_with_wrong_operators_have_the_same_data_and_other_maps(tmp_path: Path) -> None:
    make_demo_sites(
        tmp_path / "right", size=32, train=1, validation=0, test=1, slices=1, sites=HOSPITALS["mri"].sites(32)[:1]
    )
    HOSPITALS["mri"].write_wrong(tmp_path / "wrong", tmp_path / "right", 32)
    right, wrong = (load_federation(tmp_path / name)[0].dataset("test")[0] for name in ("right", "wrong"))
    assert torch.equal(right.measurement, wrong.measurement)
    assert [sample.meta[0].reference_kind for sample in (right, wrong)] == ["coil_combined", "rss"]
    a, b = right.operator.maps, wrong.operator.maps
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    assert float((a - b).norm()) > 0.05 * float(a.norm())


def test_ct_sites_with_wrong_operators_have_the_same_data_and_wrong_operators(tmp_path: Path) -> None:
    preset = replace(tiny(), size=32)
    sites = HOSPITALS["ct"].sites(32)[-2:]
    make_ct_demo_sites(tmp_path / "right", size=32, train=1, validation=0, test=1, slices=1, sites=sites)
    HOSPITALS["ct"].write_wrong(tmp_path / "wrong", tmp_path / "right", preset.size)
    for right, wrong in zip(load_federation(tmp_path / "right"), load_federation(tmp_path / "wrong"), strict=True):
        assert right.files("test")[0].resolve() == wrong.files("test")[0].resolve()
        assert (right.unseen, right.simulate.views) == (wrong.unseen, wrong.simulate.views)  # type: ignore[union-attr]
        a, b = right.dataset("test")[0], wrong.dataset("test")[0]
        assert torch.equal(a.measurement, b.measurement)
        error = b.operator.geometry.offset_mm - a.operator.geometry.offset_mm  # type: ignore[operator, union-attr]
        scan, grid = a.operator.geometry, a.operator.grid
        magnification = scan.source_to_detector_mm / scan.source_to_axis_mm  # type: ignore[operator, union-attr]
        assert error == pytest.approx(0.5 * grid.pixel_mm * magnification)  # type: ignore[operator, union-attr]


def test_ct_sites_have_views_that_fit_the_size() -> None:
    for size in (32, 64, 128):
        views = {site.name: site.simulate.views for site in HOSPITALS["ct"].sites(size) if site.simulate is not None}
        assert views["sparse"] >= 8 and views["unseen"] >= views["sparse"]


def test_every_recipe_is_an_arm() -> None:
    arms = every_recipe()
    assert len(arms) >= 20 and len({arm.name for arm in arms}) == len(arms)
    assert {arm.name for arm in arms if arm.modalities == ("ct",)} >= {"fedct"}


def test_a_missing_recipe_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        BUDGET.recipe(Arm("x", "no_such_recipe"), "mri", 0)


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\nname = "a"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\nname = "b"\n')
    with pytest.raises(ConfigError, match=r"extends: found 'a.toml', which extends this file"):
        load_recipe(tmp_path / "a.toml")


def test_a_gain_in_psnr_with_sharpness_lost_is_flagged() -> None:
    def rows(arm: str, psnr: float) -> list[ScoreRow]:
        return [ScoreRow("ct", "together", arm, 0, "a", False, "v", psnr, 0.9, 0.1)]

    def run(**mtf: float) -> ArmResult:
        quality = {"a": {arm: {"mtf50_lp_per_cm": value, "disc_cnr": None} for arm, value in mtf.items()}}
        return ArmResult(least_steps=32, steps=32, at_end=False, quality=quality)

    def found(rows: list[ScoreRow], *runs: ArmResult) -> list[str]:
        return _flags("mine", rows, {"classical": {0: run(tv=5.0)}, "mine": dict(enumerate(runs))})

    better = rows("tv", 30.0) + rows("mine", 31.0)
    assert found(better, run(mine=4.0)) == ["MTF below TV"]
    assert found(better, run(mine=4.9)) == []
    assert found(rows("tv", 30.0) + rows("mine", 29.0), run(mine=4.0)) == []
    # Published results without quality hold the flags of lost quality.
    published = replace(run(), quality=None, lost=["MTF below TV"])
    assert found(better, published) == found(better, published, run(mine=4.0)) == ["MTF below TV"]
    unequal = replace(run(mine=5.0), least_steps=16, at_end=True, value_at_end=True)
    assert found(better, unequal) == [
        "sites make unequal steps",
        "best learning rate is the last one tried",
        "best value of its own is the last one tried",
    ]


def test_every_arm_is_tuned_alike_and_beyond_the_end_of_what_was_tried(tmp_path: Path) -> None:
    plan = ModalityPlan(tiny(rates=(0.5, 1.0, 2.0), more_rates=2), tmp_path, (), None, "mri")
    table = plan.preset.tables[0]
    first = plan.trials()
    tuned = {arm.name for arm in plan.preset.arms if arm.kind != "classical"}
    assert {job.arm.name for job in first} == tuned > {"local", "fedavg", "joint", "no_physics"}
    assert sorted(job.tuned.rate for job in first if job.arm.name == "local") == [0.5, 1.0, 2.0]
    assert {job.seed for job in first} == {TRIAL_SEED}

    def finish(jobs: list[ArmJob], best: float) -> None:
        for job in jobs:
            job.start()
            score = 30 - abs(math.log2(job.tuned.rate / best))
            job.finish(ArmResult(failed="") if job.arm.name == "joint" else ArmResult(validation=score))

    finish(first, best=8.0)
    second = plan.trials()
    assert {(job.arm.name, job.tuned.rate) for job in second} >= {("local", 4.0), ("fedavg", 4.0)}
    finish(second, best=8.0)
    third = plan.trials()
    assert {job.tuned.rate for job in third if job.arm.name != "joint"} == {8.0}
    finish(third, best=8.0)
    assert plan.trials() == []
    jobs = {job.arm.name: job for job in plan.jobs(table)}
    assert jobs["local"].tuned == Tuned(8.0, trials=5, rate_at_end=True)
    assert jobs["local"].recipe.training.learning_rate == pytest.approx(8 * BUDGET.learning_rate)
    assert jobs["classical"].tuned == Tuned(1.0)


def recipe_file(path: Path, text: str, extends: str = "fedavg.toml") -> Arm:
    recipes = LIBRARY
    path.write_text(f'extends = "{(recipes / extends).as_posix()}"\nname = "{path.stem}"\n{text}\n')
    return arm_of(path)


def test_a_value_of_a_method_is_tuned_at_its_best_rate(tmp_path: Path) -> None:
    near = recipe_file(tmp_path / "near.toml", "[tuning]\nvalues = [0.1, 0.2, 0.1, 0.3, 1e-3]", "fedprox.toml")
    plan = ModalityPlan(tiny(rates=(1.0, 2.0, 4.0), arms=()), tmp_path, (near,), None, "mri")
    for job in plan.trials():
        assert job.recipe.objective.proximal == 1e-3
        job.finish(ArmResult(validation=30 - abs(math.log2(job.tuned.rate / 2))))
    second = plan.trials()
    # Every other value once.
    assert [(job.tuned.rate, job.recipe.objective.proximal) for job in second] == [(2.0, 0.1), (2.0, 0.2), (2.0, 0.3)]
    assert len({job.folder for job in second}) == 3

    def chosen(*scores: float) -> tuple[float, Tuned]:
        for job, score in zip(second, scores, strict=True):
            job.finish(ArmResult(validation=score) if score else ArmResult(failed="it diverged"))
        assert plan.trials() == []
        (job,) = plan.jobs(plan.preset.tables[0])
        assert job.chosen == {
            "learning_rate": 2 * BUDGET.learning_rate,
            "objective.proximal": job.recipe.objective.proximal,
        }
        return job.recipe.objective.proximal, job.tuned

    assert chosen(30.0, 31.0, 0.0) == (0.2, Tuned(2.0, 1, 6))
    assert chosen(30.0, 31.0, 32.0) == (0.3, Tuned(2.0, 3, 6, value_at_end=True))
    # Of equal scores, and beside a score that is no number, the recipe's own value is chosen.
    assert chosen(30.0, 29.0, 29.0) == (1e-3, Tuned(2.0, None, 6, value_at_end=True))
    assert chosen(math.nan, 29.0, 29.0)[0] == 1e-3


def test_a_table_that_is_tuned_replaces_the_recipes_own(tmp_path: Path) -> None:
    text = '[scope]\nmix = { "regularizers.*" = 0.7 }\n[tuning]\nkey = "scope.mix"\n'
    text += 'values = [{ "regularizers.0.*" = 0.5 }]'
    mixed = recipe_file(tmp_path / "mixed.toml", text)
    assert BUDGET.recipe(mixed, "mri", 0, value=0).scope.mix == {"regularizers.0.*": 0.5}


def test_metadata_of_an_arm_follow_later_trials(tmp_path: Path) -> None:
    near = recipe_file(tmp_path / "near.toml", "", "fedprox.toml")
    plan = ModalityPlan(tiny(rates=(1.0,), arms=()), tmp_path, (near,), None, "mri")
    (job,) = plan.jobs(plan.preset.tables[0])
    job.finish(job.with_plan(ArmResult(validation=30.0, seconds=3.0)))
    written = (job.folder / "facts.json").stat().st_mtime_ns
    job.update_plan()
    assert (job.folder / "facts.json").stat().st_mtime_ns == written
    later = replace(job, tuned=Tuned(trials=5, value_at_end=True), label="new")
    later.update_plan()
    found = later.result
    assert found is not None and found.seconds == 3.0 and found.chosen == job.chosen
    assert (found.trials, found.value_at_end, found.label) == (5, True, "new")
    replace(later, recipe=BUDGET.recipe(Arm("other"), "mri", 0), label="other").update_plan()  # another recipe
    assert job.result == found


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ('key = "federation.rounds"\nvalues = [3]', "tuning: federation.rounds changes nothing"),
        ('key = "objective.proximal"\nvalues = [0.0]', "tuning: objective.proximal changes nothing"),
        ('key = "objective.proximal"\nvalues = [-1.0]', "tuning: objective.proximal: found -1.0"),
        ('key = "objective.proximall"\nvalues = [1.0]', "objective.proximall: unknown key"),
        ('key = "training.augment.max_rotation_deg.x"\nvalues = [1.0]', "training.augment.max_rotation_deg"),
        ('key = "scope.keep"\nvalues = [["*"]]', "shared"),
    ],
)
def test_values_that_cannot_be_tuned_are_refused_before_anything_is_run(
    tmp_path: Path, tuning: str, message: str
) -> None:
    mine = recipe_file(tmp_path / "mine.toml", f"[tuning]\n{tuning}")
    with pytest.raises(ConfigError) as error:
        run_comparison(tiny(), tmp_path / "out", modalities=("mri",), extra=[mine], jobs=1, say=print)
    assert str(error.value).startswith(f"{tmp_path / 'mine.toml'}: ") and message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_child_with_another_key_to_tune_does_not_inherit_the_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected both"):
        recipe_file(tmp_path / "child.toml", '[tuning]\nkey = "objective.moments"', "fedprox.toml")


def test_every_recipe_can_have_the_values_that_it_says_are_tuned() -> None:
    tuned = 0
    for arm in every_recipe():
        for modality in arm.modalities:
            budget = PRESETS["full"].budgets[modality]
            own = budget.recipe(arm, modality, 0)
            others = [budget.recipe(arm, modality, 0, value=value) for value in range(len(own.tuning.values))]
            assert len({own.digest(), *(other.digest() for other in others)}) == 1 + len(others)
            tuned += bool(others)
    assert tuned >= 20


def test_fedavg_is_run_with_the_modules_that_a_method_adds() -> None:
    preset = PRESETS["full"]
    arms = extra_arms(preset, (), every=True)
    known = {arm.name: arm for arm in (*preset.arms, *arms)}
    methods = [arm for arm in known.values() if not arm.overrides and arm.kind == "federated"]
    assert {arm.name for arm in every_recipe()} - known.keys() == {"fedavg_finetune"} and len(methods) >= 40
    alike = {
        (arm.name, modality): found
        for arm in methods
        for modality in arm.modalities
        if (found := companion(preset, list(known.values()), arm, modality)) is not None
    }
    assert {name: found.name for (name, _), found in alike.items()} == {
        "acm_fedmri": "conditioned",
        "fedbn": "fedavg_norm_instance",
        "fedct": "fedavg_consistency_primal_dual_condition_regularizer",
        "fedfdd": "fedavg_regularizer_fdd",
        "fedftn": "fedavg_attention",
        "fedpr": "fedavg_adapter_prompt_adapter_size_3",
        "hyperfed": "fedavg_condition_both",
        "modfed": "fedavg_attention",
        "modl": "fedavg_9379be2bc699",
        "profed": "fedavg_condition_consistency",
        "scan_physfed": "conditioned",
        "ssdu": "fedavg_ends_in_consistency",
        "varnet": "fedavg_3d561a533d21",
    }
    assert all(found in known.values() for found in alike.values())
    for (method, modality), found in alike.items():
        budget = preset.budgets[modality]
        own, plain, with_modules = (
            budget.recipe(arm, modality, 0, base=Path("base")) for arm in (known[method], Arm("fedavg"), found)
        )
        assert with_modules.network == own.network
        parts = ("training", "federation", "objective", "transform", "personal")
        assert all(getattr(with_modules, part) == getattr(plain, part) for part in parts)
        if modality == "mri":
            network = build_network(with_modules.network.model_copy(update={"base": None}))
            scope = parameter_scope(network, with_modules.scope.rules())
            assert not scope.frozen and all(name.startswith("consistency.") for name in scope.kept), method


@pytest.mark.parametrize(
    ("text", "modality", "overrides"),
    [
        ("", "mri", None),
        ('[network]\nregularizer = "cnn"', "mri", None),
        ('[network]\nregularizer = "unet"', "mri", None),
        ('[network]\nregularizer = "unet"\n[objective]\nproximal = 1e-3', "mri", ("network.regularizer=unet",)),
        ('[network]\nconsistency = "gradient"', "mri", None),
        (
            '[network]\nconsistency = "gradient"',
            "ct",
            ("network.consistency=gradient", "scope.share=['consistency.*']"),
        ),
        ("[network]\nattention = true\nchannels = 24", "mri", None),
        (
            "[network]\nattention = true\nchannels = 24\n[objective]\nproximal = 1e-3",
            "mri",
            ("network.channels=24", "network.attention=true"),
        ),
        (
            '[network]\nregularizer = "fdd"\nregularizer_options = {cutoff = 0.25}\n[objective]\nproximal = 1e-3',
            "mri",
            ("network.regularizer=fdd", "network.regularizer_options={cutoff = 0.25}"),
        ),
        ('[network]\nadapter = "lora"\n[scope]\ndelta = ["*.lora_*"]', "mri", None),
    ],
)
def test_modules_are_what_the_network_of_the_comparison_has_not(
    tmp_path: Path, text: str, modality: str, overrides: tuple[str, ...] | None
) -> None:
    found = with_same_modules(recipe_file(tmp_path / "mine.toml", text), PRESETS["full"].budgets[modality], modality)
    assert (None if found is None else found.overrides) == overrides
    assert found is None or found.modalities == (modality,)


def test_names_of_fedavg_with_modules_are_short_and_unique(tmp_path: Path) -> None:
    text = (
        '[network]\nattention = true\nnorm = "instance"\ncondition = "both"\nends_in = "consistency"\n'
        'combine = "sum"\nstart = "adjoint"\n[objective]\nproximal = 1e-3'
    )
    (_, alike) = extra_arms(PRESETS["laptop"], [recipe_file(tmp_path / "mine.toml", text)])
    assert len(alike.name) <= 64 and alike.modalities == ("mri", "ct")
    attention = recipe_file(tmp_path / "fedavg_attention.toml", "[objective]\nproximal = 1e-3")
    with pytest.raises(ConfigError, match=r"fedavg_attention.toml: its name .* choose another"):
        extra_arms(PRESETS["laptop"], [attention, *(arm for arm in every_recipe() if arm.name == "fedftn")])


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder of manifests: two sites that train and one that does not."""
    folder = tmp_path_factory.mktemp("hospitals")
    sites = (*HOSPITALS["mri"].sites(32)[:2], HOSPITALS["mri"].sites(32)[-1])
    make_demo_sites(folder / "mine", size=24, train=1, validation=1, test=1, slices=1, sites=sites)
    return folder / "mine"


@pytest.mark.slow
def test_methods_are_compared_at_the_users_own_sites(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "laptop", tiny())
    tuning = '[tuning]\nkey = "objective.proximal"\nvalues = [0.2]'
    mine = recipe_file(tmp_path / "mine.toml", f"[network]\nattention = true\n[objective]\nproximal = 0.1\n{tuning}")
    page = tmp_path / "out" / "comparison.html"
    command = ["compare", mine.recipe, "--sites", str(hospitals), "--out", str(tmp_path / "out"), "--seeds", "1"]
    assert main([*command, "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "mine: objective.proximal stays as it is, as the preset 'laptop' tunes nothing" in said and str(page) in said
    rows = read_scores(page.parent / "scores.csv")
    assert {row.table for row in rows} == {"own sites"}
    assert {row.site for row in rows} == {manifest.name for manifest in load_federation(hospitals)}
    trained = {
        "local",
        "fedavg",
        "finetune",
        "joint",
        "mine",
        "fedavg_attention",
    }  # without fed_scales: it needs a base
    assert {row.arm for row in rows} == {"zero_filled", "tv", *trained}
    (table,) = json.loads((page.parent / "comparison.json").read_text())["tables"]
    card = table["metric_card"]
    assert card["measurement"].startswith("simulated from phantoms") and card["crop"].endswith("24x24")
    assert card["size"] == "training volumes: equispaced3 1, random4 1, unseen 1"
    assert card["seeds"] == "1 of training; data given" and "coil-combined" in card["reference"]
    # No claim was registered about these sites.
    assert not (page.parent / "hypotheses.json").exists() and "Hypotheses" not in page.read_text()
    files = {path for manifest in load_federation(hospitals) for path in manifest.files("test")}
    written = load_federation(page.parent / "mri" / "own_sites" / "sites")
    assert {path for manifest in written for path in manifest.files("test")} == files
    with pytest.raises(DataError, match="another preset"):
        run_comparison(tiny(), tmp_path / "out", modalities=("mri",), jobs=1, say=print)


@pytest.mark.parametrize(
    ("site", "key", "value", "message"),
    [
        ("random4", "test", "", "random4.toml: data.test: found no files"),
        ("random4", "train", "", "found 1 mri sites that train, expected two or more"),
        ("", "validation", "", "found no validation files at mri sites that train"),
        ("random4", "test", '"nothing.h5"', "random4.toml: data.test: found no file"),
    ],
)
def test_sites_that_cannot_be_compared_are_refused_before_anything_is_run(
    hospitals: Path, tmp_path: Path, site: str, key: str, value: str, message: str
) -> None:
    shutil.copytree(hospitals, tmp_path / "sites")
    for path in (tmp_path / "sites").glob(f"{site or '*'}.toml"):
        path.write_text(re.sub(rf"(?m)^{key} = \[[^]]*\]", f"{key} = [{value}]", path.read_text()))
    with pytest.raises(ConfigError) as error:
        at_sites(tiny(), tmp_path / "sites", ("mri",), print)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_sites_without_what_a_comparison_needs_are_refused(hospitals: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no ct site"):
        at_sites(tiny(), hospitals, ("ct",), print)
    of_ct = replace(tiny(), budgets={"ct": tiny().budgets["mri"]})
    with pytest.raises(ConfigError, match=r"\.toml: modality: found 'mri', expected one of ct; leave the site out"):
        at_sites(of_ct, hospitals, ("ct",), print)
    # Undersampled measured files have no reference.
    shutil.copytree(hospitals, tmp_path / "sites")
    manifest = tmp_path / "sites" / "random4.toml"
    with h5py.File(manifest.parent / "data" / "random4" / "random4_test_000.h5", "a") as file:
        mask = [column % 2 == 0 or 8 <= column < 16 for column in range(file["kspace"].shape[-1])]
        file["mask"] = mask
        file.pop("reconstruction_rss", None)
    manifest.write_text(re.sub(r"(?ms)^\[simulate\].*?\n\n", "", manifest.read_text()))
    for lock in manifest.parent.glob("*lock*"):
        lock.unlink()
    with pytest.raises(ConfigError, match=r"data.test: found random4_test_000.h5 without a reference"):
        at_sites(tiny(), tmp_path / "sites", ("mri",), print)
    preset = at_sites(tiny(), hospitals, ("mri",), print)
    lora = next(arm for arm in every_recipe() if arm.name == "med_lora")
    assert lora not in extra_arms(preset, (), every=True)
    with pytest.raises(ConfigError, match=r"med_lora.toml: network.adapter: found an adapter, expected none"):
        run_comparison(preset, tmp_path / "out", extra=[lora], jobs=1, say=print)
    assert not (tmp_path / "out").exists()


def test_differential_privacy_is_refused_at_sites_with_patients(hospitals: Path, tmp_path: Path) -> None:
    """There a comparison would spend far more than the epsilon that it states."""
    private, said = arm_of("fedavg_private"), list[str]()
    simulated = at_sites(tiny(), hospitals, ("mri",), print)
    assert private in extra_arms(simulated, (), every=True)
    _require_no_privacy(simulated, [private], said.append)
    assert said[0].startswith("note: no epsilon holds for fedavg_private: a comparison trains on the same patients")
    manifest = shutil.copytree(hospitals, tmp_path / "mine") / "random4.toml"
    manifest.write_text(manifest.read_text().replace("synthetic = true", "synthetic = false"))
    measured = at_sites(tiny(), tmp_path / "mine", ("mri",), print)
    assert private not in extra_arms(measured, (), every=True)
    with pytest.raises(ConfigError) as error:
        run_comparison(measured, tmp_path / "out", extra=[private], jobs=1, say=print)
    words = "fedavg_private.toml: privacy.noise_multiplier: found noise, and patients at random4, expected none at"
    assert words in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_the_device_of_own_sites_may_change(hospitals: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(hospitals, tmp_path / "mine")
    before = at_sites(tiny(), mine, ("mri",), print)
    before.make_sites(made := tmp_path / "made", "mri", before.tables[0])
    path = mine / "random4.toml"
    path.write_text('device = "cpu"\n' + path.read_text())
    after = at_sites(tiny(), mine, ("mri",), print)
    assert after.described() == before.described()
    after.refresh(made)
    devices = {manifest.name: manifest.device for manifest in load_federation(made)}
    assert devices == {"random4": "cpu", "equispaced3": None, "unseen": None}


@pytest.mark.slow
def test_a_failed_device_ends_the_comparison_and_is_no_failure_of_the_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object, **__: object) -> None:
        raise DataError(f"north.toml: {DEVICE_FAILED} (cuda: CUDA out of memory.); run fewer sites")

    monkeypatch.setattr(ReconstructionTask, "train", train)
    table = TableSpec("together", ("fedavg",), seeds=1, train=1, modalities=("mri",))
    for rates in ((1.0,), (0.5, 1.0)):
        out = tmp_path / str(len(rates))
        with pytest.raises(DataError, match="device: failed"):
            preset = tiny(tables=(table,), rates=rates, arms=(Arm("fedavg"),))
            run_comparison(preset, out, jobs=1, say=print)
        assert list((out / "mri").glob("*/*/fedavg/recipe.txt")) and not list((out / "mri").rglob("facts.json"))


def test_labels_name_the_evidence_and_the_arm_with_the_same_modules(tmp_path: Path) -> None:
    preset = PRESETS["full"]
    plan = ModalityPlan(replace(preset, rates=(1.0,)), tmp_path, tuple(extra_arms(preset, (), every=True)), 1, "mri")
    labels = {job.arm.name: job.label for job in plan.jobs(preset.tables[0])}
    assert labels["fedprox"] == labels["fedavg"] == "defining property tested"
    assert labels["modfed"] == "defining property tested; FedAvg with its modules: fedavg_attention"
    assert labels["fedavg_attention"] == "FedAvg with the modules of other arms"
    assert labels["fedavg_adapter_prompt_adapter_size_3"] == "FedAvg with the modules of other arms, from their base"
    assert labels["conditioned"] == labels["local"] == labels["classical"] == ""


def _with(recipe: Recipe, table: str, **values: object) -> Recipe:
    return recipe.model_copy(update={table: getattr(recipe, table).model_copy(update=values)})


def test_an_edited_recipe_is_run_again_and_a_failed_arm_tried_again(tmp_path: Path) -> None:
    plan = ModalityPlan(tiny(), tmp_path, (), 1, "mri")
    job = next(job for job in plan.jobs(plan.preset.tables[0]) if job.arm.name == "finetune")
    job.start()
    (job.folder / "scores.csv").write_text("old")
    job.finish(ArmResult(validation=1.0))
    assert job.is_done
    reworded = replace(job, recipe=job.recipe.model_copy(update={"paper": "another", "left_out": "nothing"}))
    moved = replace(job, recipe=_with(job.recipe, "network", base="elsewhere"))
    assert reworded.is_done and moved.is_done and replace(job, recipe=_with(job.recipe, "federation", seed=5)).is_done
    edited = replace(job, recipe=_with(job.recipe, "training", batch_size=3))
    assert not edited.is_done and edited.result is None
    job.start()
    assert (job.folder / "scores.csv").exists()
    edited.start()
    assert not (job.folder / "scores.csv").exists() and not (job.folder / "facts.json").exists()
    assert edited.finish(ArmResult(failed="disk full")) == "failed: disk full" and not edited.is_done


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    plan = ModalityPlan(tiny(), tmp_path, (), 1, "mri")
    job = plan.jobs(plan.preset.tables[0])[0]
    job.finish(ArmResult(validation=1.0))
    facts = job.folder / "facts.json"
    facts.write_bytes(facts.read_bytes()[:20])
    with pytest.raises(DataError, match=r"facts.json: is not JSON .*; delete it, and the arm is run again"):
        assert job.is_done
    (tmp_path / "preset.json").write_text("{")
    with pytest.raises(DataError, match=r"facts.json: is not JSON"):
        write_tables(tmp_path, print)
    facts.unlink()
    with pytest.raises(DataError, match=r"preset.json: is not JSON .*: copy it here"):
        run_comparison(plan.preset, tmp_path, modalities=("mri",), jobs=1, say=print)


def test_two_arms_with_one_name_are_refused(tmp_path: Path) -> None:
    for names in (["fedprox", "fedprox"], ["fedavg"], ["tv"]):
        extra = [Arm(name, "fedprox") for name in names]
        with pytest.raises(DataError, match=f"fedprox.toml: its name '{names[0]}' is that of another arm"):
            run_comparison(tiny(), tmp_path / "out", modalities=("mri",), extra=extra, jobs=1, say=print)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_shares_nothing_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "alone.toml").write_text('name = "alone"\n[scope]\nkeep = ["regularizers.*"]\n')
    extra = [arm_of(tmp_path / "alone.toml")]
    with pytest.raises(DataError, match=r"alone.toml: \[scope\]: every parameter is kept .* the arm `local`"):
        run_comparison(tiny(), tmp_path / "out", modalities=("mri",), extra=extra, jobs=1, say=print)
    assert not (tmp_path / "out").exists()


def drawn(arm: str, psnr: float, seeds: Iterable[int] = range(3)) -> list[ScoreRow]:
    return [
        ScoreRow("mri", "together", arm, seed, site, False, f"v{v}", psnr + 0.01 * v + 0.001 * seed, 0.9, 0.1)
        for seed in seeds
        for site in "ab"
        for v in range(4)
    ]


def test_few_bytes_are_part_of_the_claim() -> None:
    rows = drawn("fedavg", 30.0) + drawn("fed_scales", 29.9)
    for size, verdict in ((5, "undecided"), (7, "undecided")):
        found = judge(rows, {"mri/together": {"bytes": {"fedavg": 100, "fed_scales": size}}})["H8.scales"]["mri"]
        assert found["verdict"] == verdict and found["bytes"] == size / 100
        assert ("7.0% of the bytes, expected below 6%" in found["note"]) == (size == 7)
    many = drawn("fedavg", 30.0, range(8)) + drawn("fed_scales", 29.9, range(8))
    verdicts = [
        judge(many, {"mri/together": {"bytes": {"fedavg": 100, "fed_scales": size}}})["H8.scales"]["mri"]["verdict"]
        for size in (5, 7)
    ]
    assert verdicts == ["holds", "fails"]


@pytest.mark.parametrize(
    ("gains", "verdict"), [((0.1, 0.2, 0.3), "holds"), ((0.1, -0.2, 0.3), "undecided"), ((0.1,), "undecided")]
)
def test_h6_needs_one_sign_over_all_budgets(gains: tuple[float, ...], verdict: str) -> None:
    rows, beside = [], {}
    for table, gain in zip(("together", "twice the steps", "four times the steps"), gains, strict=False):
        pair = drawn("fedavg", 30.0, range(8)) + drawn("joint", 30.0 + gain, range(8))
        rows += [replace(row, table=table) for row in pair]
        beside[f"mri/{table}"] = {"best_federated": "fedavg", "bytes": {}}
    assert judge(rows, beside)["H6.S"]["mri"]["verdict"] == verdict


def test_arms_are_judged_on_the_seeds_that_both_have() -> None:
    rows = drawn("finetune", 30.5, (1, 2)) + drawn("fedavg", 30.0, (0, 2))
    found = judge(rows, {"mri/together": {"bytes": {}}})["H4"]["mri"]
    assert found["seeds"] == 1 and found["found"] == pytest.approx(0.5)
    rows = drawn("finetune", 30.5, (1,)) + drawn("fedavg", 30.0, (0,))
    assert judge(rows, {"mri/together": {"bytes": {}}}) == {}


@pytest.mark.parametrize(
    ("gain", "seeds", "short"), [(0.1, 3, True), (0.1, 8, False), (1.0, 3, False), (1.0, 2, False)]
)
def test_a_small_difference_takes_more_seeds(gain: float, seeds: int, short: bool) -> None:
    rows = drawn("finetune", 30.0 + gain, range(seeds)) + drawn("fedavg", 30.0, range(seeds))
    found = short_of_seeds(rows, {"mri/together": {"bytes": {}}})
    assert found == ({("mri", "together"): {"finetune", "fedavg"}} if short else {})


@pytest.mark.slow
def test_arms_that_are_close_get_the_seeds_of_small_effects(tmp_path: Path) -> None:
    names = ("local", "fedavg", "finetune", "no_physics")
    table = TableSpec("together", names, seeds=1, train=1, modalities=("mri",))
    preset = tiny(tables=(table,), small_effect_seeds=2)
    out, said = tmp_path / "out", []
    run_comparison(preset, out, modalities=("mri",), jobs=1, say=said.append)
    folder = out / "mri" / "together"
    seeds = {name: len(list(folder.glob(f"seed*/{name}/facts.json"))) for name in names}
    # After such a short training all differences are small; `local` is a reference of every arm.
    assert seeds == {"local": 2, "fedavg": 2, "finetune": 2, "no_physics": 2}
    assert "arms of claims whose difference is small, with up to 2 seeds:" in said
    (folder / "seed1" / "finetune" / "facts.json").unlink()
    # A number of seeds given by the user is not changed.
    run_comparison(preset, out, modalities=("mri",), seeds=1, jobs=1, say=said.append)
    assert not (folder / "seed1" / "finetune" / "facts.json").exists()
    run_comparison(preset, out, modalities=("mri",), jobs=1, say=said.append)
    assert any(line.startswith("[1/1] mri together: finetune, seed 1") for line in said)


@pytest.fixture(scope="module")
def published(compared: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published comparison, without networks and trials."""
    folder = tmp_path_factory.mktemp("published")
    assert publish(compared[0], folder) == 11
    return folder


def unpacked(published: Path, folder: Path) -> Path:
    """A copy of published tables whose scores are plain text."""
    shutil.copytree(published, folder)
    packed = folder / "scores.csv.gz"
    (folder / "scores.csv").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    return folder


def ran(said: list[str]) -> list[str]:
    """Arms named in lines of progress."""
    return [line.split("] ")[1].split("  ")[0] for line in said if line.startswith("[")]


@pytest.mark.slow
def test_a_recipe_of_ones_own_joins_published_tables(
    compared: tuple[Path, list[str]], published: Path, tmp_path: Path
) -> None:
    mine, said = recipe_file(tmp_path / "mine.toml", "[objective]\nproximal = 0.1"), []
    out = tmp_path / "out"
    run_comparison(tiny(), out, extra=[mine], published=published, jobs=1, say=said.append)
    assert ran(said) == ["mri together: mine, seed 0"] and f"11 arms from {published}" in said
    before, after = (read_scores(folder / "scores.csv") for folder in (compared[0], out))
    assert [row for row in after if row.arm != "mine"] == before and len(after) > len(before)
    old, new = (
        json.loads((folder / "comparison.json").read_text())["tables"][0]["arms"] for folder in (compared[0], out)
    )
    assert {arm: new[arm]["facts"] for arm in old} == {arm: old[arm]["facts"] for arm in old}
    assert (out / "hypotheses.json").read_text() == (compared[0] / "hypotheses.json").read_text()
    # Such a comparison can be published and continued again; the number of seeds does not matter.
    preset = json.loads((out / "preset.json").read_text()) | {"small_effect_seeds": 8}
    again = read_published(out, preset)
    assert again.put(compared[0], ("ct",)) == 0 and again.put(compared[0], ("mri",)) == 1
    shutil.rmtree(compared[0] / "mri" / "together" / "seed0" / "mine")


@pytest.mark.slow
def test_only_what_is_missing_of_published_tables_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("classical", "fedavg", "corrected")
    tables = tuple(
        TableSpec(name, names, seeds=1, train=1, modalities=("mri",)) for name in ("together", WRONG_OPERATOR)
    )
    monkeypatch.setitem(PRESETS, "laptop", tiny(tables=tables))
    assert main(["compare", "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    publish(tmp_path / "out", folder := tmp_path / "published")
    lines = (folder / "arms.jsonl").read_text().splitlines()
    kept = [line for line in lines if not ('"corrected"' in line and WRONG_OPERATOR in line)]
    assert len(kept) == len(lines) - 1
    (folder / "arms.jsonl").write_text("\n".join(kept))
    again = ["compare", "--out", str(tmp_path / "again"), "--jobs", "1", "--from", str(folder)]
    assert main(again) == 0
    assert (tmp_path / "again" / "scores.csv").read_bytes() == (tmp_path / "out" / "scores.csv").read_bytes()
    trained = sorted(path.parent.name for path in (tmp_path / "again").rglob("recipe.txt"))
    assert trained == ["corrected"] and not (tmp_path / "again" / "mri" / "base").exists()


@pytest.mark.slow
def test_published_tables_of_other_data_are_refused(published: Path, tmp_path: Path) -> None:
    folder = unpacked(published, tmp_path / "results")
    rows = read_scores(folder / "scores.csv")
    write_scores(folder / "scores.csv", [replace(row, psnr=row.psnr + 0.01) for row in rows])
    mine = recipe_file(tmp_path / "mine.toml", "[objective]\nproximal = 0.1")
    with pytest.raises(DataError, match=r"found other data than that of the published tables \(zero_filled scores"):
        run_comparison(tiny(), tmp_path / "out", extra=[mine], published=folder, jobs=1, say=print)


def test_arms_that_were_run_stay_as_they_were_tuned_and_an_edited_one_is_tuned_anew(tmp_path: Path) -> None:
    plan = ModalityPlan(tiny(rates=(0.5, 1.0)), tmp_path, (), 1, "mri")
    chosen = Tuned(0.25, None, 4, True)
    job = plan._job("seed0", plan.preset.tables[0], Arm("fedavg"), 0, chosen)
    job.finish(job.with_plan(ArmResult()))
    names = {arm.name for arm in plan.preset.arms if "mri" in arm.modalities}
    assert {trial.arm.name for trial in plan.trials()} == names - {"fedavg", "classical"}
    assert plan._chosen_before(Arm("fedavg")) == chosen and plan.arms_of_another_recipe() == []
    edited = recipe_file(tmp_path / "fedavg.toml", "[objective]\nproximal = 0.1")
    assert plan._chosen_before(edited) is None
    # No value is chosen if the recipe tunes other values than those that were tried.
    tuning = '[tuning]\nkey = "federation.quorum"\nvalues = [1]'
    assert plan._chosen_before(recipe_file(tmp_path / "fedavg.toml", tuning)) is None
    job.finish(replace(job.with_plan(ArmResult()), tuning={"key": "objective.proximal", "values": [1]}))
    assert plan.arms_of_another_recipe() == ["fedavg"]


@pytest.mark.slow
def test_seeds_of_an_older_recipe_are_left_out(compared: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(compared[0], tmp_path / "out")
    path = tmp_path / "out" / "mri" / "together" / "seed1" / "finetune" / "facts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": "0" * 64}))
    said: list[str] = []
    write_tables(tmp_path / "out", said.append)
    assert "left out: mri/together/seed1/finetune (of another recipe than seed 0)" in said
    rows = read_scores(tmp_path / "out" / "scores.csv")
    assert {row.seed for row in rows if row.arm == "finetune"} == {0}
    assert {row.seed for row in rows if row.arm == "fedavg"} == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("arms.jsonl", None, "has no arms.jsonl; choose the folder of a comparison, or of its published tables"),
        (
            "preset.json",
            lambda text: text.replace('"laptop"', '"other"'),
            "results of the preset 'other', expected .*'laptop'",
        ),
        ("arms.jsonl", lambda text: text[: len(text) // 2], "arms.jsonl: line [67]: found .*Invalid JSON"),
        (
            "arms.jsonl",
            lambda text: text.replace('"arm":"local"', '"arm":"../../x"'),
            "arms.jsonl: line 10: found arm ",
        ),
        (
            "arms.jsonl",
            lambda text: text.replace('"table":"together"', '"table":"x"'),
            "line 1: found table 'x' of 'mri'",
        ),
        ("arms.jsonl", lambda text: text.replace('"at_end":false', '"at_end":0'), "line 2: found at_end Input"),
        (
            "arms.jsonl",
            lambda text: text.replace('"seconds":', '"second":'),
            "line 2: found Value error, the result of a trained arm lacks seconds, expected the record",
        ),
        ("scores.csv", lambda text: text.splitlines()[0] + "\n", "classical, seed 0, mri, together: found scores of 0"),
        (
            "scores.csv",
            lambda text: text.replace("fedavg,0,random4", "fedavg,2,random4", 1),
            ": found scores of 5 volumes",
        ),
    ],
)
def test_published_tables_that_cannot_be_used_are_one_line_and_claim_no_folder(
    published: Path, tmp_path: Path, name: str, change: Callable[[str], str] | None, message: str
) -> None:
    file = unpacked(published, tmp_path / "results") / name
    if change is None:
        file.unlink()
    else:
        file.write_text(change(file.read_text()))
    with pytest.raises(DataError, match=message) as error:
        run_comparison(tiny(), tmp_path / "out", published=file.parent, jobs=1, say=print)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_published_scores_may_be_packed_or_not(published: Path, tmp_path: Path) -> None:
    preset = tiny().described()
    assert read_published(unpacked(published, tmp_path / "results"), preset) == read_published(published, preset)


@pytest.mark.slow
def test_publishing_replaces_older_tables_and_loses_no_arm(
    compared: tuple[Path, list[str]], published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unpacked(published, tmp_path / "results")
    command = ["compare", "--tables", "--out", str(compared[0]), "--publish", str(folder)]
    assert main(command) == 0 and f"published: 11 arms in {folder}" in capsys.readouterr().out
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    # Equal scores give equal bytes, and no plain table is left beside the packed one.
    assert files == {path.name: path.read_bytes() for path in published.iterdir()} and "scores.csv" not in files
    line = files["arms.jsonl"].splitlines()[-1].replace(b'"seed":1', b'"seed":2')
    (folder / "arms.jsonl").write_bytes(files["arms.jsonl"] + line + b"\n")
    assert main(command) == 2
    assert "holds an arm that" in (said := capsys.readouterr().err) and "go on from them with --from" in said
    assert (folder / "scores.csv.gz").read_bytes() == files["scores.csv.gz"]
    # Publishing that was interrupted can be repeated.
    for name in files.keys() - {"preset.json"}:
        (folder / name).unlink()
    assert main(command) == 0 and {path.name for path in folder.iterdir()} == files.keys()


@pytest.mark.slow
def test_publishing_where_it_may_not_is_refused_before_anything_is_run(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "laptop", tiny())
    out = tmp_path / "out"

    def refused(folder: Path, *other: str) -> str:
        assert main(["compare", "--out", str(out), "--publish", str(folder), *other]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and not out.exists()
        return said

    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    assert f"{taken}: holds notes.txt, which is no published table" in refused(taken)
    assert f"{taken / 'notes.txt'}: cannot be a folder of tables (File exists)" in refused(taken / "notes.txt")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert "cannot be a folder of tables" in refused(tmp_path / "gone")
    assert f"{out}: is the folder of the comparison" in refused(out)
    assert "--publish: found beside --sites" in refused(tmp_path / "new", "--sites", str(tmp_path))
    tables = unpacked(published, tmp_path / "tables")
    said = refused(tables, "--modality", "ct")
    assert f"{tables}: holds 11 arms that {out} lacks or leaves out (classical, seed 0, mri, 'together')" in said
    record = json.loads((tables / "preset.json").read_text())
    (tables / "preset.json").write_text(json.dumps(record | {"name": "other"}))
    assert f"{tables}: holds tables of the preset 'other', expected those of 'laptop' as it is now" in refused(tables)
    (tables / "preset.json").unlink()
    assert f"{tables}: has no preset.json" in refused(tables)


@pytest.mark.slow
def test_a_comparison_of_own_sites_is_not_published(
    compared: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(compared[0], tmp_path / "out")
    record = json.loads((out / "preset.json").read_text())
    (out / "preset.json").write_text(json.dumps(record | {"sites": "data"}))
    assert main(["compare", "--tables", "--out", str(out), "--publish", str(tmp_path / "new")]) == 2
    assert "is a comparison of your own sites" in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_results_of_an_older_fedrecon_are_left_out(compared: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(compared[0], tmp_path / "out")
    path = tmp_path / "out" / "mri" / "together" / "seed0" / "finetune" / "facts.json"
    path.write_text(json.dumps({name: v for name, v in json.loads(path.read_text()).items() if name != "rate"}))
    said: list[str] = []
    write_tables(tmp_path / "out", said.append)
    why = "run by an older fedrecon; name its recipe to run it again"
    assert f"left out: mri/together/seed0/finetune ({why})" in said
    assert {row.seed for row in read_scores(tmp_path / "out" / "scores.csv") if row.arm == "finetune"} == {1}


@pytest.mark.parametrize("other", [["--tables"], ["--sites", "x"]])
def test_only_training_goes_on_from_published_tables(
    other: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--from", str(tmp_path), "--out", str(tmp_path / "out"), *other]) == 2
    assert f"--from: found beside {other[0]}" in capsys.readouterr().err


def test_judging_says_nothing_of_arms_that_were_not_run() -> None:
    row = ScoreRow("mri", "together", "fedavg", 0, "a", False, "v", 30.0, 0.9, 0.1)
    assert judge([row], {}) == {}
