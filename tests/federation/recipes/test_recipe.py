"""Recipes are read as written; every mistake is one line."""

import hashlib
import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from federation import ConfigError, Recipe, load_recipe
from federation.recipes.recipe_library import LIBRARY
from recon import DataError, write_atomically

RECIPES = sorted(LIBRARY.glob("*.toml"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[training]\nloss = "l1"\n[federation]\nrounds = 3\n')
    return path


def line(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe(path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_named_after_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("overrides", [(), ("training.augment=true", "scope.keep=['a*']", 'paper="\\"x\\" é"')])
def test_resolved_toml_reads_back_equal(recipe: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    first = load_recipe(recipe, overrides)
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(first.to_toml(), encoding="utf-8")
    again = load_recipe(resolved)
    assert again == first
    assert again.digest() == first.digest()
    assert "cascades = 5" in first.to_toml()


def test_digest_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    table = tomllib.loads('name = "a"\n[federation]\nrounds = 3\nseed = 1\n[training]\nbatch_size = 2\n')
    digests = set()
    for order in itertools.permutations(table):
        shuffled = {key: table[key] for key in order}
        shuffled["federation"] = dict(reversed(table["federation"].items()))
        path = tmp_path / "a.toml"
        path.write_text(tomli_w.dumps(shuffled))
        digests.add(load_recipe(path).digest())
    assert len(digests) == 1


def test_every_value_changes_the_digest(recipe: Path) -> None:
    overrides = ["name=b", "training.learning_rate=0.5", "federation.seed=1", "scope.share=['x']", "paper=x"]
    digests = {load_recipe(recipe, [override]).digest() for override in overrides}
    assert len(digests | {load_recipe(recipe).digest()}) == len(overrides) + 1


def test_integers_and_floats_of_one_value_are_one_recipe(recipe: Path) -> None:
    participation = [load_recipe(recipe, [f"federation.participation={text}"]).digest() for text in ("1", "1.0")]
    assert participation[0] == participation[1]


@pytest.mark.parametrize(
    ("override", "table", "key", "value"),
    [
        ("federation.rounds=20", "federation", "rounds", 20),
        (" federation.rounds = 20 ", "federation", "rounds", 20),
        ("training.loss=ssim", "training", "loss", "ssim"),
        ('training.loss="ssim"', "training", "loss", "ssim"),
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("network.share_cascades=true", "network", "share_cascades", True),
        ('scope.keep=["*.bias", "last=*"]', "scope", "keep", ("*.bias", "last=*")),
        ("evaluation.tv_weights=[1, 2.5]", "evaluation", "tv_weights", (1.0, 2.5)),
        ("evaluation={arms=[]}", "evaluation", "arms", ()),
    ],
)
def test_overrides_are_toml_values_or_bare_words(recipe: Path, override: str, table: str, key: str, value: Any) -> None:
    assert getattr(getattr(load_recipe(recipe, [override]), table), key) == value


def test_the_last_override_wins(recipe: Path) -> None:
    assert load_recipe(recipe, ["federation.rounds=4", "federation.rounds=5"]).federation.rounds == 5


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("federation.roundz=3", ["--set federation.roundz=3", "unknown key", "'rounds'"]),
        ("rounds=3", ["unknown key", "'federation.rounds'"]),
        ("training.qqqq=3", ["unknown key", "expected one of learning_rate, batch_size"]),
        ("federation.rounds=0", ["federation.rounds", "found 0", "greater than or equal to 1"]),
        ("federation.rounds=2.5", ["found 2.5", "integer"]),
        ("federation.rounds=true", ["found True", "integer"]),
        ("federation.rounds=many", ["found 'many'", "integer"]),
        ("training.learning_rate=nan", ["found nan", "finite"]),
        ("training.learning_rate='1'", ["found '1'", "number"]),
        ("training.loss=l3", ["found 'l3'", "l1, l1_ssim, mse, psnr, ssim"]),
        ("network.consistency=gradiant", ["found 'gradiant'", "did you mean 'gradient'"]),
        ("federation.server_rule=meen", ["did you mean 'mean'"]),
        ("federation.weights=sample", ["found 'sample'", "fairness, samples, softmax, uncertainty, uniform"]),
        ("evaluation.arms=['tvx']", ["evaluation.arms.0", "did you mean 'tv'"]),
        ("evaluation.arms=['tv', 'tv']", ["evaluation.arms", "expected every arm once"]),
        ("evaluation.tv_weights=[]", ["evaluation.tv_weights", "at least 1"]),
        ("training.augment={scale=[2, 1]}", ["scale", "low <= high"]),
        ("network={regularizer='cnn', depth=1}", ["depth", "at least 2"]),
        ("network=3", ["network", "found 3", "a section"]),
        ("objective={task='mutual'}", ["distillation", "found 0"]),
        ("objective.proximal='1'", ["objective.proximal: found '1', expected a weight of 0 or more"]),
        ("objective.proximal=-1", ["objective.proximal: found -1, expected a weight of 0 or more"]),
        ("objective.proximal=nan", ["objective.proximal: found nan, expected a weight of 0 or more"]),
        ("objective.proximal=true", ["objective.proximal: found True, expected a weight of 0 or more"]),
        ("objective.proximal={mu=1}", ["objective.proximal: found {'mu': 1}, expected a weight of 0 or more"]),
        ("personal.proximal=1", ["personal.proximal: found 1 with steps = 0, expected steps, on which it acts"]),
        ("objective.proxmal=1", ["objective.proxmal: unknown key; did you mean 'proximal'?"]),
        ("objective.options={proximal={mu=1}}", ["objective.options: found proximal, expected the task or a penalty"]),
        ("objective={proximal=1, options={proximal={mu=1}}}", ["found 'mu', expected one of none"]),
        ("network.regularizer_options={cutoff=[1]}", ["cutoff: found [1], expected true, false, a finite number"]),
        ("network.consistency_options={step=inf}", ["consistency_options.step: found inf", "a finite number"]),
        (
            "objective={task='two_views', options={two_views={weight='x'}}}",
            ["options.two_views: '<' not supported", "task"],
        ),
        ("federation.server_options=3", ["federation.server_options: found 3"]),
        ("federation={server_rule='trimmed_mean', server_options={trim='x'}}", ["federation.server_options: "]),
        ("federation={weights='uniform', weight_options={step=1}}", ["weight_options: found 'step'", "one of none"]),
        ("personal={steps=3, nearest_code=true}", ["nearest_code", "one of the two"]),
        ("federation={server_options={eta=1}}", ["server_options", "found 'eta'"]),
        ("federation={server_rule='fedadam', server_options={tau=0}}", ["tau"]),
        ("transform={chain=['int8', 'topk']}", ["TopK cannot follow Int8"]),
        ("transform={both_ways=true}", ["both_ways", "without a chain"]),
        ("transform={chain=['int8'], options={topk={fraction=0.1}}}", ["options", "topk"]),
        ("scope.keep=a", ["scope.keep", "found 'a'", "a list"]),
        ("name=tv", ["name", "no other arm"]),
        ("name='../../x'", ["name", "lower-case letters"]),
        ("name.x=1", ["name is 'mine'", "expected a section"]),
        ("federation.rounds", ["expected key=value"]),
        ("=3", ["expected key=value"]),
        ("scope.keep=[a]", ["expected a TOML value", "quote strings"]),
        ("federation.rounds=", ["expected a TOML value"]),
        ("federation.rounds=3\nseed=4", ["expected one TOML value"]),
    ],
)
def test_a_wrong_override_is_one_line(recipe: Path, override: str, words: list[str]) -> None:
    message = line(recipe, override)
    assert message.startswith(f"--set {' '.join(override.split())}: ")
    for word in words:
        assert word in message


def test_a_mistake_in_the_file_names_file_and_key(recipe: Path) -> None:
    recipe.write_text('name = "mine"\n[training]\nbatchsize = 2\n')
    assert line(recipe) == f"{recipe}: training.batchsize: unknown key; did you mean 'batch_size'?"
    # The command line does not take the blame for it.
    assert line(recipe, "training.loss=ssim").startswith(f"{recipe}: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tuning = 3", "tuning: found 3, expected a section"),
        ("tuning = 'key'", "tuning: found 'key', expected a section"),
        ("network = 3", "network: found 3, expected a section"),
        ("objective = [1]", "objective: found [1], expected a section"),
        ("federation.rounds = 1979-05-27", "federation.rounds: found datetime.date(1979, 5, 27), expected a valid int"),
    ],
)
def test_a_wrong_section_over_another_recipe_is_one_line(recipe: Path, text: str, expected: str) -> None:
    recipe.write_text(f'extends = "fedprox"\nname = "mine"\n{text}\n')
    assert f"{recipe}: {expected}" in line(recipe)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            '"fedprx"',
            "found no such file, expected a TOML file, or a recipe of `fedrecon recipes`; correct it",
        ),
        ('""', "found a folder, expected a TOML file"),
        ("3", "found 3, expected a recipe file or the name of a recipe"),
        ('["fedavg"]', "found ['fedavg'], expected a recipe file"),
        ('"mine.toml"', "found 'mine.toml', which extends this file"),
    ],
)
def test_a_wrong_recipe_to_extend_is_one_line(recipe: Path, value: str, expected: str) -> None:
    recipe.write_text(f'extends = {value}\nname = "mine"\n')
    message = line(recipe)
    assert message.startswith(f"{recipe}: extends: ") and expected in message


