"""Sending: each message until the relay's signed verdict on it is here.

What is published while something is being sent is sealed as one batch: a burst costs one signature, and a single message waits for
nothing. A message without verdict is sealed anew under the same nonce and sent again; the relay's ledger makes that harmless.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.credentials import Credentials
from sealbus.envelope import Header, seal_envelopes
from sealbus.errors import InvalidInput, Malformed, Refused, Unresolved
from sealbus.limits import MAX_BATCH, MAX_ENVELOPE_BYTES
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

_ABOUT_TIME: Final = frozenset({Reason.EXPIRED, Reason.STALE})
"""Refusals that say nothing of an earlier attempt, and that a newer issue time may mend."""

_CHANGING: Final = frozenset({Reason.RATE, Reason.CAUSE, Reason.KEY_NOT_VALID, Reason.KEY_REVOKED})
"""Refusals that an earlier attempt, whose receipt was lost, need not have met: it may have been accepted. Once there have been several
attempts, only an acceptance ends the matter, or the caller's time does, as unresolved."""


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
    again: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it should be sealed anew before the retry interval is over."""
    refused: Refused | None = None
    """The last refusal about time."""


class Publisher:
    """Seals, sends, and matches the relay's stamps to what was sent."""

    def __init__(self, credentials: Credentials, session: Session, verifier: Verifier) -> None:
        self._credentials = credentials
        self._session = session
        self._verifier = verifier
        self._pending: dict[bytes, _Pending] = {}
        self._unsent: list[_Pending] = []
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
            raise Unresolved("a message with this nonce is already being published", nonce=header.nonce)
        # The caller's mistakes are told to the caller, and never reach the sender.
        if len(header.encode()) + len(payload) > MAX_ENVELOPE_BYTES - MAX_SEAL_BYTES:
            raise InvalidInput(
                f"a payload of {len(payload)} bytes makes an envelope of more than {MAX_ENVELOPE_BYTES}",
                hint="send a smaller payload, or where it can be fetched and its hash",
            )
        pending = _Pending(header, payload, live, resumed, asyncio.get_running_loop().create_future())
        self._pending[header.nonce] = pending
        try:
            async with asyncio.timeout(timeout_s):
                return await self._insist(pending)
        except TimeoutError:
            if pending.refused is not None:
                raise pending.refused from None
            raise Unresolved(
                f"no verdict on {header.subject} within {timeout_s:g} s",
                nonce=header.nonce,
                hint="it may have been accepted: publish again with this nonce to find out; is a relay running?",
            ) from None
        finally:
            del self._pending[header.nonce]
            if not pending.verdict.cancel() and not pending.verdict.cancelled():
                pending.verdict.exception()  # seen, or no longer of interest

    async def _insist(self, pending: _Pending) -> Stamp:
        interval = RETRY_FIRST_S
        while True:
            pending.again.clear()
            self._unsent.append(pending)
            self._wake.set()
            again = asyncio.ensure_future(pending.again.wait())
            try:
                waits: list[asyncio.Future[Any]] = [pending.verdict, again]
                await asyncio.wait(waits, timeout=interval, return_when=asyncio.FIRST_COMPLETED)
            finally:
                again.cancel()
            if pending.verdict.done():
                return pending.verdict.result()
            if pending.again.is_set():
                await asyncio.sleep(interval / 4)  # the bus's clock or ledger has to move on first
            interval = min(2 * interval, RETRY_MOST_S)

    async def run(self) -> None:
        """Send what is published, for ever; cancel to stop."""
        while True:
            await self._wake.wait()
            client = await self._session.client()
            batch = [one for one in self._unsent[:MAX_BATCH] if not one.verdict.done()]
            del self._unsent[:MAX_BATCH]
            if not self._unsent:
                self._wake.clear()
            if not batch:
                continue
            now_ms = time.time_ns() // 1_000_000
            drafts = [(replace(one.header, issued_at_ms=now_ms), one.payload) for one in batch]
            for one, envelope in zip(batch, seal_envelopes(self._credentials.key, drafts), strict=True):
                one.attempts.add(hashlib.sha256(envelope).digest())
                try:
                    await client.publish(ingress_subject(self._credentials.bot, live=one.live), envelope)
                except (NatsError, OSError) as error:
                    log.debug("not sent, will be again: %s", type(error).__name__)

    async def on_receipt(self, msg: Msg) -> None:
        """Take a stamp from the inbox. What does not verify, or is not about something of ours, is ignored."""
        try:
            nonce = bytes.fromhex(msg.subject.rsplit(".", 1)[-1])
        except ValueError:
            return
        pending = self._pending.get(nonce)
        if pending is None or pending.verdict.done():
            return
        try:
            stamp = open_stamp(msg.data, self._credentials.bus_keys, self._verifier)
        except Malformed as error:
            log.warning("a receipt that is none was ignored: %s", error.what)
            return
        header = pending.header
        if (stamp.bot, stamp.subject, stamp.nonce) != (header.bot, header.subject, header.nonce):
            return
        accepted = stamp.verdict is Verdict.ACCEPTED
        if accepted and stamp.bus != header.bus:
            return
        if stamp.envelope not in pending.attempts and not (accepted and pending.resumed):
            return
        accepted = stamp.verdict is Verdict.ACCEPTED
        if stamp.envelope not in pending.attempts and not (accepted and pending.resumed):
            return
        if (stamp.position is None) is not pending.live:
            # Judged where we did not send it: somebody else put a copy of our envelope into the other ingress of our session.
            return
        if accepted:
            pending.verdict.set_result(stamp)
            return
        assert stamp.reason is not None
        refused = Refused(header.subject, stamp.reason, stamp.detail, stamp)
        if stamp.reason in _ABOUT_TIME:
            pending.refused = refused
            pending.again.set()
        elif stamp.reason in _CHANGING and (pending.resumed or len(pending.attempts) > 1):
            pending.again.set()
        else:
            pending.verdict.set_exception(refused)
