"""A site's one door for a deployed federation: a sealed request in, a sealed reply out, everything on record."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from recon import DataError

from ..experiment import site_spec
from ..recipes import Recipe
from ..rounds import Site
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
from .approval import software_digest
from .audit_log import SERVER, Head, read_log
from .change_bounds import largest_change
from .policy import PolicyError
from .signed_message import Countersignature, Envelope
from .site_folder import SiteFolder

logger = logging.getLogger(__name__)

#: The most that a request may have before it is known what is due.
_LARGEST_REQUEST = 2**31


class ChangeError(Exception):
    """Parameters of the server that changed more than the site allows."""


class SiteService:
    """Answers requests at one site.

    Whatever goes wrong, the reply says it in one of a few fixed words; what exactly stands in the site's own log.

    Parameters
    ----------
    software
        :func:`software_digest` when this process began; today's by default. What is loaded is that of then.
    """

    def __init__(self, folder: SiteFolder, software: str | None = None) -> None:
        self.folder, self.software = folder, software or software_digest()

    def answer(self, data: bytes) -> bytes:
        """Open a request, do what it asks if the site agrees, and seal the reply."""
        folder = self.folder
        try:
            request = Envelope.open(
                data, folder.server_key, kind="request", site=folder.name, max_bytes=_LARGEST_REQUEST
            )
        except MessageError as error:
            folder.audit.append("request refused", bytes=len(data), reason="message", detail=str(error)[:500])
            nobody = Envelope("request", "0" * 64, folder.name, 0, 0, b"", Head(0, "0" * 64))
            return self._sealed(nobody, b"", "message")
        self._record(request, len(data))
        reason, payload = self._guarded(request)
        return self._sealed(request, payload, reason)

    def _record(self, request: Envelope, size: int) -> None:
        """Put a request on record, with the server's head and its signature of ours."""
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

    def _guarded(self, request: Envelope) -> tuple[str, bytes]:
        """Why nothing leaves, or what does."""
        try:
            return "", self._reply(request)
        except Exception as error:
            # A traceback would hold the data; so may the text, which stays here.
            logger.debug("round %d failed", request.round, exc_info=True)
            reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "error")
            text = f"{type(error).__name__}: {error}" if reason == "error" else str(error)
        self.folder.audit.append(
            "refused", run=request.run, round=request.round, reason=reason, detail=" ".join(text.split())[:500]
        )
        return reason, b""

    def _reply(self, request: Envelope) -> bytes:
        folder = self.folder
        if software_digest() != self.software:
            raise _NotApprovedError("the installed software changed since the site was started; start it again")
        try:
            recipe = folder.approvals.recipe_of(request.run)
        except DataError as error:
            raise _NotApprovedError(str(error)) from None
        policy, manifest, state = folder.policy, folder.manifest, folder.state(request.run)
        policy.check_round(request.participants, _slices(manifest, folder.maps))
        site = site_spec(manifest, recipe, state / "kept", folder.maps).build()
        policy.check_recipe(recipe, site.wire.shared, site.wire.aux)
        if len(request.payload) > largest_message({**site.wire.shared, **under("aux/", site.wire.aux)}):
            raise MessageError(f"request: its payload has {len(request.payload)} bytes, more than any broadcast")
        broadcast, rounds = site.read(request.payload), recipe.federation.rounds
        if broadcast.round != request.round or broadcast.round > rounds:
            found = f"is of round {request.round}, its broadcast of round {broadcast.round}"
            raise MessageError(f"request: {found}, expected the same and at most {rounds}")
        _check_change(state / "seen", broadcast, site.initial_shared, policy.maximum_change)
        try:
            reply = site.answer(broadcast)
        except MessageError as error:  # NaN after training
            raise _TrainingError(str(error)) from None
        if not policy.tell_scores:
            reply = _without_scores(reply)
        payload = reply.to_bytes()
        policy.check_bytes(len(payload), self._bytes_before())
        self._record_reply(request, payload, site, reply)
        return payload

    def _record_reply(self, request: Envelope, payload: bytes, site: Site, reply: SiteReport) -> None:
        """On record before it leaves: its size, its digest, and what is in it by name."""
        tensors = [*site.wire.shared, *site.wire.aux] if isinstance(reply, SiteUpdate) else []
        self.folder.audit.append(
            "reply",
            run=request.run,
            round=request.round,
            bytes=len(payload),
            sha256=hashlib.sha256(payload).hexdigest(),
            fields=reply.names(),
            tensors=sorted(tensors),
        )

    def _bytes_before(self) -> int:
        """What left so far, by the log."""
        return sum(entry.facts["bytes"] for entry in read_log(self.folder.audit.path) if entry.event == "reply")

    def _sealed(self, request: Envelope, payload: bytes, reason: str) -> bytes:
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
        return reply.seal(key)


def objection(folder: SiteFolder, run: str, recipe: Recipe) -> str:
    """Why the site's policy would refuse every round of a recipe, as far as can be told before; else an empty text."""
    try:
        policy = folder.policy
        policy.check_round(policy.minimum_participants, _slices(folder.manifest, folder.maps))
        wire = site_spec(folder.manifest, recipe, folder.state(run) / "kept", folder.maps).build().wire
        policy.check_recipe(recipe, wire.shared, wire.aux)
    except PolicyError as error:
        return str(error)
    return ""


class _TrainingError(Exception):
    """Training that has diverged."""


class _NotApprovedError(Exception):
    """What was asked for is not what the site has approved."""


#: What is told of each kind of error; of any other, "error".
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (PolicyError, "policy"),
    (ChangeError, "change"),
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


def _check_change(folder: Path, broadcast: Broadcast, initial: State, most: float) -> None:
    """Compare with the newest broadcast of an earlier round, and keep this one in its turn.

    Before the first stand the initial parameters, which the site draws itself: those of round 0 must be the same.

    Raises
    ------
    ChangeError
        Naming the tensor that changed most.
    """
    seen = load_newest(folder, at_most=broadcast.round - 1, expected=layout(broadcast.shared))
    before, rounds = (initial, broadcast.round) if seen is None else (seen.tensors, broadcast.round - seen.round)
    worst, change = largest_change(broadcast.shared, before)
    if change > most * rounds:
        raise ChangeError(
            f"maximum_change: {worst} changed by {change:.3g} of its norm in {rounds} rounds, expected at most "
            f"{most:g} a round"
        )
    save_checkpoint(folder, broadcast.round, broadcast.shared, {})
    prune(folder, [r for r in saved_rounds(folder) if r >= broadcast.round - 1])
