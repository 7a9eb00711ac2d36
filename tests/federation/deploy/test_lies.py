"""A site that lies about its slices, steps, scores and control variates."""

from pathlib import Path
from typing import Any

import pytest
import torch

from federation.deploy.change_bounds import UpdateBounds
from federation.deploy.signed_message import REASONS
from federation.experiment.train import initial_state
from federation.methods import selected_state
from federation.rounds import read_rows
from federation.rounds.loop import QuorumError
from federation.serialization import Broadcast, digest, load_checkpoint

from .deployment import NAMES, Deployed, deploy, interrupt, liar

pytestmark = pytest.mark.fault("site that lies")
BOUNDS = UpdateBounds(10, 10**6, 4)


def sites_in(deployed: Deployed, name: str = "run") -> list[set[str]]:
    """The sites whose updates counted, by round, without the last one, which only scores."""
    rows = read_rows(deployed.path / name)
    return [{row["site"] for row in rows if row["round"] == r} for r in range(deployed.recipe.federation.rounds)]


@pytest.mark.slow
def test_a_million_slices_are_half_of_the_weight_and_said(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """North sends 0.5 for all parameters: the mean over the others is the rest."""
    after = {}
    for name in ("honest", "lying"):
        deployed = deploy(tmp_path / name, data, "federation.rounds=1")

        def lie(header: dict[str, Any], tensors: dict[str, Any], slices: int = 10**6 * (name == "lying")) -> None:
            if "n_samples" in header:
                header["n_samples"] = slices or header["n_samples"]
                tensors["F32"] = torch.full_like(tensors["F32"], 0.5)

        liar(deployed, "north", lie)
        for site in NAMES:
            deployed.set_policy(site, maximum_change=100.0)
        deployed.train(maximum_share=0.5, check=BOUNDS)
        tensors = load_checkpoint(deployed.path / "run" / "checkpoints", 1).tensors
        after[name] = torch.cat([tensor.flatten() for _, tensor in sorted(tensors.items())])
        assert ("site north has 100.0 % of the weight, counted as 50 %" in caplog.text) == (name == "lying")
    others = 1.5 * after["honest"] - 0.5 * 0.5
    torch.testing.assert_close(after["lying"], 0.5 * others + 0.5 * 0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_samples", 1), ("n_steps", 2**31 - 1)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("n_samples", 2**31 - 1), ("n_steps", 1))],
)
def test_numbers_that_change_or_cannot_be_are_refused(deployed: Deployed, field: str, value: int) -> None:
    """The first update fixes the slices; steps are at most those of the recipe."""

    def lie(header: dict[str, Any], tensors: dict[str, Any]) -> None:
        if header["round"] == 1 and field in header:
            header[field] = value

    liar(deployed, "north", lie)
    deployed.train(quorum=2, check=UpdateBounds(10, 2**31, 4))
    steps_may_be = field == "n_steps" and value <= 4
    assert sites_in(deployed) == [set(NAMES), set(NAMES) if steps_may_be else {"south", "west"}]


def test_the_first_number_of_slices_is_known_after_a_restart(deployed: Deployed) -> None:
    interrupt(deployed)

    def lie(header: dict[str, Any], tensors: dict[str, Any]) -> None:
        header.update({"n_samples": 7} if "n_samples" in header else {})

    liar(deployed, "north", lie)
    with pytest.raises(QuorumError, match="site north: update: n_samples is 7, expected 2 as in the first update"):
        deployed.train(resume=True)


@pytest.mark.parametrize("score", [9e11, 100.5, -1e7])
@pytest.mark.parametrize("field", ["score_before", "score_after"])
def test_scores_that_cannot_be_are_refused(deployed: Deployed, field: str, score: float) -> None:
    liar(deployed, "north", lambda header, tensors: header.update({field: score} if field in header else {}))
    with pytest.raises(QuorumError, match=rf"site north: .*{field} is .*, expected null, a PSNR of 0 to 100 dB"):
        deployed.train()


def test_control_variates_beyond_bounds_are_refused_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    deployed = deploy(tmp_path, data, method="scaffold")
    for folder in deployed.folders.values():
        deployed.set_policy(folder.name, may_tell=["control.*"])

    def lie(header: dict[str, Any], tensors: dict[str, Any]) -> None:
        if "aux/F32" in tensors:
            tensors["aux/F32"] = torch.full_like(tensors["aux/F32"], 1e30)

    liar(deployed, "north", lie)
    deployed.train(quorum=2, check=BOUNDS)
    assert sites_in(deployed) == [{"south", "west"}] * 2
    alone = deploy(tmp_path / "alone", data, method="scaffold")
    for folder in alone.folders.values():
        alone.set_policy(folder.name, may_tell=["control.*"])
    liar(alone, "north", lie)
    with pytest.raises(
        QuorumError, match=r"site north: update: control\..* beside the parameters is .* times as large"
    ):
        alone.train(check=BOUNDS)


def test_a_site_bounds_the_control_variates_of_the_server(data: Path, tmp_path: Path) -> None:
    deployed = deploy(tmp_path, data, "federation.rounds=4", method="scaffold")
    for folder in deployed.folders.values():
        deployed.set_policy(folder.name, may_tell=["control.*"])
    shared, _ = initial_state(deployed.recipe)
    controls = deployed.recipe.federation.rule().aux_layout(shared)

    def ask(round: int, size: float) -> str:
        aux = {name: torch.full_like(tensor, size) for name, tensor in controls.items()}
        requests = {name: Broadcast(round, name, shared, digest(shared), aux=aux).to_bytes() for name in NAMES}
        return str(dict(deployed.transport().exchange(requests))["north"])

    for round, size in ((0, 1e-3), (1, 1e30), (1, 11.0)):
        assert REASONS["change"] in ask(round, size)
    assert "change: maximum_aux: control." in deployed.refusals("north")[-1]
    assert REASONS["change"] not in ask(1, 0.01)
    assert REASONS["change"] in ask(2, 12.0)


@pytest.mark.slow
def test_an_honest_run_is_the_same_with_all_bounds(data: Path, tmp_path: Path) -> None:
    plain, bounded = (deploy(tmp_path / name, data, method="scaffold") for name in ("plain", "bounded"))
    for deployed in (plain, bounded):
        for folder in deployed.folders.values():
            deployed.set_policy(folder.name, may_tell=["control.*"])
    assert plain.train() == bounded.train(check=BOUNDS, maximum_share=0.5)
    assert selected_state(plain.path / "run").digest == selected_state(bounded.path / "run").digest
