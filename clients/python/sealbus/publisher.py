"""Sending: each message until the relay's signed verdict on it is here.

What is published in the same turn of the event loop is sealed as one batch and travels as one NATS message: a burst costs one signature,
and a single message waits for nothing.
A message without verdict is sealed anew under the same nonce and sent again; the relay's ledger makes that harmless.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.codec import are_together, pack_together, split_together
from sealbus.credentials import Credentials
from sealbus.envelope import Header, seal_envelopes
from sealbus.errors import InvalidInput, Malformed
from sealbus.limits import MAX_ENVELOPE_BYTES, MAX_TOGETHER_BYTES
from sealbus.matching import is_receipt
from sealbus.outcomes import Refused, Unresolved
from sealbus.reason import Reason
from sealbus.seal import Verifier
from sealbus.session import Session
from sealbus.stamp import Stamp, Verdict, open_stamp
from sealbus.subjects import ingress_subject

log = logging.getLogger("sealbus")

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 8.0
"""Between two attempts with one nonce: a verdict takes milliseconds, a relay that takes over seconds."""

MAX_SEAL_BYTES: Final = 512
"""A seal with the longest proof, and msgpack's framing around header and payload."""

MAX_NAMES_BYTES: Final = 512
"""A header without its parent: names, subject and schema of at most 500 bytes, and numbers."""

BURST: Final = 64
"""Most messages sealed and sent as one: each costs a sixty-fourth of a signature then, and its proof has 192 bytes."""

_ABOUT_TIME: Final = frozenset({Reason.EXPIRED, Reason.STALE})
"""Refusals that say nothing about an earlier attempt, and that a newer issue time may avoid."""

_CHANGING: Final = frozenset({Reason.RATE, Reason.CAUSE, Reason.KEY_NOT_VALID, Reason.KEY_REVOKED})
"""Refusals that depend on when a message is judged. An earlier attempt may have been accepted and its receipt lost. While
some attempt has no verdict, only an acceptance ends the matter, or the caller's time does, as unresolved."""


@dataclass(slots=True, eq=False)
class _Pending:
    """One message without verdict."""

    header: Header
    payload: bytes
    live: bool
    resumed: bool
    """Whether earlier attempts, which are not among ours, may have been accepted."""
    verdict: asyncio.Future[Stamp]
    attempts: set[bytes] = field(default_factory=set)
    """Digests of the envelopes that were sent for it."""
    answered: set[bytes] = field(default_factory=set)
    """Those of them that were refused."""
    interval_s: float = field(default_factory=lambda: RETRY_FIRST_S)
    again: asyncio.TimerHandle | None = None
    """Runs out when it should be sealed anew."""
    refused: Refused | None = None
    """The last refusal about time."""

    @property
    def may_be_accepted(self) -> bool:
        """Whether some attempt may have been accepted without our knowing."""
        return self.resumed or self.attempts != self.answered


