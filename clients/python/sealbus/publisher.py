"""Sending: each message until the relay's signed verdict on it is here.

What is published in the same turn of the event loop is sealed as one batch and travels as one NATS message: a burst costs
one signature, and a single message waits for nothing. A message on a subject with a rate may have to wait for its turn
first (:mod:`sealbus.pacing`). A message without verdict is sealed anew under the same nonce and sent again; the relay's
ledger makes that harmless.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.clock import behind_ms, told
from sealbus.codec import are_together, pack_together, split_together
from sealbus.credentials import Credentials
from sealbus.envelope import Header, seal_envelopes
from sealbus.errors import InvalidInput, Malformed, NotConnected, SealbusError
from sealbus.grants import Declared
from sealbus.limits import MAX_ENVELOPE_BYTES, MAX_TOGETHER_BYTES
from sealbus.log import log
from sealbus.matching import is_receipt
from sealbus.minting import new_nonce
from sealbus.nonces import life_ms
from sealbus.outcomes import Refused, Unresolved
from sealbus.pacing import Pace
from sealbus.reason import Reason
from sealbus.seal import Verifier
from sealbus.session import Session
from sealbus.stamp import Stamp, Verdict, open_stamp
from sealbus.strangers import GRACE_S, Strangers
from sealbus.subjects import ingress_subject
from sealbus.supervision import Supervisor

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 8.0
"""Between two attempts with one nonce: a verdict takes milliseconds, a relay that takes over seconds."""

MAX_SEAL_BYTES: Final = 512
"""A seal with the longest proof, and msgpack's framing around header and payload."""

MAX_NAMES_BYTES: Final = 512
"""A header without its parent: names, subject and schema of at most 500 bytes, and numbers."""

BURST: Final = 64
"""Most messages sealed and sent as one: each costs a sixty-fourth of a signature then, and its proof has 192 bytes."""

EARLY_MS: Final = 10_000
"""By how much a nonce that is resumed may be younger than this machine's clock: the clock of the process that made it was ahead."""

_ABOUT_TIME: Final = frozenset({Reason.EXPIRED, Reason.STALE})
"""Refusals that say nothing about an earlier attempt, and that a newer issue time may avoid."""

_FINAL: Final = frozenset(
    {
        Reason.SIZE,
        Reason.ENCODING,
        Reason.BAD_SEAL,
        Reason.WRONG_BUS,
        Reason.WRONG_BOT,
        Reason.WRONG_DELIVERY,
        Reason.PAYLOAD,
        Reason.REPLAY,
        Reason.NONCE_REUSED,
        Reason.ALREADY_ANSWERED,
    }
)
"""Refusals that say something about every attempt: the bytes alone decide, or what the ledger holds."""

_CHANGING: Final = frozenset(
    {Reason.RATE, Reason.CAUSE, Reason.KEY_NOT_VALID, Reason.KEY_REVOKED, Reason.ISSUED_IN_FUTURE}
)
"""Refusals that depend on when a message is judged. All that are left depend on the policy, which seldom changes. In either case an
earlier attempt may have been accepted and its receipt lost. While some attempt has no verdict, only an acceptance ends the matter, or
the caller's time does, as unresolved. So it is where the nonce is resumed, but for refusals by the policy."""


@dataclass(slots=True, eq=False)
class _Pending:
    """One message without verdict."""

    order: int
    header: Header
    payload: bytes
    live: bool
    resumed: bool
    """Whether earlier attempts, which are not among ours, may have been accepted."""
    timeout_s: float
    """From when it is sent for the first time."""
    verdict: asyncio.Future[Stamp]
    pace: Pace[_Pending] | None
    """Whose turn it has to wait for, where its subject has a rate."""
    on_sent: Callable[[Header], None] | None
    attempts: dict[bytes, int] = field(default_factory=dict)
    """Digests of the envelopes that were sent for it, and when each was sealed."""
    server: str = ""
    """Which start of which server the last attempt went to."""
    answered: set[bytes] = field(default_factory=set)
    """Those of them that were refused."""
    interval_s: float = field(default_factory=lambda: RETRY_FIRST_S)
    again: asyncio.TimerHandle | None = None
    """Runs out when it should be sealed anew."""
    deadline: asyncio.TimerHandle | None = None
    """Runs out when the caller's time is over."""
    doubt: asyncio.TimerHandle | None = None
    """Runs out when no receipt under a known bus key came after one under another."""
    refused: Refused | None = None
    """The last refusal that another attempt may avoid."""

    @property
    def may_be_accepted(self) -> bool:
        """Whether some attempt may have been accepted without our knowing."""
        return self.resumed or self.has_open_attempt

    @property
    def has_open_attempt(self) -> bool:
        """Whether some attempt of ours has no verdict."""
        return self.attempts.keys() != self.answered

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.verdict.done()


