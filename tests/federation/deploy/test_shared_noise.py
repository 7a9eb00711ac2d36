"""Deployed sites that share the noise: masked sums have the bits of unmasked ones; what a site approves."""

from pathlib import Path

import pytest
import torch

from federation import train_run
from federation.deploy.audit_log import PRIVATE_TRAINING, read_log
from federation.deploy.private_site import forecast
from federation.deploy.site_service import objection
from federation.experiment import ReconstructionTask
from federation.methods import selected_state
from federation.privacy import PrivateSteps, epsilon_of
from federation.rounds import QuorumError, read_rows
from federation.sites import load_federation

from ..sharing import SHARED
from .deployment import NAMES, Deployed, deploy, with_sum

#: One patient at each site, so one in every step.
NOISE = {"clip": 0.5, "noise_multiplier": 2.0, "patients_per_step": 1, "shared_noise": True, "threshold": 3}


@pytest.fixture
def sharing(tmp_path: Path, data: Path) -> Deployed:
    deployed = with_sum(deploy(tmp_path, data, *SHARED), **NOISE)
    for name in NAMES:
        deployed.set_policy(name, may_share_noise=True, minimum_steps=1, epsilon_budget=100.0)
    return deployed


def fixed(shape: tuple[int, ...]) -> torch.Tensor:
    """The same noise at every call, in place of secret noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.slow
def test_masked_and_unmasked_sums_have_the_same_bits(
    sharing: Deployed, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recon.training.private_training.secret_normal", fixed)
    sharing.train()
    assert not any(sharing.refusals(name) for name in NAMES)
    train_run(sharing.recipe, load_federation(data), sharing.path / "here", jobs=1, resume=False, say=str)
    here, there = (read_rows(sharing.path / name) for name in ("here", "run"))
    digests = [[row["shared_digest_after"] for row in rows] for rows in (here, there)]
    assert digests[0] == digests[1] and len(set(digests[0])) == 2
    assert selected_state(sharing.path / "here").digest == selected_state(sharing.path / "run").digest
    made = PrivateSteps(1, 1.0, 2.0, 3)
    for name in NAMES:
        log = [entry.facts for entry in read_log(sharing.folders[name].audit.path) if entry.event == PRIVATE_TRAINING]
        assert [(fact["noise_multiplier"], fact["shared_by"]) for fact in log] == [(2.0, 3)] * 2
        assert [fact["epsilon"] for fact in log] == [epsilon_of([made] * count, 1e-5) for count in (1, 2)]


def test_a_site_shares_noise_only_if_its_policy_says_so(sharing: Deployed) -> None:
    sharing.set_policy("north", may_share_noise=False)
    text = objection(sharing.folders["north"], sharing.run, sharing.recipe)
    assert text.startswith("may_share_noise: found a recipe with privacy.shared_noise, expected one in which each site")
    with pytest.raises(QuorumError, match="policy forbids"):
        sharing.train()
    assert sharing.refusals("north")[-1].startswith("policy: may_share_noise: ")
    assert PRIVATE_TRAINING not in sharing.events("north")
    sharing.set_policy("north", may_share_noise=True)
    assert objection(sharing.folders["north"], sharing.run, sharing.recipe) == ""


def test_the_approval_says_what_it_assumes(sharing: Deployed) -> None:
    folder = sharing.folders["north"]
    task = ReconstructionTask(folder.manifest, sharing.recipe, folder.maps)
    lines = forecast(task, folder, sharing.recipe, sharing.run)
    assert any("sums over 3 sites or more have all of it" in line for line in lines)
