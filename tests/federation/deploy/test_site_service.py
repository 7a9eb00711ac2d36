"""A deployed federation without Flower: signed requests and replies between a server and its sites."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import h5py
import pytest
import tomli_w
import torch

from federation import (
    RunFolder,
    reconstruct_file,
    run_rounds,
    train_run,
)
from federation.deploy.audit_log import SERVER, heads_seen, read_log, verify_log
from federation.deploy.change_bounds import UpdateBounds
from federation.deploy.export import export_run
from federation.deploy.keys import SigningKey
from federation.deploy.site_service import objection
from federation.deploy.status import site_status
from federation.experiment.evaluate import evaluate_run
from federation.experiment.personal_stage import site_network
from federation.experiment.task import ReconstructionTask
from federation.experiment.train import algorithm_of, initial_state
from federation.methods import selected_state
from federation.recipes.frozen_base import attach_base, detach_base
from federation.rounds.loop import QuorumError
from federation.serialization import Broadcast, digest, load_checkpoint
from federation.sites import load_federation
from recon import DataError, base_name, evaluate

from .deployment import NAMES, Deployed, deploy, interrupt

PATIENT = "DOE^JOHN-4711"


def test_the_weights_are_those_of_the_run_in_process(deployed: Deployed, data: Path) -> None:
    digest = deployed.train()
    run = train_run(deployed.recipe, load_federation(data), deployed.path / "here", jobs=1, resume=False, say=str)
    assert run.path == deployed.path / "here" and len(digest) == 64
    here, there = (selected_state(deployed.path / name) for name in ("here", "run"))
    assert here.digest == there.digest and here.round == there.round > 0


@pytest.mark.fault("server killed")
@pytest.mark.slow
def test_a_run_goes_on_after_a_kill_with_the_same_bits(deployed: Deployed, data: Path, tmp_path: Path) -> None:
    undisturbed = deploy(tmp_path / "other", data).train()

    def fails_once(site: str, answer: bytes) -> bytes | Exception:
        deployed.channel.meddle = lambda site, answer: answer
        raise KeyboardInterrupt

    deployed.channel.meddle = fails_once
    with pytest.raises(KeyboardInterrupt):
        deployed.train()
    assert deployed.train(resume=True) == undisturbed


def test_both_logs_hold_what_left_and_vouch_for_each_other(deployed: Deployed) -> None:
    deployed.train()
    server_key = SigningKey.read(deployed.path / "server" / "key").public
    site_keys = {name: [folder.key.public] for name, folder in deployed.folders.items()}
    for name, folder in deployed.folders.items():
        seen = heads_seen(deployed.audit.path, name)
        verified = verify_log(folder.audit.path, name, {SERVER: [server_key]}, seen)
        assert verified.countersigned == 2 and len(seen) == 3
        replies = [entry for entry in read_log(folder.audit.path) if entry.event == "reply"]
        assert [reply.facts["round"] for reply in replies] == [0, 1, 2]
        assert all("regularizers.0" in tensor for tensor in replies[0].facts["tensors"][:1])
        assert "n_samples" in replies[0].facts["fields"]
    seen = {}
    for folder in deployed.folders.values():
        seen |= heads_seen(folder.audit.path, SERVER)
    verified = verify_log(deployed.audit.path, SERVER, site_keys, seen)
    assert verified.countersigned == 9 and len(seen) == 9
    sent = {e.facts["sha256"] for e in read_log(deployed.folders["north"].audit.path) if e.event == "reply"}
    received = {
        e.facts["sha256"] for e in read_log(deployed.audit.path) if e.event == "reply" and e.facts["site"] == "north"
    }
    assert sent == received


def test_bytes_are_little_more_than_the_numbers(tmp_path: Path, data: Path) -> None:
    deployed = deploy(tmp_path, data, "network.channels=64", "network.depth=4", "federation.rounds=1")
    deployed.train()
    numbers = sum(tensor.nbytes for tensor in selected_state(deployed.path / "run").shared.values())
    sizes = [len(message) for message in deployed.channel.travelled if len(message) > 10_000]
    assert len(sizes) >= 9 and max(sizes) <= 1.02 * numbers


# What sites refuse


def refused(deployed: Deployed, reason: str, *sites: str, **changes: object) -> list[str]:
    """The run fails with one of the few words; the site's own log says more."""
    with pytest.raises(QuorumError, match=reason) as error:
        deployed.train("refused", **changes)
    for site in sites or ("north",):
        assert f"site {site}" in str(error.value)
    return deployed.refusals((sites or ("north",))[0])


