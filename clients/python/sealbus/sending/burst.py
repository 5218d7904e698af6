"""Messages without verdict: the attempts at their envelope, and the consequences of each refusal.
Reads no clock.

How it works. Messages on one subject that are published together travel in one envelope: a
*burst*. A burst is sealed and sent, and again after a pause, until a verdict ends it. Each sealing
is an *attempt*, with its own digest, and each attempt may get a verdict of its own, in any order,
or none. So a refusal of one says nothing yet about the others, unless its reason does.

* **nameless**: it has no nonce yet, or one that it must not use again. It gets one when it is sent.
* **open**: an attempt has no verdict. Its acceptance may be on the way.
* **refused**: an attempt was refused, and :meth:`Burst.after` decides what follows (:class:`Then`).
* **over**: the :attr:`BurstItem.verdict` of each message is done: with the accepting stamp, a
refusal of
  the envelope or of this message, or ``Unresolved``. A message may be over before the others,
  because its caller's time is over. It keeps its place in the envelope, so it may yet be accepted,
  and is never told as refused before the others are over.

A message that is over may be resumed. Its burst goes on then, with all messages at their places, or
has its verdict already.

The sender changes it (:mod:`sealbus.sending.sender`); nothing here does by itself. A lost
connection changes nothing: attempts stay open, and the burst is sealed again under the same nonce,
which the relay's ledger makes harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

from sealbus.errors import CredentialsError, NotConnected, SealbusError
from sealbus.life.clock import told
from sealbus.outcomes import Refused, Unresolved
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import MAX_PAYLOADS, MAX_TOGETHER_BYTES
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.reason import OLDER_THAN_LEDGER, Reason
from sealbus.protocol.stamp import Stamp, Verdict
from sealbus.protocol.value import value
from sealbus.sending.matching import is_receipt
from sealbus.sending.pacing import Pace

_ABOUT_TIME: Final = frozenset({Reason.EXPIRED, Reason.STALE})
"""Refusals for their time. They say nothing about an earlier attempt, and an attempt that is sealed
later may avoid them."""

_FINAL: Final = frozenset(
    {
        Reason.ENCODING,
        Reason.BAD_SEAL,
        Reason.WRONG_BUS,
        Reason.WRONG_BOT,
        Reason.WRONG_DELIVERY,
        Reason.REPLAY,
        Reason.NONCE_REUSED,
        Reason.ALREADY_ANSWERED,
    }
)
"""Refusals that hold for every attempt: the bytes alone decide, or the ledger does. A subject keeps
its delivery class for longer than a nonce lives."""

_CHANGING: Final = frozenset(
    {
        Reason.RATE,
        Reason.CAUSE,
        Reason.KEY_NOT_VALID,
        Reason.KEY_REVOKED,
        Reason.ISSUED_IN_FUTURE,
        Reason.QUOTA,
    }
)
"""Refusals that depend on when a message is judged. All other reasons depend on the policy, which
seldom changes. *Size* and *payload* are among them, by the largest payload of the subject. In
either case an earlier attempt may have been accepted and its receipt lost. So while an attempt is
open, only an acceptance or the end of the caller's time ends the message. The same holds for a
resumed nonce, except for refusals by the policy. It holds for refusals for their time too, because
they come before the ledger is asked."""


_AGAIN: Final = "it may have been accepted: publish again with this nonce to find out"
_NEW_CREDENTIALS: Final = (
    "it may have been accepted: publish again with this nonce and the new credentials to find out"
)
_RESUME: Final = "it may have been accepted: bot.resume(error) finds out"
_UNKNOWN: Final = "it may have been accepted, or not"
_ASK_AGAIN: Final = "it may have been accepted: ask again if a second request does no harm"


class Then(Enum):
    """The consequence of a refusal."""

    OVER = auto()
    """The message is refused."""
    LATER = auto()
    """It is sent again after a pause."""
    ANEW = auto()
    """It is sent again after a pause under another nonce. This one is older than the ledger, and
    nothing was accepted under it."""
    IN_TURN = auto()
    """It is sent again when its subject's rate allows."""


