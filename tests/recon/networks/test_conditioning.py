"""Condition vectors of scans, and their uses: FiLM, step factors, the nearest code."""

import math

import pytest
import torch
from torch import nn

from physics import SAMPLINGS, FanBeam, ParallelBeam, evenly_spaced, hyperfed, make_mask
from recon.data.scan_features import (
    CONDITION_DIM,
    CONDITION_LAYOUT,
    FEATURE_RANGES,
    SAMPLING_FAMILIES,
    condition_vector,
    ct_features,
    mask_family,
    mri_features,
    nearest_code,
    split_condition,
)
from recon.networks.conditioning import FiLM, StepScale


def unscaled(condition):
    """The named values that a condition vector stands for."""
    values, present = split_condition(condition)
    return {
        name: low + float(value) * (high - low)
        for (name, (low, high)), value, there in zip(FEATURE_RANGES.items(), values, present, strict=True)
        if there
    }


def mri(acceleration=4.0, family="random", **changes):
    facts = {"acceleration": acceleration, "center_fraction": 0.08, "n_coils": 8, "noise_std": 0.01, "family": family}
    return condition_vector(mri_features(**facts | changes))


# The vector.


def test_the_vector_holds_the_named_values_and_nothing_else():
    features = mri_features(acceleration=6.0, center_fraction=0.08, n_coils=12, noise_std=0.02, family="equispaced")
    expected = {
        "log2_acceleration": math.log2(6),
        "center_fraction": 0.08,
        "n_coils/16": 0.75,
        "log10_noise_std": math.log10(0.02),
        "mask_random": 0,
        "mask_equispaced": 1,
        "mask_partial": 0,
        "mask_plane": 0,
    }
    assert features == pytest.approx(expected)
    vector = condition_vector(features)
    assert vector.shape == (CONDITION_DIM,) and vector.dtype == torch.float32
    assert unscaled(vector) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert (vector.reshape(-1, 2)[8:] == 0).all()  # the entries of CT are absent, value and bit


def test_the_order_of_names_does_not_matter():
    features = mri_features(acceleration=2, center_fraction=0.1, n_coils=4, noise_std=0.1, family="plane")
    assert torch.equal(condition_vector(dict(reversed(features.items()))), condition_vector(features))


def test_an_empty_vector_is_zero_and_one_entry_is_two_numbers():
    assert not condition_vector({}).any()
    for index, name in enumerate(CONDITION_LAYOUT):
        low, high = FEATURE_RANGES[name]
        assert condition_vector({name: high}).nonzero().flatten().tolist() == [2 * index, 2 * index + 1]
        assert condition_vector({name: low}).nonzero().flatten().tolist() == [2 * index + 1]


@pytest.mark.parametrize("protocol", range(1, 6))
def test_hyperfeds_protocols_have_its_seven_features_between_zero_and_one(protocol):
    scan = hyperfed(protocol)
    vector = condition_vector(ct_features(scan.geometry, scan.photons))
    values, present = split_condition(vector)
    assert present.tolist() == [False] * 8 + [True] * 7
    assert ((values >= 0) & (values <= 1)).all()
    found, geometry = unscaled(vector), scan.geometry
    assert 2 ** found["log2_views"] == pytest.approx(geometry.shape[0], rel=1e-5)
    assert 256 * found["detectors/256"] == pytest.approx(geometry.detectors, rel=1e-5)
    assert found["pitch_mm"] == pytest.approx(geometry.pitch_mm, rel=1e-5)
    assert found["angle_step_rad"] == pytest.approx(geometry.angles_rad[1], rel=1e-4)
    assert found["source_to_axis_mm"] == pytest.approx(geometry.source_to_axis_mm, rel=1e-5)
    distances = found["source_to_axis_mm"] + found["axis_to_detector_mm"]
    assert distances == pytest.approx(geometry.source_to_detector_mm, rel=1e-5)
    assert 10 ** found["log10_photons"] == pytest.approx(scan.photons, rel=1e-4)


def test_what_is_unknown_is_absent():
    beam = ParallelBeam(evenly_spaced(60, math.pi / 60), 64, 1.5)
    assert set(ct_features(beam, None)) == {"log2_views", "detectors/256", "pitch_mm", "angle_step_rad"}
    single = FanBeam((0.0,), 64, 1.5, 400.0, 600.0)
    assert "angle_step_rad" not in ct_features(single, 1e4)
    quiet = mri_features(acceleration=1, center_fraction=1, n_coils=1, noise_std=0, family=None)
    assert set(quiet) == {"log2_acceleration", "center_fraction", "n_coils/16"}


