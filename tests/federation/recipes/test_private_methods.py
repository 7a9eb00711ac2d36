"""Recipes with differential privacy: what cannot go with it, and the table of the documentation."""

import re
from pathlib import Path

import pytest
import torch

from federation import ConfigError, ServerRule, load_recipe
from federation.experiment.run_folder import local_recipe
from federation.methods import SERVER_RULES
from federation.recipes import recipe_names
from recon import PENALTIES, Penalty

PAGE = (Path(__file__).parents[3] / "docs" / "differential-privacy.md").read_text("utf-8")
ON = ("privacy.clip=0.5", "privacy.noise_multiplier=1.0", "privacy.patients_per_step=2")


def refusal(recipe, *overrides):
    with pytest.raises(ConfigError) as error:
        load_recipe(recipe, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "federation.server_rule=scaffold",
            "server_rule: found 'scaffold' with .*, expected one of fedadagrad, .*mean",
        ),
        (
            "objective.moments=0.1",
            "objective.moments: found a weight with .* expected none: it sends means over the im",
        ),
        ("privacy.noise_multiplier=0.2", "privacy.noise_multiplier: found 0.2"),
        ("privacy.clip=0", "privacy.clip: found 0"),
        ("privacy.patients_per_step=0", "privacy.patients_per_step: found 0"),
        ("privacy.slices_per_patient=0", "privacy.slices_per_patient: found 0"),
        ("privacy.delta=0.5", "privacy.delta: found 0.5"),
    ],
)
def test_what_sends_data_without_noise_is_refused_when_the_recipe_is_loaded(override, text):
    assert re.search(text, refusal("fedavg", *ON, override))


def test_scan_features_of_participants_are_refused():
    text = refusal("fedavg", *ON, "network.condition=regularizer", "personal.nearest_code=true")
    assert "personal.nearest_code: found true" in text and "mean scan features of its patients" in text


@pytest.mark.parametrize("missing", range(3))
def test_the_three_keys_belong_together(missing):
    kept = [override for number, override in enumerate(ON) if number != missing]
    key = ON[missing].split("=")[0].removeprefix("privacy.")
    assert f"privacy.{key}: missing key beside" in refusal("fedavg", *kept)
    assert "privacy.clip: missing key beside delta" in refusal("fedavg", "privacy.delta=1e-6")


def test_options_of_the_sum_are_still_refused_without_it():
    assert "secure_sum: found false with options of it" in refusal("fedavg", *ON, "privacy.modulus_bits=64")


def test_parts_of_the_user_that_send_tensors_are_refused(fresh_registries):
    class Prototypes(Penalty):
        def __init__(self, weight: float) -> None:
            self.weight = weight

        def __call__(self, network, batch, image):
            return self.weight * image.abs().mean()

        @classmethod
        def sends(cls, network):
            return {"prototype": torch.zeros(3)}

    class Momentum(ServerRule):
        invariants = frozenset()

        def aux_down(self, memory):
            return {"momentum": torch.zeros(2)}

        def _combine(self, round_):
            return round_.mean(round_.weights), {}

    PENALTIES.add("prototypes")(Prototypes)
    SERVER_RULES.add("momentum")(Momentum)
    assert "objective.prototypes: found a weight" in refusal("fedavg", *ON, "objective.prototypes=1.0")
    assert "found 'momentum'" in refusal("fedavg", *ON, "federation.server_rule=momentum")


def test_digests_of_recipes_without_noise_are_as_before():
    assert "privacy" not in load_recipe("fedavg").model_dump(exclude_defaults=True)
    assert load_recipe("fedavg").digest() != load_recipe("fedavg", ON).digest()


def test_the_local_arm_trains_without_noise():
    assert load_recipe("fedavg_private").privacy.noise().patients_per_step == 4
    assert local_recipe(load_recipe("fedavg_private")).privacy.noise() is None


def test_a_secure_sum_goes_with_it():
    assert load_recipe("fedavg_secure", ON).privacy.noise().clip == 0.5


def test_the_page_says_which_methods_go_with_it():
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `")]
    said = {name: row[1].strip() for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    methods = [name for name in recipe_names() if "/" not in name]

    def is_private(name):
        try:
            load_recipe(name, ON)
        except ConfigError:
            return "no"
        return "yes"

    assert {name: said.get(name) for name in methods} == {name: is_private(name) for name in methods}
