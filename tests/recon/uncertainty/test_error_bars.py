"""Error bars: they change no image, learn the size of the error, and are calibrated site by site."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physics import CartesianMRI
from recon import (
    CoverageCurve,
    DataError,
    ErrorBarCalibration,
    ErrorBarFit,
    ErrorBars,
    NetworkSettings,
    PersonErrors,
    Sample,
    SampleMeta,
    SiteCurves,
    apply,
    calibrate_error_bars,
    collate,
    coverage_scores,
    error_bars_of,
    errors_by_person,
    object_of,
    recorded_half_widths,
    train_locally,
    with_half_width,
)
from recon.modalities import MODALITIES
from recon.uncertainty.errors import FACTORS, RegionErrors

SETTINGS = NetworkSettings(cascades=2, regularizer="cnn", channels=4, depth=2, consistency="normalized")
EXAMPLES = {name: partial(modality.example, 0) for name, modality in MODALITIES.items()}


def network(error_bars: bool = True, noise_level: bool = False) -> nn.Module:
    torch.manual_seed(0)
    net = replace(SETTINGS, error_bars=error_bars, noise_level=noise_level).build()
    with torch.no_grad():
        for parameter in net.regularizers.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return net


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("noise_level", [False, True])
def test_they_change_no_image_and_no_parameter_of_the_network(name: str, noise_level: bool) -> None:
    torch.manual_seed(0)
    without = replace(SETTINGS, noise_level=noise_level).build()
    torch.manual_seed(0)
    with_bars = replace(SETTINGS, noise_level=noise_level, error_bars=True).build()
    assert all(torch.equal(p, dict(with_bars.named_parameters())[key]) for key, p in without.named_parameters())
    sample = EXAMPLES[name]()
    train = partial(train_locally, samples=[sample], steps=4, batch_size=1, learning_rate=1e-3)
    train(without)
    train(with_bars, penalties=[ErrorBarFit(1.0)])
    batch = collate([sample])
    assert torch.equal(apply(without, batch), apply(with_bars, batch))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_fit_trains_the_error_bars_alone(name: str) -> None:
    net, penalty, batch = network(), ErrorBarFit(1.0), collate([EXAMPLES[name]()])
    with penalty.watch(net):
        penalty(net, batch, apply(net, batch)).backward()
    trained = {key.split(".")[0] for key, p in net.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert trained == {"error_bars"}


def test_half_widths_scale_with_the_measurement() -> None:
    net, sample = network(noise_level=True), EXAMPLES["mri"]()
    with torch.no_grad():
        image, width = with_half_width(net, sample)
        for factor in (1e-6, 1e3):
            scaled = replace(sample, measurement=factor * sample.measurement, noise_std=factor * sample.noise_std)
            larger, wider = with_half_width(net, scaled)
            torch.testing.assert_close(larger / factor, image, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(wider / factor, width, rtol=1e-2, atol=1e-6)
    assert bool((width > 0).all()) and width.shape == image.shape


def test_they_learn_where_the_error_is() -> None:
    """The error is ten times larger where the image is bright: known without a reference."""
    torch.manual_seed(0)
    bars = ErrorBars(channels=8)
    optimizer = torch.optim.Adam(bars.parameters(), 1e-2)
    scale, zeros = torch.ones(1), torch.zeros(1, 64, 64)

    def draw() -> tuple[Tensor, Tensor]:
        image = (torch.rand(1, 2, 2) > 0.5).float().repeat_interleave(32, 1).repeat_interleave(32, 2) * 0.7 + 0.3
        return image, torch.randn(1, 64, 64) * (0.01 + 0.09 * (image > 0.5))

    for _ in range(250):
        image, error = draw()
        difference = error.abs().clamp_min(1e-5).log() - bars(image, image, zeros, zeros, None, scale).log()
        loss = torch.maximum(0.9 * difference, -0.1 * difference).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        image, error = draw()
        width = bars(image, image, zeros, zeros, None, scale)
    bright = image > 0.5
    assert 2.5 < float(width[bright].mean() / width[~bright].mean()) < 16
    assert 0.8 < float((error.abs() <= width).float().mean()) < 0.97


def test_odd_sizes_and_empty_images() -> None:
    bars, scale = ErrorBars(), torch.ones(2)
    for shape in ((2, 13, 10), (2, 1, 1), (2, 7, 33)):
        empty = torch.zeros(shape)
        width = bars(empty, empty, empty, empty, None, scale)
        assert width.shape == shape and bool(width.isfinite().all())


def test_a_network_without_error_bars_is_named() -> None:
    assert error_bars_of(network(error_bars=False)) is None
    with (
        pytest.raises(ValueError, match=r"set network.error_bars = true and train"),
        recorded_half_widths(network(error_bars=False)),
    ):
        pass


def test_error_bars_need_a_reference() -> None:
    sample, net = replace(EXAMPLES["mri"](), reference=None), network()
    with pytest.raises(DataError, match="found no reference, expected one, to calibrate error bars"):
        errors_by_person(net, [sample], {"person": [0]})
    penalty, batch = ErrorBarFit(1.0), collate([sample])
    with penalty.watch(net), pytest.raises(DataError, match="has no reference to fit error bars to"):
        penalty(net, batch, apply(net, batch))


class Known(nn.Module):
    """Images whose error is Gaussian with a known standard deviation, which the half-widths tell up to a factor."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread, self.error_bars = spread, ErrorBars()
        self.error_bars.forward = lambda image: 0.5 * self.deviation(image)  # type: ignore[method-assign]

    def deviation(self, image: Tensor) -> Tensor:
        return self.spread * (0.2 + torch.linspace(0, 1, image.shape[-1]).expand_as(image.real))

    def forward(self, y: Tensor, A: CartesianMRI) -> Tensor:
        image = A.adjoint(y)
        generator = torch.Generator().manual_seed(int(1e6 * float(image.abs().sum())) % 2**31)
        self.error_bars(image)
        return image + self.deviation(image) * torch.randn(image.shape, generator=generator)


