"""Answers of a site to a deployed federation: signed request in, signed reply out, both recorded."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import torch

from recon import DataError

from ..experiment import ReconstructionTask
from ..privacy import MASKED, REVEAL, Envelope
from ..recipes import Recipe
from ..rounds import SiteSpec
from ..rounds.masked_site import report_alone
from ..serialization import (
    Broadcast,
    MessageError,
    SiteReport,
    SiteUpdate,
    State,
    largest_message,
    layout,
    load_newest,
    prune,
    save_checkpoint,
    saved_rounds,
    under,
)
from ..sites import SiteManifest
from .answered_rounds import AnsweredRounds, RepeatError
from .approval import software_digest
from .audit_log import SERVER, Head, read_log
from .change_bounds import AUX_FLOOR, FLOOR, largest_change
from .policy import Policy, PolicyError
from .private_site import charge, require_budget
from .signed_message import Countersignature, SignedMessage
from .site_folder import SiteFolder
from .summed_site import deployed_spec, is_of_attempt, masked_request

logger = logging.getLogger(__name__)

#: Largest size of a request, before the exact limit of its run is known.
_LARGEST_REQUEST = 2**31


class ChangeError(Exception):
    """Parameters from the server changed more than the site's policy allows."""


class SiteService:
    """Answers requests at one site.

    The reply to a refused request holds one of a few fixed reasons; the site's own log holds the details.

    Parameters
    ----------
    software
        :func:`software_digest` at the start of this process, i.e. of the loaded code; by default the current one.
    """

    def __init__(self, folder: SiteFolder, software: str | None = None) -> None:
        self.folder, self.software = folder, software or software_digest()

    def answer(self, data: bytes) -> bytes:
        """The signed reply to a request, after checks of signature, approval and policy."""
        folder = self.folder
        try:
            request = SignedMessage.from_bytes(
                data, folder.server_key, kind="request", site=folder.name, max_bytes=_LARGEST_REQUEST
            )
        except MessageError as error:
            folder.audit.append("request refused", bytes=len(data), reason="message", detail=str(error)[:500])
            unknown = SignedMessage("request", "0" * 64, folder.name, 0, 0, b"", Head(0, "0" * 64))
            return self._signed(unknown, b"", "message")
        self._record(request, len(data))
        reason, payload = self._reason_or_reply(request)
        return self._signed(request, payload, reason)

    def _record(self, request: SignedMessage, size: int) -> None:
        """Record a request, the head of the server's log, and the server's signature of our head."""
        audit = self.folder.audit
        audit.append(
            "request",
            run=request.run,
            round=request.round,
            participants=request.participants,
            bytes=size,
            sha256=hashlib.sha256(request.payload).hexdigest(),
            heads={SERVER: [request.head.count, request.head.hash]},
        )
        if (signed := request.countersigned) is not None:
            audit.countersign(SERVER, self.folder.server_key, signed.head, signed.signature)

    def _reason_or_reply(self, request: SignedMessage) -> tuple[str, bytes]:
        """Reason of a refusal and no bytes, or an empty text and the reply."""
        try:
            return "", self._reply(request)
        except Exception as error:
            # Traceback and text may hold data of patients: they stay at the site.
            logger.debug("round %d failed", request.round, exc_info=True)
            reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "error")
            text = f"{type(error).__name__}: {error}" if reason == "error" else str(error)
        self.folder.audit.append(
            "refused", run=request.run, round=request.round, reason=reason, detail=" ".join(text.split())[:500]
        )
        return reason, b""

    def _reply(self, request: SignedMessage) -> bytes:
        folder = self.folder
        if software_digest() != self.software:
            raise _NotApprovedError("the installed software changed since the start of the site; start it again")
        try:
            recipe = folder.approvals.recipe_of(request.run)
        except DataError as error:
            raise _NotApprovedError(str(error)) from None
        policy, manifest, state = folder.policy, folder.manifest, folder.state(request.run)
        spec = deployed_spec(folder, request.run, recipe)
        rounds, asked = recipe.federation.rounds, None
        if spec.secure is not None:
            asked = masked_request(request.payload, request.round, recipe.federation.rounds)
        participants = request.participants if asked is None else asked.participants
        least = policy.minimum_participants
        policy.check_round(least if participants is None else participants, _slices(manifest, folder.maps))
        if asked is not None and asked.kind != MASKED:
            return self._exchanged(request, spec, asked)
        site = spec.build()
        policy.check_recipe(recipe, site.wire.shared, site.wire.aux)
        if len(request.payload) > largest_message({**site.wire.shared, **under("aux/", site.wire.aux)}):
            raise MessageError(f"request: its payload has {len(request.payload)} bytes, more than any broadcast")
        answered, data = AnsweredRounds(state / "answers"), request.payload if asked is None else asked.body
        stored = answered.reply_to(request.round, data)
        if stored is not None and (asked is None or is_of_attempt(stored, asked)):
            self._record_reply("reply repeated", request, stored)
            return stored
        broadcast = site.read(data)
        if broadcast.round != request.round or broadcast.round > rounds:
            found = f"is of round {request.round}, its broadcast of round {broadcast.round}"
            raise MessageError(f"request: {found}, expected the same and at most {rounds}")
        if broadcast.evaluate_only != (broadcast.round == rounds):
            found = f"round {broadcast.round} {'only scores' if broadcast.evaluate_only else 'trains'}"
            raise MessageError(f"request: {found}, expected training in rounds 0 to {rounds - 1}, then a score")
        if spec.secure is not None and asked is None:
            spec.masked().require_masks(data)
        if asked is not None and (payload := spec.masked().refusal(asked)):
            self._record_reply("reply", request, payload, fields=["wrong offers"], tensors=[])
            return payload
        answered.check_accepted(broadcast)
        _check_change(state / "seen", broadcast, site.initial_shared, policy)
        if spec.delta is not None and not broadcast.evaluate_only:
            steps = site.task.private_steps(spec.steps_in(broadcast.round))
            charge(folder, request.run, broadcast.round, steps)
        try:
            reply = site.answer(broadcast)
        except MessageError as error:  # parameters are not finite after training
            raise _TrainingError(str(error)) from None
        if not policy.tell_scores:
            reply = _without_scores(reply)
        if spec.secure is not None and asked is None:
            report_alone(reply)  # raises if it is an update
            spec.masked().protocol.files.forget()  # no sum comes after the last scores
        payload = reply.to_bytes() if asked is None else spec.masked().update(asked, reply)
        policy.check_bytes(len(payload), self._bytes_before())
        tensors = [*site.wire.shared, *site.wire.aux] if isinstance(reply, SiteUpdate) else []
        self._record_reply("reply", request, payload, fields=reply.names(), tensors=sorted(tensors))
        answered.add(broadcast, data, payload)
        return payload

    def _exchanged(self, request: SignedMessage, spec: SiteSpec, asked: Envelope) -> bytes:
        """Reply to a request for an offer or for shares; the sites in a sum are recorded before the shares leave."""
        payload = spec.masked().secrets(asked)
        self.folder.policy.check_bytes(len(payload), self._bytes_before())
        if asked.kind == REVEAL:
            self.folder.audit.append("sum unmasked", run=request.run, round=request.round, sites=list(asked.survivors))
        self._record_reply("reply", request, payload, fields=[asked.kind], tensors=[])
        return payload

    def _record_reply(self, event: str, request: SignedMessage, payload: bytes, **names: list[str]) -> None:
        """Record a reply before it leaves: size and digest, the names of its fields and tensors."""
        self.folder.audit.append(
            event,
            run=request.run,
            round=request.round,
            bytes=len(payload),
            sha256=hashlib.sha256(payload).hexdigest(),
            **names,
        )

    def _bytes_before(self) -> int:
        """Bytes that left so far, according to the log."""
        return sum(entry.facts["bytes"] for entry in read_log(self.folder.audit.path) if entry.event == "reply")

    def _signed(self, request: SignedMessage, payload: bytes, reason: str) -> bytes:
        key = self.folder.key
        countersigned = Countersignature(request.head, key.sign(request.head.statement(SERVER)))
        reply = replace(
            request,
            kind="reply",
            payload=payload,
            reason=reason,
            head=self.folder.audit.head(),
            countersigned=countersigned,
        )
        return reply.to_bytes(key)