@pytest.mark.fault("unapproved bundle")
def test_a_run_that_was_not_approved_is_refused(deployed: Deployed) -> None:
    found = refused(deployed, "has not approved", *NAMES[:1], run="0" * 63 + "1")
    assert "is not approved" in found[0]


def test_another_recipe_under_the_same_name_is_refused(deployed: Deployed) -> None:
    path = deployed.folders["north"].path / "approvals" / deployed.run / "recipe.toml"
    path.write_text(path.read_text().replace("learning_rate = 0.00", "learning_rate = 0.01"))
    assert "recipe changed since the approval" in refused(deployed, "has not approved")[0]


def test_altered_software_is_refused(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.deploy.approval.software_digest", lambda: "0" * 64)
    assert "software changed since the approval" in refused(deployed, "has not approved")[0]


def test_an_approval_can_be_taken_back(deployed: Deployed) -> None:
    deployed.folders["south"].approvals.remove(deployed.run)
    refused(deployed, "has not approved", "south")
    with pytest.raises(DataError, match="is not approved"):
        deployed.folders["south"].approvals.remove(deployed.run)


@pytest.mark.parametrize(
    ("policy", "detail"),
    [
        ({"minimum_participants": 4}, "policy: minimum_participants: found 3, expected at least 4"),
        ({"minimum_slices": 3}, "policy: minimum_slices: found 2"),
        ({"minimum_steps": 5}, "policy: minimum_steps: a round may have 4"),
        ({"methods": ["levac"]}, "policy: methods: 'fedavg' is not accepted"),
        ({"private_only": True}, "policy: private_only: found a recipe without privacy.noise_multiplier"),
        ({"may_share": ["regularizers.0.*"]}, "policy: may_share: .* the first is 'regularizers.1"),
        ({"megabytes_per_round": 0.001}, "policy: megabytes_per_round"),
        ({"megabytes_in_total": 0.004}, "policy: megabytes_in_total"),
    ],
)
def test_a_policy_is_kept(deployed: Deployed, policy: dict[str, object], detail: str) -> None:
    deployed.set_policy("north", **policy)
    found = refused(deployed, "policy forbids")
    assert len(found) == 1 and re.match(detail, found[0])


def test_scores_stay_where_the_policy_says_so(deployed: Deployed) -> None:
    deployed.set_policy("north", tell_scores=False)
    deployed.train()
    rows = [json.loads(line) for line in (deployed.path / "run" / "rounds.jsonl").read_text().splitlines()]
    for row in rows:
        told = [row[key] for key in ("score_before", "score_after", "loss")]
        assert (told == [None] * 3) == (row["site"] == "north") or row["round"] == 2


def test_the_first_parameters_are_those_that_the_site_draws_itself(deployed: Deployed) -> None:
    """A crafted model cannot be sent as the first one either, nor in a round that the recipe does not have."""
    shared, _ = initial_state(deployed.recipe)
    crafted = {name: tensor + 1e-3 for name, tensor in shared.items()}
    with pytest.raises(QuorumError, match="site north: the parameters changed more than the site allows"):
        run_rounds(algorithm_of(deployed.recipe), deployed.transport(), crafted, deployed.path / "crafted", rounds=1)
    assert "since the initial ones, expected at most 0" in deployed.refusals("north")[0]
    late = {name: Broadcast(3, name, shared, digest(shared)).to_bytes() for name in NAMES}
    found = dict(deployed.transport().exchange(late))
    assert "not what the site expects" in str(found["north"])
    assert "expected the same and at most 2" in deployed.refusals("north")[-1]


@pytest.mark.fault("broadcast beyond bounds")
def test_parameters_that_jump_are_refused(deployed: Deployed) -> None:
    deployed.set_policy("north", maximum_change=1e-6)
    assert "change: maximum_change: regularizers" in refused(deployed, "changed more than the site allows")[0]


def test_a_message_of_a_stranger_gets_no_answer_of_use(deployed: Deployed, tmp_path: Path) -> None:
    stranger = SigningKey.create(tmp_path / "stranger")
    found = refused(deployed, "not what the site expects", key=stranger)
    assert "signature is not by the expected sender" in found[0]
    assert not (deployed.folders["north"].path / "state").exists()


def test_a_stolen_key_of_the_server_is_refused_once_the_site_trusts_another(deployed: Deployed) -> None:
    """The run then goes on with the new key, and the log can be verified with both."""
    stolen = SigningKey.read(deployed.path / "server" / "key")

    interrupt(deployed)
    key = SigningKey.create(deployed.path / "server" / "new")
    for folder in deployed.folders.values():
        folder.trust(key.public)
    with pytest.raises(QuorumError, match="not what the site expects"):
        deployed.train(resume=True, key=stolen)
    assert "signature is not by the expected sender" in deployed.refusals("north")[-1]
    deployed.train(resume=True, key=key)
    log = deployed.folders["north"].audit.path
    assert verify_log(log, "north", {SERVER: [stolen.public, key.public]}).countersigned >= 2
    with pytest.raises(DataError, match="signature of 'server' is invalid"):
        verify_log(log, "north", {SERVER: [stolen.public]})


# What the server refuses


@pytest.mark.fault("stale, foreign or second reply")
def test_answers_that_another_site_sealed_are_refused(deployed: Deployed) -> None:
    south = deployed.channel.answers["south"]
    deployed.channel.answers = {**deployed.channel.answers, "north": south}
    with pytest.raises(QuorumError, match="site north: reply: the signature is not by the expected sender"):
        deployed.train("refused")
    assert refused_replies(deployed) == [("north", 0)]


def refused_replies(deployed: Deployed) -> list[tuple[str, int]]:
    """Site and round of every reply that the server's log says was refused."""
    log = read_log(deployed.audit.path)
    return [(entry.facts["site"], entry.facts["round"]) for entry in log if entry.event == "reply refused"]


@pytest.mark.fault("stale, foreign or second reply")
def test_answers_of_an_earlier_round_are_refused(deployed: Deployed) -> None:
    first: dict[str, bytes] = {}

    def replay(site: str, answer: bytes) -> bytes:
        return first.setdefault(site, answer) if site == "north" else answer

    deployed.channel.meddle = replay
    with pytest.raises(QuorumError, match="round 1: site north: reply: is of round 0, expected one of round 1"):
        deployed.train("refused")
    assert refused_replies(deployed) == [("north", 1)]


@pytest.mark.fault("truncated message")
def test_a_faulty_site_is_left_out_while_the_quorum_holds(deployed: Deployed) -> None:
    deployed.channel.meddle = lambda site, answer: answer[:-1] if site == "south" else answer
    deployed.train(quorum=2)
    rows = [json.loads(line) for line in (deployed.path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert {row["site"] for row in rows} == {"north", "west"}


@pytest.mark.fault("oversized message")
def test_an_oversized_answer_is_refused(deployed: Deployed) -> None:
    with pytest.raises(QuorumError, match="expected at most 100"):
        deployed.train("refused", max_bytes=100)


@pytest.mark.fault("update beyond bounds")
@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (UpdateBounds(1e-6, 100), r"update: regularizers.* changed by .* of its norm, expected at most 1e-06"),
        (UpdateBounds(10, 1), "update: n_samples is 2, expected at most 1"),
    ],
)
def test_updates_beyond_the_servers_bounds_are_refused(deployed: Deployed, bounds: UpdateBounds, reason: str) -> None:
    with pytest.raises(QuorumError, match=f"site north: {reason}"):
        deployed.train("refused", check=bounds)
    deployed.train("accepted", check=UpdateBounds(10, 2))


# What a site takes home


@pytest.mark.slow
def test_a_site_takes_home_a_run_folder_that_reconstructs(deployed: Deployed, data: Path, tmp_path: Path) -> None:
    deployed.train()
    folder = deployed.folders["north"]
    run = export_run(folder, deployed.run, tmp_path / "home", say=str)
    last = load_checkpoint(deployed.path / "run" / "checkpoints", deployed.recipe.federation.rounds)
    assert digest(run.selected().shared) == digest(last.tensors)
    here = train_run(deployed.recipe, load_federation(data), tmp_path / "here", jobs=1, resume=False, say=str)
    scan = folder.manifest.files("test")[0]
    shape, scores = reconstruct_file(run.path, "north", scan, tmp_path / "out.h5", simulate=True)
    manifest = here.manifest("north")
    network = here.spec(manifest).build().network_at(last.tensors, deployed.recipe.federation.rounds)
    expected = evaluate(network, manifest.samples([scan], degraded=True))
    assert shape == (2, 24, 24) and scores.volumes[0].psnr == expected.volumes[0].psnr
    with pytest.raises(DataError, match="is not empty"):
        export_run(folder, deployed.run, tmp_path / "home", say=str)
    with pytest.raises(DataError, match="has sent no parameters of run"):
        export_run(folder, "0" * 64, tmp_path / "other", say=str)


@pytest.mark.slow
def test_an_exported_run_is_scored_without_the_local_arm_that_its_site_never_trained(
    data: Path, tmp_path: Path
) -> None:
    deployed = deploy(tmp_path, data, "evaluation.arms=['zero_filled', 'local']")
    deployed.train()
    run, said = export_run(deployed.folders["north"], deployed.run, tmp_path / "home", say=str), []
    results = evaluate_run(run.path, jobs=1, say=said.append)
    assert list(results["arms"]) == ["zero_filled", deployed.recipe.name] and results["bytes"] == {}
    assert "not in the tables, as a deployed site does not train alone: local" in said
    assert "as the server sent it" in results["metric_card"]["selection"]
    page = (run.path / "report.html").read_text()
    assert deployed.recipe.name in page and "<h2>Bytes" not in page


@pytest.mark.slow
def test_a_site_takes_home_the_best_round_of_a_run_that_patience_ended(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round validates once, before training."""
    deployed = deploy(tmp_path, data, "federation.rounds=6", "training.patience=2")
    before = {name: iter([1.0, 2.0, 5.0, 4.0, 3.0]) for name in NAMES}

    def scripted(task: ReconstructionTask, network: object) -> float:
        return next(before[task.manifest.name])

    with monkeypatch.context() as patch:
        patch.setattr(ReconstructionTask, "validate", scripted)
        deployed.train()
    assert all(next(left, None) is None for left in before.values())
    said: list[str] = []
    run = export_run(deployed.folders["north"], deployed.run, tmp_path / "home", say=said.append)
    assert said == ["the server sent 5 rounds; round 2 is the best by its validation scores"]
    best = load_checkpoint(deployed.path / "run" / "checkpoints", 2)
    assert run.selected().round == 2 and digest(run.selected().shared) == digest(best.tensors)
    kept = run.spec(run.manifest("north")).build().network_at(run.selected().shared, 2)
    there = deployed.folders["north"].state(deployed.run) / "kept"
    names = {f"kept.{name}": tensor for name, tensor in kept.named_parameters()}
    stored = load_checkpoint(there, 2).tensors
    assert all(names[name].equal(tensor) for name, tensor in stored.items() if name.startswith("kept."))


@pytest.mark.slow
def test_the_personal_stage_is_run_where_a_site_takes_the_run_home(data: Path, tmp_path: Path) -> None:
    deployed = deploy(tmp_path, data, "personal.steps=4", "personal.learning_rate=5e-3")
    deployed.train()
    said: list[str] = []
    run = export_run(deployed.folders["north"], deployed.run, tmp_path / "home", say=said.append)
    manifest, state = run.manifest("north"), run.selected()
    shared = dict(run.spec(manifest).build().network_at(state.shared, state.round).named_parameters())
    own = dict(site_network(run, manifest).named_parameters())
    assert said[0] == "4 personal steps ..." and " dB -> " in said[1]
    assert any(not torch.equal(own[name], shared[name]) for name in shared)


def test_an_export_that_is_interrupted_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = deploy(tmp_path, data, "personal.steps=4")
    deployed.train()

    def interrupted(job: object) -> None:  # no signal: processes in the background may be told to ignore it
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("federation.deploy.export.personalize", interrupted)
        export_run(deployed.folders["north"], deployed.run, tmp_path / "home", say=str)
    assert list(tmp_path.glob("*home*")) == []
    assert export_run(deployed.folders["north"], deployed.run, tmp_path / "home", say=str).path == tmp_path / "home"


def test_a_recipe_that_travelled_names_its_base_by_digest_and_has_adapters(data: Path, tmp_path: Path) -> None:
    first = deploy(tmp_path / "base", data, "training.steps_per_round=2").recipe
    train_run(first, load_federation(data), tmp_path / "trained", jobs=1, resume=False, say=str)
    named = {"base": str(tmp_path / "trained")}
    whole = first.model_copy(update={"network": first.network.model_copy(update=named)})
    scales = whole.model_copy(update={"network": whole.network.model_copy(update={"adapter": "scale"})})
    sent, content = detach_base(scales)
    (tmp_path / "b").write_bytes(content or b"")
    assert attach_base(sent, tmp_path / "b").network.base == str(tmp_path / "b")
    with pytest.raises(DataError, match=r"found .*trained, expected sha256: and 64 digits; do not approve it"):
        attach_base(scales, tmp_path / "b")
    for refused_at in (lambda: detach_base(whole), lambda: attach_base(whole, tmp_path / "b")):
        with pytest.raises(DataError, match="found a base without an adapter"):
            refused_at()


@pytest.mark.slow
def test_adapters_travel_alone_and_their_base_is_the_one_that_was_approved(data: Path, tmp_path: Path) -> None:
    first = deploy(tmp_path / "base", data, "training.steps_per_round=2").recipe
    sites = load_federation(data)
    train_run(first, sites, tmp_path / "trained", jobs=1, resume=False, say=str)
    deployed = deploy(tmp_path / "on", data, f"network.base={str(tmp_path / 'trained')!r}", method="fed_scales")
    deployed.train()
    train_run(deployed.recipe, sites, tmp_path / "here", jobs=1, resume=False, say=str)
    assert selected_state(tmp_path / "here").digest == selected_state(deployed.path / "run").digest
    assert all("scale" in name for name in selected_state(tmp_path / "here").shared)
    folder = deployed.folders["north"]
    assert objection(folder, deployed.run, folder.approvals.recipe_of(deployed.run)) == ""
    frozen = selected_state(tmp_path / "trained").shared
    shutil.rmtree(tmp_path / "trained")  # the site has its own copy
    export_run(folder, deployed.run, tmp_path / "home", say=str)
    (tmp_path / "home").rename(tmp_path / "moved")
    run = RunFolder.open(tmp_path / "moved")
    own = dict(site_network(run, run.manifest("north")).named_parameters())
    assert all(torch.equal(own[next(n for n in own if base_name(n) == name)], frozen[name]) for name in frozen)
    base = folder.approvals.base(deployed.run)
    base.write_bytes(base.read_bytes()[:-1] + b"x")
    deployed.recipe = run.recipe  # the server still has its base
    assert "bundle.base: its SHA-256 is" in refused(deployed, "has not approved")[0]
    base.unlink()
    with pytest.raises(DataError, match="the recipe needs it, it comes with the bundle"):
        folder.approvals.recipe_of(deployed.run)


def test_what_the_policy_will_refuse_is_told_before(deployed: Deployed) -> None:
    folder = deployed.folders["north"]
    assert objection(folder, deployed.run, deployed.recipe) == ""
    deployed.set_policy("north", minimum_slices=3)
    assert objection(folder, deployed.run, deployed.recipe) == "minimum_slices: found 2, expected at least 3"
    deployed.set_policy("north", minimum_slices=2, may_share=["none.*"])
    assert "may_share" in objection(folder, deployed.run, deployed.recipe)


def test_the_status_of_a_site_says_what_it_refused_and_why(deployed: Deployed) -> None:
    deployed.set_policy("north", minimum_slices=3)
    with pytest.raises(QuorumError):
        deployed.train()
    audit = deployed.folders["north"].audit
    audit.append("bundle refused", bundle="5" * 64, bytes="64")
    audit.append("self-test passed")
    audit.append("bundle refused", bundle="7" * 64, bytes="70")
    lines = list(site_status(deployed.folders["north"]))
    assert "2 requests refused" in lines[-3]
    assert lines[-2].endswith("policy: minimum_slices: found 2, expected at least 3")
    assert lines[-1].endswith(f"bundle {'7' * 16}: is not approved")


# Nothing of the data leaves


@pytest.mark.fault("exception at a site")
def test_no_patient_name_leaves_in_files_headers_or_errors(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name stands in a file's name, in its header and in an exception; every byte that left is searched."""
    folder = tmp_path / "data" / PATIENT
    folder.mkdir(parents=True)
    for name in NAMES:
        table = tomllib.loads((data / f"{name}.toml").read_text())
        root = data / table["data"]["root"]
        if name == "north":
            for split in ("train", "validation", "test"):
                for file in table["data"][split]:
                    (folder / f"{PATIENT}_{file}").write_bytes((root / file).read_bytes())
                    with h5py.File(folder / f"{PATIENT}_{file}", "r+") as volume:
                        volume.attrs["patient_id"] = f"{PATIENT}_{file}"
                table["data"][split] = [f"{PATIENT}_{file}" for file in table["data"][split]]
            root = folder
        table["data"]["root"] = str(root)
        (tmp_path / "data" / f"{name}.toml").write_text(tomli_w.dumps(table))
    deployed = deploy(tmp_path / "deployed", tmp_path / "data")
    assert PATIENT in str(deployed.folders["north"].manifest.files("train")[0])

    def broken(*arguments: object, **more: object) -> None:
        raise RuntimeError(f"cannot read {folder}/{PATIENT}.h5")

    with monkeypatch.context() as patch, pytest.raises(QuorumError, match="site north: an error at the site"):
        patch.setattr("federation.experiment.task.train_locally", broken)
        deployed.train("broken")
    deployed.train()
    assert any(PATIENT in line for line in deployed.refusals("north"))
    everything = b"".join(deployed.channel.travelled) + deployed.audit.path.read_bytes()
    assert len(everything) > 50_000
    for word in (PATIENT, "DOE^", "JOHN-", str(folder)):  # words that no digest holds by chance
        assert word.encode() not in everything