def person(seed: int) -> Sample:
    """A bright image, fully sampled."""
    image = 0.5 + 0.5 * torch.rand(32, 32, generator=torch.Generator().manual_seed(seed))
    A = CartesianMRI(torch.ones(1, 32, 32, dtype=torch.complex64), torch.ones(32, dtype=torch.bool))
    meta = (SampleMeta("north", f"person {seed}", 0, 1.0, "coil_combined"),)
    return Sample(A(image + 0j), A, torch.tensor(0.01), image + 0j, torch.tensor(1.0), None, meta)


def people(spread: float, numbers: range) -> dict[str, PersonErrors]:
    return errors_by_person(Known(spread), [person(i) for i in numbers], {str(i): [i - numbers[0]] for i in numbers})


def test_the_factor_of_gaussian_errors() -> None:
    """The 90 % interval of a Gaussian is 1.645 standard deviations: twice that in half-widths of half of one."""
    curves = {"north": SiteCurves.of(list(people(0.02, range(20)).values()), 0.9)}
    found = calibrate_error_bars(curves, 0.9)["north"]
    assert found.factor == pytest.approx(2 * 1.645, rel=0.03) and found.own_weight == 1 and found.people == 20
    scores = coverage_scores(people(0.02, range(100, 120)), found)
    assert scores["coverage"] == pytest.approx(0.9, abs=0.01)
    low, high = scores["interval"]
    assert low < 0.9 < high
    assert scores["half_width"] < 0.92 * scores["constant_half_width"]
    assert scores["constant_coverage"] == pytest.approx(0.9, abs=0.01)
    widths, errors = scores["curve"]["half_width"], scores["curve"]["error"]
    assert widths == sorted(widths) and errors[-1] > 3 * errors[0]


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
def test_other_coverages(coverage: float) -> None:
    found = calibrate_error_bars({"north": SiteCurves.of(list(people(0.02, range(10)).values()), coverage)}, coverage)[
        "north"
    ]
    assert coverage_scores(people(0.02, range(50, 60)), found)["coverage"] == pytest.approx(coverage, abs=0.02)


def region(log_factor: float) -> RegionErrors:
    """Coverage that reaches 0.9 at a factor, known by its logarithm."""
    covered = 1 / (1 + np.exp(-(np.log(FACTORS) - log_factor) - np.log(9)))
    return RegionErrors(covered, covered, 1.0)


def site(log_factors: np.ndarray) -> SiteCurves:
    return SiteCurves.of([PersonErrors(region(f), region(f), np.ones((2, 10))) for f in log_factors], 0.9)


def test_sites_that_differ_keep_their_own_factor() -> None:
    """Pooling would miss the coverage at both."""
    rng = np.random.default_rng(0)
    curves = {"small": site(-1 + 0.05 * rng.normal(size=20)), "large": site(1 + 0.05 * rng.normal(size=20))}
    found = calibrate_error_bars(curves, 0.9)
    for name, expected in (("small", -1), ("large", 1)):
        assert np.log(found[name].factor) == pytest.approx(expected, abs=0.05) and found[name].own_weight > 0.98