@dataclass(slots=True, eq=False, kw_only=True)
class BurstItem:
    """One message, whose caller waits."""

    kind: Kind
    payload: bytes
    """Packed, behind its salt. It keeps the salt at each attempt."""
    timeout_s: float
    """The caller's time, from when it is sent for the first time."""
    verdict: asyncio.Future[Stamp]
    """The caller waits for it."""
    order: int
    """Counts up with each message of this process. Lower ones go first."""
    burst: Burst | None = None
    """The one that it joined last, which may have left it out since. ``None``: it waits for its
    turn, and has joined none yet."""
    ends_at: float | None = None
    """When the caller's time is over, by the event loop's clock. ``None``: it has not begun."""

    @property
    def weight(self) -> int:
        """How much of its subject's rate it uses."""
        return 1

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.verdict.done()

    @property
    def was_sent(self) -> bool:
        """Whether it may have left this process, or another one under its nonce."""
        burst = self.burst
        return self.kind.resumed or (
            burst is not None and bool(burst.attempts) and self in burst.items
        )

    def renew(self, timeout_s: float) -> None:
        """Have a caller wait for it again."""
        self.verdict = asyncio.get_running_loop().create_future()
        self.timeout_s = timeout_s
        self.ends_at = None

    def abandoned(self) -> SealbusError:
        """The error for its caller where the bot is closed."""
        subject = self.kind.header.subject
        # Attempts under an earlier nonce need not count: all of them were refused.
        if not self.was_sent:
            return NotConnected(f"the bot was closed before the message on {subject} was sent")
        burst = self.burst
        assert burst is not None  # only an Item that joins others waits without a burst
        return Unresolved(
            f"the bot was closed before the verdict on {subject} came",
            nonce=burst.header.nonce,
            index=burst.items.index(self),
            hint=burst.how_to_go_on(_AGAIN if len(burst.items) == 1 else _UNKNOWN),
        )


@value
class Kind:
    """All that the messages of one envelope have in common."""

    header: Header
    """Without nonce and issue time, unless ``resumed``."""
    live: bool
    """Whether it is judged at once, or stored first."""
    most: int = MAX_PAYLOADS
    """The most messages of one envelope, whatever the rate. 1: each is alone."""
    most_bytes: int = MAX_TOGETHER_BYTES
    """The most bytes of several payloads in it. A larger payload is alone. Salts count here, and
    not at the relay."""
    parent: bytes | None = None
    """Encoded, where the one message has a parent."""
    resumed: bool = False
    """Whether attempts of an earlier call or process may have been accepted under the nonce."""
    pace: Pace[BurstItem | Burst] | None = None
    """Gives messages their turn by the subject's rate. ``None``: its declaration is not known."""
    on_named: Callable[[Header], None] | None = None
    """Told of each nonce that the envelope gets, because it is a request. ``None``: it is none."""

    @property
    def place(self) -> tuple[str, bool]:
        """Where it goes: messages of one place keep their order."""
        return self.header.subject, self.live


