"""How a message ended, when it was not accepted: the part of the error tree that knows stamps and
reasons.

:mod:`sealbus.errors` draws the whole tree.
"""

from __future__ import annotations

from typing import Final

from sealbus.errors import SealbusError
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Stamp

ABOUT_TIME: Final = frozenset({Reason.EXPIRED, Reason.STALE, Reason.ISSUED_IN_FUTURE})
"""Refusals that a wrong clock may cause."""

_HINTS: Final = {
    Reason.WRONG_DELIVERY: "leave `live` out: the bus tells the bot which subjects are live",
    Reason.NOT_GRANTED: "ask the bus's operators for a `publish` grant that covers the subject",
}


class Refused(SealbusError):
    """The relay's signed verdict is a refusal.

    ``reason`` is the stable :class:`~sealbus.protocol.reason.Reason`. ``detail`` says where and
    which rule, never a payload's value. ``faults`` are its lines: one for each fault of the
    payload's schema, at most eight. ``record`` is the message's number in the quarantine. It
    is ``None`` if the message was not kept, or if its envelope was accepted, because a stamp that
    accepts names no record. ``stamp`` is the relay's sealed verdict, which proves all of it. The
    stamp of an accepted envelope lists this message as refused.
    ``clock`` says how far this machine's clock is off, if the stamp shows that it is. ``index`` is
    the message's place in its envelope.
    """

    def __init__(
        self,
        subject: str,
        reason: Reason,
        *,
        detail: str | None,
        stamp: Stamp,
        index: int = 0,
        clock: str | None = None,
    ) -> None:
        self.faults: tuple[str, ...] = tuple(detail.split("\n")) if detail else ()
        explained = f"{reason.meaning}: {'; '.join(self.faults)}" if self.faults else reason.meaning
        kept = ""
        hint = _HINTS.get(reason)
        if stamp.record is not None:
            kept = f", kept as record {stamp.record}"
            hint = (
                hint or f"operators see the message with `sealbus quarantine show {stamp.record}`"
            )
        if clock is not None and reason in ABOUT_TIME:
            explained = f"{explained}; {clock}"
            hint = "set this machine's clock, and keep it right with NTP"
        super().__init__(f"{subject} refused ({reason.value}){kept}: {explained}", hint=hint)
        self.clock = clock
        self.subject = subject
        self.reason = reason
        self.detail = detail
        self.record = stamp.record
        self.stamp = stamp
        self.index = index


class Unresolved(SealbusError):
    """No verdict came in time, or none that can be believed: the message may have been accepted.

    ``nonce`` (16 bytes) and ``index`` name it. :meth:`sealbus.Bot.resume` finds out, in the same
    process, if it was the caller's time that ended. It cannot if the bot was closed, if the bus key
    is unknown, or if the bot lost its nats-server under a live message, and came to another one or
    to one that was started anew. A message that had an envelope of its own can also be published
    again under this nonce, from another process too. Both work while the nonce lives: two minutes
    for stream messages, half a minute for live ones, from when the message was first sent. Later
    they raise :class:`InvalidInput`, because the bus may have forgotten the nonce and would deliver
    the message again.

    Where the verdict came under a bus key that the credentials do not name, ``__cause__`` is a
    :class:`CredentialsError` that names both keys. Publish again with credentials that name the
    bus's key.
    """

    def __init__(
        self,
        what: str,
        *,
        nonce: bytes,
        index: int = 0,
        again: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what, hint=hint)
        self.nonce = nonce
        self.index = index
        self.again = again
        """The message, for :meth:`sealbus.Bot.resume`. ``None``: it cannot be resumed."""


class NoReply(SealbusError):
    """The request was accepted, and nobody answered: no valid answer came in time, or the bus says
    that nobody listens."""


class RequestFailed(SealbusError):
    """The request was answered, and the answer is that it failed.

    ``error`` is a word that programs can compare. It is the name of the exception that the other
    bot's handler raised, or a name that its author chose, or ``answer-refused`` if the bus refused
    the answer. ``message`` is a sentence for people. ``bot`` says who answered.

    A reply handler raises it to say why it does not answer::

        raise RequestFailed("no such sku", error="unknown-sku")

    Both texts go to the asker. They are cut to 64 and 200 characters.
    """

    def __init__(
        self,
        message: str,
        *,
        error: str = "failed",
        bot: str | None = None,
        subject: str = "",
    ) -> None:
        # The text comes from another bot, and may be written to a terminal.
        said = "".join(
            one if one.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for one in f"{error}: {message}"
        )
        super().__init__(
            said if bot is None else f"{bot} answered on {subject} that it failed: {said}",
        )
        self.error = error
        self.message = message
        self.bot = bot