def test_the_network_of_a_comparison_does_not_hide_a_wrong_one(recipe: Path) -> None:
    network = load_recipe(recipe).network
    assert load_recipe(recipe, network=network.model_copy(update={"cascades": 2})).network.cascades == 2
    recipe.write_text('name = "mine"\nnetwork = 3\n')
    with pytest.raises(ConfigError, match="network: found 3, expected a section"):
        load_recipe(recipe, network=network)


@pytest.mark.parametrize(
    ("own", "overrides", "expected"),
    [
        ("", (), ("proximal", {"iterations": 2})),
        ('consistency = "proximal"', (), ("proximal", {"iterations": 2})),
        ("consistency_options = {weight = 0.1}", (), ("proximal", {"iterations": 2, "weight": 0.1})),
        ('consistency = "gradient"', (), ("gradient", {})),
        ('consistency = "gradient"\nconsistency_options = {step = 0.5}', (), ("gradient", {"step": 0.5})),
        ("", ("network.consistency=gradient",), ("gradient", {})),
        ("", ("network.consistency=proximal",), ("proximal", {"iterations": 2})),
        ("", ("network.consistency_options.step=0.5", "network.consistency=gradient"), ("gradient", {"step": 0.5})),
        ("", ("network.consistency_options.weight=0.1",), ("proximal", {"iterations": 2, "weight": 0.1})),
    ],
)
def test_another_data_consistency_inherits_no_options(
    recipe: Path, tmp_path: Path, own: str, overrides: tuple[str, ...], expected: tuple[str, dict[str, float]]
) -> None:
    recipe.write_text('name = "mine"\n[network]\nconsistency = "proximal"\nconsistency_options = {iterations = 2}\n')
    changed = tmp_path / "changed.toml"
    changed.write_text(f'extends = "{recipe.name}"\nname = "changed"\n[network]\n{own}\n')
    network = load_recipe(changed, overrides).network
    assert (network.consistency, dict(network.consistency_options)) == expected