class Publisher:
    """Seals, sends, and matches the relay's stamps to what was sent."""

    def __init__(self, credentials: Credentials, session: Session, verifier: Verifier) -> None:
        self._credentials = credentials
        self._session = session
        self._verifier = verifier
        self._pending: dict[bytes, _Pending] = {}
        self._unsent: dict[_Pending, None] = {}
        """In order, each once: while there is no connection its time runs out again and again."""
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many messages are without verdict."""
        return len(self._pending)

    async def publish(self, header: Header, payload: bytes, *, live: bool, resumed: bool, timeout_s: float) -> Stamp:
        """Send one message and return its accepting stamp.

        ``header.issued_at_ms`` is set anew for each attempt. ``resumed``: the nonce was published before, by an earlier call; the ledger
        makes sure that it stands for one message only, so an acceptance of that attempt counts too.

        Raises :class:`Refused`, or :class:`Unresolved` after ``timeout_s``.
        """
        if header.nonce in self._pending:
            raise InvalidInput(
                "a message with this nonce is being published already", hint="wait for its verdict, or leave nonce out"
            )
        # The caller's mistakes are told to the caller, and never reach the sender.
        if len(header.encode()) + len(payload) > MAX_ENVELOPE_BYTES - MAX_SEAL_BYTES:
            raise InvalidInput(
                f"a payload of {len(payload)} bytes makes an envelope of more than {MAX_ENVELOPE_BYTES}",
                hint="send a smaller payload, or where it can be fetched and its hash",
            )
        pending = _Pending(header, payload, live, resumed, asyncio.get_running_loop().create_future())
        self._pending[header.nonce] = pending
        self._send(pending)
        try:
            async with asyncio.timeout(timeout_s):
                return await pending.verdict
        except TimeoutError:
            if pending.refused is not None and not pending.may_be_accepted:
                raise pending.refused from None
            raise Unresolved(
                f"no verdict on {header.subject} within {timeout_s:g} s",
                nonce=header.nonce,
                hint="it may have been accepted: publish again with this nonce to find out; is a relay running?",
            ) from pending.refused
        finally:
            del self._pending[header.nonce]
            self._unsent.pop(pending, None)
            if pending.again is not None:
                pending.again.cancel()

    def _send(self, pending: _Pending) -> None:
        """Have it sent with whatever else is to be sent in this turn of the loop, and again if there is no verdict in time."""
        if pending.again is not None:
            pending.again.cancel()
        pending.again = asyncio.get_running_loop().call_later(pending.interval_s, self._send, pending)
        pending.interval_s = min(2 * pending.interval_s, RETRY_MOST_S)
        self._unsent[pending] = None
        self._wake.set()

    def _send_later(self, pending: _Pending) -> None:
        """Have it sent again after a pause in which the bus's clock or ledger can move on."""
        if pending.again is not None:
            pending.again.cancel()
        pending.again = asyncio.get_running_loop().call_later(pending.interval_s / 8, self._send, pending)

    def verdicts(self) -> list[asyncio.Future[Stamp]]:
        """What :meth:`publish` waits for now, one a message."""
        return [pending.verdict for pending in self._pending.values() if not pending.verdict.done()]

    def resend(self) -> None:
        """Send everything without verdict again, now: a new connection is there, and what was under way may be lost."""
        for pending in self._pending.values():
            if not pending.verdict.done():
                pending.interval_s = RETRY_FIRST_S
                self._send(pending)

    def abandon(self) -> None:
        """Wait for no verdict any more: the bot is closed."""
        for pending in self._pending.values():
            if not pending.verdict.done():
                pending.verdict.set_exception(
                    Unresolved(
                        f"the bot was closed before the verdict on {pending.header.subject} came",
                        nonce=pending.header.nonce,
                        hint="it may have been accepted: publish again with this nonce to find out",
                    )
                )

    async def run(self) -> None:
        """Send what is published, for ever; cancel to stop."""
        while True:
            await self._wake.wait()
            client = await self._session.client()
            self._wake.clear()
            waiting = [one for one in self._unsent if not one.verdict.done()]
            self._unsent.clear()
            for live in (False, True):
                subject = ingress_subject(self._credentials.bot, live=live)
                for batch in _batches([one for one in waiting if one.live is live]):
                    try:
                        await client.publish(subject, self._seal(batch))
                    except (NatsError, OSError) as error:
                        log.debug("not sent, will be again: %s", type(error).__name__)

    def _seal(self, batch: list[_Pending]) -> bytes:
        """One NATS message: the envelopes of ``batch`` under one signature."""
        now_ms = time.time_ns() // 1_000_000
        drafts = [(replace(one.header, issued_at_ms=now_ms), one.payload) for one in batch]
        envelopes = seal_envelopes(self._credentials.key, drafts)
        for one, envelope in zip(batch, envelopes, strict=True):
            one.attempts.add(hashlib.sha256(envelope).digest())
        return envelopes[0] if len(envelopes) == 1 else pack_together(envelopes)

    async def on_receipt(self, msg: Msg) -> None:
        """Take what came to the inbox: one stamp, or several."""
        self.receive(msg.data)

    def receive(self, data: bytes, nonce: bytes | None = None) -> None:
        """Take one stamp, or several together; ``nonce``: what the subject says that it is about, if it does.

        What does not verify, or is not about something of ours, is ignored. Never raises.
        """
        if not data or (nonce is not None and nonce not in self._pending):
            return  # such as NATS's answer to another bot, which may have it sent here
        try:
            receipts = split_together(data) if are_together(data) else [data]
        except Malformed as error:
            log.warning("receipts that are none were ignored: %s", error.what)
            return
        for receipt in receipts:
            try:
                stamp = open_stamp(receipt, self._credentials.bus_keys, self._verifier)
            except Malformed as error:
                log.warning("a receipt that is none was ignored: %s", error.what)
            else:
                self._take(stamp)

    def _take(self, stamp: Stamp) -> None:
        pending = self._pending.get(stamp.nonce)
        if pending is None or pending.verdict.done():
            return
        header, accepted = pending.header, stamp.verdict is Verdict.ACCEPTED
        if not is_receipt(stamp, header, pending.attempts, live=pending.live, resumed=pending.resumed):
            return
        if accepted:
            pending.verdict.set_result(stamp)
            return
        assert stamp.reason is not None
        pending.answered.add(stamp.envelope)
        refused = Refused(header.subject, stamp.reason, stamp.detail, stamp)
        if stamp.reason in _ABOUT_TIME:
            pending.refused = refused
            self._send_later(pending)
        elif stamp.reason in _CHANGING and pending.may_be_accepted:
            self._send_later(pending)
        else:
            pending.verdict.set_exception(refused)


def _batches(waiting: list[_Pending]) -> Iterator[list[_Pending]]:
    """``waiting`` in order, in pieces that fit into one NATS message each."""
    batch: list[_Pending] = []
    size = 0
    for one in waiting:
        room = len(one.payload) + len(one.header.parent or b"") + MAX_SEAL_BYTES + MAX_NAMES_BYTES
        if batch and (len(batch) == BURST or size + room > MAX_TOGETHER_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += room
    if batch:
        yield batch
