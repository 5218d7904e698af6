"""Sending: each message until the relay's signed verdict on it is here.

How it works. :meth:`Publisher.publish` makes a :class:`~sealbus.sending.pending.Pending` and waits
for its verdict. The message goes round until then:

1. **its turn** (``_submit``): on a subject with a rate it waits for its pace
   (:mod:`sealbus.sending.pacing`).
2. **unsent** (``_send``): it has a nonce, its time runs, and a timer that sends it again is set.
3. **sent** (:meth:`Publisher.run`): one task seals all unsent messages as bundles and writes them.
  All messages of one turn of the event loop share a bundle. So a burst costs one signature, and a
  single message waits for nothing.
4. **receipts** (:meth:`Publisher.take`): an acceptance ends it. A refusal ends it, or sends it back
  to step 1, now or after a pause (:meth:`~sealbus.sending.pending.Pending.after`).

It leaves the round by its verdict, by the end of the caller's time (``_give_up``), by its caller's
cancellation, or when the bot is closed (:meth:`Publisher.abandon`).

When the connection is lost, messages stay unsent until the next one. Messages that were sent may be
lost with it, and so may their receipts: :meth:`Publisher.resend` sends all of them again. Each is
sealed anew under the same nonce, which the relay's ledger makes harmless.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from nats.errors import Error as NatsError

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, Malformed
from sealbus.grants import Declared
from sealbus.life.clock import behind_ms, told
from sealbus.life.session import Session
from sealbus.log import log
from sealbus.outcomes import Refused
from sealbus.protocol.codec import is_bundle, split_bundle
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus.protocol.subjects import ingress_subject
from sealbus.sending.bursts import MAX_SEAL_BYTES, bursts, seal_burst
from sealbus.sending.minting import new_nonce
from sealbus.sending.pacing import Pace
from sealbus.sending.pending import Pending, Then, may_be_sent
from sealbus.sending.strangers import Strangers
from sealbus.supervision import Supervisor

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 8.0
"""Pause between two attempts with one nonce, doubled each time. A verdict takes milliseconds. A
relay that takes over from a dead one needs seconds."""

EARLY_MS: Final = 10_000
"""A nonce that is resumed may come from a process whose clock was ahead of this one's by so
much."""


class Publisher:
    """Seals and sends messages, and matches the relay's stamps to them. The module lists the
    steps of a message."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        session: Session,
        verifier: Verifier,
        supervisor: Supervisor,
        on_policy: Callable[[bytes], None] | None = None,
    ) -> None:
        """
        Args:
            credentials: whose messages, and the bus keys that verdicts are believed under.
            session: gives the connection to send on.
            verifier: remembers seals that held, so that none is checked twice.
            supervisor: answers for the timers.
            on_policy: told the digest of the policy that each message was judged by.
        """
        self._credentials = credentials
        self._session = session
        self._verifier = verifier
        self._supervisor = supervisor
        self._on_policy = on_policy
        self._strangers = Strangers(credentials, verifier, supervisor)
        """Explains receipts under a bus key that the credentials do not name."""
        self._all: dict[Pending, None] = {}
        """Every message without verdict, in order. A dict, because it keeps order and forgets
        fast."""
        self._pending: dict[bytes, Pending] = {}
        """Messages that have a nonce, by that: receipts are matched here."""
        self._unsent: dict[Pending, None] = {}
        """Messages for the next bundle, in order. Each once: while there is no connection, the
        timer that sends a message again runs out again and again."""
        self._wake = asyncio.Event()
        """Wakes :meth:`run`: something is unsent."""
        self._paces: dict[str, Pace[Pending]] = {}
        """By the pattern of the declaration."""
        self._begun = 0
        """Messages so far, which gives each its order."""

    async def publish(
        self,
        header: Header,
        payload: bytes,
        *,
        live: bool,
        resumed: bool,
        timeout_s: float,
        declared: Declared | None = None,
        on_named: Callable[[Header], None] | None = None,
    ) -> Stamp:
        """Send one message and return its accepting stamp.

        Args:
            header: its ``issued_at_ms`` is set anew for each attempt. Unless ``resumed``, its nonce
                is set when it is sent for the first time, which is the nonce's birth.
            payload: one packed value.
            live: whether it is judged at once, or stored first.
            resumed: whether an earlier call published under this nonce. The ledger accepts one
                message only under a nonce, so an acceptance of that attempt counts too.
            timeout_s: seconds to wait for a verdict, from when it is sent for the first time.
                Before that it may have to wait for its turn.
            declared: its subject's declaration, if that is known. Its rate is kept to.
            on_named: called with the header when the message gets a nonce: just before it is sent
                for the first time, and each time that it gets another one.

        Raises:
            Refused: the relay's verdict. A refusal that another attempt may avoid is raised only
                when the time is over.
            Unresolved: no verdict came in time. Or it came under a bus key that the credentials do
                not name, and a :class:`CredentialsError` is the cause.
            InvalidInput: the message is too large, another one with its nonce is being published,
                the nonce is too old, or the time is longer than a nonce lives.
        """
        self._check_life(header, live=live, resumed=resumed, timeout_s=timeout_s)
        # Told here, because an error in run() would have no caller to go to.
        if len(header.encode()) + len(payload) > MAX_ENVELOPE_BYTES - MAX_SEAL_BYTES:
            raise InvalidInput(
                f"a payload of {len(payload)} bytes makes an envelope of more than "
                f"{MAX_ENVELOPE_BYTES} bytes",
                hint="send a smaller payload, or where it can be fetched and its hash",
            )
        verdict: asyncio.Future[Stamp] = asyncio.get_running_loop().create_future()
        pace = self._pace(declared) if declared is not None and declared.rate is not None else None
        self._begun += 1
        pending = Pending(
            order=self._begun,
            header=header,
            payload=payload,
            live=live,
            resumed=resumed,
            timeout_s=timeout_s,
            verdict=verdict,
            pace=pace,
            on_named=on_named,
            interval_s=RETRY_FIRST_S,
            is_nameless=not resumed,
        )
        self._all[pending] = None
        if resumed:
            # Before its turn, because a receipt of an earlier attempt may come at any time.
            self._pending[header.nonce] = pending
        self._submit(pending)
        try:
            return await verdict
        finally:
            # If the caller was cancelled, this tells the pace that the message needs no turn.
            verdict.cancel()
            del self._all[pending]
            self._pending.pop(pending.header.nonce, None)
            self._unsent.pop(pending, None)
            for timer in (pending.again, pending.deadline, pending.doubt):
                if timer is not None:
                    timer.cancel()

    def _check_life(self, header: Header, *, live: bool, resumed: bool, timeout_s: float) -> None:
        """Raise :class:`InvalidInput` for attempts that would outlive the nonce.

        Later the bus may have forgotten the nonce, and would deliver the message again.
        """
        life_s = life_ms(live=live) / 1000
        if timeout_s > life_s:
            kind = "live" if live else "stream"
            raise InvalidInput(
                f"timeout={timeout_s:g} is out of range: a {kind} message is sent again for "
                f"at most {life_s:g} s",
                hint=f"use at most {life_s:g} s; after Unresolved the outcome stays unknown",
            )
        if not resumed:
            return
        if header.nonce in self._pending:
            raise InvalidInput(
                "a message with this nonce is being published already",
                hint="wait for its verdict, or leave nonce out",
            )
        age_ms = _now_ms() - header.birth_ms
        if not -EARLY_MS <= age_ms <= life_s * 1000:
            when = f"{age_ms / 1000:.0f} s ago" if age_ms > 0 else "in the future"
            raise InvalidInput(
                f"this nonce was born {when}: a message can be resumed for {life_s:g} s",
                hint="make nonces with sealbus.new_nonce(); the outcome of an older message can "
                "no longer be found out",
            )

    def _pace(self, declared: Declared) -> Pace[Pending]:
        assert declared.rate is not None
        pace = self._paces.get(declared.pattern)
        if pace is None:
            pace = self._paces[declared.pattern] = Pace(declared.rate, self._send, self._supervisor)
        elif pace.rate != declared.rate:
            pace.set_rate(declared.rate)
        return pace

    def _submit(self, pending: Pending) -> None:
        """Send it, in its turn if its subject has a rate."""
        if pending.pace is None:
            self._send(pending)
        else:
            if pending.again is not None:
                pending.again.cancel()
            pending.pace.submit(pending)

    def _send(self, pending: Pending) -> None:
        """Have it sent in this turn of the event loop, and again if no verdict comes in time."""
        later = self._supervisor.later
        if pending.deadline is None:
            self._begin(pending)
        if pending.is_nameless:
            self._name(pending)
        if pending.again is not None:
            pending.again.cancel()
        pending.again = later("sending again", pending.interval_s, self._submit, pending)
        pending.interval_s = min(2 * pending.interval_s, RETRY_MOST_S)
        self._unsent[pending] = None
        self._wake.set()

    def _begin(self, pending: Pending) -> None:
        """Start its time: it is about to be sent for the first time."""
        seconds = pending.timeout_s
        if pending.resumed:
            # Negative if it waited for its turn that long: then its time is over at once.
            seconds = min(
                seconds,
                (pending.header.birth_ms + life_ms(live=pending.live) - _now_ms()) / 1000,
            )
        pending.deadline = self._supervisor.later(
            "a message's deadline",
            seconds,
            self._give_up,
            pending,
        )

    def _name(self, pending: Pending) -> None:
        """Give it a nonce that is born now."""
        self._pending.pop(pending.header.nonce, None)
        pending.rename(new_nonce(_now_ms()))
        self._pending[pending.header.nonce] = pending
        if pending.on_named is not None:
            pending.on_named(pending.header)

    def _send_later(self, pending: Pending) -> None:
        """Have it sent again after a short pause, in which the bus's clock or ledger moves on."""
        if pending.again is not None:
            pending.again.cancel()
        # An eighth of the pause after silence, because a relay has answered: 0.25 s at first.
        pending.again = self._supervisor.later(
            "sending again",
            pending.interval_s / 8,
            self._submit,
            pending,
        )

    def _give_up(self, pending: Pending) -> None:
        """The caller's time is over."""
        if pending.verdict.done():
            return
        if pending.refused is not None and not pending.may_be_accepted:
            pending.verdict.set_exception(pending.refused)
            return
        pending.verdict.set_exception(pending.unresolved())

    def verdicts(self) -> list[asyncio.Future[Stamp]]:
        """The verdicts that callers of :meth:`publish` wait for."""
        return [pending.verdict for pending in self._all if not pending.verdict.done()]

    def resend(self) -> None:
        """Send all messages without verdict again, now.

        For a new connection: whatever was under way on the last one may be lost.
        """
        # A copy, because a message may get another nonce by it. One without an attempt is left out:
        # it waits for its turn, or is unsent already.
        for pending in list(self._pending.values()):
            if pending.attempts and not pending.verdict.done():
                pending.interval_s = RETRY_FIRST_S
                self._submit(pending)

    def abandon(self) -> None:
        """Wait for no verdict any more: the bot is closed."""
        for pending in self._all:
            if not pending.verdict.done():
                pending.verdict.set_exception(pending.abandoned())

    async def run(self) -> None:
        """Send unsent messages, for ever; cancel to stop."""
        while True:
            await self._wake.wait()
            client = await self._session.client()
            # Cleared after the wait: while there was no connection, more may have become unsent.
            self._wake.clear()
            # Those that may not be sent are dropped here too: their deadline ends them.
            waiting = [one for one in self._unsent if may_be_sent(one, client.server_id, _now_ms())]
            self._unsent.clear()
            for live in (False, True):
                subject = ingress_subject(self._credentials.bot, live=live)
                for batch in bursts([one for one in waiting if one.live is live]):
                    try:
                        # Not write(), which never waits: publish() does while 2 MiB have not left.
                        await client.publish(
                            subject,
                            seal_burst(self._credentials.key, batch, _now_ms()),
                        )
                    except (NatsError, OSError) as error:
                        # By its own timer, or by resend() on the next connection.
                        log.debug("not sent, will be again: %s", type(error).__name__)

    def receive(self, data: bytes, nonce: bytes | None = None) -> None:
        """Take one stamp, or a bundle of them. Never raises.

        ``nonce``: the one in the subject that they came on, if it has one. Stamps that do not
        verify, or are about no message of this publisher, are ignored.
        """
        if not data or (nonce is not None and nonce not in self._pending):
            # Looked up before anything is verified: another bot may have nats-server send its
            # answers here, and each would cost a check of a signature.
            return
        try:
            receipts = split_bundle(data) if is_bundle(data) else [data]
        except Malformed as error:
            log.warning("ignored an invalid bundle of receipts: %s", error.what)
            return
        for receipt in receipts:
            try:
                stamp = open_stamp(receipt, self._credentials.bus_keys, self._verifier)
            except Malformed as error:
                if not self._strangers.doubt(receipt, self._pending.get):
                    log.warning("ignored an invalid receipt: %s", error.what)
            else:
                self.take(stamp)

    def take(self, stamp: Stamp) -> None:
        """Take an opened stamp as a receipt, if it is the verdict on one of these messages."""
        # It was opened under a key that the credentials name, whichever way it came.
        self._strangers.doubtful = False
        pending = self._pending.get(stamp.nonce)
        if pending is None or pending.verdict.done():
            return
        if not pending.is_answered_by(stamp):
            return
        if self._on_policy is not None:
            self._on_policy(stamp.policy)
        if stamp.verdict is Verdict.ACCEPTED:
            pending.verdict.set_result(stamp)
        elif stamp.envelope in pending.answered:
            # A copy: while the session is renewed, a receipt comes on both connections.
            return
        elif not pending.is_past(_now_ms()):
            # Otherwise this process was stopped for so long that the bus may have forgotten that it
            # accepted the message: the refusal proves nothing any more.
            self._take_refusal(pending, stamp)

    def _take_refusal(self, pending: Pending, stamp: Stamp) -> None:
        assert stamp.reason is not None
        # A refusal is always of an attempt that is known: see is_receipt().
        behind = behind_ms(stamp.judged_at_ms, pending.attempts[stamp.envelope], _now_ms())
        refused = Refused(
            pending.header.subject,
            stamp.reason,
            detail=stamp.detail,
            stamp=stamp,
            clock=told(behind),
        )
        pending.answered.add(stamp.envelope)
        left_s = (
            0.0
            if pending.deadline is None
            else pending.deadline.when() - asyncio.get_running_loop().time()
        )
        then = pending.after(stamp.reason, detail=stamp.detail, behind_ms=behind, left_s=left_s)
        if then is Then.OVER:
            pending.verdict.set_exception(refused)
            return
        pending.refused = refused
        pending.is_nameless = then is Then.ANEW
        if then is Then.IN_TURN and pending.pace is not None:
            pending.pace.hold_back()
            self._submit(pending)
        else:
            self._send_later(pending)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