@pytest.mark.parametrize(
    ("own", "overrides", "expected"),
    [
        ("", (), (6, "proximal")),
        ("", ("network.regularizer=unet",), (0, "proximal")),
        ("", ("network.regularizer=cnn", "network.memory=4"), (4, "proximal")),
        ('regularizer = "unet"', (), (0, "proximal")),
        ('regularizer = "fdd"\nregularizer_options = {cutoff = 0.5}', (), (0, "proximal")),
        ("", ("network.consistency=none",), (6, None)),
        ('consistency = "none"', (), (6, None)),
    ],
)
def test_another_regularizer_inherits_no_memory_and_another_data_consistency_none_for_ct(
    recipe: Path, tmp_path: Path, own: str, overrides: tuple[str, ...], expected: tuple[int, str | None]
) -> None:
    recipe.write_text(
        'name = "mine"\n[network]\nregularizer = "cnn"\nmemory = 6\nconsistency = "gradient"\n'
        'consistency_ct = "proximal"\nconsistency_non_cartesian = "proximal"\n'
    )
    changed = tmp_path / "changed.toml"
    changed.write_text(f'extends = "{recipe.name}"\nname = "changed"\n[network]\n{own}\n')
    network = load_recipe(changed, overrides).network
    assert (network.memory, network.consistency_ct) == expected
    assert network.consistency_non_cartesian == network.consistency_ct