class Publisher:
    """Seals, sends, and matches the relay's stamps to what was sent."""

    def __init__(
        self,
        credentials: Credentials,
        session: Session,
        verifier: Verifier,
        supervisor: Supervisor,
        on_policy: Callable[[bytes], None] | None = None,
    ) -> None:
        """``on_policy`` is told the digest of the policy that each of this bot's messages was judged by."""
        self._credentials = credentials
        self._session = session
        self._verifier = verifier
        self._supervisor = supervisor
        self._on_policy = on_policy
        self._strangers = Strangers(credentials, verifier)
        self._all: dict[_Pending, None] = {}
        """Everything without verdict, in order."""
        self._pending: dict[bytes, _Pending] = {}
        """What has been sent, by its nonce."""
        self._unsent: dict[_Pending, None] = {}
        """In order, each once: while there is no connection its time runs out again and again."""
        self._wake = asyncio.Event()
        self._paces: dict[str, Pace[_Pending]] = {}
        """By the pattern of the declaration."""
        self._begun = 0

    @property
    def waiting(self) -> int:
        """How many messages are without verdict."""
        return len(self._all)

    async def publish(
        self,
        header: Header,
        payload: bytes,
        *,
        live: bool,
        resumed: bool,
        timeout_s: float,
        declared: Declared | None = None,
        on_sent: Callable[[Header], None] | None = None,
    ) -> Stamp:
        """Send one message and return its accepting stamp.

        Args:
            header: its ``issued_at_ms`` is set anew for each attempt. Unless ``resumed``, its nonce is set when it is sent for
                the first time, which is the nonce's birth.
            payload: one packed value.
            live: whether it goes to be judged at once, or to be stored first.
            resumed: whether the nonce was published before, by an earlier call. The ledger makes sure that it stands for
                one message only, so an acceptance of that attempt counts too.
            timeout_s: how long to wait for a verdict, from when it is sent for the first time. Before that it may have
                to wait for its turn.
            declared: its subject's declaration, if that is known. Its rate is kept to.
            on_sent: called when it is sent for the first time, with the header that has its nonce.

        Raises:
            Refused: the relay's verdict; for a refusal that another attempt may avoid, only when the time is over.
            Unresolved: no verdict came in time.
            CredentialsError: verdicts come under a bus key that the credentials do not name.
            InvalidInput: the message is too large, one with its nonce is being published, the nonce is too old, or the time
                is longer than a nonce lives.
        """
        self._check_life(header, live=live, resumed=resumed, timeout_s=timeout_s)
        # The caller's mistakes are told to the caller, and never reach the sender.
        if len(header.encode()) + len(payload) > MAX_ENVELOPE_BYTES - MAX_SEAL_BYTES:
            raise InvalidInput(
                f"a payload of {len(payload)} bytes makes an envelope of more than {MAX_ENVELOPE_BYTES}",
                hint="send a smaller payload, or where it can be fetched and its hash",
            )
        verdict: asyncio.Future[Stamp] = asyncio.get_running_loop().create_future()
        pace = self._pace(declared) if declared is not None and declared.rate is not None else None
        self._begun += 1
        pending = _Pending(self._begun, header, payload, live, resumed, timeout_s, verdict, pace, on_sent)
        self._all[pending] = None
        if resumed:
            self._pending[header.nonce] = pending
        self._submit(pending)
        try:
            return await verdict
        finally:
            verdict.cancel()  # for the pace, where the caller was cancelled in the queue
            del self._all[pending]
            self._pending.pop(pending.header.nonce, None)
            self._unsent.pop(pending, None)
            for timer in (pending.again, pending.deadline, pending.doubt):
                if timer is not None:
                    timer.cancel()

    def _check_life(self, header: Header, *, live: bool, resumed: bool, timeout_s: float) -> None:
        """Attempts under one nonce end with its life: later the bus may have forgotten it, and would deliver the message again."""
        life_s = life_ms(live=live) / 1000
        if timeout_s > life_s:
            raise InvalidInput(
                f"timeout={timeout_s:g} is out of range: a {'live' if live else 'stream'} message is sent again for at most {life_s:g} s",
                hint=f"use at most {life_s:g}; when it raises Unresolved, the outcome stays unknown",
            )
        if not resumed:
            return
        if header.nonce in self._pending:
            raise InvalidInput(
                "a message with this nonce is being published already", hint="wait for its verdict, or leave nonce out"
            )
        age_ms = time.time_ns() // 1_000_000 - header.birth_ms
        if not -EARLY_MS <= age_ms <= life_s * 1000:
            when = f"{age_ms / 1000:.0f} s ago" if age_ms > 0 else "in the future"
            raise InvalidInput(
                f"this nonce was born {when}: a message can be resumed for {life_s:g} s",
                hint="make nonces with sealbus.new_nonce(); what became of an older message can no longer be found out",
            )

    def _pace(self, declared: Declared) -> Pace[_Pending]:
        assert declared.rate is not None
        pace = self._paces.get(declared.pattern)
        if pace is None:
            pace = self._paces[declared.pattern] = Pace(declared.rate, self._send, self._supervisor)
        elif pace.rate != declared.rate:
            pace.set_rate(declared.rate)
        return pace

    def _submit(self, pending: _Pending) -> None:
        """Send it, in its turn if its subject has a rate."""
        if pending.pace is None:
            self._send(pending)
        else:
            if pending.again is not None:
                pending.again.cancel()
            pending.pace.submit(pending)

    def _send(self, pending: _Pending) -> None:
        """Have it sent with whatever else is to be sent in this turn of the loop, and again if there is no verdict in time."""
        later = self._supervisor.later
        if pending.deadline is None:
            self._begin(pending)
        if pending.again is not None:
            pending.again.cancel()
        pending.again = later("sending again", pending.interval_s, self._submit, pending)
        pending.interval_s = min(2 * pending.interval_s, RETRY_MOST_S)
        self._unsent[pending] = None
        self._wake.set()

    def _begin(self, pending: _Pending) -> None:
        """It is about to be sent for the first time: now its nonce is born, and its time begins."""
        now_ms, seconds = time.time_ns() // 1_000_000, pending.timeout_s
        if pending.resumed:
            seconds = min(seconds, (pending.header.birth_ms + life_ms(live=pending.live) - now_ms) / 1000)
        else:
            pending.header = replace(pending.header, nonce=new_nonce(now_ms))
            self._pending[pending.header.nonce] = pending
        pending.deadline = self._supervisor.later("a message's deadline", seconds, self._give_up, pending)
        if pending.on_sent is not None:
            pending.on_sent(pending.header)

    def _send_later(self, pending: _Pending) -> None:
        """Have it sent again after a pause in which the bus's clock or ledger can move on."""
        if pending.again is not None:
            pending.again.cancel()
        pending.again = self._supervisor.later("sending again", pending.interval_s / 8, self._submit, pending)

    def _give_up(self, pending: _Pending) -> None:
        """The caller's time is over."""
        if pending.verdict.done():
            return
        if pending.refused is not None and not pending.may_be_accepted:
            pending.verdict.set_exception(pending.refused)
            return
        unresolved = Unresolved(
            f"no verdict on {pending.header.subject} within {pending.timeout_s:g} s",
            nonce=pending.header.nonce,
            hint="it may have been accepted: publish again with this nonce to find out. Is a relay running, and has the disk"
            " of nats-server room? `sealbus ping` tells",
        )
        unresolved.__cause__ = pending.refused
        pending.verdict.set_exception(unresolved)

    def verdicts(self) -> list[asyncio.Future[Stamp]]:
        """What :meth:`publish` waits for now, one a message."""
        return [pending.verdict for pending in self._all if not pending.verdict.done()]

    def resend(self) -> None:
        """Send everything without verdict again, now: a new connection is there, and what was under way may be lost."""
        for pending in self._pending.values():
            if pending.attempts and not pending.verdict.done():
                pending.interval_s = RETRY_FIRST_S
                self._submit(pending)

    def abandon(self) -> None:
        """Wait for no verdict any more: the bot is closed."""
        for pending in self._all:
            if not pending.verdict.done():
                pending.verdict.set_exception(_abandoned(pending))

    async def run(self) -> None:
        """Send what is published, for ever; cancel to stop."""
        while True:
            await self._wake.wait()
            client = await self._session.client()
            self._wake.clear()
            waiting = [one for one in self._unsent if _may_be_sent(one, client.server_id)]
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
        # A clock that was set back must not have an attempt issued before its nonce was born.
        issued = [_unused(max(now_ms, one.header.birth_ms), one.attempts.values()) for one in batch]
        drafts = [(replace(one.header, issued_at_ms=at), one.payload) for one, at in zip(batch, issued, strict=True)]
        envelopes = seal_envelopes(self._credentials.key, drafts)
        for one, at, envelope in zip(batch, issued, envelopes, strict=True):
            one.attempts[hashlib.sha256(envelope).digest()] = at
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
                if not self._doubt(receipt):
                    log.warning("a receipt that is none was ignored: %s", error.what)
            else:
                self._strangers.doubtful = False
                self.take(stamp)

    def _doubt(self, receipt: bytes) -> bool:
        """Whether this is a receipt for something of ours, but under a bus key that the credentials do not name.

        Then nobody waits for longer than a real one may take.
        """
        found = self._strangers.open(receipt)
        if found is None:
            return False
        stamp, key = found
        pending = self._pending.get(stamp.nonce)
        if pending is None or not is_receipt(
            stamp, pending.header, pending.attempts.keys(), live=pending.live, resumed=pending.resumed
        ):
            return False
        if pending.doubt is None:
            pending.doubt = self._supervisor.later("doubting a bus key", GRACE_S, self._disown, pending, key)
        return True

    def _disown(self, pending: _Pending, key: bytes) -> None:
        if self._strangers.doubtful and not pending.verdict.done():
            pending.verdict.set_exception(self._strangers.error(key))

    def take(self, stamp: Stamp) -> None:
        """Take an opened stamp as a receipt, if it is one."""
        pending = self._pending.get(stamp.nonce)
        if pending is None or pending.verdict.done():
            return
        header, accepted = pending.header, stamp.verdict is Verdict.ACCEPTED
        if not is_receipt(stamp, header, pending.attempts.keys(), live=pending.live, resumed=pending.resumed):
            return
        if self._on_policy is not None:
            self._on_policy(stamp.policy)
        if accepted:
            pending.verdict.set_result(stamp)
        elif not _is_past(pending):
            # Else this process was stopped for so long that the bus may have forgotten an acceptance.
            self._take_refusal(pending, stamp)

    def _take_refusal(self, pending: _Pending, stamp: Stamp) -> None:
        assert stamp.reason is not None
        now_ms = time.time_ns() // 1_000_000
        behind = behind_ms(stamp.judged_at_ms, pending.attempts[stamp.envelope], now_ms)
        refused = Refused(pending.header.subject, stamp.reason, stamp.detail, stamp, clock=told(behind))
        pending.answered.add(stamp.envelope)
        if stamp.reason in _ABOUT_TIME and not _is_hopeless(pending, stamp.reason, behind):
            pending.refused = refused
            self._send_later(pending)
        elif stamp.reason is Reason.RATE and pending.pace is not None:
            pending.refused = refused
            pending.pace.hold_back()
            self._submit(pending)
        elif stamp.reason not in _FINAL and (
            pending.has_open_attempt or (pending.resumed and stamp.reason in _CHANGING)
        ):
            pending.refused = refused
            self._send_later(pending)
        else:
            pending.verdict.set_exception(refused)


