"""Everything this library raises.

::

    SealbusError                 what  hint
    ├── InvalidInput             the caller's mistake: a name, a value, a file. Also a ValueError.
    ├── Malformed                the peer's mistake: bytes that break a format. Also a ValueError.
    ├── CredentialsError         a credentials file or environment that cannot be used
    ├── ConnectionFailed         no session with the bus could be had
    ├── InvitationRefused        the bus does not enrol the key that came with a token
    ├── NotConnected             a call outside a bot's life: before connect(), or after close()
    ├── BackgroundFailed         a part that works in the background has ended: .part .kind
    ├── SubscriptionDenied       the policy does not grant the subscription: .pattern
    ├── Refused                  the relay refused the message: .reason .faults .record
    ├── Unresolved               no verdict: the message may have been accepted: .nonce
    ├── NoReply                  a request was accepted, and nobody answered in time
    └── RequestFailed            a request was answered, with an error: .error .message .bot

The last four say how a message ended, so they know stamps and reasons: they live in
:mod:`sealbus.outcomes`. This module imports nothing. A verdict inside the relay is a value and is
never raised; only the publisher's side turns a refusal into an exception.
"""

from __future__ import annotations

import re

_SEED = re.compile(r"(?<![A-Z2-7])S[A-Z][A-Z2-7]{30,}")
"""A private key's text, or most of one: base32 that begins like ``SU``. Public keys begin with
another letter."""

_TOKEN = re.compile(r"sealbus-join-[A-Za-z0-9_-]{16,}")
"""A token of an invitation (:mod:`sealbus.invitation`), or a part of one."""


def hide_seeds(text: str) -> str:
    """``text`` without the seeds and join tokens in it. Somebody pastes one where a name belongs,
    and the error goes into a log."""
    return _SEED.sub("(a seed, not shown)", _TOKEN.sub("(a token, not shown)", text))


class SealbusError(Exception):
    """Base of all. ``str()`` says what happened. ``hint`` says how to go on, or is ``None``.
    Neither holds a seed or a token."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        what = hide_seeds(what)
        hint = hide_seeds(hint) if hint else hint
        super().__init__(what)
        self.what = what
        self.hint = hint


class InvalidInput(SealbusError, ValueError):
    """The caller gave something that cannot be used."""


class Malformed(SealbusError, ValueError):
    """Bytes from elsewhere that break a format. Never carries the bytes themselves."""


class CredentialsError(SealbusError):
    """Credentials that are missing, unreadable or wrong. Never carries a seed."""


class ConnectionFailed(SealbusError):
    """No session with the bus could be had."""


class InvitationRefused(SealbusError):
    """The bus does not enrol the key that came with a token: the invitation is not open, or was
    used by another key."""


class NotConnected(SealbusError):
    """A call outside a bot's life: before :meth:`~sealbus.Bot.connect`, or after
    :meth:`~sealbus.Bot.close`.

    Nothing was sent.
    """


class BackgroundFailed(SealbusError):
    """Something that works in the background ended, and nobody asked it to: a mistake of this
    library.

    ``part`` names it. ``kind`` is the sort of error and where it was raised, without its text.
    """

    def __init__(self, whose: str, part: str, kind: str) -> None:
        super().__init__(
            f"{whose} cannot go on: {part} ended unexpectedly ({kind})",
            hint="this is a mistake in Sealbus: start it again, and report this line",
        )
        self.part = part
        self.kind = kind


class SubscriptionDenied(SealbusError):
    """The policy does not grant this subscription, or does not grant it any more. ``pattern`` names
    it."""

    def __init__(self, what: str, *, pattern: str, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.pattern = pattern