def test_the_default_data_consistency_keeps_its_options_where_it_is_named(recipe: Path) -> None:
    recipe.write_text('name = "mine"\n[network]\nconsistency_options = {step = 0.5}\n')
    network = load_recipe(recipe, ["network.consistency=gradient"]).network
    assert network.consistency_options == {"step": 0.5}


def test_two_mistakes_are_two_lines(recipe: Path) -> None:
    recipe.write_text('name = "mine"\n[training]\nbatchsize = 2\nloss = 3\n')
    with pytest.raises(ConfigError) as error:
        load_recipe(recipe)
    assert sorted(text.split(": ")[1] for text in str(error.value).splitlines()) == [
        "training.batchsize",
        "training.loss",
    ]


def test_a_mistyped_required_key_is_one_mistake(recipe: Path) -> None:
    recipe.write_text('nmae = "mine"\n')
    assert line(recipe).endswith("nmae: unknown key; did you mean 'name'?")
    recipe.write_text('paper = "mine"\n')
    assert line(recipe).endswith("name: missing key; add it")


def test_syntax_errors_name_the_line(recipe: Path) -> None:
    recipe.write_text('name = "mine"\n\n[training\n')
    assert "line 3" in line(recipe)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00"])
def test_what_is_not_text_is_refused(recipe: Path, content: bytes) -> None:
    recipe.write_bytes(content)
    assert str(recipe) in line(recipe)


def test_a_missing_recipe_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in line(tmp_path / "none.toml")
    assert "a folder" in line(tmp_path)