def test_the_angle_step_is_that_of_the_used_views_in_any_order():
    beam = ParallelBeam(evenly_spaced(60, math.pi / 60), 64, 1.5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    assert ct_features(beam.subset(order), None) == pytest.approx(ct_features(beam, None))
    sparse = ct_features(beam.subset(slice(None, None, 4)), None)
    assert sparse["angle_step_rad"] == pytest.approx(math.pi / 15)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="no entry 'log2_aceleration'"):
        condition_vector({"log2_aceleration": 2.0})
    with pytest.raises(ValueError, match="did you mean 'log2_acceleration'"):
        condition_vector({"log2_aceleration": 2.0})
    with pytest.raises(ValueError, match="log10_noise_std is -inf, expected a finite number"):
        condition_vector({"log10_noise_std": -math.inf})
    with pytest.raises(ValueError, match=rf"shape \(8,\), expected \(\.\.\., {CONDITION_DIM}\)"):
        split_condition(torch.ones(8))
    with pytest.raises(ValueError, match="family is 'radial'"):
        mri(family="radial")
    with pytest.raises(ValueError, match=r"acceleration is 0\.5"):
        mri(acceleration=0.5)
    with pytest.raises(ValueError, match="photons is 0"):
        ct_features(hyperfed(1).geometry, 0)


# The look of a mask.


def test_every_sampling_has_a_family():
    assert SAMPLING_FAMILIES.keys() == SAMPLINGS.keys()


@pytest.mark.parametrize("sampling", [name for name in SAMPLINGS if name != "poisson"])  # numba's start takes seconds
@pytest.mark.parametrize(("acceleration", "fraction"), [(3, 0.08), (4, 0.08), (8, 0.04)])
def test_masks_look_like_their_family(sampling, acceleration, fraction):
    for seed in range(10):
        mask = make_mask(sampling, (96, 320), acceleration, fraction, seed).mask
        assert mask_family(mask) == SAMPLING_FAMILIES[sampling], seed


def test_a_column_mask_looks_alike_in_any_layout():
    mask = make_mask("equispaced", (4, 64), 4, 0.1, 0).mask
    for layout in (mask, mask[None], mask.expand(5, 64), mask.float()):
        assert mask_family(layout) == "equispaced"
    assert mask_family(mask.flip(0)) == "equispaced"
    partial = make_mask("partial_fourier", (4, 64), 3, 0.1, 0).mask
    assert mask_family(partial.flip(0)) == mask_family(partial) == "partial"


def test_offsets_and_padding_are_not_taken_for_partial_fourier():
    for seed in range(12):
        # The random offset leaves up to seven columns more at one end, a tenth of the width.
        assert mask_family(make_mask("equispaced", (4, 64), 8, 0.1, seed).mask) == "equispaced"
    padded = torch.ones(64)
    padded[[0, 1, 2, 63]] = 0
    assert mask_family(padded) is None
    assert mask_family((torch.arange(64) >= 12).float()) == "partial"


def test_a_mask_without_a_pattern_has_no_family():
    assert mask_family(torch.ones(16)) is None
    assert mask_family((torch.arange(16) - 8).abs() < 3) is None
    with pytest.raises(ValueError, match="mask has no sampled position"):
        mask_family(torch.zeros(16))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 3, 4\)"):
        mask_family(torch.ones(2, 3, 4))


# FiLM and the factor of a step.


def test_film_starts_as_the_identity_and_can_be_trained_away_from_it():
    torch.manual_seed(0)
    film, features = FiLM(3, 6), torch.randn(2, 3, 4, 5)
    assert torch.equal(film(features, torch.rand(2, 6)), features)
    film(features, torch.rand(2, 6)).square().sum().backward()
    assert film.hyper[2].weight.grad.any() and film.hyper[2].bias.grad.any()
    assert all(name.startswith("hyper.") for name in film.state_dict())


def test_film_scales_and_shifts_channels_as_its_hypernetwork_says():
    film = FiLM(2, 1)
    with torch.no_grad():
        film.hyper[0].weight.fill_(2.0)
        film.hyper[0].bias.fill_(1.0)
        film.hyper[2].weight[:, 0] = torch.tensor([1.0, 0.0, 0.0, 10.0])
        film.hyper[2].bias.copy_(torch.tensor([0.0, -1.0, 5.0, 0.0]))
    features = torch.randn(2, 2, 3, 3)
    out = film(features, torch.tensor([[0.5], [-4.0]]))  # first hidden unit: 2 and, rectified, 0
    torch.testing.assert_close(out[0, 0], 3 * features[0, 0] + 5)
    torch.testing.assert_close(out[0, 1], torch.full((3, 3), 20.0))
    torch.testing.assert_close(out[1, 0], features[1, 0] + 5)
    torch.testing.assert_close(out[1, 1], torch.zeros(3, 3))


