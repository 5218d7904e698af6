"""Bursts on their way: sealed, sent, and sent again, until each has its verdict.

How it works. A message enters by :meth:`Sender.join`, or in a burst of its own by
:meth:`Sender.submit`:

1. **joined** (``join``): it shares a :class:`~sealbus.sending.burst.Burst`, which becomes one
   envelope, with the messages on its subject that were published in the same turn of the event
   loop. So a burst costs little more than one message, and a single message waits for nothing.
   Messages on one subject keep their order.
2. **unsent** (``send``): the burst has a nonce, the time of its messages runs, and a timer that
   sends it again is set. A burst that is sent again waits for its subject's pace first
   (``submit``).
3. **sent** (:meth:`Sender.run`): one task seals all unsent bursts and writes them. It seals with
   the key of the connection in use (:attr:`sealbus.life.session.Session.key`). Bursts on
   several subjects share a signature and a bundle. A burst that cannot be sealed ends with the
   error.
4. **receipts** (:meth:`Sender.take`): an acceptance of the envelope ends it, and tells which of its
   messages are refused. A refusal ends it, or sends it back to step 2, now, in its turn, or after a
   pause (:meth:`~sealbus.sending.burst.Burst.after`).

When the connection is lost, bursts stay unsent until the next one. Bursts that were sent may be
lost with it, and so may their receipts: :meth:`Sender.resend` sends all of them again. Each is
sealed anew under the same nonce, which the relay's ledger makes harmless.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from nats.errors import Error as NatsError

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, Malformed
from sealbus.life.clock import Clock, told
from sealbus.life.session import Session
from sealbus.log import log
from sealbus.protocol.codec import is_bundle, split_bundle
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sealed import UnknownKey
from sealbus.protocol.stamp import Stamp, Verdict, open_stamp
from sealbus.protocol.subjects import ingress_subject
from sealbus.sending.bundling import bundles, seal_bundle
from sealbus.sending.burst import Burst, BurstItem, Then, may_be_sent
from sealbus.sending.minting import new_nonce
from sealbus.sending.strangers import Strangers
from sealbus.supervision import Supervisor
from sealbus.trust import Trust

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 8.0
"""Pause between two attempts with one nonce, doubled each time. A verdict takes milliseconds. A
relay that takes over from a dead one needs seconds."""


class Sender:
    """Seals and sends bursts, and matches the relay's stamps to them. The module lists the steps of
    a message."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        session: Session,
        verifier: Verifier,
        supervisor: Supervisor,
        on_policy: Callable[[bytes], None] | None = None,
        clock: Clock | None = None,
        trust: Trust | None = None,
        on_unknown: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            credentials: whose messages.
            session: gives the connection to send on.
            verifier: remembers seals that held, so that none is checked twice.
            supervisor: answers for the timers.
            on_policy: told the digest of the policy that each message was judged by.
            clock: learns from each verdict how far this machine's clock is off.
            trust: has the bus keys that verdicts are believed under. ``None``: those of the
                credentials.
            on_unknown: called for each receipt that is sealed by a key which ``trust`` has not.
        """
        self._credentials = credentials
        self._session = session
        self._verifier = verifier
        self._supervisor = supervisor
        self._on_policy = on_policy
        self._clock = clock or Clock(credentials.bot)
        self._trust = trust or Trust.of(credentials)
        self._on_unknown = on_unknown
        self._strangers = Strangers(
            credentials=credentials, trust=self._trust, verifier=verifier, supervisor=supervisor
        )
        """Explains receipts under a bus key that is not known."""
        self.named: dict[bytes, Burst] = {}
        """Bursts that have a nonce, by that: receipts are matched here."""
        self.open: dict[tuple[str, bool], Burst] = {}
        """Bursts that messages of this turn of the event loop may join, by subject and way."""
        self.unsent: dict[Burst, None] = {}
        """Bursts that are to be sealed next, in order. Each once: while there is no connection, the
        timer that sends one again runs out again and again."""
        self._wake = asyncio.Event()
        """Wakes :meth:`run`: something is unsent."""

    # ---- on its way out --------------------------------------------------------------------------

    def release(self, released: BurstItem | Burst) -> None:
        """Go on with a message or burst that has waited for its turn."""
        if isinstance(released, BurstItem):
            self.join(released)
        else:
            self.send(released)

    def new_burst(self, item: BurstItem) -> Burst:
        """A burst of one message, which others may join."""
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

    def join(self, item: BurstItem) -> None:
        """Have the message share an envelope with others of this turn of the event loop."""
        burst = self.open.get(item.kind.place)
        if burst is not None and burst.begun is not None and burst.takes(item):
            burst.add(item)
            self.set_deadline(burst, item, burst.begun)
            return
        burst = self.new_burst(item)
        self.send(burst)
        if not self.open:
            asyncio.get_running_loop().call_soon(self.open.clear)
        self.open[item.kind.place] = burst

    def submit(self, burst: Burst) -> None:
        """Send it, in its turn if its subject has a rate."""
        if burst.is_over:
            return
        pace = burst.kind.pace
        if pace is None:
            self.send(burst)
        else:
            if burst.again is not None:
                burst.again.cancel()
            pace.submit(burst)

    def send(self, burst: Burst) -> None:
        """Have it sent in this turn of the event loop, and again if no verdict comes in time."""
        # Messages that are published on its subject from now on go behind it.
        self.open.pop(burst.kind.place, None)
        if burst.begun is None:
            burst.begun = asyncio.get_running_loop().time()
            for item in burst.items:
                self.set_deadline(burst, item, burst.begun)
        if burst.is_nameless:
            self._name(burst)
        if burst.again is not None:
            burst.again.cancel()
        burst.again = self._supervisor.later("sending again", burst.interval_s, self.submit, burst)
        burst.interval_s = min(2 * burst.interval_s, RETRY_MOST_S)
        self.unsent[burst] = None
        self._wake.set()

    def set_deadline(self, burst: Burst, item: BurstItem, begun: float) -> None:
        """Start the time of a message, which began at ``begun`` by the event loop's clock."""
        seconds = item.timeout_s
        if burst.kind.resumed:
            # Negative if it waited for its turn that long: then its time is over at once.
            seconds = min(
                seconds,
                (burst.header.birth_ms + life_ms(live=burst.kind.live) - now_ms()) / 1000,
            )
        moment = item.ends_at = begun + seconds
        if moment not in burst.deadlines:
            left_s = moment - asyncio.get_running_loop().time()
            burst.deadlines[moment] = self._supervisor.later(
                "a message's deadline", left_s, burst.give_up, moment
            )

    def _name(self, burst: Burst) -> None:
        """Give it a nonce that is born now."""
        self.named.pop(burst.header.nonce, None)
        burst.rename(new_nonce(now_ms()))
        self.named[burst.header.nonce] = burst
        if burst.kind.on_named is not None:
            burst.kind.on_named(burst.header)

    def _send_later(self, burst: Burst) -> None:
        """Have it sent again after a short pause, in which the bus's clock or ledger moves on."""
        if burst.again is not None:
            burst.again.cancel()
        # An eighth of the pause after silence, because a relay has answered: 0.25 s at first.
        burst.again = self._supervisor.later(
            "sending again", burst.interval_s / 8, self.submit, burst
        )

    def forget(self, burst: Burst) -> None:
        """Send a burst no more: nobody waits for any of its messages."""
        self.named.pop(burst.header.nonce, None)
        self.unsent.pop(burst, None)
        if self.open.get(burst.kind.place) is burst:
            # It is sent no more, so nothing may join it.
            del self.open[burst.kind.place]
        for timer in (burst.again, burst.doubt, *burst.deadlines.values()):
            if timer is not None:
                timer.cancel()
        # It may be resumed.
        burst.doubt = None
        burst.deadlines.clear()

    def resend(self) -> None:
        """Send all bursts without verdict again, now.

        For a new connection: whatever was under way on the last one may be lost. And for a new key
        of the bus: receipts under it were not believed before.
        """
        # A copy, because a burst may get another nonce by it. One without an attempt is left out:
        # it waits for its turn, or is unsent already.
        for burst in list(self.named.values()):
            if burst.attempts and not burst.is_over:
                burst.interval_s = RETRY_FIRST_S
                self.submit(burst)

    async def run(self) -> None:
        """Send unsent messages, for ever; cancel to stop."""
        while True:
            await self._wake.wait()
            client = await self._session.client()
            # Cleared after the wait: while there was no connection, more may have become unsent.
            self._wake.clear()
            # Nothing joins a burst that is sealed.
            self.open.clear()
            for burst in self.unsent:
                burst.leave_out_over()
            # Those that may not be sent are dropped here too: their deadline ends them.
            changes = self._session.server_changes
            waiting = [one for one in self.unsent if may_be_sent(one, changes, now_ms())]
            self.unsent.clear()
            for live in (False, True):
                subject = ingress_subject(self._credentials.bot, live=live)
                for batch in bundles([one for one in waiting if one.kind.live is live]):
                    for sealed in self._seal(batch):
                        try:
                            # Not write(), which never waits: publish() does while 2 MiB have not
                            # left.
                            await client.publish(subject, sealed)
                        except (NatsError, OSError) as error:
                            # By its own timer, or by resend() on the next connection.
                            log.debug("not sent, will be again: %s", type(error).__name__)

    def _seal(self, batch: Sequence[Burst]) -> list[bytes]:
        """The NATS messages that carry ``batch``: one, unless a burst of it cannot be sealed.

        The messages of that burst end with the error. All others go on, each burst by itself.
        """
        try:
            return [seal_bundle(self._session.key, batch, now_ms())]
        except InvalidInput as error:
            if len(batch) > 1:
                return [sealed for one in batch for sealed in self._seal([one])]
            unsealable = error
        batch[0].end(lambda _: unsealable)
        return []

    # ---- receipts --------------------------------------------------------------------------------

    def receive(self, data: bytes, nonce: bytes | None = None) -> None:
        """Take one stamp, or a bundle of them. Never raises.

        ``nonce``: the one in the subject that they came on, if it has one. Stamps that do not
        verify, or are about no message of this publisher, are ignored.
        """
        if not data or (nonce is not None and nonce not in self.named):
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
                stamp = open_stamp(receipt, self._trust.keys, self._verifier)
            except Malformed as error:
                if isinstance(error, UnknownKey) and self._on_unknown is not None:
                    self._on_unknown()
                if not self._strangers.doubt(receipt, self.named.get):
                    log.warning("ignored an invalid receipt: %s", error.what)
            else:
                self.take(stamp)

    def take(self, stamp: Stamp) -> None:
        """Take an opened stamp as a receipt, if it is the verdict on one of these bursts."""
        # It was opened under a key that is known, whichever way it came.
        self._strangers.doubtful = False
        burst = self.named.get(stamp.nonce)
        if burst is None or burst.is_over:
            return
        if not burst.is_answered_by(stamp):
            return
        if self._on_policy is not None:
            self._on_policy(stamp.policy)
        behind = self._learn(burst, stamp)
        if stamp.verdict is Verdict.ACCEPTED:
            burst.end_by(stamp)
        elif stamp.envelope in burst.answered:
            # A copy: while the session is renewed, a receipt comes on both connections.
            return
        elif not burst.is_past(now_ms()):
            # Otherwise this process was stopped for so long that the bus may have forgotten that it
            # accepted the messages: the refusal proves nothing any more.
            self._take_refusal(burst, stamp, behind)

    def _learn(self, burst: Burst, stamp: Stamp) -> int:
        """By how much this machine's clock is behind the bus's, as the stamp shows."""
        sealed_at_ms = burst.attempts.get(stamp.envelope)
        if sealed_at_ms is None:  # an attempt of another process
            return 0
        behind = self._clock.learn(
            judged_at_ms=stamp.judged_at_ms, sealed_at_ms=sealed_at_ms, received_at_ms=now_ms()
        )
        burst.clock = told(behind)
        return behind

    def _take_refusal(self, burst: Burst, stamp: Stamp, behind: int) -> None:
        assert stamp.reason is not None
        burst.answered.add(stamp.envelope)
        if stamp.reason is Reason.CERTIFICATE_NOT_VALID:
            # A clock or the policy has changed since the key was made, or this machine slept.
            self._session.replace_key(burst.sealed_with.get(stamp.envelope))
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
            self.submit(burst)
        else:
            self._send_later(burst)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