def test_recipes_cannot_be_changed(recipe: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(recipe).federation.rounds = 4  # type: ignore[misc]


def test_augmentation_switches(recipe: Path) -> None:
    assert load_recipe(recipe, ["training.augment=false"]).training.augmentation() is None
    augmentation = load_recipe(recipe, ["training.augment={probability=0.25}"]).training.augmentation()
    assert augmentation is not None
    assert augmentation.probability == 0.25
    assert Recipe(name="a").training.augment is None


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.toml"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["transform.chain=['low_rank']"], "low_rank: found no 'rank'"),
        (["transform.chain=['clip']"], "clip: found no"),
        (["network.twin=true"], "network.twin: found true with the task 'supervised', expected \"mutual\""),
        (["objective.task=mutual", "objective.distillation=0.1"], "network.twin: found false with the task 'mutual'"),
        (
            ["network.twin=true", "objective.task=mutual", "objective.distillation=0.1", "network.adapter=lora"],
            "network.twin: found true with an adapter or a base, expected neither",
        ),
        (
            ["training.patience=3", "federation.schedule=cyclic"],
            "training.patience: found 3 with federation.schedule = 'cyclic', expected none",
        ),
        (["personal.nearest_code=true"], "personal.nearest_code: found true without network.condition"),
    ],
)
def test_parts_that_do_not_agree_are_refused_in_one_line(recipe: Path, assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(recipe, assignments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_subset_for_validation_is_part_of_the_digest_and_all_slices_are_as_before(recipe: Path) -> None:
    plain, every = (load_recipe(recipe, sets) for sets in ([], ["evaluation.validation_slices=0"]))
    assert plain.evaluation.validation_slices == 16 and plain.digest() != every.digest()
    assert plain.method_digest() != every.method_digest()
    old = every.model_dump(mode="json", exclude_defaults=True, exclude={"tuning", "evaluation"})
    canonical = json.dumps(old, sort_keys=True, separators=(",", ":"))
    assert every.digest() == hashlib.sha256(canonical.encode()).hexdigest()


def test_patience_that_is_not_set_is_no_part_of_the_digest(recipe: Path, tmp_path: Path) -> None:
    """A run of a version without the key stays resumable; what was run with it does not become another run."""
    plain, patient = load_recipe(recipe), load_recipe(recipe, ["training.patience=3"])
    assert plain.digest() != patient.digest() and plain.method_digest() != patient.method_digest()
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(plain.to_toml())
    assert "patience" not in plain.to_toml() and load_recipe(resolved).digest() == plain.digest()
    with pytest.raises(ConfigError, match=r"training\.patience"):
        load_recipe(recipe, ["training.patience=0"])


def test_what_is_tuned_is_no_part_of_what_is_trained(recipe: Path) -> None:
    plain = load_recipe(recipe)
    own = ["objective.proximal=0.5", 'tuning.key="objective.proximal"', "tuning.values=[0.1, 2.0]"]
    tuned = load_recipe(recipe, own)
    assert tuned.digest() == load_recipe(recipe, own[:1]).digest() != plain.digest()
    assert tuned.tuned_value == 0.5
    other = tuned.tuned(2.0, recipe)
    assert (other.objective.proximal, other.tuning) == (2.0, tuned.tuning)
    assert other.digest() == load_recipe(recipe, ["objective.proximal=2.0"]).digest()
    recipe.write_text(tuned.to_toml())
    assert load_recipe(recipe) == tuned


@pytest.mark.parametrize(("key", "values"), [("objective.proximal", "[]"), ("", "[1.0]")])
def test_key_and_values_to_tune_belong_together(recipe: Path, key: str, values: str) -> None:
    recipe.write_text(f'name = "mine"\n[tuning]\nkey = "{key}"\nvalues = {values}\n')
    assert "expected both" in line(recipe) and str(recipe) in line(recipe)


def test_a_value_that_is_left_to_a_default_can_be_tuned(recipe: Path) -> None:
    recipe.write_text(
        'name = "mine"\n[federation]\nweights = "fairness"\n[tuning]\nkey = "federation.weight_options.step"\n'
        "values = [0.1]\n"
    )
    mine = load_recipe(recipe)
    assert mine.tuned_value is None and mine.tuned(0.1, recipe).federation.weight_options == {"step": 0.1}
    # What is tuned does not stand in the way of another value.
    assert load_recipe(recipe, ["federation.weights=samples"]).tuning == mine.tuning


def test_recipes_of_an_older_version_hold_a_key_that_is_gone(tmp_path: Path) -> None:
    recipe, old = load_recipe("fedavg"), tmp_path / "recipe.toml"
    old.write_text(recipe.to_toml().replace("[federation]\n", "[federation]\ndrop_out = 0.0\n"))
    assert load_recipe(old) == recipe
    old.write_text(old.read_text().replace("drop_out = 0.0", "drop_out = 0.2"))
    with pytest.raises(ConfigError, match=r"federation\.drop_out: unknown key"):
        load_recipe(old)
