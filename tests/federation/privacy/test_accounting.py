"""Epsilon is that of the accountant, on published settings; the record of a site's private steps."""

import builtins
import math

import pytest

from federation.privacy import Ledger, PrivateSteps, epsilon_of
from recon import DataError

#: Sampling probability, noise, steps, and the epsilon that was published for delta 1e-5: the MNIST tutorial of
#: TensorFlow Privacy (tutorials/README.md: 60000 images, batches of 256, 15, 60 and 45 epochs), and Abadi et al., Deep
#: learning with differential privacy, 2016, sec. 3.2. All are by moments (RDP), which is less tight.
PUBLISHED = [
    pytest.param(0.01, 4.0, 10_000, 1.26, id="abadi"),
    pytest.param(256 / 60_000, 1.3, 15 * 60_000 // 256, 1.19, id="mnist-15", marks=pytest.mark.slow),
    pytest.param(256 / 60_000, 1.1, 60 * 60_000 // 256, 3.01, id="mnist-60", marks=pytest.mark.slow),
    pytest.param(256 / 60_000, 0.7, 45 * 60_000 // 256, 7.10, id="mnist-45", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("probability", "noise", "steps", "published"), PUBLISHED)
def test_epsilon_is_that_of_the_accountant_on_published_settings(
    probability: float, noise: float, steps: int, published: float
) -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
    from dp_accounting.rdp import RdpAccountant

    found = epsilon_of([PrivateSteps(steps, probability, noise)], 1e-5)
    own = from_gaussian_mechanism(noise, sampling_prob=probability).self_compose(steps)
    assert found == pytest.approx(own.get_epsilon_for_delta(1e-5), rel=1e-9)
    # The published figure, by the bound of its time: that is the setting.
    moments = RdpAccountant(range(2, 257))
    moments.compose(SelfComposedDpEvent(PoissonSampledDpEvent(probability, GaussianDpEvent(noise)), steps))
    curve = zip(moments._orders, moments._rdp, strict=True)
    bound = min(rdp + math.log(1e5) / (order - 1) for order, rdp in curve)
    assert bound == pytest.approx(published, rel=0.005)
    assert 0.7 * published < found < published


@pytest.mark.slow
def test_a_coarse_grid_is_an_upper_bound_near_the_fine_one() -> None:
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    found = epsilon_of([PrivateSteps(240, 0.125, 1.0)], 1 / 160)
    own = from_gaussian_mechanism(1.0, sampling_prob=0.125).self_compose(240).get_epsilon_for_delta(1 / 160)
    assert own <= found <= own * 1.0001


def test_parts_add_up_whatever_their_order() -> None:
    parts = [PrivateSteps(3, 0.25, 1.0), PrivateSteps(2, 0.1, 2.0), PrivateSteps(0, 0.9, 0.3)]
    found = epsilon_of(parts, 1e-5)
    assert found == epsilon_of(parts[::-1], 1e-5)
    assert found == epsilon_of([PrivateSteps(1, 0.25, 1.0), *parts[1:], PrivateSteps(2, 0.25, 1.0)], 1e-5)
    assert found > epsilon_of(parts[:1], 1e-5) > 0
    assert epsilon_of([], 1e-5) == epsilon_of(parts[2:], 1e-5) == 0


def test_an_epsilon_that_protects_nothing_is_computed_in_a_moment() -> None:
    assert epsilon_of([PrivateSteps(10_000, 1.0, 0.3)], 1e-5) > 50_000


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_that_means_nothing_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta is"):
        epsilon_of([PrivateSteps(1, 0.5, 1.0)], delta)


@pytest.mark.parametrize("values", [(-1, 0.5, 1.0), (1, 0.0, 1.0), (1, 1.1, 1.0), (1, 0.5, 0.0), (1, 0.5, math.inf)])
def test_steps_that_cannot_be_are_refused(values: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="PrivateSteps: found"):
        PrivateSteps(*values)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.startswith("dp_accounting"):
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"dp-accounting, expected it .* pip install 'fedrecon\[privacy\]'$"):
        epsilon_of([PrivateSteps(1, 0.5, 1.2345)], 1e-5)  # of no other test: results are kept


def test_the_ledger_counts_a_repeated_round_again(tmp_path) -> None:
    ledger = Ledger(tmp_path / "privacy.json")
    assert ledger.spent() == []
    steps = PrivateSteps(4, 0.25, 1.5, patients=16)
    for round in (0, 1, 1):
        ledger.spend(round, steps)
    assert Ledger(tmp_path / "privacy.json").spent() == [steps] * 3


def test_known_parts_of_shared_noise_leave_the_rest() -> None:
    shared = PrivateSteps(4, 0.25, 1.5, shared_by=4)
    assert shared.without(0) == shared and epsilon_of([shared], 1e-5) == epsilon_of([PrivateSteps(4, 0.25, 1.5)], 1e-5)
    assert shared.without(1) == PrivateSteps(4, 0.25, 1.5 * math.sqrt(3 / 4), shared_by=3)
    assert shared.without(1).without(2) == shared.without(3) == PrivateSteps(4, 0.25, 0.75)
    for sites in (-1, 4):
        with pytest.raises(ValueError, match=f"{sites} of 4 sites are known, expected fewer"):
            shared.without(sites)
    with pytest.raises(ValueError, match="sites of 1 or more"):
        PrivateSteps(4, 0.25, 1.5, shared_by=0)


def test_the_ledger_knows_who_shared_and_reads_older_records(tmp_path) -> None:
    ledger, shared = Ledger(tmp_path / "privacy.json"), PrivateSteps(4, 0.25, 1.5, shared_by=3)
    ledger.path.write_text('[{"round": 0, "steps": 4, "probability": 0.25, "noise_multiplier": 1.5}]')
    ledger.spend(1, shared)
    assert ledger.spent() == [PrivateSteps(4, 0.25, 1.5), shared]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[1]", b"{}", b'[{"steps": 1, "probability": 2, "noise_multiplier": 1}]',
        b'[{"steps": 1, "probability": 1, "noise_multiplier": 1, "patients": 0}]',
    ],
)  # fmt: skip
def test_a_damaged_ledger_is_one_line_and_not_zero(tmp_path, content: bytes) -> None:
    (tmp_path / "privacy.json").write_bytes(content)
    with pytest.raises(DataError, match="found no list of private steps, expected one; restore the newest"):
        Ledger(tmp_path / "privacy.json").spent()


@pytest.mark.parametrize("kept", [0, 1])
def test_an_older_copy_of_the_ledger_is_refused(tmp_path, kept: int) -> None:
    ledger = Ledger(tmp_path / "privacy.json")
    ledger.path.write_bytes(b"[]")
    for round in range(kept):
        ledger.spend(round, PrivateSteps(4, 0.25, 1.5))
    ledger.require(range(kept))
    with pytest.raises(DataError, match=f"privacy.json: found no private steps of round {kept}, expected all"):
        ledger.require([0, 1])
