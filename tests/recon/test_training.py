"""The training loop learns, is deterministic, and resumes; evaluation scores what it should."""

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
    evaluate,
    psnr,
    tune,
)
from recon.training import cosine_learning_rate, train_locally

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
    assert result.n_samples == 60


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
    method, best, scores = tune(lambda weight: weight * 10, [1.0, 2.0, 3.0], lambda m: -abs(m - 21))
    assert (method, best) == (20.0, 2.0)
    assert scores == [-11, -1, -9]
    with pytest.raises(ValueError, match="no weights"):
        tune(lambda weight: weight, [], float)