def test_sites_that_are_alike_share_where_people_are_few() -> None:
    """Over many draws, shrinkage has less error than a factor of each site's own two people."""
    rng = np.random.default_rng(1)
    shared, own = [], []
    for _ in range(40):
        draws = {f"site {k}": 0.3 * rng.normal(size=2) for k in range(6)}
        found = calibrate_error_bars({name: site(people) for name, people in draws.items()}, 0.9)
        shared += [np.log(one.factor) ** 2 for one in found.values()]
        alone = [calibrate_error_bars({name: site(people)}, 0.9)[name] for name, people in draws.items()]
        own += [np.log(one.factor) ** 2 for one in alone]
    assert np.mean(shared) < 0.5 * np.mean(own)


def test_people_of_whom_the_calibration_knows_nothing_have_the_wanted_coverage() -> None:
    """Three people per calibration, many times: without leaving out, the mean coverage of others is too low."""
    rng = np.random.default_rng(2)
    plain, corrected = [], []
    for _ in range(300):
        draws, others = 0.8 * rng.normal(size=3), 0.8 * rng.normal(size=3)
        told = site(draws)
        unseen = [region(f).covered for f in others]
        for found, factor in ((plain, told.half_widths.factor(0.9)), (corrected, told.half_widths.factor(told.target))):
            found += [float(np.interp(np.log(factor), np.log(FACTORS), curve)) for curve in unseen]
    assert np.mean(plain) < 0.893 and np.mean(corrected) == pytest.approx(0.9, abs=0.01)
    assert site(np.array([0.0])).target == 0.9 and site(np.array([0.0, 0.0])).target == pytest.approx(0.9)


def test_one_person_at_each_site() -> None:
    found = calibrate_error_bars({"a": site(np.array([0.0])), "b": site(np.array([1.0]))}, 0.9)
    assert [one.own_weight for one in found.values()] == [0.5, 0.5]
    assert 0 < np.log(found["a"].factor) < np.log(found["b"].factor)
    assert coverage_scores({"x": PersonErrors(region(0), region(0), np.ones((2, 10)))}, found["a"])["interval"] is None


def test_a_coverage_that_no_factor_reaches_takes_the_largest() -> None:
    never = CoverageCurve(2, np.full(len(FACTORS), 0.2), np.zeros(len(FACTORS)))
    assert never.factor(0.9) == FACTORS[-1] and never.factor(0.1) == FACTORS[0]


@pytest.mark.parametrize("coverage", [0.0, 1.0, float("nan")])
def test_impossible_coverages_are_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="expected a number between 0 and 1"):
        calibrate_error_bars({"a": site(np.array([0.0]))}, coverage)
    with pytest.raises(ValueError, match="expected a number between 0 and 1"):
        ErrorBarFit(1.0, coverage)


def test_an_empty_person_is_named() -> None:
    empty = replace(person(0), measurement=0 * person(0).measurement, reference=torch.zeros(32, 32) + 0j)
    with pytest.raises(DataError, match="Ada: its images hold no pixel of an object"):
        errors_by_person(network(), [empty], {"Ada": [0]})


def test_the_object() -> None:
    image = torch.tensor([[0.0, 0.04], [0.06, 1.0]])
    assert object_of(image).tolist() == [[False, False], [True, True]]
    assert not object_of(torch.zeros(2, 2)).any()


def test_a_calibration_is_plain_numbers() -> None:
    found = calibrate_error_bars({"a": site(np.array([0.0, 0.2]))}, 0.9)["a"]
    assert isinstance(found, ErrorBarCalibration)
    assert all(type(value) in (int, float) for value in vars(found).values())


def test_an_interval_of_coverages_stays_within_0_and_1() -> None:
    """Two people, one without a pixel within its error bars: Student's interval alone would reach beyond both ends."""
    calibration = next(iter(calibrate_error_bars({"a": site(np.array([0.0]))}, 0.9).values()))
    full, none = region(0), replace(region(0), covered=np.zeros(len(FACTORS)))
    people = {name: PersonErrors(part, part, np.ones((2, 10))) for name, part in (("x", full), ("y", none))}
    assert coverage_scores(people, calibration)["interval"] == [0.0, 1.0]
