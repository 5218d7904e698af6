"""Sending: each message until the relay's signed verdict on it is here.

How it works. :meth:`Publisher.publish` makes an :class:`~sealbus.sending.burst.Item` and waits for
its verdict. The message goes round until then:

1. **its turn** (``_enter``, and ``_submit`` for a burst that is sent again): on a subject with a
   rate it waits for its pace (:mod:`sealbus.sending.pacing`).
2. **joined** (``_join``): it shares a :class:`~sealbus.sending.burst.Burst`, which becomes one
   envelope, with the messages on its subject that were published in the same turn of the event
   loop. So a burst costs little more than one message, and a single message waits for nothing. A
   message that is sealed alone has a burst of its own. Messages on one subject keep their order.
3. **unsent** (``_send``): the burst has a nonce, the time of its messages runs, and a timer that
   sends it again is set.
4. **sent** (:meth:`Publisher.run`): one task seals all unsent bursts and writes them. Bursts on
   several subjects share a signature and a bundle.
5. **receipts** (:meth:`Publisher.take`): an acceptance of the envelope ends it, and tells which of
   its messages are refused. A refusal ends it, or sends it back to step 3, now, in its turn, or
   after a pause (:meth:`~sealbus.sending.burst.Burst.after`).

A message leaves the round by its verdict, by the end of its caller's time, by its caller's
cancellation, or when the bot is closed (:meth:`Publisher.abandon`). A burst goes on while anybody
waits for one of its messages.

When the connection is lost, bursts stay unsent until the next one. Bursts that were sent may be
lost with it, and so may their receipts: :meth:`Publisher.resend` sends all of them again. Each is
sealed anew under the same nonce, which the relay's ledger makes harmless.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from nats.errors import Error as NatsError

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, Malformed, NotConnected, SealbusError
from sealbus.grants import Declared
from sealbus.life.clock import behind_ms, told
from sealbus.life.session import Session
from sealbus.log import log
from sealbus.protocol.codec import is_bundle, split_bundle
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES, MAX_PAYLOADS, MAX_TOGETHER_BYTES
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus.protocol.subjects import ingress_subject
from sealbus.sending.bundling import ROOM_BYTES, bundles, seal_bundle
from sealbus.sending.burst import Burst, Item, Kind, Then, may_be_sent
from sealbus.sending.minting import new_nonce, salted
from sealbus.sending.pacing import Pace
from sealbus.sending.strangers import Strangers
from sealbus.supervision import Supervisor

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 8.0
"""Pause between two attempts with one nonce, doubled each time. A verdict takes milliseconds. A
relay that takes over from a dead one needs seconds."""

MANY: Final = 4096
"""The most messages of one call of :meth:`Publisher.publish_many` that wait for a verdict at a
time: sixteen of the largest bursts. More would take memory, and make nothing faster."""

SHARE: Final = 4
"""An envelope takes at most this part of a rate's burst: a quarter. A relay counts all messages of
an envelope at once, so one that took the whole burst would find it unused too seldom, where other
processes use the same rate."""

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
        self._all: dict[Item, None] = {}
        """Every message without verdict, in order. A dict, because it keeps order and forgets
        fast."""
        self._named: dict[bytes, Burst] = {}
        """Bursts that have a nonce, by that: receipts are matched here."""
        self._open: dict[tuple[str, bool], Burst] = {}
        """Bursts that messages of this turn of the event loop may join, by subject and way."""
        self._unsent: dict[Burst, None] = {}
        """Bursts that are to be sealed next, in order. Each once: while there is no connection, the
        timer that sends one again runs out again and again."""
        self._wake = asyncio.Event()
        """Wakes :meth:`run`: something is unsent."""
        self._paces: dict[str, Pace[Item | Burst]] = {}
        """By the pattern of the declaration."""
        self._begun = 0
        """Messages so far, which gives each its order."""
        self._is_closed = False
        """Whether nothing is sent any more."""

    async def publish(
        self,
        header: Header,
        payload: bytes,
        *,
        live: bool,
        resumed: bool,
        timeout_s: float,
        parent: bytes | None = None,
        alone: bool = False,
        declared: Declared | None = None,
        on_named: Callable[[Header], None] | None = None,
    ) -> Stamp:
        """Send one message and return the stamp that accepts it.

        Args:
            header: its ``issued_at_ms`` is set anew for each attempt. Unless ``resumed``, its nonce
                is set when it is sent for the first time, which is the nonce's birth.
            payload: one packed value.
            live: whether it is judged at once, or stored first.
            resumed: whether an earlier call published under this nonce. The ledger accepts one
                envelope only under a nonce, so an acceptance of that attempt counts too.
            timeout_s: seconds to wait for a verdict, from when it is sent for the first time.
                Before that it may have to wait for its turn.
            parent: its encoded parent. Such a message is alone in its envelope.
            alone: whether it is alone in its envelope in any case. A resumed message is, because
                its nonce names nothing else, and so is one with ``on_named``.
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
            NotConnected: the bot is closed.
        """
        self._check_life(header, live=live, resumed=resumed, timeout_s=timeout_s)
        is_alone = alone or resumed or parent is not None or on_named is not None
        kind = Kind(
            header=header,
            live=live,
            most=1 if is_alone else _most(declared),
            most_bytes=_most_bytes(declared),
            parent=parent,
            resumed=resumed,
            pace=self._pace(declared),
            on_named=on_named,
        )
        return await self._verdict(self._begin(kind, payload, timeout_s))

    async def publish_many(
        self,
        header: Header,
        payloads: Iterable[bytes | InvalidInput],
        *,
        live: bool,
        timeout_s: float,
        alone: bool = False,
        declared: Declared | None = None,
    ) -> list[Stamp | SealbusError]:
        """Send many messages, up to :data:`MANY` at a time, and return the outcome of each, in
        order. See :meth:`publish` for the arguments and the errors.

        Once the bot is closed, no more payloads are read, and the outcome of the last one is
        :class:`NotConnected`. Raises an error that reading ``payloads`` raises. Nobody waits for
        the earlier messages then.

        Args:
            payloads: packed values. An error in place of one is its outcome.
        """
        self._check_life(header, live=live, resumed=False, timeout_s=timeout_s)
        kind = Kind(
            header=header,
            live=live,
            most=1 if alone else _most(declared),
            most_bytes=_most_bytes(declared),
            pace=self._pace(declared),
        )
        outcomes: list[Stamp | SealbusError | None] = []
        waiting: dict[int, Item] = {}
        room = asyncio.Semaphore(MANY)

        def ended(at: int, _: asyncio.Future[Stamp]) -> None:
            if (item := waiting.pop(at, None)) is not None:
                outcomes[at] = _outcome(item)
                self._end(item)
                room.release()

        try:
            for at, payload in enumerate(payloads):
                if isinstance(payload, InvalidInput):
                    outcomes.append(payload)
                    continue
                # While there is room it does not wait, and the messages are of one turn.
                await room.acquire()
                try:
                    item = self._begin(kind, payload, timeout_s)
                except SealbusError as error:
                    room.release()
                    outcomes.append(error)
                    if self._is_closed:
                        break
                    continue
                waiting[at] = item
                outcomes.append(None)
                item.verdict.add_done_callback(partial(ended, at))
            if waiting:
                # The callbacks above were added first, so they are through by its end.
                await asyncio.wait([item.verdict for item in waiting.values()])
        finally:
            for at in list(waiting):
                self._end(waiting.pop(at))
        return [one for one in outcomes if one is not None]

    async def resume(self, item: Item, *, timeout_s: float) -> Stamp:
        """Find out the outcome of a message that nobody waits for any more. Its envelope is sent
        again under its nonce, with all its messages, unless the verdict on it is known by now.

        Raises as :meth:`publish` does.
        """
        if not item.is_over:
            raise InvalidInput(
                "the outcome of this message is being found out already", hint="wait for it"
            )
        burst = item.burst
        if burst is None or not item.was_sent:
            return await self._resume_unsent(item, timeout_s)
        if burst.verdict is not None:
            item.renew(timeout_s)
            burst.end_by(burst.verdict)
            return item.verdict.result()
        age_ms = _now_ms() - burst.header.birth_ms
        left_s = (life_ms(live=burst.kind.live) - age_ms) / 1000
        if left_s <= 0:
            raise InvalidInput(
                f"this message was sent {age_ms / 1000:.0f} s ago, and can be resumed no longer",
                hint="its outcome can no longer be found out",
            )
        if self._named.get(burst.header.nonce, burst) is not burst:
            raise InvalidInput(
                "a message with this nonce is being published already",
                hint="wait for its verdict",
            )
        self._check_open(item.kind)
        item.renew(min(timeout_s, left_s))
        self._all[item] = None
        burst.left += 1
        self._named[burst.header.nonce] = burst
        self._set_deadline(burst, item, asyncio.get_running_loop().time())
        burst.interval_s = RETRY_FIRST_S
        self._submit(burst)
        return await self._verdict(item)

    async def _resume_unsent(self, item: Item, timeout_s: float) -> Stamp:
        """Begin anew with a message that nothing was sent of."""
        self._check_life(item.kind.header, live=item.kind.live, resumed=False, timeout_s=timeout_s)
        self._check_open(item.kind)
        if item.burst is not None:
            item.burst.leave_out(item)
            item.burst = None
        item.renew(timeout_s)
        self._begun += 1
        item.order = self._begun
        self._enter(item)
        return await self._verdict(item)

    def _check_open(self, kind: Kind) -> None:
        if self._is_closed:
            subject = kind.header.subject
            raise NotConnected(f"the bot was closed before the message on {subject} was sent")

    def _begin(self, kind: Kind, payload: bytes, timeout_s: float) -> Item:
        """Begin to send a message. Raises :class:`InvalidInput` if it is too large, and
        :class:`NotConnected` if the bot is closed."""
        self._check_open(kind)
        # Told here, because an error in run() would have no caller to go to.
        size = len(payload) + len(kind.parent or b"")
        if size > MAX_ENVELOPE_BYTES - ROOM_BYTES:
            raise InvalidInput(
                f"a payload of {len(payload)} bytes makes an envelope of more than "
                f"{MAX_ENVELOPE_BYTES} bytes",
                hint="send a smaller payload, or where it can be fetched and its hash",
            )
        self._begun += 1
        item = Item(
            kind=kind,
            payload=salted(payload),
            timeout_s=timeout_s,
            verdict=asyncio.get_running_loop().create_future(),
            order=self._begun,
        )
        self._enter(item)
        return item

    def _enter(self, item: Item) -> None:
        """Have a message sent, in its turn if its subject has a rate."""
        self._all[item] = None
        kind = item.kind
        if kind.most == 1:
            burst = self._new_burst(item)
            if kind.resumed:
                # Before its turn, because a receipt of an earlier attempt may come at any time.
                self._named[kind.header.nonce] = burst
            self._submit(burst)
        elif kind.pace is not None:
            kind.pace.submit(item)
        else:
            self._join(item)

    async def _verdict(self, item: Item) -> Stamp:
        try:
            return await item.verdict
        finally:
            self._end(item)

    def _end(self, item: Item) -> None:
        """Nobody waits for the message any more. Forget its burst with the last of its messages."""
        # If the caller was cancelled, this tells the pace that the message needs no turn.
        item.verdict.cancel()
        del self._all[item]
        burst = item.burst
        if burst is None:
            return
        burst.left -= 1
        if burst.left > 0:
            return
        self._named.pop(burst.header.nonce, None)
        self._unsent.pop(burst, None)
        if self._open.get(burst.kind.place) is burst:
            # It is sent no more, so nothing may join it.
            del self._open[burst.kind.place]
        for timer in (burst.again, burst.doubt, *burst.deadlines.values()):
            if timer is not None:
                timer.cancel()
        # It may be resumed.
        burst.doubt = None
        burst.deadlines.clear()

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
        if header.nonce in self._named:
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

    def _pace(self, declared: Declared | None) -> Pace[Item | Burst] | None:
        if declared is None or declared.rate is None:
            return None
        pace = self._paces.get(declared.pattern)
        if pace is None:
            pace = Pace(declared.rate, self._release, self._supervisor)
            self._paces[declared.pattern] = pace
        elif pace.rate != declared.rate:
            pace.set_rate(declared.rate)
        return pace

    def _release(self, released: Item | Burst) -> None:
        """Go on with what has waited for its turn."""
        if isinstance(released, Item):
            self._join(released)
        else:
            self._send(released)

    def _new_burst(self, item: Item) -> Burst:
        kind = item.kind
        burst = Burst(
            kind=kind,
            order=item.order,
            header=kind.header,
            interval_s=RETRY_FIRST_S,
            is_nameless=not kind.resumed,
        )
        burst.add(item)
        return burst

    def _join(self, item: Item) -> None:
        """Have the message share an envelope with others of this turn of the event loop."""
        burst = self._open.get(item.kind.place)
        if burst is not None and burst.begun is not None and burst.takes(item):
            burst.add(item)
            self._set_deadline(burst, item, burst.begun)
            return
        burst = self._new_burst(item)
        self._send(burst)
        if not self._open:
            asyncio.get_running_loop().call_soon(self._open.clear)
        self._open[item.kind.place] = burst

    def _submit(self, burst: Burst) -> None:
        """Send it, in its turn if its subject has a rate."""
        if burst.is_over:
            return
        pace = burst.kind.pace
        if pace is None:
            self._send(burst)
        else:
            if burst.again is not None:
                burst.again.cancel()
            pace.submit(burst)

    def _send(self, burst: Burst) -> None:
        """Have it sent in this turn of the event loop, and again if no verdict comes in time."""
        # What is published on its subject from now on goes behind it.
        self._open.pop(burst.kind.place, None)
        if burst.begun is None:
            burst.begun = asyncio.get_running_loop().time()
            for item in burst.items:
                self._set_deadline(burst, item, burst.begun)
        if burst.is_nameless:
            self._name(burst)
        if burst.again is not None:
            burst.again.cancel()
        burst.again = self._supervisor.later("sending again", burst.interval_s, self._submit, burst)
        burst.interval_s = min(2 * burst.interval_s, RETRY_MOST_S)
        self._unsent[burst] = None
        self._wake.set()

    def _set_deadline(self, burst: Burst, item: Item, begun: float) -> None:
        """Start the time of a message, which began at ``begun`` by the event loop's clock."""
        seconds = item.timeout_s
        if burst.kind.resumed:
            # Negative if it waited for its turn that long: then its time is over at once.
            seconds = min(
                seconds,
                (burst.header.birth_ms + life_ms(live=burst.kind.live) - _now_ms()) / 1000,
            )
        moment = item.ends_at = begun + seconds
        if moment not in burst.deadlines:
            left_s = moment - asyncio.get_running_loop().time()
            burst.deadlines[moment] = self._supervisor.later(
                "a message's deadline", left_s, burst.give_up, moment
            )

    def _name(self, burst: Burst) -> None:
        """Give it a nonce that is born now."""
        self._named.pop(burst.header.nonce, None)
        burst.rename(new_nonce(_now_ms()))
        self._named[burst.header.nonce] = burst
        if burst.kind.on_named is not None:
            burst.kind.on_named(burst.header)

    def _send_later(self, burst: Burst) -> None:
        """Have it sent again after a short pause, in which the bus's clock or ledger moves on."""
        if burst.again is not None:
            burst.again.cancel()
        # An eighth of the pause after silence, because a relay has answered: 0.25 s at first.
        burst.again = self._supervisor.later(
            "sending again", burst.interval_s / 8, self._submit, burst
        )

    def verdicts(self) -> list[asyncio.Future[Stamp]]:
        """The verdicts that callers of :meth:`publish` wait for."""
        return [item.verdict for item in self._all if not item.verdict.done()]

    def resend(self) -> None:
        """Send all bursts without verdict again, now.

        For a new connection: whatever was under way on the last one may be lost.
        """
        # A copy, because a burst may get another nonce by it. One without an attempt is left out:
        # it waits for its turn, or is unsent already.
        for burst in list(self._named.values()):
            if burst.attempts and not burst.is_over:
                burst.interval_s = RETRY_FIRST_S
                self._submit(burst)

    def abandon(self) -> None:
        """Wait for no verdict any more, and send nothing more: the bot is closed."""
        self._is_closed = True
        for item in self._all:
            if not item.verdict.done():
                item.verdict.set_exception(item.abandoned())

    async def run(self) -> None:
        """Send unsent messages, for ever; cancel to stop."""
        while True:
            await self._wake.wait()
            client = await self._session.client()
            # Cleared after the wait: while there was no connection, more may have become unsent.
            self._wake.clear()
            # Nothing joins a burst that is sealed.
            self._open.clear()
            for burst in self._unsent:
                burst.leave_out_over()
            # Those that may not be sent are dropped here too: their deadline ends them.
            waiting = [one for one in self._unsent if may_be_sent(one, client.server_id, _now_ms())]
            self._unsent.clear()
            for live in (False, True):
                subject = ingress_subject(self._credentials.bot, live=live)
                for batch in bundles([one for one in waiting if one.kind.live is live]):
                    try:
                        # Not write(), which never waits: publish() does while 2 MiB have not left.
                        await client.publish(
                            subject,
                            seal_bundle(self._credentials.key, batch, _now_ms()),
                        )
                    except (NatsError, OSError) as error:
                        # By its own timer, or by resend() on the next connection.
                        log.debug("not sent, will be again: %s", type(error).__name__)

    def receive(self, data: bytes, nonce: bytes | None = None) -> None:
        """Take one stamp, or a bundle of them. Never raises.

        ``nonce``: the one in the subject that they came on, if it has one. Stamps that do not
        verify, or are about no message of this publisher, are ignored.
        """
        if not data or (nonce is not None and nonce not in self._named):
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
                if not self._strangers.doubt(receipt, self._named.get):
                    log.warning("ignored an invalid receipt: %s", error.what)
            else:
                self.take(stamp)

    def take(self, stamp: Stamp) -> None:
        """Take an opened stamp as a receipt, if it is the verdict on one of these bursts."""
        # It was opened under a key that the credentials name, whichever way it came.
        self._strangers.doubtful = False
        burst = self._named.get(stamp.nonce)
        if burst is None or burst.is_over:
            return
        if not burst.is_answered_by(stamp):
            return
        if self._on_policy is not None:
            self._on_policy(stamp.policy)
        if stamp.verdict is Verdict.ACCEPTED:
            burst.end_by(stamp)
        elif stamp.envelope in burst.answered:
            # A copy: while the session is renewed, a receipt comes on both connections.
            return
        elif not burst.is_past(_now_ms()):
            # Otherwise this process was stopped for so long that the bus may have forgotten that it
            # accepted the messages: the refusal proves nothing any more.
            self._take_refusal(burst, stamp)

    def _take_refusal(self, burst: Burst, stamp: Stamp) -> None:
        assert stamp.reason is not None
        # A refusal is always of an attempt that is known: see is_receipt().
        behind = behind_ms(stamp.judged_at_ms, burst.attempts[stamp.envelope], _now_ms())
        burst.clock = told(behind)
        burst.answered.add(stamp.envelope)
        now = asyncio.get_running_loop().time()
        left_s = max([moment - now for moment in burst.deadlines], default=0.0)
        then = burst.after(stamp.reason, detail=stamp.detail, behind_ms=behind, left_s=left_s)
        if then is Then.OVER:
            burst.end_by(stamp)
            return
        burst.refused = stamp
        burst.is_nameless = then is Then.ANEW
        if then is Then.IN_TURN and burst.kind.pace is not None:
            burst.kind.pace.hold_back()
            self._submit(burst)
        else:
            self._send_later(burst)


def _most(declared: Declared | None) -> int:
    """The most messages of one envelope on a subject with this declaration."""
    if declared is None:
        return MAX_PAYLOADS
    by_rate = MAX_PAYLOADS if declared.rate is None else max(1, declared.rate.burst // SHARE)
    return min(declared.together.payloads, by_rate)


def _most_bytes(declared: Declared | None) -> int:
    """The most bytes of several payloads in one envelope."""
    return MAX_TOGETHER_BYTES if declared is None else declared.together.size


def _outcome(item: Item) -> Stamp | SealbusError:
    error = item.verdict.exception()
    if error is None:
        return item.verdict.result()
    if isinstance(error, SealbusError):
        return error
    raise error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