def objection(folder: SiteFolder, run: str, recipe: Recipe) -> str:
    """Why the site's policy would refuse each round of a recipe, as far as known before training; or an empty text."""
    try:
        policy = folder.policy
        policy.check_round(policy.minimum_participants, _slices(folder.manifest, folder.maps))
        spec = deployed_spec(folder, run, recipe)
        wire = spec.build().wire
        policy.check_recipe(recipe, wire.shared, wire.aux)
        if spec.delta is not None:
            task = ReconstructionTask(folder.manifest, recipe, folder.maps)
            require_budget(folder, task.private_steps(spec.steps_in(0)))
        if spec.secure is not None:
            listed, found = spec.secure.roster.members[folder.name].slices, _slices(folder.manifest, folder.maps)
            if listed != found:
                return f"privacy.sites: {folder.name} has {found} training slices, expected {listed} as in the roster"
    except PolicyError as error:
        return str(error)
    return ""


class _TrainingError(Exception):
    """Training diverged."""


class _NotApprovedError(Exception):
    """The request is not for an approved run and software."""


#: Reason in the reply for each class of error; "error" for all others.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (PolicyError, "policy"),
    (ChangeError, "change"),
    (RepeatError, "repeated"),
    (_TrainingError, "training"),
    (_NotApprovedError, "not approved"),
    (MessageError, "message"),
    (DataError, "data"),
)