def test_film_treats_each_sample_by_its_own_condition():
    torch.manual_seed(0)
    film, features, condition = FiLM(3, 6), torch.randn(4, 3, 5, 5), torch.rand(4, 6)
    nn.init.normal_(film.hyper[2].weight)
    together = film(features, condition)
    for i in range(4):
        torch.testing.assert_close(film(features[i : i + 1], condition[i]), together[i : i + 1])


def test_a_step_factor_is_one_at_first_positive_always_and_per_sample():
    torch.manual_seed(0)
    factor, condition = StepScale(6), torch.randn(2, 3, 6)
    assert torch.equal(factor(condition), torch.ones(2, 3))
    nn.init.normal_(factor.hyper[2].weight, std=3.0)
    scales = factor(condition)
    torch.testing.assert_close(scales.log(), factor.hyper(condition)[..., 0])
    assert (scales < 1).any() and (scales > 1).any()
    torch.testing.assert_close(factor(condition[1, 2]), scales[1, 2])


def test_wrong_shapes_are_named():
    film = FiLM(3, 6)
    with pytest.raises(ValueError, match=r"FiLM: condition has shape \(8,\), expected \(6,\) or \(2, 6\)"):
        film(torch.ones(2, 3, 4, 4), torch.ones(8))
    with pytest.raises(ValueError, match=r"condition has shape \(1, 6\)"):
        film(torch.ones(2, 3, 4, 4), torch.ones(1, 6))
    with pytest.raises(ValueError, match=r"features have shape \(2, 4, 4, 4\), expected \(batch, 3, height, width\)"):
        film(torch.ones(2, 4, 4, 4), torch.ones(6))
    with pytest.raises(ValueError, match=r"StepScale: condition has shape \(2, 8\), expected \(6,\) or \(2, 6\)"):
        StepScale(6)(torch.ones(2, 8))
    with pytest.raises(ValueError, match="StepScale: got condition_dim 0"):
        StepScale(0)


# The nearest code.


def codes():
    scan = hyperfed(2)
    return {
        "fast": mri(8.0),
        "slow": mri(2.0),
        "regular": mri(4.0, "equispaced"),
        "ct": condition_vector(ct_features(scan.geometry, scan.photons)),
    }


def test_every_code_is_nearest_to_itself_and_to_its_neighbors():
    known = codes()
    assert all(nearest_code(known, code) == name for name, code in known.items())
    assert nearest_code(known, mri(7.0)) == "fast"
    assert nearest_code(known, mri(2.5)) == "slow"
    assert nearest_code(known, mri(3.5, "equispaced", noise_std=0.02)) == "regular"
    scan = hyperfed(4)
    assert nearest_code(known, condition_vector(ct_features(scan.geometry, scan.photons))) == "ct"


def test_the_distance_is_the_root_mean_square_over_common_entries():
    """0.3 off in one of one common entries is further than 0.4 off in one of two."""
    query = condition_vector({"mask_random": 0.0, "mask_plane": 0.0})
    known = {
        "one": condition_vector({"mask_random": 0.3}),
        "two": condition_vector({"mask_random": 0.4, "mask_plane": 0}),
    }
    assert nearest_code(known, query) == "two"
    known["two"] = condition_vector({"mask_random": 0.5, "mask_plane": 0})
    assert nearest_code(known, query) == "one"


def test_entries_that_one_of_the_two_lacks_decide_nothing():
    known = {"near": mri(4.0, noise_std=0.5), "far": mri(8.0, noise_std=0)}
    assert nearest_code(known, mri(5.0, noise_std=0)) == "near"  # its noise, far from none, does not count
    equal = {"b": mri(4.0, noise_std=0), "a": mri(4.0, noise_std=0), "full": mri(4.0)}
    assert nearest_code(equal, mri(4.0)) == "full"
    del equal["full"]
    assert nearest_code(equal, mri(4.0)) == "a"


@pytest.mark.parametrize(
    ("known", "condition", "message"),
    [
        ({}, mri(), "nearest_code: got no code"),
        ({"a": torch.ones(4)}, mri(), r"nearest_code: a has shape \(4,\), expected a finite vector of length 30"),
        ({"a": torch.full((CONDITION_DIM,), torch.nan)}, mri(), "nearest_code: a has NaN or infinity"),
        ({"a": torch.ones(2, CONDITION_DIM)}, mri(), r"nearest_code: a has shape \(2, 30\)"),
        ({"a": mri()}, torch.ones(2, CONDITION_DIM), r"nearest_code: the condition has shape \(2, 30\)"),
        ({"a": mri()}, codes()["ct"], "shares no entry with a; is it of another modality"),
    ],
)
def test_bad_codes_and_foreign_conditions_are_named(known, condition, message):
    with pytest.raises(ValueError, match=message):
        nearest_code(known, condition)
