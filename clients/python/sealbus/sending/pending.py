"""A message without verdict: its attempts, and the consequences of each refusal. Reads no clock.

How it works. A message is sealed and sent, and again after a pause, until a verdict ends it. Each
sealing is an *attempt*, with its own digest, and each attempt may get a verdict of its own, in any
order, or none. So a refusal of one says nothing yet about the others, unless its reason does.

* **nameless**: it has no nonce yet, or one that it must not use again. It gets one when it is sent.
* **open**: an attempt has no verdict. Its acceptance may be on the way.
* **refused**: an attempt was refused, and :meth:`Pending.after` decides what follows
  (:class:`Then`).
* **over**: :attr:`Pending.verdict` is done: with the accepting stamp, a refusal, or ``Unresolved``.

The publisher changes it (:mod:`sealbus.sending.publisher`); nothing here does by itself. A lost
connection changes nothing: attempts stay open, and the message is sealed again under the same
nonce, which the relay's ledger makes harmless.
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
from sealbus.protocol.envelope import Header
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.reason import OLDER_THAN_LEDGER, Reason
from sealbus.protocol.stamp import Stamp
from sealbus.sending.matching import is_receipt
from sealbus.sending.pacing import Pace

_ABOUT_TIME: Final = frozenset({Reason.EXPIRED, Reason.STALE})
"""Refusals for their time. They say nothing about an earlier attempt, and an attempt that is sealed
later may avoid them."""

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
"""Refusals that hold for every attempt: the bytes alone decide, or the ledger does."""

_CHANGING: Final = frozenset(
    {Reason.RATE, Reason.CAUSE, Reason.KEY_NOT_VALID, Reason.KEY_REVOKED, Reason.ISSUED_IN_FUTURE}
)
"""Refusals that depend on when a message is judged. All other reasons depend on the policy, which
seldom changes. In either case an earlier attempt may have been accepted and its receipt lost. So
while an attempt is open, only an acceptance or the end of the caller's time ends the message. The
same holds for a resumed nonce, except for refusals by the policy. It holds for refusals for their
time too, because they come before the ledger is asked."""


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
class Pending:
    """One message without verdict."""

    order: int
    """Counts up with each message of this process. Lower ones go first."""
    header: Header
    """Without an issue time, which each attempt has of its own."""
    payload: bytes
    """Packed."""
    live: bool
    """Whether it is judged at once, or stored first."""
    resumed: bool
    """Whether attempts of an earlier call or process may have been accepted under the nonce."""
    timeout_s: float
    """The caller's time, from when it is sent for the first time."""
    verdict: asyncio.Future[Stamp]
    """The caller waits for it."""
    pace: Pace[Pending] | None
    """Gives it its turn, where its subject has a rate."""
    on_named: Callable[[Header], None] | None
    """Told of each nonce that it gets."""
    interval_s: float
    """Pause before it is sent again. Grows."""
    is_nameless: bool
    """Whether it gets a nonce when it is sent next: its first one, or one in place of the last."""
    attempts: dict[bytes, int] = field(default_factory=dict)
    """Digests of the envelopes that were sent under its nonce, and when each was sealed (ms since
    1970)."""
    answered: set[bytes] = field(default_factory=set)
    """Attempts that were refused."""
    server: str = ""
    """The server, and which of its starts, that the last attempt went to."""
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
        """Whether some attempt may have been accepted, and the receipt is not here."""
        return self.resumed or self.has_open_attempt

    @property
    def has_open_attempt(self) -> bool:
        """Whether some attempt of this process has no verdict."""
        return self.attempts.keys() != self.answered

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.verdict.done()

    def is_answered_by(self, stamp: Stamp) -> bool:
        """Whether an opened ``stamp`` is a verdict on it."""
        attempts = self.attempts.keys()
        return is_receipt(stamp, self.header, attempts, live=self.live, resumed=self.resumed)

    def is_past(self, now_ms: int) -> bool:
        """Whether the nonce's life is over.

        Nothing is sealed under it any more, and no refusal of it is believed: the ledger may have
        forgotten an acceptance.
        """
        return now_ms - self.header.birth_ms > life_ms(live=self.live)

    def rename(self, nonce: bytes) -> None:
        """Begin again under ``nonce``. Attempts under the one before count no more."""
        self.header = replace(self.header, nonce=nonce)
        self.attempts.clear()
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
        if reason is Reason.RATE and self.pace is not None:
            return Then.IN_TURN
        if reason not in _FINAL and (
            self.has_open_attempt or (self.resumed and reason in _CHANGING | _ABOUT_TIME)
        ):
            return Then.LATER
        return Then.OVER

    def unresolved(self) -> SealbusError:
        """The caller's time is over, and no verdict came."""
        error = Unresolved(
            f"no verdict on {self.header.subject} within {self.timeout_s:g} s",
            nonce=self.header.nonce,
            hint="it may have been accepted: publish again with this nonce to find out."
            " Is a relay running, and has the disk of nats-server room? `sealbus ping` tells",
        )
        error.__cause__ = self.refused
        return error

    def disbelieved(self, why: CredentialsError) -> SealbusError:
        """Its verdict came, under a bus key that the credentials do not name."""
        error = Unresolved(
            f"no verdict on {self.header.subject} can be believed: {why.what}",
            nonce=self.header.nonce,
            hint=f"{why.hint}. The message may have been accepted: publish again with this nonce"
            " and the new credentials to find out",
        )
        error.__cause__ = why
        return error

    def abandoned(self) -> SealbusError:
        """The bot is closed."""
        subject = self.header.subject
        nonce = self.header.nonce
        # Attempts under an earlier nonce need not count: all of them were refused.
        if not self.attempts and not self.resumed:
            return NotConnected(f"the bot was closed before the message on {subject} was sent")
        return Unresolved(
            f"the bot was closed before the verdict on {subject} came",
            nonce=nonce,
            hint="it may have been accepted: publish again with this nonce to find out",
        )


def may_be_sent(pending: Pending, server: str, now_ms: int) -> bool:
    """Whether another attempt may go to ``server``, which names a server and which of its starts.

    The live ledger is in the server's memory. After a restart relays refuse every attempt under a
    nonce from before. So nobody can find out the outcome any more, and the caller is told at once.
    """
    if pending.verdict.done() or pending.is_past(now_ms):
        return False
    if pending.live and pending.attempts and pending.may_be_accepted and pending.server != server:
        pending.verdict.set_exception(
            Unresolved(
                f"nats-server was started anew before the verdict on {pending.header.subject} came",
                nonce=pending.header.nonce,
                hint="the message may have been delivered: send it anew if delivering it twice "
                "does no harm",
            )
        )
        return False
    pending.server = server
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
