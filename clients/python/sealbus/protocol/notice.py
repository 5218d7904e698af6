"""The notice: a relay tells a bot why it ends sessions of this bot, sealed with the bus's key.

A bot gets it on ``inbox.<bot>.notice`` before the connection closes. nats-server itself gives no
reason. On the wire it is msgpack ``[version, body bin, seal bin]``; the body is a msgpack array of
six fields in fixed places::

    bus str · bot str · at int (ms) · reason str · key bin(32) | nil · pause int (ms) | nil

A notice explains, and decides nothing. The bot's sessions end because the relay ends them, and a
login succeeds or fails because of the policy at that time.
"""

from __future__ import annotations

from enum import StrEnum
from types import NoneType
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.bus_keys import check_end
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_array
from sealbus.protocol.keys import KEY_BYTES, Signer
from sealbus.protocol.limits import MAX_NOTICE_BYTES, MAX_PAUSE_MS, MAX_TIME_MS, NOTICE_LIFE_MS
from sealbus.protocol.seal import Context, Verifier
from sealbus.protocol.sealed import open_body, seal_bodies
from sealbus.protocol.subjects import is_name
from sealbus.protocol.value import value

_BODY_TYPES: Final = FieldTypes(
    ((str,), (str,), (int,), (str,), (bytes, NoneType), (int, NoneType))
)


class Ended(StrEnum):
    """Why a session ended. ``Ended.X.value`` is the stable name, ``Ended.X.meaning`` a sentence for
    people."""

    BOT_REMOVED = "bot-removed"
    KEY_REVOKED = "key-revoked"
    CERTIFICATES_VOID = "certificates-void"
    FLOODING = "flooding"

    @property
    def meaning(self) -> str:
        """A sentence that describes the reason."""
        return _MEANINGS[self]


_MEANINGS: dict[Ended, str] = {
    Ended.BOT_REMOVED: "the bus's policy does not have this bot any more",
    Ended.KEY_REVOKED: "the key was revoked, has expired, or is not a key of this bot any more",
    Ended.CERTIFICATES_VOID: "the session keys that it certified so far are void",
    Ended.FLOODING: "the bot sends more than one bot may, and has to pause",
}


@value
class Notice:
    """What a relay tells a bot."""

    bus: str
    bot: str
    """The bot whose sessions end."""
    at_ms: int
    """When it was made, by the clock of the bus."""
    reason: Ended
    key: bytes | None = None
    """The bot's raw enrolled key (32 bytes, public) that the reason is about. ``None``: all keys of
    the bot. With :attr:`Ended.BOT_REMOVED` and :attr:`Ended.FLOODING` it is always ``None``."""
    pause_ms: int | None = None
    """How long the bot has to wait before it connects again, from :attr:`at_ms` on. Only with
    :attr:`Ended.FLOODING`, and always there."""

    def concerns(self, key: bytes) -> bool:
        """Whether it is about the bot's raw public key ``key``."""
        return self.key is None or self.key == key

    def encode(self) -> bytes:
        """The body's bytes."""
        return pack_fields(
            (self.bus, self.bot, self.at_ms, self.reason.value, self.key, self.pause_ms)
        )

    @classmethod
    def decode(cls, data: bytes) -> Notice:
        """Read a body. Raises :class:`Malformed`."""
        bus, bot, at, reason, key, pause = unpack_array(data, _BODY_TYPES)
        if not (is_name(bus) and is_name(bot)):
            raise Malformed("notice: the bus or the bot is not a name")
        if not 0 <= at <= MAX_TIME_MS:
            raise Malformed(f"notice: a time of {at}; expected 0 to {MAX_TIME_MS}")
        if reason not in _REASONS:
            raise Malformed(
                f"notice: an unknown reason; expected {', '.join(_REASONS)}",
                hint="is this library older than the relay?",
            )
        if key is not None and len(key) != KEY_BYTES:
            raise Malformed(f"notice: a key of {len(key)} bytes; expected {KEY_BYTES}")
        if key is not None and reason in (Ended.BOT_REMOVED, Ended.FLOODING):
            raise Malformed(f"notice: a key with {reason}; expected none, because it is about all")
        if (pause is not None) is not (reason == Ended.FLOODING):
            raise Malformed("notice: a pause is there with flooding, and only then")
        if pause is not None and not 0 < pause <= MAX_PAUSE_MS:
            raise Malformed(f"notice: a pause of {pause} ms; expected 1 to {MAX_PAUSE_MS}")
        return cls(bus, bot, at, Ended(reason), key, pause)


_REASONS: Final = [reason.value for reason in Ended]


def seal_notice(key: Signer, notice: Notice) -> bytes:
    """``notice``, sealed with the bus's key."""
    return seal_bodies(key, Context.NOTICE, [notice.encode()])[0]


def open_notice(data: bytes, bus_keys: frozenset[bytes]) -> Notice:
    """Verify a sealed notice and return it. :func:`check_notice` says whether it is for the reader.

    ``bus_keys``: the raw public keys (32 bytes each) of the bus that the reader trusts. Raises
    :class:`Malformed` if the bytes are not a notice, the key is not one of them or had ended when
    the notice was made, or the seal does not hold.
    """
    # One of its own, because nobody meets a notice again.
    verifier = Verifier()
    body, key = open_body(data, bus_keys, verifier, context=Context.NOTICE, most=MAX_NOTICE_BYTES)
    notice = Notice.decode(body)
    check_end(bus_keys, key, notice.at_ms, Context.NOTICE)
    return notice


def check_notice(notice: Notice, *, bus: str, bot: str, now_ms: int) -> None:
    """Raise :class:`Malformed` unless ``notice`` is for ``bot`` on ``bus``, and of this minute.

    ``now_ms``: the reader's clock.
    """
    if notice.bus != bus:
        raise Malformed("notice: about another bus")
    if notice.bot != bot:
        raise Malformed("notice: about another bot")
    off_ms = notice.at_ms - now_ms
    if abs(off_ms) > NOTICE_LIFE_MS:
        raise Malformed(
            f"notice: its time is {abs(off_ms)} ms {'ahead' if off_ms > 0 else 'ago'}; expected "
            f"at most {NOTICE_LIFE_MS}"
        )
