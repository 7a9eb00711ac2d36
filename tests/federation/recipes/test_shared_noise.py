"""Noise that sites share: what cannot go with it, and why."""

import math
import re

import pytest

from federation import ConfigError, ServerRule, load_recipe
from federation.experiment import initial_state
from federation.experiment.run_folder import local_recipe
from federation.methods import SERVER_RULES
from federation.recipes import secure_sum_of
from federation.recipes.shared_noise import _largest_gradient
from recon import PENALTIES, PatientNoise, Penalty

from ..sharing import SHARED, without


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_recipe("fedavg", overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "training.steps_per_round=2",
            "steps_per_round: found 2 .*, expected 1: a second step would depend",
        ),
        (
            "training.optimizer=adam",
            "training.optimizer: found 'adam' .*, expected 'sgd' without momentum: noises",
        ),
        ("training.momentum=0.9", "training.optimizer: found momentum 0.9"),
        (
            "federation.weights=samples",
            "federation.weights: found 'samples' .*, expected 'uniform': a site with",
        ),
        ("federation.server_rule=scaffold", "server_rule: found 'scaffold' with privacy.noise_multiplier"),
        ("transform.chain=['clip']", "transform.chain: found 'clip' .*, expected none: noises add up in plain sums"),
        (
            "scope.mix={'regularizers.*' = 0.5}",
            "scope.mix: found 'regularizers.*' .*: a site would train",
        ),
        ("scope.channels={'regularizers.*' = 0.5}", "scope.channels: found 'regularizers.*'"),
        (
            "objective.contrastive=1e-3",
            "objective.contrastive: found a weight .* expected none: a site would",
        ),
        ("privacy.modulus_bits=64", "privacy.modulus_bits: found 64 .* expected 32: the last digits of 64 bits"),
        (
            "privacy.largest_change=0.1",
            "privacy.largest_change: found 0.1 .*, expected 0.41 or more: a site that",
        ),
        ("privacy.secure_sum=false", "secure_sum: found false with options of it, expected true"),
    ],
)
def test_what_would_depend_on_the_noise_of_one_site_is_refused(override: str, text: str) -> None:
    options = {"options": "transform.options={clip = {max_norm = 1.0}}"} if "transform" in override else {}
    assert re.search(text, refusal(*SHARED, *options.values(), override))


def test_it_needs_a_threshold_and_noise() -> None:
    text = refusal(*without("privacy.threshold"))
    assert "threshold: missing key beside shared_noise; expected the least sites in a sum" in text
    text = refusal("privacy.secure_sum=true", "privacy.threshold=2", "privacy.shared_noise=true")
    assert "shared_noise: found true without noise, expected clip, noise_multiplier, patients_per_step" in text


@pytest.mark.parametrize("kept", ["scope.keep=['consistency.*']", "scope.keep=['regularizers.0.*', 'consistency.*']"])
def test_a_parameter_that_stays_and_trains_is_refused(kept: str) -> None:
    recipe = load_recipe("fedavg", [*without("scope.freeze"), kept])
    with pytest.raises(ConfigError, match=r"^\[scope\]: consistency\.0\.log_step stays at the site and trains"):
        initial_state(recipe)
    for scope in ("scope.freeze=['consistency.*']", "scope.share=['consistency.*']"):
        initial_state(load_recipe("fedavg", [*without("scope.freeze"), scope]))


def test_parts_of_the_user_that_look_at_one_site_are_refused(fresh_registries: object) -> None:
    class Watching(ServerRule):
        invariants = frozenset()
        needs_mean_only = True

        def _combine(self, round_):  # type: ignore[no-untyped-def]
            return round_.step(round_.weights), {}

    class Remembering(Penalty):
        needs_previous = True

        def __init__(self, weight: float) -> None:
            self.weight = weight

        def __call__(self, network, batch, image):  # type: ignore[no-untyped-def]
            return self.weight * image.abs().mean()

    SERVER_RULES.add("watching")(Watching)
    PENALTIES.add("remembering")(Remembering)
    text = refusal(*SHARED, "federation.server_rule=watching")
    assert "found 'watching' with privacy.shared_noise, expected one that reads no score_after" in text
    assert "objective.remembering: found a weight" in refusal(*SHARED, "objective.remembering=1.0")


def test_noise_below_the_steps_of_the_integers_is_refused() -> None:
    """The least is 3 * 2^-27 for three sites; the noise of one is rate * 2 * 0.5 / sqrt(2), at the end of a cosine."""
    for schedule, factor in (("constant", 1.0), ("cosine", 0.01 + 0.99 * 0.5 * (1 + math.cos(0.9 * math.pi)))):
        bound = 3 * 2.0**-27 * math.sqrt(2) / factor
        for rate, fits in ((1.05 * bound, True), (0.95 * bound, False)):
            chosen = (f"training.learning_rate={rate}", f"training.schedule={schedule}", "federation.rounds=10")
            recipe = load_recipe("fedavg", [*SHARED, *chosen])
            slices = {"a": 5, "b": 6, "c": 7}
            if fits:
                assert secure_sum_of(recipe, slices).resolution == 2.0**-27
                continue
            with pytest.raises(ConfigError, match=r"^recipe: training.learning_rate: the noise of one site is"):
                secure_sum_of(recipe, slices)


def test_the_largest_gradient_bounds_a_gradient_of_all_who_may_be_drawn() -> None:
    """Of one in ten of a thousand patients, all of them in one direction, by the exact binomial."""
    from scipy.stats import binom

    most = _largest_gradient(PatientNoise(0.5, 1.0, 100)) * 100 / 0.5 - 10
    assert 0 < binom.sf(most, 1000, 0.1) < 1e-20
    assert most < 300


def test_the_local_arm_trains_without_noise() -> None:
    recipe = load_recipe("fedavg", SHARED)
    assert (recipe.privacy.shared_by, local_recipe(recipe).privacy.shared_by) == (2, 1)
    assert local_recipe(recipe).privacy.noise() is None and not local_recipe(recipe).privacy.shared_noise
