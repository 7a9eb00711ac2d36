"""A deployed federation without Flower: a server and three sites in this process, signed messages between them."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from federation import Recipe, load_recipe, run_rounds
from federation.deploy.approval import Approval
from federation.deploy.audit_log import SERVER, AuditLog, read_log
from federation.deploy.change_bounds import UpdateBounds
from federation.deploy.keys import PublicKey, SigningKey, create_authority
from federation.deploy.signed_message import SignedMessage
from federation.deploy.signed_transport import SignedTransport
from federation.deploy.site_folder import SiteFolder
from federation.deploy.site_service import SiteService
from federation.deploy.summed_site import roster_entry
from federation.experiment.train import algorithm_of, initial_state
from federation.recipes import PrivacySection, masked_sum_of
from federation.recipes.frozen_base import detach_base
from federation.recipes.recipe_library import LIBRARY
from federation.serialization import pack, unpack

BUNDLE = b"the app"
NAMES = ("north", "south", "west")


@dataclass
class Direct:
    """A channel to sites in this process that keeps all that travels, and may meddle with it."""

    answers: Mapping[str, Callable[[bytes], bytes]]
    meddle: Callable[[str, bytes], bytes | Exception] = lambda site, answer: answer
    travelled: list[bytes] = field(default_factory=list)

    def reachable(self) -> list[str]:
        return sorted(self.answers)

    def send(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Exception]]:
        for site, message in messages.items():
            answer = self.meddle(site, self.answers[site](message))
            self.travelled += [message, answer if isinstance(answer, bytes) else b""]
            yield site, answer


@dataclass
class Deployed:
    """A server and sites that approved a recipe."""

    path: Path
    recipe: Recipe
    folders: dict[str, SiteFolder]
    run: str
    channel: Direct

    def transport(self, **changes: object) -> SignedTransport:
        keys = {name: PublicKey.read(folder.path / "site.key.pub") for name, folder in self.folders.items()}
        arguments = {
            "run": self.run,
            "key": SigningKey.read(self.path / "server" / "key"),
            "sites_by_name": keys,
            "channel": self.channel,
            "audit": self.audit,
            "max_bytes": 10**6,
        }
        return SignedTransport(**{**arguments, **changes})  # type: ignore[arg-type]

    @property
    def audit(self) -> AuditLog:
        return AuditLog(self.path / "server" / "audit.jsonl", SERVER)

    def train(
        self,
        name: str = "run",
        *,
        quorum: int | None = None,
        resume: bool = False,
        check: UpdateBounds | None = None,
        maximum_share: float = 1.0,
        **changes: object,
    ) -> str:
        shared, aux = initial_state(self.recipe)
        rounds, folder = self.recipe.federation.rounds, self.path / name
        transport = self.transport(**changes)
        return run_rounds(
            algorithm_of(self.recipe),
            transport,
            shared,
            folder,
            rounds=rounds,
            patience=self.recipe.training.patience,
            aux=aux,
            quorum=quorum,
            resume=resume,
            check=check,
            maximum_share=maximum_share,
            secure=masked_sum_of(self.recipe, self.run),
        ).state.digest

    def events(self, site: str) -> list[str]:
        return [entry.event for entry in read_log(self.folders[site].audit.path)]

    def refusals(self, site: str) -> list[str]:
        log = read_log(self.folders[site].audit.path)
        return [f"{e.facts['reason']}: {e.facts['detail']}" for e in log if "refused" in e.event]

    def set_policy(self, site: str, **changes: object) -> None:
        path = self.folders[site].path / "policy.toml"
        path.write_text(tomli_w.dumps(tomllib.loads(path.read_text()) | changes))


def deploy(path: Path, data: Path, *overrides: str, method: str = "fedavg") -> Deployed:
    torch.set_num_threads(1)
    chosen = ("network.cascades=2", "network.regularizer=cnn", "network.channels=4", "network.depth=2",
              "federation.rounds=2", "training.steps_per_round=4", "evaluation.arms=[]", *overrides)  # fmt: skip
    own = load_recipe(LIBRARY / f"{method}.toml", chosen)
    recipe, base = detach_base(own)
    create_authority(path / "server", days=9)
    SigningKey.create(path / "server" / "key")
    approval = Approval.of(BUNDLE, recipe)
    folders = {}
    for name in NAMES:
        folders[name] = SiteFolder.create(
            path / name,
            server="localhost:1",
            authority=path / "server" / "ca.crt",
            server_key=path / "server" / "key.pub",
            data=data / f"{name}.toml",
        )
        folders[name].approvals.add(approval, recipe, base)
    deployed = Deployed(path, own, folders, approval.run, Direct({}))
    deployed.channel.answers = {name: SiteService(folder).answer for name, folder in folders.items()}
    for name in NAMES:
        deployed.set_policy(name, minimum_slices=2)
    return deployed


def with_sum(deployed: Deployed, **changes: object) -> Deployed:
    """The same sites, which approved the recipe with a secure sum of them; ``changes`` of ``[privacy]``."""
    sites: dict[str, object] = {}
    for folder in deployed.folders.values():
        sites |= tomllib.loads(roster_entry(folder))["privacy"]["sites"]
    privacy = PrivacySection.model_validate({"secure_sum": True, "sites": sites, **changes})
    recipe = deployed.recipe.model_copy(update={"privacy": privacy})
    approval = Approval.of(BUNDLE, recipe)
    for folder in deployed.folders.values():
        folder.approvals.add(approval, recipe)
    return replace(deployed, recipe=recipe, run=approval.run)


def liar(deployed: Deployed, site: str, lie: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """Let a site send, under its own signature, updates that ``lie`` has changed: header fields and tensors."""
    honest, folder = deployed.channel.answers[site], deployed.folders[site]

    def answer(request: bytes) -> bytes:
        reply = SignedMessage.from_bytes(honest(request), folder.key.public, kind="reply", site=site, max_bytes=10**9)
        if reply.reason:
            return reply.to_bytes(folder.key)
        kind = "report" if reply.round == deployed.recipe.federation.rounds else "update"
        header, tensors = unpack(reply.payload, kind=kind)
        lie(header, tensors)
        return replace(reply, payload=pack(kind, header, tensors)).to_bytes(folder.key)

    deployed.channel.answers = {**deployed.channel.answers, site: answer}


def interrupt(deployed: Deployed) -> None:
    """Start a run that is interrupted in its second round, once six messages have travelled."""

    def stops(site: str, answer: bytes) -> bytes:
        if len(deployed.channel.travelled) >= 6:
            raise KeyboardInterrupt
        return answer

    deployed.channel.meddle = stops
    with pytest.raises(KeyboardInterrupt):
        deployed.train()
    deployed.channel.meddle = lambda site, answer: answer
