"""Recipes with a secure sum: what cannot go with it, and the table of the documentation."""

import re
from pathlib import Path

import pytest

from federation import ConfigError, load_recipe
from federation.experiment.run_folder import local_recipe
from federation.recipes import recipe_names, secure_sum_of

PAGE = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text("utf-8")
ON = "privacy.secure_sum=true"


def refusal(recipe, *overrides):
    with pytest.raises(ConfigError) as error:
        load_recipe(recipe, [ON, *overrides])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("federation.server_rule=median", "federation.server_rule: found 'median' .* looks at the update of each site"),
        ("federation.server_rule=krum", "federation.server_rule: found 'krum'"),
        ("federation.server_rule=trimmed_mean", "federation.server_rule: found 'trimmed_mean'"),
        ("federation.server_rule=norm_clip", "federation.server_rule: found 'norm_clip'"),
        ("federation.server_rule=fednova", "federation.server_rule: found 'fednova'"),
        ("federation.weights=softmax", "federation.weights: found 'softmax' .* one of samples, uniform: a site multi"),
        ("federation.weights=fairness", "federation.weights: found 'fairness'"),
        ("transform.chain=['int8']", "transform.chain: found 'int8' .* cannot be decoded from encoded updates"),
        ("transform.chain=['topk']", "transform.chain: found 'topk'"),
        ("federation.participation=0.5", "federation.participation: found 0.5 .* expected 1: a site sends the shares"),
        ("privacy.modulus_bits=16", "privacy.modulus_bits: found 16, expected 32 or 64"),
        ("privacy.largest_change=0", "privacy.largest_change: found 0"),
    ],
)
def test_what_needs_single_updates_is_refused_when_the_recipe_is_loaded(override, text):
    assert re.search(text, refusal("fedavg", override))


def test_options_without_the_sum_are_refused():
    with pytest.raises(ConfigError, match="secure_sum: found false with options of it, expected true"):
        load_recipe("fedavg", ["privacy.modulus_bits=64"])


def test_digests_of_recipes_without_a_sum_are_as_before():
    assert "privacy" not in load_recipe("fedavg").model_dump(exclude_defaults=True)
    assert load_recipe("fedavg").digest() != load_recipe("fedavg", [ON]).digest()


def test_the_local_arm_has_no_sum():
    assert not local_recipe(load_recipe("fedavg_secure")).privacy.secure_sum


@pytest.mark.parametrize(
    ("slices", "overrides", "text"),
    [
        ({"a": 5}, (), "1 sites, expected at least 2"),
        ({"a": 5, "b": 5, "c": 5}, ("privacy.threshold=4",), "privacy.threshold: found 4, expected 2 to 3 of the 3"),
        ({"a": 5, "b": 5}, ("privacy.largest_change=1e6",), "privacy.largest_change: numbers up to 1e+06 of 2 sites"),
        ({"a": 5, "b": 5}, ("privacy.largest_change=1e6", "privacy.modulus_bits=64"), None),
    ],
)
def test_sites_that_cannot_be_summed_are_refused_with_one_line(slices, overrides, text):
    recipe = load_recipe("fedavg_secure", overrides)
    if text is None:
        assert secure_sum_of(recipe, slices).roster.least == 2
        return
    with pytest.raises(ConfigError, match=f"^recipe: .*{re.escape(text)}"):
        secure_sum_of(recipe, slices)


def test_the_page_says_which_methods_can_be_summed():
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `")]
    said = {name: row[1].strip() for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    methods = [name for name in recipe_names() if "/" not in name]

    def is_summable(name):
        try:
            load_recipe(name, [ON])
        except ConfigError:
            return "no"
        return "yes"

    assert {name: said.get(name) for name in methods} == {name: is_summable(name) for name in methods}