def _slices(manifest: SiteManifest, maps: Path) -> int:
    return len(manifest.dataset("train", maps)) if manifest.data.train else 0


def _without_scores(reply: SiteReport) -> SiteReport:
    if isinstance(reply, SiteUpdate):
        return replace(reply, score_before=None, score_after=None, loss=None)
    return replace(reply, score_before=None)


def _check_change(folder: Path, broadcast: Broadcast, initial: State, policy: Policy) -> None:
    """Compare a broadcast with the newest one of an earlier round, then store it.

    The first broadcast is compared with the initial parameters, which the site draws itself: in round 0 both are equal.
    The bound does not grow with the number of the round, which is only what the server says.

    Raises
    ------
    ChangeError
        With the name of the tensor that changed most.
    """
    aux = {name: torch.zeros_like(tensor) for name, tensor in broadcast.aux.items()}
    for place, tensors, first, key, floor in (
        (folder, broadcast.shared, initial, "maximum_change", FLOOR),
        (folder / "aux", broadcast.aux, aux, "maximum_aux", AUX_FLOOR),
    ):
        seen = load_newest(place, at_most=broadcast.round - 1, expected=layout(tensors))
        since, before = ("the initial ones", first) if seen is None else (f"round {seen.round}", seen.tensors)
        most = getattr(policy, key) if broadcast.round else 0.0
        worst, change = largest_change(tensors, before, floor)
        if change > most:
            raise ChangeError(
                f"{key}: {worst} changed by {change:.3g} of its norm since {since}, expected at most {most:g}; if the "
                "site missed rounds, raise the bound in policy.toml until it has answered"
            )
    for place, tensors in ((folder, broadcast.shared), (folder / "aux", broadcast.aux)):
        if tensors:
            save_checkpoint(place, broadcast.round, tensors, {"best": broadcast.best_round})
            prune(place, [r for r in saved_rounds(place) if r >= broadcast.round - 1 or r == broadcast.best_round])
