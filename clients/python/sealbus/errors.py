"""Everything this library raises.

::

    SealbusError                 what  hint
    ├── InvalidInput             the caller's mistake: a name, a value, a file. Also a ValueError.
    ├── Malformed                the peer's mistake: bytes that are not what they should be. Also a ValueError.
    ├── CredentialsError         a credentials file or environment that cannot be used
    ├── ConnectionFailed         no session with the bus could be had
    ├── Refused                  the relay judged the message and refused it: .reason .detail .stamp
    ├── Unresolved               no verdict came in time: the message may or may not have been accepted
    └── NoReply                  a request was accepted, but nobody answered in time

A verdict inside the relay is a value and is never raised; only the publisher's side turns a refusal into an exception.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sealbus.reason import Reason
    from sealbus.stamp import Stamp


_SEED = re.compile(r"(?<![A-Z2-7])S[A-Z][A-Z2-7]{30,}")
"""A private key's text, or most of one: base32 that begins like ``SU``. Public keys begin with another letter."""


def hide_seeds(text: str) -> str:
    """``text`` without the seeds in it. Somebody pastes one where a name belongs, and the error goes into a log."""
    return _SEED.sub("(a seed, not shown)", text)


class SealbusError(Exception):
    """Base of all. ``str()`` gives what happened; ``hint`` what to do about it, or ``None``. Neither holds a seed."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        what = hide_seeds(what)
        hint = hide_seeds(hint) if hint else hint
        super().__init__(what)
        self.what = what
        self.hint = hint


class InvalidInput(SealbusError, ValueError):
    """The caller gave something that cannot be used."""


class Malformed(SealbusError, ValueError):
    """Bytes from elsewhere that are not what they should be. Never carries the bytes themselves."""


class CredentialsError(SealbusError):
    """Credentials that are missing, unreadable or wrong. Never carries a seed."""


class ConnectionFailed(SealbusError):
    """No session with the bus could be had."""


class Refused(SealbusError):
    """The relay's signed verdict is a refusal.

    ``reason`` is the stable :class:`~sealbus.reason.Reason`, ``detail`` says where and which rule (never a payload's value), and
    ``stamp`` is the relay's sealed verdict, which proves it.
    """

    def __init__(self, subject: str, reason: Reason, detail: str | None, stamp: Stamp) -> None:
        explained = f"{reason.meaning}: {detail}" if detail else reason.meaning
        super().__init__(f"{subject} refused ({reason.value}): {explained}")
        self.subject = subject
        self.reason = reason
        self.detail = detail
        self.stamp = stamp


class Unresolved(SealbusError):
    """No verdict came in time. ``nonce`` (16 bytes) names the message; publishing again with it is safe."""

    def __init__(self, what: str, *, nonce: bytes, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.nonce = nonce


class NoReply(SealbusError):
    """The request was accepted and delivered, but no valid answer came in time."""
