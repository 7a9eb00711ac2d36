"""The training loop learns, is deterministic, resumes and corrects; evaluation scores volumes and residuals."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from physics import CartesianMRI, complex_noise
from recon import (
    DataError,
    GradientStep,
    Sample,
    SampleMeta,
    SiteScores,
    UNetRegularizer,
    UnrolledNetwork,
    VolumeScore,
    ZeroFilled,
    batches,
    collate,
    evaluate,
    psnr,
    tune,
)
from recon.training.feature_moments import MomentAlignment, measure_moments
from recon.training.local_training import Learner, cosine_learning_rate, train_in_turns, train_locally
from recon.training.objectives import SelfSupervised, Supervised
from recon.training.optimizers import Stepper
from recon.training.penalties import Proximal

SHAPE = (32, 30)


def disc(radius: float, phase: float) -> torch.Tensor:
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, SHAPE[0]), torch.linspace(-1, 1, SHAPE[1]), indexing="ij")
    inside = ((xx**2 + yy**2) < radius**2).float() * (0.6 + 0.4 * torch.cos(9 * xx) * torch.sin(7 * yy))
    return torch.polar(inside, phase * xx)


def toy_sample(number: int, noise_std: float = 0.02) -> Sample:
    generator = torch.Generator().manual_seed(number)
    maps = torch.ones(2, *SHAPE, dtype=torch.complex64)
    maps[0] *= torch.linspace(0.2, 1, SHAPE[1])
    maps[1] *= torch.linspace(1, 0.2, SHAPE[1])
    maps = maps / maps.abs().square().sum(0).sqrt()
    mask = torch.rand(SHAPE[1], generator=generator) < 0.35
    mask[11:19] = True
    A = CartesianMRI(maps, mask)
    image = disc(0.5 + 0.08 * (number % 5), 0.3 * number)
    noise = complex_noise((2, *SHAPE), noise_std, generator) * A.mask
    return Sample(
        measurement=A(image) + noise,
        operator=A,
        noise_std=torch.tensor(noise_std),
        reference=image,
        scale=torch.tensor(1.0),
        condition=None,
        meta=(SampleMeta("toy", f"volume_{number // 2}", number % 2, 2.0, "coil_combined"),),
    )


def toy_network() -> UnrolledNetwork:
    torch.manual_seed(0)
    return UnrolledNetwork(3, GradientStep, lambda: UNetRegularizer(8, 1))


SAMPLES = [toy_sample(number) for number in range(6)]


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_it_overfits_one_slice() -> None:
    network, sample = toy_network(), SAMPLES[:1]
    before = evaluate(network, sample).mean("psnr")
    result = train_locally(network, sample, steps=60, batch_size=1, learning_rate=5e-3)
    after = evaluate(network, sample).mean("psnr")
    assert before is not None and after is not None
    assert after > before + 6
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert len(result.losses) == 60


def test_it_beats_zero_filling_on_slices_it_has_not_seen() -> None:
    network = toy_network()
    train_locally(network, SAMPLES[:4], steps=80, batch_size=2, learning_rate=3e-3)
    learned, zero_filled = (evaluate(m, SAMPLES[4:]).mean("psnr") for m in (network, ZeroFilled()))
    assert learned is not None and zero_filled is not None
    assert learned > zero_filled + 3


def test_two_halves_with_kept_moments_are_the_same_as_one_run_on_the_same_batches() -> None:
    whole, halves = toy_network(), toy_network()
    one = SAMPLES[:1]
    train_locally(whole, one, steps=6, batch_size=1, learning_rate=1e-3)
    first = train_locally(halves, one, steps=3, batch_size=1, learning_rate=1e-3)
    kept = {name: value.clone() for name, value in first.optimizer_state.items()}
    train_locally(halves, one, steps=3, batch_size=1, learning_rate=1e-3, optimizer_state=first.optimizer_state)
    for name, value in state(whole).items():
        assert torch.equal(value, state(halves)[name]), name
    for name, value in kept.items():  # a replay of the round needs the state as it was
        assert torch.equal(value, first.optimizer_state[name]), name


def test_the_seed_decides_and_nothing_else() -> None:
    states = []
    for seed in (1, 1, 2):
        network = toy_network()
        torch.manual_seed(seed + 5 * len(states))  # global state must not matter
        train_locally(network, SAMPLES, steps=4, batch_size=2, learning_rate=1e-3, seed=seed)
        states.append(torch.cat([value.flatten() for value in network.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_errors_name_the_volume_and_the_parameter() -> None:
    blind = replace(SAMPLES[0], reference=None)
    with pytest.raises(DataError, match="volume_0: has no reference"):
        train_locally(toy_network(), [blind], steps=1, batch_size=1, learning_rate=1e-3)
    with pytest.raises(DataError, match="the loss is nan at step"):
        broken = replace(SAMPLES[0], measurement=SAMPLES[0].measurement * float("nan"))
        train_locally(toy_network(), [broken], steps=1, batch_size=1, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"does not fit parameter consistency.0.log_step"):
        train_locally(
            toy_network(),
            SAMPLES,
            steps=1,
            batch_size=1,
            learning_rate=1e-3,
            optimizer_state={"step.x": torch.ones(())},
        )


def test_the_default_is_adam_on_l1() -> None:
    ours, theirs = toy_network(), toy_network()
    batch = collate(SAMPLES[:1])
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        image = theirs(batch.measurement, batch.operator)
        (batch.magnitude(image) - batch.target()).abs().mean().backward()
        optimizer.step()
    result = train_locally(ours, SAMPLES[:1], steps=3, batch_size=1, learning_rate=1e-3)
    assert all(torch.equal(value, state(theirs)[name]) for name, value in state(ours).items())
    assert result.mean_gradient == {}


@pytest.mark.parametrize("joint", [True, False])
def test_learners_that_share_parameters_train_as_a_loop_by_hand_does(joint: bool) -> None:
    """Two calls of two turns; streams of batches, moments and the shared parameters continue."""

    def networks() -> nn.ModuleList:
        first, second = toy_network(), toy_network()
        second.regularizers = first.regularizers
        return nn.ModuleList([first, second])

    ours, theirs, parts = networks(), networks(), (SAMPLES[:3], SAMPLES[3:])
    learners = [
        Learner(network, samples, batch_size=2, seed=seed, objective=Supervised())
        for seed, (network, samples) in enumerate(zip(ours, parts, strict=True))
    ]
    stepper = Stepper(dict(ours.named_parameters()), "adam", 1e-3, 0.0)
    losses: list[float] = []
    for rate in (1e-3, 5e-4):
        stepper.set_learning_rate(rate)
        losses += train_in_turns(stepper, [learners] * 2 if joint else [[learner] for learner in learners])

    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    streams = [[*batches(p, 2, g), *batches(p, 2, g)] for p, g in zip(parts, generators, strict=True)]
    expected = []
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 1e-3 if step < 2 else 5e-4
        optimizer.zero_grad()
        turn = (
            [(theirs[k], streams[k][step]) for k in range(2)]
            if joint
            else [(theirs[step % 2], streams[step % 2][step // 2])]
        )
        total = 0.0
        for network, batch in turn:
            image = network(batch.measurement, batch.operator)
            loss = (batch.magnitude(image) - batch.target()).abs().mean()
            (loss / len(turn)).backward()
            total += float(loss.detach())
        expected.append(total / len(turn))
        optimizer.step()
    assert losses == expected
    assert all(torch.equal(value, state(theirs)[name]) for name, value in state(ours).items())
    assert not torch.equal(ours[0].consistency[0].log_step, ours[1].consistency[0].log_step)  # type: ignore[union-attr]


def test_penalties_of_several_learners_are_minimized_and_leave_no_hook() -> None:
    first, second = toy_network(), toy_network()
    second.regularizers = first.regularizers
    pattern = "regularizers.*.down.0"
    target = {name: 2 * value for name, value in measure_moments(first, SAMPLES, pattern).items()}
    learners = [
        Learner(network, SAMPLES, batch_size=2, seed=0, objective=Supervised(), penalties=penalties)
        for network, penalties in ((first, [MomentAlignment(10.0, target, pattern)]), (second, []))
    ]
    stepper = Stepper(dict(nn.ModuleList([first, second]).named_parameters()), "sgd", 1e-9, 0.0)
    penalized, plain = train_in_turns(stepper, [[learner] for learner in learners])
    assert penalized > plain + 0.01
    assert not any(module._forward_hooks for module in first.modules())


def test_self_supervision_learns_without_any_reference() -> None:
    samples = [toy_sample(number, noise_std=0.002) for number in range(4)]
    torch.manual_seed(0)
    network = UnrolledNetwork(3, GradientStep, lambda: UNetRegularizer(8, 1), ends_in="consistency")
    before = evaluate(network, samples).mean("psnr")
    blind = [replace(sample, reference=None) for sample in samples]
    train_locally(network, blind, steps=30, batch_size=2, learning_rate=5e-3, objective=SelfSupervised(0.3))
    after = evaluate(network, samples).mean("psnr")
    assert before is not None and after is not None
    assert after > before + 0.5


class Recording(Supervised):
    """A task that draws numbers and remembers which volumes it saw."""

    def __call__(
        self, network: nn.Module, batch: Sample, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        SEEN.append((*(f"{m.volume}/{m.slice}" for m in batch.meta), str(torch.rand(9, generator=generator).tolist())))
        return super().__call__(network, batch, generator)


SEEN: list[tuple[str, ...]] = []


def test_the_seed_decides_the_draws_of_the_objective_and_no_draw_changes_the_order() -> None:
    SEEN.clear()
    for seed in (1, 1, 2):
        train_locally(
            toy_network(), SAMPLES, steps=4, batch_size=2, learning_rate=1e-3, seed=seed, objective=Recording()
        )
    first, again, other = SEEN[:4], SEEN[4:8], SEEN[8:]
    assert first == again
    assert len({draws for *_, draws in first + other}) == 8
    expected = [batch.meta for batch in batches(SAMPLES, 2, torch.Generator().manual_seed(1))]
    assert [seen[:-1] for seen in first[:3]] == [tuple(f"{m.volume}/{m.slice}" for m in meta) for meta in expected]


def test_penalties_are_minimized_too() -> None:
    start = {name: p.detach().clone() for name, p in toy_network().named_parameters()}
    distances, losses = [], []
    for penalties in ([], [Proximal(5.0, start)], [Proximal(2.0, start), Proximal(3.0, start)]):
        network = toy_network()
        result = train_locally(network, SAMPLES, steps=4, batch_size=2, learning_rate=1e-2, penalties=penalties)
        distances.append(sum(float((p.detach() - start[n]).square().sum()) for n, p in network.named_parameters()))
        losses.append(result.losses)
    assert distances[0] > 2 * distances[1]
    assert distances[1] == pytest.approx(distances[2], rel=1e-3)
    assert losses[0][0] == losses[1][0] and losses[1][1] > losses[0][1]


def test_penalties_on_features_are_minimized_and_leave_no_hook() -> None:
    network = toy_network()
    pattern = "regularizers.*.down.0"
    moments = measure_moments(network, SAMPLES, pattern)
    target = {name: 2 * value for name, value in moments.items()}
    train_locally(
        network,
        SAMPLES,
        steps=12,
        batch_size=2,
        learning_rate=5e-3,
        penalties=[MomentAlignment(10.0, target, pattern)],
    )
    after = measure_moments(network, SAMPLES, pattern)
    far = [sum(float((found[n] - target[n]).square().sum()) for n in target) for found in (moments, after)]
    assert far[1] < 0.3 * far[0]
    assert not any(module._forward_hooks for module in network.modules())


def test_frozen_parameters_are_left_alone() -> None:
    network = toy_network()
    network.regularizers.requires_grad_(False)
    before = state(network)
    for optimizer, momentum in (("adam", 0.0), ("sgd", 0.9)):
        result = train_locally(
            network,
            SAMPLES,
            steps=2,
            batch_size=2,
            learning_rate=1e-2,
            optimizer=optimizer,
            momentum=momentum,
            collect_gradients=True,
        )
        moved = {name for name, value in state(network).items() if not torch.equal(value, before[name])}
        assert moved == set(result.mean_gradient) == {f"consistency.{i}.log_step" for i in range(3)}
        assert all("regularizers" not in name for name in result.optimizer_state)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        train_locally(network.requires_grad_(False), SAMPLES, steps=1, batch_size=1, learning_rate=1e-2)


def test_a_parameter_that_no_gradient_reaches_keeps_fresh_moments() -> None:
    network = toy_network()
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    for optimizer, momentum in (("adam", 0.0), ("sgd", 0.9)):
        settings = {"optimizer": optimizer, "momentum": momentum}
        first = train_locally(network, SAMPLES, steps=1, batch_size=1, learning_rate=1e-3, **settings)  # type: ignore[arg-type]
        state_ = first.optimizer_state
        assert not any(value.any() for name, value in state_.items() if name.endswith(".unused"))
        train_locally(network, SAMPLES, steps=1, batch_size=1, learning_rate=1e-3, optimizer_state=state_, **settings)  # type: ignore[arg-type]
        assert torch.equal(network.unused, torch.ones(3))


def test_sgd_with_momentum_resumes_as_if_it_had_never_stopped() -> None:
    def train(network: nn.Module, steps: int, kept: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        return train_locally(
            network,
            SAMPLES[:1],
            steps=steps,
            batch_size=1,
            learning_rate=1e-2,
            optimizer="sgd",
            momentum=0.9,
            optimizer_state=kept,
        ).optimizer_state

    whole, halves, forgetful = toy_network(), toy_network(), toy_network()
    train(whole, 4, None)
    train(halves, 2, train(halves, 2, None))
    train(forgetful, 2, None)
    train(forgetful, 2, None)
    assert all(torch.equal(value, state(halves)[name]) for name, value in state(whole).items())
    assert not all(torch.equal(value, state(forgetful)[name]) for name, value in state(whole).items())


@pytest.mark.parametrize("corrected", [False, True])
def test_scaffolds_second_option_is_the_mean_gradient(corrected: bool) -> None:
    """Karimireddy et al. 2020, option II: c_i - c + (x - y_i) / (K eta), with c - c_i added to every gradient."""
    steps, rate, network = 5, 0.05, toy_network()
    before = state(network)
    generator = torch.Generator().manual_seed(0)
    correction = {n: 0.1 * torch.randn(p.shape, generator=generator) for n, p in network.named_parameters()}
    result = train_locally(
        network,
        SAMPLES,
        steps=steps,
        batch_size=2,
        learning_rate=rate,
        optimizer="sgd",
        correction=correction if corrected else None,
        collect_gradients=True,
    )
    assert result.mean_gradient.keys() == before.keys() and result.optimizer_state == {}
    for name, value in state(network).items():
        control = (before[name] - value) / (steps * rate) - (correction[name] if corrected else 0)
        torch.testing.assert_close(control, result.mean_gradient[name], rtol=1e-3, atol=2e-5)
        assert result.mean_gradient[name].dtype == value.dtype
    assert max(float(value.abs().max()) for value in result.mean_gradient.values()) > 1e-3


def test_a_correction_acts_on_the_parameters_that_it_names() -> None:
    plain, corrected = toy_network(), toy_network()
    name = "consistency.1.log_step"
    settings = {"steps": 1, "batch_size": 1, "learning_rate": 0.1, "optimizer": "sgd"}
    train_locally(plain, SAMPLES, **settings)  # type: ignore[arg-type]
    train_locally(corrected, SAMPLES, correction={name: torch.tensor(2.0)}, **settings)  # type: ignore[arg-type]
    differ = {key for key, value in state(plain).items() if not torch.equal(value, state(corrected)[key])}
    assert differ == {name}
    assert float(state(plain)[name] - state(corrected)[name]) == pytest.approx(0.2, rel=1e-4)


def test_contradictions_are_named() -> None:
    def train(**options: object) -> None:
        train_locally(toy_network(), SAMPLES, steps=1, batch_size=1, learning_rate=1e-3, **options)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="got loss 'ssim' and an objective"):
        train(loss="ssim", objective=Supervised())
    with pytest.raises(ValueError, match="loss is 'l7', expected one of l1, mse"):
        train(loss="l7")
    with pytest.raises(ValueError, match="optimizer is 'lion', expected one of adam, sgd"):
        train(optimizer="lion")
    with pytest.raises(ValueError, match=r"momentum is 0\.9, expected 0 with adam"):
        train(momentum=0.9)
    with pytest.raises(ValueError, match=r"momentum is 1\.0"):
        train(optimizer="sgd", momentum=1.0)
    with pytest.raises(ValueError, match="correction names regularizers, expected parameters that are trained"):
        train(correction={"regularizers": torch.zeros(())})
    with pytest.raises(ValueError, match=r"correction of consistency\.0\.log_step has shape \(2,\), expected \(\)"):
        train(correction={"consistency.0.log_step": torch.zeros(2)})
    adam = train_locally(toy_network(), SAMPLES, steps=1, batch_size=1, learning_rate=1e-3).optimizer_state
    with pytest.raises(ValueError, match="does not fit parameter consistency"):
        train(optimizer="sgd", momentum=0.9, optimizer_state=adam)
    with pytest.raises(ValueError, match="of another optimizer or parameter"):
        train(optimizer="sgd", optimizer_state=adam)
    with pytest.raises(ValueError, match=r"holds step\.other, of another optimizer or parameter"):
        train(optimizer_state=adam | {"step.other": torch.zeros(())})


def test_learning_rate_schedule_ends_low() -> None:
    assert cosine_learning_rate(1.0, 0.0) == pytest.approx(1.0)
    assert cosine_learning_rate(1.0, 1.0) == pytest.approx(0.01)
    assert cosine_learning_rate(1.0, 0.3) > cosine_learning_rate(1.0, 0.6)


def test_evaluation_is_per_volume_with_fastmris_metric() -> None:
    seen = []
    scores = evaluate(ZeroFilled(), SAMPLES, on_volume=seen.append)
    assert [v.volume for v in scores.volumes] == ["volume_0", "volume_1", "volume_2"]
    assert all(v.slices == 2 for v in scores.volumes)
    assert seen[1].reference is not None
    assert scores.volumes[1].psnr == psnr(seen[1].reference, seen[1].images)
    assert scores.selection_score() == scores.mean("psnr")
    assert scores.to_json()["volumes"][0]["volume"] == "volume_0"


@pytest.mark.parametrize("reference", [True, False])
def test_scoring_holds_one_slice_at_a_time_not_a_volume(reference: bool) -> None:
    alive: weakref.WeakSet[Sample] = weakref.WeakSet()
    most = 0

    class Read:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> Sample:
            nonlocal most
            meta = (replace(SAMPLES[0].meta[0], slice=index),)
            sample = replace(SAMPLES[0], meta=meta, reference=SAMPLES[0].reference if reference else None)
            alive.add(sample)
            most = max(most, len(alive))
            return sample

    seen = []
    scores = evaluate(ZeroFilled(), Read(), on_volume=seen.append)
    assert most <= 2 and [meta.slice for meta in seen[0].meta] == list(range(6))  # the one before may just be dying
    assert scores.volumes[0].slices == 6 and (scores.volumes[0].psnr is not None) == reference


def test_without_a_reference_the_residual_is_in_units_of_the_noise() -> None:
    class Oracle(nn.Module):
        def forward(self, y: torch.Tensor, A: CartesianMRI) -> torch.Tensor:
            return SAMPLES[0].reference[None]  # type: ignore[index]

    blind = [replace(SAMPLES[0], reference=None)]
    perfect = evaluate(Oracle(), blind)
    assert perfect.mean("residual") == pytest.approx(1.0, abs=0.15)
    assert perfect.mean("psnr") is None
    poor = evaluate(ZeroFilled(), blind)
    assert poor.mean("residual") > 1.5  # type: ignore[operator]
    assert poor.selection_score() < perfect.selection_score()  # type: ignore[operator]
    assert "psnr" not in perfect.to_json()


def test_a_fully_sampled_volume_does_not_select() -> None:
    """Above 100 dB only rounding changes; it outweighed 1 dB of another volume, and infinity hid it."""
    rounds = [(30.0, 150.0), (31.0, 110.0), (32.0, math.inf), (33.0, math.inf)]
    scores = [
        SiteScores((VolumeScore("a", 1, psnr=few), VolumeScore("b", 1, psnr=full))).selection_score()
        for few, full in rounds
    ]
    assert scores == [65.0, 65.5, 66.0, 66.5]


def test_an_empty_volume_has_no_made_up_score() -> None:
    empty = replace(
        SAMPLES[0],
        reference=torch.zeros_like(SAMPLES[0].reference),  # type: ignore[arg-type]
        measurement=torch.zeros_like(SAMPLES[0].measurement),
    )
    scores = evaluate(toy_network(), [empty])
    assert scores == SiteScores((VolumeScore("volume_0", 1),))
    assert scores.selection_score() is None


def test_tuning_takes_the_best_weight() -> None:
    scores = {10.0: -11.0, 20.0: -1.0, 30.0: float("nan")}
    assert tune(lambda weight: weight * 10, [1.0, 2.0, 3.0], scores.__getitem__) == (20.0, 2.0)
    with pytest.raises(ValueError, match="no weights"):
        tune(lambda weight: weight, [], float)