@dataclass(slots=True, eq=False, kw_only=True)
class Burst:
    """The messages of one envelope, without verdict. A message alone is a burst of one."""

    kind: Kind
    order: int
    """The order of its first message."""
    header: Header
    """Without an issue time, which each attempt has of its own."""
    interval_s: float
    """Pause before it is sent again. Grows."""
    is_nameless: bool
    """Whether it gets a nonce when it is sent next: its first one, or one in place of the last."""
    items: list[BurstItem] = field(default_factory=list)
    """The messages, in the order of their payloads. Once it was sent, a message that is over keeps
    its place."""
    size: int = 0
    """Bytes of the payloads, with their salts. An upper bound once a message was left out."""
    left: int = 0
    """How many of its callers wait."""
    attempts: dict[bytes, int] = field(default_factory=dict)
    """Digests of the envelopes that were sent under its nonce, and when each was sealed (ms since
    1970)."""
    sealed_with: dict[bytes, SessionKey] = field(default_factory=dict)
    """The session key of each of these attempts, by digest."""
    answered: set[bytes] = field(default_factory=set)
    """Attempts that were refused."""
    server_changes: int = 0
    """Those of the session (:attr:`sealbus.life.session.Session.server_changes`) at the last
    attempt."""
    again: asyncio.TimerHandle | None = None
    """Runs out when it should be sealed anew."""
    begun: float | None = None
    """When it was to be sent for the first time, by the event loop's clock."""
    deadlines: dict[float, asyncio.TimerHandle] = field(default_factory=dict)
    """Run out when the time of callers is over, by :attr:`BurstItem.ends_at`."""
    doubt: asyncio.TimerHandle | None = None
    """Runs out when no receipt under a known bus key came after one under another."""
    refused: Stamp | None = None
    """The last refusal that another attempt may avoid."""
    verdict: Stamp | None = None
    """The last word on it: an acceptance, or a refusal after which nothing more is sent."""
    clock: str | None = None
    """How far this machine's clock is off, as the last verdict shows."""

    @property
    def weight(self) -> int:
        """How much of its subject's rate it uses."""
        return len(self.items)

    def takes(self, item: BurstItem) -> bool:
        """Whether one more message, on the same subject, may share the envelope."""
        pace = self.kind.pace
        return (
            len(self.items) < self.kind.most
            and (pace is None or len(self.items) < pace.most)
            and self.size + len(item.payload) <= self.kind.most_bytes
            and self.kind.header == item.kind.header
        )

    def add(self, item: BurstItem) -> None:
        """Put one more message into the envelope, which was not sent yet."""
        item.burst = self
        self.items.append(item)
        self.size += len(item.payload)
        self.left += 1

    def leave_out(self, item: BurstItem) -> None:
        """Leave out a message that was not sent yet."""
        if item in self.items:
            self.items.remove(item)

    def leave_out_over(self) -> None:
        """Leave out the messages for which nobody waits any more, if none was sent yet."""
        if not self.attempts and not self.kind.resumed:
            self.items = [item for item in self.items if not item.is_over]

    def end(self, error: Callable[[int], SealbusError]) -> None:
        """End every message that is waited for. ``error``: of the one at an index."""
        for index, item in enumerate(self.items):
            if not item.verdict.done():
                item.verdict.set_exception(error(index))

    def end_by(self, stamp: Stamp) -> None:
        """End every message as ``stamp`` says. It is the last word on the envelope."""
        self.verdict = stamp
        own = {payload.index for payload in stamp.refused}
        for index, item in enumerate(self.items):
            if item.verdict.done():
                continue
            if stamp.verdict is not Verdict.ACCEPTED or index in own:
                item.verdict.set_exception(self.refusal(index, stamp))
            else:
                item.verdict.set_result(stamp)

    def refusal(self, index: int, stamp: Stamp) -> Refused:
        """The error for the message at ``index``, which ``stamp`` does not accept."""
        own = next((payload for payload in stamp.refused if payload.index == index), None)
        reason = stamp.reason if own is None else own.reason
        detail = stamp.detail if own is None else own.detail
        assert reason is not None
        return Refused(
            self.header.subject,
            reason,
            detail=detail,
            stamp=stamp,
            index=index,
            clock=self.clock,
        )

    def how_to_go_on(self, hint: str) -> str:
        """``hint``, for a message without verdict. The answer to a request cannot be found out, so
        its hint is another one."""
        return hint if self.kind.on_named is None else _ASK_AGAIN

    @property
    def may_be_accepted(self) -> bool:
        """Whether some attempt may have been accepted, and the receipt is not here."""
        return self.kind.resumed or self.has_open_attempt

    @property
    def has_open_attempt(self) -> bool:
        """Whether some attempt of this process has no verdict."""
        return self.attempts.keys() != self.answered

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for any of its messages any more."""
        return all(item.verdict.done() for item in self.items)

    def is_answered_by(self, stamp: Stamp) -> bool:
        """Whether an opened ``stamp`` is a verdict on it."""
        return is_receipt(
            stamp,
            self.header,
            self.attempts.keys(),
            count=len(self.items),
            live=self.kind.live,
            resumed=self.kind.resumed,
        )

    def is_past(self, now_ms: int) -> bool:
        """Whether the nonce's life is over.

        Nothing is sealed under it any more, and no refusal of it is believed: the ledger may have
        forgotten an acceptance.
        """
        return now_ms - self.header.birth_ms > life_ms(live=self.kind.live)

    def rename(self, nonce: bytes) -> None:
        """Begin again under ``nonce``. Attempts under the one before count no more."""
        self.header = replace(self.header, nonce=nonce)
        self.attempts.clear()
        self.sealed_with.clear()
        self.answered.clear()
        self.is_nameless = False

    def after(self, reason: Reason, *, detail: str | None, behind_ms: int, left_s: float) -> Then:
        """The consequence of a refusal, which is in :attr:`answered` already.

        Args:
            reason: the refusal's reason.
            detail: the refusal's detail.
            behind_ms: by how much this machine's clock is behind the bus's.
            left_s: the rest of the caller's time, in seconds.
        """
        if reason in _ABOUT_TIME and not _is_hopeless(reason, behind_ms, left_s):
            is_too_old = reason is Reason.STALE and detail == OLDER_THAN_LEDGER
            return Then.ANEW if is_too_old and not self.may_be_accepted else Then.LATER
        if reason is Reason.CERTIFICATE_NOT_VALID:
            # It is about the session key. The next attempt may have another one.
            return Then.LATER
        pace = self.kind.pace
        if reason is Reason.RATE and pace is not None and pace.has_turn(self.weight):
            # A rate that is not known here is new. The bot is told soon, and keeps to it then.
            return Then.LATER if pace.rate is None else Then.IN_TURN
        if reason not in _FINAL and (
            self.has_open_attempt or (self.kind.resumed and reason in _CHANGING | _ABOUT_TIME)
        ):
            return Then.LATER
        return Then.OVER

    def give_up(self, moment: float) -> None:
        """End the messages whose time is over at ``moment``: no verdict came until then."""
        self.deadlines.pop(moment, None)
        # Where others wait, the envelope is sent again, and may yet be accepted.
        is_last = all(item.ends_at == moment for item in self.items if not item.is_over)
        if is_last and self.refused is not None and not self.may_be_accepted:
            self.end_by(self.refused)
            return
        for index, item in enumerate(self.items):
            if item.ends_at != moment or item.is_over:
                continue
            error = Unresolved(
                f"no verdict on {self.header.subject} within {item.timeout_s:g} s"
                + (f"; {self.clock}" if self.clock is not None else ""),
                nonce=self.header.nonce,
                index=index,
                again=item,
                hint=self.how_to_go_on(_RESUME)
                + ". Is a relay running"
                + ("" if self.kind.live else ", and has the disk of nats-server room")
                + "? `sealbus ping` tells",
            )
            if self.refused is not None:
                error.__cause__ = self.refusal(index, self.refused)
            item.verdict.set_exception(error)

    def disbelieved(self, index: int, why: CredentialsError) -> SealbusError:
        """The error for the message at ``index``, whose verdict came under a bus key that the
        credentials do not name."""
        error = Unresolved(
            f"no verdict on {self.header.subject} can be believed: {why.what}",
            nonce=self.header.nonce,
            index=index,
            hint=f"{why.hint}. About this message: "
            + self.how_to_go_on(_NEW_CREDENTIALS if len(self.items) == 1 else _UNKNOWN),
        )
        error.__cause__ = why
        return error


def may_be_sent(burst: Burst, server_changes: int, now_ms: int) -> bool:
    """Whether another attempt may be sent after this number of
    :attr:`~sealbus.life.session.Session.server_changes`.

    The live ledger is in the memory of servers. After a restart relays refuse every attempt under a
    nonce from before. On a cluster the ledger may have been lost with one node, and a relay on
    another node notices that up to three seconds later. So the caller is told at once.
    """
    if burst.is_over or burst.is_past(now_ms):
        return False
    has_moved = burst.server_changes != server_changes
    if burst.kind.live and burst.attempts and burst.may_be_accepted and has_moved:
        burst.end(
            lambda index: Unresolved(
                "the bot lost its nats-server, and came to another one or to one that was started "
                f"anew, before the verdict on {burst.header.subject} came",
                nonce=burst.header.nonce,
                index=index,
                hint="the message may have been delivered: send it anew if delivering it twice "
                "does no harm",
            )
        )
        return False
    burst.server_changes = server_changes
    return True


def _is_hopeless(reason: Reason, behind_ms: int, left_s: float) -> bool:
    """Whether every further attempt would be refused for its time as well, because this machine's
    clock is behind."""
    if told(behind_ms) is None:
        return False
    if reason is Reason.EXPIRED:
        return True
    # Too old for the ledger: that ends when this clock has passed the moment at which the ledger
    # began.
    return behind_ms > left_s * 1000