def _may_be_sent(pending: _Pending, server: str) -> bool:
    """Whether another attempt may go to ``server``: which start of which one.

    The live ledger is in the server's memory. One that was started anew does not know that an earlier attempt was accepted, and would have
    the message delivered twice. Then the outcome is not known, and the caller is told so at once.
    """
    if pending.verdict.done() or _is_past(pending):
        return False
    if pending.live and pending.attempts and pending.may_be_accepted and pending.server != server:
        pending.verdict.set_exception(
            Unresolved(
                f"nats-server was started anew before the verdict on {pending.header.subject} came",
                nonce=pending.header.nonce,
                hint="the message may have been delivered: send it anew if delivering it twice does no harm",
            )
        )
        return False
    pending.server = server
    return True


def _is_past(pending: _Pending) -> bool:
    """Whether the nonce's life is over: nothing is sealed under it any more, and no refusal of it is believed."""
    return time.time_ns() // 1_000_000 - pending.header.birth_ms > life_ms(live=pending.live)


def _abandoned(pending: _Pending) -> SealbusError:
    subject, nonce = pending.header.subject, pending.header.nonce
    if not pending.attempts and not pending.resumed:
        return NotConnected(f"the bot was closed before the message on {subject} was sent")
    return Unresolved(
        f"the bot was closed before the verdict on {subject} came",
        nonce=nonce,
        hint="it may have been accepted: publish again with this nonce to find out",
    )


def _unused(time_ms: int, used: Collection[int]) -> int:
    """``time_ms`` or the next that no attempt has: the same bytes again would be a replay."""
    while time_ms in used:
        time_ms += 1
    return time_ms


def _is_hopeless(pending: _Pending, reason: Reason, behind: int) -> bool:
    """Whether every further attempt would meet the same refusal about time, because this machine's clock is behind."""
    if told(behind) is None:
        return False
    if reason is Reason.EXPIRED:
        return True
    # Too old for the ledger: that ends once this clock has passed the moment at which the ledger began.
    left_s = 0.0 if pending.deadline is None else pending.deadline.when() - asyncio.get_running_loop().time()
    return behind > left_s * 1000


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
